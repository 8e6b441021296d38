"""The network's input: what is known of a listener at the end of the registration day, as one row of numbers.

Shapes   B listeners, d width of the space, n entities of a kind, F = 20 d + 19 values (2579 for d = 128, 5139 for 256)
Source   Briand et al. 2021, section 3.2.2 and Figure 2; order of blocks and scalars as in the public dataset
Rules    a block is the plain mean of the vectors of the ids that have one, repeats counted, not re-normalised;
         a count is the number of ids, known or not; a missing block is zero; age -1 = unknown; nothing is scaled

Training and the service both call `input_vectors`. A row's values do not depend on the rows beside it, to the bit:
sums run over one listener's ids in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

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
# song -> favorite_songs, skipped_songs ...: the blocks that are looked up together.
BLOCKS_OF = {kind: tuple(b for b in INTERACTIONS if b.endswith(f"_{kind}s")) for kind in KINDS}

AGE_CLASSES = ("under 18", "18-24", "25-34", "35-49", "50+")
_AGE_STARTS = np.array([0, 18, 25, 35, 50])
_CHUNK = 2048  # listeners a pass: the block of sums stays in cache and memory stays bounded
_FEW = 16  # lists of one kind that are summed one by one


def age_class(age: int | None) -> int:
    """Index into AGE_CLASSES of an age in years; -1 when the age is unknown (None or negative)."""
    if age is None or age < 0:
        return -1
    return sum(age >= start for start in (18, 25, 35, 50))


def age_classes(age_B: ArrayLike) -> NDArray[np.int64]:
    """Like `age_class` for (B,) ages; -1 where unknown (negative)."""
    classes: NDArray[np.int64] = np.searchsorted(_AGE_STARTS, np.asarray(age_B), side="right") - 1
    return classes


@dataclass(frozen=True)
class Layout:
    """Where each value lives in a row, for a space of width d."""

    d: int

    def __post_init__(self) -> None:
        if self.d < 1:
            raise ValueError(f"layout: d must be at least 1, got {self.d}")

    @classmethod
    def from_width(cls, width: int) -> Layout:
        """The layout of rows with `width` values; ValueError when no space gives that width."""
        d, rest = divmod(width - len(SCALARS), len(BLOCKS))
        if rest or d < 1:
            raise ValueError(f"layout: a row has 20 d + 19 values (2579 for d = 128, 5139 for d = 256), got {width}")
        return cls(d)

    @property
    def size(self) -> int:
        """F, the number of values in a row."""
        return len(BLOCKS) * self.d + len(SCALARS)

    def block(self, name: str) -> slice:
        """Columns of one of BLOCKS."""
        if name not in _BLOCK_AT:
            raise ValueError(f"layout: no block {name!r}; there are {', '.join(BLOCKS)}")
        start = _BLOCK_AT[name] * self.d
        return slice(start, start + self.d)

    def scalar(self, name: str) -> int:
        """Column of one of SCALARS."""
        if name not in _SCALAR_AT:
            raise ValueError(f"layout: no scalar {name!r}; there are {', '.join(SCALARS)}")
        return len(BLOCKS) * self.d + _SCALAR_AT[name]

    def names(self) -> list[str]:
        """One name a column, F of them, spelt as in the public dataset: age_embedding0, age_embedding1 ..."""
        return [f"{block}_embedding{i}" for block in BLOCKS for i in range(self.d)] + list(SCALARS)


@dataclass(frozen=True, eq=False)
class Ragged:
    """B lists of ids end to end: list b is ids[offsets[b]:offsets[b + 1]]; offsets (B + 1,) int64, ids int64."""

    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        offsets = np.asarray(self.offsets)
        ids = np.asarray(self.ids)
        if ids.size and ids.dtype.kind not in "iu":
            raise ValueError(f"ragged: ids must be integers, got {ids.dtype}")
        if offsets.ndim != 1 or ids.ndim != 1 or offsets.size < 1 or offsets.dtype.kind not in "iu":
            raise ValueError(f"ragged: offsets (B + 1,) and ids (n,) must be flat, got {offsets.shape} and {ids.shape}")
        offsets = offsets.astype(np.int64, copy=False)
        if offsets[0] != 0 or offsets[-1] != ids.size or (offsets.size > 2 and (offsets[1:] < offsets[:-1]).any()):
            raise ValueError(
                f"ragged: offsets must rise from 0 to the number of ids ({ids.size}), got {offsets[0]} to {offsets[-1]}"
            )
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "ids", ids.astype(np.int64, copy=False))

    def __len__(self) -> int:
        """Number of lists, B."""
        return self.offsets.size - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of ids of each list, (B,)."""
        return self.offsets[1:] - self.offsets[:-1]

    def row(self, b: int) -> NDArray[np.int64]:
        """Ids of list b, a view."""
        if not 0 <= b < len(self):
            raise IndexError(f"ragged: row {b} of {len(self)}")
        return self.ids[self.offsets[b] : self.offsets[b + 1]]

    def rows(self, start: int, stop: int) -> Ragged:
        """Lists start <= b < stop; the ids are a view."""
        offsets = self.offsets[start : stop + 1]
        return Ragged(offsets - offsets[0], self.ids[offsets[0] : offsets[-1]])

    def take(self, which: ArrayLike) -> Ragged:
        """Lists in the order of `which`, (B',) indices or a (B,) mask; ids are copied."""
        index = np.arange(len(self))[np.asarray(which)]
        lengths = self.lengths[index]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        source = np.repeat(self.offsets[index] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(offsets, self.ids[source])

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int] | NDArray[Any]]) -> Ragged:
        """From Python lists."""
        offsets = np.fromiter(accumulate(map(len, lists), initial=0), np.int64, len(lists) + 1)
        if any(isinstance(one, np.ndarray) for one in lists):
            return cls(offsets, np.concatenate([np.asarray(one) for one in lists if len(one)] or [offsets[:0]]))
        return cls(offsets, np.array(list(chain.from_iterable(lists)) or offsets[:0]))

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray | pa.Array, name: str = "column") -> Ragged:
        """From an Arrow list column without nulls; a single chunk of int64 ids is not copied."""
        array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        if not hasattr(array, "offsets"):
            raise ValueError(f"{name}: must be a list of integers, got {array.type}")
        if array.null_count or array.values.null_count:
            raise ValueError(f"{name}: holds nulls; an empty list means nothing known")
        offsets = array.offsets.to_numpy().astype(np.int64, copy=False)
        return cls(offsets - offsets[0], array.values.to_numpy()[offsets[0] : offsets[-1]])


