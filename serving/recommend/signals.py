"""Convert the signals of a request to the first days that the models read.

A request contains external ids. They are converted here, once; everything behind uses the ids inside.
Streams, skips and bans are events on tracks; training sees each at three levels: the track, its artist, its album. A
request that lists tracks only is completed from the release's catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import product
from typing import Any

import numpy as np
from fastapi.exceptions import RequestValidationError

from contracts.errors import BadArgument
from models.cold_start.input_vector import INTERACTIONS, FirstDays
from models.cold_start.list_rules import ListRules
from models.cold_start.ragged import Ragged
from serving import schema
from serving.block.entries import EMPTY, BlockList
from serving.recommend.ruled_list import NO_FILTERS, Filters
from serving.release.external_ids import ExternalIds
from serving.release.loaded import ID_KIND_OF, LoadedRelease
from serving.schema import Listener, ListOptions

WORDS = {
    "onboarding": "onboarding_like",
    "streams": "streamed",
    "skips": "skipped",
    "bans": "banned",
    "favourites": "favorite",
    "searches": "search",
}
LEVELS = {"tracks": "songs", "artists": "artists", "albums": "albums", "playlists": "playlists"}
ON_TRACKS = ("streams", "skips", "bans")
OTHER_LEVELS = ("artists", "albums")
# Names in INTERACTIONS of "streams.tracks" and so on, in the order of INTERACTIONS.
BLOCK = {
    f"{word}.{level}": name
    for name in INTERACTIONS
    for word, level in product(WORDS, LEVELS)
    if name == f"{WORDS[word]}_{LEVELS[level]}"
}


Location = tuple[str | int, ...]
EPOCH = date(1970, 1, 1)
MAX_DEPTH = 1_000  # tracks of a list on all its pages


@dataclass(frozen=True, eq=False)
class FirstDaySignals:
    """First-day signals of a listener with the ids inside.

    Attributes:
        country: country code, or None.
        age: age in years, or None.
        user_id: external id of the user, or None.
        lists: ids by signal, such as "streams.tracks". Lists that the request omitted are absent.
        external: the external ids of `lists`, in the same order.
        unknown: external ids by signal, each once, and the country that the release does not contain.
    """

    country: str | None
    age: int | None
    user_id: str | None
    lists: dict[str, list[int]]
    external: dict[str, list[str]] = field(default_factory=dict)
    unknown: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ListParameters:
    """schema.ListOptions with the ids inside. Equal parameters are hashable and equal."""

    method: str = "configured"
    k: int = 50
    exclude: tuple[int, ...] = ()
    filters: Filters = NO_FILTERS
    rules: ListRules | None = None  # None: those of the release
    shown: tuple[int, ...] = ()
    offset: int = 0
    block_list: BlockList = EMPTY


def convert_ids(
    ids: ExternalIds, kind: str, external: Sequence[str | int], location: Location, field_name: str | None = None
) -> Iterator[int | None]:
    """Yield the ids inside; None for a text that cannot be an id of this kind.

    Args:
        ids: the external ids of a release.
        kind: user, track, artist, album or playlist.
        external: ids of a request.
        location: the list of the request that contains them.
        field_name: the field of each entry of the list that is the id; None: the entry itself.

    Raises:
        RequestValidationError: an id is a number, but ids of this kind are texts.
    """
    is_text = ids.forms[kind] == "text"
    for i, one in enumerate(external):
        if is_text and type(one) is int:
            raise number_error(kind, (*location, i, *([field_name] if field_name else [])))
        yield ids.inside(kind, one)


def number_error(kind: str, location: Location) -> RequestValidationError:
    """Return the error for a number where the ids of a kind are texts."""
    message = f"The {kind} ids of this release are strings; a number is not one of them"
    return RequestValidationError([{"type": "id_form", "loc": location, "msg": message}])


def read_listener(
    loaded: LoadedRelease, listener: Listener, location: Location = ("body", "listener")
) -> FirstDaySignals:
    """Return the signals of a request with the ids inside.

    Args:
        loaded: the release.
        listener: the listener of the request.
        location: the field of the request that contains the listener.

    Raises:
        RequestValidationError: an id is a number, but ids of its kind are texts.
    """
    lists: dict[str, list[int]] = {}
    external: dict[str, list[str]] = {}
    unknown: dict[str, list[str]] = {}
    if listener.country is not None and listener.country not in loaded.space.demographics.country:
        unknown["country"] = [listener.country]
    for signal, given in listener.lists().items():
        if not given:
            lists[signal], external[signal] = [], []
            continue
        word, level = signal.split(".")
        ids = list(convert_ids(loaded.ids, ID_KIND_OF[level], given, (*location, word, level)))
        texts = list(map(str, given))
        known = loaded.known_ids[level]
        if not known.issuperset(ids):
            not_known = (text for text, inside in zip(texts, ids, strict=True) if inside not in known)
            unknown[signal] = list(dict.fromkeys(not_known))
        if None in ids:
            texts = [text for text, inside in zip(texts, ids, strict=True) if inside is not None]
        lists[signal], external[signal] = [inside for inside in ids if inside is not None], texts
    user_id = listener.user_id
    if type(user_id) is int and loaded.ids.forms["user"] == "text":
        raise number_error("user", (*location, "user_id"))
    return FirstDaySignals(
        listener.country, listener.age, None if user_id is None else str(user_id), lists, external, unknown
    )


def read_options(loaded: LoadedRelease, options: ListOptions, block_list: BlockList = EMPTY) -> ListParameters:
    """Return the options of a request with the ids inside. Excluded ids that the release does not contain are dropped.

    Raises:
        RequestValidationError: an excluded id is a number, but track ids are texts.
    """
    exclude: tuple[int, ...] = ()
    if options.exclude:
        ids = convert_ids(loaded.ids, "track", options.exclude, ("body", "exclude"))
        exclude = tuple(i for i in ids if i in loaded.track_idx)
    rules = requested_rules(loaded.rules, options)
    if options.plain and rules is None:
        return ListParameters(options.method, options.k, exclude, block_list=block_list)
    shown = tuple(i for i in convert_ids(loaded.ids, "track", options.shown, ("body", "shown")) if i is not None)
    filters = read_filters(loaded, options.filters)
    offset = read_offset(loaded, options)
    return ListParameters(options.method, options.k, exclude, filters, rules, shown, offset, block_list)


def requested_rules(rules: ListRules, options: ListOptions) -> ListRules | None:
    """Return the release's rules with the fields of a request that change them; None if there are none.

    A null of `per_artist` and `per_album` switches the limit off; of other fields it means "as in the release".
    """
    fields = options.model_fields_set
    changed: dict[str, Any] = {name: getattr(options, name) for name in ("per_artist", "per_album") if name in fields}
    changed |= {name: getattr(options, name) for name in ("heard", "diversity") if getattr(options, name) is not None}
    return replace(rules, **changed) if changed else None


def read_filters(loaded: LoadedRelease, given: schema.Filters | None) -> Filters:
    """Return the filters of a request with the ids inside; ids that no track has leave nothing out.

    Raises:
        RequestValidationError: an id is a number, but ids of its kind are texts.
    """
    if given is None:
        return NO_FILTERS
    location = ("body", "filters")
    artists = convert_ids(loaded.ids, "artist", given.exclude_artists, (*location, "exclude_artists"))
    albums = convert_ids(loaded.ids, "album", given.exclude_albums, (*location, "exclude_albums"))
    first, last = (None if day is None else (day - EPOCH).days for day in (given.released_from, given.released_to))
    return Filters(
        frozenset(genre.lower() for genre in given.genres),
        first,
        last,
        given.explicit,
        tuple(i for i in artists if i is not None),
        tuple(i for i in albums if i is not None),
    )


def cursor(loaded: LoadedRelease, offset: int) -> str:
    """Return the cursor that points to the tracks after the first `offset`."""
    return f"{loaded.name[:16]}-{offset}"


def read_offset(loaded: LoadedRelease, options: ListOptions) -> int:
    """Return the number of tracks before the page that a cursor points to.

    Raises:
        BadArgument: the cursor is damaged, or of another release.
    """
    if options.cursor is None:
        return 0
    release, _, digits = options.cursor.partition("-")
    if not digits.isdigit() or not 0 < int(digits) < MAX_DEPTH:
        raise BadArgument("cursor: is not one that this service returned; send it unchanged")
    if release != loaded.name[:16]:
        raise BadArgument("cursor: belongs to another release; request the first page again")
    if int(digits) + options.k > MAX_DEPTH:
        raise BadArgument(f"cursor: a list ends after {MAX_DEPTH} tracks; request at most {MAX_DEPTH - int(digits)}")
    return int(digits)


def complete_signals(loaded: LoadedRelease, lists: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return the same signals with the artists and albums of the tracks, where the request omitted them.

    Banned artists and albums are rules of the list, not signals: as in training, the signals of bans are the artists
    and albums of banned tracks.
    """
    completed = dict(lists)
    for word in ON_TRACKS:
        missing = [level for level in OTHER_LEVELS if word == "bans" or f"{word}.{level}" not in completed]
        if not missing:
            continue
        tracks = [loaded.tracks[loaded.track_idx[i]] for i in completed[f"{word}.tracks"] if i in loaded.track_idx]
        for level in missing:
            if tracks:
                completed[f"{word}.{level}"] = [t.artist_id if level == "artists" else t.album_id for t in tracks]
            else:
                completed.pop(f"{word}.{level}", None)
    return completed


def first_days(
    country_age: Sequence[tuple[str | None, int | None]], signals: Sequence[dict[str, list[int]]]
) -> FirstDays:
    """Return the first days of B listeners.

    Args:
        country_age: country and age of each listener.
        signals: completed signals of each listener, by name.
    """
    if len(country_age) == 1:
        return FirstDays.single(*country_age[0], {BLOCK[signal]: ids for signal, ids in signals[0].items() if ids})
    country = np.array([country for country, _ in country_age] or [], object)
    age = np.array([-1 if age is None else age for _, age in country_age], np.int64)
    blocks = {}
    for signal, name in BLOCK.items():
        lists = [listener_signals.get(signal, ()) for listener_signals in signals]
        if any(lists):
            blocks[name] = Ragged.from_lists(lists)
    return FirstDays(country, age, blocks)


def days_of(loaded: LoadedRelease, listeners: Sequence[FirstDaySignals]) -> FirstDays:
    """Return the first days of B listeners."""
    signals = [complete_signals(loaded, listener.lists) for listener in listeners]
    return first_days([(listener.country, listener.age) for listener in listeners], signals)
