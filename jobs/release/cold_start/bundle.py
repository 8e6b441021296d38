"""Writes the contents of a cold-start release: networks, track vectors, segments, entities and evaluation.

Input   catalog, track_vectors, entity_vectors, demographic_vectors, demographic_rankings, segments, first_day,
        evaluation; the networks

    inputs.json                                                     distribution of first-day inputs in training (drift)
    tracks/{track_id,artist_id,album_id}.npy  names.json             by track_idx
    tracks/{recording,explicit,available,...}.npy                    for the rules (serving/release/track_facts.py)
    tracks/new_release.npy                                          which tracks are new releases, if there are any
    external_ids/<kind>.{ids,offsets,utf8}.npy                      track artist album playlist with ids of form text
    <space>/network.onnx  layout.json  track_vectors.npy  centroids.npy  rankings.npy  segments.json
    <space>/track_index/                      of a large catalogue (models/cold_start/track_index.py)
    <space>/entities/<kind>.{ids,vectors}.npy                       song artist album playlist, ids ascending
    <space>/blend/                                                  with gate.method blend or ranked_candidates
    <space>/ranker/                                                 with gate.method ranked_candidates
    <space>/demographics/{country,age_class,country_age}.npy        rows as named in names.json
    <space>/demographics/rankings.npy  rankings.json                rankings of groups, and [kind, name] of each row
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import CheckFailed
from jobs.cold_start import blend_artifacts, onnx_export, ranker_artifacts
from jobs.cold_start.track_facts import track_facts
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.entity_forms import entity_forms
from jobs.platform.list_columns import to_matrix
from jobs.release.cold_start.external_ids import write_external_ids
from jobs.settings.base import SPACES
from models.arrays import AnyVector, FloatMatrix, IdVector, IntMatrix
from models.cold_start import track_index
from models.cold_start.input_vector import AGE_CLASSES, KINDS, FirstDays, input_vectors
from models.cold_start.list_rules import TrackFacts
from serving.release import input_drift
from serving.release.bundle import NAMES, TRACK_INDEX, SpaceBundle, bundle_layout
from serving.release.track_facts import ARRAYS

N_INDEX_QUERIES = 500  # training listeners on which the track index is adjusted


def fill(context: Context, folder: Path) -> dict[str, object]:
    """Write the contents of a release.

    Args:
        context: week, lake and settings.
        folder: an empty folder.

    Returns:
        What provenance.json contains about the contents: the cohort, the facts of the networks, the forms of ids.

    Raises:
        CheckFailed: the tables of the week or the networks do not belong together.
    """
    week = context.week.name
    catalog = context.lake.read("catalog", week=week).sort_by("track_idx")
    for column in ("track_id", "artist_id", "album_id"):
        files.write_array(folder / "tracks" / f"{column}.npy", catalog[column].to_numpy())
    files.write(folder / "tracks" / "names.json", files.canonical(_track_names(context, catalog["track_id"])))
    _write_track_facts(folder / "tracks", track_facts(context))
    is_new = catalog["is_new"].fill_null(False).to_numpy()
    if is_new.any():
        files.write_array(folder / "tracks" / "new_release.npy", is_new)
    train_days = FirstDays.from_arrow(context.lake.read("first_day", week=week, split="train"))
    files.write(folder / input_drift.NAME, files.canonical(input_drift.reference(train_days)))
    evaluation: list[dict[str, Any]] = []
    networks: dict[str, dict[str, object]] = {}
    for space in SPACES:
        networks[space] = _write_space(context, folder / space, space, catalog["track_id"].to_numpy())
        if space == context.settings.gate.space and len(catalog) > context.settings.track_index.above_tracks:
            _write_track_index(context, folder / space, train_days)
        rows = context.lake.read("evaluation", week=week, space=space).to_pylist()
        evaluation += [{"space": space, **row} for row in rows]
    evaluation.sort(key=lambda r: tuple(str(r[key]) for key in ("space", "method", "split", "slice", "metric", "k")))
    files.write(folder / "evaluation.json", files.canonical(evaluation))
    cohort = [context.week.cohort_start.isoformat(), context.week.cohort_end.isoformat()]
    forms = entity_forms(context.lake)
    write_external_ids(context, folder, forms)
    return {"cohort": cohort, "networks": networks, "ids": forms}


def registered_network(context: Context, folder: Path) -> str:
    """Return the folder of the network that is registered in MLflow: the one of the configured method and space."""
    gate = context.settings.gate
    return f"{gate.space}/blend" if gate.blended(gate.space) else gate.space


def summary(context: Context) -> dict[str, float]:
    """Return the test metrics of every method in both spaces, as far as the week has been evaluated."""
    metrics: dict[str, float] = {}
    for space in SPACES:
        if context.lake.exists("evaluation", week=context.week.name, space=space):
            for row in context.lake.read("evaluation", week=context.week.name, space=space).to_pylist():
                if row["split"] == "test" and row["slice"] == "all":
                    metrics[f"{space}.{row['method']}.{row['metric']}_at_{row['k']}"] = row["value"]
    return metrics


def _track_names(context: Context, track_ids: pa.ChunkedArray) -> dict[str, list[str | None]]:
    """Return the display names of the tracks, in this order; null for a track without a name."""
    tracks = context.lake.read("tracks")
    rows = pc.index_in(track_ids, value_set=tracks["track_id"].combine_chunks())
    return {column: tracks[column].take(rows).to_pylist() for column in NAMES}


def _write_track_facts(folder: Path, facts: TrackFacts) -> None:
    """Write the files of serving/release/track_facts.py."""
    everywhere_N = np.ones(len(facts), bool) if facts.everywhere_N is None else facts.everywhere_N
    arrays = {
        "recording": facts.recording_N, "explicit": facts.explicit_N, "available": facts.available_N,
        "released": facts.released_N, "everywhere": everywhere_N,
    }  # fmt: skip
    for name, kind in ARRAYS.items():
        files.write_array(folder / f"{name}.npy", np.asarray(arrays[name], kind))
    table_CN = np.array(list(facts.countries.values()), bool).reshape(len(facts.countries), len(facts))
    files.write_array(folder / "countries.npy", table_CN)
    files.write(folder / "countries.json", files.canonical(list(facts.countries)))


def _write_space(context: Context, folder: Path, space: str, track_ids: IdVector) -> dict[str, object]:
    """Write the files of one space; returns the facts of its network for provenance.json."""

    def read(table: str) -> pa.Table:
        return context.lake.read(table, week=context.week.name, space=space)

    tracks_ND = to_matrix(read("track_vectors").sort_by("track_idx"))
    d = tracks_ND.shape[1]
    if len(tracks_ND) != len(track_ids):
        raise CheckFailed(f"track_vectors: {space} has {len(tracks_ND)} rows, the catalogue {len(track_ids)}")
    segments = read("segments").sort_by("segment_id")
    centroids_KD = to_matrix(segments, "centroid")
    stored = onnx_export.read_network(context, space)
    if centroids_KD.shape[1] != d or stored.vectors.shape[1] != d:
        raise CheckFailed(
            f"{space}: tracks have d = {d}, centroids {centroids_KD.shape[1]}, the network {stored.vectors.shape[1]}"
        )
    files.write(folder / "network.onnx", stored.network)
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
    files.write_array(folder / "rankings.npy", _list_matrix(segments, "ranking"))
    cards = [
        {"segment_id": row["segment_id"], "size": row["size"], "card": json.loads(row["card"] or "{}")}
        for row in segments.select(["segment_id", "size", "card"]).to_pylist()
    ]
    files.write(folder / "segments.json", files.canonical(cards))
    if context.settings.gate.blended(space):
        blend_dir = blend_artifacts.blend_folder(context, space)
        for name in blend_artifacts.FILES:
            files.write(folder / "blend" / name, (blend_dir / name).read_bytes())
    if context.settings.gate.ranked(space):
        ranker_dir = ranker_artifacts.ranker_folder(context, space)
        for name in ranker_artifacts.FILES:
            files.write(folder / "ranker" / name, (ranker_dir / name).read_bytes())
    _write_entities(folder / "entities", read("entity_vectors"), track_ids, tracks_ND)
    _write_demographics(folder / "demographics", read("demographic_vectors"), d)
    rankings = read("demographic_rankings").sort_by([("kind", "ascending"), ("name", "ascending")])
    groups = list(zip(rankings["kind"].to_pylist(), rankings["name"].to_pylist(), strict=True))
    files.write_array(folder / "demographics" / "rankings.npy", _list_matrix(rankings, "ranking"))
    files.write(folder / "demographics" / "rankings.json", files.canonical(groups))
    return stored.facts


def _write_track_index(context: Context, folder: Path, train_days: FirstDays) -> None:
    """Index the tracks of a space; training listeners decide how much of the index a query reads."""
    space = SpaceBundle(folder, json.loads((folder / "layout.json").read_text()))
    chosen = np.random.default_rng(context.seed("track index")).permutation(len(train_days))[:N_INDEX_QUERIES]
    queries_QF = input_vectors(train_days.take(np.sort(chosen)), space.entities, space.demographics)
    path, settings = folder / TRACK_INDEX, context.settings
    track_index.write(
        path,
        space.array("track_vectors"),
        space.layout["similarity"],
        space.predict(queries_QF),
        settings.gate.k,
        settings.track_index.min_recall,
    )
    for name in (track_index.INDEX, track_index.LAYOUT):
        files.sync(path / name)


def _write_entities(folder: Path, table: pa.Table, track_ids: IdVector, tracks_ND: FloatMatrix) -> None:
    kinds = np.asarray(table["kind"].to_pylist(), object)
    ids, vector = table["entity_id"].to_numpy(), to_matrix(table)
    for kind in KINDS:
        is_song = kind == "song"
        kind_ids, kind_ND = (track_ids, tracks_ND) if is_song else (ids[kinds == kind], vector[kinds == kind])
        order = np.argsort(kind_ids, kind="stable")
        files.write_array(folder / f"{kind}.ids.npy", kind_ids[order].astype(np.int64))
        files.write_array(folder / f"{kind}.vectors.npy", kind_ND[order].reshape(len(kind_ids), tracks_ND.shape[1]))


def _write_demographics(folder: Path, table: pa.Table, d: int) -> None:
    rows = {(r["kind"], r["name"]): r for r in table.to_pylist()}
    names: dict[str, Any] = {}
    for kind in ("country", "age_class", "country_age"):
        group_names = list(AGE_CLASSES) if kind == "age_class" else sorted(name for k, name in rows if k == kind)
        groups = [rows.get((kind, name)) for name in group_names]
        matrix = [row["vector"] if row else np.zeros(d) for row in groups]
        files.write_array(folder / f"{kind}.npy", np.asarray(matrix, np.float32).reshape(len(group_names), d))
        names[kind] = {"names": group_names, "n_users": [row["n_users"] if row else 0 for row in groups]}
    files.write(folder / "names.json", files.canonical(names))


def _list_matrix(table: pa.Table, column: str) -> IntMatrix:
    """Return a list<int> column whose lists all have one length, as an (n, length) int32 matrix; (0, 0) if empty."""
    lists = table[column].combine_chunks()
    widths = set(np.diff(lists.offsets.to_numpy()).tolist())
    if len(widths) > 1:
        raise CheckFailed(f"column '{column}' has lists of different lengths: {sorted(widths)[:5]}")
    flat: AnyVector = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.int32, copy=False).reshape(len(lists), *widths or (0,))
