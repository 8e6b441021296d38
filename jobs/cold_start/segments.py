"""Segments of warm users: centroid, ranking and a card for people.

Input   user_vectors, user_track, warm_users, users, catalog, tracks
Output  segments, partition week=<week> space=<space>
Source  paper 3.1.3 and 3.2.4
Differs a segment ranks the tracks its members streamed in the trailing window; the paper's public data ranks their
        days 1 to 30, which a weekly run would read months late for long-standing listeners
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from jobs import figures, tracking
from jobs.cold_start.people import warm_people
from jobs.context import Context
from jobs.lake import list_column
from jobs.settings import Space
from models.segments import kmeans, rankings

CARD_TRACKS = 5
CARD_TRAITS = 3
MIN_TRAIT_SHARE = 0.05


def run(context: Context, space: Space) -> dict[str, Any]:
    """Cluster, rank, describe, write; the report for Airflow."""
    settings, week = context.settings.segments, context.week.name
    with tracking.task(context, "segments", space) as run:
        x = context.lake.matrix("user_vectors", week=week, space=space)
        found = kmeans(x, settings.k, context.seed(f"segments/{space}"), settings.max_iter, settings.n_init)
        user_tracks = listened(context, len(x))
        ranking = rankings(found.labels, user_tracks, settings.k, min(settings.ranking, user_tracks.shape[1]))
        sizes = np.bincount(found.labels, minlength=settings.k)
        table = pa.table(
            {
                "segment_id": pa.array(np.arange(settings.k, dtype=np.int32)),
                "centroid": list_column(found.centroids),
                "size": pa.array(sizes.astype(np.int32)),
                "ranking": list_column(ranking),
                "card": pa.array(cards(context, found.labels, user_tracks, ranking)),
            }
        )
        written = context.lake.write(
            "segments",
            table,
            report={"users": len(x), "segments": settings.k, "inertia": found.inertia, "commit": context.commit},
            week=week,
            space=space,
        )
        run.log_params({"k": settings.k, "max_iter": settings.max_iter, "n_init": settings.n_init, "users": len(x)})
        run.log_metrics({"inertia": found.inertia, "smallest": float(sizes.min()), "largest": float(sizes.max())})
        run.log_figure(figures.segment_sizes(sizes), "segment_sizes.png")
        return {"rows": written.rows, "path": written.path, "inertia": found.inertia, **run.links}


def listened(context: Context, n_users: int) -> csr_matrix:
    """Which warm user streamed which catalogue track in the window: binary (U, N)."""
    week = context.week.name
    table = context.lake.read("user_track", columns=["user_idx", "track_idx", "n_streams"], week=week)
    heard = table.column("n_streams").to_numpy() > 0
    rows = table.column("user_idx").to_numpy()[heard]
    columns = table.column("track_idx").to_numpy()[heard]
    shape = (n_users, context.lake.rows("catalog", week=week))
    return csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)


def cards(context: Context, labels: np.ndarray, user_tracks: csr_matrix, ranking: np.ndarray) -> list[str]:
    """One JSON card a segment: countries, age classes and genres by lift (paper, Table 2), top tracks, a sentence."""
    week, k = context.week.name, len(ranking)
    people = warm_people(context)
    tracks = context.lake.read("tracks").to_pandas().set_index("track_id")
    tracks = tracks.loc[context.lake.read("catalog", week=week).to_pandas().sort_values("track_idx").track_id]
    member = csr_matrix((np.ones(len(labels), np.float32), (labels, np.arange(len(labels)))), shape=(k, len(labels)))
    traits = {
        "countries": lifts(member, people.country.tolist()),
        "ages": lifts(member, people.age_class.tolist()),
        "genres": lifts(member @ user_tracks, tracks.genre.tolist()),
    }
    titles = [
        {"track_id": int(i), "title": t or f"track {i}", "artist": a or f"artist {b}"}
        for i, t, a, b in zip(tracks.index, tracks.title, tracks.artist_name, tracks.artist_id, strict=True)
    ]
    sizes = np.bincount(labels, minlength=k)
    found = []
    for s in range(k):
        card: dict[str, Any] = {name: best[s] for name, best in traits.items()}
        card["tracks"] = [titles[i] for i in ranking[s, :CARD_TRACKS]]
        card["sentence"] = sentence(int(sizes[s]), card)
        found.append(json.dumps(card, sort_keys=True, ensure_ascii=False))
    return found


def lifts(weights: csr_matrix, names: list[str | None]) -> list[list[dict[str, Any]]]:
    """For each row of weights (k, n), the traits most over-represented against the whole: share and lift."""
    known = sorted({n for n in names if isinstance(n, str)})
    if not known:
        return [[] for _ in range(weights.shape[0])]
    index = {n: i for i, n in enumerate(known)}
    rows = [i for i, n in enumerate(names) if isinstance(n, str)]
    one_hot = csr_matrix(
        (np.ones(len(rows), np.float32), (rows, [index[str(names[i])] for i in rows])), shape=(len(names), len(known))
    )
    counts = np.asarray((weights @ one_hot).todense(), dtype=np.float64)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    overall = counts.sum(0) / max(counts.sum(), 1)
    lift = np.divide(share, overall, out=np.zeros_like(share), where=overall > 0)
    ranked = np.argsort(-np.where(share >= MIN_TRAIT_SHARE, lift, 0), axis=1, kind="stable")[:, :CARD_TRAITS]
    return [
        [
            {"name": known[j], "share": round(float(share[s, j]), 4), "lift": round(float(lift[s, j]), 2)}
            for j in ranked[s]
            if share[s, j] >= MIN_TRAIT_SHARE
        ]
        for s in range(len(share))
    ]


def sentence(size: int, card: dict[str, Any]) -> str:
    """The card in one sentence: the traits that lift the segment above the average listener."""
    over = {name: [t["name"] for t in card[name] if t["lift"] > 1.1] for name in ("ages", "countries", "genres")}
    said = f"{size} listeners"
    if over["ages"]:
        said += f" often aged {over['ages'][0]}"
    if over["countries"]:
        said += f" often in {' or '.join(over['countries'][:2])}"
    if over["genres"]:
        said += f" who play more {' and '.join(over['genres'][:2])} than others"
    top = card["tracks"][0]
    return f"{said}; first track: {top['title']} by {top['artist']}"
