"""What every job is handed: the settings, the week, the lake, and a session made at first use."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.lake import Lake
from jobs.settings import Settings, home
from jobs.weeks import Week

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass
class Context:
    """One job's surroundings."""

    settings: Settings
    week: Week
    home: Path = field(default_factory=home)

    @cached_property
    def lake(self) -> Lake:
        """The lake that the settings name, else the one under home."""
        return Lake(self.settings.lake or str(self.home / "lake"))

    @cached_property
    def spark(self) -> SparkSession:
        """One session a process."""
        from jobs.session import session

        return session(self.settings.spark, str(self.week))

    @cached_property
    def commit(self) -> str:
        """The git commit of this checkout, in an image OVERTURE_COMMIT; 'unknown' without either."""
        root = Path(__file__).parent.parent
        try:
            found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return os.environ.get("OVERTURE_COMMIT", "unknown")
        return found.stdout.strip()

    @property
    def work(self) -> Path:
        """The week's own folder for what is no table: networks, verdicts."""
        folder = self.home / "work" / self.week.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def seed(self, name: str) -> int:
        """A seed for one use, the same in every run of the week."""
        text = f"{self.settings.seed}/{self.week}/{name}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
