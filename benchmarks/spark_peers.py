"""Spark sessions and data for the benchmarks: every Spark peer gets the same cores and memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from jobs.platform.spark import session
from jobs.settings.platform import SparkSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CORES = 2


@contextmanager
def local(partitions: int = CORES, memory: str = "8g") -> Iterator[SparkSession]:
    """Run a local Spark session during the `with` block, with Java's default compiler settings for all peers."""
    extra = {"spark.driver.extraJavaOptions": "-XX:+UseParallelGC", "spark.driver.maxResultSize": "0"}
    settings = SparkSettings(master=f"local[{CORES}]", driver_memory=memory, partitions=partitions, extra=extra)
    spark = session(settings, "benchmark")
    try:
        yield spark
    finally:
        spark.stop()


def entries(spark: SparkSession, matrix: sp.spmatrix, folder: str) -> DataFrame:
    """Return the entries of a sparse matrix as a DataFrame (row int, column int, value float), through Parquet."""
    coo = matrix.tocoo()
    columns = {"row": coo.row.astype(np.int32), "column": coo.col.astype(np.int32), "value": coo.data}
    file = f"{folder}/entries.parquet"
    pq.write_table(pa.table(columns), file, row_group_size=1 + len(coo.data) // CORES)
    return spark.read.parquet(file)


@contextmanager
def scratch() -> Iterator[Path]:
    """Provide a temporary folder during the `with` block."""
    with TemporaryDirectory() as folder:
        yield Path(folder)
