"""Counts and rates of tracks, artists and albums.

Shapes   N plays; rates are float64, NaN if unknown
Source   the report's section 3.2, step 6: skip_score, avg_song_listened, popularity over 7, 30 and 90 days
Differs  a play sees strictly earlier plays only. skip_score is the unsmoothed ratio of the track; avg_song_listened is
         the share listened to, smoothed towards the artist's, and the artist's towards all plays of earlier days, so
         the two differ. A track, and an album, is counted within its artist.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.arrays import DoubleVector, LongVector
from models.skip.features.counters import WINDOWS, Columns, Counters, Timeline

KINDS = ("artist", "track", "album")


def track_counts(rows: Columns, counters: Mapping[str, Counters], *, leaky: bool = False) -> dict[str, LongVector]:
    """Return the counts of earlier plays, int64 (N,) by name; `rows` must have all plays of their artists."""
    timelines = {kind: Timeline(rows, kind, counters[kind], leaky=leaky) for kind in KINDS}
    counts = {}
    for kind, timeline in timelines.items():
        counts[f"{kind}_plays"], counts[f"{kind}_listened"] = (
            timeline.earlier_total("n_plays"),
            timeline.earlier_total("n_listened"),
        )
    counts["track_flow_plays"] = timelines["track"].earlier_total("n_flow")
    counts["track_flow_listened"] = timelines["track"].earlier_total("n_flow_listened")
    for kind in ("track", "artist"):
        counts[f"{kind}_kind_plays"], counts[f"{kind}_kind_listened"] = timelines[kind].same_flow_totals()
        counts |= {f"{kind}_plays_{n}d": timelines[kind].plays_in_days(n) for n in WINDOWS}
    return counts


def track_rates(counts: Columns, overall_rate: DoubleVector, smoothing: float) -> dict[str, DoubleVector]:
    """Return rates from counts; `overall_rate` is the share listened to before the play's day, float64 (N,)."""
    artist = smoothed(counts["artist_listened"], counts["artist_plays"], overall_rate, smoothing)
    track = smoothed(counts["track_listened"], counts["track_plays"], artist, smoothing)
    skipped = counts["track_plays"] - counts["track_listened"]
    return {
        "skip_score": ratio(skipped, counts["track_plays"]),
        "avg_song_listened": track,
        "track_flow_rate": smoothed(counts["track_flow_listened"], counts["track_flow_plays"], track, smoothing),
        "artist_rate": artist,
        "album_rate": smoothed(counts["album_listened"], counts["album_plays"], artist, smoothing),
    }


def smoothed(part: LongVector, total: LongVector, prior: DoubleVector, weight: float) -> DoubleVector:
    """Return (part + weight * prior) / (total + weight)."""
    return np.asarray((part + weight * prior) / (total + weight))


def ratio(part: LongVector, total: LongVector) -> DoubleVector:
    """Return part / total, NaN if total is 0."""
    return np.asarray(np.where(total > 0, part / np.maximum(total, 1), np.nan))
