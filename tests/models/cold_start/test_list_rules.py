"""Test the rules of lists: limits in every prefix, versions of recordings, order of fallbacks, playability."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.cold_start.list_rules import (
    OFF,
    ListBuilder,
    ListRules,
    TrackFacts,
    fill_list,
    limits,
    plain_title,
    recording_groups,
)

FEW = ListRules(per_artist=3, per_album=3)


def facts(artist, album=None, recording=None, **rest):
    artist = np.array(artist, np.int64)
    base = TrackFacts.unknown(artist, np.arange(len(artist)) if album is None else np.array(album, np.int64))
    groups = base.recording_N if recording is None else np.array(recording, np.int32)
    fields = {"explicit_N": base.explicit_N, "available_N": base.available_N, "released_N": base.released_N} | rest
    return TrackFacts(base.artist_N, base.album_N, groups, **fields)


def build(catalogue, candidates, k, rules=FEW, asked=10_000, **options):
    builder = ListBuilder(catalogue, k, rules, **options)
    fill_list(builder, lambda n: list(candidates)[:n], asked, len(catalogue))
    return builder


def worst_excess(chosen, group, limit):
    """Return by how much the fullest group exceeds the limit in the worst prefix; 0 or less: nowhere."""
    worst = -math.inf
    for n in range(1, len(chosen) + 1):
        counts = np.unique([group[i] for i in chosen[:n]], return_counts=True)[1]
        worst = max(worst, counts.max() - max(1, math.ceil(limit * n / 50)))
    return worst


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_keeps_both_limits_and_the_method_s_order_else(limit, seed):
    rng = np.random.default_rng(seed)
    artist = np.sort(rng.integers(0, 120, 2_000))
    album = artist * 10 + rng.integers(0, 3, 2_000)
    catalogue = facts(artist, album)
    candidates = rng.permutation(2_000)[:400].tolist() if seed else list(range(400))  # seed 0: artist after artist
    builder = build(catalogue, candidates, 50, ListRules(per_artist=limit, per_album=limit))
    assert len(builder.chosen) == len(set(builder.chosen)) == 50
    assert builder.relaxed == 0
    assert worst_excess(builder.chosen, artist, limit) <= 0
    assert worst_excess(builder.chosen, album, limit) <= 0
    first = next(i for i in candidates if i in builder.chosen)
    assert builder.chosen[0] == first == candidates[0]
    # Of one artist, the tracks keep the order of the method.
    place = {track: n for n, track in enumerate(candidates)}
    for name in set(artist[builder.chosen].tolist()):
        of_artist = [place[i] for i in builder.chosen if artist[i] == name and i in place]
        assert of_artist == sorted(of_artist)


def test_a_deferred_track_takes_the_first_place_that_the_limit_allows():
    artist = [0] * 5 + list(range(1, 60))
    builder = build(facts(artist), range(64), 50)
    at = [n for n, i in enumerate(builder.chosen, 1) if artist[i] == 0]
    assert at == [1, 17, 34]  # 3 * 17 / 50 is the first above 1, 3 * 34 / 50 the first above 2
    assert builder.chosen[:3] == [0, 5, 6]


def test_a_shorter_list_is_the_beginning_of_a_longer_one():
    rng = np.random.default_rng(3)
    catalogue = facts(rng.integers(0, 40, 1_000), rng.integers(0, 90, 1_000), rng.integers(0, 700, 1_000))
    candidates = rng.permutation(1_000).tolist()
    long = build(catalogue, candidates, 200, FEW).chosen
    assert all(build(catalogue, candidates, k, FEW).chosen == long[:k] for k in (1, 16, 17, 50, 120))


def test_limits_are_raised_one_step_at_a_time_where_the_catalogue_is_too_small():
    artist = [0] * 30 + [1] * 30
    builder = build(facts(artist), range(60), 20)
    assert len(builder.chosen) == 20
    counts = np.unique([artist[i] for i in builder.chosen], return_counts=True)[1]
    assert sorted(counts.tolist()) == [10, 10]
    # Place 19 is the tenth of an artist: ceil((3 + 20) * 19 / 50) = 9, ceil((3 + 21) * 19 / 50) = 10.
    assert builder.relaxed == 21
    assert build(facts(artist), range(60), 20, ListRules(None, None)).relaxed == 0


def test_a_recording_is_once_in_a_list_and_its_first_version_is_used():
    builder = build(facts(range(6), recording=[0, 1, 0, 1, 4, 5]), [2, 3, 0, 1, 4, 5], 4)
    assert builder.chosen == [2, 3, 4, 5]
    assert build(facts(range(6), recording=[0, 1, 0, 1, 4, 5]), [2, 3, 0, 1, 4, 5], 4, OFF).chosen == [2, 3, 0, 1]


def test_excluded_hidden_and_shown_tracks():
    catalogue = facts(range(8))
    hidden = [n == 1 for n in range(8)]
    builder = build(catalogue, [0, 1, 2, 3], 6, excluded={0}, hidden=hidden, shown={2})
    assert builder.chosen == [3, 4, 5, 6, 7, 2]  # the method's list, popular tracks, then what was shown too often
    builder = build(catalogue, [0, 1], 6, excluded=set(range(6)), hidden=hidden)
    assert builder.chosen == [6, 7], "fewer tracks remain than places"


def test_only_what_the_listener_can_play_and_is_old_enough_for():
    no = np.zeros(4, bool)
    catalogue = facts(
        range(4),
        explicit_N=np.array([True, False, False, False]),
        available_N=np.array([True, False, True, True]),
        countries={"DE": np.array([True, True, True, False])},
        everywhere_N=np.array([True, True, False, False]),
    )
    assert catalogue.hidden("DE", 30, FEW).tolist() == [False, True, False, True]
    assert catalogue.hidden("FR", 30, FEW).tolist() == [False, True, True, True]
    assert catalogue.hidden(None, None, FEW).tolist() == [False, True, False, False]
    assert catalogue.hidden(None, 17, FEW).tolist() == [True, True, False, False]
    assert catalogue.hidden(None, 18, FEW).tolist() == catalogue.hidden(None, 17, OFF).tolist()
    assert not catalogue.hidden(None, 18, FEW)[no].any()


@pytest.mark.parametrize("asked", [1, 7, 40, 300])
def test_the_number_of_candidates_asked_for_first_is_irrelevant(asked):
    rng = np.random.default_rng(5)
    catalogue = facts(rng.integers(0, 9, 300), rng.integers(0, 20, 300))
    candidates = rng.permutation(300)[:120]
    whole = build(catalogue, candidates.tolist(), 25, excluded={3, 4})
    assert build(catalogue, candidates.tolist(), 25, asked=asked, excluded={3, 4}).chosen == whole.chosen


def test_tracks_of_the_method_are_counted_without_those_that_fill_up():
    builder = ListBuilder(facts(range(10)), 5, FEW, {7})
    assert fill_list(builder, lambda n: [9, 7, 8][:n], 10, 10) == 2
    assert builder.chosen == [9, 8, 0, 1, 2]


def test_recordings_are_grouped_by_id_else_by_artist_and_title():
    ids = ["X", "Y", None, None, None, "Z", "X", None]
    artists = [1, 1, 1, 2, 1, 1, 9, 1]
    titles = ["Song", "Song", "Song (Remastered 2011)", "Song", "Song (Live)", "Other", "Sung", None]
    assert recording_groups(ids, artists, titles).tolist() == [0, 1, 0, 3, 4, 5, 0, 7]
    # A version with an id joins an earlier one without.
    assert recording_groups([None, "A", "B"], [1, 1, 1], ["Song", "Song - Single Version", "Song"]).tolist() == [
        0,
        0,
        2,
    ]


@pytest.mark.parametrize(
    ("title", "plain"),
    [
        ("Song (Remastered 2011)", "song"),
        ("Song - 2009 Remaster", "song"),
        ("Song [Deluxe Edition]", "song"),
        ("Song - Radio Edit", "song"),
        ("Song (Single Version) - Remastered", "song"),
        ("SONG  two", "song two"),
        ("Bjo\u0308rk", "bj\u00f6rk"),
        ("Song (Live)", "song (live)"),
        ("Song - Remix", "song - remix"),
        ("Stereo", "stereo"),
        ("(Single)", "(single)"),
        ("1999", "1999"),
        ("Re-Mastered Love", "re-mastered love"),
    ],
)
def test_titles_without_notes_on_the_version(title, plain):
    assert plain_title(title) == plain


def test_limits_by_hand():
    assert limits(3, 50)[1] == 1
    assert [n for n in range(2, 51) if limits(3, 50)[n] > limits(3, 50)[n - 1]] == [17, 34]
    assert limits(None, 2)[2] > 10**6
    assert limits(1, 200)[200] == 4


def test_an_unknown_word_for_heard_is_refused():
    with pytest.raises(ValueError, match="heard must be one of"):
        ListRules(heard="sometimes")
