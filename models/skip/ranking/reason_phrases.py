"""Phrases of reasons: statements that are true of a play and support the given direction.

Each theme reads the counts of the play and returns a clause, or None if no fact supports the direction: an artist whom
the listener mostly skips is no reason to listen, whatever the model's contribution is. A play counts as listened to
after 30 seconds, so no phrase mentions that a track was finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.skip.encoding.numeric import LISTENED, PLAYS

_MIN_USER_PLAYS = 3  # plays of the listener from which a phrase states a preference; with fewer it states what happened
_MIN_ALL_PLAYS = 20  # plays of all listeners from which a share is stated
_MIN_DIFFERENCE = 0.02  # shares that differ less from the mean are treated as the mean
_SHORT_S, _LONG_S, _HOUR_S = 180, 300, 3_600
_NEW_DAYS, _OLD_DAYS = 90, 3650


@dataclass(frozen=True)
class PlayFacts:
    """Features of one play by name, and the mean share of listened plays."""

    values: Mapping[str, float]
    mean: float

    def __getitem__(self, name: str) -> float:
        """Return a feature, NaN if the play does not have it."""
        return self.values.get(name, math.nan)

    def counts(self, key: str) -> tuple[float, float]:
        """Return the earlier plays of a key and those listened to; 0 if there are none or the key has no counts."""
        plays, n_listened = self[key + PLAYS], self[key + LISTENED]
        return (plays, n_listened) if plays > 0 else (0, 0)


Phrase = Callable[[PlayFacts, bool], str | None]


def _liking(what: str, key: str) -> Phrase:
    """Return the phrase function of an artist, genre or track: whether this listener liked it before."""

    def phrase(facts: PlayFacts, positive: bool) -> str | None:
        plays, n_listened = facts.counts(key)
        if not plays:
            return None if positive else f"{what} is new to you"
        if positive and (n_listened == plays or _is_mostly_listened(facts, plays, n_listened)):
            return f"you like {what}" if plays >= _MIN_USER_PLAYS else f"you have listened to {what} before"
        if not positive and plays >= _MIN_USER_PLAYS and n_listened <= plays / 2:
            return f"you often skip {what}"
        return f"you skipped {what} before" if not positive and not n_listened else None

    return phrase


def _habit(nothing: str, most: str, often: str, everything: str, *keys: str) -> Phrase:
    """Return the phrase function of a listening habit; the first key that has at least two plays is used."""

    def phrase(facts: PlayFacts, positive: bool) -> str | None:
        for key in keys:
            plays, n_listened = facts.counts(key)
            if plays < 2:
                continue  # one play is no habit
            if n_listened in (0, plays):
                if positive == (n_listened > 0):
                    return nothing if positive else everything
            elif positive and _is_mostly_listened(facts, plays, n_listened):
                return most
            elif not positive and plays >= _MIN_USER_PLAYS and n_listened <= plays / 2:
                return often
        return None

    return phrase


def _habit_at(where: str, *keys: str) -> Phrase:
    """Return the phrase function of a device, place or time of this listener."""
    return _habit(
        f"you have skipped nothing {where}",
        f"you listen to most of what you play {where}",
        f"you often skip {where}",
        f"you have skipped everything {where}",
        *keys,
    )


def _is_mostly_listened(facts: PlayFacts, plays: float, n_listened: float) -> bool:
    return plays >= _MIN_USER_PLAYS and n_listened / plays >= max(facts.mean, 0.5)


def _all_listeners(less: str, more: str, key: str) -> Phrase:
    """Return the phrase function of all listeners' plays: skipped less, or more, than the mean play."""

    def phrase(facts: PlayFacts, positive: bool) -> str | None:
        plays, n_listened = facts.counts(key)
        above = n_listened / plays - facts.mean if plays >= _MIN_ALL_PLAYS else 0
        if positive:
            return less if above >= _MIN_DIFFERENCE else None
        return more if above <= -_MIN_DIFFERENCE else None

    return phrase


def _skipped(what: str, key: str) -> Phrase:
    return _all_listeners(f"{what} skipped less than average", f"{what} skipped more than average", key)


_USER_TRACK = _liking("this track", "user_track")
_FROM_FLOW = _habit(
    "you have skipped nothing that Flow played",
    "you listen to most of what Flow plays",
    "you often skip what Flow plays",
    "you have skipped everything that Flow played",
    "user_kind",
)
_CHOSEN = _habit(
    "you have skipped nothing that you chose",
    "you listen to most of what you choose yourself",
    "you often skip what you choose yourself",
    "you have skipped everything that you chose",
    "user_kind",
)
_FLOW_ON_DEVICE = _skipped("what Flow plays on such a device is", "context_platform")
_CHOSEN_ON_DEVICE = _skipped("tracks played from here on such a device are", "context_platform")


def _track(facts: PlayFacts, positive: bool) -> str | None:
    phrase = _USER_TRACK(facts, positive)
    if phrase is None and not positive and facts["since_track_s"] <= _HOUR_S:
        return "you played this track within the last hour"
    return phrase


def _kind(facts: PlayFacts, positive: bool) -> str | None:
    return (_FROM_FLOW if facts["is_flow"] else _CHOSEN)(facts, positive)


def _setting(facts: PlayFacts, positive: bool) -> str | None:
    if facts["is_flow"]:
        return _FLOW_ON_DEVICE(facts, positive) or (None if positive else "Flow chose it")
    return _CHOSEN_ON_DEVICE(facts, positive) or ("you chose it yourself" if positive else None)


def _session(facts: PlayFacts, positive: bool) -> str | None:
    plays, n_listened = facts.counts("session")
    skips = int(min(facts["skips_in_a_row"], plays)) if plays else 0
    if positive:
        if plays >= 2 and n_listened == plays:
            return "you have skipped nothing in this session"
        return "you listened to the track before this one" if plays and not skips else None
    if not skips:
        return None
    return "you skipped the track before this one" if skips == 1 else f"you skipped the last {skips} tracks"


def _length(facts: PlayFacts, positive: bool) -> str | None:
    if positive:
        return "it is short" if facts["duration_s"] < _SHORT_S else None
    return "it is long" if facts["duration_s"] > _LONG_S else None


def _age(facts: PlayFacts, positive: bool) -> str | None:
    if positive:
        return "it is a new release" if facts["song_age_days"] < _NEW_DAYS else None
    return "it is an old track" if facts["song_age_days"] > _OLD_DAYS else None


PHRASES: dict[str, Phrase] = {
    "artist": _liking("this artist", "user_artist"),
    "genre": _liking("this genre", "user_genre"),
    "track": _track,
    "artist_all": _skipped("this artist is", "artist"),
    "genre_all": _skipped("this genre is", "genre"),
    "genre_age": _all_listeners(
        "listeners of your age skip this genre less than average",
        "listeners of your age skip this genre more than average",
        "genre_age",
    ),
    "track_all": _skipped("this track is", "track"),
    "habit": _habit(
        "you have skipped nothing so far",
        "you listen to most of what you play",
        "you often skip",
        "you have skipped everything so far",
        "user",
    ),
    "kind": _kind,
    "device": _habit_at("on this device", "user_platform", "user_family"),
    "place": _habit_at("from here", "user_context"),
    "time": _habit_at("at this time of day", "user_daypart"),
    "session": _session,
    "setting": _setting,
    "length": _length,
    "age": _age,
}
