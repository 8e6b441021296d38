"""Expectations: the checks that a contract declares, in a form that one pass over a table can evaluate.

An expectation bounds one *measure*: a number such as "rows whose age is outside 5 to 120". For a check of single
rows, `violation` is the SQL condition of a bad row: the bad rows of all expectations are counted in one pass, and
examples are read afterwards. `type` and `kwargs` are those of Great Expectations, which runs on the frame of measures.
This module reads no data and imports no engine.

Rules    present readable whole type                      from files and their footers
         never_null finite range values country elements  from one column of a row
         pairs within_partition                           from several columns of a row
         unique dense width rows null_share references track_exists missing_share rows_vs_last_week
                                                          from the whole table
         complete_days                                    from the number of rows of each day

`references` and `track_exists` count the rows that refer to a row that does not exist. Where the contract tolerates a
share of such rows (`missing_share`), the count is a warning and the share above the bound fails: rows of a listener who
was removed or of a track that was taken down must not stop the week of everybody else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import contracts.loader as loader
from contracts.arrow import ARROW
from contracts.demographics import COUNTRIES, COUNTRIES_TEXT
from contracts.loader import Column, Contract

Severity = Literal["fail", "warn"]
BETWEEN = "expect_column_values_to_be_between"
FILE_RULES = ("present", "readable", "whole", "type")
ROWS = "rows"
REFERENCE_RULES = ("references", "track_exists")


@dataclass(frozen=True)
class Expectation:
    """A bound on one measure.

    Attributes:
        rule: One of the rules in the docstring of this module.
        severity: `fail` stops the pipeline, `warn` is only reported.
        columns: The columns that are checked; empty for a check of the whole table.
        text: The expectation in words. It follows the name of the column or table in messages.
        low: Smallest allowed value of the measure; None: no bound.
        high: Largest allowed value of the measure; None: no bound.
        violation: SQL condition that is true for a bad row; None if the check is not about single rows.
        args: The parameters of the rule, for code that measures without SQL: bounds, values, the referenced table.
    """

    rule: str
    severity: Severity
    columns: tuple[str, ...]
    text: str
    low: float | None = 0
    high: float | None = 0
    violation: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def column(self) -> str | None:
        """The first checked column; None for the whole table."""
        return self.columns[0] if self.columns else None

    @property
    def measure(self) -> str:
        """Name of the measure, unique within a contract."""
        return " ".join((*self.columns, self.rule))

    def is_met(self, value: float) -> bool:
        """Return whether a measured value is within the bounds."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def type(self) -> str:
        """The expectation's type in Great Expectations."""
        return BETWEEN

    @property
    def kwargs(self) -> dict[str, Any]:
        """The expectation's arguments in Great Expectations, on the frame of measures."""
        return {"column": self.measure, "min_value": self.low, "max_value": self.high}


def expectations(contract: Contract) -> list[Expectation]:
    """Return all expectations of a contract: of the files, of the columns, then the table's own checks.

    Raises:
        ValueError: A check is unknown, names an undeclared column or is declared twice. The message names the file and
            the check.
    """
    result = [
        Expectation("present", "fail", (), "is in the lake", low=1, high=None),
        Expectation("readable", "fail", (), "is complete Parquet in every file"),
        Expectation("whole", "fail", (), "has every row on disk that was written"),
    ]
    for column in contract.columns.values():
        result += _column_expectations(contract, column)
    severities: tuple[tuple[Severity, list[dict[str, Any]]], ...] = (("fail", contract.fail), ("warn", contract.warn))
    for severity, checks in severities:
        result += [
            _check_expectation(contract, severity, kind, spec) for check in checks for kind, spec in check.items()
        ]
    result = [_with_reference(contract, e, result) if e.rule == "missing_share" else e for e in result]
    measures = [e.measure for e in result]
    repeated = sorted({m for m in measures if measures.count(m) > 1})
    if repeated:
        raise ValueError(f"{contract.table}.yaml: checks are declared twice: {repeated}")
    return result


