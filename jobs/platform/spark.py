"""Spark sessions, made from settings alone: local[*], a standalone cluster, YARN or Kubernetes.

`python -m jobs.platform.spark`, a part of the set-up, stores the Java classes that a short job loads in one archive
(class data sharing) beside the Python environment. A session on one machine maps the archive instead of reading
thousands of class files, which saves a good part of a short job's time. Another Java version ignores the archive.
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


CLASS_ARCHIVE = Path(sys.prefix) / "spark.jsa"
NO_CDS_LOG = "-Xlog:cds=off -Xlog:cds+dynamic=off"


def _quoted(path: Path) -> str:
    """Return a path as one word of Java options, which Spark splits as a shell does."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# On one machine, listing the folders of days in a Spark job takes longer than listing them in the driver.
LOCAL_OPTIONS = {
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC",
    "spark.driver.defaultJavaOptions": f"-XX:SharedArchiveFile={_quoted(CLASS_ARCHIVE)} -Xshare:auto {NO_CDS_LOG}",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "10000",
}


def session(settings: SparkSettings, name: str) -> SparkSession:
    """Start the Spark session, or return the session of this process.

    Args:
        settings: Section `spark` of the settings.
        name: Name of the session in Spark's pages and logs, such as the week.

    Raises:
        OvertureError: There is no Java.
    """
    java = os.environ.get("JAVA_HOME")
    if not (java and os.path.exists(f"{java}/bin/java")) and shutil.which("java") is None:
        raise OvertureError("no Java: Spark needs Java 17 or newer; install it or set JAVA_HOME, then run again")
    if os.environ.get("LC_ALL") in ("C", "POSIX"):
        os.environ["LC_ALL"] = "C.UTF-8"  # else Java cannot open files whose names have accents
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if settings.master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    from pyspark.sql import SparkSession

    local_dir = home() / "spark"
    local_dir.mkdir(parents=True, exist_ok=True)
    builder = SparkSession.builder.master(settings.master).appName(f"overture {name}")
    options = {
        "spark.driver.memory": settings.driver_memory,
        "spark.executor.memory": settings.executor_memory,
        "spark.sql.shuffle.partitions": str(settings.partitions),
        "spark.default.parallelism": str(settings.partitions),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.warehouse.dir": str(local_dir / "warehouse"),
        "spark.local.dir": str(local_dir),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.executorEnv.NUMBA_NUM_THREADS": "1",
        **(LOCAL_OPTIONS if settings.master.startswith("local") else {}),
        **settings.extra,
    }
    for key, value in options.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def archive_classes() -> None:
    """Run a small job that uses the usual operations, and let Java archive the classes that it loads."""
    from tempfile import TemporaryDirectory

    CLASS_ARCHIVE.unlink(missing_ok=True)
    options = {"spark.driver.defaultJavaOptions": f"-XX:ArchiveClassesAtExit={_quoted(CLASS_ARCHIVE)} {NO_CDS_LOG}"}
    with TemporaryDirectory() as folder:
        os.environ["OVERTURE_HOME"] = folder
        spark = session(SparkSettings(partitions=2, extra=options), "classes")
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
    size = f"{CLASS_ARCHIVE.stat().st_size >> 20} MiB" if CLASS_ARCHIVE.is_file() else "not made; Spark starts slower"
    sys.stderr.write(f"set-up: archive of Spark's classes: {size}\n")


if __name__ == "__main__":
    archive_classes()
