"""What a contract promises, as expectations that one pass over a table can judge.

Each expectation is about one *measure*: a number such as "rows whose age lies outside 5 to 120". Where it is about
rows, `violation` is the SQL condition that a bad row meets, so that whoever measures can count the bad rows of all
expectations together in one pass, and show a few of them afterwards. `type` and `kwargs` are those of Great
Expectations, to be run on the frame of measures. Nothing here reads data or imports an engine.

Rules    present readable whole type                      from files and their footers
         never_null finite range values country elements  from one column of a row
         pairs within_partition                           from several columns of a row
         unique dense width rows null_share references track_exists rows_vs_last_week   from the whole table
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import contracts.loader as loader
from contracts.arrow import ARROW
from contracts.loader import Column, Contract

Severity = Literal["fail", "warn"]
BETWEEN = "expect_column_values_to_be_between"
FILE_RULES = ("present", "readable", "whole", "type")
ROWS = "rows"

# ISO 3166-1 alpha-2, the 249 officially assigned codes.
_CODES = """
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC
CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD
GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH
KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW
MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC
SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY
UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
"""
COUNTRIES = tuple(_CODES.split())


@dataclass(frozen=True)
class Expectation:
    """One promise about one measure.

    Attributes:
        rule: one of the rules named at the head of this file.
        severity: `fail` stops the pipeline, `warn` is only reported.
        columns: the columns it is about; empty for the whole table.
        says: the promise in words, to follow the column's (or the table's) name.
        low: smallest value of the measure that keeps the promise; None for no bound.
        high: largest one; None for no bound.
        violation: SQL condition that holds for a bad row; None where no single row is to blame.
        args: the same as data, for measurers that speak no SQL: bounds, values, the referenced table.
    """

    rule: str
    severity: Severity
    columns: tuple[str, ...]
    says: str
    low: float | None = 0
    high: float | None = 0
    violation: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def column(self) -> str | None:
        """The first column it is about; None for the whole table."""
        return self.columns[0] if self.columns else None

    @property
    def measure(self) -> str:
        """Name of the measured number, unique within a contract."""
        return " ".join((*self.columns, self.rule))

    def keeps(self, value: float) -> bool:
        """Whether a measured value is within the bounds."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def type(self) -> str:
        """Type of the expectation in Great Expectations."""
        return BETWEEN

    @property
    def kwargs(self) -> dict[str, Any]:
        """Arguments of the expectation in Great Expectations, on the frame of measures."""
        return {"column": self.measure, "min_value": self.low, "max_value": self.high}


def expectations(contract: Contract) -> list[Expectation]:
    """All that the contract promises, files first, then columns, then the table's own checks.

    Raises:
        ValueError: a check is unknown or names an undeclared column; names the file and the check.
    """
    found = [
        Expectation("present", "fail", (), "is in the lake", low=1, high=None),
        Expectation("readable", "fail", (), "is whole Parquet in every file"),
        Expectation("whole", "fail", (), "has on disk every row that was written"),
    ]
    for column in contract.columns.values():
        found += _of_column(contract, column)
    severities: tuple[tuple[Severity, list[dict[str, Any]]], ...] = (("fail", contract.fail), ("warn", contract.warn))
    for severity, checks in severities:
        found += [_of_check(contract, severity, kind, spec) for check in checks for kind, spec in check.items()]
    measures = [e.measure for e in found]
    twice = sorted({m for m in measures if measures.count(m) > 1})
    if twice:
        raise ValueError(f"{contract.table}.yaml: checks say the same thing twice: {twice}")
    return found


def _of_column(contract: Contract, column: Column) -> list[Expectation]:
    one, q = (column.name,), f"`{column.name}`"
    found = [Expectation("type", "fail", one, f"is stored as {ARROW[column.type]} in every file")]
    if not column.nullable:
        found.append(Expectation("never_null", "fail", one, "is never null", violation=f"{q} IS NULL"))
    infinite = f"isnan({q}) OR abs({q}) = double('inf')"
    if column.type in ("float", "double"):
        found.append(Expectation("finite", "fail", one, "is a finite number", violation=infinite))
    bounds = [f"{q} < {number(column.min)}"] if column.min is not None else []
    bounds += [f"{q} > {number(column.max)}"] if column.max is not None else []
    if bounds:
        says = f"is {interval(column.min, column.max)}" + (f" {column.unit}" if column.unit else "")
        args: dict[str, Any] = {"min": column.min, "max": column.max}
        found.append(Expectation("range", "fail", one, says, violation=" OR ".join(bounds), args=args))
    if column.values:
        says = f"is one of {', '.join(column.values)}"
        bad, args = f"{q} NOT IN ({_sql(column.values)})", {"values": column.values}
        found.append(Expectation("values", "fail", one, says, violation=bad, args=args))
    if column.country:
        says = "is an ISO 3166-1 alpha-2 country code"
        bad, args = f"{q} NOT IN ({_sql(COUNTRIES)})", {"values": COUNTRIES}
        found.append(Expectation("country", "fail", one, says, violation=bad, args=args))
    if column.type.startswith("list<"):
        bad = "e IS NULL" + (" OR isnan(e) OR abs(e) = double('inf')" if column.type == "list<float>" else "")
        says = "holds only finite numbers" if column.type == "list<float>" else "holds no null"
        found.append(Expectation("elements", "fail", one, says, violation=f"exists({q}, e -> {bad})"))
    if column.type == "list<float>":
        found.append(Expectation("width", "fail", one, "has the same length in every row"))
    if column.within_partition:
        if "day" not in contract.partition:
            raise ValueError(
                f"{contract.table}.yaml: column '{column.name}' is within_partition, but no partition is a day"
            )
        says = "lies inside the day of its partition: nothing early, nothing from the future"
        found.append(Expectation("within_partition", "fail", one, says, violation=f"CAST({q} AS DATE) <> `day`"))
    if column.references:
        table, _, key = column.references.partition(".")
        args = {"table": table, "key": key, "where": None}
        found.append(Expectation("references", "fail", one, f"is known to {column.references}", args=args))
    return found


