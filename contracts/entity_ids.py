"""External ids of the source and the 64-bit ids inside.

A kind of id (user, track, artist, album, playlist) has one form, which is decided once, at the first ingestion:

integer  the source's ids are integers from 0 to 2^63 - 1. The id inside is the integer; the external id is its decimal
         text, and no table stores it
text     all other ids. The id inside is a 62-bit hash of the text; tables store the text as `external_id`

Outside (JSON, logs, reports, command lines) ids are text. A request may use a number where the form is integer.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

Form = Literal["integer", "text"]
KINDS = ("user", "track", "artist", "album", "playlist")
MAX_ID = 2**63 - 1
MAX_STABLE_ID = 2**62 - 1  # ids that ingestion generates are larger; their external id is their decimal text
MAX_SAFE_INTEGER = 2**53 - 1  # larger integers are rounded by every client that reads JSON numbers as doubles

# Column that contains the external ids of an id column, where its form is text.
EXTERNAL_COLUMNS: dict[tuple[str, str], str] = {
    ("users", "user_id"): "external_id",
    ("tracks", "track_id"): "external_id",
    ("tracks", "artist_id"): "artist_external_id",
    ("tracks", "album_id"): "album_external_id",
    ("playlists", "playlist_id"): "external_id",
    ("plays", "user_id"): "user_external_id",
    ("plays", "track_id"): "track_external_id",
    ("plays", "artist_id"): "artist_external_id",
    ("plays", "album_id"): "album_external_id",
}


def stable_id(text: str) -> int:
    """Return a number below 2^62 that is the same for the same text in every run and on every machine.

    The text is hashed as it is. A source whose ids are made from names brings the names to composed form (NFC) first.
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 2


def internal_id(external: str | int, form: Form) -> int | None:
    """Return the id inside, or None if `external` is not an id of this form.

    Args:
        external: an id as a request contains it. A number is its decimal text.
        form: form of the ids of this kind.
    """
    text = str(external)
    if form == "text":
        return stable_id(text)
    if not (text.isascii() and text.isdigit() and len(text) <= 19) or (text[0] == "0" and text != "0"):
        return None
    number = int(text)
    return number if number <= MAX_ID else None
