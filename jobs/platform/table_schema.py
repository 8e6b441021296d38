"""Contracts as schemas of Arrow and Spark, and the check that data conforms to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pyarrow as pa

import contracts
from contracts.errors import CheckFailed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

SPARK_TYPES = {
    "long": "bigint",
    "int": "int",
    "short": "smallint",
    "float": "float",
    "double": "double",
    "string": "string",
    "bool": "boolean",
    "timestamp": "timestamp",
    "date": "date",
    "list<int>": "array<int>",
    "list<long>": "array<bigint>",
    "list<float>": "array<float>",
    "list<string>": "array<string>",
}


def conform(table: str, frame: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the schema's columns of an Arrow table, in the schema's order; optional columns that are missing are null.

    Args:
        table: Name of the contract, for messages.
        frame: Data with at least the schema's columns.
        schema: Columns of the contract.

    Raises:
        CheckFailed: A column that is not optional is missing, or a column has another type or contains nulls that the
            schema forbids.
    """
    contract, columns = contracts.load(table), []
    for field in schema:
        index = frame.schema.get_field_index(field.name)
        if index < 0 and contract.columns[field.name].optional:
            columns.append(pa.chunked_array([pa.nulls(frame.num_rows, field.type)]))
            continue
        if index < 0:
            raise CheckFailed(f"{table}: column '{field.name}' is missing; the data has {frame.schema.names}")
        column = frame.column(index)
        if column.type != field.type and not _is_equivalent(column.type, field.type):
            raise CheckFailed(f"{table}: column '{field.name}' is {column.type}, the contract declares {field.type}")
        if not field.nullable and column.null_count:
            raise CheckFailed(f"{table}: column '{field.name}' has {column.null_count} nulls, the contract allows none")
        columns.append(column.cast(field.type) if column.type != field.type else column)
    return pa.table(columns, schema=schema)


def conform_spark(table: str, frame: DataFrame, *keys: str) -> DataFrame:
    """Return the contract's columns of a Spark frame, in the contract's order, followed by the columns `keys`.

    Optional columns that are missing are null.

    Raises:
        CheckFailed: A column that is not optional is missing, or a column has another type.
    """
    from pyspark.sql import functions as F

    contract, schema = contracts.load(table), spark_schema(table)
    types = {field.name: field.dataType for field in frame.schema.fields}
    for column in schema.fields:
        if column.name not in types and contract.columns[column.name].optional:
            frame = frame.withColumn(column.name, F.lit(None).cast(column.dataType))
            continue
        if column.name not in types:
            raise CheckFailed(f"{table}: column '{column.name}' is missing; the frame has {sorted(types)}")
        if types[column.name].simpleString() != column.dataType.simpleString():
            raise CheckFailed(
                f"{table}: column '{column.name}' is {types[column.name].simpleString()}, "
                f"the contract declares {column.dataType.simpleString()}"
            )
    return frame.select(*schema.fieldNames(), *keys)


def spark_schema(table: str) -> StructType:
    """Return the contract's columns as a Spark schema. All are nullable, because Spark reads Parquet that way."""
    from pyspark.sql.types import StructType

    columns = contracts.load(table).columns.values()
    ddl = StructType.fromDDL(", ".join(f"`{c.name}` {SPARK_TYPES[c.type]}" for c in columns))
    return cast(StructType, ddl)


def _is_equivalent(a: pa.DataType, b: pa.DataType) -> bool:
    """Return whether Spark and Arrow write one type in these two ways.

    Lists may differ in the name of their element, timestamps in the name of their time zone.
    """
    if pa.types.is_timestamp(a) and pa.types.is_timestamp(b):
        return bool(a.unit == b.unit and a.tz is not None and b.tz is not None)
    are_lists = all(pa.types.is_list(t) or pa.types.is_fixed_size_list(t) for t in (a, b))
    return bool(are_lists and a.value_type == b.value_type)
