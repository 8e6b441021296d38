"""Why a play is likely, or not, to be listened to: what each part of a play added, told in words.

Shapes   N plays, G columns, T themes
Source   section 6.2 of the DSG17 report ("because you like [artist] and short tracks on weekday mornings"); the
         additions are Lundberg et al. 2018 (trees), or weight times value (regression): log odds relative to the mean
         training play
Differs  plays bring no names, so an artist is "this artist"; clocks are UTC, so a morning is "this time of day"

What columns of one theme add is summed: many columns tell the same story. The sum says that a theme moved the answer,
and which way; the words are models/skip/ranking/reason_phrases.py's, which looks at the play itself and is silent where nothing true of
it reads in that direction. The next theme is told then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.skip.data.plays import Plays
from models.skip.ranking.reason_phrases import WORDS, Seen

_MOST = 3  # reasons of a play
_HABITS = ("habit", "kind", "device", "place", "time")  # of the same plays: each way one of them stands for all
_SMALLEST = 0.05  # log odds, about one hundredth of a chance: what adds less is not a reason


class Explained(Protocol):
    """A model whose score is a sum of what columns add."""

    def contributions(self, plays: Plays) -> NDArray[np.float64]:
        """Log odds of each column, (N, G)."""

    def columns(self) -> tuple[str, ...]:
        """What each column tells about, (G,)."""

    def mean(self) -> float:
        """Share of the training plays that were listened to."""


@dataclass(frozen=True)
class Reason:
    """One theme of a play: how many log odds it added (below 0: took away), and in words."""

    theme: str
    added: float
    text: str


# First match wins: the longer prefixes come first. "" stands for what is never told: what somebody is, which day of a
# year or a week it is, a code without a name.
_THEMES = (
    ("user_artist", "artist"),
    ("since_artist", "artist"),
    ("user_album", "artist"),
    ("user_track", "track"),
    ("since_track", "track"),
    ("user_top_genre", ""),
    ("user_genre", "genre"),
    ("is_top_genre", "genre"),
    ("behavior_index", "genre"),
    ("genre_age", "genre_age"),
    ("genre", "genre_all"),
    ("user_flow", "kind"),
    ("user_kind", "kind"),
    ("is_flow", "setting"),
    ("user_platform", "device"),
    ("user_family", "device"),
    ("user_context", "place"),
    ("user_daypart", "time"),
    ("user_plays_1h", "session"),
    ("user_listened_1h", "session"),
    ("session", "session"),
    ("skips_in_a_row", "session"),
    ("last_skipped", "session"),
    ("since_last", "session"),
    ("user_age", ""),
    ("user_gender", ""),
    ("user", "habit"),
    ("since_first", "habit"),
    ("n_sessions", "habit"),
    ("songs_per_session", "habit"),
    ("mean_session", "habit"),
    ("artist", "artist_all"),
    ("album", "artist_all"),
    ("track", "track_all"),
    ("skip_score", "track_all"),
    ("avg_song", "track_all"),
    ("context", "setting"),
    ("platform", "setting"),
    ("duration", "length"),
    ("bin_duration", "length"),
    ("md_mf", "length"),
    ("song_age", "age"),
    ("bin_release", "age"),
    ("hour", "time"),
    ("bin_time", "time"),
    ("weekday", ""),
    ("is_weekend", ""),
    ("day_of_month", ""),
    ("week", ""),
    ("month", ""),
    ("year", ""),
)


def theme(column: str) -> str:
    """What a column is about, a key of WORDS; "" where it is never told.

    Raises:
        ValueError: nobody has said what the column is about.
    """
    for prefix, name in _THEMES:
        if column.startswith(prefix):
            return name
    raise ValueError(f"reasons: column {column} has no theme; say in models/skip/ranking/reasons.py what it is about")


def reasons(model: Explained, plays: Plays) -> list[list[Reason]]:
    """At most three reasons for each play, the strongest first, whichever way they push; none where none can be told.

    Raises:
        ValueError: a column without a theme; what the model says of its plays.
    """
    themes, code_G = np.unique([theme(column) for column in model.columns()], return_inverse=True)
    added_NT = model.contributions(plays) @ np.eye(len(themes))[code_G]
    order_NT = np.argsort(-np.abs(added_NT), axis=1, kind="stable")
    mean = model.mean()
    columns = {name: plays.numbers_NF[:, f].tolist() for f, name in enumerate(plays.names)}
    columns |= {name: column.tolist() for name, column in plays.categories.items()}
    columns["is_flow"] = plays.is_flow_N.tolist()
    return [
        _told(Seen({name: column[n] for name, column in columns.items()}, mean), themes, added_NT[n], order_NT[n])
        for n in range(len(plays))
    ]


def _told(
    seen: Seen, themes: NDArray[np.str_], added_T: NDArray[np.float64], order_T: NDArray[np.int64]
) -> list[Reason]:
    found: list[Reason] = []
    habits = set()  # the directions that a habit has been told for
    for t in order_T:
        name, added = str(themes[t]), float(added_T[t])
        if abs(added) < _SMALLEST or len(found) == _MOST:
            break
        good = added > 0
        if not name or (name in _HABITS and good in habits):
            continue
        text = WORDS[name](seen, good)
        if text is not None:
            found.append(Reason(name, added, text))
            habits |= {good} if name in _HABITS else set()
    return found


def sentence(found: list[Reason], proba: float) -> str:
    """The reasons of one play as a line: "likely to listen (78 %) because you like this artist and it is short".

    The percentage is the chance of what is said to be likely. Reasons against it follow as "though ...".
    """
    likely = proba >= 0.5
    told = [reason.text for reason in found if (reason.added > 0) == likely]
    against = [reason.text for reason in found if (reason.added > 0) != likely]
    chance = proba if likely else 1 - proba
    line = f"likely to {'listen' if likely else 'skip'} ({round(100 * chance)} %)"
    if not found:
        return f"{line}: nothing in particular speaks for it or against it"
    return line + (f" because {_listed(told)}" if told else "") + (f", though {_listed(against)}" if against else "")


def _listed(texts: list[str]) -> str:
    return " and ".join([*([", ".join(texts[:-1])] if texts[1:] else []), texts[-1]])
