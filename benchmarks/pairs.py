"""Which settings of the track pairs make the better space, swept on real playlists; and what capping collections costs.

Task     playlists as listeners, exactly as the product reads them: jobs/ingest/mpd/adapter.py with configs/mpd.yaml,
         then the jobs matrix catalog, user-track, track-pairs (smoothing and shift of the setting) and first-day
Space    symmetric positive PMI, truncated SVD of rank `svd.d`, tracks are rows of U S^p at unit length
Judged   NDCG@50 as in jobs/cold_start/evaluate.py: lists may hold first-day tracks, which are no part of the truth
           nearest  the tracks nearest to the mean of the first-day tracks
           segment  the ranking of the segment nearest to that mean; k-means of the warm listeners' normalised means,
                    the average of STARTS starts
Chosen   the best `segment` on the validation cohort (the semi-personalised list is what the product serves); the test
         cohort is opened for it and for the plain setting alone
Shapes   U warm listeners, B cold ones, N tracks, D = rank
Source   Levy, Goldberg, Dagan 2015, section 3, for smoothing, shift and p; Briand et al. 2021, section 4.1
Differs  the SVD is scikit-learn's (Halko et al. 2011), and no network places a listener: the space alone is judged
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp

from harness import Answer, Peer, alone, compare, finish, options, ratios, say, stopwatch, summary

DATASET = "Spotify Million Playlist Dataset"
CONFIG = Path(__file__).parents[1] / "configs" / "mpd.yaml"
SMOOTHING, SHIFT, EXPONENT = (1.0, 0.75, 0.5), (0.0, 0.5, 1.0, 1.6), (0.0, 0.25, 0.5, 0.75, 1.0)
CAPS = (50, 100, 250)
QUICK_PLAYLISTS = 2_000
K = 50
STARTS = 3
SVD_SEED = 7
SHOWN = 10
JUDGES = ("segment", "nearest")


@dataclass(frozen=True, order=True)
class Setting:
    """smoothing and shift of PMI, the exponent p of U S^p, and the longest collection."""

    smoothing: float = 1.0
    shift: float = 0.0
    p: float = 0.5
    longest: int = 500

    def __str__(self) -> str:
        return f"smoothing {self.smoothing:g}, shift {self.shift:g}, p {self.p:g}"


@dataclass(frozen=True)
class World:
    """The task of configs/mpd.yaml in the lake of `folder`, read by what judges it."""

    folder: str

    def context(self, setting: Setting) -> Any:
        """What a job is handed, for one setting."""
        from jobs.platform.context import Context
        from jobs.platform.week import Week
        from jobs.settings.settings import load

        settings = load(CONFIG)
        changes = {"smoothing": setting.smoothing, "shift": setting.shift, "max_collection_length": setting.longest}
        matrix = settings.matrix.model_copy(update=changes)
        return Context(settings.model_copy(update={"matrix": matrix}), Week.parse(settings.week), Path(self.folder))

    @cached_property
    def plain(self) -> Any:
        """The context of the plain setting."""
        return self.context(Setting())

    @cached_property
    def heard_UN(self) -> sp.csr_matrix:
        """Which warm listener streamed which track, binary (U, N)."""
        from jobs.cold_start.segments import stream_matrix

        return stream_matrix(self.plain, self.plain.lake.rows("warm_users", week=self.plain.week.name))

    def cohort(self, split: str) -> tuple[sp.csr_matrix, Any]:
        """First-day streams (B, N), repeats counted, and the truths of the same B listeners."""
        from models.cold_start.input_vector import Ragged

        lake, week = self.plain.lake, self.plain.week.name
        days = lake.read("first_day", columns=["user_id", "streamed_songs"], week=week, split=split)
        days = days.sort_by("user_id")
        cohort = lake.read("cohort", week=week)
        cohort = cohort.filter(pc.equal(cohort["split"], split)).sort_by("user_id")
        if not days["user_id"].equals(cohort["user_id"]):
            raise SystemExit(f"pairs: first_day and cohort of {split} are not about the same listeners")
        songs, truth = _lists(days["streamed_songs"]), _lists(cohort["truth"])
        tracks = lake.read("catalog", columns=["track_id", "track_idx"], week=week).sort_by("track_id")
        track_id, track_idx = (tracks[name].to_numpy() for name in ("track_id", "track_idx"))
        place = np.minimum(np.searchsorted(track_id, songs.ids), len(track_id) - 1)
        known = track_id[place] == songs.ids
        row = np.repeat(np.arange(len(songs)), songs.lengths)[known]
        shape = (len(songs), len(track_id))
        first_BN = sp.csr_matrix((np.ones(len(row), np.float32), (row, track_idx[place[known]])), shape=shape)
        return first_BN, Ragged(truth.offsets, truth.ids)

    def factors(self) -> tuple[np.ndarray, np.ndarray, int]:
        """SVD of the pairs in the lake: U (N, D) with zero rows for tracks without a pair, sigma (D,), pairs."""
        from sklearn.utils.extmath import randomized_svd

        lake, week = self.plain.lake, self.plain.week.name
        n = lake.rows("catalog", week=week)
        pairs = lake.read("track_pairs", columns=["track_idx_i", "track_idx_j", "pmi"], week=week)
        i, j, value = (pairs[name].to_numpy() for name in ("track_idx_i", "track_idx_j", "pmi"))
        matrix = sp.coo_matrix((value, (i, j)), shape=(n, n)).tocsr()
        matrix = (matrix + matrix.T).tocsr()
        u, sigma, _ = randomized_svd(
            matrix,
            self.plain.settings.svd.d,
            n_oversamples=self.plain.settings.svd.oversampling,
            n_iter=4,
            power_iteration_normalizer="QR",
            random_state=SVD_SEED,
        )
        u[np.diff(matrix.indptr) == 0] = 0
        return u, sigma, len(value)

    def judge(self, vectors_ND: np.ndarray, first_BN: sp.csr_matrix, truth: Any) -> dict[str, np.ndarray]:
        """NDCG@50 of each of B listeners by both methods, (B,) each."""
        from blockfactor.kmeans import kmeans
        from models.cold_start.methods import SemiPers
        from models.cold_start.segments import rankings
        from models.cold_start.top_k import normalise, top_k
        from models.evaluation.metrics import score

        settings = self.plain.settings.segments
        mean_BD = (first_BN @ vectors_ND) / np.maximum(first_BN.sum(axis=1).A, 1).astype(np.float32)
        warm_UD = normalise(self.heard_UN @ vectors_ND)
        by_start = []
        for start in range(STARTS):
            seed = self.plain.seed(f"segments/tt_svd/{start}")
            found = kmeans(warm_UD, settings.k, seed, settings.max_iter, settings.n_init)
            ranking_KL = rankings(found.labels, self.heard_UN, settings.k, settings.ranking_length)
            placed = SemiPers(lambda x: x, found.centroids, ranking_KL).recommend(mean_BD, K)
            by_start.append(score(placed, truth, K)["ndcg"])
        nearest = score(top_k(mean_BD, vectors_ND, K), truth, K)["ndcg"]
        return {"segment": np.mean(by_start, axis=0), "nearest": nearest}


def _lists(column: pa.ChunkedArray) -> Any:
    from models.cold_start.input_vector import Ragged

    lists = column.combine_chunks()
    return Ragged(lists.offsets.to_numpy().astype(np.int64), lists.flatten().to_numpy().astype(np.int64))


# -- each of these runs in a process of its own ----------------------------------------------------------------------


def prepare(data: str, folder: str, playlists: int | None) -> Answer:
    """Ingest, then every matrix job but the pairs; leaves facts.json with the counts of dataset and task."""
    from jobs.ingest.mpd import adapter as mpd
    from jobs.matrix import catalog, first_day, user_track

    watch = stopwatch()
    world = World(folder)
    source = Path(data)
    if playlists:
        source = subset(source, Path(folder) / "subset", playlists)
    pairs = pq.read_table(source / mpd.PAIRS, columns=["row", "track"])
    facts = {
        "playlists": len(pc.unique(pairs["row"])),
        "pairs": pairs.num_rows,
        "tracks": len(pc.unique(pairs["track"])),
        **mpd.run(world.plain, source),
    }
    for job in (catalog, user_track, first_day):
        facts[job.__name__.rsplit(".", 1)[1]] = job.run(world.plain)["rows"]
    (Path(folder) / "facts.json").write_text(json.dumps(facts, default=str))
    return Answer([watch()])


def subset(source: Path, target: Path, playlists: int) -> Path:
    """The first playlists alone, in the same format."""
    from jobs.ingest.mpd import adapter as mpd

    target.mkdir()
    pairs = pq.read_table(source / mpd.PAIRS)
    row = pairs["row"].to_numpy()
    last = np.unique(row)[:playlists][-1]
    pq.write_table(pairs.filter(pa.array(row <= last)), target / mpd.PAIRS)
    (target / mpd.MAP).symlink_to((source / mpd.MAP).absolute())
    return target


def sweep(folder: str, settings: list[Setting]) -> Answer:
    """Judge all settings on the validation cohort, one session for all; leaves grid.json, a row a setting."""
    from jobs.matrix import track_pairs

    world = World(folder)
    first_BN, truth = world.cohort("validation")
    from blockfactor.svd_kernels import embed

    total, rows = stopwatch(), []
    ways = sorted({(setting.smoothing, setting.shift) for setting in settings}, reverse=True)
    for n, (smoothing, shift) in enumerate(ways, 1):
        context = world.context(Setting(smoothing, shift))
        watch = stopwatch()
        track_pairs.run(context)
        job_s = watch()
        u, sigma, n_pairs = world.factors()
        svd_s = watch() - job_s
        for setting in (s for s in settings if (s.smoothing, s.shift) == (smoothing, shift)):
            found = world.judge(embed(u, sigma, setting.p), first_BN, truth)
            means = {name: round(float(found[name].mean()), 5) for name in JUDGES}
            rows.append({**asdict(setting), **means, "pairs": n_pairs, "job_s": round(job_s, 2)})
        best = max(rows, key=lambda row: row["segment"])
        say(
            f"  {n} of {len(ways)}: smoothing {smoothing:g}, shift {shift:g}: {n_pairs} pairs; job {job_s:.1f} s, svd "
            f"{svd_s:.1f} s, judged {watch() - job_s - svd_s:.1f} s; best so far {best['segment']:.4f}"
        )
    (Path(folder) / "grid.json").write_text(json.dumps(rows))
    return Answer([total()])


def measure(folder: str, setting: Setting, splits: tuple[str, ...]) -> Answer:
    """The pairs job as a task runs it, first thing in its process; then, once a setting, its space judged on `splits`.

    Of each split, NDCG@50 of every listener is left in a file; their means are the quality. `counting s` is the
    counting step alone, in the session that the job has warmed.
    """
    from blockfactor.svd_kernels import embed
    from jobs.matrix import track_pairs

    world = World(folder)
    context = world.context(setting)
    watch = stopwatch()
    done = track_pairs.run(context)
    seconds = watch()
    lake, week, matrix = context.lake, context.week.name, context.settings.matrix
    report = lake.report("track_pairs", week=week)
    positions = lake.spark(context.spark, "collections", week=week)
    collections = track_pairs.build_collections(positions, setting.longest).persist()
    collections.count()
    n_tracks, tasks = lake.rows("catalog", week=week), context.settings.spark.partitions
    counted = track_pairs.count_neighbours(
        collections, n_tracks, matrix.min_cooccurrences, matrix.max_neighbours, tasks
    )
    watch = stopwatch()
    counted.write.format("noop").mode("overwrite").save()
    quality = {
        "counting s": watch(),
        "squared lengths, M": report["sum_of_squared_lengths"] / 1e6,
        "collections cut": report["collections_truncated"],
        "places lost": report["dropped"][f"after the first {setting.longest} tracks of its collection"],
        "pairs, M": done["rows"]["track_pairs"] / 1e6,
    }
    files = {split: kept(folder, setting, split) for split in splits}
    if not all(file.is_file() for file in files.values()):
        u, sigma, _ = world.factors()
        for split, file in files.items():
            np.savez(file, **world.judge(embed(u, sigma, setting.p), *world.cohort(split)))
    for split, file in files.items():
        quality |= {f"{name}, {split}": float(np.load(file)[name].mean()) for name in JUDGES}
    return Answer([seconds], quality)


def kept(folder: str, setting: Setting, split: str) -> Path:
    """File with the NDCG@50 of every listener of a split."""
    return Path(folder) / f"{setting}, {setting.longest}, {split}.npz"


# -- the result ------------------------------------------------------------------------------------------------------


def grid_case(rows: list[dict[str, Any]], peak: float, about: str) -> dict[str, Any]:
    """The best settings and the plain one; all of them under `grid`."""
    ordered = sorted(rows, key=lambda row: -row["segment"])
    places = {Setting(row["smoothing"], row["shift"], row["p"], row["longest"]): n for n, row in enumerate(ordered, 1)}
    peers = {}
    for setting, place in places.items():
        if place <= SHOWN or setting == Setting():
            row = ordered[place - 1]
            quality = {"place": place, **{name: row[name] for name in JUDGES}, "pairs, M": row["pairs"] / 1e6}
            name = f"{setting} (plain)" if setting == Setting() else str(setting)
            peers[name] = summary([(Answer([row["job_s"]], quality), peak)], "")
    return {
        "case": "sweep, NDCG@50 on the validation cohort",
        "about": about,
        "timed": "job, s",
        "peers": peers,
        "ratios": {},
        "grid": rows,
    }


def only(peers: dict[str, dict[str, Any]], names: dict[str, str], quality: tuple[str, ...]) -> dict[str, Any]:
    """Some peers under other names, with some of their quality."""
    found = {}
    for name, shown in names.items():
        peer = peers[name]
        found[shown] = {**peer, "quality": {q: peer["quality"][q] for q in quality}}
    return found


def gain_case(folder: str, peers: dict[str, dict[str, Any]], chosen: Setting) -> tuple[dict[str, Any], float]:
    """Plain against chosen on the test cohort, and the relative gain in percent."""
    from models.evaluation.metrics import paired_bootstrap

    files = [np.load(kept(folder, setting, "test")) for setting in (chosen, Setting())]
    said, gains = [], {}
    for name in JUDGES:
        best, plain = (file[name] for file in files)
        mean, low, high = paired_bootstrap(best, plain, 10_000)
        gains[name] = {"mean": mean, "low": low, "high": high, "relative_percent": 100 * mean / float(plain.mean())}
        said.append(f"{name} {mean:+.4f} ({low:+.4f} to {high:+.4f})")
    names = {str(Setting()): "plain: " + str(Setting()), str(chosen): "chosen: " + str(chosen)}
    quality = tuple(f"{name}, test" for name in JUDGES)
    about = (
        f"{len(files[0][JUDGES[0]])} listeners of the test cohort. Chosen less plain, NDCG@50 with its paired "
        f"bootstrap 95 % interval: {'; '.join(said)}."
    )
    shown = only(peers, names, quality)
    case = {
        "case": "plain and chosen, NDCG@50 on the test cohort",
        "about": about,
        "timed": "job, s",
        "peers": shown,
        "ratios": ratios(shown, names[str(Setting())]),
        "difference": gains,
    }
    return case, gains["segment"]["relative_percent"]


def cap_case(peers: dict[str, dict[str, Any]], caps: tuple[int, ...]) -> dict[str, Any]:
    """What cutting long collections saves and costs, at the plain setting."""
    names = {f"first {cap} tracks": f"first {cap}" for cap in caps} | {str(Setting()): f"first {Setting().longest}"}
    quality = (
        "counting s",
        "squared lengths, M",
        "collections cut",
        "places lost",
        "pairs, M",
        *(f"{name}, validation" for name in JUDGES),
    )
    shown = only(peers, names, quality)
    about = (
        "The plain setting with max_collection_length from low to high. Counting costs the sum of squared lengths; "
        "`job, s` "
        "holds Spark's start and the writing of both tables too."
    )
    return {
        "case": "cap of long collections",
        "about": about,
        "timed": "job, s",
        "peers": shown,
        "ratios": ratios(shown, f"first {Setting().longest}"),
    }


def main() -> None:
    """Prepare the task, sweep, measure what was chosen, and the cap."""
    files = f"{DATASET}: playlist_track.parquet and track_uri_map.parquet"
    chosen = options("pairs", (__doc__ or "").splitlines()[0], files, required=True)
    grid = product((1.0, 0.75), (0.0,), (0.5, 1.0)) if chosen.quick else product(SMOOTHING, SHIFT, EXPONENT)
    settings, caps = [Setting(*values) for values in grid], CAPS[:1] if chosen.quick else CAPS
    with tempfile.TemporaryDirectory() as folder:
        say("the task: ingest, catalog, user-track, first-day ...")
        few = QUICK_PLAYLISTS if chosen.quick else None
        took, _ = alone(Peer("task", prepare, {"data": str(chosen.data), "folder": folder, "playlists": few}))
        facts = json.loads((Path(folder) / "facts.json").read_text())
        say(f"  {took.seconds[0]:.0f} s; sweep of {len(settings)} settings ...")
        _, peak = alone(Peer("sweep", sweep, {"folder": folder, "settings": settings}))
        rows = json.loads((Path(folder) / "grid.json").read_text())
        best = max(rows, key=lambda row: row["segment"])
        winner = Setting(best["smoothing"], best["shift"], best["p"])
        say(f"chosen: {winner}")
        splits = {winner: ("test",), Setting(): ("validation", "test")}
        peers = [(str(setting), setting, of) for setting, of in splits.items()]
        peers += [(f"first {cap} tracks", Setting(longest=cap), ("validation",)) for cap in caps]
        measured = compare(
            [
                Peer(name, measure, {"folder": folder, "setting": setting, "splits": of}, 1 if chosen.quick else 3)
                for name, setting, of in peers
            ]
        )
        first = facts["first_day"]
        about = (
            f"{DATASET}, {facts['playlists']} playlists with {facts['pairs']} pairs of {facts['tracks']} tracks: "
            f"{facts['catalog']['warm_users']} warm listeners, {facts['catalog']['catalog']} tracks, "
            f"{first['validation']} listeners to validate and {first['test']} to test. The best of {len(settings)} "
            f"settings by `segment` (mean of {STARTS} starts of k-means), and the plain one. Jobs ran one after the "
            "other in one session; MiB is of that process with everything it did."
        )
        compared, gain = gain_case(folder, measured, winner)
        cases = [grid_case(rows, peak, about), compared, cap_case(measured, caps)]
    cases[0]["dataset"] = {"name": DATASET, **{name: facts[name] for name in ("playlists", "pairs", "tracks", "cold")}}
    finish(chosen, cases, [], ("gain of the chosen setting over the plain one, test NDCG@50 of `segment`, %", gain))


if __name__ == "__main__":
    main()
