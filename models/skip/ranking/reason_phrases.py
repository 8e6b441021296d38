"""What may be said of a play as a reason to listen, or to skip: facts that are true of it and read in that direction.

Each theme looks at the counts of the play and gives a clause, or None where no fact of its own supports the direction:
the artist of a listener who skips most of it is no reason to listen, whatever a model adds for it. A play counts as
listened to after 30 seconds, so nothing is said of finishing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.skip.encoding.numeric import LISTENED, PLAYS

_SOME = 3  # of one's own plays: from here on there is a liking, below there is what happened before
_MANY = 20  # plays of everybody from which a share is told
_APART = 0.02  # shares that are nearer to the mean are the mean
_SHORT_S, _LONG_S, _HOUR_S = 180, 300, 3_600
_NEW_DAYS, _OLD_DAYS = 90, 3650


@dataclass(frozen=True)
class Seen:
    """The numbers and categories of one play by name, and the mean share of plays that are listened to."""

    values: Mapping[str, float]
    mean: float

    def __getitem__(self, name: str) -> float:
        """NaN where the play does not have it."""
        return self.values.get(name, math.nan)

    def counts(self, key: str) -> tuple[float, float]:
        """Earlier plays of a key, and those listened to; 0 where there are none or nobody counts them."""
        plays, heard = self[key + PLAYS], self[key + LISTENED]
        return (plays, heard) if plays > 0 else (0, 0)


Words = Callable[[Seen, bool], str | None]


def _thing(what: str, key: str) -> Words:
    """Of an artist, a genre or a track: what this listener did with it before."""

    def words(seen: Seen, good: bool) -> str | None:
        plays, heard = seen.counts(key)
        if not plays:
            return None if good else f"{what} is new to you"
        if good and (heard == plays or _mostly(seen, plays, heard)):
            return f"you like {what}" if plays >= _SOME else f"you have listened to {what} before"
        if not good and plays >= _SOME and heard <= plays / 2:
            return f"you often skip {what}"
        return f"you skipped {what} before" if not good and not heard else None

    return words


def _share(nothing: str, most: str, often: str, everything: str, *keys: str) -> Words:
    """Of how this listener listens: what was skipped of several plays; the first key that has something to say."""

    def words(seen: Seen, good: bool) -> str | None:
        for key in keys:
            plays, heard = seen.counts(key)
            if plays < 2:
                continue  # one play is no habit
            if heard in (0, plays):
                if good == (heard > 0):
                    return nothing if good else everything
            elif good and _mostly(seen, plays, heard):
                return most
            elif not good and plays >= _SOME and heard <= plays / 2:
                return often
        return None

    return words


def _when(where: str, *keys: str) -> Words:
    """Of a device, a place or a time of this listener."""
    return _share(
        f"you have skipped nothing {where}",
        f"you listen to most of what you play {where}",
        f"you often skip {where}",
        f"you have skipped everything {where}",
        *keys,
    )


def _mostly(seen: Seen, plays: float, heard: float) -> bool:
    return plays >= _SOME and heard / plays >= max(seen.mean, 0.5)


def _everybody(less: str, more: str, key: str) -> Words:
    """Of what all listeners played: skipped less, or more, than the mean play."""

    def words(seen: Seen, good: bool) -> str | None:
        plays, heard = seen.counts(key)
        above = heard / plays - seen.mean if plays >= _MANY else 0
        if good:
            return less if above >= _APART else None
        return more if above <= -_APART else None

    return words


def _skipped(what: str, key: str) -> Words:
    return _everybody(f"{what} skipped less than average", f"{what} skipped more than average", key)


_OWN_TRACK = _thing("this track", "user_track")
_FROM_FLOW = _share(
    "you have skipped nothing that Flow played",
    "you listen to most of what Flow plays",
    "you often skip what Flow plays",
    "you have skipped everything that Flow played",
    "user_kind",
)
_CHOSEN = _share(
    "you have skipped nothing that you chose",
    "you listen to most of what you choose yourself",
    "you often skip what you choose yourself",
    "you have skipped everything that you chose",
    "user_kind",
)
_FLOW_HERE = _skipped("what Flow plays on such a device is", "context_platform")
_CHOSEN_HERE = _skipped("tracks played from here on such a device are", "context_platform")


def _track(seen: Seen, good: bool) -> str | None:
    told = _OWN_TRACK(seen, good)
    if told is None and not good and seen["since_track_s"] <= _HOUR_S:
        return "you played this track within the last hour"
    return told


def _kind(seen: Seen, good: bool) -> str | None:
    return (_FROM_FLOW if seen["is_flow"] else _CHOSEN)(seen, good)


def _setting(seen: Seen, good: bool) -> str | None:
    if seen["is_flow"]:
        return _FLOW_HERE(seen, good) or (None if good else "Flow chose it")
    return _CHOSEN_HERE(seen, good) or ("you chose it yourself" if good else None)


def _session(seen: Seen, good: bool) -> str | None:
    plays, heard = seen.counts("session")
    skips = int(min(seen["skips_in_a_row"], plays)) if plays else 0
    if good:
        if plays >= 2 and heard == plays:
            return "you have skipped nothing in this session"
        return "you listened to the track before this one" if plays and not skips else None
    if not skips:
        return None
    return "you skipped the track before this one" if skips == 1 else f"you skipped the last {skips} tracks"


def _length(seen: Seen, good: bool) -> str | None:
    if good:
        return "it is short" if seen["duration_s"] < _SHORT_S else None
    return "it is long" if seen["duration_s"] > _LONG_S else None


def _age(seen: Seen, good: bool) -> str | None:
    if good:
        return "it is a new release" if seen["song_age_days"] < _NEW_DAYS else None
    return "it is an old track" if seen["song_age_days"] > _OLD_DAYS else None


WORDS: dict[str, Words] = {
    "artist": _thing("this artist", "user_artist"),
    "genre": _thing("this genre", "user_genre"),
    "track": _track,
    "artist_all": _skipped("this artist is", "artist"),
    "genre_all": _skipped("this genre is", "genre"),
    "genre_age": _everybody(
        "people of your age skip this genre less than average",
        "people of your age skip this genre more than average",
        "genre_age",
    ),
    "track_all": _skipped("this track is", "track"),
    "habit": _share(
        "you have skipped nothing so far",
        "you listen to most of what you play",
        "you often skip",
        "you have skipped everything so far",
        "user",
    ),
    "kind": _kind,
    "device": _when("on this device", "user_platform", "user_family"),
    "place": _when("from here", "user_context"),
    "time": _when("at this time of day", "user_daypart"),
    "session": _session,
    "setting": _setting,
    "length": _length,
    "age": _age,
}