@dataclass(frozen=True, eq=False)
class FirstDays:
    """What B listeners did on their registration day.

    country (B,) of codes, None = unknown; age (B,) years, -1 = unknown; blocks: ids by name of INTERACTIONS,
    a block that is not there is empty for everybody. ValueError on unknown blocks and on lengths that differ.
    """

    country: NDArray[np.object_]
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
        """Number of listeners, B."""
        return len(self.country)

    def rows(self, start: int, stop: int) -> FirstDays:
        """Listeners start <= b < stop; ids are views."""
        blocks = {name: ragged.rows(start, stop) for name, ragged in self.blocks.items()}
        return FirstDays(self.country[start:stop], self.age[start:stop], blocks)

    def take(self, which: ArrayLike) -> FirstDays:
        """Listeners in the order of `which`, (B',) indices or a (B,) mask."""
        blocks = {name: ragged.take(which) for name, ragged in self.blocks.items()}
        return FirstDays(self.country[np.asarray(which)], self.age[np.asarray(which)], blocks)

    @classmethod
    def single(cls, country: str | None, age: int | None, blocks: Mapping[str, Sequence[int]]) -> FirstDays:
        """A single listener, as the service sees it; empty or absent blocks are the same."""
        who = np.array([country], object)
        lists = {}
        for name, ids in blocks.items():
            offsets, values = np.array([0, len(ids)], np.int64), np.asarray(ids)
            lists[name] = Ragged(offsets, values if len(ids) else np.empty(0, np.int64))
        return cls(who, np.array([-1 if age is None else age]), lists)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> FirstDays:
        """From the columns of the first_day table; ids are not copied where each column is one chunk."""
        missing = [c for c in ("country", "age", *INTERACTIONS) if c not in table.column_names]
        if missing:
            raise ValueError(f"first_day: columns missing: {', '.join(missing)}")
        country = table["country"].to_numpy(zero_copy_only=False) if len(table) else np.empty(0, object)
        age = table["age"].fill_null(-1).to_numpy() if len(table) else np.empty(0, np.int32)
        return cls(country, age, {name: Ragged.from_arrow(table[name], f"first_day.{name}") for name in INTERACTIONS})


