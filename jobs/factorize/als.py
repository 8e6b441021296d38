"""UT-ALS, the joint space of users and tracks by implicit ALS: the weekly job.

Input   user_track, warm_users, catalog     Output  track_vectors, user_vectors, partition week=<week>, space=ut_als
Grain   one row per track_idx; one row per user_idx
Method  `blockfactor/als.py`

Items start from the main directions of the matrix and the seed of the week, so weeks can be run in any order with the
same result. With `als.warm_start` they start from last week's vectors of the same tracks: fewer iterations, but a week
then depends on the week before. Track vectors are the factors unchanged (their length increases with a track's
popularity), except those of new releases, which are estimated (jobs/factorize/new_releases.py). User vectors are scaled
to unit length; a warm user without any affinity has a zero vector.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from blockfactor import csr_blocks
from blockfactor.als import AlsParameters, AlsResult, train
from blockfactor.arrays import unit_rows
from blockfactor.csr_blocks import Block
from contracts.errors import CheckFailed
from jobs.factorize.library_errors import translate_library_errors
from jobs.factorize.new_releases import with_new_releases
from jobs.factorize.user_vectors import user_vectors
from jobs.platform.list_columns import to_list_column
from jobs.platform.progress import log_line
from jobs.platform.temp_dirs import temp_dir
from models.arrays import FloatMatrix

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.settings.matrix import AlsSettings

SPACE = "ut_als"


def als_parameters(settings: AlsSettings) -> AlsParameters:
    """Return the library's parameters from the settings section `als`."""
    return AlsParameters(
        d=settings.d,
        iterations=settings.iterations,
        cg_steps=settings.cg_steps,
        alpha=settings.alpha,
        regularisation=settings.regularisation,
        frequency_exponent=settings.frequency_exponent,
        tolerance=settings.tolerance,
    )


def item_start(context: Context) -> FloatMatrix | int:
    """Return the start of the items: last week's track vectors (N, d) for a warm start, otherwise the week's seed.

    A warm start needs `als.warm_start` and last week's vectors of the same dimension; if they are missing, a log line
    gives the reason. New tracks start from zeros.
    """
    lake, settings, last_week = context.lake, context.settings.als, context.week.previous.name
    if not settings.warm_start:
        return context.seed("als")
    if not lake.exists("track_vectors", week=last_week, space=SPACE):
        log_line(f"als  no warm start: track_vectors week={last_week} space={SPACE} is not in the lake")
        return context.seed("als")
    vectors = lake.matrix("track_vectors", week=last_week, space=SPACE)
    if vectors.shape[1] != settings.d:
        log_line(f"als  no warm start: week {last_week} has {vectors.shape[1]} factors, als.d is {settings.d}")
        return context.seed("als")
    track_ids, last_track_ids = (
        lake.read("catalog", columns=["track_idx", "track_id"], week=week).sort_by("track_idx").column("track_id")
        for week in (context.week.name, last_week)
    )
    last_idx = pc.index_in(track_ids, last_track_ids).fill_null(-1).to_numpy()
    start = np.zeros((len(track_ids), settings.d), np.float32)
    start[last_idx >= 0] = vectors[last_idx[last_idx >= 0]]
    log_line(f"als  {(last_idx >= 0).sum()} of {len(track_ids)} tracks start from week {last_week}")
    return start


def _unit_user_factors(result: AlsResult, block: Block) -> FloatMatrix:
    return unit_rows(result.user_factors(block))


def run(context: Context) -> dict[str, object]:
    """Train the space and write track_vectors and user_vectors.

    Raises:
        BadArgument: als.d is larger than the matrix.
        CheckFailed: The table user_track is empty or contains an invalid entry.
        OvertureError: The loss is not finite or increased, or Spark lost all workers.
    """
    lake, week, settings, spark = context.lake, context.week.name, context.settings, context.spark
    shape = (lake.rows("warm_users", week=week), lake.rows("catalog", week=week))
    entries = lake.spark(spark, "user_track", week=week).select(
        F.col("user_idx").alias("row"), F.col("track_idx").alias("column"), F.col("affinity").alias("value")
    )
    n_iterations = settings.als.iterations

    def log_iteration(iteration: int, loss: float, duration_s: float) -> None:
        log_line(f"als {iteration}/{n_iterations}  loss {loss:.6g}  {duration_s:.2f} s")

    with temp_dir(context, f"{SPACE}-{context.week.name}") as folder, translate_library_errors("als", "user_track"):
        ratings = csr_blocks.pack(entries, "user_track", shape, settings.spark.partitions, folder, positive=True)
        if not ratings.n_entries:
            raise CheckFailed(f"user_track: week={week} has no row; run `overture matrix user-track` first")
        start = item_start(context)
        result = train(spark, ratings, als_parameters(settings.als), start, log_iteration)
        report = {
            "rows_in": ratings.n_entries,
            "loss": list(result.losses),
            "settings": settings.als.model_dump(),
            "seed": context.seed("als"),
            "started_from": "seed" if isinstance(start, int) else context.week.previous.name,
            "commit": context.commit,
        }
        items = with_new_releases(context, SPACE, np.array(result.item_factors()))
        tracks = pa.table({"track_idx": np.arange(len(items), dtype=np.int32), "vector": to_list_column(items)})
        written_tracks = lake.write("track_vectors", tracks, report=report, week=week, space=SPACE)
        users = user_vectors(spark, ratings, partial(_unit_user_factors, result))
        written_users = lake.write("user_vectors", users, report=report, week=week, space=SPACE)
    return {
        "rows": {"track_vectors": written_tracks.rows, "user_vectors": written_users.rows},
        "paths": {"track_vectors": written_tracks.path, "user_vectors": written_users.path},
        "loss": list(result.losses),
        "iteration_s": list(result.iteration_s),
        "entries": ratings.n_entries,
        "iterations": len(result.losses),
    }
