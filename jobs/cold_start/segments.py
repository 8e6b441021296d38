"""Segments of warm users: centroid, ranking and card.

Input   user_vectors, user_track, warm_users, users, catalog, tracks
Output  segments and user_segments, partition week=<week> space=<space>
        MLflow: inertia, sizes, a map of the segments, and how they continue last week's if that week was run;
        the tables themselves never depend on another week
Grain   one row per segment; one row per warm user
People  a user whose vector is zero is in no segment. A segment of fewer than groups.min_users members is merged into
        the nearest others, so a week can have fewer than segments.k segments
Source  paper 3.1.3 and 3.2.4
Differs a segment ranks the tracks that its members streamed in the trailing window; the paper's public data ranks their
        days 1 to 30, which a weekly run would read months late for long-standing listeners
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from blockfactor.kmeans import kmeans
from jobs.cold_start.segment_cards import cards
from jobs.factorize.library_errors import translate_library_errors
from jobs.platform import figures
from jobs.platform.context import Context
from jobs.platform.list_columns import to_list_column
from jobs.settings.base import Space
from jobs.tracking.tracker import Tracker
from models.cold_start.segment_match import match_segments
from models.cold_start.segments import NO_SEGMENT, merge_small_segments, rankings


def run(context: Context, space: Space) -> dict[str, Any]:
    """Cluster, rank, describe and write; return the report for Airflow."""
    settings, week = context.settings.segments, context.week.name
    with Tracker.task(context, "segments", space) as run:
        x = context.lake.matrix("user_vectors", week=week, space=space)
        has_vector = x.any(axis=1)
        clustered = x if has_vector.all() else x[has_vector]
        with translate_library_errors("segments", "user_vectors"):
            clusters = kmeans(
                clustered, settings.k, context.seed(f"segments/{space}"), settings.max_iter, settings.n_init
            )
        of_clustered, centroids = merge_small_segments(
            clustered, clusters.labels, clusters.centroids, context.settings.groups.min_users
        )
        labels, k = np.full(len(x), NO_SEGMENT, np.int32), len(centroids)
        labels[has_vector] = of_clustered
        user_tracks = stream_matrix(context, len(x))
        ranking = rankings(labels, user_tracks, k, min(settings.ranking_length, user_tracks.shape[1]))
        sizes = np.bincount(of_clustered, minlength=k)
        table = pa.table(
            {
                "segment_id": pa.array(np.arange(k, dtype=np.int32)),
                "centroid": to_list_column(centroids),
                "size": pa.array(sizes.astype(np.int32)),
                "ranking": to_list_column(ranking),
                "card": pa.array(cards(context, labels, user_tracks, ranking)),
            }
        )
        without_vector = int((~has_vector).sum())
        report = {
            "users": len(x),
            "without_vector": without_vector,
            "segments": k,
            "merged": settings.k - k,
            "inertia": clusters.inertia,
            "commit": context.commit,
        }
        segment_ids = pa.array(labels, mask=~has_vector)
        members = pa.table({"user_idx": np.arange(len(x), dtype=np.int32), "segment_id": segment_ids})
        context.lake.write("user_segments", members, report=report, week=week, space=space)
        written = context.lake.write("segments", table, report=report, week=week, space=space)
        run.log_params({"k": settings.k, "max_iter": settings.max_iter, "n_init": settings.n_init, "users": len(x)})
        metrics = {
            "inertia": clusters.inertia,
            "smallest": float(sizes.min()),
            "largest": float(sizes.max()),
            "merged": float(settings.k - k),
            "without_vector": float(without_vector),
        }
        run.log_figure(figures.segment_sizes(sizes), "segment_sizes.png")
        run.log_figure(figures.segment_map(centroids, sizes, names(table)), "segment_map.png")
        stable = stability(context, space, labels)
        if stable:
            metrics |= stable["metrics"]
            run.log_table(stable["segments"], "stability.json")
        run.log_metrics(metrics)
        return {"rows": written.rows, "path": written.path, **metrics, **run.links}


def names(segments: pa.Table) -> list[str]:
    """Return the label of each segment on the map: its first genre, else its first artist, else nothing."""
    labels = []
    for card in map(json.loads, segments.column("card").to_pylist()):
        traits = card["genres"] or card["artists"]
        labels.append(traits[0]["name"] if traits else "")
    return labels


def stability(context: Context, space: Space, labels: np.ndarray) -> dict[str, Any]:
    """Return how the segments continue last week's: metrics, and a row per segment; empty if last week was not run."""
    lake, week, before = context.lake, context.week.name, context.week.previous.name
    if not all(lake.exists(t, week=before, **p) for t, p in (("warm_users", {}), ("user_segments", {"space": space}))):
        return {}
    now = lake.read("warm_users", columns=["user_idx", "user_id"], week=week).to_pandas().set_index("user_id")
    then = lake.read("warm_users", columns=["user_idx", "user_id"], week=before).to_pandas().set_index("user_id")
    both = now.join(then, how="inner", lsuffix="_now", rsuffix="_then")
    if both.empty:
        return {}
    of_user = lake.read("user_segments", week=before, space=space).sort_by("user_idx").column("segment_id")
    old, new = of_user.fill_null(NO_SEGMENT).to_numpy()[both.user_idx_then], labels[both.user_idx_now]
    in_both = (old != NO_SEGMENT) & (new != NO_SEGMENT)
    n_before, n_after = lake.rows("segments", week=before, space=space), int(labels.max()) + 1
    matches = match_segments(old[in_both], new[in_both], n_before, n_after)
    rows = [
        {"segment_id": s, "last_week": int(b), "jaccard": round(float(j), 4)}
        for s, (b, j) in enumerate(zip(matches.before_K, matches.jaccard_K, strict=True))
    ]
    metrics = {
        "stability.common_listeners": float(in_both.sum()),
        "stability.stayed_share": matches.same_share,
        "stability.median_jaccard": float(np.median(matches.jaccard_K)),
    }
    return {"metrics": metrics, "segments": rows}


def stream_matrix(context: Context, n_users: int) -> csr_matrix:
    """Return which warm user streamed which catalogue track in the window: binary (U, N)."""
    week = context.week.name
    table = context.lake.read("user_track", columns=["user_idx", "track_idx", "n_streams"], week=week)
    streamed = table.column("n_streams").to_numpy() > 0
    rows = table.column("user_idx").to_numpy()[streamed]
    columns = table.column("track_idx").to_numpy()[streamed]
    shape = (n_users, context.lake.rows("catalog", week=week))
    return csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
