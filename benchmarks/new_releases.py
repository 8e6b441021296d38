"""Rank tracks that are too new for the spaces, for listeners of a simulated service, by a split in time.

Service    simulated listeners; `simulate.release_share` of the albums are released on days spread over the log
Space      the week's matrix and both factorisations, as in production: nothing after the as-of time is read
New        a track that was released in the RELEASE_DAYS days before the as-of time and has no vector in the space: it
           is not among the `matrix.n_catalog` tracks with the most listeners in the window, or its vector is zero
           (tt_svd: no other track shares two collections with it)
Listeners  warm listeners, by their vectors in the space; and the cohort of the week, by the vectors that the network
           predicts from the first days alone, which are all that the baselines know of these listeners too
Truth      the new tracks that a listener streams for the first time in the 30 days from the as-of time on
Lists      the new tracks that the listener did not stream before, in the order of a score; `artist mean`, `content` and
           `first listeners` are cosines of vectors, `x popularity` multiplies by log(2 + number of first listeners)
First      first listeners are those who registered before the cohort of the week and streamed the new track before the
           as-of time
Whole      lists of all tracks for a sample of the warm listeners, by the cosine with their vectors, without and with
           `new_releases.enabled`, and with the vectors that the factorisations themselves give to the same new
           releases; the truth is every track that the listener streams for the first time
Interval   95 %, paired bootstrap over the listeners, against the best of the baselines of the same case, which is named
           after the fact; so it favours the baseline
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

import harness
from harness import Measurement, Peer, stopwatch
from playlists import FACTORISATIONS, MATRIX_JOBS, SPACES

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
WEEK = "2026-10-19"  # the log ends 34 days later
JOBS = (*MATRIX_JOBS, *FACTORISATIONS)
SIZES = {"n_users": 100_000, "n_tracks": 8_000, "n_playlists": 20_000, "release_share": 0.2, "content_width": 32}
QUICK_SIZES = {"n_users": 3_000, "n_tracks": 2_000, "n_playlists": 2_000, "release_share": 0.3, "content_width": 32}
CATALOGUE_SHARE = 0.6  # of all tracks
RELEASE_DAYS, TRUTH_DAYS, K, N_BOOTSTRAP = 28, 30, 10, 2_000
GROUPS = {
    "no listener": (0, 0),
    "1-3 listeners": (1, 3),
    "4-10 listeners": (4, 10),
    "11 listeners and more": (11, 10**9),
}
MIN_TRACKS, MIN_LISTENERS = 2 * K, 20  # of a group that is evaluated
WARM, COHORT = "warm listeners", "cohort"
WHOLE, K_WHOLE, MAX_LISTENERS = "whole lists", 50, 5_000
WITHOUT, WITH, FACTORISED = "without new releases", "with new releases", "with new releases, factorised"
BASELINES = ("random", "popularity so far", "artist mean", "artist mean x popularity", "popularity in artist")
COMBINATION, WITH_FEATURES = "content and first listeners", "with features"


def prepare_week(quick: bool) -> Any:
    """Return the context of a simulated week with the vectors and the network inputs of both spaces."""
    from jobs.cold_start import features
    from jobs.ingest.simulate import adapter as simulate
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.release import signing, weekly_run
    from jobs.settings.settings import load

    settings = load(CONFIG)
    sizes = QUICK_SIZES if quick else SIZES
    n_catalog = round(CATALOGUE_SHARE * sizes["n_tracks"])
    update = {
        "simulate": settings.simulate.model_copy(update=sizes),
        "matrix": settings.matrix.model_copy(update={"n_catalog": n_catalog}),
        "groups": settings.groups.model_copy(update={"min_users": 3 if quick else settings.groups.min_users}),
    }
    context = Context(settings.model_copy(update=update), Week.parse(WEEK), Path(os.environ["OVERTURE_HOME"]))
    simulate.run(context)
    signing.create_keys(signing.signing_key(context))
    weekly_run.begin(context)
    run_jobs(context, JOBS)
    context.spark.stop()
    for space in SPACES:
        harness.log(f"new_releases: features of {space} ...")
        features.run(context, space)
    return context


def run_jobs(context: Any, names: tuple[str, ...]) -> None:
    """Run some of the week's jobs."""
    for name in names:
        harness.log(f"new_releases: {name} ...")
        import_module(f"jobs.{name}").run(context)


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
class Listeners:
    """B listeners who stream new tracks after the as-of time, and what is known of them at that time.

    Attributes:
        user_BD: vectors of the listeners.
        artist_BM: streams of the artist of each new track.
        seen_BM, truth_BM: new tracks streamed before, and for the first time after the as-of time.
    """

    user_BD: np.ndarray
    artist_BM: np.ndarray
    seen_BM: np.ndarray
    truth_BM: np.ndarray


