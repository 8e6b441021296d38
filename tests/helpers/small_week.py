"""A week that is ready for release, without Spark: three tastes, each of one country, and two spaces of ten dimensions.

The contents are small but complete: a trained network, its ONNX, a lake with the week's tables, check results.
`taste` sets how well the rankings fit the listeners: 1 is a perfect fit, 0 the most popular tracks for every listener.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from contracts.arrow import arrow_schema
from jobs.cold_start import onnx_export
from jobs.platform.context import Context
from jobs.platform.list_columns import to_list_column
from jobs.platform.week import Week
from jobs.settings.settings import Settings
from models.cold_start.input_vector import (
    AGE_CLASSES,
    INTERACTIONS,
    Demographics,
    Entities,
    FirstDays,
    Layout,
    input_vectors,
)
from models.cold_start.network import CODE_RECIPE, fit, predict
from serving.stores.interface import HISTORY

EPOCH = date(1970, 1, 1).toordinal()
D, N_TRACKS, N_GROUPS, N_USERS, N_WARM = 10, 150, 3, 150, 240
COUNTRIES = ("BR", "DE", "FR")
SPACES = ("tt_svd", "ut_als")
RECIPE = replace(CODE_RECIPE, hidden=(16,), learning_rate=1e-2, epochs=12, batch_size=64, device="cpu")


def settings(**gate: object) -> Settings:
    """Return settings that fit the small week."""
    return Settings.model_validate(
        {
            "name": "small",
            "week": "2026-11-16",
            "svd": {"d": D},
            "als": {"d": D},
            "evaluation": {"n_bootstrap": 200, "min_slice_users": 10},
            # The tracks are by three artists: under the limits, no list could be filled.
            "rules": {"per_artist": None, "per_album": None},
            "gate": {"k": 20, "slice_min_users": 10, "latency_ms": 1000, **gate},
        }
    )


def context_at(home, week: str = "2026-11-16", **gate: object) -> Context:
    """Return a context over the small settings."""
    return Context(settings(**gate), Week.parse(week), home)


def tracks() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return track_id (N,), taste group (N,) and unit vectors (N, d), by track_idx."""
    rng = np.random.default_rng(1)
    group = np.arange(N_TRACKS) % N_GROUPS
    vectors = np.eye(D, dtype=np.float32)[group] + 0.1 * rng.standard_normal((N_TRACKS, D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return 1_000 + rng.permutation(N_TRACKS).astype(np.int64), group, vectors.astype(np.float32)


def cohort() -> tuple[pa.Table, list[list[int]], np.ndarray]:
    """Return the cohort's rows of first_day, their ground truth as track_idx, and their taste groups."""
    rng = np.random.default_rng(2)
    track_ids, group_of, _ = tracks()
    group = np.arange(N_USERS) % N_GROUPS
    truth, rows = [], []
    for user in range(N_USERS):
        liked = np.flatnonzero(group_of == group[user])
        listened = rng.choice(liked, 25, replace=False, p=_popularity(len(liked)))
        truth.append(sorted(int(track) for track in listened))
        blocks: dict[str, list[int]] = {name: [] for name in INTERACTIONS}
        if user % 5:
            blocks["streamed_songs"] = [int(track_ids[track]) for track in rng.choice(liked, 4)]
        age = None if user % 7 == 0 else 16 + user % 40
        rows.append({"user_id": 9_000 + user, "country": COUNTRIES[group[user]], "age": age, **blocks})
    import contracts

    return pa.Table.from_pylist(rows, schema=arrow_schema(contracts.load("first_day"))), truth, group


def _popularity(n: int) -> np.ndarray:
    weight = 1 / np.arange(1, n + 1)
    return weight / weight.sum()


def space_parts() -> tuple[Entities, Demographics, np.ndarray]:
    """Return entities and demographics of a space, and the centroids of its three segments."""
    track_ids, group, vectors = tracks()
    order = np.argsort(track_ids)
    mean = np.stack([vectors[group == g].mean(axis=0) for g in range(N_GROUPS)])
    ids = {"song": track_ids[order], **{kind: np.array([1, 2, 3]) for kind in ("artist", "album", "playlist")}}
    entities = Entities(ids, {"song": vectors[order], **{kind: mean for kind in ("artist", "album", "playlist")}})
    ages = np.tile(mean.mean(axis=0), (len(AGE_CLASSES), 1))
    return entities, Demographics(dict(zip(COUNTRIES, mean, strict=True)), ages), mean


@cache
def trained() -> tuple[object, bytes, np.ndarray]:
    """Return a trained network, its ONNX, and PyTorch's predictions for the cohort; trained once per process."""
    table, _, group = cohort()
    entities, demographics, mean = space_parts()
    x = input_vectors(FirstDays.from_arrow(table), entities, demographics)
    x[:, Layout(D).scalar("age_value")] = np.clip(x[:, Layout(D).scalar("age_value")], -1, 80)
    net = fit(x, mean[group], RECIPE, seed=3)
    return net, onnx_export.to_onnx(net), predict(net, x)


def fill(context: Context, taste: float = 1.0, seed: int = 0) -> None:
    """Write the week's tables, networks and check results."""
    week, lake = context.week.name, context.lake
    track_ids, group, vectors = tracks()
    idx = np.arange(N_TRACKS, dtype=np.int32)
    catalog = {"track_idx": idx, "track_id": track_ids, "artist_id": 1 + group, "album_id": 1 + group}
    lake.write("catalog", pa.table({**catalog, "n_listeners": 1_000 - idx.astype(np.int64)}), week=week)
    lake.write("tracks", track_names(track_ids, group))
    days, truth, _ = cohort()
    split = np.where(np.arange(N_USERS) // N_GROUPS % 3 == 2, "test", "validation")
    for name in ("validation", "test"):
        lake.write("first_day", days.filter(pa.array(split == name)), week=week, split=name)
    lake.write("first_day", days, week=week, split="train")
    truths = {"user_id": days["user_id"], "split": pa.array(split), "truth": pa.array(truth, pa.list_(pa.int32()))}
    # Half of the tracks was streamed twenty days before the end of the ground truth, the others on its last day.
    last = context.week.as_of.toordinal() - EPOCH - 1
    first_streams = [[last - 19 if n < len(one) / 2 else last for n in range(len(one))] for one in truth]
    truths["truth_day"] = pa.array(first_streams, pa.list_(pa.int32()))
    lake.write("cohort", pa.table(truths), week=week)
    for space in SPACES:
        _fill_space(context, space, idx, vectors, group, taste, seed)
    idx = np.arange(N_WARM, dtype=np.int32)
    warm = {"user_idx": idx, "user_id": warm_users(seed)[0], "n_tracks": np.full(N_WARM, 30, np.int32)}
    lake.write("warm_users", pa.table(warm), week=week)
    write_history(context, [])
    folder = context.home / "quality" / week
    folder.mkdir(parents=True, exist_ok=True)
    for table in ("users", "tracks", "events", "playlists"):
        result = {"table": table, "success": True, "failed": [], "warned": [], "statistics": {"rows": 1}}
        (folder / f"{table}.json").write_text(json.dumps(result))


def write_history(context: Context, rows: list[dict[str, object]]) -> None:
    """Write user_history as if it was computed from the week's warm users; a list that a row lacks is empty."""
    import contracts

    week, settings = context.week.name, context.settings
    source = {
        "warm_users": context.lake.version("warm_users", week=week),
        "users": context.lake.version("users") if context.lake.exists("users") else None,
        "max_heard": settings.store.max_heard,
        "window_days": settings.matrix.window_days,
    }
    rows = [{name: [] for name in HISTORY} | row for row in rows]
    table = pa.Table.from_pylist(rows, schema=arrow_schema(contracts.load("user_history")))
    context.lake.write("user_history", table, report={"source": source}, week=week)


def warm_users(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return user_id (U,) in random order and vectors (U, d) by user_idx; the last user has no vector."""
    rng = np.random.default_rng([seed, 9])
    group = np.arange(N_WARM) % N_GROUPS
    vectors = np.eye(D, dtype=np.float32)[group] + 0.3 * rng.standard_normal((N_WARM, D)).astype(np.float32)
    vectors[-1] = 0
    return 4_000 + rng.permutation(2 * N_WARM)[:N_WARM].astype(np.int64), vectors


def track_names(track_ids: np.ndarray, group: np.ndarray) -> pa.Table:
    """Return the table `tracks` by id: every tenth track has no title, and the third artist has no name."""
    import contracts

    names = ("Ada", "Bo & the <b>Bs</b>", None)
    rows = [
        {"track_id": int(track), "artist_id": int(1 + g), "album_id": int(1 + g), "artist_name": names[g]}
        | {"title": f"Song {track}" if track % 10 else None, "genre": ("rap", "folk", None)[g]}
        for track, g in sorted(zip(track_ids, group, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(contracts.load("tracks")))


def _fill_space(
    context: Context, space: str, idx: np.ndarray, vectors: np.ndarray, group: np.ndarray, taste: float, seed: int
) -> None:
    where = {"week": context.week.name, "space": space}
    lake, rng = context.lake, np.random.default_rng(seed)
    entities, demographics, mean = space_parts()
    lake.write("track_vectors", pa.table({"track_idx": idx, "vector": to_list_column(vectors)}), **where)
    users = warm_users(seed)[1]
    shuffled = np.random.default_rng(seed).permutation(N_WARM)  # random order, as Spark writes them
    columns = {"user_idx": shuffled.astype(np.int32), "vector": to_list_column(users[shuffled])}
    lake.write("user_vectors", pa.table(columns), **where)
    parts = [
        pa.table(
            {"kind": [kind] * 3, "entity_id": entities.ids[kind], "vector": to_list_column(entities.vectors[kind])}
        )
        for kind in ("artist", "album", "playlist")
    ]
    lake.write("entity_vectors", pa.concat_tables(parts), **where)
    names = [("country", name) for name in COUNTRIES] + [("age_class", name) for name in AGE_CLASSES]
    rows = np.concatenate([np.stack(list(demographics.country.values())), demographics.age_class]).astype(np.float32)
    kinds, labels = zip(*names, strict=True)
    n_users = np.full(len(names), 5, np.int32)
    columns = {"kind": list(kinds), "name": list(labels), "n_users": n_users, "vector": to_list_column(rows)}
    lake.write("demographic_vectors", pa.table(columns), **where)
    # A country streams its own taste first; an age class, like all, the most popular tracks.
    fits = np.random.default_rng([seed, 8]).random(N_TRACKS) < taste
    own = [np.argsort(~(fits & (group == g)), kind="stable") for g in range(N_GROUPS)]
    own += [np.arange(N_TRACKS)] * len(AGE_CLASSES)
    columns = {"kind": list(kinds), "name": list(labels), "ranking": to_list_column(np.stack(own).astype(np.int32))}
    lake.write("demographic_rankings", pa.table(columns), **where)
    lists = []
    for segment in range(N_GROUPS):
        fits = rng.random(N_TRACKS) < taste
        lists.append(np.argsort(np.where(fits & (group == segment), 0, 1), kind="stable")[:60])
    segments = {
        "segment_id": np.arange(N_GROUPS, dtype=np.int32),
        "centroid": to_list_column(mean.astype(np.float32)),
        "size": np.full(N_GROUPS, 5, np.int32),
        "ranking": to_list_column(np.stack(lists).astype(np.int32)),
        "card": [json.dumps({"sentence": f"segment {segment}"}) for segment in range(N_GROUPS)],
    }
    lake.write("segments", pa.table(segments), **where)
    evaluation = [
        {"method": method, "split": split, "slice": "all", "metric": metric, "k": 50, "n_users": 50}
        | {"value": 0.2, "low": 0.1, "high": 0.3}
        for method in ("popularity", "semi_pers")
        for split in ("validation", "test")
        for metric in ("precision", "recall", "ndcg")
    ]
    frame = pa.Table.from_pylist(evaluation)
    frame = frame.set_column(4, "k", frame["k"].cast(pa.int32())).set_column(
        5, "n_users", frame["n_users"].cast(pa.int32())
    )
    lake.write("evaluation", frame, **where)
    _, onnx, predictions = trained()
    onnx_export.write_network(context, space, onnx, cohort()[0]["user_id"].to_numpy(), predictions, {"seed": 3})


@cache
def empty_database() -> bytes:
    """Return an empty MLflow database with its tables; creating one takes seconds, copying it does not."""
    from jobs.tracking.store import import_mlflow

    import_mlflow()
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{file}").search_experiments()
        return file.read_bytes()


def ready(home, week: str = "2026-11-16", taste: float | None = 1.0, seed: int = 0, **gate: object) -> Context:
    """Return a context whose week is filled (unless `taste` is None), with an empty MLflow database."""
    from tests.helpers import release_keys

    database = home / "mlflow" / "mlflow.db"
    if not database.exists():
        database.parent.mkdir(parents=True)
        database.write_bytes(empty_database())
    context = context_at(home, week, **gate)
    release_keys.add_keys(context.home)
    if taste is not None:
        fill(context, taste, seed)
    return context


FIRST, SECOND = "2026-11-16", "2026-11-23"


def build_and_gate(context: Context) -> Context:
    """Build the week's release and run the gate, which passes."""
    from jobs.release import bundle, gate

    bundle.run(context)
    assert gate.run(context)["verdict"] == "pass"
    return context


@cache
def stage(name: str) -> Path:
    """Return a home that is built once per process.

    Args:
        name: `passed` (the first week has passed the gate), `champion` (it is promoted), or `waiting` (the second week
            has also passed the gate).
    """
    from jobs.release import promote

    home = Path(tempfile.mkdtemp()) / "home"
    atexit.register(shutil.rmtree, home.parent, ignore_errors=True)
    if name == "passed":
        build_and_gate(ready(home))
    elif name == "champion":
        shutil.copytree(stage("passed"), home)
        promote.run(context_at(home))
    else:
        shutil.copytree(stage("champion"), home)
        build_and_gate(ready(home, SECOND))
    return home


def staged(home, name: str, week: str = FIRST, **gate: object) -> Context:
    """Return a context over a copy of a stage."""
    shutil.copytree(stage(name), home)
    return context_at(home, week, **gate)


def with_changed_files(bundle: Path, changed: dict[str, bytes | None]) -> Path:
    """Copy a bundle with other files (None removes a file) under its own valid name; return its folder."""
    from jobs.release.bundle import write_manifest
    from serving.release import manifest

    copy = bundle.parent / ".copy"
    shutil.copytree(bundle, copy)
    for name, content in changed.items():
        if content is None:
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(content)
    (copy / manifest.NAME).unlink()
    return copy.rename(bundle.parent / write_manifest(copy))
