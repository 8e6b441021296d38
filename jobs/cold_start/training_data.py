"""Training data of the methods: warm users with first day, vector, streamed tracks and segment.

Input   features and first_day (train), warm_users, user_vectors, user_track, catalog
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array

from contracts.errors import CheckFailed
from jobs.cold_start.segments import stream_matrix
from jobs.platform.context import Context
from jobs.platform.list_columns import to_matrix
from jobs.settings.base import Space
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods import WarmListeners
from models.cold_start.methods.vocabulary import Catalogue
from models.cold_start.segments import assign_segments


def load(context: Context, space: Space, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return user ids (B,) and input vectors (B, F) of one split."""
    table = context.lake.read("features", week=context.week.name, space=space, split=split)
    x = to_matrix(table, "x") if table.num_rows else np.zeros((0, 20 * context.settings.d(space) + 19), np.float32)
    return table.column("user_id").to_numpy(), x


def warm_side(
    context: Context, space: Space, track_ND: np.ndarray, centroids_KD: np.ndarray, rankings_KL: np.ndarray
) -> WarmListeners:
    """Return all warm users in the order of user_idx; a user with a vector is in the segment of the nearest centroid.

    Raises:
        CheckFailed: a warm user has no input vector, or an input vector belongs to somebody who is not warm.
    """
    week = context.week.name
    user_id, x_UF = load(context, space, "train")
    warm = context.lake.read("warm_users", week=week).sort_by("user_idx")
    warm_id = warm.column("user_id").to_numpy()
    order = np.argsort(user_id, kind="stable")
    place = np.minimum(np.searchsorted(user_id[order], warm_id), max(len(user_id) - 1, 0))
    if len(user_id) != len(warm_id) or (user_id[order[place]] != warm_id).any():
        raise CheckFailed(
            f"features: week {week} has {len(user_id)} training rows in {space} for {len(warm_id)} warm users, "
            f"and they must be the same users; run `overture features --space {space}` again"
        )
    rows = order[place]
    if (rows != np.arange(len(rows))).any():  # the table can be very large: it is not copied unless the order differs
        x_UF = x_UF[rows]
    user_UD = context.lake.matrix("user_vectors", week=week, space=space)
    heard_UN = csr_array(stream_matrix(context, len(user_UD)))
    labels_U = assign_segments(user_UD, centroids_KD)
    days = first_days(context, "train", warm_id)
    return WarmListeners(
        x_UF, user_UD, track_ND, heard_UN, labels_U, centroids_KD, rankings_KL, catalogue(context), days
    )


def catalogue(context: Context) -> Catalogue:
    """Return the ids of the week's tracks by track_idx."""
    table = context.lake.read("catalog", week=context.week.name).sort_by("track_idx")
    return Catalogue(*(table.column(name).to_numpy() for name in ("track_id", "artist_id", "album_id")))


def first_days(context: Context, split: str, user_id: np.ndarray) -> FirstDays:
    """Return the first days of these users (B,), in their order."""
    table = context.lake.read("first_day", week=context.week.name, split=split)
    place = {user: row for row, user in enumerate(table.column("user_id").to_pylist())}
    return FirstDays.from_arrow(table.take(pa.array([place[user] for user in user_id.tolist()])))
