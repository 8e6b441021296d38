"""What every job is handed: the settings, the week, the lake, and a session made at first use."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import BadArgument
from jobs.platform.week import Week
from jobs.settings.settings import ENGINES, Engine, Settings, home

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from jobs.platform.lake import Lake


@dataclass
class Context:
    """One job's surroundings.

    `engine` is whose release it is about: each has its own releases, verdicts, experiment and registered model.
    """

    settings: Settings
    week: Week
    home: Path = field(default_factory=home)
    engine: Engine = "cold_start"

    @classmethod
    def of(cls, settings: Settings, week: Week, engine: str) -> Context:
        """Surroundings of an engine's job.

        Raises:
            BadArgument: there is no such engine.
        """
        if engine not in ENGINES:
            raise BadArgument(f"--engine: '{engine}' is no engine; choose {' or '.join(ENGINES)}")
        mlflow = settings.mlflow
        if engine == "skip":
            experiment = mlflow.skip_daily_experiment if week.daily else mlflow.skip_experiment
            told = {"experiment": experiment, "registered_model": mlflow.skip_model}
            settings = settings.model_copy(update={"mlflow": mlflow.model_copy(update=told)})
        return cls(settings, week, engine=engine)

    @property
    def release_home(self) -> Path:
        """The folder above the engine's releases, its weeks' work and the results of its checks."""
        return self.home if self.engine == "cold_start" else self.home / self.engine

    @cached_property
    def lake(self) -> Lake:
        """The lake that the settings name, else the one under home."""
        from jobs.platform.lake import Lake  # Arrow, which the service can do without

        return Lake(self.settings.lake or str(self.home / "lake"))

    @cached_property
    def spark(self) -> SparkSession:
        """One session a process."""
        from jobs.platform.spark import session

        return session(self.settings.spark, str(self.week))

    @cached_property
    def commit(self) -> str:
        """The git commit of this checkout, in an image OVERTURE_COMMIT; 'unknown' without either."""
        root = Path(__file__).parents[2]
        try:
            found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return os.environ.get("OVERTURE_COMMIT", "unknown")
        return found.stdout.strip()

    @property
    def work(self) -> Path:
        """The week's own folder for what is no table: networks, verdicts."""
        folder = self.release_home / "work" / self.week.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def seed(self, name: str) -> int:
        """A seed for one use, the same in every run of the week."""
        text = f"{self.settings.seed}/{self.week}/{name}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
