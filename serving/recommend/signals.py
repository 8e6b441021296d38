"""Convert the signals of a request to the first days that the models read.

Streams, skips and bans are events on tracks; training sees each at three levels: the track, its artist, its album. A
request that lists tracks only is completed from the release's catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from models.cold_start.input_vector import INTERACTIONS, FirstDays
from models.cold_start.ragged import Ragged
from serving.release.loaded import LoadedRelease
from serving.schema import Listener

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


def days_of(loaded: LoadedRelease, listeners: Sequence[Listener]) -> FirstDays:
    """Return the first days of B listeners."""
    signals = [complete_signals(loaded, listener.lists()) for listener in listeners]
    return first_days([(listener.country, listener.age) for listener in listeners], signals)


def unknown_ids(loaded: LoadedRelease, listener: Listener) -> dict[str, list[int | str]]:
    """Return the ids, by signal and each once, and the country that the release does not contain."""
    unknown: dict[str, list[int | str]] = {}
    if listener.country is not None and listener.country not in loaded.space.demographics.country:
        unknown["country"] = [listener.country]
    for signal, ids in listener.lists().items():
        if ids:
            known = loaded.known_ids[signal.split(".")[1]]
            if not known.issuperset(ids):
                unknown[signal] = list(dict.fromkeys(i for i in ids if i not in known))
    return unknown
