"""Builds the week's release: one immutable folder with all that the service needs, named by its own digest.

Output  releases/<digest>/, a version in MLflow's registry, alias `challenger`
Re-run  the same inputs give the same bytes, so the same name; a bundle that is there is verified and used again

What is in it is its engine's matter (jobs/release/cold_start/bundle.py, jobs/release/skip/bundle.py); each has besides

    manifest.json  provenance.json  contracts.json  quality.json  evaluation.json
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import uuid
from pathlib import Path
from typing import Any

import contracts
from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.temp_dirs import temp_dir
from jobs.release import engines, manifest, pointer, registry
from jobs.tracking.tracker import Tracker

LIBRARIES = ("numpy", "scipy", "torch", "scikit-learn", "lightgbm", "onnx", "onnxruntime", "pyspark", "pyarrow")


def run(context: Context) -> dict[str, object]:
    """Build the release, note it for gate and promote, register it."""
    with Tracker.task(context, "bundle") as tracked:
        folder, reused = build(context)
        release = folder.name
        files.replace(context.work / "bundle.json", files.canonical({"release": release}) + b"\n")
        size = sum(entry["bytes"] for entry in manifest.read(folder)["files"].values())
        tracked.set_tags({"release": release})
        tracked.log_metrics({"bundle/bytes": size})
        for name in (manifest.NAME, "provenance.json", "evaluation.json", "quality.json", "contracts.json"):
            tracked.log_artifact(folder / name, "release")
        version = None
        if not context.week.backtest:
            version = registry.version_of(context, tracked, release)
            if version is None:
                # The one that the version needs; the others lie in the release, and with the runs that trained them.
                answering = engines.contents(context).answering(context)
                network = (folder / answering / "network.onnx").read_bytes()
                model = tracked.log_onnx(network, "_".join(("network", *answering.split("/"))))
                version = registry.register(tracked, release, model)
            registry.set_alias(context, tracked, registry.CHALLENGER, version)
        return {
            "release": release,
            "path": str(folder),
            "bytes": size,
            "reused": reused,
            "version": version,
            **tracked.links,
        }


def of_week(context: Context) -> str:
    """The release that the week's bundle task built.

    Raises:
        CheckFailed: it has not run, or its release was removed since.
    """
    try:
        release: str = json.loads((context.work / "bundle.json").read_text())["release"]
    except FileNotFoundError:
        release = ""
    if not release or not (pointer.releases(context.release_home) / release / manifest.NAME).is_file():
        what = (
            f"release {release[:12]} of week {context.week.name} was removed"
            if release
            else (f"week {context.week.name} has no release")
        )
        raise CheckFailed(f"{what}; run `overture release bundle --week {context.week}` first")
    return release


def build(context: Context) -> tuple[Path, bool]:
    """Write the bundle aside and rename it into place.

    Returns:
        Its folder, and whether it was there already.
    """
    folder = pointer.releases(context.release_home)
    folder.mkdir(parents=True, exist_ok=True)
    with temp_dir(context, "bundle") as temporary:
        _fill(context, temporary)
        final = folder / manifest.write(temporary)
        for inner in sorted(path for path in temporary.rglob("*") if path.is_dir()):
            files.sync(inner)
        files.sync(temporary)
        reused = _place(temporary, final)
        files.sync(folder)
    return final, reused


def _place(temporary: Path, final: Path) -> bool:
    """Rename the new bundle into place; a whole one of the same name is kept, a damaged one replaced."""
    if final.exists():
        try:
            os.utime(final)  # built last: `overture release prune` goes by this
            manifest.verify(final)
            return True
        except CheckFailed:
            aside = final.with_name(f".damaged-{final.name[:12]}-{uuid.uuid4().hex[:8]}")
            os.rename(final, aside)
            shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(temporary, final)
    except OSError:
        manifest.verify(final)  # somebody else built the same release meanwhile
        return True
    return False


def _fill(context: Context, folder: Path) -> None:
    facts = engines.contents(context).fill(context, folder)
    files.write(folder / "quality.json", files.canonical(quality(context)))
    files.write(folder / "contracts.json", files.canonical({n: contracts.load(n).version for n in contracts.names()}))
    files.write(folder / "provenance.json", files.canonical(_provenance(context, facts)))


def quality(context: Context) -> dict[str, dict[str, Any]]:
    """The week's kept check results, table -> {success, failed, warned}: what was promised and what was seen.

    Examples of bad rows stay behind: a release names no listener.
    """
    found = {}
    for path in sorted((context.release_home / "quality" / context.week.name).glob("*.json")):
        try:
            raw = json.loads(path.read_text())
            found[str(raw["table"])] = {
                "success": bool(raw["success"]),
                "failed": [_promise(one) for one in raw["failed"]],
                "warned": [_promise(one) for one in raw["warned"]],
            }
        except (ValueError, KeyError, TypeError) as error:
            raise CheckFailed(f"{path} is no result of `overture check`: {error!r}; run it again") from None
    return found


def _promise(check: Any) -> dict[str, Any]:
    if not isinstance(check, dict):
        return {"expected": str(check)}
    return {key: check[key] for key in ("rule", "columns", "expected", "observed") if key in check}


def _provenance(context: Context, facts: dict[str, object]) -> dict[str, object]:
    """Where the release comes from. No clock, no host, no addresses: the same inputs give the same bytes."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "week": context.week.name,
        "as_of": context.week.as_of.isoformat(),
        "commit": context.commit,
        "settings": context.settings.model_dump(
            mode="json", exclude={"spark", "mlflow", "lake", "service", "experiment", "store", "monitor"}
        ),
        "versions": versions,
        **facts,
    }
