"""A first day as a bag of tokens: the tracks, artists and albums that a listener showed a liking for, country and age.

Shapes   B listeners, N tracks, V tokens, in this order: N tracks, artists, albums, countries, age classes
Rules    streamed, favourite and searched tracks count, with their artists and albums; favourite, searched and liked
         artists and albums count too. Skips, bans and playlists do not. A token is there or not: repeats add nothing,
         and what the catalogue does not know is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from models.cold_start.input_vector import AGE_CLASSES, FirstDays, Ragged, age_classes

LIKED = {
    "track": ("streamed_songs", "favorite_songs", "search_songs"),
    "artist": ("streamed_artists", "favorite_artists", "search_artists", "onboarding_like_artists"),
    "album": ("streamed_albums", "favorite_albums", "search_albums"),
}


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Stable ids of the tracks by track_idx, and of the artist and the album of each, all (N,) int64."""

    track_id_N: NDArray[np.int64]
    artist_id_N: NDArray[np.int64]
    album_id_N: NDArray[np.int64]

    def streamed_tracks(self, days: FirstDays) -> csr_array:
        """Which tracks of the catalogue were streamed on the first day, (B, N) of ones."""
        ids, index = np.unique(self.track_id_N, return_index=True)
        row, at = _known(days.blocks.get("streamed_songs"), ids)
        return _ones(row, index[at], (len(days), len(self.track_id_N)))


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """All tokens of a catalogue; countries are those of the warm users."""

    catalogue: Catalogue
    countries: tuple[str, ...]

    @classmethod
    def build(cls, catalogue: Catalogue, days: FirstDays) -> Vocabulary:
        """The catalogue's tokens and the countries of `days`."""
        return cls(catalogue, tuple(sorted({c for c in days.country if isinstance(c, str)})))

    @cached_property
    def _tables(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Ids of each kind, ascending, and the token of each."""
        track, index = np.unique(self.catalogue.track_id_N, return_index=True)
        n = len(self.catalogue.track_id_N)
        artist, album = np.unique(self.catalogue.artist_id_N), np.unique(self.catalogue.album_id_N)
        return {
            "track": (track, index),
            "artist": (artist, n + np.arange(len(artist))),
            "album": (album, n + len(artist) + np.arange(len(album))),
        }

    @cached_property
    def spans(self) -> dict[str, slice]:
        """Tokens of each kind."""
        found, start = {}, 0
        sizes = [(kind, len(ids)) for kind, (ids, _) in self._tables.items()]
        for kind, size in [*sizes, ("country", len(self.countries)), ("age", len(AGE_CLASSES))]:
            found[kind] = slice(start, start + size)
            start += size
        return found

    @property
    def size(self) -> int:
        """V, the number of tokens."""
        return int(self.spans["age"].stop)

    @property
    def n_tracks(self) -> int:
        """N; the first tokens are the tracks, by track_idx."""
        return len(self.catalogue.track_id_N)

    @cached_property
    def tokens_of_tracks_NV(self) -> csr_array:
        """The tokens of each track: itself, its artist, its album; (N, V) of ones."""
        n = self.n_tracks
        columns = [np.arange(n)]
        for kind, ids in (("artist", self.catalogue.artist_id_N), ("album", self.catalogue.album_id_N)):
            known, token = self._tables[kind]
            columns.append(token[np.searchsorted(known, ids)])
        return _ones(np.tile(np.arange(n), 3), np.concatenate(columns), (n, self.size))

    def track_tokens(self, heard_BN: csr_array) -> csr_array:
        """The tokens of sets of tracks, (B, V) of ones."""
        found = (csr_array(heard_BN) @ self.tokens_of_tracks_NV).tocsr()
        found.data[:] = 1
        return found

    def demographic_tokens(self, days: FirstDays) -> csr_array:
        """Country and age class of each listener, where known; (B, V) of ones."""
        place = {code: self.spans["country"].start + i for i, code in enumerate(self.countries)}
        country = np.fromiter((place.get(code, -1) for code in days.country), np.int64, len(days))
        age = age_classes(days.age)
        age = np.where(age >= 0, age + self.spans["age"].start, -1)
        row, column = np.tile(np.arange(len(days)), 2), np.concatenate([country, age])
        known = column >= 0
        return _ones(row[known], column[known], (len(days), self.size))

    def first_day_tokens(self, days: FirstDays) -> csr_array:
        """The tokens of first days, (B, V) of ones."""
        shape = (len(days), self.n_tracks)
        rows, columns = [], []
        for kind, names in LIKED.items():
            ids, token = self._tables[kind]
            for name in names:
                row, at = _known(days.blocks.get(name), ids)
                rows.append(row)
                columns.append(token[at])
        row, column = np.concatenate(rows), np.concatenate(columns)
        songs = column < shape[1]
        direct = _ones(row, column, (len(days), self.size))
        found = (
            direct + self.track_tokens(_ones(row[songs], column[songs], shape)) + self.demographic_tokens(days)
        ).tocsr()
        found.data[:] = 1
        return found


def pad_tokens(tokens_BV: csr_array) -> NDArray[np.int64]:
    """The tokens of each listener side by side, (B, T), T of the fullest bag and at least 1; V where there is none."""
    sizes = np.diff(tokens_BV.indptr)
    out = np.full((len(sizes), max(1, int(sizes.max(initial=0)))), tokens_BV.shape[1], np.int64)
    out[np.arange(out.shape[1]) < sizes[:, None]] = tokens_BV.indices
    return out


def _known(lists: Ragged | None, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row of each id that `ids` (ascending) knows, and its place there."""
    if lists is None or not lists.ids.size or not ids.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    row = np.repeat(np.arange(len(lists)), lists.lengths)
    at = np.minimum(np.searchsorted(ids, lists.ids), len(ids) - 1)
    known = ids[at] == lists.ids
    return row[known], at[known]


def _ones(row: NDArray[np.int64], column: NDArray[np.int64], shape: tuple[int, int]) -> csr_array:
    found = coo_array((np.ones(len(row), np.float32), (row, column)), shape=shape).tocsr()
    found.sum_duplicates()
    found.data[:] = 1
    return found
