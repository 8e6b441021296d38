"""Features of plays: by definition, blind to the future, and the same day by day as all at once."""

import numpy as np
import pytest

from models.skip.features import counter_state
from models.skip.features import shared as shared_features
from models.skip.features.calendar import calendar, duration_groups, track_age
from models.skip.features.counter_state import Rows
from models.skip.features.counters import Counters, no_counters, update_counters
from models.skip.features.shared import update_shared_counters
from models.skip.features.track import track_rates
from models.skip.features.user import update_sessions, user_rates
from tests.helpers.skip_log import CODES, DAY, GAP_S, START, by_definition, entries, kernels, random_log, take


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def state_after(rows, before, last_day):
    """State of every kind after these rows, through the form that the lake keeps."""
    found = {}
    for part in counter_state.update_state(rows, before, counter_state.KINDS, last_day, GAP_S):
        found[str(part.columns["kind"][0]) if len(part.columns["kind"]) else ""] = part
    parts = [part for part in found.values() if len(part.columns["kind"])]
    offsets, at = [np.zeros(1, np.int64)], 0
    for part in parts:
        offsets.append(part.offsets[1:] + at)
        at += part.offsets[-1]
    columns = {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns}
    days, plays = (np.concatenate([getattr(p, name) for p in parts]) for name in ("days", "plays"))
    return Rows(columns, np.concatenate(offsets), days, plays)


def no_rows():
    none = {
        name: np.zeros(0, np.int64)
        for name in ("key", "other", *counter_state.TOTALS, "last_ts", *counter_state.USER_NUMBERS)
    }
    return Rows(none | {"kind": np.zeros(0, "<U4")}, np.zeros(1, np.int64), none["key"], none["key"])


@pytest.mark.parametrize("seed", range(4))
def test_every_count_is_what_its_definition_says(seed):
    rows = random_log(seed)
    found, wanted = kernels(rows), by_definition(rows)
    for name in wanted[0]:
        np.testing.assert_array_equal(found[name], [row[name] for row in wanted], err_msg=name)
    assert set(found) == set(wanted[0])


@pytest.mark.parametrize("seed", range(3))
def test_nothing_later_or_in_the_same_second_is_seen(seed):
    rows = random_log(seed, n=120)
    clean = kernels(rows)
    rng = np.random.default_rng(seed)
    for i in rng.choice(120, 25, replace=False):
        unseen = rows["ts"] >= rows["ts"][i]
        poisoned = {name: value.copy() for name, value in rows.items()}
        poisoned["listened"][unseen] = 1 - np.abs(poisoned["listened"][unseen])
        others = unseen.copy()
        others[i] = False
        for name in ("user_id", "track_id", "artist_id", "album_id", "genre_id", *CODES):
            poisoned[name][others] = rng.permutation(poisoned[name][others])
        poisoned["is_flow"][others] ^= True  # its own kind is told with the question
        poisoned["ts"][others] += rng.integers(0, 3 * DAY, others.sum())
        found = kernels(poisoned)
        for name in clean:
            assert found[name][i] == clean[name][i], name


def test_rows_without_a_label_are_in_nobody_elses_features():
    rows = random_log(5)
    labelled = rows["listened"] >= 0
    same({name: value[labelled] for name, value in kernels(rows).items()}, kernels(take(rows, labelled)))


def test_the_order_of_rows_does_not_matter():
    rows = random_log(6)
    order = np.random.default_rng(1).permutation(len(rows["ts"]))
    same({name: value[order] for name, value in kernels(rows).items()}, kernels(take(rows, order)))


