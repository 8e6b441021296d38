"""Arrow types and schemas of the contracts.

Arrow is imported here and not in the loader, because the service reads contracts without it.
"""

from __future__ import annotations

import pyarrow as pa

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
    "list<string>": pa.list_(pa.string()),
}


def arrow_schema(contract: Contract, *, optional: bool = True) -> pa.Schema:
    """Return the contract's columns as an Arrow schema, in the declared order.

    Args:
        contract: the contract.
        optional: whether the schema includes the optional columns.
    """
    columns = [c for c in contract.columns.values() if optional or not c.optional]
    return pa.schema([pa.field(c.name, ARROW[c.type], nullable=c.nullable) for c in columns])
