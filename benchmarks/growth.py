"""How the Spark stage of a week grows with events, and how the factorisations share the work of more workers."""

from __future__ import annotations

import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import harness
import made_up
from harness import Answer, Peer, stopwatch

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
FACTORS = (1, 2, 4, 8)
QUICK_FACTORS = (1, 8)
ALL = (
    "matrix.catalog",
    "matrix.user_track",
    "matrix.track_pairs",
    "matrix.first_day",
    "factorize.svd",
    "factorize.als",
)
SOME = ("matrix.catalog", "matrix.user_track")
JAVA = "-XX:+UseParallelGC"
QUICK_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # compiles less: better for a minute


def fill(homes: dict[int, str], n_users: int, days: int, java: str) -> Answer:
    """A made-up service of every size, each in a lake of its own."""
    from jobs.ingest.simulate import adapter as simulate

    for factor, home in homes.items():
        harness.say(f"growth: making a service of {n_users * factor} users")
        simulate.run(_week(home, n_users * factor, days, java))
    return Answer([0.0])


def spark_stage(homes: dict[int, str], n_users: int, days: int, java: str, names: tuple[str, ...]) -> Answer:
    """Spark jobs of a week at every size, smallest first, in one warmed session; quality tells of each size."""
    jobs = {name.split(".")[-1]: import_module(f"jobs.{name}") for name in names}
    quality: dict[str, float] = {}
    seconds = []
    for turn, (factor, home) in enumerate([(1, homes[1]), *homes.items()]):
        context = _week(home, n_users * factor, days, java)
        with harness.watched(os.getpid()) as peak:
            clock = stopwatch()
            took = {}
            for name, job in jobs.items():
                before = clock()
                job.run(context)
                took[f"{name} s"] = clock() - before
        if turn:  # the first turn wakes Java and numba
            seconds.append(clock())
            n_events = sum(context.lake.rows("events", **day) for day in context.lake.partitions("events"))
            entries = context.lake.rows("user_track", week=context.week.name)
            found = {"events": n_events, "entries": entries, "peak": peak(), **took}
            quality |= {f"{factor}/{name}": float(value) for name, value in found.items()}
    context.spark.stop()
    return Answer(seconds, quality)


def _week(home: str, n_users: int, days: int, java: str) -> Any:
    """A context over the demo's settings at another size: as many people register a day, so cohorts grow alike."""
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


def factorise(n_workers: int, size: tuple[int, int, int], d: int, iterations: int, cluster: bool) -> Answer:
    """ALS and SVD with so many workers of one core: a standalone cluster, or threads of one Java where it is not."""
    from contextlib import nullcontext

    from blockfactor import csr_blocks
    from blockfactor.als import AlsParameters, train
    from blockfactor.svd import SvdParameters
    from blockfactor.svd import factorise as factorise_blocks
    from cluster import SHORT_LIVED, standalone
    from jobs.platform.spark import session
    from jobs.settings.platform import SparkSettings
    from spark_peers import entries, scratch

    matrix, pairs = made_up.ratings(*size), made_up.pairs(size[1] // 2, size[0] // 2)
    with scratch() as folder:
        place = standalone(folder / "logs", n_workers) if cluster else nullcontext((f"local[{n_workers}]", []))
        with place as (master, _):
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
            took = clock()
            spark.stop()
    return Answer(list(fit.iteration_s[1:]), {"svd s": took, "loss": fit.losses[-1]})


def curve(
    folder: Path, factors: tuple[int, ...], n_users: int, days: int, runs: int, java: str, names: tuple[str, ...]
) -> tuple[dict[str, Any], float]:
    """Events times each factor: the case, and the exponent of seconds over events."""
    homes = {factor: f"{folder}/x{factor}" for factor in factors}
    sizes = {"homes": homes, "n_users": n_users, "days": days, "java": java}
    harness.alone(Peer("fill", fill, sizes))
    answers = [harness.alone(Peer("stage", spark_stage, {**sizes, "names": names}))[0] for _ in range(runs)]
    peers = {}
    for at, factor in enumerate(factors):

        def said(answer: Answer, name: str, factor: int = factor) -> float:
            return answer.quality[f"{factor}/{name}"]

        names = [
            name.split("/")[1] for name in answers[0].quality if name.startswith(f"{factor}/") and "peak" not in name
        ]
        each = [
            (Answer([answer.seconds[at]], {name: said(answer, name) for name in names}), said(answer, "peak"))
            for answer in answers
        ]
        peers[f"events x {factor}"] = harness.summary(each, "")
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
    """Both curves."""
    chosen = harness.options("growth", __doc__ or "")
    from spark_peers import scratch

    n_users, days, runs = (1_000, 50, 1) if chosen.quick else (4_000, 147, 2)
    size, d, iterations = ((2_000, 1_000, 60_000), 16, 3) if chosen.quick else ((60_000, 30_000, 2_800_000), 128, 4)
    with scratch() as folder:
        factors, java, names = (QUICK_FACTORS, QUICK_JAVA, SOME) if chosen.quick else (FACTORS, JAVA, ALL)
        case, exponent = curve(folder, factors, n_users, days, runs, java, names)
    first, last = (case["peers"][f"events x {factor}"] for factor in (factors[0], factors[-1]))
    ratio = last["seconds"]["median"] / first["seconds"]["median"]
    ratio *= factors[-1] / (last["quality"]["events"] / first["quality"]["events"])
    arguments = {"size": size, "d": d, "iterations": iterations, "cluster": not chosen.quick}
    peers = harness.compare(
        [Peer(f"{n} worker{'s' if n > 1 else ''}", factorise, {**arguments, "n_workers": n}, runs) for n in (1, 2)]
    )
    workers = {
        "case": "workers",
        "about": f"ALS of {size[0]} users x {size[1]} tracks, {size[2]} entries, and the SVD of {size[1] // 2} tracks, "
        f"rank {d}; " + ("threads of one Java." if chosen.quick else "a standalone cluster, workers of one core each."),
        "timed": "s an ALS iteration",
        "peers": peers,
        "ratios": harness.ratios(peers, "2 workers"),
    }
    promises = [
        harness.promise(f"events x {factors[-1]}: times the seconds", 8.5, ratio, at_most=True),
        harness.promise("exponent of seconds over events", math.log(8.5) / math.log(8), exponent, at_most=True),
    ]
    harness.finish(chosen, [case, workers], promises, ("exponent of seconds over events", exponent))


if __name__ == "__main__":
    main()
