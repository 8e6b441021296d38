"""A small random log of plays with many ties, unlabelled rows and repeats, and its features by definition."""

from __future__ import annotations

import numpy as np

from models.skip import state, track_features, user_features

DAY = 86_400
START = 17_100 * DAY
GAP_S = 1_200


def random_log(seed=0, n=300, n_users=4, n_days=5, unknown=0.15):
    """Plays at few distinct seconds, so that ties, sessions, day borders and repeats are common."""
    rng = np.random.default_rng(seed)
    track = rng.integers(0, 12, n)
    ts = START + rng.integers(0, n_days, n) * DAY + rng.choice([0, 1, 500, 1_300, 1_700, 4_000, DAY - 1], n)
    listened = rng.integers(0, 2, n)
    listened[rng.random(n) < unknown] = -1
    rows = {
        "ts": ts, "user_id": rng.integers(0, n_users, n), "track_id": track, "artist_id": track % 4,
        "album_id": track % 7, "genre_id": track % 3, "listened": listened,
    }  # fmt: skip
    return {name: value.astype(np.int64) for name, value in rows.items()} | {"is_flow": rng.random(n) < 0.4}


def kernels(rows, before=None, leaky=False):
    """All counts by the code under test; before: carried by kind, or nothing."""
    before = before or state.empty()
    tracks = track_features.track_counts(rows, before, leaky=leaky)
    return tracks | user_features.user_counts(rows, before, GAP_S, leaky=leaky)


def take(rows, mask):
    return {name: value[mask] for name, value in rows.items()}


def by_definition(rows):
    """The same counts, one row at a time, from the set of what it may see."""
    n = len(rows["ts"])
    return [one_row(rows, i) for i in range(n)]


def one_row(rows, i):
    me = {name: value[i] for name, value in rows.items()}
    seen = (rows["ts"] < me["ts"]) & (rows["listened"] >= 0)
    heard = seen & (rows["listened"] == 1)
    flow = rows["is_flow"]

    def same(*names):
        return np.logical_and.reduce([rows[name] == me[name] for name in names])

    found = {}
    sets = {
        "artist": same("artist_id"), "track": same("artist_id", "track_id"), "album": same("artist_id", "album_id"),
        "user": same("user_id"), "user_artist": same("user_id", "artist_id"),
        "user_genre": same("user_id", "genre_id"), "user_track": same("user_id", "track_id"),
    }  # fmt: skip
    for name, mine in sets.items():
        found[f"{name}_plays"], found[f"{name}_listened"] = (mine & seen).sum(), (mine & heard).sum()
    for name in ("track", "user"):
        found[f"{name}_flow_plays"] = (sets[name] & seen & flow).sum()
        found[f"{name}_flow_listened"] = (sets[name] & heard & flow).sum()
    for name in ("track", "artist"):
        for days in (7, 30, 90):
            since = (me["ts"] // DAY - days) * DAY
            found[f"{name}_plays_{days}d"] = (sets[name] & seen & (rows["ts"] >= since)).sum()
    for name in ("user_artist", "user_track"):
        found[f"{name}_last_ts"] = max(rows["ts"][sets[name] & seen], default=-1)
    mine = sets["user"] & seen
    genres, plays = np.unique(rows["genre_id"][mine], return_counts=True)
    found["user_top_genre"] = genres[np.argmax(plays)] if len(genres) else -1
    return found | sessions(rows, mine)


def sessions(rows, mine):
    ts, listened = rows["ts"][mine], rows["listened"][mine]
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
        "last_ts": seconds[-1], "first_ts": seconds[0], "session_start": groups[-1][0], "session_plays": inside.sum(),
        "session_listened": (inside & (listened == 1)).sum(), "n_sessions": len(groups),
        "session_s": sum(g[-1] - g[0] for g in groups), "last_listened": int((listened[ts == seconds[-1]] == 1).all()),
        "skips_in_a_row": (ts > (good.max() if len(good) else -1)).sum(),
    }  # fmt: skip
