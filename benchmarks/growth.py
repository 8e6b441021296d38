"""Measure the growth of a week's Spark jobs with the number of events, and factorisations on one and two workers."""

from __future__ import annotations

import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import harness
import synthetic
from harness import Measurement, Peer, stopwatch
from playlists import FACTORISATIONS, MATRIX_JOBS

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
FACTORS = (1, 2, 4, 8)
QUICK_FACTORS = (1, 8)
JOBS = (*MATRIX_JOBS, *FACTORISATIONS)
QUICK_JOBS = ("matrix.catalog", "matrix.user_track")
JAVA = "-XX:+UseParallelGC"
QUICK_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # less compilation: faster for short runs


def fill(homes: dict[int, str], n_users: int, days: int, java: str) -> Measurement:
    """Simulate a service of every size, each in its own lake."""
    from jobs.ingest.simulate import adapter as simulate

    for factor, home in homes.items():
        harness.log(f"growth: simulating a service of {n_users * factor} users")
        simulate.run(_week(home, n_users * factor, days, java))
    return Measurement([0.0])


def spark_stage(homes: dict[int, str], n_users: int, days: int, java: str, names: tuple[str, ...]) -> Measurement:
    """Run the Spark jobs of a week at every size, smallest first, in one session after a warm-up.

    The quality contains events, entries, peak memory and seconds by job for each size.
    """
    jobs = {name.split(".")[-1]: import_module(f"jobs.{name}") for name in names}
    quality: dict[str, float] = {}
    seconds = []
    for turn, (factor, home) in enumerate([(1, homes[1]), *homes.items()]):
        context = _week(home, n_users * factor, days, java)
        with harness.peak_memory(os.getpid()) as peak:
            clock = stopwatch()
            seconds_by_job = {}
            for name, job in jobs.items():
                start = clock()
                job.run(context)
                seconds_by_job[f"{name} s"] = clock() - start
        for table in ("active_users", "first_day_events"):  # so that each measured run of first_day is a first run
            for partition in context.lake.partitions(table):
                context.lake.drop(table, **partition)
        if turn:  # the first turn is a warm-up of Java and numba
            seconds.append(clock())
            n_events = sum(context.lake.rows("events", **day) for day in context.lake.partitions("events"))
            entries = context.lake.rows("user_track", week=context.week.name)
            size = {"events": n_events, "entries": entries, "peak": peak(), **seconds_by_job}
            quality |= {f"{factor}/{name}": float(value) for name, value in size.items()}
    context.spark.stop()
    return Measurement(seconds, quality)


