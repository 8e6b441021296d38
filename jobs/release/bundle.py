"""Builds the week's release: one immutable folder with all that the service needs, named by its own digest.

Input   catalog, track_vectors, entity_vectors, demographic_vectors, segments, evaluation; the week's networks, checks
Output  releases/<digest>/, a version in MLflow's registry, alias `challenger`
Re-run  the same inputs give the same bytes, so the same name; a bundle that is there is verified and used again

    manifest.json  provenance.json  contracts.json  quality.json  evaluation.json
    inputs.json                                                     how first days of training are spread (drift)
    tracks/{track_id,artist_id,album_id}.npy  names.json             by track_idx
    <space>/network.onnx  layout.json  track_vectors.npy  centroids.npy  rankings.npy  segments.json
    <space>/entities/<kind>.{ids,vectors}.npy                       song artist album playlist, ids ascending
    <space>/blend/                                                  with gate.method blend (serving/blend.py)
    <space>/demographics/{country,age_class,country_age}.npy        rows as named in names.json
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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import contracts
from jobs.context import Context
from jobs.errors import CheckFailed
from jobs.lake import vectors
from jobs.release import blend, export, files, manifest, pointer, registry
from jobs.settings import SPACES
from jobs.tracking import task
from models.input_vector import AGE_CLASSES, KINDS, FirstDays
from serving import drift
from serving.release import NAMES, bundle_layout

LIBRARIES = ("numpy", "scipy", "torch", "onnx", "onnxruntime", "pyspark", "pyarrow")


def run(context: Context) -> dict[str, object]:
    """Build the release, note it for gate and promote, register it."""
    with task(context, "bundle") as tracked:
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
            version = registry.version_of(context, tracked.tracker, release)
            if version is None:
                models = {
                    path.parent.relative_to(folder).as_posix(): tracked.log_onnx(
                        path.read_bytes(), "_".join(("network", *path.parent.relative_to(folder).parts))
                    )
                    for path in sorted(folder.glob("**/network.onnx"))
                }
                gate = context.settings.gate
                answers = f"{gate.space}/blend" if gate.method == "blend" else gate.space
                version = registry.register(tracked, release, models[answers])
            registry.set_alias(context, tracked.tracker, registry.CHALLENGER, version)
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
        CheckFailed: it has not run.
    """
    try:
        release: str = json.loads((context.work / "bundle.json").read_text())["release"]
    except FileNotFoundError:
        raise CheckFailed(
            f"week {context.week.name} has no release; run `overture release bundle --week {context.week}` first"
        ) from None
    return release


def build(context: Context) -> tuple[Path, bool]:
    """Write the bundle beside the others and rename it into place.

    Returns:
        Its folder, and whether it was there already.
    """
    folder = pointer.releases(context.home)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    temporary = folder / f".building-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir()
        _fill(context, temporary)
        final = folder / manifest.write(temporary)
        for inner in sorted(path for path in temporary.rglob("*") if path.is_dir()):
            files.sync_folder(inner)
        files.sync_folder(temporary)
        reused = _place(temporary, final)
        files.sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final, reused


def _place(temporary: Path, final: Path) -> bool:
    """Rename the new bundle into place; a whole one of the same name is kept, a damaged one replaced."""
    if final.exists():
        try:
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


def _sweep(folder: Path) -> None:
    """Remove what builders that died left behind."""
    for stale in folder.glob(".building-*"):
        owner = int(stale.name.split("-")[1])
        try:
            os.kill(owner, 0)
        except ProcessLookupError:
            shutil.rmtree(stale, ignore_errors=True)
        except PermissionError:
            continue


def _fill(context: Context, folder: Path) -> None:
    week = context.week.name
    catalog = context.lake.read("catalog", week=week).sort_by("track_idx")
    for column in ("track_id", "artist_id", "album_id"):
        files.write_array(folder / "tracks" / f"{column}.npy", catalog[column].to_numpy())
    files.write(folder / "tracks" / "names.json", files.canonical(_names(context, catalog["track_id"])))
    learned_from = FirstDays.from_arrow(context.lake.read("first_day", week=week, split="train"))
    files.write(folder / drift.NAME, files.canonical(drift.reference(learned_from)))
    evaluation: list[dict[str, Any]] = []
    networks: dict[str, dict[str, object]] = {}
    for space in SPACES:
        networks[space] = _fill_space(context, folder / space, space, catalog["track_id"].to_numpy())
        rows = context.lake.read("evaluation", week=week, space=space).to_pylist()
        evaluation += [{"space": space, **row} for row in rows]
    evaluation.sort(key=lambda r: tuple(str(r[key]) for key in ("space", "method", "split", "slice", "metric", "k")))
    files.write(folder / "evaluation.json", files.canonical(evaluation))
    files.write(folder / "quality.json", files.canonical(quality(context)))
    files.write(folder / "contracts.json", files.canonical({n: contracts.load(n).version for n in contracts.names()}))
    files.write(folder / "provenance.json", files.canonical(_provenance(context, networks)))


def _names(context: Context, track_ids: pa.ChunkedArray) -> dict[str, list[str | None]]:
    """What people call the tracks, in this order; null where the tracks table does not know."""
    tracks = context.lake.read("tracks")
    rows = pc.index_in(track_ids, value_set=tracks["track_id"].combine_chunks())
    return {column: tracks[column].take(rows).to_pylist() for column in NAMES}


