"""Lists without what the listener banned: a track, its artist or its album.

Shapes   B listeners, N tracks of the release, d width of the space, n places of a list
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.arrays import FloatMatrix, IntMatrix
from models.cold_start.list_rules import OFF, TrackFacts
from models.cold_start.top_k import ItemIndex
from serving.stores.interface import History

MAX_PLACES = 4_000_000  # places of the longer lists in memory at once


def banned_tracks(facts: TrackFacts, place: Mapping[int, int], history: History) -> list[int]:
    """Return the track_idx of the tracks that a listener banned at any level, ascending.

    Args:
        facts: artists and albums of the release's tracks.
        place: track_idx of each track id of the release.
        history: the listener's history.
    """
    tracks = [place[track] for track in history.banned_tracks.tolist() if track in place]
    artists, albums = history.banned_artists.tolist(), history.banned_albums.tolist()
    return sorted(facts.excluded(OFF, tracks=tracks, artists=artists, albums=albums))


def best_without(items: ItemIndex, vectors_BD: FloatMatrix, n: int, banned: Sequence[Sequence[int]]) -> IntMatrix:
    """Return the n best track_idx of each listener that are not banned, (B, n), best first; -1 where none is left.

    Args:
        items: the tracks.
        vectors_BD: the listeners.
        n: length of the lists, 1 to N.
        banned: B lists of track_idx.
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
