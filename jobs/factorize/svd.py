"""TT-SVD, the joint space by randomised SVD of the track-track PMI matrix: the weekly job.

Input   track_pairs, user_track, warm_users, catalog
Output  track_vectors, user_vectors, partition week=<week>, space=tt_svd
Grain   one row per track_idx; one row per user_idx
Method  `blockfactor/svd.py`

Track vectors are the rows of U S^exponent scaled to unit length. A track without any pair has a zero vector: its
cosines are 0, and means of vectors ignore it. The vector of a warm user is the normalised mean of the distinct tracks
streamed in the window; it is zero if all these tracks have zero vectors. Vectors of new releases are estimated
(jobs/factorize/new_releases.py).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from blockfactor import csr_blocks, svd_kernels
from blockfactor.csr_blocks import Block, BlockMatrix
from blockfactor.svd import SvdParameters, factorise
from contracts.errors import CheckFailed
from jobs.factorize.library_errors import translate_library_errors
from jobs.factorize.new_releases import with_new_releases
from jobs.factorize.user_vectors import user_vectors
from jobs.platform.list_columns import to_list_column
from jobs.platform.progress import log_line
from jobs.platform.temp_dirs import temp_dir
from models.arrays import FloatMatrix

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.platform.context import Context
    from jobs.settings.matrix import SvdSettings

SPACE = "tt_svd"


def svd_parameters(settings: SvdSettings) -> SvdParameters:
    """Return the library's parameters from the settings section `svd`."""
    return SvdParameters(d=settings.d, oversampling=settings.oversampling, power_iterations=settings.power_iterations)


def symmetric_entries(pairs: DataFrame) -> DataFrame:
    """Return both directions of each pair i < j as (row, column, value)."""
    i, j, value = F.col("track_idx_i"), F.col("track_idx_j"), F.col("pmi").alias("value")
    upper = pairs.select(i.alias("row"), j.alias("column"), value)
    return upper.unionByName(pairs.select(j.alias("row"), i.alias("column"), value))


def _mean_track_vectors(streamed: BlockMatrix, vectors_file: str, block: Block) -> FloatMatrix:
    offsets, columns, _ = streamed.csr(block)
    return svd_kernels.mean_unit_rows(offsets, columns, csr_blocks.load_array(vectors_file))


def run(context: Context) -> dict[str, object]:
    """Compute the space and write track_vectors and user_vectors.

    Raises:
        BadArgument: svd.d is larger than the matrix.
        CheckFailed: The table track_pairs is empty, or track_pairs or user_track contains an invalid entry.
        OvertureError: Spark lost all workers.
    """
    lake, week, settings, spark = context.lake, context.week.name, context.settings, context.spark
    n_tracks, n_users = lake.rows("catalog", week=week), lake.rows("warm_users", week=week)
    n_blocks = settings.spark.partitions
    with temp_dir(context, f"{SPACE}-{context.week.name}") as folder:
        entries = symmetric_entries(lake.spark(spark, "track_pairs", week=week))
        with translate_library_errors("svd", "track_pairs"):
            matrix = csr_blocks.pack(entries, "track_pairs", (n_tracks, n_tracks), n_blocks, folder, permute=True)
            if not matrix.n_entries:
                raise CheckFailed(f"track_pairs: week={week} has no row; run `overture matrix track-pairs` first")
            log_line(f"svd  {n_tracks} x {n_tracks}, {matrix.n_entries} entries, rank {settings.svd.d}")
            result = factorise(spark, matrix, matrix, svd_parameters(settings.svd), context.seed("svd"))
        vectors = svd_kernels.embed(result.left(), result.values, settings.svd.exponent)
        unpaired = np.flatnonzero(~matrix.nonempty_rows())
        vectors[unpaired] = 0
        vectors = with_new_releases(context, SPACE, vectors)
        log_line(
            f"svd  sigma {result.values[0]:.4g} to {result.values[-1]:.4g}, residual {result.residual:.1e}, "
            f"{result.unexplained:.0%} of the squared norm unexplained, {len(unpaired)} tracks without a pair"
        )
        report = {
            "rows_in": matrix.n_entries,
            "tracks_without_a_pair": len(unpaired),
            "sigma": result.values.tolist(),
            "residual": result.residual,
            "unexplained": result.unexplained,
            "settings": settings.svd.model_dump(),
            "seed": context.seed("svd"),
            "commit": context.commit,
        }
        tracks = pa.table({"track_idx": np.arange(n_tracks, dtype=np.int32), "vector": to_list_column(vectors)})
        written_tracks = lake.write("track_vectors", tracks, report=report, week=week, space=SPACE)
        vectors_file = f"{folder}/vectors.npy"
        csr_blocks.save_array(vectors_file, vectors)
        streams = lake.spark(spark, "user_track", week=week).where(F.col("n_streams") > 0)
        entries = streams.select(
            F.col("user_idx").alias("row"), F.col("track_idx").alias("column"), F.lit(1.0).cast("float").alias("value")
        )
        with translate_library_errors("svd", "user_track"):
            streamed = csr_blocks.pack(entries, "user_track", (n_users, n_tracks), n_blocks, folder)
        users = user_vectors(spark, streamed, partial(_mean_track_vectors, streamed, vectors_file))
        written_users = lake.write("user_vectors", users, report=report, week=week, space=SPACE)
    return {
        "rows": {"track_vectors": written_tracks.rows, "user_vectors": written_users.rows},
        "paths": {"track_vectors": written_tracks.path, "user_vectors": written_users.path},
        "sigma": result.values.tolist(),
        "residual": result.residual,
        "unexplained": result.unexplained,
        "tracks_without_a_pair": len(unpaired),
    }
