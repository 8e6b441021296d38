"""Compute the vectors of artists, albums, playlists and demographics, and the network's input vectors.

Input   track_vectors, user_vectors, user_track, catalog, collections, warm_users, users, first_day (each split)
Output  entity_vectors, demographic_vectors, demographic_rankings, features (split = train, validation, test)
Source  paper 3.2.2; layout in models/cold_start/input_vector.py, the function that the service uses too
Time    every input was cut at as_of by the job that wrote it; first days end with the registration day
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array

import contracts
from contracts.arrow import arrow_schema
from jobs.cold_start.segment_cards import warm_demographics
from jobs.cold_start.segments import stream_matrix
from jobs.platform.context import Context
from jobs.platform.list_columns import to_list_column
from jobs.settings.base import Space
from jobs.tracking.tracker import Tracker
from models.arrays import IntVector
from models.cold_start.input_vector import AGE_CLASSES, Demographics, Entities, FirstDays, input_vectors
from models.cold_start.methods.country_age import Group, group_rankings

SPLITS = ("train", "validation", "test")
CHUNK = 16_384


def run(context: Context, space: Space) -> dict[str, Any]:
    """Write the vectors and the inputs of all three splits; return the report for Airflow."""
    lake, week = context.lake, context.week.name
    with Tracker.task(context, "features", space) as run:
        entities = entity_vectors(context, space)
        demographics = demographic_vectors(context, space)
        rows: dict[str, int] = {}
        for split in SPLITS:
            days = lake.read("first_day", week=week, split=split)
            written = lake.write(
                "features",
                batches(days, entities, demographics),
                report={"entities": {k: len(v) for k, v in entities.ids.items()}, "commit": context.commit},
                week=week,
                space=space,
                split=split,
            )
            rows[split] = written.rows
        run.log_metrics({f"rows_{split}": float(n) for split, n in rows.items()})
        return {"rows": rows, "path": written.path, **run.links}


def batches(days: pa.Table, entities: Entities, demographics: Demographics) -> Iterator[pa.RecordBatch]:
    """Yield input vectors a chunk of users at a time, so that memory does not depend on the number of users."""
    for start in range(0, max(days.num_rows, 1), CHUNK):
        part = days.slice(start, CHUNK)
        x_BF = input_vectors(FirstDays.from_arrow(part), entities, demographics)
        yield pa.record_batch({"user_id": part.column("user_id").combine_chunks(), "x": to_list_column(x_BF)})


def means(groups: np.ndarray, members: np.ndarray, vectors_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean vector of each group.

    Args:
        groups: group id of each pair (n,).
        members: row of the vector of each pair (n,).
        vectors_ND: vectors (N, d).

    Returns:
        Group ids (G,) ascending, and means (G, d).
    """
    from scipy.sparse import csr_matrix

    ids, index = np.unique(groups, return_inverse=True)
    shape = (len(ids), len(vectors_ND))
    matrix = csr_matrix((np.ones(len(members), np.float32), (index, members)), shape=shape)
    return ids, (matrix @ vectors_ND) / np.maximum(matrix.sum(axis=1).A, 1).astype(np.float32)


def entity_vectors(context: Context, space: Space) -> Entities:
    """Compute and write the vectors of artists, albums and public playlists: plain means of their catalogue tracks.

    Private playlists get no vector, so no release contains one. Features are built from the same vectors: a private
    playlist among a listener's signals is an unknown id in training as in the service.
    """
    lake, week = context.lake, context.week.name
    track_ND = lake.matrix("track_vectors", week=week, space=space)
    catalog = lake.read("catalog", week=week)
    order = np.argsort(catalog.column("track_idx").to_numpy())
    columns = {name: catalog.column(name).to_numpy()[order] for name in ("track_id", "artist_id", "album_id")}
    playlist_id, playlist_track = public_collections(lake.read("collections", week=week))
    everything = np.arange(len(track_ND))
    means_by_kind = {
        "artist": means(columns["artist_id"], everything, track_ND),
        "album": means(columns["album_id"], everything, track_ND),
        "playlist": means(playlist_id, playlist_track, track_ND),
    }
    table = pa.concat_tables(
        pa.table(
            {
                "kind": pa.array([kind] * len(ids), pa.string()),
                "entity_id": pa.array(ids.astype(np.int64)),
                "vector": to_list_column(mean.astype(np.float32)),
            }
        )
        for kind, (ids, mean) in means_by_kind.items()
    )
    lake.write("entity_vectors", table, report={"commit": context.commit}, week=week, space=space)
    by_id = np.argsort(columns["track_id"])
    return Entities(
        ids={"song": columns["track_id"][by_id], **{kind: ids for kind, (ids, _) in means_by_kind.items()}},
        vectors={
            "song": track_ND[by_id],
            **{kind: mean.astype(np.float32) for kind, (_, mean) in means_by_kind.items()},
        },
    )


