"""A Spark session from settings alone: local[*], a standalone cluster, YARN or Kubernetes.

`python -m jobs.platform.spark` (part of set-up) keeps the classes that a short job loads in one archive beside the Python
environment. A session on one machine maps it instead of reading thousands of class files, which is a good part of a
short job. Another Java ignores the archive and runs as before.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import OvertureError
from jobs.settings.platform import SparkSettings
from jobs.settings.settings import home

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


CLASSES = Path(sys.prefix) / "spark.jsa"
QUIET = "-Xlog:cds=off -Xlog:cds+dynamic=off"

# One machine: days are folders on a disk, listing them as a Spark job costs more than it saves.
LOCAL = {
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC",
    "spark.driver.defaultJavaOptions": f"-XX:SharedArchiveFile={CLASSES} -Xshare:auto {QUIET}",
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


def archive_classes() -> None:
    """Run a little of everything once and let Java keep the classes it loaded."""
    from tempfile import TemporaryDirectory

    CLASSES.unlink(missing_ok=True)
    keep = {"spark.driver.defaultJavaOptions": f"-XX:ArchiveClassesAtExit={CLASSES} {QUIET}"}
    with TemporaryDirectory() as folder:
        os.environ["OVERTURE_HOME"] = folder
        spark = session(SparkSettings(partitions=2, extra=keep), "classes")
        from pyspark.sql import functions as F

        frame = spark.range(1000).select("id", (F.col("id") % 7).alias("k"), F.array("id").alias("ids"))
        frame.write.parquet(f"{folder}/t")
        read = spark.read.schema(frame.schema).parquet(f"{folder}/t")
        seven = F.broadcast(spark.range(7).withColumnRenamed("id", "k"))
        grouped = read.join(seven, "k").groupBy("k").agg(F.count("id"), F.sort_array(F.collect_list("id")))
        grouped.mapInArrow(lambda batches: batches, grouped.schema).toArrow()
        read.join(read.where("id > 5").select("id"), "id", "left_semi").distinct().orderBy("k").persist().count()
        jvm = spark.sparkContext._gateway.proc  # type: ignore[union-attr]
        spark.stop()
        jvm.stdin.close()
        jvm.wait(timeout=120)
    said = f"{CLASSES.stat().st_size >> 20} MiB" if CLASSES.is_file() else "not made: Spark starts slower, nothing else"
    sys.stderr.write(f"set-up: Spark's classes in one archive: {said}\n")


if __name__ == "__main__":
    archive_classes()
