"""Properties of the splits of plays: each play is in one part, and no part precedes an earlier one in time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.skip.data.splits import EXCLUDED, TEST, TRAIN, VALIDATION, at_random, by_time, by_user, competition

quick = settings(derandomize=True, deadline=None, max_examples=200)
shares = st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)).filter(lambda pair: sum(pair) < 0.99)
plays = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20), st.booleans()), max_size=60)


def columns(rows):
    """Return user, ts and is_flow of plays in time order."""
    rows = sorted(rows, key=lambda row: row[1])
    return (np.array([row[n] for row in rows], dtype) for n, dtype in enumerate((np.int64, np.int64, bool)))


@quick
@given(st.lists(st.integers(0, 30), max_size=60).map(sorted), shares)
def test_split_by_time_has_three_parts_in_order_and_never_divides_a_second(ts, share):
    ts = np.array(ts, np.int64)
    split = by_time(ts, *share)
    assert set(split.tolist()) <= {TRAIN, VALIDATION, TEST}
    assert (np.diff(split) >= 0).all(), "training before validation before test"
    assert all(len(set(split[ts == second].tolist())) == 1 for second in set(ts.tolist()))
    assert not len(ts) or split[-1] == TEST


@quick
@given(st.integers(0, 500), shares, st.integers(0, 2**32 - 1))
def test_random_split_has_its_shares_and_repeats(n, share, seed):
    split = at_random(n, *share, seed)
    assert (split == TRAIN).sum() == int(n * share[0])
    assert (split != TEST).sum() == int(n * sum(share))
    np.testing.assert_array_equal(split, at_random(n, *share, seed))


@quick
@given(plays, st.integers(1, 4))
def test_split_by_user_takes_the_last_plays_of_each_user(rows, last):
    user, ts, _ = columns(rows)
    split = by_user(user, ts, last)
    for one in set(user.tolist()):
        of_user = split[user == one].tolist()
        enough = len(of_user) > 2 * last
        later = [VALIDATION] * last + [TEST] * last if enough else []
        assert of_user == [TRAIN] * (len(of_user) - len(later)) + later


@quick
@given(plays)
def test_split_of_the_competition_tests_the_last_flow_play_of_each_user(rows):
    user, ts, is_flow = columns(rows)
    split = competition(user, ts, is_flow)
    for one in set(user.tolist()):
        at = np.flatnonzero(user == one)
        flow = at[is_flow[at]]
        assert (split[at] == TEST).sum() == min(len(flow), 1)
        assert (split[at] == VALIDATION).sum() == (len(flow) > 1)
        if len(flow):
            assert split[flow[-1]] == TEST
            learned = at[split[at] == TRAIN]
            assert not len(learned) or ts[learned].max() < ts[flow[-2:]].min(), "training plays are earlier"
        else:
            assert set(split[at].tolist()) == {TRAIN}
        assert set(split[at].tolist()) <= {TRAIN, VALIDATION, TEST, EXCLUDED}
