"""Reasons for a prediction: the contribution of each theme of features, as a phrase.

Shapes   N plays, G columns, T themes
Source   section 6.2 of the DSG17 report ("because you like [artist] and short tracks on weekday mornings");
         contributions are SHAP values (Lundberg et al. 2018) for trees, or weight times value for the regression: log
         odds relative to the mean training play
Differs  plays have no names, so an artist is "this artist"; times are UTC, so a morning is "this time of day"

Contributions of columns of one theme are summed, because these columns measure the same property. The sum gives the
strength and direction of a theme. The phrase comes from models/skip/ranking/reason_phrases.py, which returns none if no
fact of the play supports the direction; the next theme is used then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.skip.data.plays import Plays
from models.skip.ranking.reason_phrases import PHRASES, PlayFacts

_MAX_REASONS = 3  # largest number of reasons per play
_HABITS = ("habit", "kind", "device", "place", "time")  # themes of the same plays: one of them is used per direction
_MIN_CONTRIBUTION = 0.05  # log odds, about one percentage point of probability: smaller contributions are not reasons


class Explainable(Protocol):
    """Protocol of a model whose score is a sum of contributions of columns."""

    def contributions(self, plays: Plays) -> NDArray[np.float64]:
        """Return the contribution of each column in log odds, (N, G)."""

    def columns(self) -> tuple[str, ...]:
        """Return the feature name of each column, (G,)."""

    def mean(self) -> float:
        """Return the share of the training plays that were listened to."""


@dataclass(frozen=True)
class Reason:
    """Contribution of one theme to a prediction.

    Attributes:
        theme: Key of PHRASES.
        contribution: Log odds that the theme adds; negative for a skip.
        text: Phrase.
    """

    theme: str
    contribution: float
    text: str


# The first match counts, so longer prefixes come first. The theme "" is never used as a reason: personal
# attributes, the day of a year or a week, and codes without a name.
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


def theme_of(column: str) -> str:
    """Return the theme of a column, a key of PHRASES, or "" if it is never a reason.

    Raises:
        ValueError: The column has no theme.
    """
    for prefix, name in _THEMES:
        if column.startswith(prefix):
            return name
    raise ValueError(f"reasons: column {column} has no theme; add it to _THEMES in models/skip/ranking/reasons.py")


def reasons(model: Explainable, plays: Plays) -> list[list[Reason]]:
    """Return at most three reasons for each play, the strongest first, in both directions.

    Raises:
        ValueError: A column has no theme, or the model rejects the plays.
    """
    themes, code_G = np.unique([theme_of(column) for column in model.columns()], return_inverse=True)
    contribution_NT = model.contributions(plays) @ np.eye(len(themes))[code_G]
    order_NT = np.argsort(-np.abs(contribution_NT), axis=1, kind="stable")
    mean = model.mean()
    columns = {name: plays.numbers_NF[:, f].tolist() for f, name in enumerate(plays.names)}
    columns |= {name: column.tolist() for name, column in plays.categories.items()}
    columns["is_flow"] = plays.is_flow_N.tolist()
    return [
        _play_reasons(
            PlayFacts({name: column[n] for name, column in columns.items()}, mean),
            themes,
            contribution_NT[n],
            order_NT[n],
        )
        for n in range(len(plays))
    ]


def _play_reasons(
    facts: PlayFacts, themes: NDArray[np.str_], contribution_T: NDArray[np.float64], order_T: NDArray[np.int64]
) -> list[Reason]:
    play_reasons: list[Reason] = []
    habits = set()  # directions that already have a habit as a reason
    for t in order_T:
        name, contribution = str(themes[t]), float(contribution_T[t])
        if abs(contribution) < _MIN_CONTRIBUTION or len(play_reasons) == _MAX_REASONS:
            break
        positive = contribution > 0
        if not name or (name in _HABITS and positive in habits):
            continue
        text = PHRASES[name](facts, positive)
        if text is not None:
            play_reasons.append(Reason(name, contribution, text))
            habits |= {positive} if name in _HABITS else set()
    return play_reasons


def sentence(play_reasons: list[Reason], proba: float) -> str:
    """Return the reasons of one play as a sentence.

    Example: "likely to listen (78 %) because you like this artist and it is short". The percentage is the probability
    of the more likely outcome. Reasons against it follow after "though".

    Args:
        play_reasons: Reasons of the play.
        proba: Probability of listening.
    """
    likely = proba >= 0.5
    supporting = [reason.text for reason in play_reasons if (reason.contribution > 0) == likely]
    against = [reason.text for reason in play_reasons if (reason.contribution > 0) != likely]
    likely_proba = proba if likely else 1 - proba
    line = f"likely to {'listen' if likely else 'skip'} ({round(100 * likely_proba)} %)"
    if not play_reasons:
        return f"{line}: no single feature stands out"
    return (
        line
        + (f" because {_listed(supporting)}" if supporting else "")
        + (f", though {_listed(against)}" if against else "")
    )


def _listed(texts: list[str]) -> str:
    return " and ".join([*([", ".join(texts[:-1])] if texts[1:] else []), texts[-1]])
