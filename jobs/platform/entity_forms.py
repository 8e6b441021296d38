"""The form of each kind of id in a lake: integer or text (contracts/entity_ids.py)."""

from __future__ import annotations

from contracts.entity_ids import KINDS, Form
from jobs.platform.lake import Lake

# Columns with the external ids of each kind, by table.
EXTERNAL_COLUMNS = {
    "user": (("users", "external_id"), ("plays", "user_external_id")),
    "track": (("tracks", "external_id"), ("plays", "track_external_id")),
    "artist": (("tracks", "artist_external_id"), ("plays", "artist_external_id")),
    "album": (("tracks", "album_external_id"), ("plays", "album_external_id")),
    "playlist": (("playlists", "external_id"),),
}


def entity_forms(lake: Lake) -> dict[str, Form]:
    """Return the form of each kind of id.

    Ingestion decides it and stores it in the report of `tracks`, or of `plays` in a lake of the skip engine. For kinds
    that the report does not name, it is `text` where a table contains external ids, else `integer`.
    """
    newest = {"plays": lake.partitions("plays")[-1:]}
    partitions = {name: newest.get(name, [{}]) for name in ("users", "tracks", "playlists", "plays")}
    written = {
        name: partition for name, found in partitions.items() for partition in found if lake.exists(name, **partition)
    }
    forms: dict[str, Form] = {}
    for table in ("plays", "tracks"):
        if table in written:
            forms |= lake.report(table, **written[table]).get("ids", {})
    for kind in KINDS:
        if kind not in forms:
            columns = [(table, column) for table, column in EXTERNAL_COLUMNS[kind] if table in written]
            has_text = any(
                lake.read(table, columns=[column], **written[table])[column].null_count
                < lake.rows(table, **written[table])
                for table, column in columns
            )
            forms[kind] = "text" if has_text else "integer"
    return forms
