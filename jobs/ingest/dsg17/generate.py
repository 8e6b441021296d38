"""`overture make-dsg17`: generate synthetic files in the format of the DSG17 tables, of any size.

Input    none; number of rows and seed
Output   OUT/train.csv (labelled rows), OUT/test.csv (each user's last Flow play, without label)
Grain    one row per play
Seed     the same rows and seed give the same bytes
Memory   a block of users at a time

The constants below were measured on a random sample of 15 974 rows of the real table and on its full test table (means
and quantiles with pandas). The two popularity laws were fitted to the numbers of distinct tracks, distinct artists and
tracks played once in 15 970 draws: 9 878 tracks and 8 136 played once, where the sample has 9 669 and 7 449; 4 112
artists, where it has 4 231. A sample of rows contains no information about sessions and repeats: SESSION_PLAYS, REPEAT
and the moods of sessions are assumptions. The label depends on listener, artist, track, the listener's genres, Flow,
context, platform, age and the mood of the session, so that models can learn it. Which model learns it best does not
apply to real listeners.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from contracts.errors import BadArgument
from jobs.ingest.dsg17.adapter import COLUMNS
from jobs.platform.progress import progress

FULL_ROWS, FULL_USERS, FULL_TRACKS, FULL_ARTISTS = 7_558_834, 19_918, 300_000, 60_000
MIN_ROWS = 1_000
BLOCK_ROWS = 500_000
TRACK_LAW, ARTIST_LAW, GENRE_LAW = (1.0, 40.0), (1.3, 20.0), (1.3, 1.0)  # weight of rank r: (r + shift) ^ -exponent
N_GENRES, GENRE_0, GENRE_1 = 500, 0.485, 0.124
SESSION_PLAYS, REPEAT, REPEAT_FLOW, FAVOURITES = 12, 0.35, 0.1, 30
# This cumulative share of all plays comes from this cumulative share of all users, most active first.
ACTIVITY = (
    (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
    tuple(
        user / FULL_USERS
        for user in (0, 97, 247, 652, 1175, 1878, 2740, 3768, 5201, 7039, 10017, 12432, 16043, FULL_USERS)
    ),
)
FIRST_DAY = 1_477_958_400  # 2016-11-01
DAYS = (
    610,
    704,
    741,
    712,
    646,
    555,
    589,
    610,
    548,
    689,
    596,
    599,
    449,
    535,
    528,
    550,
    502,
    550,
    517,
    416,
    496,
    480,
    457,
    426,
    468,
    417,
    339,
    339,
    341,
    298,
)
HOURS = (20, 14, 10, 8, 8, 13, 33, 46, 42, 51, 58, 56, 58, 56, 59, 63, 74, 77, 64, 49, 44, 39, 32, 28)
QUANTILES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
DURATIONS = (8, 159, 174, 190, 202, 212, 222, 233, 246, 264, 294, 335, 449, 3612)
RELEASES = (
    "1950-01-01",
    "1998-12-31",
    "2003-02-03",
    "2008-01-01",
    "2011-04-27",
    "2013-07-01",
    "2014-11-07",
    "2015-10-16",
    "2016-04-22",
    "2016-07-29",
    "2016-10-12",
    "2016-11-04",
    "2016-11-18",
    "2017-02-03",
)
# Shares of rows with times before the data, of old releases, and of durations of 65 535 s.
EARLY, OLD_RELEASE, HUGE = 4 / 15_974, 0.002, 1e-5
DEVICES = ((0, 0, 0.613), (0, 2, 0.037), (1, 0, 0.229), (1, 2, 0.018), (2, 1, 0.103))  # platform name, family, share
WOMEN, AGES, FLOW = 0.416, (18, 30), 0.305
CONTEXT_FLOW = ((1, 0.70), (4, 0.101), (5, 0.071), (6, 0.044), (7, 0.036), (20, 0.03), (23, 0.018))
CONTEXT = ((0, 0.611), (2, 0.201), (3, 0.083), (8, 0.02), (9, 0.02), (10, 0.02), (11, 0.02), (12, 0.015), (13, 0.01))
LISTENED, LISTENED_FLOW = 0.722, 0.601
# Standard deviations of log-odds: between users, artists, tracks, a user's genres, a user's liking of Flow, moods.
SPREAD = {"user": 0.9, "artist": 0.29, "track": 0.36, "genre": 0.5, "flow": 0.4, "mood": 0.6}
FAVOURITE, PER_YEAR, PLATFORM, CONTEXT_5, CONTEXT_7 = 0.8, 0.04, (0.0, 0.25, 1.1), -0.3, 1.8


@dataclass(frozen=True)
class Catalogue:
    """Tracks (T,) by popularity rank: weight, hidden indices, duration, release date, and effect on the log-odds."""

    weight_T: np.ndarray
    artist_T: np.ndarray
    album_T: np.ndarray
    genre_T: np.ndarray
    duration_T: np.ndarray
    release_T: np.ndarray
    effect_T: np.ndarray


def run(out: Path, rows: int = FULL_ROWS, seed: int = 7) -> dict[str, Any]:
    """Write both files; return numbers of rows, users and tracks, and the share of plays listened to.

    Args:
        out: folder to write to.
        rows: number of labelled rows.
        seed: seed of all draws.

    Raises:
        BadArgument: too few rows.
    """
    if rows < MIN_ROWS:
        raise BadArgument(f"--rows: must be at least {MIN_ROWS}, got {rows}")
    out.mkdir(parents=True, exist_ok=True)
    scale = rows / FULL_ROWS
    n_users = max(round(FULL_USERS * scale), 20)
    rng = np.random.default_rng(np.random.SeedSequence((seed, 17)))
    catalogue = draw_catalogue(max(round(FULL_TRACKS * scale), 200), max(round(FULL_ARTISTS * scale), 50), rng)
    plays_U = draw_activity(n_users, rows, rng) + 1  # one more than the labelled plays: the last play is the test row
    blocks = np.searchsorted(np.cumsum(plays_U), np.arange(BLOCK_ROWS, rows + n_users, BLOCK_ROWS))
    edges = np.unique(np.concatenate([[0], blocks, [n_users]]))
    schema = pa.schema([(name, pa.int64()) for name in (*COLUMNS, "is_listened")])
    test_parts: list[dict[str, np.ndarray]] = []
    listened = written = 0
    csv_options = csv.WriteOptions(quoting_style="none")
    with csv.CSVWriter(str(out / "train.csv.part"), schema, write_options=csv_options) as file:
        work: Iterator[int] = progress(range(len(edges) - 1), len(edges) - 1, "make-dsg17: blocks of users")
        for block in work:
            users = np.arange(edges[block], edges[block + 1])
            part = np.random.default_rng(np.random.SeedSequence((seed, 18, block)))
            columns, last = draw_plays(users, plays_U[users], catalogue, part)
            train = part.permutation(np.flatnonzero(~last))
            file.write_table(pa.table({name: columns[name][train] for name in schema.names}))
            listened += int(columns["is_listened"][train].sum())
            written += len(train)
            test_parts.append({name: columns[name][last] for name in COLUMNS})
    tests = {name: np.concatenate([part[name] for part in test_parts]) for name in COLUMNS}
    order = rng.permutation(n_users)
    table = pa.table({"sample_id": np.arange(n_users)} | {name: tests[name][order] for name in COLUMNS})
    csv.write_csv(table, str(out / "test.csv.part"), csv_options)
    for name in ("train.csv", "test.csv"):
        (out / f"{name}.part").replace(out / name)
    return {
        "out": str(out),
        "made_up": True,
        "seed": seed,
        "rows": {"train": written, "test": n_users},
        "users": n_users,
        "tracks": len(catalogue.weight_T),
        "listened": round(listened / written, 4),
    }


def power_law(n: int, exponent: float, shift: float) -> np.ndarray:
    """Return weights (n,) of n ranks with sum 1: proportional to (rank + shift) ^ -exponent."""
    weight = (np.arange(n) + shift) ** -exponent
    return np.asarray(weight / weight.sum())


def draw_by_weight(weight: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw indices (size,) by weight, by binary search in the cumulative sum."""
    edge = np.cumsum(weight)
    return np.asarray(np.searchsorted(edge, rng.random(size) * edge[-1], side="right").clip(max=len(weight) - 1))


