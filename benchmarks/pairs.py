"""Compare settings of the track pairs on real playlists, and measure the effect of a cap on long collections.

Task     playlists as listeners, read as in production: jobs/ingest/mpd/adapter.py with configs/mpd.yaml, then the jobs
         matrix catalog, user-track, track-pairs (smoothing and shift of the setting) and first-day
Space    symmetric positive PMI, truncated SVD of rank `svd.d`, tracks are rows of U S^p at unit length
Metric   NDCG@50 as in jobs/cold_start/evaluate.py: lists may contain first-day tracks, which are not part of the truth
           nearest  the tracks nearest to the mean of the first-day tracks
           segment  the ranking of the segment nearest to that mean; k-means of the warm listeners' normalised means,
                    averaged over STARTS starts
Chosen   the best `segment` on the validation cohort (the service recommends the semi-personalised list); only this
         setting and the default one are evaluated on the test cohort
Shapes   U warm listeners, B cold ones, N tracks, D = rank
Source   Levy, Goldberg, Dagan 2015, section 3, for smoothing, shift and p; Briand et al. 2021, section 4.1
Differs  the SVD is scikit-learn's (Halko et al. 2011); no network predicts a listener's vector, so only the space is
         evaluated
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

import harness
from harness import Measurement, Peer, compare, ratios, stopwatch, summary
from pairs_task import QUICK_PLAYLISTS, STARTS, PlaylistTask, Setting, subset

DATASET = "Spotify Million Playlist Dataset"
SMOOTHING, SHIFT, EXPONENT = (1.0, 0.75, 0.5), (0.0, 0.5, 1.0, 1.6), (0.0, 0.25, 0.5, 0.75, 1.0)
CAPS = (50, 100, 250)
SHOWN = 10
RECOMMENDERS = ("segment", "nearest")


# -- peers: each runs in its own process ----------------------------------------------------------------------------


def prepare(data: str, folder: str, playlists: int | None) -> Measurement:
    """Ingest and run all matrix jobs except the pairs; write facts.json with counts of the dataset and the task."""
    from jobs.ingest.mpd import adapter as mpd
    from jobs.matrix import catalog, first_day, user_track

    elapsed = stopwatch()
    task = PlaylistTask(folder)
    source = Path(data)
    if playlists:
        source = subset(source, Path(folder) / "subset", playlists)
    pairs = pq.read_table(source / mpd.PAIRS, columns=["row", "track"])
    facts = {
        "playlists": len(pc.unique(pairs["row"])),
        "pairs": pairs.num_rows,
        "tracks": len(pc.unique(pairs["track"])),
        **mpd.run(task.plain, source),
    }
    for job in (catalog, user_track, first_day):
        facts[job.__name__.rsplit(".", 1)[1]] = job.run(task.plain)["rows"]
    (Path(folder) / "facts.json").write_text(json.dumps(facts, default=str))
    return Measurement([elapsed()])


def sweep(folder: str, settings: list[Setting]) -> Measurement:
    """Evaluate all settings on the validation cohort in one session; write grid.json with one row per setting."""
    from jobs.matrix import track_pairs

    task = PlaylistTask(folder)
    first_BN, truth = task.cohort("validation")
    from blockfactor.svd_kernels import embed

    total_elapsed, rows = stopwatch(), []
    pmi_settings = sorted({(setting.smoothing, setting.shift) for setting in settings}, reverse=True)
    for n, (smoothing, shift) in enumerate(pmi_settings, 1):
        context = task.context(Setting(smoothing, shift))
        elapsed = stopwatch()
        track_pairs.run(context)
        job_s = elapsed()
        u, sigma, n_pairs = task.factors()
        svd_s = elapsed() - job_s
        for setting in (s for s in settings if (s.smoothing, s.shift) == (smoothing, shift)):
            ndcg_by_name = task.evaluate(embed(u, sigma, setting.p), first_BN, truth)
            means = {name: round(float(ndcg_by_name[name].mean()), 5) for name in RECOMMENDERS}
            rows.append({**asdict(setting), **means, "pairs": n_pairs, "job_s": round(job_s, 2)})
        best = max(rows, key=lambda row: row["segment"])
        harness.log(
            f"  {n} of {len(pmi_settings)}: smoothing {smoothing:g}, shift {shift:g}: {n_pairs} pairs; job {job_s:.1f} "
            f"s, svd {svd_s:.1f} s, evaluation {elapsed() - job_s - svd_s:.1f} s; best so far {best['segment']:.4f}"
        )
    (Path(folder) / "grid.json").write_text(json.dumps(rows))
    return Measurement([total_elapsed()])


def measure(folder: str, setting: Setting, splits: tuple[str, ...]) -> Measurement:
    """Measure the pairs job in a new process; evaluate its space on `splits`, once per setting.

    NDCG@50 of every listener of a split is written to a file; the quality contains the means. `counting s` is the time
    of the counting step in the session that the job has warmed up.
    """
    from blockfactor.svd_kernels import embed
    from jobs.matrix import track_pairs

    task = PlaylistTask(folder)
    context = task.context(setting)
    elapsed = stopwatch()
    job_result = track_pairs.run(context)
    seconds = elapsed()
    lake, week, matrix = context.lake, context.week.name, context.settings.matrix
    report = lake.report("track_pairs", week=week)
    positions = lake.spark(context.spark, "collections", week=week)
    collections = track_pairs.build_collections(positions, setting.longest).persist()
    collections.count()
    n_tracks, tasks = lake.rows("catalog", week=week), context.settings.spark.partitions
    counts = track_pairs.count_neighbours(collections, n_tracks, matrix.min_cooccurrences, matrix.max_neighbours, tasks)
    elapsed = stopwatch()
    counts.write.format("noop").mode("overwrite").save()
    quality = {
        "counting s": elapsed(),
        "squared lengths, M": report["sum_of_squared_lengths"] / 1e6,
        "collections cut": report["collections_truncated"],
        "places lost": report["dropped"][f"after the first {setting.longest} tracks of its collection"],
        "pairs, M": job_result["rows"]["track_pairs"] / 1e6,
    }
    files = {split: ndcg_file(folder, setting, split) for split in splits}
    if not all(file.is_file() for file in files.values()):
        u, sigma, _ = task.factors()
        for split, file in files.items():
            np.savez(file, **task.evaluate(embed(u, sigma, setting.p), *task.cohort(split)))
    for split, file in files.items():
        quality |= {f"{name}, {split}": float(np.load(file)[name].mean()) for name in RECOMMENDERS}
    return Measurement([seconds], quality)


def ndcg_file(folder: str, setting: Setting, split: str) -> Path:
    """Return the file with NDCG@50 of every listener of a split."""
    return Path(folder) / f"{setting}, {setting.longest}, {split}.npz"


# -- the result ------------------------------------------------------------------------------------------------------


def grid_case(rows: list[dict[str, Any]], peak: float, about: str) -> dict[str, Any]:
    """Return the case of the sweep: the best settings and the default one as rows, all settings under `grid`."""
    ordered = sorted(rows, key=lambda row: -row["segment"])
    rank_of = {Setting(row["smoothing"], row["shift"], row["p"], row["longest"]): n for n, row in enumerate(ordered, 1)}
    peers = {}
    for setting, rank in rank_of.items():
        if rank <= SHOWN or setting == Setting():
            row = ordered[rank - 1]
            quality = {"place": rank, **{name: row[name] for name in RECOMMENDERS}, "pairs, M": row["pairs"] / 1e6}
            name = f"{setting} (plain)" if setting == Setting() else str(setting)
            peers[name] = summary([(Measurement([row["job_s"]], quality), peak)], "")
    return {
        "case": "sweep, NDCG@50 on the validation cohort",
        "about": about,
        "timed": "job, s",
        "peers": peers,
        "ratios": {},
        "grid": rows,
    }


def select_peers(peers: dict[str, dict[str, Any]], names: dict[str, str], quality: tuple[str, ...]) -> dict[str, Any]:
    """Return a selection of peers under other names.

    Args:
        peers: records by name.
        names: name of a peer -> its new name.
        quality: names of the quality numbers to include.
    """
    selected = {}
    for name, shown in names.items():
        peer = peers[name]
        selected[shown] = {**peer, "quality": {q: peer["quality"][q] for q in quality}}
    return selected


def gain_case(folder: str, peers: dict[str, dict[str, Any]], chosen: Setting) -> tuple[dict[str, Any], float]:
    """Return the case of the default and the chosen setting on the test cohort, and the relative gain in percent."""
    from models.evaluation.metrics import paired_bootstrap

    files = [np.load(ndcg_file(folder, setting, "test")) for setting in (chosen, Setting())]
    gain_texts, gains = [], {}
    for name in RECOMMENDERS:
        best, plain = (file[name] for file in files)
        mean, low, high = paired_bootstrap(best, plain, 10_000)
        gains[name] = {"mean": mean, "low": low, "high": high, "relative_percent": 100 * mean / float(plain.mean())}
        gain_texts.append(f"{name} {mean:+.4f} ({low:+.4f} to {high:+.4f})")
    names = {str(Setting()): "plain: " + str(Setting()), str(chosen): "chosen: " + str(chosen)}
    quality = tuple(f"{name}, test" for name in RECOMMENDERS)
    about = (
        f"{len(files[0][RECOMMENDERS[0]])} listeners of the test cohort. Difference chosen - plain of NDCG@50 with its "
        f"paired bootstrap 95 % interval: {'; '.join(gain_texts)}."
    )
    shown_peers = select_peers(peers, names, quality)
    case = {
        "case": "plain and chosen, NDCG@50 on the test cohort",
        "about": about,
        "timed": "job, s",
        "peers": shown_peers,
        "ratios": ratios(shown_peers, names[str(Setting())]),
        "difference": gains,
    }
    return case, gains["segment"]["relative_percent"]


def cap_case(peers: dict[str, dict[str, Any]], caps: tuple[int, ...]) -> dict[str, Any]:
    """Return the case of the cap on long collections, at the default setting."""
    names = {f"first {cap} tracks": f"first {cap}" for cap in caps} | {str(Setting()): f"first {Setting().longest}"}
    quality = (
        "counting s",
        "squared lengths, M",
        "collections cut",
        "places lost",
        "pairs, M",
        *(f"{name}, validation" for name in RECOMMENDERS),
    )
    shown_peers = select_peers(peers, names, quality)
    about = (
        "The plain setting with max_collection_length from low to high. Counting costs the sum of squared lengths; "
        "`job, s` includes the start of Spark and the writing of both tables."
    )
    return {
        "case": "cap of long collections",
        "about": about,
        "timed": "job, s",
        "peers": shown_peers,
        "ratios": ratios(shown_peers, f"first {Setting().longest}"),
    }


def main() -> None:
    """Prepare the task, run the sweep, and measure the chosen setting and the cap."""
    data_help = f"{DATASET}: playlist_track.parquet and track_uri_map.parquet"
    arguments = harness.parse_arguments("pairs", (__doc__ or "").splitlines()[0], data_help, required=True)
    grid = product((1.0, 0.75), (0.0,), (0.5, 1.0)) if arguments.quick else product(SMOOTHING, SHIFT, EXPONENT)
    settings, caps = [Setting(*values) for values in grid], CAPS[:1] if arguments.quick else CAPS
    with tempfile.TemporaryDirectory() as folder:
        harness.log("the task: ingest, catalog, user-track, first-day ...")
        n_playlists = QUICK_PLAYLISTS if arguments.quick else None
        preparation, _ = harness.run_in_process(
            Peer("task", prepare, {"data": str(arguments.data), "folder": folder, "playlists": n_playlists})
        )
        facts = json.loads((Path(folder) / "facts.json").read_text())
        harness.log(f"  {preparation.seconds[0]:.0f} s; sweep of {len(settings)} settings ...")
        _, peak = harness.run_in_process(Peer("sweep", sweep, {"folder": folder, "settings": settings}))
        rows = json.loads((Path(folder) / "grid.json").read_text())
        best = max(rows, key=lambda row: row["segment"])
        best_setting = Setting(best["smoothing"], best["shift"], best["p"])
        harness.log(f"chosen: {best_setting}")
        splits = {best_setting: ("test",), Setting(): ("validation", "test")}
        peers = [(str(setting), setting, splits_of_peer) for setting, splits_of_peer in splits.items()]
        peers += [(f"first {cap} tracks", Setting(longest=cap), ("validation",)) for cap in caps]
        measured = compare(
            [
                Peer(
                    name,
                    measure,
                    {"folder": folder, "setting": setting, "splits": splits_of_peer},
                    1 if arguments.quick else 3,
                )
                for name, setting, splits_of_peer in peers
            ]
        )
        first_day_rows = facts["first_day"]
        about = (
            f"{DATASET}, {facts['playlists']} playlists with {facts['pairs']} pairs of {facts['tracks']} tracks: "
            f"{facts['catalog']['warm_users']} warm listeners, {facts['catalog']['catalog']} tracks, "
            f"{first_day_rows['validation']} listeners for validation and {first_day_rows['test']} for the test. The "
            f"best of {len(settings)} settings by `segment` (mean of {STARTS} starts of k-means), and the plain one. "
            "Jobs ran sequentially in one session; MiB is the peak of that process."
        )
        compared, gain = gain_case(folder, measured, best_setting)
        cases = [grid_case(rows, peak, about), compared, cap_case(measured, caps)]
    cases[0]["dataset"] = {"name": DATASET, **{name: facts[name] for name in ("playlists", "pairs", "tracks", "cold")}}
    harness.write_result(
        arguments, cases, [], ("gain of the chosen setting over the plain one, test NDCG@50 of `segment`, %", gain)
    )


if __name__ == "__main__":
    main()
