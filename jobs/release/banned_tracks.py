"""Lists without what the listener banned: a track, its artist or its album.

Shapes   B listeners, N tracks of the release, d width of the space, n places of a list
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.arrays import FloatMatrix, IdVector, IntMatrix, LongVector
from models.cold_start.top_k import ItemIndex
from serving.stores.interface import History

MAX_PLACES = 4_000_000  # places of the longer lists in memory at once


class BannedTracks:
    """The tracks of a release by track, artist and album."""

    def __init__(self, track_ids: IdVector, artist_ids: IdVector, album_ids: IdVector) -> None:
        """Sort the tracks by each kind of id, (N,) by track_idx."""
        orders = [np.argsort(ids, kind="stable") for ids in (track_ids, artist_ids, album_ids)]
        self._levels = [
            (ids[order], order) for ids, order in zip((track_ids, artist_ids, album_ids), orders, strict=True)
        ]

    def of(self, history: History) -> LongVector:
        """Return the track_idx of the tracks that a listener banned at any level, ascending."""
        banned = [history.banned_tracks, history.banned_artists, history.banned_albums]
        tracks = [np.zeros(0, np.int64)]
        for ids, (values, order) in zip(banned, self._levels, strict=True):
            if len(ids):
                starts, ends = np.searchsorted(values, ids, "left"), np.searchsorted(values, ids, "right")
                tracks += [order[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        return np.unique(np.concatenate(tracks)) if len(tracks) > 1 else tracks[0]


def best_without(items: ItemIndex, vectors_BD: FloatMatrix, n: int, banned: Sequence[LongVector]) -> IntMatrix:
    """Return the n best track_idx of each listener that are not banned, (B, n), best first; -1 where none is left.

    Args:
        items: the tracks.
        vectors_BD: the listeners.
        n: length of the lists, 1 to N.
        banned: B arrays of track_idx.
    """
    best_Bn = items.top_k(vectors_BD, n)
    n_banned_B = np.array([len(tracks) for tracks in banned], np.int64)
    # Listeners whose longer lists have about the same length are ranked together.
    widths_B = np.minimum(len(items.items_ND), 2 ** np.ceil(np.log2(n + n_banned_B)).astype(np.int64))
    for width in np.unique(widths_B[n_banned_B > 0]).tolist():
        rows = np.flatnonzero((n_banned_B > 0) & (widths_B == width))
        step = max(1, MAX_PLACES // width)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            for b, longer in zip(part.tolist(), items.top_k(vectors_BD[part], width), strict=True):
                kept = longer[~np.isin(longer, banned[b])][:n]
                best_Bn[b], best_Bn[b, : len(kept)] = -1, kept
    return best_Bn
