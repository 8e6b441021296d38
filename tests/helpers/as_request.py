"""Convert a row of first_day into a request to the service, with every level as a separate field and ids as text."""

from __future__ import annotations

from typing import Any

from serving.recommend.signals import FirstDaySignals, read_listener
from serving.release.loaded import LoadedRelease
from serving.schema import Listener

WORDS = {"streams": "streamed", "skips": "skipped", "bans": "banned", "favourites": "favorite", "searches": "search"}


def listener(ready: LoadedRelease, row: dict[str, Any]) -> FirstDaySignals:
    """Return the signals that the service reads from the request."""
    fields = {word: _levels(row, prefix) for word, prefix in WORDS.items()}
    # The artists and albums of banned tracks are not banned.
    fields["bans"] = {"tracks": fields["bans"]["tracks"]}
    fields["onboarding"] = {"artists": [str(i) for i in row["onboarding_like_artists"]]}
    return read_listener(ready, Listener.model_validate({"country": row["country"], "age": row["age"], **fields}))


def _levels(row: dict[str, Any], prefix: str) -> dict[str, list[str]]:
    levels = {"tracks": "songs", "artists": "artists", "albums": "albums", "playlists": "playlists"}
    return {
        level: [str(i) for i in row[f"{prefix}_{name}"]] for level, name in levels.items() if f"{prefix}_{name}" in row
    }
