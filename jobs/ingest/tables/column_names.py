"""Names that services often use for the columns of the contracts, best first; lower case."""

from __future__ import annotations

SYNONYMS: dict[str, tuple[str, ...]] = {
    "user_id": (
        "user_id", "userid", "user_uuid", "account_uuid", "account_id", "listener_id", "listener", "user", "uid",
        "member_id", "customer_id", "owner_id", "owner", "account",
    ),
    "country": ("country", "country_code", "cc", "region", "market", "locale_country"),
    "age": ("age", "user_age", "birth_year", "year_of_birth", "born", "birthdate", "date_of_birth", "birthday"),
    "registered_at": (
        "registered_at", "created_at", "created", "signup_at", "signup_date", "signed_up", "registered", "joined_at",
        "joined", "registration_date", "member_since",
    ),
    "track_id": (
        "track_id", "trackid", "track_uuid", "track_uri", "track", "song_id", "song_uuid", "song", "item_id",
        "recording_id", "recording_mbid", "uuid", "uri", "id",
    ),
    "artist_id": ("artist_id", "artistid", "artist_uuid", "artist_uri", "artist_mbid", "artist", "performer_id"),
    "album_id": ("album_id", "albumid", "album_uuid", "album_uri", "release_id", "release_mbid", "album"),
    "genre": ("genre", "main_genre", "style", "genre_name"),
    "duration_s": ("duration_s", "duration", "length", "duration_ms", "length_s", "length_ms", "seconds"),
    "release_date": ("release_date", "released", "released_on", "release_year", "year"),
    "title": ("title", "track_name", "track_title", "song_name", "name"),
    "content_features": ("content_features", "embedding", "audio_embedding", "audio_features", "text_embedding"),
    "artist_name": ("artist_name", "artist", "performer", "artist_title"),
    "ts": (
        "ts", "timestamp", "listened_at", "played_at", "event_time", "time", "at", "started_at", "start_time",
        "created_at", "date",
    ),
    "kind": ("kind", "event_type", "action", "event", "type"),
    "entity": ("entity", "entity_type", "item_type", "object_type", "type"),
    "entity_id": (
        "entity_id", "object_id", "track_id", "track_uuid", "track_uri", "song_id", "item_id", "recording_mbid",
        "track", "song", "item", "object",
    ),
    "listened_s": (
        "listened_s", "listened", "seconds_played", "ms_played", "played_s", "play_duration",
        "listen_time", "seconds",
    ),
    "playlist_id": ("playlist_id", "playlist_uuid", "playlist", "list_id", "pid", "collection_id"),
    "position": ("position", "pos", "index", "idx", "rank", "track_position", "order"),
    "added_at": ("added_at", "added", "created_at", "date_added", "modified_at", "created"),
}  # fmt: skip

VALUES: dict[str, dict[str, str]] = {
    "kind": {
        "play": "stream", "played": "stream", "listen": "stream", "complete": "stream", "scrobble": "stream",
        "skipped": "skip", "like": "favorite", "love": "favorite", "liked": "favorite", "favourite": "favorite",
        "save": "favorite", "dislike": "ban", "block": "ban", "hate": "ban",
    },
    "entity": {"song": "track", "recording": "track", "release": "album", "list": "playlist"},
}  # fmt: skip
"""Values that services often use, and the contract's value for each."""
