"""Builds the release of a week: one immutable folder with everything that the service needs, named by its digest.

Output  releases/<digest>/, a version in MLflow's registry, alias `challenger`
Re-run  equal inputs give equal bytes and the same name; an existing bundle is verified and used again

The contents depend on the engine (jobs/release/cold_start/bundle.py, jobs/release/skip/bundle.py). Every bundle
also has

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
from jobs.release import pointer, registry
from jobs.release.engines import BundleContents, engine_of
from jobs.tracking.tracker import Tracker
from serving.release import manifest

LIBRARIES = (
    "numpy", "scipy", "torch", "scikit-learn", "lightgbm", "onnx", "onnxruntime", "faiss-cpu", "pyspark", "pyarrow",
)  # fmt: skip


def run(context: Context) -> dict[str, object]:
    """Build the release of the week, record it for gate and promote, and register it in MLflow.

    Args:
        context: week, engine and settings. The release of a backtest is not registered.

    Returns:
        The report for Airflow.

    Raises:
        CheckFailed: an input is missing or inconsistent.
    """
    contents = engine_of(context).contents
    with Tracker.task(context, "bundle") as tracked:
        folder, reused = build(context, contents)
        release = folder.name
        files.replace(context.work / "bundle.json", files.canonical({"release": release}) + b"\n")
        size = sum(entry["bytes"] for entry in manifest.read(folder)["files"].values())
        tracked.set_tags({"release": release})
        tracked.log_metrics({"bundle/bytes": size})
        for name in (manifest.NAME, "provenance.json", "evaluation.json", "quality.json", "contracts.json"):
            tracked.log_artifact(folder / name, "release")
        version = None if context.week.backtest else register_challenger(context, contents, tracked, folder)
        return {
            "release": release,
            "path": str(folder),
            "bytes": size,
            "reused": reused,
            "version": version,
            **tracked.links,
        }


def register_challenger(context: Context, contents: BundleContents, tracked: Tracker, folder: Path) -> str:
    """Give the release a version in MLflow's registry, unless it has one, and the alias `challenger`.

    The version contains one network of the release. The others are in the bundle and in the runs that trained them.
    """
    version = registry.find_version(context, tracked, folder.name)
    if version is None:
        network_dir = contents.registered_network(context, folder)
        network = (folder / network_dir / "network.onnx").read_bytes()
        model = tracked.log_onnx(network, "_".join(("network", *network_dir.split("/"))))
        version = registry.register(tracked, folder.name, model)
    registry.set_alias(context, tracked, registry.CHALLENGER, version)
    return version


def release_of_week(context: Context) -> str:
    """Return the name of the release that the week's bundle task built.

    Raises:
        CheckFailed: the task has not run, or its release was removed since.
    """
    try:
        release: str = json.loads((context.work / "bundle.json").read_text())["release"]
    except FileNotFoundError:
        release = ""
    if not release or not (pointer.releases(context.release_home) / release / manifest.NAME).is_file():
        problem = (
            f"release {release[:12]} of week {context.week.name} was removed"
            if release
            else f"week {context.week.name} has no release"
        )
        raise CheckFailed(f"{problem}; run `overture release bundle --week {context.week}` first")
    return release


def build(context: Context, contents: BundleContents) -> tuple[Path, bool]:
    """Write the bundle to a temporary folder and rename it into place.

    Args:
        context: week, lake and settings.
        contents: writes the files of the engine.

    Returns:
        The folder of the release, and whether it existed before.
    """
    folder = pointer.releases(context.release_home)
    folder.mkdir(parents=True, exist_ok=True)
    with temp_dir(context, "bundle") as temporary:
        _fill(context, contents, temporary)
        final = folder / write_manifest(temporary)
        for inner in sorted(path for path in temporary.rglob("*") if path.is_dir()):
            files.sync(inner)
        files.sync(temporary)
        reused = _move_into_place(temporary, final)
        files.sync(folder)
    return final, reused


def write_manifest(folder: Path) -> str:
    """Write the manifest of all files in a bundle; returns its digest, the name of the release.

    `serving.release.manifest` reads it.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != manifest.NAME)
    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": files.file_digest(path)}
        for path in paths
    }
    content = files.canonical({"format": manifest.FORMAT, "files": entries})
    files.write(folder / manifest.NAME, content)
    return files.digest(content)


def _move_into_place(temporary: Path, final: Path) -> bool:
    """Rename a new bundle into place; returns True where an intact one of the same name is used instead."""
    if final.exists():
        try:
            os.utime(final)  # `overture release prune` orders releases by this time
            manifest.verify(final)
            return True
        except CheckFailed:
            aside = final.with_name(f".damaged-{final.name[:12]}-{uuid.uuid4().hex[:8]}")
            os.rename(final, aside)
            shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(temporary, final)
    except OSError:
        manifest.verify(final)  # another process built the same release at the same time
        return True
    return False


def _fill(context: Context, contents: BundleContents, folder: Path) -> None:
    facts = contents.fill(context, folder)
    versions = {name: contracts.load(name).version for name in contracts.names()}
    files.write(folder / "quality.json", files.canonical(check_results(context)))
    files.write(folder / "contracts.json", files.canonical(versions))
    files.write(folder / "provenance.json", files.canonical(_provenance(context, facts)))


def check_results(context: Context) -> dict[str, dict[str, Any]]:
    """Return the data checks of the week, without examples of bad rows, because a release contains no user data.

    Returns:
        By table {success, failed, warned}; failed and warned list the expectations and the observed values.

    Raises:
        CheckFailed: a file was not written by `overture check`.
    """
    results = {}
    for path in sorted((context.release_home / "quality" / context.week.name).glob("*.json")):
        try:
            raw = json.loads(path.read_text())
            results[str(raw["table"])] = {
                "success": bool(raw["success"]),
                "failed": [_expectation(check) for check in raw["failed"]],
                "warned": [_expectation(check) for check in raw["warned"]],
            }
        except (ValueError, KeyError, TypeError) as error:
            raise CheckFailed(f"{path} is not a result of `overture check`: {error!r}; run it again") from None
    return results


def _expectation(check: Any) -> dict[str, Any]:
    if not isinstance(check, dict):
        return {"expected": str(check)}
    return {key: check[key] for key in ("rule", "columns", "expected", "observed") if key in check}


def _provenance(context: Context, facts: dict[str, object]) -> dict[str, object]:
    """Return where the release comes from, without times and hosts, so that equal inputs give equal bytes."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "week": context.week.name,
        "as_of": context.week.as_of.isoformat(),
        "commit": context.commit,
        "settings": context.settings.model_dump(
            mode="json", exclude={"spark", "mlflow", "lake", "release", "service", "experiment", "store", "monitor"}
        ),
        "versions": versions,
        **facts,
    }