def _vectors(what: str, vectors: ArrayLike, shape: tuple[int | None, int | None]) -> NDArray[np.float32]:
    """Contiguous float32 matrix of that shape (None = any), all finite."""
    matrix = np.ascontiguousarray(vectors, np.float32)
    if matrix.ndim != 2 or any(
        want is not None and want != got for want, got in zip(shape, matrix.shape, strict=False)
    ):
        raise ValueError(
            f"{what}: must have shape {tuple('any' if s is None else s for s in shape)}, got {matrix.shape}"
        )
    if not np.isfinite(matrix.sum()):
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if bad.size:
            raise ValueError(f"{what}: row {bad[0]} and {bad.size - 1} others hold NaN or infinity")
    return matrix


@dataclass(frozen=True, eq=False)
class Entities:
    """Vectors of songs, artists, albums and playlists by stable id.

    ids: kind -> (n,) int64, strictly rising; vectors: kind -> (n, d) float32. A kind that is not there is empty.
    Arrays that already have these types, memory-mapped ones too, are not copied.
    """

    ids: Mapping[str, NDArray[np.int64]]
    vectors: Mapping[str, NDArray[np.float32]]
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

    def find(self, kind: str, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows of `ids` in vectors[kind] and which of them are known; the row of an unknown id means nothing."""
        known_ids = self.ids[kind]
        if not known_ids.size:
            return np.zeros(ids.size, np.int64), np.zeros(ids.size, bool)
        rows = np.searchsorted(known_ids, ids)
        np.minimum(rows, known_ids.size - 1, out=rows)
        return rows, known_ids[rows] == ids


@dataclass(frozen=True, eq=False)
class Demographics:
    """Mean vector of warm users by country code, (d,) each, and by age class, (5, d); zero where there is none."""

    country: Mapping[str, NDArray[np.float32]]
    age_class: NDArray[np.float32]
    _row: Mapping[str, int] = field(init=False, repr=False)
    _country: NDArray[np.float32] = field(init=False, repr=False)
    _age: NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        age = _vectors("demographics: age_class", self.age_class, (len(AGE_CLASSES), None))
        zero = np.zeros((1, age.shape[1]), np.float32)
        country = np.stack([np.asarray(v) for v in self.country.values()]) if self.country else zero[:0]
        country = _vectors("demographics: country", country, (None, age.shape[1]))
        object.__setattr__(self, "age_class", age)
        object.__setattr__(self, "_row", {name: i for i, name in enumerate(self.country)})
        # The last row, which index -1 reaches, is the zero vector of the unknown.
        object.__setattr__(self, "_country", np.concatenate([country, zero]))
        object.__setattr__(self, "_age", np.concatenate([age, zero]))

    @property
    def d(self) -> int:
        """Width of the space."""
        return int(self.age_class.shape[1])

    def country_vectors(self, country_B: NDArray[np.object_]) -> NDArray[np.float32]:
        """(B, d); zero for an unknown country."""
        rows = np.fromiter((self._row.get(code, -1) for code in country_B), np.int64, len(country_B))
        return self._country[rows]

    def age_vectors(self, age_B: NDArray[Any]) -> NDArray[np.float32]:
        """(B, d); zero for an unknown age."""
        return self._age[age_classes(age_B)]


def input_vectors(days: FirstDays, entities: Entities, demographics: Demographics) -> NDArray[np.float32]:
    """The rows of B listeners, (B, 20 d + 19) float32, in the order of `Layout`.

    Memory beside the result is bounded whatever B is. ValueError when the two spaces differ in width.
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


def _fill_means(
    rows: NDArray[np.float32],
    layout: Layout,
    kind: str,
    blocks: Mapping[str, Ragged],
    start: int,
    stop: int,
    entities: Entities,
) -> None:
    """Write the blocks of one kind: one look-up and one sparse product for all of them."""
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


def _sums(at: NDArray[np.int64], bounds: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of the vectors of each list, (L, D): rows at[bounds[l]:bounds[l + 1]], added in that order, from zero.

    For few lists the making of a sparse matrix would cost several times the sums; both ways give the same bits.
    """
    n_lists = bounds.size - 1
    if n_lists > _FEW:
        ones = np.ones(at.size, np.float32)
        found: NDArray[np.float32] = csr_array((ones, at, bounds), shape=(n_lists, len(vectors_ND))) @ vectors_ND
        return found
    sums, rows, ends = np.empty((n_lists, vectors_ND.shape[1]), np.float32), vectors_ND[at], bounds.tolist()
    for n in range(n_lists):
        np.add.reduce(rows[ends[n] : ends[n + 1]], axis=0, out=sums[n], initial=0)
    return sums