def public_collections(collections: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return playlist_id and track_idx (n,) of the rows of public playlists.

    A playlist with one private row is private.
    """
    playlist_id, track_idx, public = (collections[name].to_numpy() for name in ("playlist_id", "track_idx", "public"))
    kept = ~np.isin(playlist_id, playlist_id[~public])
    return playlist_id[kept], track_idx[kept]


def demographic_vectors(context: Context, space: Space) -> Demographics:
    """Compute and write the mean vectors and the rankings of warm users by country, by age class and by both.

    A group below `groups.min_users` has no row. In input vectors its country or age class is then an unknown one, in
    training as in the service.
    """
    lake, week, settings = context.lake, context.week.name, context.settings
    user_UD = lake.matrix("user_vectors", week=week, space=space)
    warm_users = warm_demographics(context)
    heard_UN = csr_array(stream_matrix(context, len(user_UD)))
    length = min(settings.segments.ranking_length, heard_UN.shape[1])
    rankings = group_rankings(
        heard_UN,
        warm_users.country.to_numpy(),
        warm_users.age_class.to_numpy(),
        settings.groups.prior_users,
        settings.groups.min_users,
        length,
    )
    warm_users["country_age"] = warm_users.country + "/" + warm_users.age_class
    parts, by_kind = [], dict[str, dict[str, np.ndarray]]()
    for kind in ("country", "age_class", "country_age"):
        published = warm_users[kind].isin([name for of_kind, name in rankings if of_kind == kind]).to_numpy()
        named = warm_users[kind][published].to_numpy().astype(str)
        if not len(named):
            by_kind[kind] = {}
            continue
        names, mean = means(named, np.flatnonzero(published), user_UD)
        by_kind[kind] = dict(zip(names.tolist(), mean.astype(np.float32), strict=True))
        parts.append(
            pa.table(
                {
                    "kind": pa.array([kind] * len(names), pa.string()),
                    "name": pa.array(names.tolist(), pa.string()),
                    "n_users": pa.array(np.unique(named, return_counts=True)[1].astype(np.int32)),
                    "vector": to_list_column(mean.astype(np.float32)),
                }
            )
        )
    schema = arrow_schema(contracts.load("demographic_vectors"))
    table = pa.concat_tables(parts) if parts else schema.empty_table()
    lake.write("demographic_vectors", table, report={"commit": context.commit}, week=week, space=space)
    _write_rankings(context, space, rankings)
    zero = np.zeros(user_UD.shape[1], np.float32)
    return Demographics(
        country=by_kind["country"], age_class=np.stack([by_kind["age_class"].get(name, zero) for name in AGE_CLASSES])
    )


def _write_rankings(context: Context, space: Space, rankings: Mapping[Group, IntVector]) -> None:
    columns = {
        "kind": pa.array([kind for kind, _ in rankings], pa.string()),
        "name": pa.array([name for _, name in rankings], pa.string()),
        "ranking": pa.array([ranking.tolist() for ranking in rankings.values()], pa.list_(pa.int32())),
    }
    report = {"commit": context.commit}
    context.lake.write("demographic_rankings", pa.table(columns), report=report, week=context.week.name, space=space)
