"""Feature columns of a play: the same code for the feature table and for the service.

Shapes   N plays

The counts of models/skip/features/track.py and user.py become the columns of skip_features, and these the arrays that
models take.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.arrays import AnyVector, DoubleVector
from models.skip.data.plays import IDS, Plays
from models.skip.features import calendar, track, user
from models.skip.features.counters import Columns


def feature_columns(
    rows: Columns, counts: Columns, overall_rate: DoubleVector, gap_s: int, smoothing: float
) -> dict[str, AnyVector]:
    """Return the computed columns of skip_features by name, (N,) each; columns of the play itself are not included.

    Args:
        rows: ts, user_id, genre_id, release_day (float64, NaN unknown), duration_s and user_gender of each play.
        counts: Output of track_counts(), user_counts() and shared_counts().
        overall_rate: float64 (N,), share of all plays listened to before the play's day.
        gap_s: Silence that ends a session, in seconds.
        smoothing: Strength of the smoothing: number of plays at the prior rate that are added to each rate.
    """
    return {
        **counts,
        **track.track_rates(counts, overall_rate, smoothing),
        **user.user_rates(rows, counts, overall_rate, smoothing, gap_s),
        **calendar.calendar(rows["ts"]),
        **calendar.track_age(rows["ts"], rows["release_day"]),
        **calendar.duration_groups(rows["duration_s"], rows["user_gender"]),
    }


def as_plays(rows: Columns, features: Columns, names: Sequence[str], categories: Sequence[str]) -> Plays:
    """Return plays in time order with the named features, in the precision of the feature table."""
    columns = {**rows, **features}
    numbers_NF = np.empty((len(rows["ts"]), len(names)), np.float32)
    for f, name in enumerate(names):
        column = columns[name]
        numbers_NF[:, f] = column.astype(np.int32) if column.dtype.kind in "iu" else column
    return Plays(
        ts_N=rows["ts"],
        **{f"{name}_N": rows[f"{name}_id"] for name in IDS},
        categories={name: columns[name].astype(np.int32) for name in categories},
        numbers_NF=numbers_NF,
        names=tuple(names),
        is_flow_N=rows["is_flow"],
    )
