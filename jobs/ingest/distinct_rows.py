"""The distinct rows of a stream of tables, of which only the distinct ones are in memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

PENDING_ROWS = 200_000


class DistinctRows:
    """For each value of a key, its first row."""

    def __init__(self, key: str) -> None:
        """Start without rows.

        Args:
            key: Name of an int64 column of the tables.
        """
        self._key = key
        self._parts: list[pa.Table] = []
        self._pending, self._known = 0, 0

    def add(self, table: pa.Table) -> None:
        """Add a table; all have the same columns."""
        part = self._first_rows(table)
        self._parts.append(part)
        self._pending += part.num_rows
        if self._pending > self._known + PENDING_ROWS:
            self.table()

    def table(self) -> pa.Table:
        """Return the rows, by key, ascending."""
        if not self._parts:
            raise AssertionError("no table was added")
        table = self._first_rows(pa.concat_tables(self._parts)).combine_chunks()
        self._parts, self._known, self._pending = [table], table.num_rows, 0
        return table

    def _first_rows(self, table: pa.Table) -> pa.Table:
        _, once = np.unique(table[self._key].to_numpy(), return_index=True)
        return table.take(pa.array(once))
