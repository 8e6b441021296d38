"""Small synthetic weeks for the tests of the matrix and factorisation jobs."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

import contracts
from contracts.arrow import arrow_schema
from jobs.settings.matrix import MatrixSettings

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


def table(name, rows):
    """Return rows (dicts) as a table of the contract's Arrow schema; missing values are null."""
    schema = arrow_schema(contracts.load(name))
    return pa.table({f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in schema}, schema=schema)


def fill(context, *, users, events, tracks=None, playlists=None, n_catalog=10, min_tracks=2, min_truth_tracks=1):
    """Write a small dataset to the context's lake and set the sizes."""
    matrix = MatrixSettings(n_catalog=n_catalog, min_tracks=min_tracks, min_truth_tracks=min_truth_tracks)
    context.settings = context.settings.model_copy(update={"matrix": matrix})
    tracks = tracks or [{"track_id": t, "artist_id": 100 + t // 2, "album_id": 200 + t // 2} for t in range(20)]
    context.lake.write("tracks", table("tracks", tracks))
    context.lake.write("users", table("users", users))
    if playlists:
        context.lake.write("playlists", table("playlists", playlists))
    days = {}
    for event in events:
        days.setdefault(event["ts"].date(), []).append({"kind": "stream", "entity": "track", **event})
    for day, rows in days.items():
        context.lake.write("events", table("events", rows), day=str(day))


def streams(user, tracks, start):
    """Return one stream per minute."""
    return [{"user_id": user, "entity_id": t, "ts": start + timedelta(minutes=n)} for n, t in enumerate(tracks)]


def event(user, kind, entity, entity_id, ts):
    """Return one event."""
    return {"user_id": user, "kind": kind, "entity": entity, "entity_id": entity_id, "ts": ts}


def ratings(n_users=60, n_items=40, seed=0):
    x = sp.random(n_users, n_items, 0.15, "csr", dtype=np.float32, rng=np.random.default_rng(seed))
    x.data += 0.1
    x.sort_indices()
    return x


def frame(spark, x, **changes):
    coo = x.tocoo()
    columns = {"row": coo.row.astype(np.int32), "column": coo.col.astype(np.int32), "value": coo.data, **changes}
    return spark.createDataFrame(pa.table(columns))


def fill_matrix(context, x):
    """Write the tables that a factorisation reads, for the matrix x."""
    coo, week = x.tocoo(), context.week.name
    n_users, n_items = x.shape
    users, items = np.arange(n_users), np.arange(n_items)
    ints = lambda a: pa.array(a, pa.int32())  # noqa: E731
    context.lake.write(
        "warm_users", pa.table({"user_idx": ints(users), "user_id": users + 5, "n_tracks": ints(users + 1)}), week=week
    )
    context.lake.write(
        "catalog",
        pa.table(
            {
                "track_idx": ints(items),
                "track_id": items,
                "artist_id": items,
                "album_id": items,
                "n_listeners": items + 1,
            }
        ),
        week=week,
    )
    context.lake.write(
        "user_track",
        pa.table(
            {
                "user_idx": ints(coo.row),
                "track_idx": ints(coo.col),
                "affinity": pa.array(coo.data, pa.float32()),
                "n_streams": ints(np.where(coo.data > 0.3, 2, 0)),
            }
        ),
        week=week,
    )
