"""The mapping of the source `tables`: what is accepted, what is refused, and that no secret is printed."""

from __future__ import annotations

from datetime import date

import pytest

from contracts.errors import BadArgument
from jobs.settings.settings import load
from jobs.settings.tables import day_values, inputs_of, placeholders, substitute

GOOD = """\
name: x
week: "2026-11-16"
source:
  kind: tables
  inputs:
    songs: {format: parquet, path: "{data}/songs"}
    listens: {format: json, path: "{data}/listens/{day}.jsonl"}
    warehouse: {format: jdbc, url: "env:URL", table: favourites, options: {password: "env:PASSWORD"}}
  tables:
    tracks: "SELECT * FROM songs"
    events: "SELECT * FROM listens UNION ALL SELECT * FROM warehouse"
"""


@pytest.fixture
def load_text(tmp_path):
    def load_one(text: str):
        (tmp_path / "s.yaml").write_text(text)
        return load(tmp_path / "s.yaml")

    return load_one


def test_a_good_mapping(load_text):
    source = load_text(GOOD).source
    assert source.inputs["listens"].has_day
    assert not source.inputs["songs"].has_day


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("FROM songs", "FROM songs WHERE d = '{dya}'", r"tracks: unknown placeholder \{dya\}; did you mean 'day'\?"),
        ("{day}.jsonl", "{date}.jsonl", r"path: unknown placeholder \{date\}"),
        ("    tracks:", "    track:", "unknown table 'track'; did you mean 'tracks'"),
        ("    events:", "    tracks:", r"'tracks' occurs twice in one mapping.*\n.*line 11"),
        ("    warehouse:", "    listens:", "'listens' occurs twice"),
        ("    warehouse:", "    Listens:", "two inputs are named 'listens'"),
        ("FROM songs", "FROM elsewhere", r"source.tables.tracks: the SQL reads none of the inputs"),
        ('tracks: "SELECT * FROM songs"', 'users: "SELECT * FROM songs"', "no SQL for tracks"),
        ("format: parquet", "format: excel", "source.inputs.songs.format"),
        ("{data}/songs", "songs", "must begin with"),
        ("table: favourites", "table: a, query: b", "either `table` or `query`"),
        ("kind: tables", "kind: mpd", "need kind: tables"),
        ("table: favourites", 'table: "{data}.x"', "is a folder"),
        ('"env:URL"', '"env:"', "write env:NAME"),
    ],
)
def test_mistakes_are_named(load_text, old, new, message):
    with pytest.raises(BadArgument, match=message):
        load_text(GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"env:PASSWORD"', "hunter2"),
        ('"env:URL"', '"jdbc:postgresql://me:hunter2@host/db"'),
        ('"env:URL"', '"jdbc:postgresql://host/db?user=me&password=hunter2"'),
        ("options: {password", "options: {secretKey: hunter2, password"),
        ('password: "env:PASSWORD"', "password: hunter2, fetchsize: [1]"),
    ],
)
def test_a_literal_secret_is_refused_and_not_printed(load_text, old, new):
    with pytest.raises(BadArgument) as error:
        load_text(GOOD.replace(old, new, 1))
    assert "hunter2" not in str(error.value)


def test_braces_of_regular_expressions_are_no_placeholders():
    assert placeholders(r"x rlike '[0-9]{4}\p{L}{2,}' AND d = '{day}' AND t = '{{day}}'") == {"day"}


def test_substitution():
    values = day_values(date(2026, 11, 22)) | {"data": "/d"}
    assert values["week"] == "2026-11-16"
    assert substitute("{data} {day} {week} {{day}} {4}", values) == "/d 2026-11-22 2026-11-16 {day} {4}"


def test_inputs_are_found_outside_of_texts_and_comments(load_text):
    inputs = load_text(GOOD).source.inputs
    assert inputs_of("SELECT 'songs' FROM Listens -- warehouse\n/* songs */", inputs) == ["listens"]


def test_a_mapping_of_comments_alone_names_the_tables_that_lack_sql(load_text):
    """`init` writes such a file where it recognises no table."""
    text = GOOD[: GOOD.index("    tracks:")] + "    # tracks: FILL IN\n    # events: FILL IN\n"
    with pytest.raises(BadArgument, match=r"source\.tables: no SQL for tracks and events"):
        load_text(text)
    with pytest.raises(BadArgument, match=r"source\.inputs is empty; `overture init --data DIR`"):
        load_text('name: x\nweek: "2026-11-16"\nsource:\n  kind: tables\n  inputs:\n    # none\n')
