"""A small random log of plays with many ties, unlabelled rows and repeats, and its features by definition."""

from __future__ import annotations

import numpy as np

from models.skip.features import counter_state, user
from models.skip.features import shared as shared_features
from models.skip.features import track as track_features

DAY = 86_400
START = 17_100 * DAY
GAP_S = 1_200
CODES = {
    "context_type": 3,
    "platform_name": 2,
    "platform_family": 2,
    "daypart": 4,
    "platform_flow": 4,
    "user_gender": 2,
    "user_age": 3,
}


def random_log(seed=0, n=300, n_users=4, n_days=5, unknown=0.15):
    """Return plays at few distinct seconds, so that ties, sessions, day borders and repeats are common."""
    rng = np.random.default_rng(seed)
    track = rng.integers(0, 12, n)
    ts = START + rng.integers(0, n_days, n) * DAY + rng.choice([0, 1, 500, 1_300, 1_700, 4_000, DAY - 1], n)
    listened = rng.integers(0, 2, n)
    listened[rng.random(n) < unknown] = -1
    rows = {
        "ts": ts,
        "user_id": rng.integers(0, n_users, n),
        "track_id": track,
        "artist_id": track % 4,
        "album_id": track % 7,
        "genre_id": track % 3,
        "listened": listened,
    }
    rows |= {name: rng.integers(0, size, n) for name, size in CODES.items()}
    return {name: value.astype(np.int64) for name, value in rows.items()} | {"is_flow": rng.random(n) < 0.4}


def kernels(rows, before=None, leaky=False):
    """Return all counts by the code under test; `before` contains the counters by kind, None means no earlier plays."""
    before = before or counter_state.empty()
    counts = track_features.track_counts(rows, before, leaky=leaky)
    counts |= user.user_counts(rows, before, GAP_S, leaky=leaky)
    known = {k: shared_features.DailyCounts.from_entries(entries(rows, k), before[k]) for k in shared_features.KINDS}
    return counts | shared_features.shared_counts(rows, rows["ts"] // DAY, known, leaky=leaky)


def entries(rows, kind):
    """Return labelled plays in the format of the shared counts, one entry per play."""
    labelled = take(rows, rows["listened"] >= 0)
    first, second = shared_features.KEYS[kind]
    ones, flow = np.ones(len(labelled["ts"]), np.int64), labelled["is_flow"].astype(np.int64)
    return {
        "key": labelled[first],
        "other": labelled[second] if second else -ones,
        "day": labelled["ts"] // DAY,
        "n_plays": ones,
        "n_listened": labelled["listened"],
        "n_flow": flow,
        "n_flow_listened": flow * labelled["listened"],
        "last_ts": labelled["ts"],
    }


def take(rows, mask):
    return {name: value[mask] for name, value in rows.items()}


def by_definition(rows):
    """Return the same counts, computed row by row from the set of earlier plays."""
    n = len(rows["ts"])
    return [one_row(rows, i) for i in range(n)]


def one_row(rows, i):
    current = {name: value[i] for name, value in rows.items()}
    earlier = (rows["ts"] < current["ts"]) & (rows["listened"] >= 0)
    earlier_listened = earlier & (rows["listened"] == 1)
    flow = rows["is_flow"]

    def same(*names):
        return np.logical_and.reduce([rows[name] == current[name] for name in names])

    counts = {}
    sets = {
        "artist": same("artist_id"),
        "track": same("artist_id", "track_id"),
        "album": same("artist_id", "album_id"),
        "user": same("user_id"),
        "user_artist": same("user_id", "artist_id"),
        "user_genre": same("user_id", "genre_id"),
        "user_track": same("user_id", "track_id"),
        "user_album": same("user_id", "album_id"),
        "user_context": same("user_id", "context_type"),
        "user_platform": same("user_id", "platform_name"),
        "user_family": same("user_id", "platform_family"),
        "user_daypart": same("user_id", "daypart"),
        "user_kind": same("user_id", "is_flow"),
        "artist_kind": same("artist_id", "is_flow"),
        "track_kind": same("artist_id", "track_id", "is_flow"),
    }
    for name, mask in sets.items():
        counts[f"{name}_plays"], counts[f"{name}_listened"] = (mask & earlier).sum(), (mask & earlier_listened).sum()
    hour = sets["user"] & (rows["ts"] >= current["ts"] - 3_600)
    counts["user_plays_1h"], counts["user_listened_1h"] = (hour & earlier).sum(), (hour & earlier_listened).sum()
    shared = {
        "context": same("context_type"),
        "genre": same("genre_id"),
        "genre_context": same("genre_id", "context_type"),
        "genre_gender": same("genre_id", "user_gender"),
        "genre_age": same("genre_id", "user_age"),
        "context_platform": same("context_type", "platform_flow"),
    }
    days_before = rows["ts"] // DAY < current["ts"] // DAY
    for name, mask in shared.items():
        mask = mask & days_before
        counts[f"{name}_plays"], counts[f"{name}_listened"] = (mask & earlier).sum(), (mask & earlier_listened).sum()
    for name in ("track", "user"):
        counts[f"{name}_flow_plays"] = (sets[name] & earlier & flow).sum()
        counts[f"{name}_flow_listened"] = (sets[name] & earlier_listened & flow).sum()
    for name in ("track", "artist"):
        for days in (7, 30, 90):
            since = (current["ts"] // DAY - days) * DAY
            counts[f"{name}_plays_{days}d"] = (sets[name] & earlier & (rows["ts"] >= since)).sum()
    for name in ("user_artist", "user_track"):
        counts[f"{name}_last_ts"] = max(rows["ts"][sets[name] & earlier], default=-1)
    mask = sets["user"] & earlier
    genres, plays = np.unique(rows["genre_id"][mask], return_counts=True)
    counts["user_top_genre"] = genres[np.argmax(plays)] if len(genres) else -1
    return counts | sessions(rows, mask)


def sessions(rows, mask):
    ts, listened = rows["ts"][mask], rows["listened"][mask]
    none = dict.fromkeys(
        ("session_plays", "session_listened", "n_sessions", "session_s", "last_listened", "skips_in_a_row"), 0
    )
    if not len(ts):
        return none | {"last_ts": -1, "first_ts": -1, "session_start": -1}
    seconds = np.unique(ts)
    groups = np.split(seconds, np.flatnonzero(np.diff(seconds) > GAP_S) + 1)
    inside = ts >= groups[-1][0]
    good = ts[listened == 1]
    return {
        "last_ts": seconds[-1],
        "first_ts": seconds[0],
        "session_start": groups[-1][0],
        "session_plays": inside.sum(),
        "session_listened": (inside & (listened == 1)).sum(),
        "n_sessions": len(groups),
        "session_s": sum(g[-1] - g[0] for g in groups),
        "last_listened": int((listened[ts == seconds[-1]] == 1).all()),
        "skips_in_a_row": (ts > (good.max() if len(good) else -1)).sum(),
    }
