"""A row of playlists for a listener: near to the listener, diverse, with the expected exposure of each position.

Shapes   P playlists, d width, n positions
Source   maximal marginal relevance (models/evaluation/diversity.py); exposure: 1 / log2(1 + position), as in DCG, or a
         cascade in which the first `VISIBLE` positions are seen and each later one by CONTINUE of those before it,
         after the carousels of Bendada, Salha, Bontempelli 2020
"""

from __future__ import annotations

import numpy as np

from models.cold_start.top_k import normalise
from models.evaluation.diversity import select_diverse
from serving.block.entries import BlockList
from serving.bodies import CarouselBody, EncodedJson
from serving.recommend.recommender import NOTHING, excluded_tracks, place
from serving.recommend.ruled_list import NO_FILTERS, SPARE, audience
from serving.recommend.signals import ListParameters, convert_ids, days_of, read_listener
from serving.release.loaded import LoadedRelease
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


def carousel(loaded: LoadedRelease, request: CarouselRequest, block_list: BlockList) -> CarouselBody:
    """Return the response body of a carousel (schema.Carousel); without public playlists, its row is empty.

    Args:
        loaded: the release.
        request: the request.
        block_list: tracks that are not among the nearest tracks of a playlist.

    Raises:
        RequestValidationError: an id is a number, but ids of its kind are texts.
    """
    playlists = loaded.space.of_kind("playlists")
    if playlists is None:
        ids_P, unit_PD = np.zeros(0, np.int64), np.zeros((0, loaded.space.d), np.float32)
    else:
        ids_P, unit_PD = playlists[0], playlists[1].vectors(slice(None))
    listener = read_listener(loaded, request.listener)
    excluded = [i for i in convert_ids(loaded.ids, "playlist", request.exclude, ("body", "exclude")) if i is not None]
    placed = place(loaded, days_of(loaded, [listener]))
    vector_D = placed.vectors_BD[0]
    if placed.origin[0] == NOTHING:
        vector_D = np.asarray(loaded.space.tracks_ND[:POPULAR_HEAD]).mean(axis=0)
    relevance_P = unit_PD @ normalise(vector_D[None])[0]
    usable = np.flatnonzero(~np.isin(ids_P, np.array(excluded, np.int64)))
    pool = usable[np.argsort(-relevance_P[usable], kind="stable")[: max(POOL, request.n)]]
    row = pool[select_diverse(relevance_P[pool], unit_PD[pool], request.n, request.diversity)]
    exposure = exposures(request.exposure, len(row))
    similarity_PP = unit_PD[row] @ unit_PD[row].T
    n = len(row)
    rules = loaded.rules
    out = excluded_tracks(loaded, listener, ListParameters(), rules)
    hidden = audience(loaded, rules, listener.country, listener.age, NO_FILTERS, block_list).hidden
    near = nearest_tracks(loaded, unit_PD[row], request.n_nearest_tracks, out, hidden)
    return {
        "release": loaded.name,
        "week": loaded.week,
        "space": loaded.space_name,
        "vector_source": placed.origin[0],
        "degraded": placed.degraded(0),
        "playlists": [
            {
                "position": i + 1,
                "playlist_id": playlist_id,
                "relevance": round(float(relevance_P[p]), 6),
                "exposure": round(float(exposure[i]), 6),
                "nearest_tracks": near[i],
            }
            for i, (p, playlist_id) in enumerate(zip(row, loaded.ids.all_outside("playlist", ids_P[row]), strict=True))
        ],
        "exposure_model": MODELS[request.exposure],
        "expected_relevance": round(float(np.average(relevance_P[row], weights=exposure)), 6) if n else 0.0,
        "similarity": round(float((similarity_PP.sum() - np.trace(similarity_PP)) / (n * (n - 1))), 6)
        if n > 1
        else 0.0,
        "unknown": listener.unknown,
    }


def nearest_tracks(
    loaded: LoadedRelease, vectors_PD: np.ndarray, k: int, out: set[int], hidden: bytes | None
) -> list[list[EncodedJson]]:
    """Return the k tracks nearest to each playlist that the listener may get, as schema.Track.

    Args:
        loaded: the release.
        vectors_PD: vectors of the playlists.
        k: number of tracks per playlist.
        out: track_idx that are excluded.
        hidden: by track_idx, what is blocked or not playable for the listener; None: nothing.
    """
    tracks = loaded.space.of_kind("tracks")
    if not k or tracks is None:
        return [[] for _ in vectors_PD]

    nearest: dict[int, list[int]] = {}
    short, asked = list(range(len(vectors_PD))), k + SPARE
    while short:
        asked = min(asked, len(loaded.tracks))
        for p, row in zip(short, tracks[1].top_k(vectors_PD[short], asked).tolist(), strict=True):
            nearest[p] = [i for i in row if i not in out and not (hidden is not None and hidden[i])][:k]
        short = [p for p in short if len(nearest[p]) < k and asked < len(loaded.tracks)]
        asked *= 4
    return [[loaded.track_json[i] for i in nearest[p]] for p in range(len(vectors_PD))]
