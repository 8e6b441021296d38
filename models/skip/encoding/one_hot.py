"""One-hot encoding of ids, categories and binned numbers of a play.

Shapes   N plays, M fields, W positions of all fields together, V values of a field that have their own position

The first position of every field is for unknown values: values that are missing from training or rarer than
`min_count`, the category -1, and NaN. A linear model or a factorisation machine learns one weight for all rare values
there. If training has no rare value, this weight stays 0 and an unknown value adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from models.skip.data.plays import IDS, Plays

UNKNOWN = -1
_LEARNED_FROM = 500_000  # plays used to compute the edges of bins


class Vocabulary:
    """Codes 1 to V for the values that are frequent in training; code 0 for all other values."""

    def __init__(self, values_V: NDArray[np.int64]) -> None:
        """Build a vocabulary from its values.

        Args:
            values_V: Distinct values, ascending.
        """
        self.values_V = np.asarray(values_V, np.int64)

    @classmethod
    def learn(cls, values_N: NDArray[np.integer], min_count: int = 1, max_values: int | None = None) -> Vocabulary:
        """Learn the values that occur at least `min_count` times, without UNKNOWN.

        Args:
            values_N: Values of the training plays.
            min_count: Smallest number of occurrences.
            max_values: Largest number of values, the most frequent ones; None for no limit.
        """
        values, counts = np.unique(np.asarray(values_N, np.int64), return_counts=True)
        frequent = (counts >= min_count) & (values != UNKNOWN)
        values, counts = values[frequent], counts[frequent]
        if max_values is not None and len(values) > max_values:
            values = np.sort(values[np.argsort(-counts, kind="stable")[:max_values]])
        return cls(values)

    def __len__(self) -> int:
        """Return the number of codes, V + 1, including the one for unknown values."""
        return len(self.values_V) + 1

    def codes(self, values_N: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the code of each value, (N,) int32, 0 to V."""
        values_N = np.asarray(values_N, np.int64)
        if not len(self.values_V):
            return np.zeros(len(values_N), np.int32)
        at = np.minimum(np.searchsorted(self.values_V, values_N), len(self.values_V) - 1)
        return np.where(self.values_V[at] == values_N, at + 1, 0).astype(np.int32)


def field(plays: Plays, name: str, model_name: str) -> NDArray[np.int64]:
    """Return a column as integers, (N,) int64: an id, is_flow, a category, or a number with NaN as UNKNOWN."""
    if name in IDS:
        ids: NDArray[np.int64] = getattr(plays, f"{name}_N")
        return ids
    if name == "is_flow":
        return plays.is_flow_N.astype(np.int64)
    if name in plays.categories:
        return plays.categories[name].astype(np.int64)
    column = plays.numbers((name,), model_name)[:, 0]
    return np.where(np.isnan(column), UNKNOWN, np.nan_to_num(column)).astype(np.int64)


class OneHot:
    """One-hot encoder: fields encoded by value (`exact`) and numbers by bin (`binned`)."""

    def __init__(
        self,
        exact: tuple[str, ...],
        binned: tuple[str, ...],
        vocabularies: list[Vocabulary],
        edges: list[NDArray[np.float32]],
        model_name: str,
    ) -> None:
        """Build the encoder from learned parts.

        Args:
            exact: Names of the fields encoded by value.
            binned: Names of the numeric features encoded by bin.
            vocabularies: One for each of `exact`.
            edges: Ascending bin edges, one array for each of `binned`.
            model_name: Name of the model, for error messages.
        """
        self.exact, self.binned = exact, binned
        self.vocabularies, self.edges = vocabularies, edges
        self.model_name = model_name
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
        model_name: str,
        max_values: int | None = None,
        prepare: Callable[[Plays], Plays] | None = None,
    ) -> OneHot:
        """Learn the vocabularies and the bin edges from training plays.

        Args:
            plays: Training plays.
            exact: Names of the fields encoded by value.
            binned: Names of the numeric features encoded by bin.
            bins: Number of bins, with about equally many plays each.
            min_count: Smallest number of plays of a value with its own position.
            model_name: Name of the model, for error messages.
            max_values: Largest number of values per field; None for no limit.
            prepare: Maps a sample of the plays to plays with the features to bin, so that these features are never
                computed for all plays at once.
        """
        vocabularies = [Vocabulary.learn(field(plays, name, model_name), min_count, max_values) for name in exact]
        sample = plays.rows(slice(None, None, max(1, len(plays) // _LEARNED_FROM)))
        if prepare is not None:
            sample = prepare(sample)
        edges = []
        for name in binned:
            values = sample.numbers((name,), model_name)[:, 0]
            values = values[~np.isnan(values)]
            quantiles = np.quantile(values, np.arange(1, bins) / bins) if len(values) else np.empty(0)
            edges.append(np.unique(quantiles.astype(np.float32)))
        return cls(exact, binned, vocabularies, edges, model_name)

    @property
    def width(self) -> int:
        """Number of positions W."""
        return int(self.start_M[-1])

    def positions(self, plays: Plays) -> NDArray[np.int32]:
        """Return the position of each field, (N, M) int32, 0 to W - 1."""
        out_NM = np.empty((len(plays), len(self.fields)), np.int32)
        for m, (name, vocabulary) in enumerate(zip(self.exact, self.vocabularies, strict=True)):
            out_NM[:, m] = vocabulary.codes(field(plays, name, self.model_name))
        for m, (name, edges) in enumerate(zip(self.binned, self.edges, strict=True), len(self.exact)):
            column = plays.numbers((name,), self.model_name)[:, 0]
            out_NM[:, m] = np.where(np.isnan(column), 0, 1 + np.searchsorted(edges, column, side="right"))
        out_NM += self.start_M[:-1]
        return out_NM

    def matrix(self, plays: Plays) -> csr_matrix:
        """Return the one-hot rows, (N, W) float32, with M ones each."""
        return self.matrix_at(self.positions(plays))

    def matrix_at(self, positions_NM: NDArray[np.int32]) -> csr_matrix:
        """Return the one-hot rows (N, W) float32 for given positions."""
        n, m = positions_NM.shape
        ends = np.arange(0, n * m + 1, max(m, 1), dtype=np.int32 if n * m < 2**31 else np.int64)
        return csr_matrix((np.ones(n * m, np.float32), positions_NM.ravel(), ends), shape=(n, self.width))

    def state(self) -> tuple[dict[str, tuple[str, ...]], dict[str, np.ndarray]]:
        """Return the learned parts as JSON values and arrays, for restore()."""
        arrays: dict[str, np.ndarray] = {f"values.{m}": v.values_V for m, v in enumerate(self.vocabularies)}
        arrays |= {f"edges.{m}": e for m, e in enumerate(self.edges)}
        return {"exact": self.exact, "binned": self.binned}, arrays

    @classmethod
    def restore(
        cls, fields: Mapping[str, tuple[str, ...]], arrays: Mapping[str, np.ndarray], model_name: str
    ) -> OneHot:
        """Rebuild the encoder from the output of state()."""
        exact, binned = tuple(fields["exact"]), tuple(fields["binned"])
        vocabularies = [Vocabulary(arrays[f"values.{m}"]) for m in range(len(exact))]
        return cls(exact, binned, vocabularies, [arrays[f"edges.{m}"] for m in range(len(binned))], model_name)