@pytest.mark.parametrize("seed", range(3))
def test_day_by_day_gives_the_same_as_all_days_at_once(seed):
    rows = random_log(seed, n=400, n_days=6)
    rows["ts"][: len(rows["ts"]) // 3] -= 95 * DAY  # plays that leave the longest window on the way
    whole = kernels(rows)
    before, shared = no_rows(), {kind: no_counters() for kind in shared_features.KINDS}
    for day in np.unique(rows["ts"] // DAY):
        mine = rows["ts"] // DAY == day
        today = take(rows, mine)
        found = kernels(today, {kind: counter_state.from_rows(before, kind) for kind in counter_state.KINDS} | shared)
        same({name: value[mine] for name, value in whole.items()}, found)
        before = state_after(today, before, int(day))
        shared = {kind: update_shared_counters(entries(today, kind), old) for kind, old in shared.items()}
    last = int(rows["ts"].max() // DAY)
    for kind in counter_state.KINDS:
        at_once = counter_state.from_rows(state_after(rows, no_rows(), last), kind)
        by_days = counter_state.from_rows(before, kind)
        same(at_once.numbers, by_days.numbers)
        for name in ("key", "other", "day_key", "day_other", "day", "day_plays"):
            np.testing.assert_array_equal(getattr(at_once, name), getattr(by_days, name), err_msg=f"{kind} {name}")
        assert at_once.day.min(initial=last) > last - 90
    for kind, by_days in shared.items():
        at_once = update_shared_counters(entries(rows, kind), no_counters())
        same(at_once.numbers, by_days.numbers)
        np.testing.assert_array_equal(at_once.key, by_days.key)
        np.testing.assert_array_equal(at_once.other, by_days.other)
    assert counter_state.from_rows(before, "user_second").other.min() >= (last + 1) * DAY - 3_600


def test_the_last_hour_reaches_over_midnight_and_no_further():
    ts = START + np.array([DAY - 3_601, DAY - 3_600, DAY - 1, DAY - 1, DAY, DAY + 3_599])
    rows = {**take(random_log(0, n=6), slice(None)), "ts": ts, "listened": np.array([1, 1, 0, -1, 1, 1])}
    rows["user_id"] = np.zeros(6, np.int64)
    assert kernels(rows)["user_plays_1h"].tolist() == [0, 1, 2, 2, 2, 2]
    assert kernels(rows)["user_listened_1h"].tolist() == [0, 1, 2, 2, 1, 1]
    first = ts < START + DAY
    before = state_after(take(rows, first), no_rows(), START // DAY)
    counters = counter_state.empty() | {kind: counter_state.from_rows(before, kind) for kind in counter_state.KINDS}
    assert kernels(take(rows, ~first), counters)["user_plays_1h"].tolist() == [2, 2]
    assert kernels(rows, leaky=True)["user_plays_1h"].tolist() == [5, 5, 5, 5, 4, 3]


def test_leaky_sees_all_of_its_key_and_its_own_label():
    rows = random_log(2, unknown=0)
    found = kernels(rows, leaky=True)
    for i in range(20):
        mine = rows["user_id"] == rows["user_id"][i]
        assert found["user_plays"][i] == mine.sum()
        assert found["user_listened"][i] == (mine & (rows["listened"] == 1)).sum()
    changed = {**rows, "listened": rows["listened"].copy()}
    changed["listened"][0] ^= 1
    assert kernels(changed, leaky=True)["track_listened"][0] != found["track_listened"][0]
    assert kernels(changed)["track_listened"][0] == kernels(rows)["track_listened"][0]
    genre = rows["genre_id"] == rows["genre_id"][0]
    assert found["genre_plays"][0] == genre.sum()
    assert kernels(changed, leaky=True)["genre_listened"][0] != found["genre_listened"][0]
    assert kernels(changed)["genre_listened"][0] == kernels(rows)["genre_listened"][0]


def test_a_user_with_one_row_and_no_rows_at_all():
    one = kernels(take(random_log(1), np.arange(1)))
    assert one["user_plays"].tolist() == [0]
    assert one["last_ts"].tolist() == one["user_top_genre"].tolist() == [-1]
    assert all(len(value) == 0 for value in kernels(take(random_log(1), np.arange(0))).values())


def test_only_unknown_rows_leave_nothing_behind():
    rows = random_log(1)
    rows["listened"][:] = -1
    assert all(len(update_counters(rows, kind, no_counters(), 0).key) == 0 for kind in counter_state.KINDS)
    assert all(
        len(update_shared_counters(entries(rows, kind), no_counters()).key) == 0 for kind in shared_features.KINDS
    )
    users, _ = update_sessions(rows, no_counters(), GAP_S)
    assert len(users) == 0


def test_rates_by_hand():
    counts = {
        "artist_plays": np.array([10, 0]),
        "artist_listened": np.array([5, 0]),
        "track_plays": np.array([4, 0]),
        "track_listened": np.array([1, 0]),
        "album_plays": np.array([0, 0]),
        "album_listened": np.array([0, 0]),
        "track_flow_plays": np.array([2, 0]),
        "track_flow_listened": np.array([2, 0]),
    }
    found = track_rates(counts, np.array([0.7, 0.7]), 10.0)
    np.testing.assert_allclose(found["artist_rate"], [0.6, 0.7])
    np.testing.assert_allclose(found["avg_song_listened"], [0.5, 0.7])
    np.testing.assert_allclose(found["track_flow_rate"], [7 / 12, 0.7])
    np.testing.assert_allclose(found["album_rate"], [0.6, 0.7])
    np.testing.assert_allclose(found["skip_score"], [0.75, np.nan])


def test_a_session_is_over_after_the_gap():
    ts = START + np.array([0, 1_200, 2_401])
    rows = {name: np.zeros(3, np.int64) for name in random_log(n=1)}
    rows |= {"ts": ts, "listened": np.array([1, 0, 0]), "is_flow": np.zeros(3, bool)}
    found = user_rates(rows, kernels(rows), np.full(3, 0.5), 20.0, GAP_S)
    assert found["session_plays"].tolist() == [0, 1, 0]
    assert found["session_length_s"].tolist() == [0, 1_200, 0]
    np.testing.assert_array_equal(found["since_last_s"], [np.nan, 1_200, 1_201])
    np.testing.assert_array_equal(found["last_skipped"], [np.nan, 0, 1])
    np.testing.assert_array_equal(found["songs_per_session"], [np.nan, 1, 2])
    np.testing.assert_array_equal(found["behavior_index"], [np.nan, 1, 0.5])


def test_calendar_agrees_with_the_standard_library():
    from datetime import UTC, datetime

    rng = np.random.default_rng(0)
    ts = np.concatenate([rng.integers(1.4e9, 1.9e9, 500), [1451606399, 1451606400, 1483228799, 1483228800]])
    found = calendar(ts)
    for i, moment in enumerate(datetime.fromtimestamp(t, UTC) for t in ts):
        got = {name: int(value[i]) for name, value in found.items()}
        assert got == {
            "hour": moment.hour,
            "weekday": moment.weekday(),
            "is_weekend": int(moment.weekday() > 4),
            "day_of_month": moment.day,
            "week": moment.isocalendar().week,
            "month": moment.month,
            "year": moment.year,
            "bin_time": moment.hour // 6,
        }


def test_age_and_brackets():
    found = track_age(np.array([17_000 * DAY + 5, 17_000 * DAY]), np.array([16_990.0, np.nan]))
    np.testing.assert_array_equal(found["song_age_days"], [10, np.nan])
    assert found["bin_release_year"].tolist() == [7, -1]
    groups = duration_groups(np.array([0, 120, 65_535]), np.array([0, 1, 1]))
    assert groups["bin_duration"].tolist() == [0, 1, 6]
    assert groups["md_mf_group"].tolist() == [0, 8, 13]


def test_counters_are_read_back_from_state_rows():
    rows = random_log(3)
    before = counter_state.from_rows(state_after(rows, no_rows(), START // DAY + 10), "track")
    again = counter_state.from_rows(counter_state.to_rows("track", before), "track")
    assert isinstance(again, Counters)
    same(before.numbers, again.numbers)
    np.testing.assert_array_equal(before.day, again.day)
