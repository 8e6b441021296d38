"""Measure whether a known listener's list is better with the events of today (fold-in), by a split in time.

Rows       a warm listener of the champion's week and a day ("today") of the three days from the as-of time on, with at
           least one stream of a catalogue track, and at least `MIN_LATER` distinct other catalogue tracks on the four
           days after it. The vector was trained on events before the as-of time
List       the 50 tracks nearest to a vector, without the tracks streamed today; the same rule for every vector
Vectors    stored: the trained vector. Blends: (1 - w) * stored + w * today, both at unit length, where today is the
           mean of the unit vectors of today's streamed tracks, or the network's vector of these streams as a first day
Result     NDCG@50 of `stored`, and the difference of each blend to it with a paired bootstrap interval (95 %, listeners
           are drawn). One half of the listeners (by a hash of the id) is for choosing w, the other for reporting

    python benchmarks/fold_in.py [--home HOME]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

K, MIN_LATER, DAYS_TODAY, DAYS_LATER, N_BOOTSTRAP = 50, 5, 3, 4, 2_000
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Row:
    """A listener on a day: streams of the day and distinct other tracks of the days after it, as track_idx."""

    user_id: int
    user_idx: int
    streams: list[int]
    truth: set[int]


def events_of_days(lake: Any, first: Any, n_days: int) -> Any:
    """Return streams of tracks of some days."""
    import pyarrow as pa

    have = {partition["day"] for partition in lake.partitions("events")}
    days = [str((first + timedelta(days=n)).date()) for n in range(n_days)]
    missing = [day for day in days if day not in have]
    if missing:
        raise SystemExit(f"{lake.root}: events of {missing[0]} are missing; the days after the as-of time are needed")
    table = pa.concat_tables([lake.read("events", day=day) for day in days])
    return table.filter(pc.and_(pc.equal(table["kind"], "stream"), pc.equal(table["entity"], "track")))


def tracks_by_user(events: Any, idx_by_track: dict[int, int]) -> dict[int, list[int]]:
    """Return the catalogue tracks (track_idx) that each user streamed, with repetitions, in the order of time."""
    ordered = events.sort_by([("user_id", "ascending"), ("ts", "ascending"), ("entity_id", "ascending")])
    tracks: dict[int, list[int]] = {}
    for user, track in zip(ordered["user_id"].to_pylist(), ordered["entity_id"].to_pylist(), strict=True):
        if track in idx_by_track:
            tracks.setdefault(user, []).append(idx_by_track[track])
    return tracks


def ndcg(ranked_Bk: np.ndarray, truths: list[set[int]]) -> np.ndarray:
    """Return NDCG@k of each listener with binary relevance."""
    discount = 1 / np.log2(np.arange(2, K + 2))
    hits = np.array([[i in truth for i in row] for row, truth in zip(ranked_Bk.tolist(), truths, strict=True)])
    ideal = np.array([discount[: min(K, len(truth))].sum() for truth in truths])
    return (hits * discount).sum(axis=1) / ideal


def rows_of(lake: Any, as_of: Any, users: list[int], idx_by_track: dict[int, int]) -> list[Row]:
    """Return the rows of the evaluation."""
    row_by_user = {user: row for row, user in enumerate(users)}
    rows = []
    for n in range(DAYS_TODAY):
        start = as_of + timedelta(days=n)
        later = tracks_by_user(events_of_days(lake, start + timedelta(days=1), DAYS_LATER), idx_by_track)
        for user, streams in tracks_by_user(events_of_days(lake, start, 1), idx_by_track).items():
            truth = set(later.get(user, ())) - set(streams)
            if user in row_by_user and len(truth) >= MIN_LATER:
                rows.append(Row(user, row_by_user[user], streams, truth))
    if not rows:
        raise SystemExit(f"no warm listener has streams on and after {as_of:%Y-%m-%d}")
    return rows


def evaluate(loaded: Any, space_name: str, lake: Any, week: Any) -> dict[str, Any]:
    """Return NDCG@50 of the stored vectors of a space and of each blend."""
    from models.cold_start.top_k import normalise, top_k
    from serving.recommend.signals import complete_signals, first_days

    warm = lake.read("warm_users", week=week.name).sort_by("user_idx")
    rows = rows_of(lake, week.as_of, warm["user_id"].to_pylist(), loaded.track_idx)
    vectors = lake.read("user_vectors", week=week.name, space=space_name).sort_by("user_idx")
    at = [row.user_idx for row in rows]
    stored_RD = np.stack(vectors["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)[at]
    space = loaded.spaces[space_name]
    tracks_ND = np.asarray(space.tracks_ND)
    mean_RD = np.stack([normalise(tracks_ND[row.streams]).mean(axis=0) for row in rows])
    signals = [
        complete_signals(
            loaded,
            {"streams.tracks": [loaded.tracks[i].track_id for i in row.streams], "skips.tracks": [], "bans.tracks": []},
        )
        for row in rows
    ]
    days = first_days([(None, None)] * len(rows), signals)
    network_RD = space.vectors(loaded.release.inputs(space_name, days))
    n = min(K + max(len(set(row.streams)) for row in rows), len(tracks_ND))

    def score(vectors_RD: np.ndarray) -> np.ndarray:
        ranked = top_k(vectors_RD.astype(np.float32), tracks_ND, n, space.space.layout["similarity"]).tolist()
        kept = [[i for i in ids if i not in row.streams][:K] for ids, row in zip(ranked, rows, strict=True)]
        return ndcg(np.array(kept), [row.truth for row in rows])

    users = np.array([row.user_id for row in rows])
    choosing = np.array([hashlib.sha256(str(user).encode()).digest()[0] % 2 == 0 for user in users.tolist()])
    stored_R = score(stored_RD)
    result: dict[str, Any] = {
        "listeners": {"choosing": len(np.unique(users[choosing])), "reported": len(np.unique(users[~choosing]))},
        "rows reported": int((~choosing).sum()),
        "streams of today, median": float(np.median([len(row.streams) for row in rows])),
        "stored": float(stored_R[~choosing].mean()),
        "blends": {},
    }
    length = np.linalg.norm(stored_RD, axis=1, keepdims=True)
    for name, other_RD in (("mean of today's tracks", mean_RD), ("network over today", network_RD)):
        scores = {w: score(((1 - w) * normalise(stored_RD) + w * normalise(other_RD)) * length) for w in WEIGHTS}
        result["blends"][name] = {
            str(w): {
                "choosing": float((scores[w] - stored_R)[choosing].mean()),
                "reported": float((scores[w] - stored_R)[~choosing].mean()),
                "interval": interval((scores[w] - stored_R)[~choosing], users[~choosing]),
            }
            for w in WEIGHTS
        }
    return result


def interval(gain_R: np.ndarray, users_R: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over rows; listeners are drawn with all their rows."""
    _, group_R = np.unique(users_R, return_inverse=True)
    total_U, rows_U = np.bincount(group_R, gain_R), np.bincount(group_R)
    draws = np.random.default_rng(7).integers(0, len(rows_U), (N_BOOTSTRAP, len(rows_U)))
    low, high = np.quantile(total_U[draws].sum(axis=1) / rows_U[draws].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    """Print the result of each space of the champion as JSON."""
    from jobs.platform.lake import Lake
    from jobs.platform.week import Week
    from serving.release import pointer
    from serving.release.bundle import open_release
    from serving.release.loaded import LoadedRelease

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("OVERTURE_HOME", ".overture")))
    home = parser.parse_args().home.absolute()
    now = pointer.read(home)
    if now is None:
        raise SystemExit(f"{home}: this home has no champion; run `make demo` first")
    loaded = LoadedRelease(open_release(pointer.releases(home) / now.release), now)
    lake, week = Lake(str(home / "lake")), Week.from_name(loaded.week)
    results = {space: evaluate(loaded, space, lake, week) for space in loaded.spaces}
    print(json.dumps({"release": loaded.name[:12], "week": loaded.week, "spaces": results}, indent=2))


if __name__ == "__main__":
    main()