def _column_expectations(contract: Contract, column: Column) -> list[Expectation]:
    columns, q = (column.name,), f"`{column.name}`"
    result = [Expectation("type", "fail", columns, f"is stored as {ARROW[column.type]} in every file")]
    if not column.nullable:
        result.append(Expectation("never_null", "fail", columns, "is never null", violation=f"{q} IS NULL"))
    infinite = f"isnan({q}) OR abs({q}) = double('inf')"
    if column.type in ("float", "double"):
        result.append(Expectation("finite", "fail", columns, "is a finite number", violation=infinite))
    bounds = [f"{q} < {format_number(column.min)}"] if column.min is not None else []
    bounds += [f"{q} > {format_number(column.max)}"] if column.max is not None else []
    if bounds:
        text = f"is {format_interval(column.min, column.max)}" + (f" {column.unit}" if column.unit else "")
        args: dict[str, Any] = {"min": column.min, "max": column.max}
        result.append(Expectation("range", "fail", columns, text, violation=" OR ".join(bounds), args=args))
    if column.values:
        text = f"is one of {', '.join(column.values)}"
        bad, args = f"{q} NOT IN ({_sql(column.values)})", {"values": column.values}
        result.append(Expectation("values", "fail", columns, text, violation=bad, args=args))
    if column.country:
        text = "is an ISO 3166-1 alpha-2 country code"
        bad, args = f"{q} NOT IN ({_sql(COUNTRIES)})", {"values": COUNTRIES}
        result.append(Expectation("country", "fail", columns, text, violation=bad, args=args))
    if column.type.startswith("list<"):
        bad = "e IS NULL" + (" OR isnan(e) OR abs(e) = double('inf')" if column.type == "list<float>" else "")
        text = "contains only finite numbers" if column.type == "list<float>" else "contains no null"
        result.append(Expectation("elements", "fail", columns, text, violation=f"exists({q}, e -> {bad})"))
    if column.type == "list<float>":
        result.append(Expectation("width", "fail", columns, "has the same length in every row"))
    if column.within_partition:
        if "day" not in contract.partition:
            raise ValueError(
                f"{contract.table}.yaml: column '{column.name}' is within_partition, but no partition is a day"
            )
        text = "is inside the day of its partition"
        result.append(Expectation("within_partition", "fail", columns, text, violation=f"CAST({q} AS DATE) <> `day`"))
    if column.references:
        table, _, key = column.references.partition(".")
        args = {"table": table, "key": key, "where": None}
        tolerated = any(spec.get("missing_share", {}).get("column") == column.name for spec in contract.fail)
        severity: Severity = "warn" if tolerated else "fail"
        result.append(Expectation("references", severity, columns, f"exists in {column.references}", args=args))
    return result


def _with_reference(contract: Contract, share: Expectation, others: list[Expectation]) -> Expectation:
    """Return a `missing_share` with the parameters of the reference whose rows it counts."""
    counted = [e for e in others if e.rule in REFERENCE_RULES and e.columns == share.columns]
    if not counted:
        raise ValueError(
            f"{contract.table}.yaml: check 'missing_share': column '{share.column}' has neither `references` nor a "
            "check `track_exists`"
        )
    text = f"{counted[0].text} in at least {1 - (share.high or 0):.0%} of the rows"
    return replace(share, text=text, args={**counted[0].args, "count": counted[0].measure})


def _check_expectation(contract: Contract, severity: Severity, kind: str, spec: Any) -> Expectation:
    file = f"{contract.table}.yaml"
    try:
        expectation = _check(kind, severity, spec)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError(f"{file}: check '{kind}': wrong parameters {spec!r}") from None
    if expectation is None:
        known = "unique, rows, complete_days, dense, null_share, track_exists, missing_share, pairs, rows_vs_last_week"
        raise ValueError(f"{file}: unknown check '{kind}'; known checks: {known}")
    undeclared = [name for name in expectation.columns if name not in contract.columns]
    if undeclared:
        raise ValueError(f"{file}: check '{kind}' names columns that are not declared: {undeclared}")
    return expectation


