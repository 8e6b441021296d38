"""Compare widths d of both spaces on real playlists: quality of the lists, time of the week's jobs, size.

Task      as in benchmarks/playlists.py; each seed draws its own first days, and starts every factorisation
Rows      one per width and space; everything else is as in configs/mpd.yaml, where d is 128
Interval  95 %, paired bootstrap over the test listeners, of the difference to d = 128; the value of a listener is the
          mean over the seeds
Question  the fourth of Briand et al. 2021, section 5: the choice of the embeddings
"""

from __future__ import annotations

import statistics
from functools import reduce
from importlib import import_module
from typing import Any

import numpy as np

import harness
from harness import Measurement, Peer, stopwatch
from playlists import N_BOOTSTRAP, SPACES, K, index_of_ids, listener_ndcg, prepare_matrices

SEEDS = (7, 8, 9)
WIDTHS, QUICK_WIDTHS, IN_USE = (16, 32, 64, 128, 256, 512), (16, 128), 128
METHODS = ("full_pers", "semi_pers", "near_segments")
FACTORISATION = {"tt_svd": "svd", "ut_als": "als"}


def run_seed(data: str, seed: int, widths: tuple[int, ...], quick: bool) -> Measurement:
    """Train and evaluate every width; `quality` and `samples` map "space/d/name" to values."""
    from jobs.cold_start.evaluate import read_cohort
    from jobs.cold_start.methods import method_factory
    from jobs.platform.context import Context

    clock = stopwatch()
    prepared = prepare_matrices(data, seed, quick)
    import_module("jobs.factorize.svd").run(prepared)  # its first run on a session compiles kernels, which takes time
    quality: dict[str, float] = {}
    samples: dict[str, np.ndarray] = {}
    for d in widths:
        sections = {name: getattr(prepared.settings, name).model_copy(update={"d": d}) for name in ("svd", "als")}
        context = Context(prepared.settings.model_copy(update=sections), prepared.week, prepared.home)
        context.__dict__["spark"] = prepared.spark  # one session for all widths
        for space in SPACES:
            key = f"{space}/{d}"
            seconds = train_seconds(context, space)
            quality |= {f"{key}/{name} s": value for name, value in seconds.items()}
            cohorts = {split: read_cohort(context, space, split) for split in ("validation", "test")}
            tracks_ND = context.lake.matrix("track_vectors", week=context.week.name, space=space)
            quality |= {
                f"{key}/MB of tracks": tracks_ND.nbytes / 1e6,
                f"{key}/input values": cohorts["test"].x_BF.shape[1],
            }
            factory = method_factory(context, space, lambda *_: None)
            for name in METHODS:
                method = factory.build(name)
                for split, cohort in cohorts.items():
                    ndcg_B = listener_ndcg(context, method, cohort)
                    quality[f"{key}/{name}, {split}"] = float(ndcg_B.mean())
                    if split == "test":
                        samples[f"{key}/{name}"] = ndcg_B
            samples["user_id"] = cohorts["test"].user_id
            shown = {name: round(value, 2) for name, value in quality.items() if name.startswith(f"{key}/")}
            harness.log(f"  seed {seed}: {shown}")
    return Measurement([clock()], quality, samples)


def train_seconds(context: Any, space: str) -> dict[str, float]:
    """Run the jobs from the factorisation to the network of one space; return the seconds of each."""
    from jobs.cold_start import features, segments, train

    seconds, clock = {}, stopwatch()
    import_module(f"jobs.factorize.{FACTORISATION[space]}").run(context)
    seconds["factorisation"] = clock()
    for name, job in (("segments", segments), ("features", features), ("network", train)):
        clock = stopwatch()
        job.run(context, space)
        seconds[name] = clock()
    return seconds


def case(space: str, widths: tuple[int, ...], measurements: list[Measurement], peak_mib: float) -> dict[str, Any]:
    """Return the case of one space: a row per width."""
    from models.evaluation.metrics import paired_bootstrap

    samples = [measurement.samples for measurement in measurements]
    user_ids = reduce(np.intersect1d, [sample["user_id"] for sample in samples])
    rows = [index_of_ids(sample["user_id"], user_ids) for sample in samples]

    def values(d: int, name: str) -> np.ndarray:
        return np.mean([sample[f"{space}/{d}/{name}"][row] for sample, row in zip(samples, rows, strict=True)], axis=0)

    peers = {}
    for d in widths:
        key, quality = f"{space}/{d}", {}
        for name in METHODS:
            mean = statistics.fmean(measurement.quality[f"{key}/{name}, test"] for measurement in measurements)
            difference = paired_bootstrap(values(d, name), values(IN_USE, name), N_BOOTSTRAP)
            quality[f"{name}, test"] = mean
            quality |= dict(zip((f"{name} change", f"{name} low", f"{name} high"), difference, strict=True))
        for name in ("factorisation s", "segments s", "features s", "network s", "MB of tracks", "input values"):
            quality[name] = statistics.median(measurement.quality[f"{key}/{name}"] for measurement in measurements)
        seconds = [
            sum(measurement.quality[f"{key}/{name} s"] for name in ("factorisation", "segments", "features", "network"))
            for measurement in measurements
        ]
        peers[f"d = {d}"] = harness.summary([(Measurement(seconds, quality), peak_mib)], "")
    return {
        "case": f"the space {space}, NDCG@{K} in %",
        "about": f"Means over {len(measurements)} seeds, {len(user_ids)} test listeners. change, low, high: paired "
        f"difference to d = {IN_USE} with its interval over the listeners. Seconds are those of factorisation, "
        "segments, features and network together, and in the columns of each alone (medians); MiB is that of the whole "
        "script.",
        "peers": peers,
        "ratios": {},
    }


def main() -> None:
    """Measure all widths, seed by seed."""
    data_help = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    arguments = harness.parse_arguments("dimensions", (__doc__ or "").splitlines()[0], data_help, required=True)
    widths = QUICK_WIDTHS if arguments.quick else WIDTHS
    results = []
    for seed in SEEDS[:1] if arguments.quick else SEEDS:
        peer_arguments = {"data": str(arguments.data), "seed": seed, "widths": widths, "quick": arguments.quick}
        results.append(harness.run_in_process(Peer("widths", run_seed, peer_arguments)))
    measurements, peaks = zip(*results, strict=True)
    cases = [case(space, widths, list(measurements), max(peaks)) for space in SPACES]
    near = {d: cases[0]["peers"][f"d = {d}"]["quality"]["near_segments, test"] for d in widths}
    best = max(near, key=lambda d: near[d])
    harness.write_result(arguments, cases, [], ("width with the best test NDCG@50 of near_segments in tt_svd", best))


if __name__ == "__main__":
    main()
