"""Reasons: they tell what moved the answer, are true of the play, and read in the direction in which they pushed."""

import re

import numpy as np
import pytest

import contracts
from models.skip.estimators import registry
from models.skip.ranking.reason_phrases import PHRASES, PlayFacts
from models.skip.ranking.reasons import Reason, reasons, sentence, theme_of
from tests.helpers.skip_world import split_in_three, world

TRAIN, VALID, TEST = split_in_three(world())
MEAN = 0.7
# What a listener reads as a reason to skip; all else must read as one to listen.
AGAINST = re.compile(
    r"skipped (this|everything|the)|often skip|more than average|new to you|last hour|Flow chose|old|long"
)


class Pushed:
    """Every column pushes by the same: as if a model said that all of a play is good, or bad."""

    def __init__(self, columns, by):
        self.names, self.by = columns, by

    def contributions(self, plays):
        return np.full((len(plays), len(self.names)), self.by)

    def columns(self):
        return self.names

    def mean(self):
        return MEAN


def seen(**values):
    return PlayFacts(values, MEAN)


def session(plays, heard, skips):
    return seen(session_plays=plays, session_listened=heard, skips_in_a_row=skips)


def own(key, plays, heard):
    return seen(**{f"{key}_plays": plays, f"{key}_listened": heard})


@pytest.mark.parametrize("name", ["boosted_trees", "logistic_features"])
def test_reasons_tell_what_moved_the_answer(name):
    model = registry.make(name)
    model.fit(TRAIN, VALID)
    found = reasons(model, TEST)
    assert len(found) == len(TEST)
    flat = [reason for row in found for reason in row]
    assert max(flat, key=lambda r: abs(r.contribution)).theme in ("habit", "artist", "track_all")
    assert {"you listen to most of what you play", "you often skip"} <= {r.text for r in flat if r.theme == "habit"}
    sums = model.contributions(TEST).sum(axis=1)
    z = np.log(model.predict_proba(TEST) / (1 - model.predict_proba(TEST)))
    np.testing.assert_allclose(z - sums, (z - sums).mean(), atol=1e-4)  # the parts add up to the answer
    assert model.mean() == pytest.approx(TRAIN.labels().mean())


@pytest.mark.parametrize("by", [0.3, -0.3])
def test_a_reason_to_listen_reads_as_one_and_one_to_skip_as_one(by):
    columns = ("user_plays", "user_artist_plays", "track_plays", "duration_s", "is_flow")
    for column in columns:
        told = {reason.text for row in reasons(Pushed((column,), by), TEST) for reason in row}
        assert told, column
        assert {bool(AGAINST.search(text)) for text in told} == {by < 0}, told