def _week(home: str, n_users: int, days: int, java: str) -> Any:
    """Return a context over the settings of the demo at another size.

    The number of registrations per day is constant, so cohorts grow in proportion to users.
    """
    from datetime import date, timedelta

    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.settings.settings import load

    os.environ["OVERTURE_HOME"] = home
    settings = load(CONFIG)
    week = Week.parse(settings.week)
    first = (date.fromisoformat(settings.simulate.last_day) - timedelta(days=days)).isoformat()
    size = {"n_users": n_users, "n_playlists": n_users // 2, "first_day": first}
    simulate = settings.simulate.model_copy(update=size)
    spark = settings.spark.model_copy(update={"extra": settings.spark.extra | {"spark.driver.extraJavaOptions": java}})
    als = settings.als.model_copy(update={"tolerance": 0.0})
    update = {"simulate": simulate, "spark": spark, "als": als}
    return Context(settings.model_copy(update=update), week, Path(home))


def factorise(n_workers: int, size: tuple[int, int, int], d: int, iterations: int, cluster: bool) -> Measurement:
    """Measure ALS and SVD on a standalone cluster of one-core workers, or on as many threads of one JVM."""
    from contextlib import nullcontext

    from blockfactor import csr_blocks
    from blockfactor.als import AlsParameters, train
    from blockfactor.svd import SvdParameters
    from blockfactor.svd import factorise as factorise_blocks
    from cluster import SHORT_LIVED, standalone
    from jobs.platform.spark import session
    from jobs.settings.platform import SparkSettings
    from spark_peers import entries, scratch

    matrix, pairs = synthetic.ratings(*size), synthetic.pairs(size[1] // 2, size[0] // 2)
    with scratch() as folder:
        cluster_context = (
            standalone(folder / "logs", n_workers) if cluster else nullcontext((f"local[{n_workers}]", []))
        )
        with cluster_context as (master, _):
            extra = {"spark.executor.extraJavaOptions": SHORT_LIVED, "spark.driver.extraJavaOptions": SHORT_LIVED}
            settings = SparkSettings(master=master, partitions=4, extra=extra)
            os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
            spark = session(settings, "growth")
            packed = csr_blocks.pack(
                entries(spark, matrix, str(folder)), "ratings", matrix.shape, 4, folder, positive=True
            )
            fit = train(spark, packed, AlsParameters(d=d, iterations=iterations, tolerance=0), 1)
            packed = csr_blocks.pack(entries(spark, pairs, str(folder)), "pairs", pairs.shape, 4, folder, permute=True)
            clock = stopwatch()
            factorise_blocks(spark, packed, packed, SvdParameters(d=d), 1)
            svd_s = clock()
            spark.stop()
    return Measurement(list(fit.iteration_s[1:]), {"svd s": svd_s, "loss": fit.losses[-1]})


def curve(
    folder: Path, factors: tuple[int, ...], n_users: int, days: int, runs: int, java: str, names: tuple[str, ...]
) -> tuple[dict[str, Any], float]:
    """Measure the Spark jobs with the events times each factor.

    Returns:
        The case, and the exponent of seconds over events.
    """
    homes = {factor: f"{folder}/x{factor}" for factor in factors}
    sizes = {"homes": homes, "n_users": n_users, "days": days, "java": java}
    harness.run_in_process(Peer("fill", fill, sizes))
    measurements = [
        harness.run_in_process(Peer("stage", spark_stage, {**sizes, "names": names}))[0] for _ in range(runs)
    ]
    peers = {}
    for position, factor in enumerate(factors):

        def value_of(measurement: Measurement, name: str, factor: int = factor) -> float:
            return measurement.quality[f"{factor}/{name}"]

        names = [
            name.split("/")[1]
            for name in measurements[0].quality
            if name.startswith(f"{factor}/") and "peak" not in name
        ]
        runs_of_size = [
            (
                Measurement([measurement.seconds[position]], {name: value_of(measurement, name) for name in names}),
                value_of(measurement, "peak"),
            )
            for measurement in measurements
        ]
        peers[f"events x {factor}"] = harness.summary(runs_of_size, "")
    n_events = [peer["quality"]["events"] for peer in peers.values()]
    seconds = [peer["seconds"]["median"] for peer in peers.values()]
    exponent = float(np.polyfit(np.log(n_events), np.log(seconds), 1)[0])
    case = {
        "case": "events",
        "about": f"Spark jobs of a week of configs/demo.yaml with {n_users} users, and with events times "
        f"{', '.join(map(str, factors[1:]))}, in one session of 2 GiB that has run the smallest before the clock.",
        "peers": peers,
        "ratios": {},
    }
    return case, exponent


def main() -> None:
    """Measure both cases."""
    arguments = harness.parse_arguments("growth", __doc__ or "")
    from spark_peers import scratch

    n_users, days, runs = (1_000, 50, 1) if arguments.quick else (4_000, 147, 2)
    size, d, iterations = ((2_000, 1_000, 60_000), 16, 3) if arguments.quick else ((60_000, 30_000, 2_800_000), 128, 4)
    with scratch() as folder:
        factors, java, names = (QUICK_FACTORS, QUICK_JAVA, QUICK_JOBS) if arguments.quick else (FACTORS, JAVA, JOBS)
        case, exponent = curve(folder, factors, n_users, days, runs, java, names)
    first, last = (case["peers"][f"events x {factor}"] for factor in (factors[0], factors[-1]))
    ratio = last["seconds"]["median"] / first["seconds"]["median"]
    ratio *= factors[-1] / (last["quality"]["events"] / first["quality"]["events"])
    peer_arguments = {"size": size, "d": d, "iterations": iterations, "cluster": not arguments.quick}
    peers = harness.compare(
        [Peer(f"{n} worker{'s' if n > 1 else ''}", factorise, {**peer_arguments, "n_workers": n}, runs) for n in (1, 2)]
    )
    workers = {
        "case": "workers",
        "about": f"ALS of {size[0]} users x {size[1]} tracks, {size[2]} entries, and the SVD of {size[1] // 2} tracks, "
        f"rank {d}; "
        + ("threads of one Java." if arguments.quick else "a standalone cluster, workers of one core each."),
        "timed": "s an ALS iteration",
        "peers": peers,
        "ratios": harness.ratios(peers, "2 workers"),
    }
    promises = [
        harness.promise(f"events x {factors[-1]}: times the seconds", 8.5, ratio, at_most=True),
        harness.promise("exponent of seconds over events", math.log(8.5) / math.log(8), exponent, at_most=True),
    ]
    harness.write_result(arguments, [case, workers], promises, ("exponent of seconds over events", exponent))


if __name__ == "__main__":
    main()
