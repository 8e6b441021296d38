"""Why a play is likely, or not, to be listened to: what each part of a play added, told in words.

Shapes   N plays, G columns, R reasons
Source   section 6.2 of the DSG17 report ("because you like [artist] and enjoy short tracks on weekday mornings");
         the additions are Lundberg et al. 2018 (trees), or weight times value (regression): log odds relative to the
         mean training play
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.skip.inputs import LISTENED, PLAYS
from models.skip.plays import Plays

MORNING, NOON, EVENING, NIGHT = 6, 12, 18, 24
_SHORT_S, _LONG_S = 180, 300
_NEW_DAYS, _OLD_DAYS = 90, 3650
_SMALLEST = 0.02  # log odds: what adds less is not a reason


class Explained(Protocol):
    """A model whose score is a sum of what columns add."""

    def contributions(self, plays: Plays) -> NDArray[np.float64]:
        """Log odds of each column, (N, G)."""

    def columns(self) -> tuple[str, ...]:
        """What each column tells about, (G,)."""


@dataclass(frozen=True)
class Reason:
    """One theme of a play: how many log odds it added (below 0: took away), and in words."""

    theme: str
    added: float
    text: str


# First match wins: the longer prefixes come first.
_THEMES = (
    ("user_artist", "artist"), ("since_artist", "artist"), ("user_album", "artist"), ("user_genre", "genre"),
    ("user_top_genre", "genre"), ("is_top_genre", "genre"), ("behavior_index", "genre"), ("user_track", "track"),
    ("since_track", "track"), ("user_age", "person"), ("user_gender", "person"), ("user_flow", "flow"),
    ("user_kind", "flow"), ("user_platform", "device"), ("user_family", "device"), ("user_context", "place"),
    ("user_daypart", "time"), ("user", "habit"), ("session", "session"), ("skips_in_a_row", "session"),
    ("last_skipped", "session"), ("since_last", "session"), ("since_first", "habit"), ("n_sessions", "habit"),
    ("songs_per_session", "habit"), ("mean_session", "habit"), ("genre", "genre_all"), ("artist", "artist_all"),
    ("album", "artist_all"), ("track", "track_all"), ("skip_score", "track_all"), ("avg_song", "track_all"),
    ("duration", "length"), ("bin_duration", "length"), ("md_mf", "length"), ("song_age", "age"),
    ("release", "age"), ("bin_release", "age"), ("hour", "time"), ("weekday", "time"), ("is_weekend", "time"),
    ("bin_time", "time"), ("day_of_month", "time"), ("week", "time"), ("month", "time"), ("year", "time"),
    ("context", "place"), ("platform", "device"), ("is_flow", "flow"),
)  # fmt: skip


def theme(column: str) -> str:
    """What a column is about, for people; "other" where nobody has said."""
    return next((name for prefix, name in _THEMES if column.startswith(prefix)), "other")


def reasons(model: Explained, plays: Plays, n: int = 3, names: Mapping[int, str] | None = None) -> list[list[Reason]]:
    """Up to n reasons for each play, the strongest first, whichever way they push.

    `names` are those of artists by id, where they are known. What a play's columns of one theme add is summed: many
    columns tell the same story.

    Raises:
        ValueError: n below 1; what the model says of its plays.
    """
    if n < 1:
        raise ValueError(f"reasons: n must be at least 1, got {n}")
    themes, code_G = np.unique([theme(column) for column in model.columns()], return_inverse=True)
    added_NG = model.contributions(plays)
    added_NT = np.zeros((len(plays), len(themes)))
    np.add.at(added_NT.T, code_G, added_NG.T)
    out: list[list[Reason]] = []
    for row, added_T in enumerate(added_NT):
        order = np.argsort(-np.abs(added_T), kind="stable")
        strong = [t for t in order if abs(added_T[t]) >= _SMALLEST and themes[t] != "other"][:n]
        play = plays.rows(slice(row, row + 1))
        out.append(
            [
                Reason(str(themes[t]), float(added_T[t]), _words(str(themes[t]), added_T[t] > 0, play, names))
                for t in strong
            ]
        )
    return out


def sentence(found: list[Reason], proba: float) -> str:
    """The reasons of one play as a line: "likely to listen (78 %): you finish most of Air; a short track"."""
    likely = proba >= 0.5
    told = [reason.text for reason in found if (reason.added > 0) == likely]
    against = [reason.text for reason in found if (reason.added > 0) != likely]
    head = f"{'likely to listen' if likely else 'likely to skip'} ({round(100 * proba)} %)"
    line = head + (": " + "; ".join(told) if told else "")
    return line + (", though " + "; ".join(against) if against else "")


def _words(name: str, good: bool, play: Plays, names: Mapping[int, str] | None) -> str:
    artist = (names or {}).get(int(play.artist_N[0]), "this artist")
    told = {
        "artist": f"you {_how_much(play, 'user_artist', good)} {artist}",
        "artist_all": f"{artist} is {'rarely' if good else 'often'} skipped by others",
        "genre": f"you {_how_much(play, 'user_genre', good)} this genre",
        "genre_all": f"this genre is {'rarely' if good else 'often'} skipped by others",
        "track": f"you {_how_much(play, 'user_track', good)} this track",
        "track_all": f"this track is {'rarely' if good else 'often'} skipped by others",
        "habit": f"you {'finish most of what you play' if good else 'skip a lot'}",
        "session": f"you {'have been listening' if good else 'have just been skipping'}",
        "flow": "you chose it yourself" if not play.is_flow_N[0] else "it comes from Flow",
        "length": f"{_length(play)} track",
        "age": _age(play),
        "time": _time(play),
        "place": "where you play it from",
        "device": "the device you use",
        "person": "listeners of your age",
    }
    return told[name]


def _value(play: Plays, name: str) -> float:
    if name in play.categories:
        code = int(play.categories[name][0])
        return float(code) if code >= 0 else float("nan")
    return float(play.numbers((name,))[0, 0]) if name in play.names else float("nan")


def _how_much(play: Plays, key: str, good: bool) -> str:
    plays, heard = _value(play, key + PLAYS), _value(play, key + LISTENED)
    if not plays > 0:
        return "have not played"
    share = heard / plays
    return "finish most of" if share >= 0.5 and good else ("often skip" if share < 0.5 else "have played")


def _length(play: Plays) -> str:
    seconds = _value(play, "duration_s")
    return "a short" if seconds < _SHORT_S else ("a long" if seconds > _LONG_S else "a usual length of")


def _age(play: Plays) -> str:
    days = _value(play, "song_age_days")
    return (
        "a new release" if days < _NEW_DAYS else ("an old favourite's age" if days > _OLD_DAYS else "the track's age")
    )


def _time(play: Plays) -> str:
    hour, weekday = _value(play, "hour"), _value(play, "weekday")
    if np.isnan(hour):
        return "the time of day"
    part = "night" if hour < MORNING else "morning" if hour < NOON else "afternoon" if hour < EVENING else "evening"
    day = "" if np.isnan(weekday) else "weekend " if weekday >= 5 else "weekday "
    return day + part
