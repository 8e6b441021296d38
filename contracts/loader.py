"""Read the contracts of the tables.

Grammar of a file: table, version, owner, about, grain, partition, columns, checks {fail, warn}.
A column has `type` and `null` (`never`, or the word for what a null means) and may bound its values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

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
)


@dataclass(frozen=True)
class Column:
    """One column: its type, what a null means, and which values are allowed."""

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
    within_partition: bool = False

    @property
    def nullable(self) -> bool:
        """Whether a null is allowed."""
        return self.null != "never"


@dataclass(frozen=True)
class Contract:
    """What a table promises."""

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
    """All tables that have a contract."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


@cache
def load(table: str) -> Contract:
    """Read `contracts/<table>.yaml`; a wrong file is refused with the file and the field named."""
    file = FOLDER / f"{table}.yaml"
    if not file.is_file():
        raise ValueError(f"table '{table}' has no contract; known tables: {', '.join(names())}")
    raw: dict[str, Any] = yaml.safe_load(file.read_text())
    known = {"table", "version", "owner", "about", "grain", "partition", "columns", "checks"}
    if set(raw) != known:
        raise ValueError(f"{file.name}: missing or unknown fields {sorted(set(raw) ^ known)}")
    if raw["table"] != table:
        raise ValueError(f"{file.name}: field 'table' says '{raw['table']}'")
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
            f"{file.name}: column '{name}': unknown fields {sorted(unknown)}, or no known type, or no word on nulls; "
            f"types are {', '.join(TYPES)}"
        )
    values = tuple(spec["values"]) if "values" in spec else None
    return Column(name=name, **{**spec, "values": values})
