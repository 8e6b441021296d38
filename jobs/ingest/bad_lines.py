"""Counts of lines or rows that an adapter cannot use, by reason, with the first few of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from contracts.errors import CheckFailed

EXAMPLES = 5


class BadLines:
    """Lines or rows of one file, or of the files of one folder, that could not be used."""

    def __init__(self, file: Path, unit: str = "lines") -> None:
        """Start without any.

        Args:
            file: The file or the folder.
            unit: What is counted, in the plural.
        """
        self.file, self.unit, self.total = file, unit, 0
        self.reasons: Counter[str] = Counter()
        self.first: list[str] = []

    def add(self, place: int | str, reason: str, text: str) -> None:
        """Count one line.

        Args:
            place: Number of the line in the file, or the place as text where the file is a folder.
            reason: Why it cannot be used.
            text: What it contains, or the part of it that is wrong.
        """
        self.count(reason, 1)
        if len(self.first) < EXAMPLES:
            where = f"{self.file.name}:{place}" if isinstance(place, int) else place
            self.first.append(f"{where}: {reason}: {text[:100]!r}")

    def count(self, reason: str, n: int) -> None:
        """Count lines that need no example."""
        self.reasons[reason] += n

    @property
    def full(self) -> bool:
        """Whether there are enough examples."""
        return len(self.first) >= EXAMPLES

    def report(self) -> dict[str, Any]:
        """Return the entries of the job's report."""
        return {"read": self.total, "bad": dict(sorted(self.reasons.items())), "first": self.first}

    def enforce(self, max_share: float) -> None:
        """Raise CheckFailed if too large a share was bad, or nothing was read."""
        n_bad = sum(self.reasons.values())
        if self.total == n_bad or n_bad > max_share * self.total:
            counts = ", ".join(f"{reason} {n}" for reason, n in self.reasons.most_common()) or "the file is empty"
            raise CheckFailed(
                f"{self.file}: {n_bad} of {self.total} {self.unit} cannot be read, more than source.max_bad_share = "
                f"{max_share:g} allows ({counts}); nothing was written\n  " + "\n  ".join(self.first)
            )
