"""Look up vectors, neighbours and names of tracks, artists, albums, playlists and segments in one release."""

from __future__ import annotations

from typing import Any

import numpy as np

from contracts.errors import BadArgument, NotFound
from serving.release.loaded import KIND_OF, Ready, ReadySpace

HEAD = 10  # number of tracks of a segment's ranking in the response


def space_of(ready: Ready, name: str | None) -> tuple[str, ReadySpace]:
    """Return the named space, or the one that the release recommends from.

    Raises:
        BadArgument: the release has no such space.
    """
    chosen = name or ready.space_name
    if chosen not in ready.spaces:
        raise BadArgument(f"space: release {ready.name[:12]} has {', '.join(sorted(ready.spaces))}, not {chosen}")
    return chosen, ready.spaces[chosen]


def vector_of(ready: Ready, space: ReadySpace, kind: str, entity_id: int) -> np.ndarray:
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
    raise NotFound(f"release {ready.name[:12]} has no {kind.removesuffix('s')} {entity_id}")


def entity(ready: Ready, kind: str, entity_id: int, space: str | None) -> dict[str, Any]:
    """Return the response body of an entity (schema.Entity)."""
    name, room = space_of(ready, space)
    vector = vector_of(ready, room, kind, entity_id)
    segment = kind == "segments"
    return {
        "release": ready.name,
        "space": name,
        "kind": kind,
        "id": entity_id,
        "name": ready.label(kind, entity_id),
        "vector": [float(value) for value in vector],
        "card": room.segments[entity_id]["card"] if segment else None,
        "tracks": [ready.shown[i] for i in room.rankings_KL[entity_id][:HEAD]] if segment else [],
    }


def neighbours(ready: Ready, kind: str, entity_id: int, k: int, of: str, space: str | None) -> dict[str, Any]:
    """Return the response body of the k nearest neighbours by cosine, without the entity itself."""
    name, room = space_of(ready, space)
    vector_D = vector_of(ready, room, kind, entity_id)
    found = room.of_kind(of)
    near: list[dict[str, Any]] = []
    if found is not None:
        ids, items = found
        best = items.top_k(vector_D[None], min(k + 1, len(ids)))[0]
        length = float(np.sqrt(np.vecdot(vector_D, vector_D))) or 1.0
        for place in best:
            other = int(ids[place])
            if not (of == kind and other == entity_id):
                cosine = float(np.vecdot(vector_D, items.items_ND[place])) / length
                near.append({"id": other, "name": ready.label(of, other), "cosine": round(cosine, 6)})
    return {"release": ready.name, "space": name, "kind": kind, "id": entity_id, "of": of, "neighbours": near[:k]}


def search(ready: Ready, kind: str, text: str, limit: int) -> dict[str, Any]:
    """Return the response body of a search (schema.Search): names that contain the text, most popular first.

    An empty text matches everything.
    """
    wanted, found = text.casefold().strip(), []
    for i in ready.first_at["artists"].values() if kind == "artists" else range(len(ready.tracks)):
        track = ready.tracks[i]
        name = track.artist if kind == "artists" else track.title
        if not wanted or wanted in (name or "").casefold():
            found.append(
                {
                    "id": track.artist_id if kind == "artists" else track.track_id,
                    "name": name,
                    "artist": track.artist,
                    "genre": track.genre,
                }
            )
            if len(found) == limit:
                break
    return {"release": ready.name, "kind": kind, "results": found}


def about(ready: Ready) -> dict[str, Any]:
    """Return the response body that describes the release (schema.ReleaseInfo)."""
    return {
        "release": ready.name,
        "week": ready.week,
        "space": ready.space_name,
        "method": ready.configured,
        "methods": sorted(ready.space.methods),
        "spaces": {
            name: {
                "d": room.d,
                "tracks": len(ready.tracks),
                "segments": len(room.centroids_KD),
                **{kind: len(room.entities.ids[KIND_OF[kind]]) for kind in ("artists", "albums", "playlists")},
            }
            for name, room in ready.spaces.items()
        },
        "countries": sorted(ready.space.demographics.country),
        "problems": ready.problems,
    }
