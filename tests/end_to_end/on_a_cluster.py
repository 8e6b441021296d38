"""The Spark stage of the tiny week on a master and two workers; then a factorisation during which an executor dies."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from threading import Timer

import numpy as np
import psutil
from one_week import TINY, spark_stage
from pyspark.sql import functions as F

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.cluster import HOST, SHORT_LIVED, executors, standalone
from jobs.context import Context
from jobs.factorize import als, blocks, svd
from jobs.settings import load
from jobs.weeks import Week

ROUNDS = 30
POWERS = 40


def with_a_death(context: Context, workers: list[psutil.Process]) -> dict[str, object]:
    """Train twice on the same blocks, the second time killing an executor on the way; are the factors the same bits?"""
    spark, week = context.spark, context.week.name
    shape = (context.lake.rows("warm_users", week=week), context.lake.rows("catalog", week=week))
    entries = context.lake.spark(spark, "user_track", week=week).select(
        F.col("user_idx").alias("row"), F.col("track_idx").alias("column"), F.col("affinity").alias("value")
    )
    settings = context.settings.als.model_copy(update={"iterations": ROUNDS, "tolerance": 0.0})
    killed: list[psutil.Process] = []

    def kill(number: int, loss: float, seconds: float) -> None:
        if number == 2:
            victim = executors(workers[0])[0]
            killed.append(victim)
            Timer(seconds / 2, victim.kill).start()

    found = []
    with blocks.scratch(context, "death") as folder:
        ratings = blocks.pack(entries, "user_track", shape, 4, folder, positive=True)
        for on_round in (lambda *_: None, kill):
            fit = als.train(spark, ratings, settings, 1, on_round)
            found.append([np.array(fit.items()), *(np.array(fit.users(block)) for block in ratings.blocks)])
    same = all(np.array_equal(one, two) for one, two in zip(*found, strict=True))
    _, alive = psutil.wait_procs(killed, timeout=30)
    return {"killed": len(killed), "gone": not alive, "same": same, "rounds": len(fit.losses)}


def svd_with_a_death(context: Context, workers: list[psutil.Process]) -> dict[str, object]:
    """The same for the SVD, with so many power iterations that the death falls among them."""
    lake, week = context.lake, context.week.name
    n = lake.rows("catalog", week=week)
    settings = context.settings.svd.model_copy(update={"power_iterations": POWERS})
    killed: list[psutil.Process] = []

    def kill() -> None:
        killed.append(executors(workers[1])[0])
        killed[0].kill()

    found, seconds = [], 0.0
    with blocks.scratch(context, "death") as folder:
        pairs = svd.symmetric(lake.spark(context.spark, "track_pairs", week=week))
        matrix = blocks.pack(pairs, "track_pairs", (n, n), 4, folder, spread=True)
        for deadly in (False, True):
            death = Timer(seconds / 2, kill)
            if deadly:
                death.start()
            began = time.monotonic()
            factors = svd.factorise(context.spark, matrix, matrix, settings, 1)
            seconds = time.monotonic() - began
            found.append([factors.u(), factors.values])
            assert not death.is_alive(), "the SVD was over before the executor died"
    same = all(np.array_equal(one, two) for one, two in zip(*found, strict=True))
    _, alive = psutil.wait_procs(killed, timeout=30)
    return {"svd_killed": len(killed), "svd_gone": not alive, "svd_same": same}


def main(logs: Path) -> None:
    """Run it; the last line of stdout is what the test reads."""
    with standalone(logs, 2) as (master, workers):
        os.environ["OVERTURE__SPARK__MASTER"] = master
        os.environ["SPARK_LOCAL_IP"] = HOST
        os.environ["PYSPARK_PYTHON"] = sys.executable
        settings = load(TINY)
        settings.spark.extra["spark.executor.extraJavaOptions"] = SHORT_LIVED
        context = Context(settings, Week.parse(settings.week))
        spark = context.spark
        until = time.monotonic() + 60
        status = spark.sparkContext._jsc.sc().getExecutorMemoryStatus  # one entry is the driver's
        while status().size() < 3 and time.monotonic() < until:
            time.sleep(0.2)
        n_executors = status().size() - 1
        spark_stage(context)
        death = with_a_death(context, workers) | svd_with_a_death(context, workers)
        spark.stop()
        print(json.dumps({"executors": n_executors, **death}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