def draw_catalogue(n: int, n_artists: int, rng: np.random.Generator) -> Catalogue:
    """Draw tracks of artists: an artist has a main genre and albums of about ten tracks, an album one release date."""
    artist = draw_by_weight(power_law(n_artists, *ARTIST_LAW), n, rng)
    genre_weight = np.concatenate([[GENRE_0, GENRE_1], (1 - GENRE_0 - GENRE_1) * power_law(N_GENRES - 2, *GENRE_LAW)])
    main = draw_by_weight(genre_weight, n_artists, rng)
    genre_ids = np.concatenate([[0, 7], 10 + 17 * np.arange(N_GENRES - 2)])
    n_albums = np.bincount(artist, minlength=n_artists) // 10 + 1
    first = np.concatenate([[0], np.cumsum(n_albums)[:-1]])
    album = first[artist] + (rng.random(n) * n_albums[artist]).astype(np.int64)
    total = int(n_albums.sum())
    of_album = np.repeat(main, n_albums)
    stray = rng.random(total) < 0.15
    of_album[stray] = draw_by_weight(genre_weight, int(stray.sum()), rng)
    days = np.array(RELEASES, "datetime64[D]").astype(np.float64)
    released = np.interp(rng.random(total), QUANTILES, days).astype(np.int64)
    duration = np.interp(rng.random(n), QUANTILES, DURATIONS).astype(np.int64)
    duration[rng.random(n) < HUGE] = 65_535
    date = released.astype("datetime64[D]")
    year, month = date.astype("datetime64[Y]"), date.astype("datetime64[M]")
    number = (year.astype(np.int64) + 1970) * 10_000 + (month.astype(np.int64) % 12 + 1) * 100
    number = number + (date - month).astype(np.int64) + 1
    number[rng.random(total) < OLD_RELEASE] = 19_000_101
    effect = rng.normal(0, SPREAD["artist"], n_artists)[artist] + rng.normal(0, SPREAD["track"], n)
    return Catalogue(
        power_law(n, *TRACK_LAW), artist, album, genre_ids[of_album[album]], duration, number[album], effect
    )


