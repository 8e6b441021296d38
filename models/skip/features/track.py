"""How tracks, artists and albums were received so far.

Shapes   N plays; rates are float64, NaN where nothing is known
Source   the report's section 3.2, step 6: skip_score, avg_song_listened, popularity over 7, 30 and 90 days
Differs  a play sees strictly earlier plays alone. skip_score is the plain ratio of the track; avg_song_listened is the
         share listened to, smoothed towards the artist's, and the artist's towards all plays of the days before: the
         two are no copies of each other. A track, and an album, is counted within its artist.
"""

from __future__ import annotations

import numpy as np

from models.skip.features.counters import WINDOWS, Carried, Columns, Timeline

KINDS = ("artist", "track", "album")


def track_counts(rows: Columns, carried: dict[str, Carried], *, leaky: bool = False) -> dict[str, np.ndarray]:
    """Counts (N,) int64 that each play sees, of plays that are all of these artists."""
    timelines = {kind: Timeline(rows, kind, carried[kind], leaky=leaky) for kind in KINDS}
    found = {}
    for kind, timeline in timelines.items():
        found[f"{kind}_plays"], found[f"{kind}_listened"] = timeline.total("n_plays"), timeline.total("n_listened")
    found["track_flow_plays"] = timelines["track"].total("n_flow")
    found["track_flow_listened"] = timelines["track"].total("n_flow_listened")
    for kind in ("track", "artist"):
        found[f"{kind}_kind_plays"], found[f"{kind}_kind_listened"] = timelines[kind].of_kind()
        found |= {f"{kind}_plays_{n}d": timelines[kind].window(n) for n in WINDOWS}
    return found


def track_rates(counts: Columns, everybody: np.ndarray, smoothing: float) -> dict[str, np.ndarray]:
    """Rates from counts; everybody: float64 (N,), the share listened to before the play's day."""
    artist = smoothed(counts["artist_listened"], counts["artist_plays"], everybody, smoothing)
    track = smoothed(counts["track_listened"], counts["track_plays"], artist, smoothing)
    skipped = counts["track_plays"] - counts["track_listened"]
    return {
        "skip_score": ratio(skipped, counts["track_plays"]),
        "avg_song_listened": track,
        "track_flow_rate": smoothed(counts["track_flow_listened"], counts["track_flow_plays"], track, smoothing),
        "artist_rate": artist,
        "album_rate": smoothed(counts["album_listened"], counts["album_plays"], artist, smoothing),
    }


def smoothed(part: np.ndarray, whole: np.ndarray, prior: np.ndarray, weight: float) -> np.ndarray:
    """(part + weight * prior) / (whole + weight)."""
    return np.asarray((part + weight * prior) / (whole + weight))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part / whole, NaN where whole is 0."""
    return np.asarray(np.where(whole > 0, part / np.maximum(whole, 1), np.nan))
