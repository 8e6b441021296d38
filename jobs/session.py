"""A Spark session from settings alone: local[*], a standalone cluster, YARN or Kubernetes."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from jobs.errors import OvertureError
from jobs.settings import SparkSettings, home

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


# One machine: days are folders on a disk, listing them as a Spark job costs more than it saves.
LOCAL = {
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "10000",
}


def session(settings: SparkSettings, name: str) -> SparkSession:
    """Start (or join) the session; a machine without Java is told so in one line."""
    java = os.environ.get("JAVA_HOME")
    if not (java and os.path.exists(f"{java}/bin/java")) and shutil.which("java") is None:
        raise OvertureError("Java is away: Spark needs Java 17 or newer; install it or set JAVA_HOME, then run again")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if settings.master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    from pyspark.sql import SparkSession

    scratch = home() / "spark"
    scratch.mkdir(parents=True, exist_ok=True)
    builder = SparkSession.builder.master(settings.master).appName(f"overture {name}")
    options = {
        "spark.driver.memory": settings.driver_memory,
        "spark.executor.memory": settings.executor_memory,
        "spark.sql.shuffle.partitions": str(settings.partitions),
        "spark.default.parallelism": str(settings.partitions),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.local.dir": str(scratch),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.executorEnv.NUMBA_NUM_THREADS": "1",
        **(LOCAL if settings.master.startswith("local") else {}),
        **settings.extra,
    }
    for key, value in options.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark
