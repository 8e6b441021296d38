"""The network's input: everything recorded about a listener on the registration day, as one row of numbers.

Shapes   B listeners, d width of the space, n entities of a kind, L lists, F = 20 d + 19 values (2579 for d = 128, 5139
         for 256)
Source   Briand et al. 2021, section 3.2.2 and Figure 2; order of blocks and scalars as in the public dataset
Rules    A block is the plain mean of the vectors of the ids that have one, repeats counted, not re-normalised. A count
         is the number of ids, known or not. A missing block is zero. Age -1 is unknown. Nothing is scaled

Training and the service both call `input_vectors`. A row is bit-identical in every batch, because sums run over one
listener's ids in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from models.arrays import BoolVector, FloatMatrix, LongVector, ObjectVector
from models.cold_start.ragged import Ragged

if TYPE_CHECKING:
    import pyarrow as pa

# fmt: off
INTERACTIONS = (
    "favorite_songs", "favorite_artists", "favorite_albums", "favorite_playlists", "onboarding_like_artists",
    "skipped_songs", "skipped_artists", "skipped_albums", "streamed_songs", "streamed_artists", "streamed_albums",
    "banned_songs", "banned_artists", "banned_albums",
    "search_songs", "search_artists", "search_albums", "search_playlists",
)
BLOCKS = ("age", "country", *INTERACTIONS)
SCALARS = (
    "age_value", "nb_favorite_songs", "nb_favorite_albums", "nb_favorite_artists", "nb_favorite_playlists",
    "nb_skipped_songs", "nb_skipped_artists", "nb_skipped_albums",
    "nb_banned_songs", "nb_banned_artists", "nb_banned_albums",
    "nb_streamed_songs", "nb_streamed_artists", "nb_streamed_albums",
    "nb_search_songs", "nb_search_albums", "nb_search_artists", "nb_search_playlists", "nb_onboarding_like_artists",
)
# fmt: on
_BLOCK_AT, _SCALAR_AT = ({name: at for at, name in enumerate(names)} for names in (BLOCKS, SCALARS))
KINDS = ("song", "artist", "album", "playlist")
# song -> favorite_songs, skipped_songs ...: the blocks of one kind, whose vectors are looked up together.
BLOCKS_OF = {kind: tuple(b for b in INTERACTIONS if b.endswith(f"_{kind}s")) for kind in KINDS}

AGE_CLASSES = ("under 18", "18-24", "25-34", "35-49", "50+")
_AGE_STARTS = np.array([0, 18, 25, 35, 50])
_CHUNK = 2048  # listeners per pass: the sums of a pass fit in cache, and memory is bounded
_MAX_DIRECT_LISTS = 16  # up to this number, lists of one kind are summed one by one


def age_class(age: int | None) -> int:
    """Return the index into AGE_CLASSES of an age in years; -1 for an unknown age (None or negative)."""
    if age is None or age < 0:
        return -1
    return sum(age >= start for start in (18, 25, 35, 50))


def age_classes(age_B: ArrayLike) -> LongVector:
    """Return the index into AGE_CLASSES of each age (B,) in years; -1 for an unknown age (negative)."""
    classes: LongVector = np.searchsorted(_AGE_STARTS, np.asarray(age_B), side="right") - 1
    return classes


@dataclass(frozen=True)
class Layout:
    """Columns of an input row, for a space of width d."""

    d: int

    def __post_init__(self) -> None:
        if self.d < 1:
            raise ValueError(f"layout: d must be at least 1, got {self.d}")

    @classmethod
    def from_width(cls, width: int) -> Layout:
        """Return the layout of rows with `width` values.

        Raises:
            ValueError: no d gives that width.
        """
        d, rest = divmod(width - len(SCALARS), len(BLOCKS))
        if rest or d < 1:
            raise ValueError(f"layout: a row has 20 d + 19 values (2579 for d = 128, 5139 for d = 256), got {width}")
        return cls(d)

    @property
    def size(self) -> int:
        """F, the number of values in a row."""
        return len(BLOCKS) * self.d + len(SCALARS)

    def block(self, name: str) -> slice:
        """Return the columns of one of BLOCKS; ValueError for another name."""
        if name not in _BLOCK_AT:
            raise ValueError(f"layout: no block {name!r}; there are {', '.join(BLOCKS)}")
        start = _BLOCK_AT[name] * self.d
        return slice(start, start + self.d)

    def scalar(self, name: str) -> int:
        """Return the column of one of SCALARS; ValueError for another name."""
        if name not in _SCALAR_AT:
            raise ValueError(f"layout: no scalar {name!r}; there are {', '.join(SCALARS)}")
        return len(BLOCKS) * self.d + _SCALAR_AT[name]

    def names(self) -> list[str]:
        """Return the F column names, spelt as in the public dataset: age_embedding0, age_embedding1 ..."""
        return [f"{block}_embedding{i}" for block in BLOCKS for i in range(self.d)] + list(SCALARS)


@dataclass(frozen=True, eq=False)
class FirstDays:
    """The recorded actions of B listeners on their registration day.

    Attributes:
        country: country codes (B,), None where unknown.
        age: ages in years (B,), -1 where unknown.
        blocks: ids by name of INTERACTIONS; a missing block is empty for every listener.

    Raises:
        ValueError: a block is unknown, lengths differ, or an age is not a whole number of at least -1.
    """

    country: ObjectVector
    age: NDArray[Any]
    blocks: Mapping[str, Ragged]

    def __post_init__(self) -> None:
        country, age = np.asarray(self.country, object), np.asarray(self.age)
        if country.ndim != 1 or age.shape != country.shape:
            raise ValueError(f"first days: country and age must be (B,), got {country.shape} and {age.shape}")
        if age.size and (age.dtype.kind not in "iu" or age.min() < -1):
            raise ValueError(f"first days: age must be whole years or -1 for unknown, got {age.min()} ({age.dtype})")
        for name, ragged in self.blocks.items():
            if name not in INTERACTIONS:
                raise ValueError(f"first days: no block {name!r}; there are {', '.join(INTERACTIONS)}")
            if len(ragged) != len(country):
                raise ValueError(f"first days: {name} has {len(ragged)} lists for {len(country)} listeners")
        object.__setattr__(self, "country", country)
        object.__setattr__(self, "age", age)

    def __len__(self) -> int:
        """Return B, the number of listeners."""
        return len(self.country)

    def rows(self, start: int, stop: int) -> FirstDays:
        """Return the listeners start <= b < stop; ids are views."""
        blocks = {name: ragged.rows(start, stop) for name, ragged in self.blocks.items()}
        return FirstDays(self.country[start:stop], self.age[start:stop], blocks)

    def take(self, which: ArrayLike) -> FirstDays:
        """Return the listeners that `which` selects, in its order: indices (B',) or a mask (B,)."""
        blocks = {name: ragged.take(which) for name, ragged in self.blocks.items()}
        return FirstDays(self.country[np.asarray(which)], self.age[np.asarray(which)], blocks)

    def without_interactions(self) -> BoolVector:
        """Return which listeners (B,) have no interaction: at most country and age are known of them."""
        count_B = np.zeros(len(self), np.int64)
        for ragged in self.blocks.values():
            count_B += ragged.lengths
        silent_B: BoolVector = count_B == 0
        return silent_B

    @classmethod
    def single(cls, country: str | None, age: int | None, blocks: Mapping[str, Sequence[int]]) -> FirstDays:
        """Return the first day of one listener, as the service receives it; empty and missing blocks are equivalent."""
        country_B = np.array([country], object)
        lists = {}
        for name, ids in blocks.items():
            offsets, values = np.array([0, len(ids)], np.int64), np.asarray(ids)
            lists[name] = Ragged(offsets, values if len(ids) else np.empty(0, np.int64))
        return cls(country_B, np.array([-1 if age is None else age]), lists)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> FirstDays:
        """Build from the columns of the first_day table; ids of columns with one chunk are not copied.

        Raises:
            ValueError: a column is missing.
        """
        missing = [c for c in ("country", "age", *INTERACTIONS) if c not in table.column_names]
        if missing:
            raise ValueError(f"first_day: columns missing: {', '.join(missing)}")
        country = table["country"].to_numpy(zero_copy_only=False) if len(table) else np.empty(0, object)
        age = table["age"].fill_null(-1).to_numpy() if len(table) else np.empty(0, np.int32)
        return cls(country, age, {name: Ragged.from_arrow(table[name], f"first_day.{name}") for name in INTERACTIONS})


def _vectors(what: str, vectors: ArrayLike, shape: tuple[int | None, int | None]) -> FloatMatrix:
    """Return `vectors` as a contiguous float32 matrix of the given shape (None = any).

    Raises:
        ValueError: the shape differs, or a row contains NaN or infinity; the message starts with `what`.
    """
    matrix = np.ascontiguousarray(vectors, np.float32)
    if matrix.ndim != 2 or any(
        expected is not None and expected != actual for expected, actual in zip(shape, matrix.shape, strict=False)
    ):
        raise ValueError(
            f"{what}: must have shape {tuple('any' if s is None else s for s in shape)}, got {matrix.shape}"
        )
    if not np.isfinite(matrix.sum()):
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if bad.size:
            raise ValueError(f"{what}: row {bad[0]} and {bad.size - 1} others contain NaN or infinity")
    return matrix


@dataclass(frozen=True, eq=False)
class Entities:
    """Vectors of songs, artists, albums and playlists by stable id.

    Attributes:
        ids: kind -> (n,) int64, strictly rising. A missing kind is empty.
        vectors: kind -> (n, d) float32. Arrays of that type, also memory-mapped ones, are not copied.
        d: width of the vectors.

    Raises:
        ValueError: kinds differ between ids and vectors, ids do not rise strictly, or a vector is not finite.
    """

    ids: Mapping[str, LongVector]
    vectors: Mapping[str, FloatMatrix]
    d: int = field(init=False)

    def __post_init__(self) -> None:
        unknown = sorted({*self.ids, *self.vectors} - set(KINDS))
        if unknown or set(self.ids) != set(self.vectors) or not self.ids:
            raise ValueError(
                f"entities: ids and vectors must have the same kinds out of {', '.join(KINDS)}; "
                f"got {sorted(self.ids)} and {sorted(self.vectors)}"
            )
        ids, vectors, width = {}, {}, None
        for kind in self.ids:
            if np.asarray(self.ids[kind]).size and np.asarray(self.ids[kind]).dtype.kind not in "iu":
                raise ValueError(f"entities: ids of {kind} must be integers, got {np.asarray(self.ids[kind]).dtype}")
            ids[kind] = np.ascontiguousarray(self.ids[kind], np.int64)
            vectors[kind] = _vectors(f"entities: vectors of {kind}", self.vectors[kind], (ids[kind].size, width))
            width = vectors[kind].shape[1]
            if ids[kind].ndim != 1 or (ids[kind][1:] <= ids[kind][:-1]).any():
                raise ValueError(f"entities: ids of {kind} must rise strictly; sort ids and vectors together")
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "d", width)

    def find(self, kind: str, ids: LongVector) -> tuple[LongVector, BoolVector]:
        """Look up ids of one kind.

        Returns:
            The row of each id in vectors[kind] and whether the id is known; the row of an unknown id is arbitrary.
        """
        known_ids = self.ids[kind]
        if not known_ids.size:
            return np.zeros(ids.size, np.int64), np.zeros(ids.size, bool)
        rows = np.searchsorted(known_ids, ids)
        np.minimum(rows, known_ids.size - 1, out=rows)
        return rows, known_ids[rows] == ids


@dataclass(frozen=True, eq=False)
class Demographics:
    """Mean vectors of warm users by country and by age class.

    Attributes:
        country: country code -> (d,).
        age_class: (5, d), zero for a class without users.
    """

    country: Mapping[str, FloatMatrix]
    age_class: FloatMatrix
    _row: Mapping[str, int] = field(init=False, repr=False)
    _country: FloatMatrix = field(init=False, repr=False)
    _age: FloatMatrix = field(init=False, repr=False)

    def __post_init__(self) -> None:
        age = _vectors("demographics: age_class", self.age_class, (len(AGE_CLASSES), None))
        zero = np.zeros((1, age.shape[1]), np.float32)
        country = np.stack([np.asarray(v) for v in self.country.values()]) if self.country else zero[:0]
        country = _vectors("demographics: country", country, (None, age.shape[1]))
        object.__setattr__(self, "age_class", age)
        object.__setattr__(self, "_row", {name: i for i, name in enumerate(self.country)})
        # The last row, at index -1, is the zero vector for unknown values.
        object.__setattr__(self, "_country", np.concatenate([country, zero]))
        object.__setattr__(self, "_age", np.concatenate([age, zero]))

    @property
    def d(self) -> int:
        """The width of the space."""
        return int(self.age_class.shape[1])

    def country_vectors(self, country_B: ObjectVector) -> FloatMatrix:
        """Return the mean vector of each country, (B, d); zero for an unknown country."""
        rows = np.fromiter((self._row.get(code, -1) for code in country_B), np.int64, len(country_B))
        return self._country[rows]

    def age_vectors(self, age_B: NDArray[Any]) -> FloatMatrix:
        """Return the mean vector of each age's class, (B, d); zero for an unknown age."""
        return self._age[age_classes(age_B)]


def input_vectors(days: FirstDays, entities: Entities, demographics: Demographics) -> FloatMatrix:
    """Return the input rows of B listeners, (B, 20 d + 19) float32, in the order of `Layout`.

    Args:
        days: first days of the listeners.
        entities: vectors of the ids.
        demographics: mean vectors of countries and age classes, of the same space.

    Returns:
        One row per listener. Memory beside the result is bounded for any B.

    Raises:
        ValueError: entities and demographics have different widths.
    """
    if demographics.d != entities.d:
        raise ValueError(f"input vectors: entities have d = {entities.d}, demographics d = {demographics.d}")
    layout = Layout(entities.d)
    out = np.zeros((len(days), layout.size), np.float32)
    out[:, layout.scalar("age_value")] = days.age
    for name, ragged in days.blocks.items():
        if ragged.ids.size:
            out[:, layout.scalar(f"nb_{name}")] = ragged.lengths
    for start in range(0, len(days), _CHUNK):
        stop = min(start + _CHUNK, len(days))
        rows = out[start:stop]
        rows[:, layout.block("age")] = demographics.age_vectors(days.age[start:stop])
        rows[:, layout.block("country")] = demographics.country_vectors(days.country[start:stop])
        for kind in entities.ids:
            _fill_means(rows, layout, kind, days.blocks, start, stop, entities)
    return out


def without_known_interactions(x_BF: FloatMatrix) -> BoolVector:
    """Return of which listeners (B,) no interaction has a vector: at most country, age and counts are known of them.

    Args:
        x_BF: input rows.

    Raises:
        ValueError: the rows have another width than that of a `Layout`.
    """
    layout = Layout.from_width(x_BF.shape[1])
    interactions = slice(layout.block(INTERACTIONS[0]).start, layout.block(INTERACTIONS[-1]).stop)
    unknown_B: BoolVector = ~np.any(x_BF[:, interactions], axis=1)
    return unknown_B


def _fill_means(
    rows: FloatMatrix,
    layout: Layout,
    kind: str,
    blocks: Mapping[str, Ragged],
    start: int,
    stop: int,
    entities: Entities,
) -> None:
    """Write the blocks of one kind, with one look-up and one sparse product for all of them."""
    names, parts, lengths = [], [], [np.zeros(1, np.int64)]
    for name in BLOCKS_OF[kind]:
        if name in blocks:
            offsets = blocks[name].offsets[start : stop + 1]
            if offsets[-1] > offsets[0]:
                names.append(name)
                parts.append(blocks[name].ids[offsets[0] : offsets[-1]])
                lengths.append(offsets[1:] - offsets[:-1])
    if not names:
        return
    at, known = entities.find(kind, np.concatenate(parts))
    bounds = np.cumsum(np.concatenate(lengths))
    if not known.all():
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(known)])[bounds]
        at = at[known]
    n_known = bounds[1:] - bounds[:-1]
    sums = _sums(at, bounds, entities.vectors[kind])
    sums /= np.maximum(n_known, 1).astype(np.float32)[:, None]
    for n, name in enumerate(names):
        rows[:, layout.block(name)] = sums[n * len(rows) : (n + 1) * len(rows)]


def _sums(at: LongVector, bounds: LongVector, vectors_ND: FloatMatrix) -> FloatMatrix:
    """Return the sum of the vectors of each list, (L, D).

    List l is at[bounds[l]:bounds[l + 1]], rows of vectors_ND, added in that order from zero. For few lists, building a
    sparse matrix would cost several times the sums. Both ways give the same bits.
    """
    n_lists = bounds.size - 1
    if n_lists > _MAX_DIRECT_LISTS:
        ones = np.ones(at.size, np.float32)
        total_LD: FloatMatrix = csr_array((ones, at, bounds), shape=(n_lists, len(vectors_ND))) @ vectors_ND
        return total_LD
    sums, rows, ends = np.empty((n_lists, vectors_ND.shape[1]), np.float32), vectors_ND[at], bounds.tolist()
    for n in range(n_lists):
        np.add.reduce(rows[ends[n] : ends[n + 1]], axis=0, out=sums[n], initial=0)
    return sums
