"""Reads the contracts of the tables.

Fields of a file: table, version, owner, about, grain, partition, columns, checks {fail, warn}. Each column has `type`,
`null` (`never`, or what a null means) and `about`, and may bound its values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from contracts.demographics import MAX_AGE, MIN_AGE

FOLDER = Path(__file__).parent
TYPES = (
    "long",
    "int",
    "short",
    "float",
    "double",
    "string",
    "bool",
    "timestamp",
    "date",
    "list<int>",
    "list<long>",
    "list<float>",
    "list<string>",
)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: Name of the column.
        type: One of TYPES.
        null: `never`, or what a null means.
        min: Smallest allowed value.
        max: Largest allowed value.
        values: The allowed values.
        unit: Unit of the values.
        pii: `personal` or `pseudonym` for personal data.
        about: Description of the column.
        references: The column of another table, as `table.column`, that must contain each value; fewer with the check
            `missing_share`.
        country: Values are the countries of contracts/demographics.py.
        age: Values are in the range of ages of contracts/demographics.py, which sets `min` and `max`.
        within_partition: Values are times inside the day of the partition.
        optional: Data may lack the column, which is null then. Only nullable columns can be optional.
    """

    name: str
    type: str
    null: str
    min: float | None = None
    max: float | None = None
    values: tuple[str, ...] | None = None
    unit: str | None = None
    pii: str | None = None
    about: str = ""
    references: str | None = None
    country: bool = False
    age: bool = False
    within_partition: bool = False
    optional: bool = False

    @property
    def nullable(self) -> bool:
        """Whether nulls are allowed."""
        return self.null != "never"


@dataclass(frozen=True)
class Contract:
    """The contract of one table.

    Attributes:
        table: Name of the table.
        version: Version of the contract; it grows with every change of the columns.
        owner: The team that owns the table.
        about: Description of a row.
        grain: Columns that identify a row.
        partition: Keys of the partitions, outer first.
        columns: The columns by name, in order.
        fail: Checks whose failure stops the pipeline.
        warn: Checks whose failure is only reported.
    """

    table: str
    version: int
    owner: str
    about: str
    grain: tuple[str, ...]
    partition: tuple[str, ...]
    columns: dict[str, Column]
    fail: list[dict[str, Any]] = field(default_factory=list)
    warn: list[dict[str, Any]] = field(default_factory=list)


def names() -> list[str]:
    """Return the names of all tables that have a contract."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


@cache
def load(table: str) -> Contract:
    """Read `contracts/<table>.yaml`.

    Raises:
        ValueError: There is no such contract, or the file is wrong. The message names the file and the field.
    """
    file = FOLDER / f"{table}.yaml"
    if not file.is_file():
        raise ValueError(f"table '{table}' has no contract; known tables: {', '.join(names())}")
    raw: dict[str, Any] = yaml.safe_load(file.read_text())
    known = {"table", "version", "owner", "about", "grain", "partition", "columns", "checks"}
    if set(raw) != known:
        raise ValueError(f"{file.name}: missing or unknown fields {sorted(set(raw) ^ known)}")
    if raw["table"] != table:
        raise ValueError(f"{file.name}: field 'table' is '{raw['table']}'")
    columns = {name: _column(file, name, spec) for name, spec in raw["columns"].items()}
    missing = [name for name in raw["grain"] if name not in columns]
    if missing:
        raise ValueError(f"{file.name}: grain names columns that are not declared: {missing}")
    return Contract(
        table=table,
        version=int(raw["version"]),
        owner=str(raw["owner"]),
        about=str(raw["about"]),
        grain=tuple(raw["grain"]),
        partition=tuple(raw["partition"]),
        columns=columns,
        fail=list(raw["checks"]["fail"]),
        warn=list(raw["checks"]["warn"]),
    )


def _column(file: Path, name: str, raw: dict[str | None, Any]) -> Column:
    spec = {key or "null": value for key, value in raw.items()}  # YAML reads the bare key `null` as None
    unknown = set(spec) - {f.name for f in fields(Column)}
    if unknown or spec.get("type") not in TYPES or "null" not in spec:
        raise ValueError(
            f"{file.name}: column '{name}': unknown fields {sorted(unknown)}, an unknown type, or no field `null`; "
            f"types are {', '.join(TYPES)}"
        )
    if spec.get("optional") and spec["null"] == "never":
        raise ValueError(f"{file.name}: column '{name}' is optional, so it must state what a null means")
    if spec.get("age"):
        spec |= {"min": MIN_AGE, "max": MAX_AGE, "unit": "years"}
    values = tuple(spec["values"]) if "values" in spec else None
    return Column(name=name, **{**spec, "values": values})
