"""Writes the external ids of the entities of a release, where the source's ids are texts.

Input   catalog, tracks, entity_vectors, playlists
Output  external_ids/<kind>.{ids,offsets,utf8}.npy (serving/release/external_ids.py), kinds of form text
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from contracts.entity_ids import Form
from jobs.platform import files
from jobs.platform.context import Context
from jobs.settings.base import SPACES
from serving.release.external_ids import FOLDER, PARTS, IdTexts

TRACK_COLUMNS = {
    "track": ("track_id", "external_id"),
    "artist": ("artist_id", "artist_external_id"),
    "album": ("album_id", "album_external_id"),
}
BATCH_ROWS = 1_000_000


def write_external_ids(context: Context, folder: Path, forms: Mapping[str, Form]) -> None:
    """Write the texts of the tracks, artists, albums and playlists of a release.

    Args:
        context: week and lake.
        folder: folder of the release.
        forms: form of each kind; only kinds of form text are written.
    """
    texts: dict[str, dict[int, str]] = {}
    track_ids = context.lake.read("catalog", columns=["track_id"], week=context.week.name)["track_id"]
    for kind, columns in TRACK_COLUMNS.items():
        if forms[kind] == "text":
            table = context.lake.read("tracks", columns=list(dict.fromkeys(["track_id", *columns])))
            texts[kind] = text_by_id([table.filter(pc.is_in(table["track_id"], track_ids))], *columns)
    if forms["playlist"] == "text":
        texts["playlist"] = playlist_texts(context)
    for kind, text_of in texts.items():
        arrays = IdTexts.build(text_of)
        for part in PARTS:
            files.write_array(folder / FOLDER / f"{kind}.{part}.npy", getattr(arrays, part))


def playlist_texts(context: Context) -> dict[int, str]:
    """Return the external ids of the playlists that have a vector."""
    ids = set[int]()
    for space in SPACES:
        rows = context.lake.read("entity_vectors", columns=["kind", "entity_id"], week=context.week.name, space=space)
        ids.update(rows.filter(pc.equal(rows["kind"], "playlist"))["entity_id"].to_pylist())
    wanted = pa.array(sorted(ids), pa.int64())
    batches = context.lake.batches("playlists", BATCH_ROWS)
    return text_by_id(
        (batch.filter(pc.is_in(batch["playlist_id"], wanted)) for batch in batches), "playlist_id", "external_id"
    )


def text_by_id(tables: Iterable[pa.Table], id_column: str, text_column: str) -> dict[int, str]:
    """Return the external id of each id; that of an entity without one is its decimal text."""
    texts: dict[int, str] = {}
    for table in tables:
        distinct = table.group_by([id_column]).aggregate([(text_column, "max")])
        for i, text in zip(*(distinct[name].to_pylist() for name in (id_column, f"{text_column}_max")), strict=True):
            texts[i] = text or str(i)
    return texts
