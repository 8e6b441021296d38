"""TT-SVD: the joint space by randomised SVD of the track-track PMI matrix, on any Spark cluster.

Input   track_pairs, user_track, warm_users, catalog
Output  track_vectors, user_vectors, partition week=<week>, space=tt_svd
Grain   one row a track_idx; one row a user_idx

The matrix is packed once into blocks of rows (`blocks.py`), and one Spark job holds the workers (`crew.py`). For a
product each reads the dense factor (N, d + oversampling) from a shared memory-mapped file and writes its rows of the
next. QR follows every product: each block's own, then one of the stacked (L, L) factors on the driver, then the blocks
are turned. Only such small factors pass through the driver. Results are float32 sums inside one row, so the number of
blocks changes them only through QR: sigma by less than 1e-5 of itself.

Tracks are rows of U S^exponent at unit length. A track without any pair has a zero vector: cosines with it are 0 and
means ignore its direction. A warm user is the normalised mean of the distinct tracks streamed in the window; one
whose tracks all have zero vectors has a zero vector too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from jobs.errors import BadArgument, CheckFailed
from jobs.factorize import blocks
from jobs.factorize.als import user_rows
from jobs.factorize.blocks import Block, Matrix
from jobs.factorize.crew import Crew, crew
from jobs.lake import list_column
from models import svd

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.context import Context
    from jobs.settings import SvdSettings

SPACE = "tt_svd"


@dataclass(frozen=True)
class Factors:
    """A = U diag(values) V'; U and V are files (rows, d) float32 with their signs settled on reading.

    residual: largest |A v - sigma u| / sigma_1 over the triplets; unexplained: share of |A|^2 beyond them.
    """

    left: str
    right: str
    values: np.ndarray
    sign: np.ndarray
    residual: float
    unexplained: float

    def u(self) -> np.ndarray:
        """Left singular vectors (M, d)."""
        return blocks.load(self.left) * self.sign.astype(np.float32)

    def v(self) -> np.ndarray:
        """Right singular vectors (N, d)."""
        return blocks.load(self.right) * self.sign.astype(np.float32)


def factorise(spark: SparkSession, matrix: Matrix, transposed: Matrix, settings: SvdSettings, seed: int) -> Factors:
    """Truncated SVD of a packed matrix; a symmetric one is its own `transposed`.

    Raises:
        BadArgument: d is larger than the matrix, or the two are not each other's transpose in shape.
    """
    m, n = matrix.n_rows, matrix.n_columns
    if (transposed.n_rows, transposed.n_columns) != (n, m):
        raise BadArgument(f"svd: the transpose of {m} x {n} is {transposed.n_rows} x {transposed.n_columns}")
    if settings.d > min(m, n):
        raise BadArgument(f"svd.d: rank {settings.d} of a matrix of {m} x {n}; allowed are 1 to {min(m, n)}")
    width = min(settings.d + settings.oversampling, m, n)
    folder = matrix.folder
    dense = f"{folder}/omega.npy"
    blocks.save(dense, svd.start(n, width, seed))
    left, right = f"{folder}/left", f"{folder}/right"
    with crew(spark, max(len(matrix.blocks), len(transposed.blocks))) as workers:
        dense, _ = _product(workers, matrix, dense, f"{left}-0")
        for power in range(1, settings.power_iterations + 1):
            dense, _ = _product(workers, transposed, dense, f"{right}-{power}")
            dense, _ = _product(workers, matrix, dense, f"{left}-{power}")
        other, r = _product(workers, transposed, dense, f"{right}-last", keep=True)
        small = svd.small_svd(r, settings.d)
        u, peaks = _turn(workers, matrix, dense, [small.left] * len(matrix.blocks), f"{folder}/u.npy")
        v, _ = _turn(workers, transposed, other, [small.right] * len(transposed.blocks), f"{folder}/v.npy")
        errors = workers.each(partial(_residual, matrix, u, v, small.values), matrix.blocks)
    first = max(float(small.values[0]), float(np.finfo(np.float32).tiny))
    residual = float(np.sqrt(np.sum(errors, axis=0)).max()) / first
    unexplained = max(0.0, 1.0 - float((small.values**2).sum()) / matrix.squares) if matrix.squares else 0.0
    return Factors(u, v, small.values, svd.signs(peaks), residual, unexplained)


def _product(workers: Crew, matrix: Matrix, dense: str, name: str, *, keep: bool = False) -> tuple[str, np.ndarray]:
    """qr(matrix @ dense): the file of Q and the small R; `dense` is not needed again unless `keep`."""
    width = blocks.load(dense).shape[1]
    raw = blocks.make_rows(f"{name}-raw.npy", matrix.n_rows, width)
    small = workers.each(partial(_multiply, matrix, dense, raw), matrix.blocks)
    turns, r = svd.stack_qr(small)
    done, _ = _turn(workers, matrix, raw, turns, f"{name}.npy")
    Path(raw).unlink()
    if not keep:
        Path(dense).unlink()
    return done, r


def _turn(
    workers: Crew, matrix: Matrix, source: str, turns: list[np.ndarray], target: str
) -> tuple[str, list[np.ndarray]]:
    """Multiply the rows of each block by the block's small matrix; also the peaks of the new columns."""
    blocks.make_rows(target, matrix.n_rows, turns[0].shape[1])
    tasks = list(zip(matrix.blocks, turns, strict=True))
    return target, workers.each(partial(_turn_block, source, target), tasks)


