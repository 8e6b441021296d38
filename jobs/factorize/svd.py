"""TT-SVD: the joint space by randomised SVD of the track-track PMI matrix, on any Spark cluster.

Input   track_pairs, user_track, warm_users, catalog
Output  track_vectors, user_vectors, partition week=<week>, space=tt_svd
Grain   one row a track_idx; one row a user_idx

The matrix is packed once into blocks of rows (`blocks.py`), and one Spark job holds the workers (`crew.py`). For a
product each reads the dense factor (N, d + oversampling) from a shared memory-mapped file and writes its rows of the
next. QR follows every product: each block's own, then one of the stacked (L, L) factors on the driver, then the blocks
are turned. Only factors of that size pass through the driver. Results are float32 sums inside one row, so the number of
blocks changes them only through QR: sigma by less than 1e-5 of itself.

Tracks are rows of U S^exponent at unit length. A track without any pair has a zero vector: cosines with it are 0 and
means ignore its direction. A warm user is the normalised mean of the distinct tracks streamed in the window; one
whose tracks all have zero vectors has a zero vector too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from blockfactor import csr_blocks, svd_kernels
from blockfactor.als_kernels import gram
from blockfactor.csr_blocks import Block, Matrix
from blockfactor.worker_pool import Crew, crew
from contracts.errors import BadArgument, CheckFailed
from jobs.factorize.als import user_rows
from jobs.platform.list_columns import to_list_column
from jobs.platform.progress import log_line
from jobs.platform.temp_dirs import temp_dir

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.platform.context import Context
    from jobs.settings.matrix import SvdSettings

SPACE = "tt_svd"


@dataclass(frozen=True)
class Factors:
    """A = U diag(values) V'; U and V are files (rows, d) float32; signs and the order of rows are settled on reading.

    residual: largest |A v - sigma u| / sigma_1 over the triplets; unexplained: share of |A|^2 beyond them.
    """

    left: str
    right: str
    values: np.ndarray
    sign: np.ndarray
    residual: float
    unexplained: float
    places: tuple[np.ndarray, np.ndarray]

    def u(self) -> np.ndarray:
        """Left singular vectors (M, d)."""
        return _settled(self.left, self.places[0], self.sign)

    def v(self) -> np.ndarray:
        """Right singular vectors (N, d)."""
        return _settled(self.right, self.places[1], self.sign)


def _settled(file: str, places: np.ndarray, sign: np.ndarray) -> np.ndarray:
    rows: np.ndarray = csr_blocks.load(file)[places] * sign.astype(np.float32)
    return rows


def factorise(spark: SparkSession, matrix: Matrix, transposed: Matrix, settings: SvdSettings, seed: int) -> Factors:
    """Truncated SVD of a packed matrix; a symmetric one is its own `transposed`.

    Raises:
        BadArgument: d is larger than the matrix, or the two are not each other's transpose in shape and packing.
    """
    m, n = matrix.n_rows, matrix.n_columns
    if (transposed.n_rows, transposed.n_columns) != (n, m) or transposed.strides != matrix.strides[::-1]:
        raise BadArgument(
            f"svd: the transpose of {m} x {n} is {transposed.n_rows} x {transposed.n_columns}, "
            f"spread by {matrix.strides} and {transposed.strides}"
        )
    if settings.d > min(m, n):
        raise BadArgument(f"svd.d: rank {settings.d} of a matrix of {m} x {n}; allowed are 1 to {min(m, n)}")
    width = min(settings.d + settings.oversampling, m, n)
    folder = matrix.folder
    with crew(spark, max(len(matrix.blocks), len(transposed.blocks))) as workers:
        lefts, rights, corners = _powers(workers, matrix, transposed, svd_kernels.start(n, width, seed), settings)
        left_gram = np.sum(workers.each(partial(_gram, lefts), matrix.blocks), axis=0)
        right_gram = np.sum(workers.each(partial(_gram, rights), transposed.blocks), axis=0)
        turns, mixed = (np.split(x, len(lefts)) for x in svd_kernels.leading(left_gram, right_gram, corners, width))
        right, r = _orthogonal(workers, transposed, partial(_add, rights, mixed), width, f"{folder}/right")
        small = svd_kernels.small_svd(r, settings.d)
        u, v = (csr_blocks.make_rows(f"{folder}/{name}.npy", size, settings.d) for name, size in (("u", m), ("v", n)))
        write = partial(_write_sum, u, lefts, [turn @ small.left for turn in turns])
        peaks = workers.each(write, matrix.blocks)
        workers.each(partial(_write_sum, v, [right], [small.right]), transposed.blocks)
        errors = workers.each(partial(_residual, matrix, u, v, small.values), matrix.blocks)
    first = max(float(small.values[0]), float(np.finfo(np.float32).tiny))
    residual = float(np.sqrt(np.sum(errors, axis=0)).max()) / first
    unexplained = max(0.0, 1.0 - float((small.values**2).sum()) / matrix.squares) if matrix.squares else 0.0
    places = matrix.row_places(), transposed.row_places()
    return Factors(u, v, small.values, svd_kernels.signs(peaks), residual, unexplained, places)


def _powers(
    workers: Crew, matrix: Matrix, transposed: Matrix, omega: np.ndarray, settings: SvdSettings
) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Q_j, Z_j (files) and C_j of the last two power iterations; `blockfactor/svd_kernels.py` says which is which."""
    width = omega.shape[1]
    dense = f"{matrix.folder}/omega.npy"
    csr_blocks.save(dense, omega)
    lefts, rights, corners = [], [], []
    for power in range(settings.power_iterations + 1):
        name = f"{matrix.folder}/{{}}-{power}"
        dense, _ = _orthogonal(workers, matrix, partial(_multiply, matrix, dense), width, name.format("left"))
        lefts.append(dense)
        dense, corner = _orthogonal(
            workers, transposed, partial(_multiply, transposed, dense), width, name.format("right")
        )
        rights.append(dense)
        corners.append(corner)
        for old in (*lefts[-3:-2], *rights[-3:-2]):
            Path(old).unlink()
    return lefts[-2:], rights[-2:], corners[-2:]


