"""First days as sets of tokens: tracks, artists and albums with positive signals, country and age class.

Shapes   B listeners, N tracks, V tokens, in this order: N tracks, artists, albums, countries, age classes;
         T tokens of the listener with the most
Rules    Streamed, favourite and searched tracks are tokens, and so are their artists and albums. Favourite, searched
         and liked artists and albums are tokens too. Skips, bans and playlists are not. A token is present or absent:
         repeats are not counted. Ids that the catalogue does not contain are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from models.arrays import IdVector, LongMatrix, LongVector
from models.cold_start.input_vector import AGE_CLASSES, FirstDays, age_classes
from models.cold_start.ragged import Ragged

POSITIVE_BLOCKS = {
    "track": ("streamed_songs", "favorite_songs", "search_songs"),
    "artist": ("streamed_artists", "favorite_artists", "search_artists", "onboarding_like_artists"),
    "album": ("streamed_albums", "favorite_albums", "search_albums"),
}


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Stable ids of the tracks by track_idx, and of the artist and the album of each; all (N,) int64."""

    track_id_N: IdVector
    artist_id_N: IdVector
    album_id_N: IdVector

    def streamed_tracks(self, first_days: FirstDays) -> csr_array:
        """Return a one for each track of the catalogue that was streamed on the first day, sparse (B, N)."""
        ids, index = np.unique(self.track_id_N, return_index=True)
        row, position = _find_known(first_days.blocks.get("streamed_songs"), ids)
        return _binary_matrix(row, index[position], (len(first_days), len(self.track_id_N)))


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """All tokens of a catalogue and a list of countries.

    Attributes:
        catalogue: ids of the tracks, artists and albums.
        countries: country codes, sorted; other countries have no token.
    """

    catalogue: Catalogue
    countries: tuple[str, ...]

    @classmethod
    def build(cls, catalogue: Catalogue, first_days: FirstDays) -> Vocabulary:
        """Return the vocabulary of a catalogue and of the countries that occur in `first_days`."""
        return cls(catalogue, tuple(sorted({c for c in first_days.country if isinstance(c, str)})))

    @cached_property
    def _tables(self) -> dict[str, tuple[IdVector, LongVector]]:
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
        """Range of tokens of each kind: track, artist, album, country, age."""
        spans: dict[str, slice] = {}
        start = 0
        sizes = [(kind, len(ids)) for kind, (ids, _) in self._tables.items()]
        for kind, size in [*sizes, ("country", len(self.countries)), ("age", len(AGE_CLASSES))]:
            spans[kind] = slice(start, start + size)
            start += size
        return spans

    @property
    def size(self) -> int:
        """V, the number of tokens."""
        return int(self.spans["age"].stop)

    @property
    def n_tracks(self) -> int:
        """N, the number of tracks; the first N tokens are the tracks by track_idx."""
        return len(self.catalogue.track_id_N)

    @cached_property
    def artist_token_N(self) -> LongVector:
        """Token of each track's artist."""
        ids, token = self._tables["artist"]
        return token[np.searchsorted(ids, self.catalogue.artist_id_N)]

    @cached_property
    def album_token_N(self) -> LongVector:
        """Token of each track's album."""
        ids, token = self._tables["album"]
        return token[np.searchsorted(ids, self.catalogue.album_id_N)]

    @cached_property
    def tokens_of_tracks_NV(self) -> csr_array:
        """The tokens of each track, itself, its artist and its album, as ones of a sparse (N, V)."""
        n = self.n_tracks
        tokens = np.concatenate([np.arange(n), self.artist_token_N, self.album_token_N])
        return _binary_matrix(np.tile(np.arange(n), 3), tokens, (n, self.size))

    @cached_property
    def _country_tokens(self) -> dict[str, int]:
        """Token of each country."""
        return {code: self.spans["country"].start + i for i, code in enumerate(self.countries)}

    def track_tokens(self, heard_BN: csr_array) -> csr_array:
        """Return the tokens of sets of tracks, sparse (B, V) of ones, for a sparse (B, N) of ones."""
        tokens_BV = (csr_array(heard_BN) @ self.tokens_of_tracks_NV).tocsr()
        tokens_BV.data[:] = 1
        return tokens_BV

    def demographic_tokens(self, first_days: FirstDays) -> csr_array:
        """Return country and age class of each listener, where known, sparse (B, V) of ones."""
        row, token = self._demographics(first_days)
        return _binary_matrix(row, token, (len(first_days), self.size))

    def first_day_tokens(self, first_days: FirstDays) -> csr_array:
        """Return all tokens of first days, sparse (B, V) of ones."""
        row, token = self._demographics(first_days)
        rows, tokens = [row], [token]
        for kind, names in POSITIVE_BLOCKS.items():
            ids, token_of = self._tables[kind]
            for name in names:
                row, position = _find_known(first_days.blocks.get(name), ids)
                token = token_of[position]
                rows.append(row)
                tokens.append(token)
                if kind == "track":
                    rows += [row, row]
                    tokens += [of_track_N[token] for of_track_N in (self.artist_token_N, self.album_token_N)]
        return _binary_matrix(np.concatenate(rows), np.concatenate(tokens), (len(first_days), self.size))

    def _demographics(self, first_days: FirstDays) -> tuple[LongVector, LongVector]:
        """Return row and token of each known country and age class."""
        token_of = self._country_tokens
        country = np.fromiter((token_of.get(code, -1) for code in first_days.country), np.int64, len(first_days))
        age = age_classes(first_days.age)
        age = np.where(age >= 0, age + self.spans["age"].start, -1)
        row, token = np.tile(np.arange(len(first_days)), 2), np.concatenate([country, age])
        known = token >= 0
        return row[known], token[known]


def pad_tokens(tokens_BV: csr_array) -> LongMatrix:
    """Return the tokens of each listener side by side, (B, T) with T at least 1, filled up with V."""
    sizes = np.diff(tokens_BV.indptr)
    out = np.full((len(sizes), max(1, int(sizes.max(initial=0)))), tokens_BV.shape[1], np.int64)
    out[np.arange(out.shape[1]) < sizes[:, None]] = tokens_BV.indices
    return out


def _find_known(lists: Ragged | None, ids: IdVector) -> tuple[LongVector, LongVector]:
    """Return row and position in `ids` (ascending) of each listed id that is in `ids`."""
    if lists is None or not lists.ids.size or not ids.size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    row = np.repeat(np.arange(len(lists)), lists.lengths)
    position = np.minimum(np.searchsorted(ids, lists.ids), len(ids) - 1)
    known = ids[position] == lists.ids
    return row[known], position[known]


def _binary_matrix(row: NDArray[np.int64], column: NDArray[np.int64], shape: tuple[int, int]) -> csr_array:
    """Return a sparse matrix with a one at each (row, column), repeats counted once."""
    places = (row.astype(np.int32), column.astype(np.int32))  # SciPy keeps the width of the indices in all products
    matrix = coo_array((np.ones(len(row), np.float32), places), shape=shape).tocsr()
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
