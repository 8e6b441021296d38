"""A row of playlists for a listener: near to the listener, diverse, with the expected exposure of each position.

Shapes   P playlists, d width, n positions
Source   maximal marginal relevance (models/evaluation/diversity.py); exposure: 1 / log2(1 + position), as in DCG, or a
         cascade in which the first `VISIBLE` positions are seen and each later one by CONTINUE of those before it,
         after
         the carousels of Bendada, Salha, Bontempelli 2020
"""

from __future__ import annotations

from typing import Any

import numpy as np

from contracts.errors import BadArgument
from models.cold_start.top_k import normalise
from models.evaluation.diversity import select_diverse
from serving.recommend.recommender import NOTHING, place
from serving.recommend.signals import days_of, unknown
from serving.release.loaded import Ready
from serving.schema import CarouselRequest

VISIBLE, CONTINUE = 3, 0.85
POOL = 200  # number of nearest playlists from which a diverse row is selected
POPULAR_HEAD = 100
MODELS = {
    "log": "log: 1 / log2(1 + position)",
    "cascade": f"cascade: the first {VISIBLE} positions are seen, each later one by {CONTINUE:.0%} of those before it",
}


def exposures(model: str, n: int) -> np.ndarray:
    """Return the share of listeners who look at positions 1 to n, (n,), decreasing from 1."""
    position = np.arange(1, n + 1)
    if model == "log":
        return np.asarray(1 / np.log2(1 + position))
    return np.asarray(CONTINUE ** np.maximum(position - VISIBLE, 0))


def carousel(ready: Ready, asked: CarouselRequest) -> dict[str, Any]:
    """Return the response body of a carousel (schema.Carousel).

    Raises:
        BadArgument: the release contains no playlists.
    """
    found = ready.space.of_kind("playlists")
    if found is None:
        raise BadArgument(f"release {ready.name[:12]} contains no playlists")
    ids_P, items = found
    placed = place(ready, days_of(ready, [asked.listener]))
    vector_D = placed.vectors_BD[0]
    if placed.origin[0] == NOTHING:
        vector_D = np.asarray(ready.space.tracks_ND[:POPULAR_HEAD]).mean(axis=0)
    relevance_P = items.items_ND @ normalise(vector_D[None])[0]
    usable = np.flatnonzero(~np.isin(ids_P, asked.exclude))
    pool = usable[np.argsort(-relevance_P[usable], kind="stable")[: max(POOL, asked.n)]]
    row = pool[select_diverse(relevance_P[pool], items.items_ND[pool], asked.n, asked.diversity)]
    exposure = exposures(asked.exposure, len(row))
    likeness = items.items_ND[row] @ items.items_ND[row].T
    n = len(row)
    near = nearest_tracks(ready, items.items_ND[row], asked.n_nearest_tracks)
    return {
        "release": ready.name,
        "week": ready.week,
        "space": ready.space_name,
        "vector_source": placed.origin[0],
        "degraded": placed.degraded(0),
        "playlists": [
            {
                "position": i + 1,
                "playlist_id": int(ids_P[p]),
                "relevance": round(float(relevance_P[p]), 6),
                "exposure": round(float(exposure[i]), 6),
                "nearest_tracks": near[i],
            }
            for i, p in enumerate(row)
        ],
        "exposure_model": MODELS[asked.exposure],
        "expected_relevance": round(float(np.average(relevance_P[row], weights=exposure)), 6) if n else 0.0,
        "similarity": round(float((likeness.sum() - np.trace(likeness)) / (n * (n - 1))), 6) if n > 1 else 0.0,
        "unknown": unknown(ready, asked.listener),
    }


def nearest_tracks(ready: Ready, vectors_PD: np.ndarray, k: int) -> list[list[dict[str, Any]]]:
    """Return the k tracks nearest to each playlist, as schema.Track."""
    tracks = ready.space.of_kind("tracks")
    if not k or tracks is None:
        return [[] for _ in vectors_PD]
    return [[ready.shown[i] for i in row] for row in tracks[1].top_k(vectors_PD, min(k, len(ready.tracks)))]
