"""The loader of contracts: all files load, and an invalid file raises."""

import pyarrow as pa
import pytest

import contracts
from contracts import arrow, loader
from contracts.arrow import arrow_schema


@pytest.mark.parametrize("name", contracts.names())
def test_every_contract_loads(name):
    contract = contracts.load(name)
    assert contract.table == name
    assert contract.owner
    assert contract.about
    assert all(column.about for column in contract.columns.values())
    assert any("unique" in check for check in contract.fail)


def test_every_type_of_the_grammar_has_its_arrow_type():
    assert tuple(arrow.ARROW) == loader.TYPES


def test_schema_follows_the_declared_order_and_nulls():
    schema = arrow_schema(contracts.load("users"))
    assert schema.names == ["user_id", "country", "age", "registered_at", "external_id", "opt_out"]
    assert schema.field("registered_at").type == pa.timestamp("us", tz="UTC")
    assert not schema.field("user_id").nullable
    assert schema.field("age").nullable


def test_an_unknown_table_raises_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'listens' has no contract; known tables: .*users"):
        contracts.load("listens")


GOOD = """
table: thing
version: 1
owner: me
about: a thing
grain: [thing_id]
partition: []
columns:
  thing_id: {type: long, null: never, about: id}
checks: {fail: [], warn: []}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("type: long", "type: int64", "column 'thing_id'"),
        ("null: never, ", "", "column 'thing_id'"),
        ("about: id}", "about: id, maximum: 3}", "maximum"),
        ("about: id}", "about: id, optional: true}", "'thing_id' is optional, so it must state what a null means"),
        ("grain: [thing_id]", "grain: [other_id]", r"\['other_id'\]"),
        ("owner: me\n", "", "owner"),
        ("table: thing", "table: other", "field 'table' is 'other'"),
    ],
)
def test_an_invalid_file_raises_with_the_field(tmp_path, monkeypatch, old, new, message):
    monkeypatch.setattr(loader, "FOLDER", tmp_path)
    file = tmp_path / "thing.yaml"
    file.write_text(GOOD)
    loader.load.cache_clear()
    assert loader.load("thing").columns["thing_id"].null == "never"
    loader.load.cache_clear()
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(ValueError, match=message):
        loader.load("thing")
    loader.load.cache_clear()
