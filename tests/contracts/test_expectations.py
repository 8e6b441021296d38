"""Expectations: each check of a contract becomes one, and invalid checks raise."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

import contracts
from contracts.expectations import COUNTRIES, expectations, reference_markdown
from contracts.loader import Column, Contract
from serving.schema import Listener

A = Column("a", "int", "never")


def contract(columns=(A,), partition=(), fail=(), warn=()):
    return Contract("t", 1, "o", "about", ("a",), partition, {c.name: c for c in columns}, list(fail), list(warn))


def expectation_of(items, measure):
    return next(e for e in items if e.measure == measure)


@pytest.mark.parametrize("table", contracts.names())
def test_every_contract_becomes_a_suite(table):
    items = expectations(contracts.load(table))
    assert len({e.measure for e in items}) == len(items)
    for name, column in contracts.load(table).columns.items():
        rules = {e.rule for e in items if e.columns == (name,)}
        assert "type" in rules
        assert ("never_null" in rules) == (column.null == "never")
        assert ("range" in rules) == (column.min is not None or column.max is not None)
        assert ("values" in rules) == (column.values is not None)
        assert ("references" in rules) == (column.references is not None)
    declared = contracts.load(table)
    checks = [("fail", c) for c in declared.fail] + [("warn", c) for c in declared.warn]
    for severity, check in checks:
        assert any(e.rule == next(iter(check)) and e.severity == severity for e in items)


def test_countries_are_the_assigned_iso_codes_and_xk():
    assert len(set(COUNTRIES)) == len(COUNTRIES) == 250
    assert {"FR", "GB", "XK", "UK", "XX", "EU"} & set(COUNTRIES) == {"FR", "GB", "XK"}


def test_every_column_of_a_country_or_an_age_has_the_rules_of_the_service():
    """A request that the service accepts can be stored, and a stored listener can be sent to the service."""
    for table in ("users", "first_day", "cold_first_day", "exposure_contexts"):
        columns = contracts.load(table).columns
        rules = {e.measure: e for e in expectations(contracts.load(table))}
        assert columns["country"].country, table
        assert columns["age"].age, table
        assert rules["country country"].args["values"] == COUNTRIES
    for code in (*COUNTRIES, "UK", "XX", "fr", "FRA", "", "\u0130E"):
        assert accepts(country=code) == (code in COUNTRIES), code
    age = contracts.load("users").columns["age"]
    for years in range(-1, 200):
        assert accepts(age=years) == (age.min <= years <= age.max), years


def accepts(**facts):
    try:
        Listener.model_validate(facts)
    except ValidationError:
        return False
    return True


def test_the_service_reads_countries_and_ages_without_arrow():
    code = "import sys, serving.schema; print('pyarrow' in sys.modules, 'contracts.demographics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        "False True\n"
    )


def test_the_range_of_a_column_as_text_and_as_sql():
    age = expectation_of(expectations(contracts.load("users")), "age range")
    assert age.violation == "`age` < 5 OR `age` > 120"
    assert (age.text, age.severity, age.column) == ("is 5 to 120 years", "fail", "age")
    assert age.kwargs == {"column": "age range", "min_value": 0, "max_value": 0}


def test_a_tolerated_share_of_missing_rows_makes_the_count_a_warning():
    strict = expectations(contract([A, Column("b", "long", "never", references="users.user_id")]))
    assert expectation_of(strict, "b references").severity == "fail"
    check = {"missing_share": {"column": "b", "max": 0.1}}
    items = expectations(contract([A, Column("b", "long", "never", references="users.user_id")], fail=[check]))
    count, share = expectation_of(items, "b references"), expectation_of(items, "b missing_share")
    assert (count.severity, count.high, share.severity, share.high) == ("warn", 0, "fail", 0.1)
    assert share.text == "exists in users.user_id in at least 90% of the rows"
    with pytest.raises(ValueError, match=r"t\.yaml: check 'missing_share': column 'a' has neither `references`"):
        expectations(contract([A], fail=[{"missing_share": {"column": "a", "max": 0.1}}]))


def test_values_are_quoted():
    items = expectations(contract([Column("a", "string", "never", values=("it's", "b"))]))
    assert expectation_of(items, "a values").violation == "`a` NOT IN ('it''s', 'b')"


def test_numbers_and_lists_of_numbers_must_be_finite():
    items = expectations(contract([Column("a", "double", "never"), Column("v", "list<float>", "never")]))
    assert "isnan" in expectation_of(items, "a finite").violation
    assert "isnan" in expectation_of(items, "v elements").violation
    assert expectation_of(items, "v width").violation is None


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"uniqe": ["a"]}, "unknown check 'uniqe'"),
        ({"unique": ["b"]}, r"not declared: \['b'\]"),
        ({"null_share": {"column": "a"}}, "check 'null_share': wrong parameters"),
        ({"pairs": {"a": ["x"]}}, "check 'pairs': wrong parameters"),
    ],
)
def test_an_invalid_check_raises(check, message):
    with pytest.raises(ValueError, match=f"t.yaml: .*{message}"):
        expectations(contract(fail=[check]))


def test_a_check_that_is_declared_twice_raises():
    with pytest.raises(ValueError, match=r"checks are declared twice: \['rows'\]"):
        expectations(contract(fail=[{"rows": {"min": 1}}, {"rows": {"min": 2}}]))


def test_within_partition_needs_a_day():
    with pytest.raises(ValueError, match="no partition is a day"):
        expectations(contract([Column("ts", "timestamp", "never", within_partition=True)]))


def test_reference_page_has_every_table_column_and_check():
    text = reference_markdown()
    for table in contracts.names():
        assert f"\n## {table}\n" in text
        for name in contracts.load(table).columns:
            assert f"| `{name}` |" in text
    assert "- must: `user_id`, `ts`, `kind`, `entity`, `entity_id` are unique together" in text