def draw_activity(n_users: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the number of plays of each user, most active first: `rows` in total and at least one each."""
    share = np.diff(np.interp(np.arange(n_users + 1) / n_users, ACTIVITY[1], ACTIVITY[0]))
    return np.asarray(1 + rng.multinomial(rows - n_users, share / share.sum()), np.int64)


def draw_plays(
    users: np.ndarray, plays_U: np.ndarray, tracks: Catalogue, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draw all columns of a block of users, by user and time, and whether a row is its user's last (always Flow)."""
    n_users, n = len(users), int(plays_U.sum())
    user = np.repeat(np.arange(n_users), plays_U)
    is_session_start = rng.random(n) < 1 / SESSION_PLAYS
    is_session_start[np.cumsum(plays_U) - plays_U] = True
    session = np.cumsum(is_session_start) - 1
    n_sessions = int(session[-1]) + 1
    owner = user[is_session_start]
    start = FIRST_DAY + 86_400 * draw_by_weight(np.array(DAYS, float), n_sessions, rng)
    start += 3600 * draw_by_weight(np.array(HOURS, float), n_sessions, rng) + rng.integers(0, 3600, n_sessions)
    start = start[np.lexsort((start, owner))]
    flow_U = np.clip(rng.beta(1.2, 1.2 * (1 - FLOW) / FLOW, n_users), 0.0, 1.0)
    flow = (rng.random(n_sessions) < flow_U[owner])[session]
    last = np.zeros(n, bool)
    last[np.cumsum(plays_U) - 1] = True
    flow[last] = True

    favourites = draw_by_weight(tracks.weight_T, n_users * FAVOURITES, rng).reshape(n_users, FAVOURITES)
    track = draw_by_weight(tracks.weight_T, n, rng)
    is_repeat = rng.random(n) < np.where(flow, REPEAT_FLOW, REPEAT)
    track[is_repeat] = favourites[user[is_repeat], rng.integers(0, FAVOURITES, int(is_repeat.sum()))]
    context = draw_codes(CONTEXT, n, rng)
    context[flow] = draw_codes(CONTEXT_FLOW, int(flow.sum()), rng)
    device = draw_by_weight(np.array([share for *_, share in DEVICES]), n_users, rng)[user]
    platform, family = (np.array([row[i] for row in DEVICES])[device] for i in (0, 1))
    age, gender = rng.integers(AGES[0], AGES[1] + 1, n_users), (rng.random(n_users) < WOMEN).astype(np.int64)

    taste = rng.normal(0, SPREAD["genre"], (n_users, 64))
    odds = rng.normal(0, SPREAD["user"], n_users)[user] + tracks.effect_T[track]
    odds += taste[user, tracks.genre_T[track] % 64] + rng.normal(0, SPREAD["mood"], n_sessions)[session]
    odds += rng.normal(0, SPREAD["flow"], n_users)[user] * flow + FAVOURITE * is_repeat + PER_YEAR * (age[user] - 24)
    odds += np.array(PLATFORM)[platform] + CONTEXT_5 * (context == 5) + CONTEXT_7 * (context == 7)
    for subset, rate in ((~flow, LISTENED), (flow, LISTENED_FLOW)):
        odds[subset] += offset_for_rate(odds[subset], rate)
    listened = rng.random(n) < 1 / (1 + np.exp(-odds))

    listened_s = np.where(listened, tracks.duration_T[track].clip(31, 600), rng.integers(2, 31, n))
    before = np.cumsum(listened_s) - listened_s
    ts = start[session] + before - before[is_session_start][session]
    ahead = user * 2**34 - np.arange(
        n
    )  # a session begins after the previous one ends; two plays of a user never share a second
    ts = np.maximum.accumulate(ts + ahead) - ahead
    is_early = (rng.random(n) < EARLY) & ~last
    ts[is_early] = rng.integers(0, 10**9, int(is_early.sum()))
    columns = {
        "genre_id": tracks.genre_T[track],
        "ts_listen": ts,
        "media_id": 200_000 + 457 * track,
        "album_id": 20_000 + 61 * tracks.album_T[track],
        "context_type": context,
        "release_date": tracks.release_T[track],
        "platform_name": platform,
        "platform_family": family,
        "media_duration": tracks.duration_T[track],
        "listen_type": flow.astype(np.int64),
        "user_gender": gender[user],
        "user_id": users[user],
        "artist_id": 1 + 37 * tracks.artist_T[track],
        "user_age": age[user],
        "is_listened": listened.astype(np.int64),
    }
    return columns, last


def draw_codes(shares: tuple[tuple[int, float], ...], n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw codes (n,) by their shares."""
    codes, weights = (np.array(column) for column in zip(*shares, strict=True))
    return np.asarray(codes[draw_by_weight(weights, n, rng)])


def offset_for_rate(odds: np.ndarray, rate: float) -> float:
    """Return the offset of log-odds at which their mean probability is `rate`; bisection on at most 20 000 of them."""
    sample = odds[:: max(len(odds) // 20_000, 1)]
    low, high = -10.0, 10.0
    while high - low > 1e-4 and len(sample):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-sample - middle))).mean() < rate else (low, middle)
    return (low + high) / 2