def _check(kind: str, severity: Severity, spec: Any) -> Expectation | None:
    if kind == "unique":
        return Expectation("unique", severity, tuple(spec), "is unique" if len(spec) == 1 else "are unique together")
    if kind == "rows":
        low, high = spec.get("min"), spec.get("max")
        unit = "row" if (high or low) == 1 else "rows"
        return Expectation(ROWS, severity, (), f"has {format_interval(low, high)} {unit}", low=low, high=high)
    if kind == "complete_days" and not spec:
        text = "has every day, each with at least a share of its weekday's usual rows (source.min_day_share)"
        return Expectation("complete_days", severity, (), text)
    if kind == "dense":
        return Expectation("dense", severity, (spec,), "is 0, 1, 2, ... without a gap")
    if kind == "null_share":
        text = f"is unknown in at most {spec['max']:.0%} of the rows"
        return Expectation("null_share", severity, (spec["column"],), text, high=float(spec["max"]))
    if kind == "track_exists":
        args = {"table": "tracks", "key": "track_id", "where": ("entity", "track")}
        text = "of a track exists in tracks"
        return Expectation("track_exists", severity, ("entity_id",), text, high=spec["max_missing"], args=args)
    if kind == "missing_share":
        return Expectation("missing_share", severity, (spec["column"],), "", high=float(spec["max"]))
    if kind == "pairs":
        (given, given_values), (then, then_values) = spec.items()
        text = f"is {' or '.join(then_values)} where {given} is {' or '.join(given_values)}"
        bad = f"`{given}` IN ({_sql(given_values)}) AND `{then}` NOT IN ({_sql(then_values)})"
        args = {"given": given, "given_values": tuple(given_values), "then": then, "then_values": tuple(then_values)}
        return Expectation("pairs", severity, (then, given), text, violation=bad, args=args)
    if kind == "rows_vs_last_week":
        max_change = float(spec["max_change"])
        text = f"has a row count within {max_change:.0%} of the week before"
        return Expectation("rows_vs_last_week", severity, (), text, low=-max_change, high=max_change)
    return None


def format_interval(low: float | None, high: float | None) -> str:
    """Return a range in words: `5 to 120`, `at least 1`, `at most 9`."""
    if low is not None and high is not None:
        return f"{format_number(low)} to {format_number(high)}"
    return f"at least {format_number(low)}" if low is not None else f"at most {format_number(high)}"


def format_number(value: float | None) -> str:
    """Return a bound as text that SQL understands too; whole numbers have no decimal point."""
    return str(int(value)) if value is not None and float(value).is_integer() else str(value)


def _sql(values: tuple[str, ...] | list[str]) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def reference_markdown() -> str:
    """Return the reference page of all tables in Markdown: columns with type, null, range and unit; then the checks."""
    pages = [_markdown(loader.load(table)) for table in loader.names()]
    links = "\n".join(f"- [{table}](#{table})" for table in loader.names())
    return f"# Tables\n\nGenerated from `contracts/*.yaml`.\n\n{links}\n\n" + "\n".join(pages)


def _markdown(contract: Contract) -> str:
    where = ", ".join(f"`{key}`" for key in contract.partition) or "none"
    lines = [
        f"## {contract.table}\n",
        f"{contract.about}\n",
        f"Version {contract.version} · owner {contract.owner} · one row per "
        f"{', '.join(f'`{c}`' for c in contract.grain)} · partition {where}\n",
        "| column | type | null | allowed | unit | personal | about |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in contract.columns.values():
        cells = [f"`{c.name}`", f"`{c.type}`", c.null, allowed_values(c), c.unit or "", c.pii or "", c.about]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines.append("")
    column_rules = {"type", "never_null", "finite", "range", "values", "country", "elements"}
    for e in expectations(contract):
        if e.rule not in {*FILE_RULES, *column_rules}:
            subject = ", ".join(f"`{name}`" for name in e.columns[:1] if e.rule != "unique") or "the table"
            subject = ", ".join(f"`{name}`" for name in e.columns) if e.rule == "unique" else subject
            lines.append(f"- {'must' if e.severity == 'fail' else 'should'}: {subject} {e.text}")
    return "\n".join(lines) + "\n"


def allowed_values(column: Column) -> str:
    """Return the values that a column may contain, in words; empty if there is no bound."""
    if column.values:
        return ", ".join(column.values)
    if column.country:
        return COUNTRIES_TEXT
    if column.references:
        return column.references
    return format_interval(column.min, column.max) if column.min is not None or column.max is not None else ""
