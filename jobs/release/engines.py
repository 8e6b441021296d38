"""What is an engine's own in a release; everything else about releases is the same for all.

`jobs/<engine>/contents.py` fills a bundle, `jobs/<engine>/judging.py` judges one. Both are asked by name, so that a
command of one engine never imports the other's libraries.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from jobs.platform.context import Context
from jobs.release.pointer import Pointer
from jobs.release.rules import Line


class Contents(Protocol):
    """What a bundle holds."""

    def fill(self, context: Context, folder: Path) -> dict[str, object]:
        """Write the engine's files, evaluation.json among them; returns what provenance.json tells about them."""

    def answering(self, context: Context) -> str:
        """The folder of the bundle whose network.onnx stands for the release in MLflow's registry."""

    def summary(self, context: Context) -> dict[str, float]:
        """The week's test metrics by name, as far as they are there, for its parent run."""


class Judging(Protocol):
    """How a bundle is judged."""

    def judge(self, context: Context, folder: Path, champion: Pointer | None) -> list[Line]:
        """All lines about a release."""

    def check(self, folder: Path) -> None:
        """Open a bundle as the service would.

        Raises:
            CheckFailed: it is damaged, or of another program's make.
        """


def contents(context: Context) -> Contents:
    """Of the context's engine."""
    return cast("Contents", import_module(f"jobs.release.{context.engine}.bundle"))


def judging(context: Context) -> Judging:
    """Of the context's engine."""
    return cast("Judging", import_module(f"jobs.release.{context.engine}.gate"))
