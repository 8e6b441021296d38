"""Rank tracks that are too new for the spaces, for the warm listeners of a simulated service, by a split in time.

Service    simulated listeners; `simulate.release_share` of the albums are released on days spread over the log
Space      the week's matrix and both factorisations, as in production: nothing after the as-of time is read
New        a track that was released in the RELEASE_DAYS days before the as-of time and has no vector in the space: it
           is not among the `matrix.n_catalog` tracks with the most listeners in the window, or its vector is zero
           (tt_svd: no other track shares two collections with it)
Truth      the new tracks that a warm listener streams for the first time in the 30 days from the as-of time on
Lists      the new tracks that the listener did not stream before, in the order of a score; `artist mean`, `content` and
           `first listeners` are cosines of vectors, `x popularity` multiplies by log(2 + number of first listeners)
Listeners  first listeners are those who registered before the cohort of the week and streamed the new track before the
           as-of time
Interval   95 %, paired bootstrap over the listeners, against the best of the baselines of the same case, which is named
           after the fact; so it favours the baseline
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

import harness
from harness import Measurement, Peer, stopwatch

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
WEEK = "2026-10-19"  # the log ends 34 days later
SPACES = ("tt_svd", "ut_als")
JOBS = ("matrix.catalog", "matrix.user_track", "matrix.track_pairs", "factorize.svd", "factorize.als")
SIZES = {"n_users": 100_000, "n_tracks": 8_000, "n_playlists": 20_000, "release_share": 0.2}
QUICK_SIZES = {"n_users": 3_000, "n_tracks": 2_000, "n_playlists": 2_000, "release_share": 0.3}
CATALOGUE_SHARE = 0.6  # of all tracks
RELEASE_DAYS, TRUTH_DAYS, K, N_BOOTSTRAP = 28, 30, 10, 2_000
GROUPS = {
    "no listener": (0, 0),
    "1-3 listeners": (1, 3),
    "4-10 listeners": (4, 10),
    "11 listeners and more": (11, 10**9),
}
MIN_TRACKS = 2 * K  # of a group that is evaluated
BASELINES = ("random", "popularity so far", "artist mean", "artist mean x popularity", "popularity in artist")
COMBINATION = "content and first listeners"


def prepare_week(quick: bool) -> Any:
    """Return the context of a simulated week with the vectors of both spaces."""
    from jobs.ingest.simulate import adapter as simulate
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.settings.settings import load

    settings = load(CONFIG)
    sizes = QUICK_SIZES if quick else SIZES
    n_catalog = round(CATALOGUE_SHARE * sizes["n_tracks"])
    update = {
        "simulate": settings.simulate.model_copy(update=sizes),
        "matrix": settings.matrix.model_copy(update={"n_catalog": n_catalog}),
    }
    context = Context(settings.model_copy(update=update), Week.parse(WEEK), Path(os.environ["OVERTURE_HOME"]))
    simulate.run(context)
    for name in JOBS:
        harness.log(f"new_releases: {name} ...")
        import_module(f"jobs.{name}").run(context)
    context.spark.stop()
    return context


def read_streams(context: Any, user_id: np.ndarray, track_id: np.ndarray) -> tuple[csr_array, csr_array]:
    """Return the number of streams of each user (U,) and track (T,), ids ascending: (U, T), twice.

    The first is of the window before the as-of time, the second of the TRUTH_DAYS days from the as-of time on.
    """
    as_of, window = context.week.as_of, context.settings.matrix.window_days
    spans = ((as_of - timedelta(days=window), as_of), (as_of, as_of + timedelta(days=TRUTH_DAYS)))
    counts = []
    for start, end in spans:
        total = csr_array((len(user_id), len(track_id)), dtype=np.int32)
        for n in range((end - start).days):
            day = f"{start + timedelta(days=n):%Y-%m-%d}"
            log = context.lake.read("events", columns=["user_id", "kind", "entity", "entity_id"], day=day).to_pandas()
            log = log[(log.kind == "stream") & (log.entity == "track") & log.user_id.isin(user_id)]
            at = (np.searchsorted(user_id, log.user_id), np.searchsorted(track_id, log.entity_id))
            total = total + csr_array((np.ones(len(log), np.int32), at), shape=total.shape)
        counts.append(total)
    return counts[0], counts[1]


@dataclass(frozen=True, eq=False)
class Task:
    """New tracks of a space, the listeners who stream some of them later, and everything known at the as-of time.

    Shapes: U known listeners, W warm listeners, B evaluated listeners, N tracks of the space, M new tracks, A artists.
    The new tracks are in descending order of their first listeners; ties in a score go to the earlier one.

    Attributes:
        track_ND, facts_N, heard_UN: vectors, facts and streams of the tracks of the space.
        facts_M, heard_UM, n_listeners_M: facts, streams and number of first listeners of the new tracks.
        user_BD: vectors of the evaluated listeners.
        artist_BM, artist_M: streams of the artist of each new track by each listener, and listeners of the artist.
        seen_BM, truth_BM: new tracks streamed before, and for the first time after the as-of time.
    """

    track_ND: np.ndarray
    facts_N: Any
    heard_UN: csr_array
    facts_M: Any
    heard_UM: csr_array
    n_listeners_M: np.ndarray
    user_BD: np.ndarray
    artist_BM: np.ndarray
    artist_M: np.ndarray
    seen_BM: np.ndarray
    truth_BM: np.ndarray


def read_tasks(context: Any) -> dict[str, Task]:
    """Return the task of each space."""
    from models.cold_start.new_releases import TrackFacts

    lake, week = context.lake, context.week
    users = lake.read("users", columns=["user_id", "registered_at"]).to_pandas()
    user_id = np.sort(users.user_id[users.registered_at < week.cohort_start].to_numpy())
    tracks = lake.read("tracks", columns=["track_id", "artist_id", "album_id", "genre", "release_date"]).to_pandas()
    tracks = tracks.sort_values("track_id", ignore_index=True)
    track_id = tracks.track_id.to_numpy()
    genre = tracks.genre.astype("category").cat.codes.to_numpy(np.int64)  # -1: unknown
    facts = TrackFacts(genre, tracks.artist_id.to_numpy(), tracks.album_id.to_numpy())
    released = tracks.release_date.to_numpy("datetime64[D]")
    as_of = np.datetime64(str(week), "D")
    is_recent = (released >= as_of - RELEASE_DAYS) & (released < as_of)
    before, after = read_streams(context, user_id, track_id)
    catalog = lake.read("catalog", week=week.name).sort_by("track_idx").column("track_id").to_numpy()
    in_space = np.searchsorted(track_id, catalog)
    warm_id = lake.read("warm_users", week=week.name).sort_by("user_idx").column("user_id").to_numpy()
    warm = np.searchsorted(user_id, warm_id)
    of_artist = np.unique(tracks.artist_id, return_inverse=True)[1]
    to_artist = csr_array((np.ones(len(track_id)), (np.arange(len(track_id)), of_artist)))
    streams_UA, listeners_A = before @ to_artist, ((before > 0) @ to_artist).sum(axis=0)
    tasks = {}
    for space in SPACES:
        track_ND = lake.matrix("track_vectors", week=week.name, space=space)
        is_new = is_recent.copy()
        is_new[in_space[track_ND.any(axis=1)]] = False
        new = np.flatnonzero(is_new)
        n_listeners = np.asarray((before[:, new] > 0).sum(axis=0)).ravel()
        order = np.argsort(-n_listeners, kind="stable")
        new, n_listeners = new[order], n_listeners[order]
        seen_WM = (before[warm][:, new] > 0).toarray()
        truth_WM = (after[warm][:, new] > 0).toarray() & ~seen_WM
        some = np.flatnonzero(truth_WM.any(axis=1))
        artist = of_artist[new]
        tasks[space] = Task(
            track_ND=track_ND,
            facts_N=facts.take(in_space),
            heard_UN=before[:, in_space],
            facts_M=facts.take(new),
            heard_UM=before[:, new],
            n_listeners_M=n_listeners,
            user_BD=lake.matrix("user_vectors", week=week.name, space=space)[some],
            artist_BM=streams_UA[warm[some]][:, artist].toarray(),
            artist_M=listeners_A[artist],
            seen_BM=seen_WM[some],
            truth_BM=truth_WM[some],
        )
    return tasks


def method_scores(task: Task, seed: int) -> dict[str, np.ndarray]:
    """Return the score of each new track for each listener, (B, M), by method."""
    from models.cold_start.new_releases import NewReleases
    from models.cold_start.top_k import normalise

    rng = np.random.default_rng(seed)
    model = NewReleases.fit(normalise(task.track_ND), task.facts_N, task.heard_UN, seed)
    harness.log(f"  kappa {model.kappa}")
    artist_mean_BM = cosines(task.user_BD, artist_means(task))
    both_BM = cosines(task.user_BD, model.vectors(task.facts_M, task.heard_UM))
    popularity_M = np.log(2 + task.n_listeners_M)
    return {
        "random": rng.random(task.truth_BM.shape),
        "popularity so far": np.broadcast_to(task.n_listeners_M, task.truth_BM.shape),
        "artist mean": artist_mean_BM,
        "artist mean x popularity": np.maximum(artist_mean_BM, 0) * popularity_M,
        "popularity in artist": task.artist_BM * task.artist_M,
        "content": cosines(task.user_BD, model.content(task.facts_M)),
        "first listeners": cosines(task.user_BD, model.first_listeners(task.heard_UM)),
        COMBINATION: both_BM,
        f"{COMBINATION}, x popularity": np.maximum(both_BM, 0) * popularity_M,
    }


def groups(task: Task) -> dict[str, np.ndarray]:
    """Return the columns of the new tracks of each group."""
    n, has_vector = task.n_listeners_M, task.track_ND.any(axis=1)
    has_artist = np.isin(task.facts_M.artist, task.facts_N.artist[has_vector])
    masks = {"all": n >= 0, **{name: (n >= least) & (n <= most) for name, (least, most) in GROUPS.items()}}
    masks |= {"artist in the space": has_artist, "artist not in the space": ~has_artist}
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}


def artist_means(task: Task) -> np.ndarray:
    """Return the mean vector of the artist of each new track, (M, d); zero for an artist without a vector."""
    has_vector = task.track_ND.any(axis=1)
    ids, member = np.unique(task.facts_N.artist[has_vector], return_inverse=True)
    total = np.zeros((len(ids), task.track_ND.shape[1]))
    np.add.at(total, member, task.track_ND[has_vector])
    place = np.minimum(np.searchsorted(ids, task.facts_M.artist), len(ids) - 1)
    known = ids[place] == task.facts_M.artist
    return np.where(known[:, None], total[place] / np.bincount(member)[place, None], 0.0)


def cosines(user_BD: np.ndarray, track_MD: np.ndarray) -> np.ndarray:
    """Return the cosine of each listener and track (B, M), rounded so that tracks of equal vectors tie."""
    from models.cold_start.top_k import normalise

    return np.round(normalise(user_BD).astype(np.float64) @ normalise(track_MD).T.astype(np.float64), 6)


def evaluate(task: Task, score_BM: np.ndarray, columns: np.ndarray) -> dict[str, np.ndarray]:
    """Return NDCG and recall of the listeners who stream one of the tracks `columns`, of lists of these tracks."""
    from models.cold_start.ragged import Ragged
    from models.cold_start.top_k import top_k_of_scores
    from models.evaluation.metrics import score

    truth_BM = task.truth_BM[:, columns]
    rows = np.flatnonzero(truth_BM.any(axis=1))
    lowest = np.where(task.seen_BM[rows][:, columns], -np.inf, score_BM[rows][:, columns])
    lists_BK = top_k_of_scores(lowest, K)
    truth = Ragged.from_lists([np.flatnonzero(row) for row in truth_BM[rows]])
    return score(lists_BK, truth, K)


def measure(quick: bool) -> Measurement:
    """Return the numbers by "space, group: method/column", and the sizes by "space, group: tracks"."""
    from models.evaluation.metrics import paired_bootstrap

    clock = stopwatch()
    context = prepare_week(quick)
    quality: dict[str, float] = {}
    for space, task in read_tasks(context).items():
        score_by_method = method_scores(task, context.seed(f"new_releases/{space}"))
        for group, columns in groups(task).items():
            harness.log(f"  {space}, {group}: {len(columns)} tracks")
            if len(columns) < MIN_TRACKS:
                continue
            values = {name: evaluate(task, score_BM, columns) for name, score_BM in score_by_method.items()}
            best = max(BASELINES, key=lambda name: values[name]["ndcg"].mean())
            for name, metrics in values.items():
                key = f"{space}, {group}: {name}"
                difference = paired_bootstrap(100 * metrics["ndcg"], 100 * values[best]["ndcg"], N_BOOTSTRAP)
                quality |= {
                    f"{key}/NDCG@{K}, %": 100 * float(metrics["ndcg"].mean()),
                    f"{key}/recall@{K}, %": 100 * float(metrics["recall"].mean()),
                    **dict(zip((f"{key}/minus {best}", f"{key}/from", f"{key}/to"), difference, strict=True)),
                }
            n_rows = len(values[best]["ndcg"])
            quality |= {f"{space}, {group}: /tracks": len(columns), f"{space}, {group}: /listeners": n_rows}
    return Measurement([clock()], quality)


def cases(measurement: Measurement, peak: float) -> list[dict[str, Any]]:
    """Return one case per space and group of tracks."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for key, value in measurement.quality.items():
        group, _, rest = key.partition(": ")
        name, _, column = rest.partition("/")
        rows.setdefault(group, {}).setdefault(name, {})[column] = value
    result = []
    for group, by_method in rows.items():
        sizes = by_method.pop("")
        about = (
            f"{sizes['tracks']:.0f} new tracks without a vector in the space, for {sizes['listeners']:.0f} warm "
            "listeners who stream one of them in the next 30 days. The differences are NDCG points with a paired 95 % "
            "interval over the listeners. Seconds and MiB are those of the whole script."
        )
        peers = {
            name: harness.summary([(Measurement(measurement.seconds, quality), peak)], "")
            for name, quality in by_method.items()
        }
        result.append({"case": f"{group.replace(', ', ': ')}", "about": about, "peers": peers, "ratios": {}})
    return result


def main() -> None:
    """Measure all methods in one run."""
    arguments = harness.parse_arguments("new_releases", (__doc__ or "").splitlines()[0])
    measurement, peak = harness.run_in_process(Peer("week", measure, {"quick": arguments.quick}))
    quality = measurement.quality
    promises = [
        harness.promise(
            f"{space}: lower end of the interval of {COMBINATION}, x popularity, minus the best baseline, NDCG points",
            0,
            quality[f"{space}, all: {COMBINATION}, x popularity/from"],
        )
        for space in SPACES
    ]
    name = f"{SPACES[0]}, all: {COMBINATION}, x popularity/NDCG@{K}, %"
    harness.write_result(
        arguments, cases(measurement, peak), promises, (f"NDCG@{K} of new tracks, {SPACES[0]}, %", quality[name])
    )


if __name__ == "__main__":
    main()
