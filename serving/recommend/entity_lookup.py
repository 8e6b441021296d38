"""Look up vectors, neighbours and names of tracks, artists, albums, playlists and segments in one release."""

from __future__ import annotations

from unicodedata import normalize

import numpy as np

from contracts.entity_ids import internal_id
from contracts.errors import BadArgument, NotFound
from serving.block.entries import BlockList
from serving.block.tracks import hidden
from serving.bodies import EntityBody, NeighbourBody, NeighbourhoodBody, ReleaseInfoBody, SearchBody, SearchResultBody
from serving.release.loaded import ID_KIND_OF, KIND_OF, LoadedRelease, LoadedSpace

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


def find(loaded: LoadedRelease, space: LoadedSpace, kind: str, external_id: str) -> tuple[int, np.ndarray]:
    """Return the id inside and the vector (d,) of an entity.

    Raises:
        NotFound: the release has no such entity.
    """
    if kind == "segments":
        number = internal_id(external_id, "integer")
        if number is not None and number < len(space.centroids_KD):
            return number, space.centroids_KD[number]
    else:
        inside = loaded.ids.inside(ID_KIND_OF[kind], external_id)
        if inside is not None:
            at, known = space.entities.find(KIND_OF[kind], np.array([inside], np.int64))
            if known[0]:
                return inside, space.entities.vectors[KIND_OF[kind]][at[0]]
    raise NotFound(f"release {loaded.name[:12]} has no {kind.removesuffix('s')} {external_id}")


def entity(loaded: LoadedRelease, kind: str, external_id: str, space: str | None, block_list: BlockList) -> EntityBody:
    """Return the response body of an entity (schema.Entity). The tracks of a segment include no blocked one."""
    name, chosen_space = space_of(loaded, space)
    entity_id, vector = find(loaded, chosen_space, kind, external_id)
    segment = kind == "segments"
    blocked = hidden(loaded, block_list, None).tracks
    head = [i for i in chosen_space.rankings_KL[entity_id].tolist() if i not in blocked][:HEAD] if segment else []
    return {
        "release": loaded.name,
        "space": name,
        "kind": kind,
        "id": external_id,
        "name": loaded.label(kind, entity_id),
        "vector": [float(value) for value in vector],
        "card": chosen_space.segments[entity_id]["card"] if segment else None,
        "tracks": [loaded.track_json[i] for i in head],
    }


def neighbours(
    loaded: LoadedRelease, kind: str, external_id: str, k: int, of: str, space: str | None, block_list: BlockList
) -> NeighbourhoodBody:
    """Return the response body of the k nearest neighbours by cosine, without the entity itself and blocked ones."""
    name, chosen_space = space_of(loaded, space)
    entity_id, vector_D = find(loaded, chosen_space, kind, external_id)
    index = chosen_space.of_kind(of)
    neighbour_list: list[NeighbourBody] = []
    if index is not None:
        ids, items = index
        blocked = hidden(loaded, block_list, None)
        n_blocked = len(blocked.tracks if of == "tracks" else blocked.ids.get(of, ()))
        best = items.top_k(vector_D[None], min(k + 1 + n_blocked, len(ids)))[0]
        length = float(np.sqrt(np.vecdot(vector_D, vector_D))) or 1.0
        for place in best:
            other = int(ids[place])
            if not (of == kind and other == entity_id) and blocked.keeps(loaded, of, other):
                cosine = float(np.vecdot(vector_D, items.vectors([place])[0])) / length
                text = str(other) if of == "segments" else loaded.ids.outside(ID_KIND_OF[of], other)
                neighbour_list.append({"id": text, "name": loaded.label(of, other), "cosine": round(cosine, 6)})
            if len(neighbour_list) == k:
                break
    return {
        "release": loaded.name,
        "space": name,
        "kind": kind,
        "id": external_id,
        "of": of,
        "neighbours": neighbour_list,
    }


def search(loaded: LoadedRelease, kind: str, text: str, limit: int, block_list: BlockList) -> SearchBody:
    """Return the response body of a search (schema.Search): names that contain the text, most popular first.

    An empty text matches everything; blocked tracks and artists are left out. Upper and lower case, and how accents are
    encoded, make no difference.
    """
    wanted = _fold(text).strip()
    results: list[SearchResultBody] = []
    blocked = hidden(loaded, block_list, None)
    for i in loaded.most_popular_at["artists"].values() if kind == "artists" else range(len(loaded.tracks)):
        track = loaded.tracks[i]
        name = track.artist if kind == "artists" else track.title
        inside = track.artist_id if kind == "artists" else track.track_id
        if (not wanted or wanted in _fold(name or "")) and blocked.keeps(loaded, kind, inside):
            results.append(
                {
                    "id": loaded.ids.outside("artist", track.artist_id) if kind == "artists" else loaded.track_texts[i],
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
        "ids": dict(loaded.ids.forms),
        "problems": loaded.problems,
    }