@dataclass(frozen=True, eq=False)
class Task:
    """New tracks of a space, and everything known of them at the as-of time.

    Shapes: U listeners who registered before the cohort, N tracks of the space, M new tracks. The new tracks are in
    descending order of their first listeners; ties in a score go to the earlier one.

    Attributes:
        track_ND, facts_N, heard_UN: vectors, facts and streams of the tracks of the space.
        facts_M, heard_UM, n_listeners_M: facts, streams and number of first listeners of the new tracks.
        artist_listeners_M: pairs of a listener and a track of the artist of each new track.
        listeners: by name.
    """

    track_ND: np.ndarray
    facts_N: Any
    heard_UN: csr_array
    facts_M: Any
    heard_UM: csr_array
    n_listeners_M: np.ndarray
    artist_listeners_M: np.ndarray
    listeners: dict[str, Listeners]


def read_tasks(context: Any) -> dict[str, Task]:
    """Return the task of each space."""
    from models.cold_start.new_releases import TrackFacts

    lake, week = context.lake, context.week
    users = lake.read("users", columns=["user_id", "registered_at"]).to_pandas()
    user_id = np.sort(users.user_id[users.registered_at < week.cohort_end].to_numpy())
    before_cohort = np.isin(user_id, users.user_id[users.registered_at < week.cohort_start])
    columns = ["track_id", "artist_id", "album_id", "genre", "release_date", "content_features"]
    tracks = lake.read("tracks", columns=columns).to_pandas()
    tracks = tracks.sort_values("track_id", ignore_index=True)
    track_id = tracks.track_id.to_numpy()
    genre = tracks.genre.astype("category").cat.codes.to_numpy(np.int64)  # -1: unknown
    features_NF = np.stack(tracks.content_features.to_numpy())
    facts = TrackFacts(genre, tracks.artist_id.to_numpy(), tracks.album_id.to_numpy(), features_NF)
    released = tracks.release_date.to_numpy("datetime64[D]")
    as_of = np.datetime64(str(week), "D")
    is_recent = (released >= as_of - RELEASE_DAYS) & (released < as_of)
    before, after = read_streams(context, user_id, track_id)
    catalog = lake.read("catalog", week=week.name).sort_by("track_idx").column("track_id").to_numpy()
    in_space = np.searchsorted(track_id, catalog)
    artist_id, of_artist = np.unique(tracks.artist_id, return_inverse=True)
    to_artist = csr_array((np.ones(len(track_id)), (np.arange(len(track_id)), of_artist)))
    known = before[before_cohort]
    artist_listeners_A = ((known > 0) @ to_artist).sum(axis=0)
    warm_id = lake.read("warm_users", week=week.name).sort_by("user_idx").column("user_id").to_numpy()
    warm = np.searchsorted(user_id, warm_id)
    tasks = {}
    for space in SPACES:
        track_ND = lake.matrix("track_vectors", week=week.name, space=space)
        is_new = is_recent.copy()
        is_new[in_space[track_ND.any(axis=1)]] = False
        new = np.flatnonzero(is_new)
        n_listeners = np.asarray((known[:, new] > 0).sum(axis=0)).ravel()
        order = np.argsort(-n_listeners, kind="stable")
        new, n_listeners = new[order], n_listeners[order]
        cohort_id, cohort_BD, streams_BA = predict_cohort(context, space, artist_id)
        cohort = np.searchsorted(user_id, cohort_id)

        def evaluated(rows: np.ndarray, user_BD: np.ndarray, streams_BA: csr_array, new: np.ndarray = new) -> Listeners:
            seen_BM = (before[rows][:, new] > 0).toarray()
            truth_BM = (after[rows][:, new] > 0).toarray() & ~seen_BM
            some = np.flatnonzero(truth_BM.any(axis=1))
            artist_BM = streams_BA[some][:, of_artist[new]].toarray()
            return Listeners(user_BD[some], artist_BM, seen_BM[some], truth_BM[some])

        user_BD = lake.matrix("user_vectors", week=week.name, space=space)
        tasks[space] = Task(
            track_ND=track_ND,
            facts_N=facts.take(in_space),
            heard_UN=known[:, in_space],
            facts_M=facts.take(new),
            heard_UM=known[:, new],
            n_listeners_M=n_listeners,
            artist_listeners_M=artist_listeners_A[of_artist[new]],
            listeners={
                WARM: evaluated(warm, user_BD, csr_array(before[warm] @ to_artist)),
                COHORT: evaluated(cohort, cohort_BD, streams_BA),
            },
        )
    return tasks


