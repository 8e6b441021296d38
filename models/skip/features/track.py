"""Counts and rates of tracks, artists and albums.

Shapes   N plays; rates are float64, NaN if unknown
Source   the report's section 3.2, step 6: skip_score, avg_song_listened, popularity over 7, 30 and 90 days
Differs  a play sees strictly earlier plays only. skip_score is the unsmoothed ratio of the track; avg_song_listened is
         the share listened to, smoothed towards the artist's, and the artist's towards all plays of earlier days, so
         the two differ. A track, and an album, is counted within its artist.
"""

from __future__ import annotations

import numpy as np

from models.skip.features.counters import WINDOWS, Carried, Columns, Timeline

KINDS = ("artist", "track", "album")


def track_counts(rows: Columns, carried: dict[str, Carried], *, leaky: bool = False) -> dict[str, np.ndarray]:
    """Return the counts that each play sees, int64 (N,); `rows` must have all plays of their artists."""
    timelines = {kind: Timeline(rows, kind, carried[kind], leaky=leaky) for kind in KINDS}
    counts = {}
    for kind, timeline in timelines.items():
        counts[f"{kind}_plays"], counts[f"{kind}_listened"] = timeline.total("n_plays"), timeline.total("n_listened")
    counts["track_flow_plays"] = timelines["track"].total("n_flow")
    counts["track_flow_listened"] = timelines["track"].total("n_flow_listened")
    for kind in ("track", "artist"):
        counts[f"{kind}_kind_plays"], counts[f"{kind}_kind_listened"] = timelines[kind].of_kind()
        counts |= {f"{kind}_plays_{n}d": timelines[kind].window(n) for n in WINDOWS}
    return counts


def track_rates(counts: Columns, overall_rate: np.ndarray, smoothing: float) -> dict[str, np.ndarray]:
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


def smoothed(part: np.ndarray, total: np.ndarray, prior: np.ndarray, weight: float) -> np.ndarray:
    """Return (part + weight * prior) / (total + weight)."""
    return np.asarray((part + weight * prior) / (total + weight))


def ratio(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return part / total, NaN if total is 0."""
    return np.asarray(np.where(total > 0, part / np.maximum(total, 1), np.nan))
