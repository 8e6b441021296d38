"""The context of a job: settings, week, engine, lake and Spark session."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import BadArgument
from jobs.platform.week import Week
from jobs.settings.base import ENGINES, Engine
from jobs.settings.platform import MlflowNames
from jobs.settings.settings import Settings, home

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from jobs.platform.lake import Lake


@dataclass
class Context:
    """What every job receives.

    Attributes:
        settings: All settings.
        week: The logical week, or day, of the run.
        home: The folder of all state (OVERTURE_HOME).
        engine: Whose release the job is about. Each engine has its own releases, verdicts, experiments and registered
            model.
        experiment: MLflow experiment of the job's runs. Empty: the engine's experiment in the settings.
    """

    settings: Settings
    week: Week
    home: Path = field(default_factory=home)
    engine: Engine = "cold_start"
    experiment: str = ""

    @classmethod
    def for_engine(cls, settings: Settings, week: Week, engine: str) -> Context:
        """Return the context of an engine's job.

        Raises:
            BadArgument: There is no such engine.
        """
        if engine not in ENGINES:
            raise BadArgument(f"--engine: '{engine}' is no engine; choose {' or '.join(ENGINES)}")
        return cls(settings, week, engine=engine)

    @property
    def mlflow_names(self) -> MlflowNames:
        """The MLflow experiment and registered model of the job."""
        names = self.settings.mlflow.names(self.engine, daily=self.week.daily)
        return replace(names, experiment=self.experiment or names.experiment)

    @property
    def release_home(self) -> Path:
        """The folder above the engine's releases, working folders and check results."""
        return self.home if self.engine == "cold_start" else self.home / self.engine

    @cached_property
    def lake(self) -> Lake:
        """The lake at `settings.lake`, by default below `home`."""
        from jobs.platform.lake import Lake  # needs Arrow, which the service does not install

        return Lake(self.settings.lake or str(self.home / "lake"))

    @cached_property
    def spark(self) -> SparkSession:
        """The Spark session of this process, started at first use."""
        from jobs.platform.spark import session

        return session(self.settings.spark, str(self.week))

    @cached_property
    def commit(self) -> str:
        """The git commit of this checkout; in an image OVERTURE_COMMIT; 'unknown' without either."""
        root = Path(__file__).parents[2]
        try:
            git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return os.environ.get("OVERTURE_COMMIT", "unknown")
        return git.stdout.strip()

    @property
    def work(self) -> Path:
        """The week's folder for files outside the lake, such as networks and verdicts. It is created if missing."""
        folder = self.release_home / "work" / self.week.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def seed(self, name: str) -> int:
        """Return the seed of a named use. It depends on `settings.seed`, the week's Monday and the name only."""
        text = f"{self.settings.seed}/{self.week}/{name}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
