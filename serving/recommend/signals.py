"""Convert the signals of a request to the first days that the models read.

A request contains external ids. They are converted here, once; everything behind uses the ids inside.
Streams, skips and bans are events on tracks; training sees each at three levels: the track, its artist, its album. A
request that lists tracks only is completed from the release's catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from fastapi.exceptions import RequestValidationError

from models.cold_start.input_vector import INTERACTIONS, FirstDays
from models.cold_start.ragged import Ragged
from serving.block.entries import EMPTY, BlockList
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
    leave_out_first_day: bool | None = None
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
    return ListParameters(options.method, options.k, exclude, options.leave_out_first_day, block_list)


def complete_signals(loaded: LoadedRelease, lists: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return the same signals with the artists and albums of the tracks, where the request omitted them."""
    completed = dict(lists)
    for word in ON_TRACKS:
        missing = [level for level in OTHER_LEVELS if f"{word}.{level}" not in completed]
        if missing and completed[f"{word}.tracks"]:
            tracks = [loaded.tracks[loaded.track_idx[i]] for i in completed[f"{word}.tracks"] if i in loaded.track_idx]
            for level in missing:
                completed[f"{word}.{level}"] = [t.artist_id if level == "artists" else t.album_id for t in tracks]
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
