"""Resolves the engine of a context: which module writes its bundles and which module evaluates them.

Everything else about releases (manifest, gate record, promotion, rollback, pruning) is the same for both engines. The
`run` functions of bundle, gate, rollback and weekly_run resolve the engine and pass its parts down as arguments. The
modules of an engine import none of these, so that imports point in one direction:

    bundle, gate, rollback, weekly_run -> engines -> cold_start.{bundle,gate}, skip.{bundle,gate} -> rules, pointer
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from jobs.platform.context import Context
from jobs.release.pointer import Pointer
from jobs.release.registry import Anchor
from jobs.release.rules import GateLine


class BundleContents(Protocol):
    """Writes and describes what is specific to an engine in a bundle."""

    def fill(self, context: Context, folder: Path) -> dict[str, object]:
        """Write the files of the engine, evaluation.json among them.

        Returns:
            What provenance.json contains about them.
        """

    def registered_network(self, context: Context, folder: Path) -> str:
        """Return the folder in the bundle whose network.onnx is registered as the release's model in MLflow."""

    def summary(self, context: Context) -> dict[str, float]:
        """Return the test metrics of the week by name, for its parent run; empty before the evaluation."""


class ReleaseGate(Protocol):
    """Evaluates the bundles of an engine."""

    def evaluate(
        self, context: Context, folder: Path, champion: Pointer | None, anchor: Anchor | None
    ) -> list[GateLine]:
        """Return all lines of the gate for a release, compared with the champion and the anchor."""

    def check_loads(self, folder: Path) -> None:
        """Open a bundle as the service opens it.

        Raises:
            CheckFailed: it is damaged, or of another format.
        """


class Engine(NamedTuple):
    """The two parts of an engine."""

    contents: BundleContents
    gate: ReleaseGate


def engine_of(context: Context) -> Engine:
    """Return the engine of a context; the libraries of the other engine are not imported."""
    if context.engine == "skip":
        from jobs.release.skip import bundle as skip_bundle
        from jobs.release.skip import gate as skip_gate

        return Engine(skip_bundle, skip_gate)
    from jobs.release.cold_start import bundle as cold_start_bundle
    from jobs.release.cold_start import gate as cold_start_gate

    return Engine(cold_start_bundle, cold_start_gate)
