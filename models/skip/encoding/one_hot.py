"""Ids, categories and binned numbers of a play as places in one long row of zeros and ones.

Shapes   N plays, M fields, W places of all fields together, V values of a field that have a place of their own

Every field begins with a place for what is unknown: values that training has not met, or met less than `min_count`
times, the category -1 and the number NaN. A linear model or a factorisation machine learns the weight of the rare ones
there; where training met none of them, that weight stays 0 and an unknown value adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from models.skip.data.plays import IDS, Plays

UNKNOWN = -1
_LEARNED_FROM = 500_000  # plays whose numbers are sorted to find the borders of bins


class Vocabulary:
    """Places 1 to V for the values that training met often enough; 0 for all others."""

    def __init__(self, values_V: NDArray[np.int64]) -> None:
        """`values_V`: distinct, rising."""
        self.values_V = np.asarray(values_V, np.int64)

    @classmethod
    def learn(cls, values_N: NDArray[np.integer], min_count: int = 1, most: int | None = None) -> Vocabulary:
        """Values that are there at least `min_count` times, the `most` frequent ones; UNKNOWN never is one."""
        values, counts = np.unique(np.asarray(values_N, np.int64), return_counts=True)
        kept = (counts >= min_count) & (values != UNKNOWN)
        values, counts = values[kept], counts[kept]
        if most is not None and len(values) > most:
            values = np.sort(values[np.argsort(-counts, kind="stable")[:most]])
        return cls(values)

    def __len__(self) -> int:
        """V + 1: places, the unknown one included."""
        return len(self.values_V) + 1

    def place(self, values_N: NDArray[np.integer]) -> NDArray[np.int32]:
        """(N,) int32, 0 to V."""
        values_N = np.asarray(values_N, np.int64)
        if not len(self.values_V):
            return np.zeros(len(values_N), np.int32)
        at = np.minimum(np.searchsorted(self.values_V, values_N), len(self.values_V) - 1)
        return np.where(self.values_V[at] == values_N, at + 1, 0).astype(np.int32)


def field(plays: Plays, name: str, for_whom: str) -> NDArray[np.int64]:
    """A column as whole numbers, (N,) int64: an id, `is_flow`, a category, or a number whose NaN is UNKNOWN."""
    if name in IDS:
        ids: NDArray[np.int64] = getattr(plays, f"{name}_N")
        return ids
    if name == "is_flow":
        return plays.is_flow_N.astype(np.int64)
    if name in plays.categories:
        return plays.categories[name].astype(np.int64)
    column = plays.numbers((name,), for_whom)[:, 0]
    return np.where(np.isnan(column), UNKNOWN, np.nan_to_num(column)).astype(np.int64)


class OneHot:
    """Fields by value (`exact`) and numbers by the bin they fall into (`binned`), each with its own places."""

    def __init__(
        self,
        exact: tuple[str, ...],
        binned: tuple[str, ...],
        vocabularies: list[Vocabulary],
        edges: list[NDArray[np.float32]],
        for_whom: str,
    ) -> None:
        """Parts as learn() makes them."""
        self.exact, self.binned, self.vocabularies, self.edges, self.for_whom = (
            exact,
            binned,
            vocabularies,
            edges,
            for_whom,
        )
        sizes = [len(v) for v in vocabularies] + [len(e) + 2 for e in edges]
        self.start_M = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        self.fields = (*exact, *binned)

    @classmethod
    def learn(
        cls,
        plays: Plays,
        exact: tuple[str, ...],
        binned: tuple[str, ...],
        bins: int,
        min_count: int,
        for_whom: str,
        most: int | None = None,
        prepared: Callable[[Plays], Plays] | None = None,
    ) -> OneHot:
        """From training plays: a value needs `min_count` of them; bins hold about equally many.

        `prepared` makes of plays those with the numbers to bin: bins are learned from some plays alone, so that the
        numbers of all are never made at once.
        """
        vocabularies = [Vocabulary.learn(field(plays, name, for_whom), min_count, most) for name in exact]
        some = plays.rows(slice(None, None, max(1, len(plays) // _LEARNED_FROM)))
        if prepared is not None:
            some = prepared(some)
        edges = []
        for name in binned:
            known = some.numbers((name,), for_whom)[:, 0]
            known = known[~np.isnan(known)]
            quantiles = np.quantile(known, np.arange(1, bins) / bins) if len(known) else np.empty(0)
            edges.append(np.unique(quantiles.astype(np.float32)))
        return cls(exact, binned, vocabularies, edges, for_whom)

    @property
    def width(self) -> int:
        """W."""
        return int(self.start_M[-1])

    def places(self, plays: Plays) -> NDArray[np.int32]:
        """One place a field, (N, M) int32, below W."""
        out_NM = np.empty((len(plays), len(self.fields)), np.int32)
        for m, (name, vocabulary) in enumerate(zip(self.exact, self.vocabularies, strict=True)):
            out_NM[:, m] = vocabulary.place(field(plays, name, self.for_whom))
        for m, (name, edges) in enumerate(zip(self.binned, self.edges, strict=True), len(self.exact)):
            column = plays.numbers((name,), self.for_whom)[:, 0]
            out_NM[:, m] = np.where(np.isnan(column), 0, 1 + np.searchsorted(edges, column, side="right"))
        out_NM += self.start_M[:-1]
        return out_NM

    def matrix(self, plays: Plays) -> csr_matrix:
        """(N, W) float32 of zeros and ones, M of them a row."""
        return self.ones(self.places(plays))

    def ones(self, places_NM: NDArray[np.int32]) -> csr_matrix:
        """Ones at some plays' places, (N, W) float32."""
        n, m = places_NM.shape
        ends = np.arange(0, n * m + 1, max(m, 1), dtype=np.int32 if n * m < 2**31 else np.int64)
        return csr_matrix((np.ones(n * m, np.float32), places_NM.ravel(), ends), shape=(n, self.width))

    def state(self) -> tuple[dict[str, tuple[str, ...]], dict[str, np.ndarray]]:
        """What restore() takes."""
        arrays: dict[str, np.ndarray] = {f"values.{m}": v.values_V for m, v in enumerate(self.vocabularies)}
        arrays |= {f"edges.{m}": e for m, e in enumerate(self.edges)}
        return {"exact": self.exact, "binned": self.binned}, arrays

    @classmethod
    def restore(cls, fields: Mapping[str, tuple[str, ...]], arrays: Mapping[str, np.ndarray], for_whom: str) -> OneHot:
        """What state() gave."""
        exact, binned = tuple(fields["exact"]), tuple(fields["binned"])
        vocabularies = [Vocabulary(arrays[f"values.{m}"]) for m in range(len(exact))]
        return cls(exact, binned, vocabularies, [arrays[f"edges.{m}"] for m in range(len(binned))], for_whom)
