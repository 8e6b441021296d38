"""Fold-in: a known listener's stored vector, moved towards the tracks that were streamed since it was computed.

    (1 - w) * stored + w * mean of the tracks, both at unit length and the mean of unit vectors; at the stored length

Measured  benchmarks/fold_in.py compares it with the stored vector, and with the network's vector of the same streams,
          by a split in time (docs/how-to/send-events.md contains the numbers)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.cold_start.top_k import normalise
from serving.profile.days import Record
from serving.release.loaded import LoadedRelease
from serving.stores.interface import UserRow


def streams_since(loaded: LoadedRelease, row: UserRow, events: Sequence[Record]) -> list[int]:
    """Return the catalogue tracks (track_idx) streamed since the row was computed, one entry per event.

    Args:
        loaded: The release of the row.
        row: The listener's row. A warm vector contains the events before the day `since`, a cold one those of it.
        events: Events of the profile, in the order of time.
    """
    tracks = []
    for event in events:
        is_new = event["ts"] >= row.since if row.kind == "warm" else event["ts"][:10] > row.since
        if is_new and event["kind"] == "stream":
            inside = loaded.ids.inside("track", event["entity_id"])
            if inside in loaded.track_idx:
                tracks.append(loaded.track_idx[inside])
    return tracks


def folded_vector(vector_D: np.ndarray, tracks_nD: np.ndarray, weight: float) -> np.ndarray:
    """Return a listener's vector (d,) moved towards the mean of n tracks.

    Args:
        vector_D: Stored vector.
        tracks_nD: Vectors of the tracks, at least one.
        weight: Weight of the tracks, 0 to 1.
    """
    both_2D = normalise(np.stack([vector_D, normalise(tracks_nD).mean(axis=0)]).astype(np.float32))
    length = np.float32(np.linalg.norm(vector_D))
    moved_D: np.ndarray = ((1 - weight) * both_2D[0] + weight * both_2D[1]) * length
    return moved_D.astype(np.float32)
