"""All that is known of a play before it began: one code for the table of features and for an answer.

Shapes   N plays

Counts come from models/skip/features/track.py and user_features.py; here they become the columns of skip_features, and
these the arrays that models take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.skip.data.plays import IDS, Plays
from models.skip.features import calendar, track, user
from models.skip.features.counters import Columns


def known(rows: Columns, counts: Columns, everybody: np.ndarray, gap_s: int, smoothing: float) -> dict[str, np.ndarray]:
    """Columns of skip_features by name, (N,) each; what a play brings itself, such as its platform, is not among them.

    Args:
        rows: ts, user_id, genre_id, release_day (float64, NaN unknown), duration_s and user_gender of each play.
        counts: what track_counts() and user_counts() gave.
        everybody: float64 (N,), share of all plays listened to before the play's day.
        gap_s: silence that ends a session, seconds.
        smoothing: plays at the rate above it that are added to each rate.
    """
    return {
        **counts,
        **track.track_rates(counts, everybody, smoothing),
        **user.user_rates(rows, counts, everybody, smoothing, gap_s),
        **calendar.calendar(rows["ts"]),
        **calendar.track_age(rows["ts"], rows["release_day"]),
        **calendar.duration_groups(rows["duration_s"], rows["user_gender"]),
    }


def as_plays(rows: Columns, found: Mapping[str, np.ndarray], names: Sequence[str], categories: Sequence[str]) -> Plays:
    """Plays in time order with numbers and categories of these names, of the precision that the table keeps."""
    columns = {**rows, **found}
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
