"""Evaluate cold-start methods on real playlists: the paper's, this project's and their peers, over several seeds.

Task     playlists as listeners, read as in production (jobs/ingest/mpd/adapter.py, configs/mpd.yaml); each seed draws
         its own first days and starts every factorisation, segmentation and network
Metric   as in jobs/cold_start/evaluate.py, on the test cohort; first-day tracks are excluded from every list, because
         a playlist contains no track twice. Settings are those of configs/mpd.yaml, chosen on the validation cohort;
         those of published methods and peers by benchmarks/baselines.py
Seeds    "+- test ndcg over seeds": half width of the 95 % interval of Student's t. The listeners are the same for all
         seeds, so it describes the variation between runs of the procedure, not between listeners
Listeners  "from" and "to": 95 % bootstrap interval over the test listeners of the mean NDCG. The value of a listener is
         the mean over the seeds, so that runs are not counted as listeners. "minus item_knn", "minus blend": paired
         differences to the peer and to the method that were named before the measurement, with their intervals over
         the same listeners
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

import harness
from harness import Measurement, Peer, stopwatch
from pairs_task import QUICK_PLAYLISTS, subset

CONFIG = Path(__file__).parents[1] / "configs" / "mpd.yaml"
SEEDS = (7, 8, 9, 10, 11)
N_PARALLEL = 2
MATRIX_JOBS = ("matrix.catalog", "matrix.user_track", "matrix.track_pairs", "matrix.first_day")
FACTORISATIONS = ("factorize.svd", "factorize.als")
SPACES = ("tt_svd", "ut_als")
K = 50
REFERENCES = (("tt_svd", "item_knn"), ("tt_svd", "blend"))
N_BOOTSTRAP = 10_000
# `artists` is the share of distinct artists; "with rules": of the lists under the rules of configs/mpd.yaml, as served.
COLUMNS = (
    "test precision",
    "test recall",
    "test ndcg",
    "validation ndcg",
    "test ndcg with rules",
    "test artists",
    "test artists with rules",
)
QUICK = {
    "OVERTURE__DROPOUTNET__EPOCHS": "1",
    "OVERTURE__MELU__EPOCHS": "1",
    "OVERTURE__AUTOENCODER__EPOCHS": "3",
    "OVERTURE__MIXTURE__EPOCHS": "2",
    "OVERTURE__NETWORK__EPOCHS": "2",
    "OVERTURE__SEGMENTS__K": "50",
    "OVERTURE__SOURCE__CATALOGUE_TRACKS": "4000",
    "OVERTURE__MATRIX__N_CATALOG": "4000",
}
# Methods that do not depend on the space are evaluated in one space only.
PAPER = (
    "popularity",
    "registration_day_streams",
    "input_features_clustering",
    "dropoutnet_full",
    "dropoutnet_semi",
    "melu_full",
    "melu_semi",
    "full_pers",
    "semi_pers",
    "near_segments",
)
SPACE_INDEPENDENT = (
    "segment_mixture",
    "segment_mixture_reranked",
    "segment_mixture_ranked",
    "neighbours",
    "first_day_autoencoder",
    "blend",
    "ranked_candidates",
    "item_knn",
    "ease",
)
METHODS = {"tt_svd": (*PAPER, *SPACE_INDEPENDENT), "ut_als": (*PAPER, "ials_fold_in")}


def prepare_matrices(data: str, seed: int, quick: bool) -> Any:
    """Return the context of a week of playlists up to its matrices and first days; all draws depend on one seed.

    Args:
        data: folder of the playlists.
        seed: seed of all draws.
        quick: whether to use a subset of the playlists and few epochs.
    """
    from jobs.ingest.mpd import adapter as mpd
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.release import signing, weekly_run
    from jobs.settings.settings import load

    variables = {"SEED": str(seed), "SOURCE__SEED": str(seed), "GATE__METHOD": "semi_pers"}
    os.environ |= {f"OVERTURE__{name}": value for name, value in variables.items()} | (QUICK if quick else {})
    settings, home = load(CONFIG), Path(os.environ["OVERTURE_HOME"])
    context = Context(settings, Week.parse(settings.week), home)
    source = subset(Path(data), home / "few", QUICK_PLAYLISTS) if quick else Path(data)
    mpd.run(context, source)
    signing.create_keys(signing.signing_key(context))
    weekly_run.begin(context)
    for name in MATRIX_JOBS:
        import_module(f"jobs.{name}").run(context)
    return context


def prepare_week(data: str, seed: int, quick: bool, spaces: tuple[str, ...] = SPACES) -> Any:
    """Return the context of a week of playlists up to the trained networks.

    The blend is trained during the evaluation, as the other methods are; it is not trained a second time for serving.

    Args:
        data: as in `prepare_matrices`.
        seed: as in `prepare_matrices`.
        quick: as in `prepare_matrices`.
        spaces: spaces to train.
    """
    from jobs.cold_start import features, segments, train

    context = prepare_matrices(data, seed, quick)
    for name in FACTORISATIONS:
        import_module(f"jobs.{name}").run(context)
    context.spark.stop()
    for space in spaces:
        for job in (segments, features, train):
            job.run(context, space)
    return context


def run_week(data: str, seed: int, quick: bool) -> Measurement:
    """Run the whole procedure with one seed; the quality maps space/method/split/metric to values."""
    from jobs.cold_start import evaluate
    from jobs.cold_start.track_facts import track_facts
    from jobs.platform.context import Context
    from jobs.tracking.tracker import Tracker
    from models.evaluation.metrics import score

    clock = stopwatch()
    quality: dict[str, float] = {}
    samples: dict[str, np.ndarray] = {}
    prepared = prepare_week(data, seed, quick)
    for space in SPACES:
        evaluation_settings = prepared.settings.evaluation.model_copy(update={"methods": METHODS[space]})
        evaluation_context = Context(
            prepared.settings.model_copy(update={"evaluation": evaluation_settings}), prepared.week, prepared.home
        )
        facts = track_facts(evaluation_context)
        with Tracker.task(evaluation_context, "evaluate", space) as run:
            for cohort, method, lists in evaluate.evaluated_lists(evaluation_context, space, facts, run):
                for row in evaluate.evaluation_rows(evaluation_context, method, cohort, lists, facts.artist_N):
                    if row["slice"] == "all" and row["k"] == K:
                        key = f"{space}/{method}/{cohort.split}/{row['metric']}"
                        quality |= {key: row["value"], f"{key} with rules": row["with_rules"]}
                if cohort.split == "test":
                    samples[f"{space}/{method}"] = score(lists.without_BK[:, :K], cohort.truth, K)["ndcg"]
                    samples["user_id"] = cohort.user_id
    return Measurement([clock()], quality, samples)


def listener_ndcg(context: Any, method: Any, cohort: Any) -> np.ndarray:
    """Return NDCG@50 in % of each listener, (B,), with lists as in the column without rules."""
    from jobs.cold_start.track_facts import track_facts
    from jobs.cold_start.training_data import catalogue
    from models.cold_start.list_rules import ListRules, protocol
    from models.cold_start.methods.ruled import ruled_lists
    from models.evaluation.metrics import score

    rules: ListRules = protocol(context.settings.rules.rules())
    no_vectors = np.zeros((0, 0), np.float32)  # of rules.diversity, which is off
    ids, facts = catalogue(context).track_id_N, track_facts(context)
    lists_BK, _ = ruled_lists(method, cohort.x_BF, K, cohort.days, ids, facts, rules, no_vectors)
    ndcg_B: np.ndarray = 100 * score(lists_BK, cohort.truth, K)["ndcg"]
    return ndcg_B


def ndcg_of(context: Any, method: Any, cohort: Any) -> float:
    """Return the mean of `listener_ndcg`."""
    return float(listener_ndcg(context, method, cohort).mean())


def listener_values(measurements: list[Measurement]) -> dict[tuple[str, str], np.ndarray]:
    """Return NDCG of each listener, mean over the seeds, (B,), by space and method.

    The listeners are those of every seed, in the order of their ids.
    """
    samples = [measurement.samples for measurement in measurements]
    user_ids = reduce(np.intersect1d, [sample["user_id"] for sample in samples])
    rows = [index_of_ids(sample["user_id"], user_ids) for sample in samples]
    keys = [key for key in samples[0] if key != "user_id"]
    return {
        tuple(key.split("/")): np.mean([sample[key][row] for sample, row in zip(samples, rows, strict=True)], axis=0)
        for key in keys
    }


def index_of_ids(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the position in `ids` of each of the `wanted` ids, all of which are there."""
    order = np.argsort(ids)
    return order[np.searchsorted(ids, wanted, sorter=order)]


