"""A contract's types and schema in Arrow, apart from the loader: who asks for a version alone needs no Arrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from contracts.loader import Contract

ARROW: dict[str, pa.DataType] = {
    "long": pa.int64(),
    "int": pa.int32(),
    "short": pa.int16(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "list<int>": pa.list_(pa.int32()),
    "list<long>": pa.list_(pa.int64()),
    "list<float>": pa.list_(pa.float32()),
}


def schema(contract: Contract) -> pa.Schema:
    """The declared columns, in order."""
    return pa.schema([pa.field(c.name, ARROW[c.type], nullable=c.nullable) for c in contract.columns.values()])
