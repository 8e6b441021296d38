"""Block the tracks that the newest catalogue no longer offers.

Reads    `tracks` in the lake: rows whose `available` is false
Writes   the list `unavailable` of the block list: OVERTURE_HOME/unavailable_tracks.jsonl, or the store where it is a
         server

A track that is offered again leaves the list. A track that is missing from the catalogue is not blocked: an incomplete
delivery would block the rest.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.platform.entity_forms import entity_forms
from serving.block.entries import BlockEntry, Key, now
from serving.block.sources import edited_source, replace_all

REASON = "not available in the catalogue"


def run(context: Context) -> dict[str, Any]:
    """Make the unavailable tracks of the lake the content of the list; return the report.

    Raises:
        CheckFailed: the lake contains no table `tracks`.
        StoreUnavailable: the store does not answer.
    """
    entries = unavailable(context)
    with closing(edited_source(context.settings.store, context.home, "unavailable")) as source:
        n_added, n_removed = replace_all(source, entries)
    return {"source": source.name, "unavailable": len(entries), "added": n_added, "removed": n_removed}


def unavailable(context: Context) -> dict[Key, BlockEntry]:
    """Return an entry for every track that is not available.

    Raises:
        CheckFailed: the lake contains no table `tracks`.
    """
    lake = context.lake
    if not lake.exists("tracks"):
        raise CheckFailed("tracks: the lake contains no catalogue yet; run `overture ingest` first")
    table = lake.read("tracks", columns=["track_id", "external_id", "available"])
    import pyarrow.compute as pc

    rows = table.filter(pc.equal(table["available"], False))
    column = "external_id" if entity_forms(lake)["track"] == "text" else "track_id"
    at = now()
    entries = (BlockEntry("track", str(external_id), reason=REASON, at=at) for external_id in rows[column].to_pylist())
    return {entry.key: entry for entry in entries}
