"""Look up vectors, neighbours and names of tracks, artists, albums, playlists and segments in one release."""

from __future__ import annotations

from unicodedata import normalize

import numpy as np

from contracts.errors import BadArgument, NotFound
from serving.bodies import EntityBody, NeighbourBody, NeighbourhoodBody, ReleaseInfoBody, SearchBody, SearchResultBody
from serving.release.loaded import KIND_OF, LoadedRelease, LoadedSpace

HEAD = 10  # number of tracks of a segment's ranking in the response


def space_of(loaded: LoadedRelease, name: str | None) -> tuple[str, LoadedSpace]:
    """Return the named space, or the one that the release recommends from.

    Raises:
        BadArgument: the release has no such space.
    """
    chosen = name or loaded.space_name
    if chosen not in loaded.spaces:
        raise BadArgument(f"space: release {loaded.name[:12]} has {', '.join(sorted(loaded.spaces))}, not {chosen}")
    return chosen, loaded.spaces[chosen]


def vector_of(loaded: LoadedRelease, space: LoadedSpace, kind: str, entity_id: int) -> np.ndarray:
    """Return the vector (d,) of an entity.

    Raises:
        NotFound: the release has no such entity.
    """
    if kind == "segments":
        if entity_id < len(space.centroids_KD):
            centroid: np.ndarray = space.centroids_KD[entity_id]
            return centroid
    else:
        at, known = space.entities.find(KIND_OF[kind], np.array([entity_id], np.int64))
        if known[0]:
            vector: np.ndarray = space.entities.vectors[KIND_OF[kind]][at[0]]
            return vector
    raise NotFound(f"release {loaded.name[:12]} has no {kind.removesuffix('s')} {entity_id}")


def entity(loaded: LoadedRelease, kind: str, entity_id: int, space: str | None) -> EntityBody:
    """Return the response body of an entity (schema.Entity)."""
    name, chosen_space = space_of(loaded, space)
    vector = vector_of(loaded, chosen_space, kind, entity_id)
    segment = kind == "segments"
    return {
        "release": loaded.name,
        "space": name,
        "kind": kind,
        "id": entity_id,
        "name": loaded.label(kind, entity_id),
        "vector": [float(value) for value in vector],
        "card": chosen_space.segments[entity_id]["card"] if segment else None,
        "tracks": [loaded.track_json[i] for i in chosen_space.rankings_KL[entity_id][:HEAD]] if segment else [],
    }


def neighbours(
    loaded: LoadedRelease, kind: str, entity_id: int, k: int, of: str, space: str | None
) -> NeighbourhoodBody:
    """Return the response body of the k nearest neighbours by cosine, without the entity itself."""
    name, chosen_space = space_of(loaded, space)
    vector_D = vector_of(loaded, chosen_space, kind, entity_id)
    index = chosen_space.of_kind(of)
    neighbour_list: list[NeighbourBody] = []
    if index is not None:
        ids, items = index
        best = items.top_k(vector_D[None], min(k + 1, len(ids)))[0]
        length = float(np.sqrt(np.vecdot(vector_D, vector_D))) or 1.0
        for place in best:
            other = int(ids[place])
            if not (of == kind and other == entity_id):
                cosine = float(np.vecdot(vector_D, items.items_ND[place])) / length
                neighbour_list.append({"id": other, "name": loaded.label(of, other), "cosine": round(cosine, 6)})
    return {
        "release": loaded.name,
        "space": name,
        "kind": kind,
        "id": entity_id,
        "of": of,
        "neighbours": neighbour_list[:k],
    }


def search(loaded: LoadedRelease, kind: str, text: str, limit: int) -> SearchBody:
    """Return the response body of a search (schema.Search): names that contain the text, most popular first.

    An empty text matches everything. Upper and lower case, and how accents are encoded, make no difference.
    """
    wanted = _fold(text).strip()
    results: list[SearchResultBody] = []
    for i in loaded.most_popular_at["artists"].values() if kind == "artists" else range(len(loaded.tracks)):
        track = loaded.tracks[i]
        name = track.artist if kind == "artists" else track.title
        if not wanted or wanted in _fold(name or ""):
            results.append(
                {
                    "id": track.artist_id if kind == "artists" else track.track_id,
                    "name": name,
                    "artist": track.artist,
                    "genre": track.genre,
                }
            )
            if len(results) == limit:
                break
    return {"release": loaded.name, "kind": kind, "results": results}


def _fold(text: str) -> str:
    return text.lower() if text.isascii() else normalize("NFC", normalize("NFC", text).casefold())


def release_body(loaded: LoadedRelease) -> ReleaseInfoBody:
    """Return the response body that describes the release (schema.ReleaseInfo)."""
    return {
        "release": loaded.name,
        "week": loaded.week,
        "space": loaded.space_name,
        "method": loaded.configured,
        "methods": sorted(loaded.space.methods),
        "spaces": {
            name: {
                "d": chosen_space.d,
                "tracks": len(loaded.tracks),
                "segments": len(chosen_space.centroids_KD),
                **{kind: len(chosen_space.entities.ids[KIND_OF[kind]]) for kind in ("artists", "albums", "playlists")},
            }
            for name, chosen_space in loaded.spaces.items()
        },
        "countries": sorted(loaded.space.demographics.country),
        "problems": loaded.problems,
    }
