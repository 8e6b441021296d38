"""`overture block refresh`: tracks that the newest catalogue no longer offers are in no list."""

from __future__ import annotations

import pyarrow as pa
import pytest

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import CheckFailed
from jobs.release import unavailable_tracks
from serving.block.sources import block_file


def write_tracks(context, available: dict, external: dict | None = None, without: str = "") -> None:
    """Write a catalogue: track_id -> available."""
    names = external or {}
    rows = [
        {"track_id": i, "artist_id": 1, "album_id": 1, "available": value, "external_id": names.get(i)}
        for i, value in available.items()
    ]
    table = pa.Table.from_pylist(rows, schema=arrow_schema(contracts.load("tracks")))
    if without:
        table = table.drop_columns([without])
    context.lake.write("tracks", table, report={"ids": {"track": "text" if external else "integer"}})


@pytest.fixture
def listed(home):
    """A function that returns the ids in unavailable_tracks.jsonl."""
    return lambda: {key[1] for key in block_file(home, "unavailable").entries()}


def test_the_list_follows_the_catalogue(context, listed):
    write_tracks(context, {1: True, 2: False, 3: None, 4: False})
    report = {"source": "unavailable_tracks.jsonl", "unavailable": 2, "added": 2, "removed": 0}
    assert unavailable_tracks.run(context) == report
    assert listed() == {"2", "4"}
    assert unavailable_tracks.run(context) == {**report, "added": 0}
    write_tracks(
        context, {1: False, 2: True}
    )  # 4 is missing: it leaves the list, as every track that is not unavailable
    assert unavailable_tracks.run(context) == {**report, "unavailable": 1, "added": 1, "removed": 2}
    assert listed() == {"1"}


def test_the_ids_are_those_of_the_source(context, listed):
    write_tracks(context, {1: True, 2: False}, {1: "spotify:1", 2: "spotify:2"})
    unavailable_tracks.run(context)
    assert listed() == {"spotify:2"}


def test_a_catalogue_without_the_column_blocks_nothing(context, listed):
    write_tracks(context, {1: False}, without="available")
    assert unavailable_tracks.run(context)["unavailable"] == 0
    assert listed() == set()


def test_without_a_catalogue_the_command_fails(context, command):
    with pytest.raises(CheckFailed, match="run `overture ingest` first"):
        unavailable_tracks.run(context)
    code, _, err = command("block", "refresh")
    assert (code, "the lake contains no catalogue yet" in err) == (3, True)