def summary_rows(measurements: list[Measurement]) -> list[dict[str, Any]]:
    """Return one row per space and method, in %.

    Each split and metric has its mean and the half width of the interval over the seeds. `test ndcg, listeners` has low
    and high end of the interval over the listeners, `test ndcg minus item_knn` and `minus blend` a paired difference
    and its interval.
    """
    from models.evaluation.metrics import bootstrap, paired_bootstrap

    values_by_method = listener_values(measurements)
    row_of: dict[tuple[str, str], dict[str, Any]] = {}
    for key in measurements[0].quality:
        space, method, split, metric = key.split("/")
        values = 100 * np.array([measurement.quality[key] for measurement in measurements])
        n = len(values)
        half_width = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
        row = row_of.setdefault((space, method), {"space": space, "method": method})
        row[f"{split} {metric}"] = [round(float(values.mean()), 2), round(float(half_width), 2)]
    for key, row in row_of.items():
        percent_B = 100 * values_by_method[key]
        row["test ndcg, listeners"] = [round(value, 2) for value in bootstrap(percent_B, N_BOOTSTRAP)]
        for reference in REFERENCES:
            difference = paired_bootstrap(percent_B, 100 * values_by_method[reference], N_BOOTSTRAP)
            row[f"test ndcg minus {reference[1]}"] = [round(value, 2) for value in difference]
        row["listeners"] = len(percent_B)
    return list(row_of.values())


