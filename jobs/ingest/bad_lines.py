"""Lines or rows that an adapter cannot use: numbers by reason, the first few, and all of them for the quarantine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from contracts.errors import CheckFailed
from jobs.ingest.quarantine import LONGEST_ROW

EXAMPLES = 5
MAX_STORED = 1_000_000


class BadLines:
    """Lines or rows of one file, or of the files of one folder, that could not be used.

    Memory: the distinct bad lines of each file, at most `MAX_STORED`.
    """

    def __init__(self, path: Path, unit: str = "lines") -> None:
        """Start without any.

        Args:
            path: The file or the folder.
            unit: What is counted, in the plural.
        """
        self.path, self.unit, self.total = path, unit, 0
        self.reasons: Counter[str] = Counter()
        self.first: list[str] = []
        self._stored: Counter[tuple[str, str, str]] = Counter()
        self._not_stored = 0

    def add(self, place: int | str, reason: str, text: str, file: str = "") -> None:
        """Add one line.

        Args:
            place: Number of the line in the file, or the place as text.
            reason: Why it cannot be used.
            text: What it contains.
            file: Name of the file where `path` is a folder.
        """
        file = file or self.path.name
        self.reasons[reason] += 1
        if len(self.first) < EXAMPLES:
            where = f"{file}:{place}" if isinstance(place, int) else f"{file}: {place}"
            self.first.append(f"{where}: {reason}: {text[:100]!r}")
        row = (reason, text[:LONGEST_ROW], file)
        if row in self._stored or len(self._stored) < MAX_STORED:
            self._stored[row] += 1
        else:
            self._not_stored += 1

    def report(self) -> dict[str, Any]:
        """Return the entries of the job's report."""
        counts = {"read": self.total, "bad": dict(sorted(self.reasons.items())), "first": self.first}
        return counts | ({"not_in_quarantine": self._not_stored} if self._not_stored else {})

    def rows(self) -> pa.Table:
        """Return the columns of the table `quarantine`."""
        reason, row, file = zip(*self._stored, strict=True) if self._stored else ((), (), ())
        texts = {"reason": reason, "row": row, "source_file": file}
        columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
        return pa.table(columns | {"n_rows": pa.array(list(self._stored.values()), pa.int64())})

    def enforce(self, max_share: float) -> None:
        """Raise CheckFailed if too large a share was bad, or nothing was read."""
        n_bad = sum(self.reasons.values())
        if self.total == n_bad or n_bad > max_share * self.total:
            counts = ", ".join(f"{reason} {n}" for reason, n in self.reasons.most_common()) or "the file is empty"
            raise CheckFailed(
                f"{self.path}: {n_bad} of {self.total} {self.unit} cannot be read, more than source.max_bad_share = "
                f"{max_share:g} allows ({counts}); nothing was written\n  " + "\n  ".join(self.first)
            )
