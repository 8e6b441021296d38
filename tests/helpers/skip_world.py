"""A simulated service for tests of skip models: plays with a simple truth and point-in-time features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.skip.data.plays import Plays
from models.skip.encoding.numeric import LISTENED, PLAYS

DAY = 86_400
START = 1_478_000_000


def world(n: int = 2400, seed: int = 0, n_users: int = 40, n_tracks: int = 60) -> Plays:
    """Return plays; half of the users and half of the artists have high listening rates, and features use earlier plays
    only.
    """
    rng = np.random.default_rng(seed)
    user, track = rng.integers(0, n_users, n), rng.integers(0, n_tracks, n)
    artist = track // 4
    ts = START + np.sort(rng.integers(0, 30 * DAY, n))
    score = 2.2 * (user % 2) + 1.8 * (artist % 2) - 1.6
    listened = (rng.random(n) < 1 / (1 + np.exp(-score))).astype(np.int8)
    numbers: dict[str, np.ndarray] = {}
    for key, columns in {"user": [user], "track": [track], "user_artist": [user, artist]}.items():
        numbers[key + PLAYS], numbers[key + LISTENED] = before(columns, ts, listened)
    numbers["user_rate"] = (numbers["user" + LISTENED] + 1) / (
        numbers["user" + PLAYS] + 2
    )  # like the column of a feature table
    n_listened, plays = numbers["track" + LISTENED], numbers["track" + PLAYS]
    numbers["avg_song_listened"] = np.where(plays > 0, n_listened / np.maximum(plays, 1), np.nan)
    numbers["skip_score"] = 1 - numbers["avg_song_listened"]
    numbers["song_age_days"] = np.where(track % 7 == 0, np.nan, 10.0 * track)
    numbers["duration_s"] = 120.0 + 5 * track
    return Plays(
        ts,
        1000 + user,
        5000 + track,
        300 + artist,
        700 + track // 2,
        20 + artist // 5,
        {
            "context_type": rng.integers(-1, 3, n).astype(np.int32),
            "platform_name": (user % 3).astype(np.int32),
            "hour": (ts // 3600 % 24).astype(np.int32),
            "bin_time": (ts // 21_600 % 4).astype(np.int32),
        },
        np.stack(list(numbers.values()), axis=1).astype(np.float32),
        tuple(numbers),
        rng.random(n) < 0.3,
        listened,
    )


def before(columns: list[np.ndarray], ts: np.ndarray, listened: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count strictly earlier plays of the same key and how many were listened to, row by row."""
    plays, n_listened = np.zeros(len(ts)), np.zeros(len(ts))
    outcomes: dict[tuple, list[tuple[int, int]]] = {}
    for i, key in enumerate(zip(*columns, strict=True)):
        earlier = [outcome for moment, outcome in outcomes.get(key, []) if moment < ts[i]]
        plays[i], n_listened[i] = len(earlier), sum(earlier)
        outcomes.setdefault(key, []).append((int(ts[i]), int(listened[i])))
    return plays, n_listened


def with_ids(plays: Plays, **ids: int) -> Plays:
    """Return the plays with each given id column set to one value."""
    return replace(plays, **{f"{name}_N": np.full(len(plays), value, np.int64) for name, value in ids.items()})


def split_in_three(plays: Plays) -> tuple[Plays, Plays, Plays]:
    """Return 70 % of the plays for training, the next 15 % for validation and the last 15 % for the test."""
    a, b = int(0.7 * len(plays)), int(0.85 * len(plays))
    return plays.rows(slice(0, a)), plays.rows(slice(a, b)), plays.rows(slice(b, len(plays)))