def _fill_space(context: Context, folder: Path, space: str, track_ids: np.ndarray) -> dict[str, object]:
    """One space's files; returns the facts of its network."""

    def read(table: str) -> pa.Table:
        return context.lake.read(table, week=context.week.name, space=space)

    tracks_ND = vectors(read("track_vectors").sort_by("track_idx"))
    d = tracks_ND.shape[1]
    if len(tracks_ND) != len(track_ids):
        raise CheckFailed(f"track_vectors: {space} has {len(tracks_ND)} rows, the catalogue {len(track_ids)}")
    segments = read("segments").sort_by("segment_id")
    centroids_KD = vectors(segments, "centroid")
    kept = export.kept(context, space)
    if centroids_KD.shape[1] != d or kept.vectors.shape[1] != d:
        raise CheckFailed(
            f"{space}: tracks have d = {d}, centroids {centroids_KD.shape[1]}, the network {kept.vectors.shape[1]}"
        )
    files.write(folder / "network.onnx", kept.network)
    card = {
        **bundle_layout(d),
        "space": space,
        "similarity": context.settings.evaluation.similarity,
        "input": export.INPUT,
        "output": export.OUTPUT,
    }
    files.write(folder / "layout.json", files.canonical(card))
    files.write_array(folder / "track_vectors.npy", tracks_ND)
    files.write_array(folder / "centroids.npy", centroids_KD)
    files.write_array(folder / "rankings.npy", _matrix(segments, "ranking"))
    people = [
        {"segment_id": row["segment_id"], "size": row["size"], "card": json.loads(row["card"] or "{}")}
        for row in segments.select(["segment_id", "size", "card"]).to_pylist()
    ]
    files.write(folder / "segments.json", files.canonical(people))
    if context.settings.gate.blended(space):
        learned = blend.kept(context, space)
        for name in blend.FILES:
            files.write(folder / "blend" / name, (learned / name).read_bytes())
    _entities(folder / "entities", read("entity_vectors"), track_ids, tracks_ND)
    _demographics(folder / "demographics", read("demographic_vectors"), d)
    return kept.facts


def _entities(folder: Path, table: pa.Table, track_ids: np.ndarray, tracks_ND: np.ndarray) -> None:
    kinds = np.asarray(table["kind"].to_pylist(), object)
    ids, vector = table["entity_id"].to_numpy(), vectors(table)
    for kind in KINDS:
        mine, mine_ND = (track_ids, tracks_ND) if kind == "song" else (ids[kinds == kind], vector[kinds == kind])
        order = np.argsort(mine, kind="stable")
        files.write_array(folder / f"{kind}.ids.npy", mine[order].astype(np.int64))
        files.write_array(folder / f"{kind}.vectors.npy", mine_ND[order].reshape(len(mine), tracks_ND.shape[1]))


def _demographics(folder: Path, table: pa.Table, d: int) -> None:
    rows = {(r["kind"], r["name"]): r for r in table.to_pylist()}
    names: dict[str, Any] = {}
    for kind in ("country", "age_class", "country_age"):
        wanted = list(AGE_CLASSES) if kind == "age_class" else sorted(name for k, name in rows if k == kind)
        found = [rows.get((kind, name)) for name in wanted]
        matrix = [row["vector"] if row else np.zeros(d) for row in found]
        files.write_array(folder / f"{kind}.npy", np.asarray(matrix, np.float32).reshape(len(wanted), d))
        names[kind] = {"names": wanted, "n_users": [row["n_users"] if row else 0 for row in found]}
    files.write(folder / "names.json", files.canonical(names))


def _matrix(table: pa.Table, column: str) -> np.ndarray:
    """A list<int> column whose lists are of one length as (n, length) int32."""
    lists = table[column].combine_chunks()
    widths = set(np.diff(lists.offsets.to_numpy()).tolist())
    if len(widths) != 1:
        raise CheckFailed(f"segments: column '{column}' has lists of different lengths: {sorted(widths)[:5]}")
    flat: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.int32, copy=False).reshape(len(lists), -1)


def quality(context: Context) -> dict[str, dict[str, Any]]:
    """The week's kept check results, table -> {success, failed, warned}: what was promised and what was seen.

    Examples of bad rows stay behind: a release names no listener.
    """
    found = {}
    for path in sorted((context.home / "quality" / context.week.name).glob("*.json")):
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
        return {"says": str(check)}
    return {key: check[key] for key in ("rule", "columns", "says", "observed") if key in check}


def _provenance(context: Context, networks: dict[str, dict[str, object]]) -> dict[str, object]:
    """Where the release comes from. No clock, no host, no addresses: the same inputs give the same bytes."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "week": context.week.name,
        "as_of": context.week.as_of.isoformat(),
        "cohort": [context.week.cohort_start.isoformat(), context.week.cohort_end.isoformat()],
        "commit": context.commit,
        "settings": context.settings.model_dump(
            mode="json", exclude={"spark", "mlflow", "lake", "service", "experiment", "store"}
        ),
        "networks": networks,
        "versions": versions,
    }
