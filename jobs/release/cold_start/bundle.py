"""What a release of the cold-start engine holds.

Input   catalog, track_vectors, entity_vectors, demographic_vectors, segments, first_day, evaluation; the networks

    inputs.json                                                     how first days of training are spread (drift)
    tracks/{track_id,artist_id,album_id}.npy  names.json             by track_idx
    <space>/network.onnx  layout.json  track_vectors.npy  centroids.npy  rankings.npy  segments.json
    <space>/entities/<kind>.{ids,vectors}.npy                       song artist album playlist, ids ascending
    <space>/blend/                                                  with gate.method blend (serving/release/blend.py)
    <space>/demographics/{country,age_class,country_age}.npy        rows as named in names.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import CheckFailed
from jobs.cold_start import blend_artifacts, onnx_export
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.list_columns import to_matrix
from jobs.settings.base import SPACES
from models.cold_start.input_vector import AGE_CLASSES, KINDS, FirstDays
from serving.release import input_drift
from serving.release.bundle import NAMES, bundle_layout


def fill(context: Context, folder: Path) -> dict[str, object]:
    """Write tracks, spaces and evaluation; returns the cohort and the facts of the networks."""
    week = context.week.name
    catalog = context.lake.read("catalog", week=week).sort_by("track_idx")
    for column in ("track_id", "artist_id", "album_id"):
        files.write_array(folder / "tracks" / f"{column}.npy", catalog[column].to_numpy())
    files.write(folder / "tracks" / "names.json", files.canonical(_names(context, catalog["track_id"])))
    learned_from = FirstDays.from_arrow(context.lake.read("first_day", week=week, split="train"))
    files.write(folder / input_drift.NAME, files.canonical(input_drift.reference(learned_from)))
    evaluation: list[dict[str, Any]] = []
    networks: dict[str, dict[str, object]] = {}
    for space in SPACES:
        networks[space] = _fill_space(context, folder / space, space, catalog["track_id"].to_numpy())
        rows = context.lake.read("evaluation", week=week, space=space).to_pylist()
        evaluation += [{"space": space, **row} for row in rows]
    evaluation.sort(key=lambda r: tuple(str(r[key]) for key in ("space", "method", "split", "slice", "metric", "k")))
    files.write(folder / "evaluation.json", files.canonical(evaluation))
    cohort = [context.week.cohort_start.isoformat(), context.week.cohort_end.isoformat()]
    return {"cohort": cohort, "networks": networks}


def answering(context: Context) -> str:
    """The network that stands for the release in the registry."""
    gate = context.settings.gate
    return f"{gate.space}/blend" if gate.method == "blend" else gate.space


def summary(context: Context) -> dict[str, float]:
    """Every method's test metrics in both spaces."""
    metrics: dict[str, float] = {}
    for space in SPACES:
        if context.lake.exists("evaluation", week=context.week.name, space=space):
            for row in context.lake.read("evaluation", week=context.week.name, space=space).to_pylist():
                if row["split"] == "test" and row["slice"] == "all":
                    metrics[f"{space}.{row['method']}.{row['metric']}_at_{row['k']}"] = row["value"]
    return metrics


def _names(context: Context, track_ids: pa.ChunkedArray) -> dict[str, list[str | None]]:
    """What people call the tracks, in this order; null where the tracks table does not know."""
    tracks = context.lake.read("tracks")
    rows = pc.index_in(track_ids, value_set=tracks["track_id"].combine_chunks())
    return {column: tracks[column].take(rows).to_pylist() for column in NAMES}


def _fill_space(context: Context, folder: Path, space: str, track_ids: np.ndarray) -> dict[str, object]:
    """One space's files; returns the facts of its network."""

    def read(table: str) -> pa.Table:
        return context.lake.read(table, week=context.week.name, space=space)

    tracks_ND = to_matrix(read("track_vectors").sort_by("track_idx"))
    d = tracks_ND.shape[1]
    if len(tracks_ND) != len(track_ids):
        raise CheckFailed(f"track_vectors: {space} has {len(tracks_ND)} rows, the catalogue {len(track_ids)}")
    segments = read("segments").sort_by("segment_id")
    centroids_KD = to_matrix(segments, "centroid")
    kept = onnx_export.kept(context, space)
    if centroids_KD.shape[1] != d or kept.vectors.shape[1] != d:
        raise CheckFailed(
            f"{space}: tracks have d = {d}, centroids {centroids_KD.shape[1]}, the network {kept.vectors.shape[1]}"
        )
    files.write(folder / "network.onnx", kept.network)
    card = {
        **bundle_layout(d),
        "space": space,
        "similarity": context.settings.evaluation.similarity,
        "input": onnx_export.INPUT,
        "output": onnx_export.OUTPUT,
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
        learned = blend_artifacts.kept(context, space)
        for name in blend_artifacts.FILES:
            files.write(folder / "blend" / name, (learned / name).read_bytes())
    _entities(folder / "entities", read("entity_vectors"), track_ids, tracks_ND)
    _demographics(folder / "demographics", read("demographic_vectors"), d)
    return kept.facts


def _entities(folder: Path, table: pa.Table, track_ids: np.ndarray, tracks_ND: np.ndarray) -> None:
    kinds = np.asarray(table["kind"].to_pylist(), object)
    ids, vector = table["entity_id"].to_numpy(), to_matrix(table)
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
