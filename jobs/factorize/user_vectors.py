"""The user_vectors table of a space, computed by Spark's executors from the block files of a factorisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from blockfactor.csr_blocks import Block, BlockMatrix
from blockfactor.worker_pool import limit_blas_threads
from jobs.platform.list_columns import to_list_column
from models.arrays import FloatMatrix

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROWS_PER_BATCH = 4096
SCHEMA = "user_idx int, vector array<float>"


def user_vectors(spark: SparkSession, matrix: BlockMatrix, vectors_of: Callable[[Block], FloatMatrix]) -> DataFrame:
    """Return (user_idx, vector) for every row of a matrix whose rows are users.

    Args:
        spark: The session; one task per block.
        matrix: Users by tracks, not permuted, so that a row's position is the user_idx.
        vectors_of: Returns the vectors (rows, d) of a block; called on the executors.
    """
    blocks = {block.index: block for block in matrix.blocks}

    def read_blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        limit_blas_threads()
        for batch in batches:
            for index in batch.column("id").to_pylist():
                block = blocks[index]
                vectors = vectors_of(block)
                for first in range(0, len(vectors), ROWS_PER_BATCH):
                    part = vectors[first : first + ROWS_PER_BATCH]
                    start = block.start + first
                    user_idx = pa.array(np.arange(start, start + len(part), dtype=np.int32))
                    yield pa.RecordBatch.from_arrays([user_idx, to_list_column(part)], ["user_idx", "vector"])

    n = len(matrix.blocks)
    return spark.range(0, n, 1, n).mapInArrow(read_blocks, SCHEMA)
