"""Reasons follow the contributions to a prediction, are true of the play, and match the sign of the contribution."""

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
# Phrases for a reason to skip; all other phrases must describe a reason to listen.
SKIP_PATTERN = re.compile(
    r"skipped (this|everything|the)|often skip|more than average|new to you|last hour|Flow chose|old|long"
)


class ConstantContributions:
    """A model in which every column has the same contribution `by`."""

    def __init__(self, columns, by):
        self.names, self.by = columns, by

    def contributions(self, plays):
        return np.full((len(plays), len(self.names)), self.by)

    def columns(self):
        return self.names

    def mean(self):
        return MEAN


def play_facts(**values):
    return PlayFacts(values, MEAN)


def session(plays, heard, skips):
    return play_facts(session_plays=plays, session_listened=heard, skips_in_a_row=skips)


def play_counts(key, plays, heard):
    return play_facts(**{f"{key}_plays": plays, f"{key}_listened": heard})


@pytest.mark.parametrize("name", ["boosted_trees", "logistic_features"])
def test_reasons_follow_the_contributions_to_a_prediction(name):
    model = registry.make(name)
    model.fit(TRAIN, VALID)
    rows = reasons(model, TEST)
    assert len(rows) == len(TEST)
    flat = [reason for row in rows for reason in row]
    assert max(flat, key=lambda r: abs(r.contribution)).theme in ("habit", "artist", "track_all")
    assert {"you listen to most of what you play", "you often skip"} <= {r.text for r in flat if r.theme == "habit"}
    sums = model.contributions(TEST).sum(axis=1)
    z = np.log(model.predict_proba(TEST) / (1 - model.predict_proba(TEST)))
    np.testing.assert_allclose(z - sums, (z - sums).mean(), atol=1e-4)  # the contributions sum to the prediction
    assert model.mean() == pytest.approx(TRAIN.labels().mean())


@pytest.mark.parametrize("by", [0.3, -0.3])
def test_reason_text_matches_the_sign_of_its_contribution(by):
    columns = ("user_plays", "user_artist_plays", "track_plays", "duration_s", "is_flow")
    for column in columns:
        texts = {reason.text for row in reasons(ConstantContributions((column,), by), TEST) for reason in row}
        assert texts, column
        assert {bool(SKIP_PATTERN.search(text)) for text in texts} == {by < 0}, texts


@pytest.mark.parametrize(
    ("name", "values", "good", "bad"),
    [
        ("artist", play_counts("user_artist", 0, 0), None, "this artist is new to you"),
        ("artist", play_counts("user_artist", 1, 1), "you have listened to this artist before", None),
        ("artist", play_counts("user_artist", 1, 0), None, "you skipped this artist before"),
        ("artist", play_counts("user_artist", 2, 1), None, None),
        ("artist", play_counts("user_artist", 4, 4), "you like this artist", None),
        ("artist", play_counts("user_artist", 4, 2), None, "you often skip this artist"),
        ("artist", play_counts("user_artist", 10, 6), None, None),  # fewer than the mean, more than half
        ("genre", play_counts("user_genre", 10, 8), "you like this genre", None),
        ("genre", play_counts("user_genre", 10, 5), None, "you often skip this genre"),
        ("track", play_counts("user_track", 5, 5), "you like this track", None),
        ("habit", play_counts("user", 1, 1), None, None),  # one play is not a habit
        ("habit", play_counts("user", 2, 2), "you have skipped nothing so far", None),
        ("habit", play_counts("user", 2, 0), None, "you have skipped everything so far"),
        ("habit", play_counts("user", 10, 8), "you listen to most of what you play", None),
        ("habit", play_counts("user", 10, 4), None, "you often skip"),
        ("device", play_counts("user_platform", 9, 3), None, "you often skip on this device"),
        ("device", play_counts("user_family", 9, 9), "you have skipped nothing on this device", None),
        ("place", play_counts("user_context", 9, 8), "you listen to most of what you play from here", None),
        ("time", play_counts("user_daypart", 9, 2), None, "you often skip at this time of day"),
        ("artist_all", play_counts("artist", 19, 19), None, None),  # too few plays for a rate over all users
        ("artist_all", play_counts("artist", 20, 18), "this artist is skipped less than average", None),
        ("track_all", play_counts("track", 100, 60), None, "this track is skipped more than average"),
        ("genre_all", play_counts("genre", 1000, 705), None, None),
        (
            "genre_age",
            play_counts("genre_age", 50, 45),
            "listeners of your age skip this genre less than average",
            None,
        ),
        ("length", play_facts(duration_s=100), "it is short", None),
        ("length", play_facts(duration_s=200), None, None),
        ("length", play_facts(duration_s=400), None, "it is long"),
        ("age", play_facts(song_age_days=3), "it is a new release", None),
        ("age", play_facts(song_age_days=5000), None, "it is an old track"),
        ("age", play_facts(song_age_days=float("nan")), None, None),
        ("setting", play_facts(is_flow=True), None, "Flow chose it"),
        ("setting", play_facts(is_flow=False), "you chose it yourself", None),
        (
            "kind",
            play_facts(is_flow=True, user_kind_plays=5, user_kind_listened=2),
            None,
            "you often skip what Flow plays",
        ),
        (
            "kind",
            play_facts(is_flow=False, user_kind_plays=5, user_kind_listened=4),
            "you listen to most of what you choose yourself",
            None,
        ),
        (
            "setting",
            play_facts(is_flow=False, context_platform_plays=50, context_platform_listened=45),
            "tracks played from here on such a device are skipped less than average",
            None,
        ),
        (
            "setting",
            play_facts(is_flow=True, context_platform_plays=50, context_platform_listened=25),
            None,
            "what Flow plays on such a device is skipped more than average",
        ),
        ("session", session(0, 0, 9), None, None),  # the last play was days ago
        ("session", session(3, 3, 0), "you have skipped nothing in this session", None),
        ("session", session(3, 2, 0), "you listened to the track before this one", None),
        ("session", session(3, 2, 1), None, "you skipped the track before this one"),
        ("session", session(3, 0, 7), None, "you skipped the last 3 tracks"),
    ],
)
def test_phrase_is_true_of_the_play_or_none(name, values, good, bad):
    assert PHRASES[name](values, True) == good
    assert PHRASES[name](values, False) == bad


def test_recent_play_of_a_track_is_only_a_reason_to_skip():
    again = play_facts(user_track_plays=5, user_track_listened=4, since_track_s=600.0)
    assert PHRASES["track"](again, False) == "you played this track within the last hour"
    assert PHRASES["track"](again, True) == "you like this track"


def test_habit_reasons_are_merged_into_one():
    names = ("user_smoothed", "user_plays", "user_kind_plays")
    themes_by_play = [[r.theme for r in row] for row in reasons(ConstantContributions(names, 0.2), TEST)]
    assert ["habit"] in themes_by_play
    assert all(len(themes) <= 1 for themes in themes_by_play)


def test_sentence_contains_the_probability_of_its_outcome():
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


def test_every_column_has_a_theme_with_phrases_or_an_empty_theme():
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
