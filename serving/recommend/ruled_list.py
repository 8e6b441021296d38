"""One list under the rules (models/cold_start/list_rules.py): candidates in, k tracks out.

The candidates are the list of a method, which is asked for a longer one where rules use it up, then popular tracks.

Two things are computed once for each release and block list, and kept: which tracks an audience may get, and the list
of a ranking that belongs to the release (of a segment, or of popular tracks). Most listeners of an audience and a
segment get this list, because it contains nothing that they exclude.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass, field

import numpy as np

from models.arrays import BoolVector
from models.cold_start.list_rules import UNKNOWN_DAY, ListBuilder, ListRules, fill_list
from models.cold_start.methods.ruled import POOL, diversify
from serving.block.entries import BlockList
from serving.block.tracks import blocked_tracks
from serving.release.loaded import LoadedRelease

MAX_AUDIENCES, MAX_FLAGS = 256, 1 << 27  # that are kept, and their bytes
MAX_LISTS = 4096  # that are kept: about 8 kB each
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


@dataclass(frozen=True, eq=False)
class ListCache:
    """What was computed for one release under one block list.

    Attributes:
        block_list: The block list.
        audiences: By country, age group and filters.
        lists: Lists without exclusions, by ranking, rules and audience; and the candidates that each one has used.
    """

    block_list: BlockList
    audiences: dict[Hashable, Audience] = field(default_factory=dict)
    lists: dict[Hashable, tuple[RuledList, Set[int]]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Audience:
    """Listeners who may get the same tracks: of a country and an age group, with the same filters.

    Attributes:
        hidden: By track_idx, whether a track is blocked, not playable, or unwanted; None if there is no such track.
        cache: Where their lists are kept.
    """

    hidden: bytes | None
    cache: ListCache


def audience(
    loaded: LoadedRelease,
    rules: ListRules,
    country: str | None,
    age: int | None,
    filters: Filters,
    block_list: BlockList,
) -> Audience:
    """Return the audience of a listener.

    Args:
        loaded: The release.
        rules: The rules.
        country: Country of the listener, or None.
        age: Age of the listener, or None.
        filters: Filters of the request; its artists and albums are not hidden but excluded.
        block_list: The block list in force.
    """
    cache = loaded.list_cache
    if cache is None or cache.block_list is not block_list:
        cache = loaded.list_cache = ListCache(block_list)
    is_minor = age is not None and rules.min_explicit_age is not None and age < rules.min_explicit_age
    key = (country, is_minor, filters.explicit, filters.genres, filters.released_from, filters.released_to)
    known = cache.audiences.get(key)
    if known is None:
        if len(cache.audiences) >= min(MAX_AUDIENCES, 1 + MAX_FLAGS // len(loaded.tracks)):
            cache.audiences.clear()
            cache.lists.clear()  # they refer to audiences
        hidden_N = _hidden_tracks(loaded, rules, country, is_minor, filters, block_list)
        known = cache.audiences[key] = Audience(hidden_N.tobytes() if hidden_N.any() else None, cache)
    return known


def _hidden_tracks(
    loaded: LoadedRelease,
    rules: ListRules,
    country: str | None,
    is_minor: bool,
    filters: Filters,
    block_list: BlockList,
) -> BoolVector:
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
    if blocked := blocked_tracks(loaded, block_list, country):
        hidden_N = np.array(hidden_N, bool)
        hidden_N[list(blocked)] = True
    return np.asarray(hidden_N, bool)


def build_list(
    loaded: LoadedRelease,
    k: int,
    ranked: Callable[[int], list[int]],
    rules: ListRules,
    excluded: Set[int],
    listener_audience: Audience,
    shown: Set[int] = frozenset(),
    ranking: Hashable = None,
) -> RuledList:
    """Return k tracks under the rules.

    Args:
        loaded: The release.
        k: Number of places.
        ranked: Returns at least n candidates, best first, where there are as many; a longer list begins like a shorter.
        rules: The rules.
        excluded: track_idx that must not be in the list.
        listener_audience: The audience of the listener.
        shown: track_idx that come last, because they were shown often enough.
        ranking: Name of the ranking if it is one of the release; None: the listener's own.
    """
    asked = max(k + SPARE, POOL) if rules.diversity else k + SPARE

    def candidates(n: int) -> list[int]:
        own = ranked(n)
        if not rules.diversity:
            return own
        tracks = loaded.space.of_kind("tracks")
        assert tracks is not None
        diverse: list[int] = diversify(np.array(own), tracks[1].vectors(own[:POOL]), rules.diversity).tolist()
        return diverse

    def build(excluded: Set[int], shown: Set[int]) -> tuple[RuledList, set[int]]:
        builder = ListBuilder(loaded.facts, k, rules, excluded, listener_audience.hidden, shown)
        n_own = fill_list(builder, candidates, asked, len(loaded.tracks))
        short = None
        if not builder.full:
            short = f"only {len(builder.chosen)} tracks are left: the others are excluded, filtered out or not playable"
        return RuledList(builder.chosen, n_own, builder.relaxed, short), builder.used

    if ranking is not None:
        lists, key = listener_audience.cache.lists, (ranking, k, rules, listener_audience)
        kept = lists.get(key)
        if kept is None:
            kept = build(frozenset(), frozenset())
            if len(kept[1]) <= 4 * (k + SPARE):  # not where the list took all of a large catalogue
                if len(lists) >= MAX_LISTS:
                    lists.clear()
                lists[key] = kept
        if excluded.isdisjoint(kept[1]) and shown.isdisjoint(kept[1]):
            return kept[0]
    return build(excluded, shown)[0]
