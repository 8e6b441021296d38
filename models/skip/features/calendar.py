"""Features of a play that need no history: calendar, age and duration of the track.

Shapes   N plays
Source   the report's section 3.2, steps 2, 5 and 7 (hour, weekday, binTime, binRYear, song_age_days, md_mf_group)
Differs  the report does not print its brackets; those below are chosen here. Its binwkd equals is_weekend, so there is
         one column for both. Release dates after the play are unknown, so no age is negative.
"""

from __future__ import annotations

import numpy as np

from models.skip.features.point_in_time import DAY_S

TIME_BINS = (6, 12, 18)  # night, morning, afternoon, evening (UTC)
YEAR_BINS = (1970, 1980, 1990, 2000, 2010, 2014, 2016)  # first years of brackets 1 to 7
DURATION_BINS = (120, 180, 210, 240, 300, 600)  # first seconds of brackets 1 to 6


def calendar(ts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the calendar features of times in seconds, int32 (N,) each.

    hour, weekday (0 Monday), is_weekend, day_of_month, week (ISO), month, year and bin_time, all in UTC.
    """
    day = np.floor_divide(ts, DAY_S)
    hour = (ts - day * DAY_S) // 3600
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday
    date = day.astype("datetime64[D]")
    month, year = date.astype("datetime64[M]"), date.astype("datetime64[Y]")
    thursday = (day - weekday + 3).astype("datetime64[D]")  # its year is the year of the ISO week
    week = (thursday - thursday.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) // 7 + 1
    features = {
        "hour": hour,
        "weekday": weekday,
        "is_weekend": weekday >= 5,
        "day_of_month": (date - month.astype("datetime64[D]")).astype(np.int64) + 1,
        "week": week,
        "month": month.astype(np.int64) % 12 + 1,
        "year": year.astype(np.int64) + 1970,
        "bin_time": np.searchsorted(TIME_BINS, hour, side="right"),
    }
    return {name: value.astype(np.int32) for name, value in features.items()}


def track_age(ts: np.ndarray, release_day: np.ndarray) -> dict[str, np.ndarray]:
    """Return song_age_days (float32, NaN unknown) and bin_release_year (int32, -1 unknown).

    Args:
        ts: int64 (N,) seconds since 1970.
        release_day: float64 (N,) days since 1970, NaN unknown.
    """
    is_known = ~np.isnan(release_day)
    date = np.where(is_known, release_day, 0).astype(np.int64).astype("datetime64[D]")
    year = date.astype("datetime64[Y]").astype(np.int64) + 1970
    bins = np.where(is_known, np.searchsorted(YEAR_BINS, year, side="right"), -1)
    age = np.floor_divide(ts, DAY_S) - release_day
    return {"song_age_days": age.astype(np.float32), "bin_release_year": bins.astype(np.int32)}


def duration_groups(duration_s: np.ndarray, gender: np.ndarray) -> dict[str, np.ndarray]:
    """Return bin_duration (0 to 6) and md_mf_group (bracket + 7 * gender), int32 (N,)."""
    bracket = np.searchsorted(DURATION_BINS, duration_s, side="right")
    return {
        "bin_duration": bracket.astype(np.int32),
        "md_mf_group": (bracket + (len(DURATION_BINS) + 1) * gender).astype(np.int32),
    }
