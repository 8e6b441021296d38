"""Tracks, artists and albums of a release that a block list hides.

Shapes   N tracks, U artists or albums

A track is hidden if it, its artist or its album is blocked. An artist or album is hidden if it is blocked, or if all of
its tracks are. Sets are intersected from the smaller side, so that neither a long list nor a large catalogue is slow.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from contracts.entity_ids import internal_id
from serving.block.entries import KINDS, BlockList
from serving.release.external_ids import ExternalIds
from serving.release.loaded import KIND_OF, LoadedRelease

NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Hidden:
    """What a block list hides of a release in one country.

    Attributes:
        tracks: track_idx of the hidden tracks.
        ids: ids inside of hidden artists and albums, by kind (`artists`, `albums`).
    """

    tracks: frozenset[int] = NOTHING
    ids: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def keeps(self, loaded: LoadedRelease, kind: str, inside: int) -> bool:
        """Return whether an entity may be in a list; kinds that cannot be blocked always may."""
        if kind == "tracks":
            return loaded.track_idx.get(inside, -1) not in self.tracks
        return inside not in self.ids.get(kind, NOTHING)


NOTHING_HIDDEN = Hidden()


class _Lookup:
    """Entities of a release by external id."""

    def __init__(self, loaded: LoadedRelease) -> None:
        catalogue = loaded.space.space.catalogue
        self.tracks = {text: i for i, text in enumerate(loaded.track_texts)}
        self.entity_N = {
            "artists": np.asarray(catalogue.artist_id_N, np.int64),
            "albums": np.asarray(catalogue.album_id_N, np.int64),
        }
        self.with_tracks = {kind: np.unique(ids, return_inverse=True) for kind, ids in self.entity_N.items()}
        self.entities: dict[str, dict[str, int]] = {}
        for kind, ids in self.entity_N.items():
            of_spaces = [np.asarray(space.entities.ids[KIND_OF[kind]], np.int64) for space in loaded.spaces.values()]
            known = np.unique(np.concatenate([ids, *of_spaces]))
            texts = loaded.ids.all_outside(kind.removesuffix("s"), known)
            self.entities[kind] = dict(zip(texts, known.tolist(), strict=True))

    def hidden(self, block_list: BlockList, country: str | None) -> Hidden:
        """Return what the list hides in a country."""
        mask_N = np.zeros(len(self.tracks), bool)
        mask_N[_values(self.tracks, block_list, "track", country)] = True
        blocked = {}
        for kind, ids_N in self.entity_N.items():
            blocked[kind] = _values(self.entities[kind], block_list, kind.removesuffix("s"), country)
            if blocked[kind]:
                mask_N |= np.isin(ids_N, np.array(blocked[kind], np.int64))
        hidden: dict[str, frozenset[int]] = {}
        for kind, (ids_U, place_N) in self.with_tracks.items():
            n_left_U = np.bincount(place_N[~mask_N], minlength=len(ids_U))
            hidden[kind] = frozenset(blocked[kind]).union(ids_U[n_left_U == 0].tolist())
        return Hidden(frozenset(np.flatnonzero(mask_N).tolist()), hidden)


_lookups: WeakKeyDictionary[LoadedRelease, _Lookup] = WeakKeyDictionary()
_computing = threading.RLock()


def _values(value_by_text: Mapping[str, int], block_list: BlockList, kind: str, country: str | None) -> list[int]:
    values: list[int] = []
    for texts in block_list.sets(kind, country):
        if len(texts) < len(value_by_text):
            values += [value_by_text[text] for text in texts if text in value_by_text]
        else:
            values += [value for text, value in value_by_text.items() if text in texts]
    return values


def hidden(loaded: LoadedRelease, block_list: BlockList, country: str | None) -> Hidden:
    """Return what a block list hides of a release; it is computed once for each list, release and country.

    Args:
        loaded: the release.
        block_list: the list.
        country: country of the listener. None, or a country without entries: only what is blocked everywhere.
    """
    if not block_list.ids:
        return NOTHING_HIDDEN
    place = country if country in block_list.ids else None
    try:
        computed: Hidden = block_list.cache[loaded][place]
    except KeyError:
        with _computing:
            of_release = block_list.cache.setdefault(loaded, {})
            if place not in of_release:
                if loaded not in _lookups:
                    _lookups[loaded] = _Lookup(loaded)
                of_release[place] = _lookups[loaded].hidden(block_list, place)
            computed = of_release[place]
    return computed


def blocked_tracks(loaded: LoadedRelease, block_list: BlockList, country: str | None) -> frozenset[int]:
    """Return the track_idx that a block list hides in a country (see `hidden`)."""
    return hidden(loaded, block_list, country).tracks


def blocked_ids(ids: ExternalIds, block_list: BlockList) -> Mapping[str, frozenset[int]]:
    """Return the ids inside that are blocked everywhere, by kind (track, artist, album); computed once for each list.

    It is for an engine whose release contains no texts of ids: an id inside is a function of the external id.
    """
    if not block_list.ids:
        return dict.fromkeys(KINDS, NOTHING)
    with _computing:
        cached = block_list.cache.setdefault(ids, {})
        if not cached:
            for kind in KINDS:
                inside = (internal_id(text, ids.forms[kind]) for texts in block_list.sets(kind, None) for text in texts)
                cached[kind] = frozenset(one for one in inside if one is not None)
    return cached