def case(rows: list[dict[str, Any]], n_seeds: int, seconds: list[float], peak: float) -> dict[str, Any]:
    """Return the case of the table: quality in %, mean over the seeds, by method."""
    peers = {}
    for row in sorted(rows, key=lambda row: -row["test ndcg"][0]):
        quality = {name: row[name][0] for name in COLUMNS}
        quality["+- test ndcg over seeds"] = row["test ndcg"][1]
        quality["from"], quality["to"] = row["test ndcg, listeners"]
        for minus in (f"minus {reference[1]}" for reference in REFERENCES):
            quality[minus], quality[f"{minus} from"], quality[f"{minus} to"] = row[f"test ndcg {minus}"]
        record = harness.summary([(Measurement(seconds, quality), peak)], "")
        is_space_independent = row["method"] in ("popularity", *SPACE_INDEPENDENT)
        peers[row["method"] if is_space_independent else f"{row['method']}, {row['space']}"] = record
    return {
        "case": f"the playlist task, @{K}, in %",
        "about": f"Means over {n_seeds} seeds of the whole procedure. `from` and `to`: 95 % interval of the test NDCG "
        f"over the {rows[0]['listeners']} listeners. Seconds and MiB are those of a whole run with "
        f"all methods of both spaces, the same in every row; {N_PARALLEL} runs share the machine.",
        "peers": peers,
        "ratios": {},
        "table": rows,
    }


def main() -> None:
    """Run all seeds, N_PARALLEL at a time."""
    data_help = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    arguments = harness.parse_arguments(
        "playlists", (__doc__ or "").splitlines()[0], data_help, required=True, in_parts=True
    )
    seeds = SEEDS[:1] if arguments.quick else SEEDS
    os.environ["OMP_NUM_THREADS"] = "1"  # quality is measured, not time, so runs may share the machine

    def run(seed: int) -> tuple[Measurement, float]:
        harness.log(f"playlists: seed {seed} ...")
        peer_arguments = {"data": str(arguments.data), "seed": seed, "quick": arguments.quick}
        measurement, peak = harness.run_part(arguments.parts, Peer(f"playlists seed {seed}", run_week, peer_arguments))
        best = max(measurement.quality, key=lambda key: measurement.quality[key] if key.endswith("test/ndcg") else 0)
        harness.log(
            f"  seed {seed}: {measurement.seconds[0]:.0f} s; best {best}: {100 * measurement.quality[best]:.2f} %"
        )
        return measurement, peak

    with ThreadPoolExecutor(N_PARALLEL) as pool:
        measurements, peaks = zip(*pool.map(run, seeds), strict=True)
    rows = summary_rows(list(measurements))
    value = {(row["space"], row["method"]): row["test ndcg"][0] for row in rows}
    best_peer = max(v for (_, method), v in value.items() if method in ("item_knn", "ease", "ials_fold_in"))
    best_semi = max(v for (_, method), v in value.items() if method.startswith("segment_mixture"))
    best_ndcg = max(value.values())
    promises = [
        harness.promise("test NDCG@50 of the best method, %", 27.2, best_ndcg),
        harness.promise("test NDCG@50 of the best method that is semi-personalised, %", 26, best_semi),
        harness.promise("best method over the best peer, NDCG@50 points", 0, best_ndcg - best_peer),
    ]
    seconds = [measurement.seconds[0] for measurement in measurements]
    harness.write_result(
        arguments, [case(rows, len(seeds), seconds, max(peaks))], promises, ("best test NDCG@50, %", best_ndcg)
    )


if __name__ == "__main__":
    main()
