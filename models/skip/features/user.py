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

from collections.abc import Mapping

import numpy as np

from models.arrays import BoolVector, DoubleVector, IdVector, LongVector
from models.skip.features.counters import HOUR_S, Columns, Counters, Timeline
from models.skip.features.point_in_time import EarlierRows
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
    rows: Columns, counters: Mapping[str, Counters], gap_s: int, *, leaky: bool = False
) -> dict[str, LongVector]:
    """Return the counts of earlier plays, int64 (N,) by name; times are seconds since 1970, -1 if there is none."""
    user = Timeline(rows, "user", counters["user"], leaky=leaky)
    counts = {
        "user_plays": user.earlier_total("n_plays"),
        "user_listened": user.earlier_total("n_listened"),
        "user_flow_plays": user.earlier_total("n_flow"),
        "user_flow_listened": user.earlier_total("n_flow_listened"),
    }
    counts["user_kind_plays"], counts["user_kind_listened"] = user.same_flow_totals()
    for kind in WITHIN:
        timeline = Timeline(rows, kind, counters[kind], leaky=leaky)
        counts[f"{kind}_plays"], counts[f"{kind}_listened"] = (
            timeline.earlier_total("n_plays"),
            timeline.earlier_total("n_listened"),
        )
        if kind in ("user_artist", "user_track"):
            counts[f"{kind}_last_ts"] = last_play_ts(timeline)
    counts["user_top_genre"] = top_genre(rows, counters["user_genre"], leaky=leaky)
    return counts | last_hour(rows, counters["user_second"], leaky=leaky) | session_state(user, gap_s)


def user_rates(
    rows: Columns, counts: Columns, overall_rate: DoubleVector, smoothing: float, gap_s: int
) -> dict[str, DoubleVector]:
    """Return features from counts; `overall_rate` is the share listened to before the play's day, float64 (N,)."""
    ts = rows["ts"]
    user = smoothed(counts["user_listened"], counts["user_plays"], overall_rate, smoothing)

    def seconds_since(name: str) -> DoubleVector:
        return np.where(counts[name] >= 0, ts - counts[name], np.nan)

    def smoothed_to_user(kind: str) -> DoubleVector:
        return smoothed(counts[f"{kind}_listened"], counts[f"{kind}_plays"], user, smoothing)

    since_last = seconds_since("last_ts")
    in_session = since_last <= gap_s  # false for NaN
    top = counts["user_top_genre"]
    return {
        "user_rate": user,
        "user_flow_rate": smoothed(counts["user_flow_listened"], counts["user_flow_plays"], user, smoothing),
        "user_artist_rate": smoothed_to_user("user_artist"),
        "user_genre_rate": smoothed_to_user("user_genre"),
        "user_track_rate": smoothed_to_user("user_track"),
        "behavior_index": ratio(counts["user_genre_listened"], counts["user_plays"]),
        "is_top_genre": np.where(top == UNKNOWN_GENRE, np.nan, top == rows["genre_id"]),
        "since_last_s": since_last,
        "since_artist_s": seconds_since("user_artist_last_ts"),
        "since_track_s": seconds_since("user_track_last_ts"),
        "since_first_s": seconds_since("first_ts"),
        "last_skipped": np.where(counts["last_ts"] >= 0, 1 - counts["last_listened"], np.nan),
        "session_plays": np.where(in_session, counts["session_plays"], 0),
        "session_listened": np.where(in_session, counts["session_listened"], 0),
        "session_length_s": np.where(in_session, ts - counts["session_start"], 0),
        "songs_per_session": ratio(counts["user_plays"], counts["n_sessions"]),
        "mean_session_s": ratio(counts["session_s"], counts["n_sessions"]),
    }


def last_play_ts(timeline: Timeline) -> LongVector:
    """Return the time of the last earlier play, -1 if there is none; also with `leaky` it is an earlier play."""
    earlier = timeline.earlier
    counter_ts, play_ts = timeline.counters.numbers["last_ts"], timeline.ts[timeline.n_before :]
    sorted_ts = timeline.concatenated(counter_ts, play_ts)[earlier.order]
    last = earlier.last_earlier()
    return earlier.in_original_order(np.where(last >= 0, sorted_ts[last], -1))[timeline.n_before :]


def last_hour(rows: Columns, counters: Counters, *, leaky: bool = False) -> dict[str, LongVector]:
    """Return the user's plays in the 3600 seconds before each play, across sessions and days."""
    n, label = len(counters.key), rows["listened"]
    user, ts = np.concatenate([counters.key, rows["user_id"]]), np.concatenate([counters.other, rows["ts"]])
    earlier = EarlierRows([user], ts, np.concatenate([np.ones(n, bool), label >= 0]), leaky=leaky)
    values = {
        "user_plays_1h": np.concatenate([counters.numbers["n_plays"], np.ones(len(label), np.int64)]),
        "user_listened_1h": np.concatenate([counters.numbers["n_listened"], np.maximum(label, 0)]),
    }
    return {name: earlier.sum_in_window(value, ts, HOUR_S)[n:] for name, value in values.items()}