# -- calls ---------------------------------------------------------------------------------------------------------


def _multiply(matrix: Matrix, dense: str, target: str, block: Block) -> np.ndarray:
    x = blocks.load(dense)
    out = np.zeros((block.stop - block.start, x.shape[1]), np.float32)
    svd.multiply(*matrix.csr(block), x, out)
    q, r = svd.thin_qr(out)
    out[:, : q.shape[1]] = q
    out[:, q.shape[1] :] = 0
    blocks.write_rows(target, block.start, out)
    return r


def _turn_block(source: str, target: str, task: tuple[Block, np.ndarray]) -> np.ndarray:
    block, turn = task
    rows = blocks.load(source)[block.start : block.stop, : len(turn)]
    turned = rows @ turn.astype(np.float32)
    blocks.write_rows(target, block.start, turned)
    return svd.peaks(turned)


def _residual(matrix: Matrix, left: str, right: str, values: np.ndarray, block: Block) -> np.ndarray:
    """Sum of squares of A v - sigma u over the block's rows (d,)."""
    v, u = blocks.load(right), blocks.load(left)[block.start : block.stop]
    out = np.zeros(u.shape, np.float32)
    svd.multiply(*matrix.csr(block), v, out)
    error = out - u * values.astype(np.float32)
    total: np.ndarray = np.einsum("nd,nd->d", error, error, dtype=np.float64)
    return total


def _mean_of_tracks(heard: Matrix, vectors: str, block: Block) -> np.ndarray:
    offsets, columns, _ = heard.csr(block)
    return svd.mean_rows(offsets, columns, blocks.load(vectors))


# -- the job -------------------------------------------------------------------------------------------------------


def symmetric(pairs: DataFrame) -> DataFrame:
    """Both directions of each pair i < j as (row, column, value)."""
    i, j, value = F.col("track_idx_i"), F.col("track_idx_j"), F.col("pmi").alias("value")
    forth = pairs.select(i.alias("row"), j.alias("column"), value)
    return forth.unionByName(pairs.select(j.alias("row"), i.alias("column"), value))


def run(context: Context) -> dict[str, object]:
    """Learn the space and write both tables."""
    lake, week, settings, spark = context.lake, context.week.name, context.settings, context.spark
    n_tracks, n_users = lake.rows("catalog", week=week), lake.rows("warm_users", week=week)
    parts = settings.spark.partitions
    with blocks.scratch(context, SPACE) as folder:
        pairs = lake.spark(spark, "track_pairs", week=week)
        matrix = blocks.pack(symmetric(pairs), "track_pairs", (n_tracks, n_tracks), parts, folder)
        if not matrix.n_entries:
            raise CheckFailed(f"track_pairs: week={week} has no row; run `overture matrix track-pairs` first")
        blocks.say(f"svd  {n_tracks} x {n_tracks}, {matrix.n_entries} entries, rank {settings.svd.d}")
        factors = factorise(spark, matrix, matrix, settings.svd, context.seed("svd"))
        vectors = svd.embed(factors.u(), factors.values, settings.svd.exponent)
        empty = np.flatnonzero(~_paired(matrix))
        vectors[empty] = 0
        blocks.say(
            f"svd  sigma {factors.values[0]:.4g} to {factors.values[-1]:.4g}, residual {factors.residual:.1e}, "
            f"{factors.unexplained:.0%} of the matrix is beyond the rank, {len(empty)} tracks without a pair"
        )
        report = {
            "rows_in": matrix.n_entries,
            "tracks_without_a_pair": len(empty),
            "sigma": factors.values.tolist(),
            "residual": factors.residual,
            "unexplained": factors.unexplained,
            "settings": settings.svd.model_dump(),
            "seed": context.seed("svd"),
            "commit": context.commit,
        }
        tracks = pa.table({"track_idx": np.arange(n_tracks, dtype=np.int32), "vector": list_column(vectors)})
        track_vectors = lake.write("track_vectors", tracks, report=report, week=week, space=SPACE)
        shared = f"{folder}/vectors.npy"
        blocks.save(shared, vectors)
        streamed = lake.spark(spark, "user_track", week=week).where(F.col("n_streams") > 0)
        entries = streamed.select(
            F.col("user_idx").alias("row"), F.col("track_idx").alias("column"), F.lit(1.0).cast("float").alias("value")
        )
        heard = blocks.pack(entries, "user_track", (n_users, n_tracks), parts, folder)
        users = user_rows(spark, heard, partial(_mean_of_tracks, heard, shared))
        user_vectors = lake.write("user_vectors", users, report=report, week=week, space=SPACE)
    return {
        "rows": {"track_vectors": track_vectors.rows, "user_vectors": user_vectors.rows},
        "paths": {"track_vectors": track_vectors.path, "user_vectors": user_vectors.path},
        "sigma": factors.values.tolist(),
        "residual": factors.residual,
        "unexplained": factors.unexplained,
        "tracks_without_a_pair": len(empty),
    }


def _paired(matrix: Matrix) -> np.ndarray:
    """Which rows have an entry (M,)."""
    return np.concatenate([np.diff(matrix.csr(block)[0]) > 0 for block in matrix.blocks])
