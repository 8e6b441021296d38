"""Lists of ids of different lengths, as two arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.arrays import BoolVector, LongVector

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Ragged:
    """B lists of ids of different lengths, stored end to end.

    Attributes:
        offsets: (B + 1,) int64; list b is ids[offsets[b]:offsets[b + 1]].
        ids: all ids, int64.

    Raises:
        ValueError: ids or offsets are not flat integer arrays, or offsets do not rise from 0 to the number of ids.
    """

    offsets: LongVector
    ids: LongVector

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
        """Return B, the number of lists."""
        return self.offsets.size - 1

    @property
    def lengths(self) -> LongVector:
        """Number of ids of each list, (B,)."""
        return self.offsets[1:] - self.offsets[:-1]

    def row(self, b: int) -> LongVector:
        """Return the ids of list b, as a view; IndexError out of range."""
        if not 0 <= b < len(self):
            raise IndexError(f"ragged: row {b} of {len(self)}")
        return self.ids[self.offsets[b] : self.offsets[b + 1]]

    def rows(self, start: int, stop: int) -> Ragged:
        """Return the lists start <= b < stop; the ids are a view."""
        offsets = self.offsets[start : stop + 1]
        return Ragged(offsets - offsets[0], self.ids[offsets[0] : offsets[-1]])

    def take(self, which: ArrayLike) -> Ragged:
        """Return the lists that `which` selects, in its order; ids are copied.

        Args:
            which: indices (B',) or a mask (B,).
        """
        index = np.arange(len(self))[np.asarray(which)]
        lengths = self.lengths[index]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        source = np.repeat(self.offsets[index] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(offsets, self.ids[source])

    def keep(self, kept: BoolVector) -> Ragged:
        """Return the lists without the ids where `kept`, a mask like `ids`, is false."""
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept, dtype=np.int64)])
        return Ragged(before[self.offsets], self.ids[kept])

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int] | NDArray[Any]]) -> Ragged:
        """Build from Python lists or arrays of ids."""
        offsets = np.fromiter(accumulate(map(len, lists), initial=0), np.int64, len(lists) + 1)
        if any(isinstance(ids, np.ndarray) for ids in lists):
            return cls(offsets, np.concatenate([np.asarray(ids) for ids in lists if len(ids)] or [offsets[:0]]))
        return cls(offsets, np.array(list(chain.from_iterable(lists)) or offsets[:0]))

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray | pa.Array, name: str = "column") -> Ragged:
        """Build from an Arrow list column; a single chunk of int64 ids is not copied.

        Args:
            column: lists of integers, without nulls.
            name: name of the column, for errors.

        Raises:
            ValueError: the column has another type or contains nulls.
        """
        array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        if not hasattr(array, "offsets"):
            raise ValueError(f"{name}: must be a list of integers, got {array.type}")
        if array.null_count or array.values.null_count:
            raise ValueError(f"{name}: contains nulls; use an empty list where nothing is known")
        offsets = array.offsets.to_numpy().astype(np.int64, copy=False)
        return cls(offsets - offsets[0], array.values.to_numpy()[offsets[0] : offsets[-1]])
