"""Evaluate cold-start methods on real playlists: the paper's, this project's and their peers, over several seeds.

Task     playlists as listeners, read as in production (jobs/ingest/mpd/adapter.py, configs/mpd.yaml); each seed draws
         its own first days and starts every factorisation, segmentation and network
Metric   as in jobs/cold_start/evaluate.py, on the test cohort; first-day tracks are excluded from every list, because
         a playlist contains no track twice. Settings are those of configs/, chosen on the validation cohort
Interval mean over the seeds, with the 95 % interval of Student's t; the listeners are the same for all seeds, so the
         interval describes the variation between runs of the procedure, not between listeners
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
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
JOBS = (
    "matrix.catalog",
    "matrix.user_track",
    "matrix.track_pairs",
    "matrix.first_day",
    "factorize.svd",
    "factorize.als",
)
SPACES = ("tt_svd", "ut_als")
K = 50
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
    "neighbours",
    "first_day_autoencoder",
    "blend",
    "item_knn",
    "ease",
)
METHODS = {"tt_svd": (*PAPER, *SPACE_INDEPENDENT), "ut_als": (*PAPER, "ials_fold_in")}


def prepare_week(data: str, seed: int, quick: bool, spaces: tuple[str, ...] = SPACES) -> Any:
    """Return the context of a week of playlists up to the trained networks; all draws depend on one seed.

    The blend is trained during the evaluation, as the other methods are; it is not trained a second time for serving.

    Args:
        data: folder of the playlists.
        seed: seed of all draws.
        quick: whether to use a subset of the playlists and few epochs.
        spaces: spaces to train.
    """
    from jobs.cold_start import features, segments, train
    from jobs.ingest.mpd import adapter as mpd
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.release import weekly_run
    from jobs.settings.settings import load

    variables = {"SEED": str(seed), "SOURCE__SEED": str(seed), "GATE__METHOD": "semi_pers"}
    os.environ |= {f"OVERTURE__{name}": value for name, value in variables.items()} | (QUICK if quick else {})
    settings, home = load(CONFIG), Path(os.environ["OVERTURE_HOME"])
    context = Context(settings, Week.parse(settings.week), home)
    source = subset(Path(data), home / "few", QUICK_PLAYLISTS) if quick else Path(data)
    mpd.run(context, source)
    weekly_run.begin(context)
    for name in JOBS:
        import_module(f"jobs.{name}").run(context)
    context.spark.stop()
    for space in spaces:
        for job in (segments, features, train):
            job.run(context, space)
    return context


def run_week(data: str, seed: int, quick: bool) -> Measurement:
    """Run the whole procedure with one seed; the quality maps space/method/split/metric to values."""
    from jobs.cold_start import evaluate
    from jobs.platform.context import Context

    clock = stopwatch()
    quality: dict[str, float] = {}
    prepared = prepare_week(data, seed, quick)
    for space in SPACES:
        evaluation_settings = prepared.settings.evaluation.model_copy(update={"methods": METHODS[space]})
        evaluation_context = Context(
            prepared.settings.model_copy(update={"evaluation": evaluation_settings}), prepared.week, prepared.home
        )
        evaluate.run(evaluation_context, space)
        rows = evaluation_context.lake.read("evaluation", week=evaluation_context.week.name, space=space).to_pylist()
        for row in rows:
            if row["slice"] == "all" and row["k"] == K:
                key = f"{space}/{row['method']}/{row['split']}/{row['metric']}"
                quality |= {key: row["value"], f"{key} with rules": row["with_rules"]}
    return Measurement([clock()], quality)


def summary_rows(measurements: list[Measurement]) -> list[dict[str, Any]]:
    """Return one row per space and method: mean and half width of the interval in %, by split and metric."""
    row_of: dict[tuple[str, str], dict[str, Any]] = {}
    for key in measurements[0].quality:
        space, method, split, metric = key.split("/")
        values = 100 * np.array([measurement.quality[key] for measurement in measurements])
        n = len(values)
        half_width = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
        row = row_of.setdefault((space, method), {"space": space, "method": method})
        row[f"{split} {metric}"] = [round(float(values.mean()), 2), round(float(half_width), 2)]
    return list(row_of.values())


def case(rows: list[dict[str, Any]], n_seeds: int, seconds: list[float], peak: float) -> dict[str, Any]:
    """Return the case of the table: quality in %, mean over the seeds, by method."""
    peers = {}
    for row in sorted(rows, key=lambda row: -row["test ndcg"][0]):
        quality = {name: row[name][0] for name in COLUMNS}
        quality["+- test ndcg"] = row["test ndcg"][1]
        record = harness.summary([(Measurement(seconds, quality), peak)], "")
        is_space_independent = row["method"] in ("popularity", *SPACE_INDEPENDENT)
        peers[row["method"] if is_space_independent else f"{row['method']}, {row['space']}"] = record
    return {
        "case": f"the playlist task, @{K}, in %",
        "about": f"Means over {n_seeds} seeds of the whole procedure. Seconds and MiB are those of a whole run with "
        f"all methods of both spaces, the same in every row; {N_PARALLEL} runs share the machine.",
        "peers": peers,
        "ratios": {},
        "table": rows,
    }


def main() -> None:
    """Run all seeds, N_PARALLEL at a time."""
    data_help = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    arguments = harness.parse_arguments("playlists", (__doc__ or "").splitlines()[0], data_help, required=True)
    seeds = SEEDS[:1] if arguments.quick else SEEDS
    os.environ["OMP_NUM_THREADS"] = "1"  # quality is measured, not time, so runs may share the machine

    def run(seed: int) -> tuple[Measurement, float]:
        harness.log(f"playlists: seed {seed} ...")
        peer_arguments = {"data": str(arguments.data), "seed": seed, "quick": arguments.quick}
        measurement, peak = harness.run_in_process(Peer("week", run_week, peer_arguments))
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
    best_semi = max(v for (_, method), v in value.items() if method in ("segment_mixture", "segment_mixture_reranked"))
    best_ndcg = max(value.values())
    promises = [
        harness.promise("test NDCG@50 of the best method, %", 26, best_ndcg),
        harness.promise("test NDCG@50 of the best method that is semi-personalised, %", 24, best_semi),
        harness.promise("best method over the best peer, NDCG@50 points", 0, best_ndcg - best_peer),
    ]
    seconds = [measurement.seconds[0] for measurement in measurements]
    harness.write_result(
        arguments, [case(rows, len(seeds), seconds, max(peaks))], promises, ("best test NDCG@50, %", best_ndcg)
    )


if __name__ == "__main__":
    main()