def _orthogonal(
    workers: Crew, matrix: Matrix, rows: Callable[[Block], np.ndarray], width: int, name: str
) -> tuple[str, np.ndarray]:
    """QR of what `rows` gives for each block of the matrix's rows: the file of Q (rows, K), and R (K, width)."""
    raw = csr_blocks.make_rows(f"{name}-raw.npy", matrix.n_rows, width)
    turns, r = svd_kernels.stack_qr(workers.each(partial(_block_qr, rows, raw), matrix.blocks))
    done = csr_blocks.make_rows(f"{name}.npy", matrix.n_rows, len(r))
    workers.each(partial(_turn, raw, done), list(zip(matrix.blocks, turns, strict=True)))
    Path(raw).unlink()
    return done, r


# -- calls -----------------------------------------------------------------------------------------------------------


def _multiply(matrix: Matrix, dense: str, block: Block) -> np.ndarray:
    """A block of rows of matrix @ dense."""
    x = csr_blocks.load(dense)
    out = np.zeros((block.stop - block.start, x.shape[1]), np.float32)
    svd_kernels.multiply(*matrix.csr(block), x, out)
    return out


def _add(sources: list[str], turns: list[np.ndarray], block: Block) -> np.ndarray:
    """A block of rows of the sum of source @ turn."""
    parts = (
        csr_blocks.load(source)[block.start : block.stop] @ turn.astype(np.float32)
        for source, turn in zip(sources, turns, strict=True)
    )
    total: np.ndarray = reduce(np.add, parts)
    return total


def _block_qr(rows: Callable[[Block], np.ndarray], target: str, block: Block) -> np.ndarray:
    """R of a block's own QR; its Q goes into the file, with zeros where the block has fewer rows than columns."""
    x = rows(block)
    q, r = svd_kernels.thin_qr(x)
    x[:, : q.shape[1]] = q
    x[:, q.shape[1] :] = 0
    csr_blocks.write_rows(target, block.start, x)
    return r


def _turn(source: str, target: str, task: tuple[Block, np.ndarray]) -> None:
    block, turn = task
    rows = csr_blocks.load(source)[block.start : block.stop, : len(turn)]
    csr_blocks.write_rows(target, block.start, rows @ turn.astype(np.float32))


def _write_sum(target: str, sources: list[str], turns: list[np.ndarray], block: Block) -> np.ndarray:
    """Peaks of the columns of a block of rows of the sum of source @ turn, which goes into the file."""
    rows = _add(sources, turns, block)
    csr_blocks.write_rows(target, block.start, rows)
    return svd_kernels.peaks(rows)


def _gram(sources: list[str], block: Block) -> np.ndarray:
    """A block's part of the Gram matrix of all columns of the sources."""
    return gram(np.hstack([csr_blocks.load(source)[block.start : block.stop] for source in sources]))


def _residual(matrix: Matrix, left: str, right: str, values: np.ndarray, block: Block) -> np.ndarray:
    """Sum of squares of A v - sigma u over the block's rows (d,)."""
    v, u = csr_blocks.load(right), csr_blocks.load(left)[block.start : block.stop]
    out = np.zeros(u.shape, np.float32)
    svd_kernels.multiply(*matrix.csr(block), v, out)
    error = out - u * values.astype(np.float32)
    total: np.ndarray = np.einsum("nd,nd->d", error, error, dtype=np.float64)
    return total


def _mean_of_tracks(heard: Matrix, vectors: str, block: Block) -> np.ndarray:
    offsets, columns, _ = heard.csr(block)
    return svd_kernels.mean_rows(offsets, columns, csr_blocks.load(vectors))


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
    with temp_dir(context, f"{SPACE}-{context.week.name}") as folder:
        pairs = lake.spark(spark, "track_pairs", week=week)
        matrix = csr_blocks.pack(symmetric(pairs), "track_pairs", (n_tracks, n_tracks), parts, folder, spread=True)
        if not matrix.n_entries:
            raise CheckFailed(f"track_pairs: week={week} has no row; run `overture matrix track-pairs` first")
        log_line(f"svd  {n_tracks} x {n_tracks}, {matrix.n_entries} entries, rank {settings.svd.d}")
        factors = factorise(spark, matrix, matrix, settings.svd, context.seed("svd"))
        vectors = svd_kernels.embed(factors.u(), factors.values, settings.svd.exponent)
        empty = np.flatnonzero(~_paired(matrix))
        vectors[empty] = 0
        log_line(
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
        tracks = pa.table({"track_idx": np.arange(n_tracks, dtype=np.int32), "vector": to_list_column(vectors)})
        track_vectors = lake.write("track_vectors", tracks, report=report, week=week, space=SPACE)
        shared = f"{folder}/vectors.npy"
        csr_blocks.save(shared, vectors)
        streamed = lake.spark(spark, "user_track", week=week).where(F.col("n_streams") > 0)
        entries = streamed.select(
            F.col("user_idx").alias("row"), F.col("track_idx").alias("column"), F.lit(1.0).cast("float").alias("value")
        )
        heard = csr_blocks.pack(entries, "user_track", (n_users, n_tracks), parts, folder)
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
    some: np.ndarray = np.concatenate([np.diff(matrix.csr(block)[0]) > 0 for block in matrix.blocks])
    paired: np.ndarray = some[matrix.row_places()]
    return paired