def predict_cohort(context: Any, space: str, artist_id: np.ndarray) -> tuple[np.ndarray, np.ndarray, csr_array]:
    """Return ids (B,), predicted vectors (B, d) and first-day streams by artist (B, A) of the cohort.

    Args:
        context: the prepared week.
        space: the space, whose network is trained here.
        artist_id: ids of the artists (A,), ascending.
    """
    from jobs.cold_start.train import training_set
    from jobs.cold_start.training_data import first_days, load
    from models.cold_start.network import NetworkRecipe, fit, predict

    recipe = NetworkRecipe(**context.settings.network.model_dump(exclude={"holdout_share"}))
    net = fit(*training_set(context, space), recipe, context.seed(f"network/{space}"))
    ids, vectors, streams = [], [], []
    for split in ("validation", "test"):
        user_id, x_BF = load(context, space, split)
        artists = first_days(context, split, user_id).blocks["streamed_artists"]
        row = np.repeat(np.arange(len(user_id)), artists.lengths)
        at = (row, np.searchsorted(artist_id, artists.ids))
        streams.append(csr_array((np.ones(len(row)), at), shape=(len(user_id), len(artist_id))).toarray())
        ids.append(user_id)
        vectors.append(predict(net, x_BF))
    return np.concatenate(ids), np.concatenate(vectors), csr_array(np.concatenate(streams))