def session_state(timeline: Timeline, gap_s: int) -> dict[str, LongVector]:
    """Return the state before each play: last play, current session, number of sessions, skips in a row."""
    earlier, numbers = timeline.earlier, timeline.counters.numbers
    order, is_counted = earlier.order, earlier.is_counted

    def sorted_column(name: str, of_plays: LongVector) -> LongVector:
        return timeline.concatenated(numbers[name], of_plays)[order]

    play_ts = timeline.ts[timeline.n_before :]
    is_total = timeline.is_total[order]
    last_ts = sorted_column("last_ts", play_ts)
    previous = earlier.last_earlier()
    silence = np.where(previous >= 0, earlier.ts - last_ts[previous], 0)
    n_counted = np.concatenate([[0], np.cumsum(is_counted)])
    is_first_of_second = is_counted & ~is_total & (n_counted[earlier.position] == n_counted[earlier.tie_start])
    begins_session = is_first_of_second & ((previous < 0) | (silence > gap_s))
    continues_session = is_first_of_second & ~begins_session

    def running_sums(value: LongVector | BoolVector) -> LongVector:
        return np.concatenate([[0], np.cumsum(np.where(is_counted, value, 0))])

    def sum_of_earlier(value: LongVector) -> LongVector:
        sums = running_sums(value)
        return np.asarray(sums[earlier.tie_start] - sums[earlier.start])

    zero, one = np.zeros(timeline.n_plays, np.int64), timeline.increments["n_plays"]
    listened = timeline.increments["n_listened"]
    session_row = earlier.last_earlier(is_total | begins_session)  # the row that the current session begins with
    session_row_or_0 = np.maximum(session_row, 0)
    no_session = session_row < 0

    def sum_of_session(name: str, value: LongVector) -> LongVector:
        sums = running_sums(sorted_column(name, value))
        return np.where(no_session, 0, sums[earlier.tie_start] - sums[session_row_or_0])

    session_start = sorted_column("session_start", play_ts)
    n_sessions = sum_of_earlier(sorted_column("n_sessions", zero) + begins_session)
    session_s = sum_of_earlier(sorted_column("session_s", zero) + np.where(continues_session, silence, 0))
    first_ts = sorted_column("first_ts", play_ts)
    first_row = np.searchsorted(n_counted, n_counted[earlier.start], side="right") - 1  # first counted row of the user
    has_previous = previous >= 0
    # The last second may have several plays: it counts as listened if all of them were.
    previous_or_0 = np.maximum(previous, 0)
    second_start = earlier.tie_start[previous_or_0]
    plays = running_sums(timeline.concatenated(np.ones(len(numbers["last_ts"]), np.int64), one)[order])
    listened_plays = running_sums(sorted_column("last_listened", listened))
    all_listened = (plays[earlier.tie_start] - plays[second_start]) == (
        listened_plays[earlier.tie_start] - listened_plays[second_start]
    )
    last_listened_row = earlier.last_earlier(~is_total & (sorted_column("last_listened", listened) == 1))
    skips = running_sums(sorted_column("skips_in_a_row", one))
    skips_from = np.where(last_listened_row >= 0, earlier.tie_end[np.maximum(last_listened_row, 0)], earlier.start)
    state = {
        "last_ts": np.where(has_previous, last_ts[previous_or_0], -1),
        "first_ts": np.where(
            has_previous, first_ts[np.minimum(first_row, len(first_ts) - 1)] if len(first_ts) else first_ts, -1
        ),
        "session_start": np.where(no_session, -1, session_start[session_row_or_0]),
        "session_plays": sum_of_session("session_plays", one),
        "session_listened": sum_of_session("session_listened", listened),
        "n_sessions": n_sessions,
        "session_s": session_s,
        "last_listened": (has_previous & all_listened).astype(np.int64),
        "skips_in_a_row": skips[earlier.tie_start] - skips[skips_from],
    }
    return {name: earlier.in_original_order(value)[timeline.n_before :] for name, value in state.items()}


def top_genre(rows: Columns, counters: Counters, *, leaky: bool = False) -> LongVector:
    """Return the user's most frequent genre so far, the smallest id of a tie; UNKNOWN_GENRE without a play."""
    by_genre = Timeline(rows, "user_genre", counters)
    earlier = by_genre.earlier
    sums = earlier.running_sums(by_genre.concatenated(counters.numbers["n_plays"], by_genre.increments["n_plays"]))
    # Plays of this genre up to and including each row; their maximum over earlier rows is the count of the top genre.
    plays_upto = earlier.in_original_order(sums[earlier.position + 1] - sums[earlier.start])
    genres, genre_rank = np.unique(by_genre.keys[1], return_inverse=True)
    width = max(len(genres), 1)
    value = plays_upto * width + (width - 1 - genre_rank)
    by_user = Timeline(rows, "user_genre", counters, ("user_id",), leaky=leaky).earlier
    span = int(value.max(initial=0)) + 1
    if span * (int(by_user.group.max(initial=0)) + 1) >= 2**62:
        raise ValueError(
            f"too many plays, genres and users at once ({len(value)} rows): lower skip.features.rows_per_group"
        )
    ordered = np.where(by_user.is_counted, value[by_user.order], -1)
    highest = np.maximum.accumulate(ordered + by_user.group * span) if len(ordered) else ordered
    end = by_user.visible_end
    best = np.where(end > by_user.start, highest[np.maximum(end - 1, 0)] - by_user.group * span, -1)
    top = np.where(best >= 0, genres[width - 1 - best % width] if len(genres) else best, UNKNOWN_GENRE)
    return by_user.in_original_order(top)[by_genre.n_before :]


def update_sessions(rows: Columns, before: Counters, gap_s: int) -> tuple[IdVector, dict[str, LongVector]]:
    """Return user ids, ascending, and each user's session state after all rows by name.

    The state after all rows is the state before one more play of each user, without an outcome, a second later.
    """
    users = np.unique(np.concatenate([before.key, rows["user_id"][rows["listened"] >= 0]]))
    queries = {name: np.concatenate([value, np.zeros(len(users), value.dtype)]) for name, value in rows.items()}
    n, end_ts = len(rows["ts"]), int(rows["ts"].max(initial=0)) + 1
    queries["user_id"][n:], queries["ts"][n:], queries["listened"][n:] = users, end_ts, -1
    state = session_state(Timeline(queries, "user", before), gap_s)
    return users, {name: value[n:] for name, value in state.items()}
