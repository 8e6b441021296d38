"""Run the Spark stage of the tiny week on a cluster, then factorisations during which an executor is killed.

Run as a module from the root of the repository: `python -m tests.helpers.on_a_cluster LOGS`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pyspark.sql import functions as F

from benchmarks.cluster import HOST, SHORT_LIVED, executors, standalone
from blockfactor import csr_blocks
from blockfactor.als import train
from blockfactor.svd import factorise as factorise_blocks
from blockfactor.worker_pool import WorkerPool
from jobs.factorize import als, svd
from jobs.platform.context import Context
from jobs.platform.temp_dirs import temp_dir
from jobs.platform.week import Week
from jobs.settings.settings import load
from tests.helpers.one_week import TINY, spark_stage

FATAL_CALL = 20  # the executor is killed at this `WorkerPool.map` of the factorisation


@contextmanager
def killed_executor(worker: psutil.Process) -> Iterator[list[psutil.Process]]:
    """Kill the worker's executor right before a call is sent, which does not depend on the speed of the machine."""
    killed: list[psutil.Process] = []
    calls = count(1)

    def map_until_kill(self: WorkerPool, *arguments: Any) -> list[Any]:
        if next(calls) == FATAL_CALL:
            killed.extend(executors(worker)[:1])
            killed[0].kill()
        return original_map(self, *arguments)

    original_map, WorkerPool.map = WorkerPool.map, map_until_kill  # type: ignore[method-assign]
    try:
        yield killed
    finally:
        WorkerPool.map = original_map  # type: ignore[method-assign]


def factorise_twice(worker: psutil.Process, factorise: Callable[[], list[np.ndarray]]) -> dict[str, object]:
    """Factorise without and with the loss of an executor and compare the factors bit by bit."""
    expected = factorise()
    with killed_executor(worker) as killed:
        factors = factorise()
    _, alive = psutil.wait_procs(killed, timeout=30)
    same = all(np.array_equal(left, right) for left, right in zip(expected, factors, strict=True))
    return {"killed": len(killed), "gone": not alive, "same": same}


def als_with_executor_loss(context: Context, worker: psutil.Process) -> dict[str, object]:
    """Kill an executor during the iterations of ALS."""
    spark, week = context.spark, context.week.name
    shape = (context.lake.rows("warm_users", week=week), context.lake.rows("catalog", week=week))
    entries = context.lake.spark(spark, "user_track", week=week).select(
        F.col("user_idx").alias("row"), F.col("track_idx").alias("column"), F.col("affinity").alias("value")
    )
    settings = context.settings.als.model_copy(update={"iterations": 8, "tolerance": 0.0})
    with temp_dir(context, "executor_loss") as folder:
        ratings = csr_blocks.pack(entries, "user_track", shape, 4, folder, positive=True)

        def factors() -> list[np.ndarray]:
            result = train(spark, ratings, als.als_parameters(settings), 1)
            return [
                np.array(result.item_factors()),
                *(np.array(result.user_factors(block)) for block in ratings.blocks),
            ]

        return factorise_twice(worker, factors)


def svd_with_executor_loss(context: Context, worker: psutil.Process) -> dict[str, object]:
    """Kill an executor during the power iterations of the SVD."""
    lake, week = context.lake, context.week.name
    n = lake.rows("catalog", week=week)
    settings = context.settings.svd.model_copy(update={"power_iterations": 8})
    with temp_dir(context, "executor_loss") as folder:
        pairs = svd.symmetric_entries(lake.spark(context.spark, "track_pairs", week=week))
        matrix = csr_blocks.pack(pairs, "track_pairs", (n, n), 4, folder, permute=True)

        def factors() -> list[np.ndarray]:
            result = factorise_blocks(context.spark, matrix, matrix, svd.svd_parameters(settings), 1)
            return [result.left(), result.values]

        return factorise_twice(worker, factors)


def main(logs: Path) -> None:
    """Print the results as JSON on the last line of stdout."""
    with standalone(logs, 2) as (master, workers):
        os.environ["OVERTURE__SPARK__MASTER"] = master
        os.environ["SPARK_LOCAL_IP"] = HOST
        os.environ["PYSPARK_PYTHON"] = sys.executable
        settings = load(TINY)
        settings.spark.extra["spark.executor.extraJavaOptions"] = SHORT_LIVED
        context = Context(settings, Week.parse(settings.week))
        spark = context.spark
        deadline = time.monotonic() + 60
        status = spark.sparkContext._jsc.sc().getExecutorMemoryStatus  # one entry is the driver's
        while status().size() < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
        n_executors = status().size() - 1
        spark_stage(context)
        losses = {
            "als": als_with_executor_loss(context, workers[0]),
            "svd": svd_with_executor_loss(context, workers[1]),
        }
        spark.stop()
        print(json.dumps({"executors": n_executors, **losses}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