def method_scores(task: Task, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Return the score of each new track for each listener, (B, M), by name of the listeners and method."""
    from models.cold_start.new_releases import NewReleases
    from models.cold_start.top_k import normalise

    rng = np.random.default_rng(seed)
    unit_ND = normalise(task.track_ND)
    with_features = NewReleases.fit(unit_ND, task.facts_N, task.heard_UN, seed)
    model = NewReleases.fit(unit_ND, replace(task.facts_N, features_MF=None), task.heard_UN, seed)
    harness.log(f"  kappa {model.kappa}; with features {with_features.kappa}")
    facts_M = replace(task.facts_M, features_MF=None)
    artist_MD, content_MD = artist_means(task), model.content(facts_M)
    first_MD, both_MD = model.first_listeners(task.heard_UM), model.vectors(facts_M, task.heard_UM)
    featured_MD, all_MD = with_features.content(task.facts_M), with_features.vectors(task.facts_M, task.heard_UM)
    popularity_M = np.log(2 + task.n_listeners_M)
    scores = {}
    for name, listeners in task.listeners.items():
        artist_mean_BM, both_BM = cosines(listeners.user_BD, artist_MD), cosines(listeners.user_BD, both_MD)
        all_BM = cosines(listeners.user_BD, all_MD)
        scores[name] = {
            "random": rng.random(listeners.truth_BM.shape),
            "popularity so far": np.broadcast_to(task.n_listeners_M, listeners.truth_BM.shape),
            "artist mean": artist_mean_BM,
            "artist mean x popularity": np.maximum(artist_mean_BM, 0) * popularity_M,
            "popularity in artist": listeners.artist_BM * task.artist_listeners_M,
            "content": cosines(listeners.user_BD, content_MD),
            "first listeners": cosines(listeners.user_BD, first_MD),
            COMBINATION: both_BM,
            f"{COMBINATION}, x popularity": np.maximum(both_BM, 0) * popularity_M,
            f"content, {WITH_FEATURES}": cosines(listeners.user_BD, featured_MD),
            f"{COMBINATION}, {WITH_FEATURES}": all_BM,
            f"{COMBINATION}, {WITH_FEATURES}, x popularity": np.maximum(all_BM, 0) * popularity_M,
        }
    return scores


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


def evaluate(listeners: Listeners, score_BM: np.ndarray, columns: np.ndarray) -> dict[str, np.ndarray]:
    """Return NDCG and recall of the listeners who stream one of the tracks `columns`, of lists of these tracks."""
    from models.cold_start.ragged import Ragged
    from models.cold_start.top_k import top_k_of_scores
    from models.evaluation.metrics import score

    rows = np.flatnonzero(listeners.truth_BM[:, columns].any(axis=1))
    truth = Ragged.from_lists([np.flatnonzero(row) for row in listeners.truth_BM[rows][:, columns]])
    unseen_BM = np.where(listeners.seen_BM[rows][:, columns], -np.inf, score_BM[rows][:, columns])
    return score(top_k_of_scores(unseen_BM, K), truth, K)


def measure(quick: bool) -> Measurement:
    """Return the numbers by "space, listeners, group: method/column", and the sizes without a method."""
    from models.evaluation.metrics import paired_bootstrap

    clock = stopwatch()
    context = prepare_week(quick)
    quality: dict[str, float] = {}
    for space, task in read_tasks(context).items():
        for who, score_by_method in method_scores(task, context.seed(f"new_releases/{space}")).items():
            listeners = task.listeners[who]
            for group, columns in groups(task).items():
                n_rows, case = int(listeners.truth_BM[:, columns].any(axis=1).sum()), f"{space}, {who}, {group}"
                harness.log(f"  {case}: {len(columns)} tracks, {n_rows} listeners")
                if len(columns) < MIN_TRACKS or n_rows < MIN_LISTENERS or (who == COHORT and group in GROUPS):
                    continue
                quality |= {f"{case}: /tracks": len(columns), f"{case}: /listeners": n_rows}
                values = {name: evaluate(listeners, score_BM, columns) for name, score_BM in score_by_method.items()}
                best = max(BASELINES, key=lambda name: values[name]["ndcg"].mean())
                for name, metrics in values.items():
                    key = f"{case}: {name}"
                    difference = paired_bootstrap(100 * metrics["ndcg"], 100 * values[best]["ndcg"], N_BOOTSTRAP)
                    quality |= {
                        f"{key}/NDCG@{K}, %": 100 * float(metrics["ndcg"].mean()),
                        f"{key}/recall@{K}, %": 100 * float(metrics["recall"].mean()),
                        **dict(zip((f"{key}/minus {best}", f"{key}/from", f"{key}/to"), difference, strict=True)),
                    }
    return Measurement([clock()], quality | measure_whole_lists(context))


def measure_whole_lists(context: Any) -> dict[str, float]:
    """Return the numbers of lists of all tracks without and with new releases, with the keys of `measure`.

    The week is factorised again with new releases, over its former tables.
    """
    import pyarrow as pa

    from jobs.platform.context import Context
    from models.cold_start.ragged import Ragged
    from models.cold_start.top_k import top_k_of_scores
    from models.evaluation.metrics import paired_bootstrap, score

    views = {WITHOUT: read_view(context)}
    tracks = context.lake.read("tracks")
    column = tracks.schema.get_field_index("content_features")
    no_features = pa.nulls(len(tracks), tracks.schema.field(column).type)
    context.lake.write("tracks", tracks.set_column(column, "content_features", no_features))
    new_releases = context.settings.new_releases.model_copy(update={"enabled": True, "days": RELEASE_DAYS})
    enabled = Context(context.settings.model_copy(update={"new_releases": new_releases}), context.week, context.home)
    run_jobs(enabled, tuple(name for name in JOBS if name != "matrix.first_day"))
    views[WITH] = read_view(enabled)
    catalog = context.lake.read("catalog", week=context.week.name)
    unmarked = catalog.set_column(
        catalog.schema.get_field_index("is_new"), "is_new", pa.nulls(len(catalog), pa.bool_())
    )
    context.lake.write("catalog", unmarked, week=context.week.name)
    run_jobs(enabled, FACTORISATIONS)
    enabled.spark.stop()
    views[FACTORISED] = replace(read_view(enabled), is_new_N=views[WITH].is_new_N)
    both = np.intersect1d(views[WITHOUT].user_id, views[WITH].user_id)
    rng = np.random.default_rng(context.seed("new_releases"))
    user_id = np.sort(rng.permutation(both)[:MAX_LISTENERS])
    track_id = np.sort(context.lake.read("tracks", columns=["track_id"]).column("track_id").to_numpy())
    before, after = (counts.toarray() > 0 for counts in read_streams(context, user_id, track_id))
    truth_BT = after & ~before
    rows = np.flatnonzero(truth_BT.any(axis=1))
    truth = Ragged.from_lists([np.flatnonzero(row) for row in truth_BT[rows]])
    quality: dict[str, float] = {}
    for space in SPACES:
        case = f"{space}, {WHOLE}"
        quality |= {f"{case}: /tracks": float(views[WITH].is_new_N.sum()), f"{case}: /listeners": float(len(rows))}
        ndcg: dict[str, np.ndarray] = {}
        for name, view in views.items():
            columns = np.searchsorted(track_id, view.track_id)
            user_BD = view.user_UD[space][np.searchsorted(view.user_id, user_id[rows])]
            score_BN = cosines(user_BD, view.track_ND[space])
            score_BN[before[rows][:, columns]] = -np.inf
            lists_BK = top_k_of_scores(score_BN, K_WHOLE)
            is_new_BK = view.is_new_N[lists_BK]
            hit_BK = np.take_along_axis(truth_BT[rows], columns[lists_BK], axis=1)
            metrics = score(columns[lists_BK], truth, K_WHOLE)
            ndcg[name] = metrics["ndcg"]
            difference = paired_bootstrap(100 * ndcg[name], 100 * ndcg[WITHOUT], N_BOOTSTRAP)
            row = {
                f"NDCG@{K_WHOLE}, %": 100 * float(ndcg[name].mean()),
                f"recall@{K_WHOLE}, %": 100 * float(metrics["recall"].mean()),
                **dict(zip((f"minus {WITHOUT}", "from", "to"), difference, strict=True)),
                "new, % of places": 100 * float(is_new_BK.mean()),
                "streamed, % of other places": 100 * float(hit_BK[~is_new_BK].mean()),
            }
            if view.is_new_N.sum() >= MIN_TRACKS and is_new_BK.any():
                new = np.flatnonzero(view.is_new_N)
                seen_BM, truth_BM = before[rows][:, columns[new]], truth_BT[rows][:, columns[new]]
                among = evaluate(Listeners(user_BD, seen_BM, seen_BM, truth_BM), score_BN[:, new], np.arange(len(new)))
                row["streamed, % of new places"] = 100 * float(hit_BK[is_new_BK].mean())
                row[f"NDCG@{K} among the new, %"] = 100 * float(among["ndcg"].mean())
            quality |= {f"{case}: {name}/{column}": value for column, value in row.items()}
    return quality


@dataclass(frozen=True, eq=False)
class View:
    """What a release would recommend from: tracks and warm listeners, with their vectors by space."""

    track_id: np.ndarray  # (N,) by track_idx
    is_new_N: np.ndarray
    user_id: np.ndarray  # (U,) ascending
    track_ND: dict[str, np.ndarray]
    user_UD: dict[str, np.ndarray]


def read_view(context: Any) -> View:
    """Return the tracks and the warm listeners of the week as they are now in the lake."""
    lake, week = context.lake, context.week.name
    catalog = lake.read("catalog", week=week).sort_by("track_idx")
    is_new_N = catalog.column("is_new").fill_null(False).to_numpy()
    user_id = lake.read("warm_users", week=week).sort_by("user_idx").column("user_id").to_numpy()
    tracks, users = (
        {space: lake.matrix(table, week=week, space=space) for space in SPACES}
        for table in ("track_vectors", "user_vectors")
    )
    return View(catalog.column("track_id").to_numpy(), is_new_N, user_id, tracks, users)


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
        whole = (
            f"Lists of all tracks for {sizes['listeners']:.0f} warm listeners, by the cosine with their vectors; "
            f"{sizes['tracks']:.0f} new releases are added to the catalogue by `new_releases.enabled`, with "
            "estimated vectors or those of the factorisation. Seconds and MiB are those of the whole script."
        )
        new = (
            f"{sizes['tracks']:.0f} new tracks without a vector in the space, for {sizes['listeners']:.0f} listeners "
            "who stream one of them in the next 30 days. The differences are NDCG points with a paired 95 % "
            "interval over the listeners. Seconds and MiB are those of the whole script."
        )
        peers = harness.summaries(by_method, measurement, peak)
        result.append({"case": group, "about": whole if group.endswith(WHOLE) else new, "peers": peers, "ratios": {}})
    return result


def main() -> None:
    """Measure all methods in one run."""
    arguments = harness.parse_arguments("new_releases", (__doc__ or "").splitlines()[0])
    measurement, peak = harness.run_in_process(Peer("week", measure, {"quick": arguments.quick}))
    quality = measurement.quality
    promises = [
        harness.promise(
            f"{space}, {who}: {COMBINATION}, x popularity, minus the best baseline, lower end, NDCG points",
            0,
            quality[f"{space}, {who}, all: {COMBINATION}, x popularity/from"],
        )
        for space in SPACES
        for who in (WARM, COHORT)
    ]
    name = f"{SPACES[0]}, {WARM}, all: {COMBINATION}, x popularity/NDCG@{K}, %"
    harness.write_result(
        arguments, cases(measurement, peak), promises, (f"NDCG@{K} of new tracks, {SPACES[0]}, %", quality[name])
    )


if __name__ == "__main__":
    main()