def _of_check(contract: Contract, severity: Severity, kind: str, spec: Any) -> Expectation:
    file = f"{contract.table}.yaml"
    try:
        found = _check(kind, severity, spec)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError(f"{file}: check '{kind}' cannot be understood: {spec!r}") from None
    if found is None:
        known = "unique, rows, dense, null_share, track_exists, pairs, rows_vs_last_week"
        raise ValueError(f"{file}: no such check '{kind}'; known checks: {known}")
    undeclared = [name for name in found.columns if name not in contract.columns]
    if undeclared:
        raise ValueError(f"{file}: check '{kind}' names columns that are not declared: {undeclared}")
    return found


def _check(kind: str, severity: Severity, spec: Any) -> Expectation | None:
    if kind == "unique":
        return Expectation("unique", severity, tuple(spec), "occurs once" if len(spec) == 1 else "together occur once")
    if kind == "rows":
        low, high = spec.get("min"), spec.get("max")
        unit = "row" if (high or low) == 1 else "rows"
        return Expectation(ROWS, severity, (), f"has {interval(low, high)} {unit}", low=low, high=high)
    if kind == "dense":
        return Expectation("dense", severity, (spec,), "counts 0, 1, 2, ... without a gap")
    if kind == "null_share":
        says = f"is unknown in at most {spec['max']:.0%} of the rows"
        return Expectation("null_share", severity, (spec["column"],), says, high=float(spec["max"]))
    if kind == "track_exists":
        args = {"table": "tracks", "key": "track_id", "where": ("entity", "track")}
        says = "of a track has its entry in tracks"
        return Expectation("track_exists", severity, ("entity_id",), says, high=spec["max_missing"], args=args)
    if kind == "pairs":
        (given, these), (then, those) = spec.items()
        says = f"is {' or '.join(those)} where {given} is {' or '.join(these)}"
        bad = f"`{given}` IN ({_sql(these)}) AND `{then}` NOT IN ({_sql(those)})"
        args = {"given": given, "these": tuple(these), "then": then, "those": tuple(those)}
        return Expectation("pairs", severity, (then, given), says, violation=bad, args=args)
    if kind == "rows_vs_last_week":
        most = float(spec["max_change"])
        says = f"has within {most:.0%} as many rows as the week before"
        return Expectation("rows_vs_last_week", severity, (), says, low=-most, high=most)
    return None


def interval(low: float | None, high: float | None) -> str:
    """A range in words: `5 to 120`, `at least 1`, `at most 9`."""
    if low is not None and high is not None:
        return f"{number(low)} to {number(high)}"
    return f"at least {number(low)}" if low is not None else f"at most {number(high)}"


def number(value: float | None) -> str:
    """A bound as a person, and SQL, would write it: whole numbers without a point."""
    return str(int(value)) if value is not None and float(value).is_integer() else str(value)


def _sql(values: tuple[str, ...] | list[str]) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def reference_markdown() -> str:
    """Every contract as one Markdown page: columns with type, meaning of null, range, unit; then the checks."""
    pages = [_markdown(loader.load(table)) for table in loader.names()]
    listed = "\n".join(f"- [{table}](#{table})" for table in loader.names())
    return f"# Tables\n\nMade from `contracts/*.yaml`.\n\n{listed}\n\n" + "\n".join(pages)


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
        cells = [f"`{c.name}`", f"`{c.type}`", c.null, allowed(c), c.unit or "", c.pii or "", c.about]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines.append("")
    column_rules = {"type", "never_null", "finite", "range", "values", "country", "elements"}
    for e in expectations(contract):
        if e.rule not in {*FILE_RULES, *column_rules}:
            subject = ", ".join(f"`{name}`" for name in e.columns[:1] if e.rule != "unique") or "the table"
            subject = ", ".join(f"`{name}`" for name in e.columns) if e.rule == "unique" else subject
            lines.append(f"- {'must' if e.severity == 'fail' else 'should'}: {subject} {e.says}")
    return "\n".join(lines) + "\n"


def allowed(column: Column) -> str:
    """What a column may hold, in a few words."""
    if column.values:
        return ", ".join(column.values)
    if column.country:
        return "ISO 3166-1 alpha-2"
    if column.references:
        return column.references
    return interval(column.min, column.max) if column.min is not None or column.max is not None else ""