@pytest.mark.parametrize(
    ("name", "values", "good", "bad"),
    [
        ("artist", own("user_artist", 0, 0), None, "this artist is new to you"),
        ("artist", own("user_artist", 1, 1), "you have listened to this artist before", None),
        ("artist", own("user_artist", 1, 0), None, "you skipped this artist before"),
        ("artist", own("user_artist", 2, 1), None, None),
        ("artist", own("user_artist", 4, 4), "you like this artist", None),
        ("artist", own("user_artist", 4, 2), None, "you often skip this artist"),
        ("artist", own("user_artist", 10, 6), None, None),  # fewer than of the mean play, more than half
        ("genre", own("user_genre", 10, 8), "you like this genre", None),
        ("genre", own("user_genre", 10, 5), None, "you often skip this genre"),
        ("track", own("user_track", 5, 5), "you like this track", None),
        ("habit", own("user", 1, 1), None, None),  # one play is no habit
        ("habit", own("user", 2, 2), "you have skipped nothing so far", None),
        ("habit", own("user", 2, 0), None, "you have skipped everything so far"),
        ("habit", own("user", 10, 8), "you listen to most of what you play", None),
        ("habit", own("user", 10, 4), None, "you often skip"),
        ("device", own("user_platform", 9, 3), None, "you often skip on this device"),
        ("device", own("user_family", 9, 9), "you have skipped nothing on this device", None),
        ("place", own("user_context", 9, 8), "you listen to most of what you play from here", None),
        ("time", own("user_daypart", 9, 2), None, "you often skip at this time of day"),
        ("artist_all", own("artist", 19, 19), None, None),  # too few to tell of everybody
        ("artist_all", own("artist", 20, 18), "this artist is skipped less than average", None),
        ("track_all", own("track", 100, 60), None, "this track is skipped more than average"),
        ("genre_all", own("genre", 1000, 705), None, None),
        ("genre_age", own("genre_age", 50, 45), "people of your age skip this genre less than average", None),
        ("length", seen(duration_s=100), "it is short", None),
        ("length", seen(duration_s=200), None, None),
        ("length", seen(duration_s=400), None, "it is long"),
        ("age", seen(song_age_days=3), "it is a new release", None),
        ("age", seen(song_age_days=5000), None, "it is an old track"),
        ("age", seen(song_age_days=float("nan")), None, None),
        ("setting", seen(is_flow=True), None, "Flow chose it"),
        ("setting", seen(is_flow=False), "you chose it yourself", None),
        ("kind", seen(is_flow=True, user_kind_plays=5, user_kind_listened=2), None, "you often skip what Flow plays"),
        (
            "kind",
            seen(is_flow=False, user_kind_plays=5, user_kind_listened=4),
            "you listen to most of what you choose yourself",
            None,
        ),
        (
            "setting",
            seen(is_flow=False, context_platform_plays=50, context_platform_listened=45),
            "tracks played from here on such a device are skipped less than average",
            None,
        ),
        (
            "setting",
            seen(is_flow=True, context_platform_plays=50, context_platform_listened=25),
            None,
            "what Flow plays on such a device is skipped more than average",
        ),
        ("session", session(0, 0, 9), None, None),  # days ago
        ("session", session(3, 3, 0), "you have skipped nothing in this session", None),
        ("session", session(3, 2, 0), "you listened to the track before this one", None),
        ("session", session(3, 2, 1), None, "you skipped the track before this one"),
        ("session", session(3, 0, 7), None, "you skipped the last 3 tracks"),
    ],
)
def test_words_are_true_and_silent_where_nothing_true_reads_that_way(name, values, good, bad):
    assert PHRASES[name](values, True) == good
    assert PHRASES[name](values, False) == bad


def test_a_track_of_the_last_hour_is_a_reason_to_skip_alone():
    again = seen(user_track_plays=5, user_track_listened=4, since_track_s=600.0)
    assert PHRASES["track"](again, False) == "you played this track within the last hour"
    assert PHRASES["track"](again, True) == "you like this track"


def test_one_habit_each_way_stands_for_all():
    names = ("user_smoothed", "user_plays", "user_kind_plays")
    told = [[r.theme for r in row] for row in reasons(Pushed(names, 0.2), TEST)]
    assert ["habit"] in told
    assert all(len(themes) <= 1 for themes in told)


def test_sentences_say_the_chance_of_what_they_say():
    like, skips = Reason("artist", 0.5, "you like this artist"), Reason("habit", -0.2, "you often skip")
    short = Reason("length", 0.1, "it is short")
    assert sentence([like, skips, short], 0.78) == (
        "likely to listen (78 %) because you like this artist and it is short, though you often skip"
    )
    assert sentence([like, skips], 0.27) == (
        "likely to skip (73 %) because you often skip, though you like this artist"
    )
    assert sentence([skips], 0.6) == "likely to listen (60 %), though you often skip"
    assert sentence([], 0.7) == "likely to listen (70 %): no single feature stands out"


def test_every_column_has_a_theme_with_words_or_is_never_told():
    apart = ("play_id", "sample_id", "ts", "user_id", "track_id", "artist_id", "album_id", "genre_id", "is_listened")
    columns = [name for name in contracts.load("skip_features").columns if name not in apart]
    assert {theme_of(name) for name in columns} == {"", *PHRASES}
    assert {name for name in columns if not theme_of(name)} == {
        "user_age",
        "user_gender",
        "user_top_genre",
        "weekday",
        "is_weekend",
        "day_of_month",
        "week",
        "month",
        "year",
    }
    assert theme_of("user_artist_rate") == "artist"
    assert theme_of("track_plays_7d") == "track_all"
    with pytest.raises(ValueError, match="column mood has no theme"):
        theme_of("mood")
