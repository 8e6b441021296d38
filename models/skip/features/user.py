"""Counts and rates of a listener: shares listened to, affinities, the current session, the latest plays.

Shapes   N plays, all of their users; counts int64, rates float64 with NaN if unknown
Source   the report's section 3.2, steps 6 and 7: user aggregates, session length and songs a session, behavior_index,
         user_top_genre
Differs  strictly earlier plays only; plays of the same second do not see each other. The report does not define
         behavior_index; here it is the share of the user's earlier plays that had this genre and were listened to. A
         session is counted up to the play, in plays and seconds; averages are over the sessions so far.

A session ends with a silence longer than the gap. All features are functions of the set of earlier plays, and do not
depend on the order of rows within a second.
"""

from __future__ import annotations

import numpy as np

from models.skip.features.counters import HOUR_S, Carried, Columns, Timeline
from models.skip.features.point_in_time import AFTER, Past
from models.skip.features.track import ratio, smoothed

WITHIN = (
    "user_artist",
    "user_genre",
    "user_track",
    "user_album",
    "user_context",
    "user_platform",
    "user_family",
    "user_daypart",
)
KINDS = ("user", *WITHIN, "user_second")
UNKNOWN_GENRE = -1


def user_counts(
    rows: Columns, carried: dict[str, Carried], gap_s: int, *, leaky: bool = False
) -> dict[str, np.ndarray]:
    """Return the counts that each play sees, int64 (N,); times are seconds since 1970, -1 if there is none."""
    user = Timeline(rows, "user", carried["user"], leaky=leaky)
    counts = {
        "user_plays": user.total("n_plays"),
        "user_listened": user.total("n_listened"),
        "user_flow_plays": user.total("n_flow"),
        "user_flow_listened": user.total("n_flow_listened"),
    }
    counts["user_kind_plays"], counts["user_kind_listened"] = user.of_kind()
    for kind in WITHIN:
        timeline = Timeline(rows, kind, carried[kind], leaky=leaky)
        counts[f"{kind}_plays"], counts[f"{kind}_listened"] = timeline.total("n_plays"), timeline.total("n_listened")
        if kind in ("user_artist", "user_track"):
            counts[f"{kind}_last_ts"] = last_ts(timeline)
    counts["user_top_genre"] = top_genre(rows, carried["user_genre"], leaky=leaky)
    return counts | last_hour(rows, carried["user_second"], leaky=leaky) | session(user, gap_s)


def user_rates(
    rows: Columns, counts: Columns, overall_rate: np.ndarray, smoothing: float, gap_s: int
) -> dict[str, np.ndarray]:
    """Return features from counts; `overall_rate` is the share listened to before the play's day, float64 (N,)."""
    ts = rows["ts"]
    user = smoothed(counts["user_listened"], counts["user_plays"], overall_rate, smoothing)

    def since(name: str) -> np.ndarray:
        return np.where(counts[name] >= 0, ts - counts[name], np.nan)

    def of_user(kind: str) -> np.ndarray:
        return smoothed(counts[f"{kind}_listened"], counts[f"{kind}_plays"], user, smoothing)

    since_last = since("last_ts")
    in_session = since_last <= gap_s  # false for NaN
    top = counts["user_top_genre"]
    return {
        "user_rate": user,
        "user_flow_rate": smoothed(counts["user_flow_listened"], counts["user_flow_plays"], user, smoothing),
        "user_artist_rate": of_user("user_artist"),
        "user_genre_rate": of_user("user_genre"),
        "user_track_rate": of_user("user_track"),
        "behavior_index": ratio(counts["user_genre_listened"], counts["user_plays"]),
        "is_top_genre": np.where(top == UNKNOWN_GENRE, np.nan, top == rows["genre_id"]),
        "since_last_s": since_last,
        "since_artist_s": since("user_artist_last_ts"),
        "since_track_s": since("user_track_last_ts"),
        "since_first_s": since("first_ts"),
        "last_skipped": np.where(counts["last_ts"] >= 0, 1 - counts["last_listened"], np.nan),
        "session_plays": np.where(in_session, counts["session_plays"], 0),
        "session_listened": np.where(in_session, counts["session_listened"], 0),
        "session_length_s": np.where(in_session, ts - counts["session_start"], 0),
        "songs_per_session": ratio(counts["user_plays"], counts["n_sessions"]),
        "mean_session_s": ratio(counts["session_s"], counts["n_sessions"]),
    }


def last_ts(timeline: Timeline) -> np.ndarray:
    """Return the time of the last earlier play, -1 if there is none; also with `leaky` it is an earlier play."""
    past = timeline.past
    when = timeline.column(timeline.carried.numbers["last_ts"], timeline.ts[timeline.skip :])[past.order]
    at = past.last()
    return past.back(np.where(at >= 0, when[at], -1))[timeline.skip :]


def last_hour(rows: Columns, carried: Carried, *, leaky: bool = False) -> dict[str, np.ndarray]:
    """Return the user's plays in the 3600 seconds before each play, across sessions and days."""
    n, label = len(carried.key), rows["listened"]
    user, ts = np.concatenate([carried.key, rows["user_id"]]), np.concatenate([carried.other, rows["ts"]])
    past = Past([user], ts, np.concatenate([np.ones(n, bool), label >= 0]), leaky=leaky)
    values = {
        "user_plays_1h": np.concatenate([carried.numbers["n_plays"], np.ones(len(label), np.int64)]),
        "user_listened_1h": np.concatenate([carried.numbers["n_listened"], np.maximum(label, 0)]),
    }
    return {name: past.count_since(value, ts, HOUR_S)[n:] for name, value in values.items()}


