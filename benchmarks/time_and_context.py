"""Measure what hour, weekday and platform add: to the network on simulated listeners, to skip models on real plays.

Simulated  configs/demo.yaml with more listeners and a taste that depends on the time (simulate.context_taste), one week
           up to the features of tt_svd. Nothing is chosen on the cohort: validation and test listeners are evaluated
Network    models/cold_start/network.py with further columns before the input vector: sine and cosine of the hour of the
           registration and seven indicators of its weekday (UTC). Simulated events name no platform. A warm listener
           who registered before the log has the hour and weekday of the first event in the log
Targets    of the paper: the listener's vector. "of the context": the mean vector of the tracks that the listener
           streamed after the first day in its context, a day part of six hours on weekdays or at weekends
Truth      distinct tracks of days 1 to 30: all, or those streamed in the context of the registration
Real       DSG17: models of the skip engine without the columns of time, platform and context type, with each kind, and
           with all; split by time, and five rolling origins over the newest plays. The cleaning is that of the earliest
           70 %. The calendar columns day, week, month and year are in every row
Alike      the share of equal genres (of equal artists) among pairs of plays in one context, or on one platform, divided
           by the share among pairs in different ones; 1: it makes no difference. Pairs of one listener are on
           different days. Plays of an unknown genre are left out
Interval   95 %, paired bootstrap over listeners; the value of a listener is the mean over the seeds of the network
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

import harness
from context_task import DAY, Listeners, Log, alike, context_of, popular_by_group
from harness import Measurement, Peer, stopwatch
from playlists import MATRIX_JOBS

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
SPACE, K, SEEDS, N_BOOTSTRAP = "tt_svd", 50, (7, 8, 9), 10_000
JOBS = (*MATRIX_JOBS, "factorize.svd")
FULL = {"SIMULATE__N_USERS": "20000"}
QUICK = {"SIMULATE__N_USERS": "4000", "SIMULATE__N_TRACKS": "1500", "SVD__D": "32", "SEGMENTS__K": "40"}
STRENGTHS, QUICK_STRENGTHS = (0.0, 0.5, 1.0), (0.0, 1.0)
HELD_OUT = 10  # one warm listener in so many is not trained on
MIN_TRACKS = 5  # tracks of the context that a truth, or a target, needs
# Variant of the network: whether the target is that of the context, and whether it has the columns of the time.
PLAIN, COLUMNS = "first day alone", "with hour and weekday"
NOW, NOW_COLUMNS = "target of the context", "target of the context, with hour and weekday"
VARIANTS = {PLAIN: (False, False), COLUMNS: (False, True), NOW: (True, False), NOW_COLUMNS: (True, True)}
AGAINST = {COLUMNS: PLAIN, NOW: PLAIN, NOW_COLUMNS: NOW}
ALL_STREAMS, SAME_CONTEXT, VECTORS, ALIKE = "all streams", "same context", "vectors", "alike"
N_ALIKE = 3_000  # simulated listeners whose plays are compared

TIME, PLATFORM, TYPE = "hour and weekday", "platform", "context type"
# Columns of skip_features that depend on each kind of context; counts by their name without _plays and _listened.
KINDS = {
    TIME: {"hour", "weekday", "is_weekend", "bin_time", "user_daypart"},
    PLATFORM: {"platform_name", "platform_family", "user_platform", "user_family", "context_platform"},
    TYPE: {"context_type", "user_context", "context", "genre_context", "context_platform"},
}
EVERYBODY = "everybody"
WITHOUT, WITH_ALL = "without", "with all three"
ROWS = {WITHOUT: (), **{f"with {kind}": (kind,) for kind in KINDS}, WITH_ALL: tuple(KINDS)}
N_ORIGINS = 5
MODELS = {  # model, changes of its recipe in configs/skip.yaml, number of seeds
    "boosted trees": ("boosted_trees", {}, 3),
    "boosted trees, 15 leaves": ("boosted_trees", {"leaves": 15}, 3),
    "logistic regression": ("logistic_features", {}, 1),
}


def prepare(strength: float, quick: bool) -> Any:
    """Return the context of a simulated week up to the features."""
    from jobs.cold_start import features, segments
    from jobs.ingest.simulate import adapter as simulate
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.release import signing, weekly_run
    from jobs.settings.settings import load

    variables = {"SIMULATE__CONTEXT_TASTE": str(strength), **(QUICK if quick else FULL)}
    os.environ |= {f"OVERTURE__{name}": value for name, value in variables.items()}
    settings = load(CONFIG)
    context = Context(settings, Week.parse(settings.week), Path(os.environ["OVERTURE_HOME"]))
    simulate.run(context)
    signing.create_keys(signing.signing_key(context))
    weekly_run.begin(context)
    for name in JOBS:
        import_module(f"jobs.{name}").run(context)
    context.spark.stop()
    for job in (segments, features):
        job.run(context, SPACE)
    return context


def simulated(strength: float, quick: bool) -> Measurement:
    """Train and evaluate all variants for one strength; quality by "question/row/column"."""
    clock = stopwatch()
    context = prepare(strength, quick)
    harness.log(f"  strength {strength}: week prepared: {clock():.0f} s")
    log = Log.read(context)
    return Measurement([clock()], alike_simulated(context, log) | evaluate(context, log))


def evaluate(context: Any, log: Log) -> dict[str, float]:
    """Return all numbers of one week."""
    from jobs.cold_start.methods import method_factory
    from jobs.ingest.simulate.context_taste import N_CONTEXTS
    from models.cold_start.methods.semi_personalised import FullPers, SemiPers
    from models.cold_start.network import NetworkRecipe, fit, predict
    from models.cold_start.new_releases import listener_vectors
    from models.cold_start.top_k import normalise
    from models.evaluation.metrics import paired_bootstrap, score

    factory = method_factory(context, SPACE, lambda *_: None)
    warm, parts = factory.warm, factory.inputs
    table = context.lake.read("warm_users", week=context.week.name).sort_by("user_idx")
    warm_id = table.column("user_id").to_numpy()
    trained = Listeners(warm_id, np.asarray(warm.x_UF), log.moments(warm_id))
    as_of = int(context.week.as_of.timestamp())
    in_window = (log.second < as_of) & (log.second >= as_of - context.settings.matrix.window_days * DAY)
    own = log.tracks_of(warm_id, in_window & log.same_context & (log.days_since > 0))
    tracks = csr_array((np.ones(len(own.ids)), own.ids, own.offsets), shape=(len(own), len(parts.track_ND)))
    target = {False: warm.user_UD, True: listener_vectors(tracks, parts.track_ND)}
    usable = {False: warm.user_UD.any(axis=1), True: (own.lengths >= MIN_TRACKS) & target[True].any(axis=1)}
    held_out = np.random.default_rng(context.seed("held out")).permutation(len(warm_id)) % HELD_OUT == 0

    cohort, truths = cohort_of(context, log)
    popular = {ALL_STREAMS: np.tile(np.arange(K), (len(cohort.user_id), 1))}
    chosen = in_window & np.isin(log.user, warm_id)
    streams = log.user[chosen], log.track[chosen], context_of(log.second[chosen])
    popular[SAME_CONTEXT] = popular_by_group(*streams, N_CONTEXTS, 0.0, K)[context_of(cohort.moment_B)]
    quality: dict[str, float] = {}
    for question, (rows, truth) in truths.items():
        for name, lists in (("popularity", popular[ALL_STREAMS]), ("popularity in the context", popular[SAME_CONTEXT])):
            ndcg = 100 * score(lists[rows], truth, K)["ndcg"].mean()
            quality[f"{question}/{name}/NDCG"] = float(ndcg)
        quality[f"{question}/popularity/listeners"] = float(len(rows))
    settings = context.settings.network.model_dump(exclude={"holdout_share"})
    recipe = NetworkRecipe(**{**settings, "device": "cpu"})
    ndcg: dict[tuple[str, str, str], list[np.ndarray]] = {}
    cosine: dict[str, list[np.ndarray]] = {}
    error: dict[str, list[float]] = {}
    for name, (of_context, with_time) in VARIANTS.items():
        y_UD, x_UF = target[of_context], trained.inputs(with_time)
        fitted, evaluated = usable[of_context] & ~held_out, usable[of_context] & held_out
        for seed in SEEDS:
            net = fit(x_UF[fitted], y_UD[fitted], recipe, context.seed(f"network/{SPACE}/{seed}"))
            predicted_BD = predict(net, x_UF[evaluated])
            cosine.setdefault(name, []).append((normalise(predicted_BD) * normalise(y_UD[evaluated])).sum(axis=1))
            error.setdefault(name, []).append(float(np.square(predicted_BD - y_UD[evaluated]).mean()))
            predicted = partial(predict, net)
            full = FullPers(predicted, parts.track_ND, parts.similarity)
            semi = SemiPers(predicted, parts.centroids_KD, parts.rankings_KL)
            for method in (full, semi):
                lists_BK = method.recommend(cohort.inputs(with_time), K)
                for question, (rows, truth) in truths.items():
                    values = 100 * score(lists_BK[rows], truth, K)["ndcg"]
                    ndcg.setdefault((question, method.name, name), []).append(values)
        quality[f"{VECTORS}/{name}/trained on"] = float(fitted.sum())
        quality[f"{VECTORS}/{name}/held out"] = float(evaluated.sum())
        quality[f"{VECTORS}/{name}/mean squared error"] = float(np.mean(error[name]))
        harness.log(f"  {name}: mean cosine {np.mean(cosine[name]):.4f}")
    compared: dict[tuple[str, str], tuple[list[np.ndarray], list[np.ndarray] | None]] = {}
    for name, values in cosine.items():
        # The vector of the context is another truth than the listener's vector: their cosines are not compared.
        other_name = AGAINST.get(name, "")
        has_same_target = other_name and VARIANTS[other_name][0] == VARIANTS[name][0]
        compared[VECTORS, name] = values, cosine[other_name] if has_same_target else None
    compared |= {
        (question, f"{method}, {name}"): (values, ndcg.get((question, method, AGAINST.get(name, ""))))
        for (question, method, name), values in ndcg.items()
    }
    for (question, row), (values, other) in compared.items():
        key, measure = f"{question}/{row}", "mean cosine" if question == VECTORS else "NDCG"
        quality[f"{key}/{measure}"] = float(np.mean(values))
        if other is not None:
            gain = paired_bootstrap(np.mean(values, axis=0), np.mean(other, axis=0), N_BOOTSTRAP)
            of_seed = [float((one - two).mean()) for one, two in zip(values, other, strict=True)]
            quality |= {f"{key}/{n}": v for n, v in zip(("gain", "low", "high"), gain, strict=True)}
            quality |= {f"{key}/least of a seed": min(of_seed), f"{key}/most of a seed": max(of_seed)}
    return quality


def cohort_of(context: Any, log: Log) -> tuple[Listeners, dict[str, tuple[np.ndarray, Any]]]:
    """Return the cohort, and by question the rows of the listeners who are evaluated, and their truths.

    Raises:
        SystemExit: the truth of all streams is not that of the table `cohort`.
    """
    from jobs.cold_start.evaluate import read_cohort

    splits = [read_cohort(context, SPACE, split) for split in ("validation", "test")]
    user_id = np.concatenate([one.user_id for one in splits])
    cohort = Listeners(user_id, np.concatenate([one.x_BF for one in splits]), log.moments(user_id))
    in_month = (log.days_since >= 1) & (log.days_since <= 30)
    everything = log.tracks_of(user_id, in_month)
    if not np.array_equal(everything.ids, np.concatenate([one.truth.ids for one in splits])):
        raise SystemExit("time_and_context: the truth of the log differs from that of the table cohort")
    same = log.tracks_of(user_id, in_month & log.same_context)
    enough = np.flatnonzero(same.lengths >= MIN_TRACKS)
    truths = {ALL_STREAMS: (np.arange(len(user_id)), everything), SAME_CONTEXT: (enough, same.take(enough))}
    return cohort, truths


def alike_simulated(context: Any, log: Log) -> dict[str, float]:
    """Return how alike simulated plays of one context are; quality by "alike/row/column"."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from jobs.cold_start.training_data import catalogue

    ids = catalogue(context)
    tracks = context.lake.read("tracks", columns=["track_id", "genre"])
    row = pc.index_in(pa.array(ids.track_id_N), value_set=tracks["track_id"].combine_chunks())
    genre = tracks["genre"].combine_chunks().take(row).dictionary_encode().indices.fill_null(-1).to_numpy()
    chosen = np.isin(log.user, np.unique(log.user)[:: max(1, len(log.moment) // N_ALIKE)])
    user, second, track = log.user[chosen], log.second[chosen], log.track[chosen]
    known = genre[track] >= 0
    result = {
        "genre by time": alike(user[known], second[known], genre[track[known]], context_of(second[known])),
        "artist by time": alike(user, second, ids.artist_id_N[track], context_of(second)),
    }
    return {f"{ALIKE}/{row}/{name}": value for row, values in result.items() for name, value in values.items()}


def raw_plays(home: str) -> tuple[Any, Any]:
    """Return context and labelled plays, with rare artists and genres, which the cleaning of the models merges."""
    from jobs.skip import dataset
    from skip import skip_context

    context = skip_context(home)
    return context, dataset.read_rows(context, ("user_age",), "past", "", f"{context.week.as_of:%Y-%m-%d}")[0]


def alike_real(home: str) -> Measurement:
    """Return how alike real plays of one context, and of one platform, are; quality by "row/column"."""
    clock = stopwatch()
    _, plays = raw_plays(home)
    groups = {"time": context_of(plays.ts_N)}
    groups |= {name: plays.category(name) for name in ("platform_name", "platform_family")}
    known = plays.genre_N > 0  # 0: unknown
    quality = {}
    for group, codes in groups.items():
        by_genre = alike(plays.user_N[known], plays.ts_N[known], plays.genre_N[known], codes[known])
        by_artist = alike(plays.user_N, plays.ts_N, plays.artist_N, codes)
        quality |= {f"genre by {group}/{name}": value for name, value in by_genre.items()}
        quality |= {f"artist by {group}/{name}": value for name, value in by_artist.items()}
    return Measurement([clock()], quality)


def popular_artists(home: str) -> Measurement:
    """Evaluate lists of popular artists by what is known of a listener without a play; quality by "row/column".

    The lists are those of the training plays; evaluated are the artists of later plays of other listeners.
    """
    from jobs.skip import dataset
    from models.cold_start.input_vector import age_classes
    from models.evaluation.metrics import paired_bootstrap
    from models.skip.data import splits

    clock = stopwatch()
    context, plays = raw_plays(home)
    fitted = dataset.assign_splits(plays, context.settings.skip.split) == splits.TRAIN
    evaluated = ~fitted & ~np.isin(plays.user_N, plays.user_N[fitted])
    artists, artist_N = np.unique(plays.artist_N, return_inverse=True)
    ages = age_classes(plays.numbers(("user_age",))[:, 0].astype(int))
    groups = {EVERYBODY: np.zeros(len(plays), int), "time": context_of(plays.ts_N), "age class": ages}
    groups |= {name: plays.category(name).astype(int) for name in ("platform_name", "platform_family")}
    users, code = np.unique(plays.user_N[evaluated], return_inverse=True)
    quality: dict[str, float] = {}
    hits: dict[str, np.ndarray] = {}
    for name, group in groups.items():
        codes, group_N = np.unique(group, return_inverse=True)
        prior = context.settings.groups.prior_users
        lists = popular_by_group(plays.user_N[fitted], artist_N[fitted], group_N[fitted], len(codes), prior, K)
        hit = (lists[group_N[evaluated]] == artist_N[evaluated][:, None]).any(axis=1)
        hits[name] = 100 * np.bincount(code, hit) / np.bincount(code)
        gain = paired_bootstrap(hits[name], hits[EVERYBODY], N_BOOTSTRAP)
        values = dict(zip(("gain", "low", "high"), gain, strict=True)) if name != EVERYBODY else {}
        quality |= {f"{name}/{key}": v for key, v in {"hits, %": float(hits[name].mean()), **values}.items()}
    quality |= {"all/listeners": float(len(users)), "all/artists": float(len(artists))}
    return Measurement([clock()], quality)


def restricted(plays: Any, kinds: tuple[str, ...]) -> Any:
    """Return plays with the columns that depend on no kind of context but these."""

    def is_kept(column: str) -> bool:
        key = column.removesuffix("_plays").removesuffix("_listened")
        return all(kind in kinds for kind, columns in KINDS.items() if column in columns or key in columns)

    names = tuple(name for name in plays.names if is_kept(name))
    numbers_NF = plays.numbers_NF[:, [plays.names.index(name) for name in names]]
    categories = {name: values for name, values in plays.categories.items() if is_kept(name)}
    return replace(plays, names=names, numbers_NF=numbers_NF, categories=categories)


def skip_models(home: str, name: str) -> Measurement:
    """Fit one model on each set of columns; quality by "row/column"."""
    from jobs.skip import train
    from models.skip.data import splits
    from models.skip.ensemble.ensemble import logit
    from models.skip.ensemble.fit import fold_borders, out_of_fold
    from models.skip.estimators import registry
    from models.skip.evaluation import metrics
    from skip import skip_context

    context, clock = skip_context(home), stopwatch()
    model, changes, n_seeds = MODELS[name]
    recipe = {**context.settings.skip.recipes.get(model, {}), **changes}
    labelled = train.read_plays(context, (model,))
    test, n = labelled.of_split(splits.TEST), len(labelled.plays)
    first = int((labelled.split_N == splits.TRAIN).sum())
    borders = fold_borders(n, N_ORIGINS, first / n)
    newest = labelled.plays.rows(slice(borders[0], None))
    scores: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    quality: dict[str, float] = {}
    for row, kinds in ROWS.items():
        part = replace(labelled, plays=restricted(labelled.plays, kinds))
        by_time, rolling = [], []
        for seed in SEEDS[:n_seeds]:
            fitted, _ = train.fit_model(part, registry.make(model, recipe), seed)
            by_time.append(logit(fitted.predict_proba(part.of_split(splits.TEST))))
            make = partial(registry.make, settings=recipe)
            rolling.append(logit(out_of_fold(make, model, part.plays, borders, seed)))
        scores[row] = np.mean(by_time, axis=0), np.mean(rolling, axis=0)
        quality[f"{row}/columns"] = float(len(part.plays.names) + len(part.plays.categories))
        for at, (what, plays) in enumerate((("test", test), ("rolling", newest))):
            listened_N, ours_N = plays.labels(), scores[row][at]
            quality[f"{row}/{what} AUC"] = metrics.auc(listened_N, ours_N)
            if row != WITHOUT:
                gain = metrics.bootstrap_difference(listened_N, ours_N, scores[WITHOUT][at], plays.user_N, 2_000, 7)
                values = {"gain": gain.value, "low": gain.low, "high": gain.high}
                quality |= {f"{row}/{what} {key}": value for key, value in values.items()}
        harness.log(f"  {name}, {row}: rolling AUC {quality[f'{row}/rolling AUC']:.4f}")
    quality["all/plays"], quality["all/newest"] = float(n), float(len(newest))
    return Measurement([clock()], quality)


def listened_shares(home: str) -> Measurement:
    """Return the number of labelled plays and the share listened to, by value of each column of context."""
    clock = stopwatch()
    _, plays = raw_plays(home)
    weekday_N, hour_N = plays.category("weekday"), plays.category("hour")
    rows = {
        name: hour_N // 6 == part for part, name in enumerate(("0-5 h UTC", "6-11 h UTC", "12-17 h UTC", "18-23 h UTC"))
    }
    rows |= {"Monday to Friday": weekday_N < 5, "Saturday, Sunday": weekday_N >= 5}
    for column in ("platform_name", "platform_family", "context_type"):
        codes, counts = np.unique(plays.category(column), return_counts=True)
        rows |= {f"{column} {c}": plays.category(column) == c for c in codes[np.argsort(-counts, kind="stable")[:4]]}
    listened_N, quality = plays.labels(), {}
    for name, chosen in rows.items():
        quality |= {f"{name}/plays": float(chosen.sum()), f"{name}/listened, %": 100 * float(listened_N[chosen].mean())}
    per_hour = np.bincount(hour_N, minlength=24)
    quality |= {"hour/fewest": float(per_hour.argmin()), "hour/most": float(per_hour.argmax())}
    return Measurement([clock()], quality)


def rows_of(quality: dict[str, float], prefix: str = "") -> dict[str, dict[str, float]]:
    """Return the columns of each row of "row/column", of the keys that start with a prefix."""
    table: dict[str, dict[str, float]] = {}
    for key, value in quality.items():
        if key.startswith(prefix):
            row, _, column = key.removeprefix(prefix).rpartition("/")
            table.setdefault(row, {})[column] = value
    return table


def simulated_cases(quick: bool) -> dict[str, dict[str, Any]]:
    """Return the cases of the simulated listeners by question, with a row per strength and variant."""
    titles = {
        ALL_STREAMS: f"simulated listeners: all streams of the month after, NDCG@{K} in %",
        SAME_CONTEXT: f"simulated listeners: streams in the context of the registration, NDCG@{K} in %",
        VECTORS: "simulated listeners: predicted and true vectors of held-out warm listeners",
        ALIKE: "how much more alike plays in one context are: simulated and real plays",
    }
    peers: dict[str, dict[str, Any]] = {question: {} for question in titles}
    for strength in QUICK_STRENGTHS if quick else STRENGTHS:
        harness.log(f"time_and_context: strength {strength} ...")
        peer = Peer("week", simulated, {"strength": strength, "quick": quick})
        measurement, peak = harness.run_in_process(peer)
        for question in titles:
            rows = rows_of(measurement.quality, f"{question}/")
            of_strength = {f"{strength:g}: {row}": columns for row, columns in rows.items()}
            peers[question] |= harness.summaries(of_strength, measurement, peak)
    strength_text = "The first number of a row is the strength of simulate.context_taste. "
    network = (
        "gain, low, high: with hour and weekday against the same target without them; target of the context against "
        f"first day alone. Means over {len(SEEDS)} seeds of the network. "
    )
    about = {name: strength_text + network for name in titles}
    about[ALIKE] = (
        strength_text + "Shares of pairs with equal genre (artist) among pairs in one context and in different ones, "
        "their ratio and its interval: of one listener on different days, then of two listeners (others). "
    )
    seconds = "Seconds and MiB are those of a whole week with all variants."
    return {
        name: {"case": titles[name], "about": about[name] + seconds, "peers": rows, "ratios": {}}
        for name, rows in peers.items()
    }


def real_cases(data: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, dict[str, float]]]:
    """Return the cases of the real plays, their rows for the case of alike plays, and the rows of each model."""
    from skip import ingest_plays
    from spark_peers import scratch

    with scratch() as folder:
        home = {"home": str(folder / "sample")}
        harness.run_in_process(Peer("read in", ingest_plays, {**home, "data": str(data), "leaky": False}))
        shares, shares_peak = harness.run_in_process(Peer("shares", listened_shares, home))
        pairs, pairs_peak = harness.run_in_process(Peer("alike", alike_real, home))
        popular, popular_peak = harness.run_in_process(Peer("popular artists", popular_artists, home))
        results = {name: harness.run_in_process(Peer(name, skip_models, {**home, "name": name})) for name in MODELS}
    peers, table = {}, {}
    for name, (measurement, peak) in results.items():
        rows = rows_of(measurement.quality)
        counts = rows.pop("all")
        of_model = {f"{name}: {row}": columns for row, columns in rows.items()}
        table |= of_model
        peers |= harness.summaries(of_model, measurement, peak)
    hours = rows_of(shares.quality)
    hour = hours.pop("hour")
    models = {
        "case": f"{counts['plays']:.0f} real plays: skip models with and without the columns of context",
        "about": "gain, low, high: against the same model without these columns. test: split by time, the last 15 %. "
        f"rolling: the newest {counts['newest']:.0f} plays in {N_ORIGINS} parts, each predicted by a model of the "
        "plays before it. Trees: the mean log odds of three seeds. Seconds and MiB are those of all rows of a model.",
        "peers": peers,
        "ratios": {},
    }
    plays = {
        "case": "the same plays by context",
        "about": f"Fewest plays start in hour {hour['fewest']:.0f}, most in hour {hour['most']:.0f} (UTC). The four "
        "most frequent codes of each column.",
        "peers": harness.summaries(hours, shares, shares_peak),
        "ratios": {},
    }
    lists = rows_of(popular.quality)
    about = lists.pop("all")
    popularity = {
        "case": f"real plays: the {K} most popular artists, by what is known of a new listener",
        "about": "Lists of the earliest 70 % of the plays, by number of listeners, smoothed as country_age is. "
        f"Evaluated: the share of plays whose artist is in the list, for the {about['listeners']:.0f} listeners "
        f"without a play before; {about['artists']:.0f} artists. gain, low, high: against the list of everybody.",
        "peers": harness.summaries(lists, popular, popular_peak),
        "ratios": {},
    }
    rows = {f"real plays: {row}": columns for row, columns in rows_of(pairs.quality).items()}
    alike_rows = harness.summaries(rows, pairs, pairs_peak)
    return [popularity, models, plays], alike_rows, table


def main() -> None:
    """Measure the simulated weeks, then the real plays."""
    data_help = "folder of the DSG17 files train_sample.csv or train.csv"
    about = (__doc__ or "").splitlines()[0]
    arguments = harness.parse_arguments("time_and_context", about, data_help, required=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    real, alike_rows, table = real_cases(arguments.data.resolve())
    cases_by_question = simulated_cases(arguments.quick)
    cases_by_question[ALIKE]["peers"] |= alike_rows
    cases = [*cases_by_question.values(), *real]
    gain = table[f"boosted trees: {WITH_ALL}"]["rolling gain"]
    headline = ("rolling AUC gained by time, platform and context type on real plays, boosted trees", gain)
    harness.write_result(arguments, cases, [], headline)


if __name__ == "__main__":
    main()
