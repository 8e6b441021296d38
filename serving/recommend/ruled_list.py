"""One list under the rules (models/cold_start/list_rules.py): candidates in, k tracks out.

The candidates are the list of a method, which is asked for a longer one where rules use it up, then popular tracks.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

import numpy as np

from models.cold_start.list_rules import UNKNOWN_DAY, ListBuilder, ListRules, fill_list
from models.cold_start.methods.ruled import POOL, diversify
from serving.release.loaded import LoadedRelease

MAX_CACHED = 256  # combinations of country, age and filters of one release
SPARE = 30  # candidates above the number of places that most lists need


@dataclass(frozen=True)
class Filters:
    """Which tracks a request wants. Tracks whose genre or release date is unknown match no genre and no range.

    Attributes:
        genres: Genres in lower case; empty: every genre.
        released_from: First release date, days since 1970; None: no bound.
        released_to: Last release date, days since 1970, included; None: no bound.
        explicit: False: no explicit track; True: explicit tracks whatever the age; None: by the age.
        artists: Ids of artists to leave out.
        albums: Ids of albums to leave out.
    """

    genres: frozenset[str] = frozenset()
    released_from: int | None = None
    released_to: int | None = None
    explicit: bool | None = None
    artists: tuple[int, ...] = ()
    albums: tuple[int, ...] = ()


NO_FILTERS = Filters()


@dataclass(frozen=True)
class RuledList:
    """The tracks of a list.

    Attributes:
        tracks: track_idx, best first.
        n_own: Number of tracks at the beginning that the method chose; popular ones follow.
        relaxed: How often the limits per artist and album were raised by one in 50 places.
        short: Why the list has fewer tracks than places; None if it has as many.
    """

    tracks: list[int]
    n_own: int
    relaxed: int
    short: str | None


def hidden_tracks(
    loaded: LoadedRelease, rules: ListRules, country: str | None, age: int | None, filters: Filters
) -> bytes | None:
    """Return by track_idx which tracks the listener cannot play or does not want; None if there are none.

    Args:
        loaded: The release.
        rules: The rules.
        country: Country of the listener, or None.
        age: Age of the listener, or None.
        filters: Filters of the request; its artists and albums are not hidden but excluded.
    """
    is_minor = age is not None and rules.min_explicit_age is not None and age < rules.min_explicit_age
    key = (country, is_minor, filters.explicit, filters.genres, filters.released_from, filters.released_to)
    if key in loaded.hidden:
        return loaded.hidden[key]
    facts = loaded.facts
    hidden_N = facts.hidden(country, None, rules)
    if filters.explicit is False or (is_minor and filters.explicit is None):
        hidden_N = hidden_N | facts.explicit_N
    if filters.genres:
        hidden_N = hidden_N | np.array([(t.genre or "").lower() not in filters.genres for t in loaded.tracks])
    released_N = facts.released_N
    if filters.released_from is not None:
        hidden_N = hidden_N | (released_N < filters.released_from)
    if filters.released_to is not None:
        hidden_N = hidden_N | (released_N > filters.released_to) | (released_N == UNKNOWN_DAY)
    flags = np.asarray(hidden_N, bool).tobytes() if hidden_N.any() else None
    if len(loaded.hidden) >= MAX_CACHED:
        loaded.hidden.clear()
    loaded.hidden[key] = flags
    return flags


def build_list(
    loaded: LoadedRelease,
    k: int,
    ranked: Callable[[int], list[int]],
    rules: ListRules,
    excluded: Container[int],
    hidden: bytes | None,
    shown: Container[int] = frozenset(),
) -> RuledList:
    """Return k tracks under the rules.

    Args:
        loaded: The release.
        k: Number of places.
        ranked: Returns at least n candidates, best first, where there are as many; a longer list begins like a shorter.
        rules: The rules.
        excluded: track_idx that must not be in the list.
        hidden: Result of `hidden_tracks`.
        shown: track_idx that come last, because they were shown often enough.
    """
    n_tracks = len(loaded.tracks)
    builder = ListBuilder(loaded.facts, k, rules, excluded, hidden, shown)
    asked = max(k + SPARE, POOL) if rules.diversity else k + SPARE

    def candidates(n: int) -> list[int]:
        own = ranked(n)
        if not rules.diversity:
            return own
        tracks = loaded.space.of_kind("tracks")
        assert tracks is not None
        diverse: list[int] = diversify(np.array(own), tracks[1].items_ND, rules.diversity).tolist()
        return diverse

    n_own = fill_list(builder, candidates, asked, n_tracks)
    short = None
    if not builder.full:
        short = f"only {len(builder.chosen)} tracks are left: the others are excluded, filtered out or not playable"
    return RuledList(builder.chosen, n_own, builder.relaxed, short)