def session(timeline: Timeline, gap_s: int) -> dict[str, np.ndarray]:
    """Return the state before each play: last play, current session, number of sessions, skips in a row."""
    past, carried = timeline.past, timeline.carried.numbers
    order, known = past.order, past.known

    def sorted_column(name: str, here: np.ndarray) -> np.ndarray:
        return timeline.column(carried[name], here)[order]

    here = timeline.ts[timeline.skip :]
    is_carried = timeline.is_carried[order]
    when = sorted_column("last_ts", here)
    previous = past.last()
    silence = np.where(previous >= 0, past.ts - when[previous], 0)
    counted = np.concatenate([[0], np.cumsum(known)])
    first_of_second = known & ~is_carried & (counted[past.place] == counted[past.tie])
    begins = first_of_second & ((previous < 0) | (silence > gap_s))
    continues = first_of_second & ~begins

    def running(value: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.where(known, value, 0))])

    def seen(value: np.ndarray) -> np.ndarray:
        sums = running(value)
        return np.asarray(sums[past.tie] - sums[past.start])

    zero, one = np.zeros(timeline.n, np.int64), timeline.one
    listened = timeline.plays["n_listened"]
    opened = past.last(is_carried | begins)
    at = np.maximum(opened, 0)
    no_session = opened < 0

    def of_session(name: str, value: np.ndarray) -> np.ndarray:
        sums = running(sorted_column(name, value))
        return np.where(no_session, 0, sums[past.tie] - sums[at])

    start = sorted_column("session_start", here)
    n_sessions = seen(sorted_column("n_sessions", zero) + begins)
    total_s = seen(sorted_column("session_s", zero) + np.where(continues, silence, 0))
    first = sorted_column("first_ts", here)
    first_known = np.searchsorted(counted, counted[past.start], side="right") - 1  # first known row of the user
    has_past = previous >= 0
    # The last second may have several plays: it counts as listened if all of them were.
    before = np.maximum(previous, 0)
    group = past.tie[before]
    plays, listened_sums = (
        running(timeline.column(np.ones(len(carried["last_ts"]), np.int64), one)[order]),
        running(sorted_column("last_listened", listened)),
    )
    all_listened = (plays[past.tie] - plays[group]) == (listened_sums[past.tie] - listened_sums[group])
    good = past.last(~is_carried & (sorted_column("last_listened", listened) == 1))
    streak = running(sorted_column("skips_in_a_row", one))
    since = np.where(good >= 0, past.tie_end[np.maximum(good, 0)], past.start)
    state = {
        "last_ts": np.where(has_past, when[before], -1),
        "first_ts": np.where(has_past, first[np.minimum(first_known, len(first) - 1)] if len(first) else first, -1),
        "session_start": np.where(no_session, -1, start[at]),
        "session_plays": of_session("session_plays", one),
        "session_listened": of_session("session_listened", listened),
        "n_sessions": n_sessions,
        "session_s": total_s,
        "last_listened": (has_past & all_listened).astype(np.int64),
        "skips_in_a_row": streak[past.tie] - streak[since],
    }
    return {name: past.back(value)[timeline.skip :] for name, value in state.items()}


def top_genre(rows: Columns, carried: Carried, *, leaky: bool = False) -> np.ndarray:
    """Return the user's most frequent genre so far, the smallest id of a tie; UNKNOWN_GENRE without a play."""
    by_genre = Timeline(rows, "user_genre", carried)
    past = by_genre.past
    sums = past.sums(by_genre.column(carried.numbers["n_plays"], by_genre.one))
    # Plays of this genre up to and including each row; their maximum over earlier rows is the count of the top genre.
    upto = past.back(sums[past.place + 1] - sums[past.start])
    genres, rank = np.unique(by_genre.keys[1], return_inverse=True)
    width = max(len(genres), 1)
    value = upto * width + (width - 1 - rank)
    by_user = Timeline(rows, "user_genre", carried, ("user_id",), leaky=leaky).past
    span = int(value.max(initial=0)) + 1
    if span * (int(by_user.rank.max(initial=0)) + 1) >= 2**62:
        raise ValueError(
            f"too many plays, genres and users at once ({len(value)} rows): lower skip.features.rows_per_group"
        )
    ordered = np.where(by_user.known, value[by_user.order], -1)
    highest = np.maximum.accumulate(ordered + by_user.rank * span) if len(ordered) else ordered
    edge = by_user.seen
    best = np.where(edge > by_user.start, highest[np.maximum(edge - 1, 0)] - by_user.rank * span, -1)
    top = np.where(best >= 0, genres[width - 1 - best % width] if len(genres) else best, UNKNOWN_GENRE)
    return by_user.back(top)[by_genre.skip :]


def carry_sessions(rows: Columns, before: Carried, gap_s: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return user ids, ascending, and each user's session state after all rows by name."""
    users = np.unique(np.concatenate([before.key, rows["user_id"][rows["listened"] >= 0]]))
    queries = {name: np.concatenate([value, np.zeros(len(users), value.dtype)]) for name, value in rows.items()}
    n = len(rows["ts"])
    queries["user_id"][n:], queries["ts"][n:], queries["listened"][n:] = users, AFTER, -1
    state = session(Timeline(queries, "user", before), gap_s)
    return users, {name: value[n:] for name, value in state.items()}
