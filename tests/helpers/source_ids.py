"""Other ids for a small week: UUIDs, or integers that a JavaScript client would round."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pyarrow as pa

from contracts.entity_ids import KINDS, Form, stable_id
from jobs.platform.context import Context
from models.cold_start.input_vector import INTERACTIONS

External = Callable[[str, int], str]
ENTITY_OF = {"songs": "track", "artists": "artist", "albums": "album", "playlists": "playlist"}


def as_uuid(kind: str, number: int) -> str:
    """Return a UUID for an id of the small week."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{kind} {number}"))


def as_large_integer(kind: str, number: int) -> str:
    """Return an integer of 63 bits for an id of the small week."""
    return str(2**63 - 1 - 100_000 * number - KINDS.index(kind))


def change_ids(context: Context, external: External, form: Form) -> None:
    """Replace the ids in the tables of a filled small week, as if the source had other ids.

    Args:
        context: a context after `small_week.fill`.
        external: the source's id of a kind and an id of the small week.
        form: form of all kinds.
    """
    lake, week = context.lake, context.week.name

    def inside(kind: str, number: int) -> int:
        text = external(kind, number)
        return stable_id(text) if form == "text" else int(text)

    def text(kind: str, number: int) -> str | None:
        return external(kind, number) if form == "text" else None

    def changed(table: pa.Table, kinds: dict[str, str]) -> pa.Table:
        for column, kind in kinds.items():
            ids = [inside(kind, i) for i in table[column].to_pylist()]
            table = table.set_column(table.schema.get_field_index(column), column, pa.array(ids, pa.int64()))
        return table

    of_tracks = {"track_id": "track", "artist_id": "artist", "album_id": "album"}
    lake.write("catalog", changed(lake.read("catalog", week=week), of_tracks), week=week)
    tracks = lake.read("tracks")
    renamed = changed(tracks, of_tracks)
    for column, kind in of_tracks.items():
        name = column.replace("_id", "_external_id").removeprefix("track_")
        texts = pa.array([text(kind, i) for i in tracks[column].to_pylist()], pa.string())
        renamed = renamed.set_column(renamed.schema.get_field_index(name), name, texts)
    lake.write("tracks", renamed, report={"ids": dict.fromkeys(KINDS, form)})
    for space in ("tt_svd", "ut_als"):
        rows = lake.read("entity_vectors", week=week, space=space)
        ids = [inside(kind, i) for kind, i in zip(*(rows[c].to_pylist() for c in ("kind", "entity_id")), strict=True)]
        lake.write("entity_vectors", rows.set_column(1, "entity_id", pa.array(ids)), week=week, space=space)
    for split in ("train", "validation", "test"):
        days = lake.read("first_day", week=week, split=split)
        for name in INTERACTIONS:
            kind = ENTITY_OF[name.rsplit("_", 1)[1]]
            lists = [[inside(kind, i) for i in ids] for ids in days[name].to_pylist()]
            days = days.set_column(days.schema.get_field_index(name), name, pa.array(lists, pa.list_(pa.int64())))
        lake.write("first_day", days, week=week, split=split)
    lake.write("warm_users", changed(lake.read("warm_users", week=week), {"user_id": "user"}), week=week)
    playlists = [
        {"playlist_id": inside("playlist", number), "position": 0, "track_id": renamed["track_id"][number].as_py()}
        | {"added_at": context.week.as_of, "user_id": None, "external_id": text("playlist", number)}
        for number in (1, 2, 3)
    ]
    schema = pa.schema(
        {
            **{"playlist_id": pa.int64(), "position": pa.int32(), "track_id": pa.int64(), "user_id": pa.int64()},
            **{"added_at": pa.timestamp("us", "UTC"), "external_id": pa.string()},
        }
    )
    lake.write("playlists", pa.Table.from_pylist(playlists, schema=schema))
