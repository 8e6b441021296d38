"""Features of plays: equal to their definitions, point-in-time correct, and equal for daily and full updates."""

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


def assert_equal_columns(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def counter_rows_after(rows, before, last_day):
    """Return the counter rows of every kind after these plays, in the table form of the lake."""
    parts_by_kind = {}
    for part in counter_state.update_state(rows, before, counter_state.KINDS, last_day, GAP_S):
        parts_by_kind[str(part.columns["kind"][0]) if len(part.columns["kind"]) else ""] = part
    parts = [part for part in parts_by_kind.values() if len(part.columns["kind"])]
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
def test_counts_equal_their_definitions(seed):
    rows = random_log(seed)
    features, wanted = kernels(rows), by_definition(rows)
    for name in wanted[0]:
        np.testing.assert_array_equal(features[name], [row[name] for row in wanted], err_msg=name)
    assert set(features) == set(wanted[0])


@pytest.mark.parametrize("seed", range(3))
def test_features_do_not_depend_on_later_or_simultaneous_plays(seed):
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
        poisoned["is_flow"][others] ^= True  # the kind of the play itself is an input
        poisoned["ts"][others] += rng.integers(0, 3 * DAY, others.sum())
        features = kernels(poisoned)
        for name in clean:
            assert features[name][i] == clean[name][i], name


def test_unlabelled_rows_do_not_change_features_of_other_rows():
    rows = random_log(5)
    labelled = rows["listened"] >= 0
    assert_equal_columns(
        {name: value[labelled] for name, value in kernels(rows).items()}, kernels(take(rows, labelled))
    )


def test_features_do_not_depend_on_row_order():
    rows = random_log(6)
    order = np.random.default_rng(1).permutation(len(rows["ts"]))
    assert_equal_columns({name: value[order] for name, value in kernels(rows).items()}, kernels(take(rows, order)))


@pytest.mark.parametrize("seed", range(3))
def test_daily_updates_equal_one_pass_over_all_days(seed):
    rows = random_log(seed, n=400, n_days=6)
    rows["ts"][: len(rows["ts"]) // 3] -= 95 * DAY  # these plays leave the longest window during the updates
    whole = kernels(rows)
    before, shared = no_rows(), {kind: no_counters() for kind in shared_features.KINDS}
    for day in np.unique(rows["ts"] // DAY):
        mine = rows["ts"] // DAY == day
        today = take(rows, mine)
        features = kernels(
            today, {kind: counter_state.from_rows(before, kind) for kind in counter_state.KINDS} | shared
        )
        assert_equal_columns({name: value[mine] for name, value in whole.items()}, features)
        before = counter_rows_after(today, before, int(day))
        shared = {kind: update_shared_counters(entries(today, kind), old) for kind, old in shared.items()}
    last = int(rows["ts"].max() // DAY)
    for kind in counter_state.KINDS:
        at_once = counter_state.from_rows(counter_rows_after(rows, no_rows(), last), kind)
        by_days = counter_state.from_rows(before, kind)
        assert_equal_columns(at_once.numbers, by_days.numbers)
        for name in ("key", "other", "day_key", "day_other", "day", "day_plays"):
            np.testing.assert_array_equal(getattr(at_once, name), getattr(by_days, name), err_msg=f"{kind} {name}")
        assert at_once.day.min(initial=last) > last - 90
    for kind, by_days in shared.items():
        at_once = update_shared_counters(entries(rows, kind), no_counters())
        assert_equal_columns(at_once.numbers, by_days.numbers)
        np.testing.assert_array_equal(at_once.key, by_days.key)
        np.testing.assert_array_equal(at_once.other, by_days.other)
    assert counter_state.from_rows(before, "user_second").other.min() >= (last + 1) * DAY - 3_600


def test_last_hour_window_crosses_midnight():
    ts = START + np.array([DAY - 3_601, DAY - 3_600, DAY - 1, DAY - 1, DAY, DAY + 3_599])
    rows = {**take(random_log(0, n=6), slice(None)), "ts": ts, "listened": np.array([1, 1, 0, -1, 1, 1])}
    rows["user_id"] = np.zeros(6, np.int64)
    assert kernels(rows)["user_plays_1h"].tolist() == [0, 1, 2, 2, 2, 2]
    assert kernels(rows)["user_listened_1h"].tolist() == [0, 1, 2, 2, 1, 1]
    first = ts < START + DAY
    before = counter_rows_after(take(rows, first), no_rows(), START // DAY)
    loaded = counter_state.empty() | {kind: counter_state.from_rows(before, kind) for kind in counter_state.KINDS}
    assert kernels(take(rows, ~first), loaded)["user_plays_1h"].tolist() == [2, 2]
    assert kernels(rows, leaky=True)["user_plays_1h"].tolist() == [5, 5, 5, 5, 4, 3]


def test_leaky_counts_include_all_plays_of_the_key_and_the_own_label():
    rows = random_log(2, unknown=0)
    features = kernels(rows, leaky=True)
    for i in range(20):
        mine = rows["user_id"] == rows["user_id"][i]
        assert features["user_plays"][i] == mine.sum()
        assert features["user_listened"][i] == (mine & (rows["listened"] == 1)).sum()
    changed = {**rows, "listened": rows["listened"].copy()}
    changed["listened"][0] ^= 1
    assert kernels(changed, leaky=True)["track_listened"][0] != features["track_listened"][0]
    assert kernels(changed)["track_listened"][0] == kernels(rows)["track_listened"][0]
    genre = rows["genre_id"] == rows["genre_id"][0]
    assert features["genre_plays"][0] == genre.sum()
    assert kernels(changed, leaky=True)["genre_listened"][0] != features["genre_listened"][0]
    assert kernels(changed)["genre_listened"][0] == kernels(rows)["genre_listened"][0]


def test_single_row_and_empty_input():
    one = kernels(take(random_log(1), np.arange(1)))
    assert one["user_plays"].tolist() == [0]
    assert one["last_ts"].tolist() == one["user_top_genre"].tolist() == [-1]
    assert all(len(value) == 0 for value in kernels(take(random_log(1), np.arange(0))).values())


def test_unlabelled_rows_alone_produce_no_counters():
    rows = random_log(1)
    rows["listened"][:] = -1
    assert all(len(update_counters(rows, kind, no_counters(), 0).key) == 0 for kind in counter_state.KINDS)
    assert all(
        len(update_shared_counters(entries(rows, kind), no_counters()).key) == 0 for kind in shared_features.KINDS
    )
    users, _ = update_sessions(rows, no_counters(), GAP_S)
    assert len(users) == 0


def test_rates_equal_a_manual_calculation():
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
    features = track_rates(counts, np.array([0.7, 0.7]), 10.0)
    np.testing.assert_allclose(features["artist_rate"], [0.6, 0.7])
    np.testing.assert_allclose(features["avg_song_listened"], [0.5, 0.7])
    np.testing.assert_allclose(features["track_flow_rate"], [7 / 12, 0.7])
    np.testing.assert_allclose(features["album_rate"], [0.6, 0.7])
    np.testing.assert_allclose(features["skip_score"], [0.75, np.nan])


def test_session_ends_after_the_gap():
    ts = START + np.array([0, 1_200, 2_401])
    rows = {name: np.zeros(3, np.int64) for name in random_log(n=1)}
    rows |= {"ts": ts, "listened": np.array([1, 0, 0]), "is_flow": np.zeros(3, bool)}
    features = user_rates(rows, kernels(rows), np.full(3, 0.5), 20.0, GAP_S)
    assert features["session_plays"].tolist() == [0, 1, 0]
    assert features["session_length_s"].tolist() == [0, 1_200, 0]
    np.testing.assert_array_equal(features["since_last_s"], [np.nan, 1_200, 1_201])
    np.testing.assert_array_equal(features["last_skipped"], [np.nan, 0, 1])
    np.testing.assert_array_equal(features["songs_per_session"], [np.nan, 1, 2])
    np.testing.assert_array_equal(features["behavior_index"], [np.nan, 1, 0.5])


def test_calendar_equals_the_standard_library():
    from datetime import UTC, datetime

    rng = np.random.default_rng(0)
    ts = np.concatenate([rng.integers(1.4e9, 1.9e9, 500), [1451606399, 1451606400, 1483228799, 1483228800]])
    features = calendar(ts)
    for i, moment in enumerate(datetime.fromtimestamp(t, UTC) for t in ts):
        got = {name: int(value[i]) for name, value in features.items()}
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


def test_track_age_and_duration_groups():
    features = track_age(np.array([17_000 * DAY + 5, 17_000 * DAY]), np.array([16_990.0, np.nan]))
    np.testing.assert_array_equal(features["song_age_days"], [10, np.nan])
    assert features["bin_release_year"].tolist() == [7, -1]
    groups = duration_groups(np.array([0, 120, 65_535]), np.array([0, 1, 1]))
    assert groups["bin_duration"].tolist() == [0, 1, 6]
    assert groups["md_mf_group"].tolist() == [0, 8, 13]


def test_counter_rows_round_trip_through_the_table_form():
    rows = random_log(3)
    before = counter_state.from_rows(counter_rows_after(rows, no_rows(), START // DAY + 10), "track")
    again = counter_state.from_rows(counter_state.to_rows("track", before), "track")
    assert isinstance(again, Counters)
    assert_equal_columns(before.numbers, again.numbers)
    np.testing.assert_array_equal(before.day, again.day)
