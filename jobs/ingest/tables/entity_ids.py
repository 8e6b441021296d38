"""Ids of the source as ids of the tables: the one place that knows both forms.

A kind of id (user, track, artist, ...) is `integer` where the source's ids are non-negative integers, else `text`. The
form is decided once, at the first ingestion, and stored in the report of table `tracks` or `plays`. An integer id is
kept; a text id becomes its stable 62-bit hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from contracts.loader import Column as ContractColumn
from jobs.ingest.event_buffer import ENTITIES

if TYPE_CHECKING:
    from pyspark.sql import Column

Form = Literal["integer", "text"]
Forms = Mapping[str, Form]
CANONICAL = r"^(0|[1-9][0-9]{0,18})$"
INTEGERS = ("tinyint", "smallint", "int", "bigint")


def is_id(column: ContractColumn) -> bool:
    """Return whether a column of a contract contains ids of entities."""
    return column.type == "long" and column.name.endswith("_id")


def kinds_of(column: ContractColumn) -> tuple[str, ...]:
    """Return the kinds of id in a column: one, or all entities for `entity_id`."""
    name = column.name.removesuffix("_id")
    return ENTITIES if name == "entity" else (name,)


def is_id_type(spark_type: str) -> bool:
    """Return whether a Spark type can contain ids: integers, text, or decimals without fraction."""
    return spark_type in (*INTEGERS, "string") or (spark_type.startswith("decimal(") and spark_type.endswith(",0)"))


def is_canonical(text: Column) -> Column:
    """Return whether a text is a non-negative 63-bit integer without leading zeros."""
    return text.rlike(CANONICAL) & text.try_cast("bigint").isNotNull()


def form_of(share_canonical: float, max_bad_share: float) -> Form:
    """Return the form of a kind, given the share of its ids that are canonical integers."""
    return "integer" if share_canonical >= 1 - max_bad_share else "text"


def id_value(source: Column, entity: Column | None, kinds: tuple[str, ...], forms: Forms) -> Column:
    """Return the ids of the tables, null where the id has the wrong form.

    Args:
        source: The source's ids, as text.
        entity: The kind of each row for a column of several kinds.
        kinds: The kinds in the column.
        forms: The form of each kind.
    """
    from pyspark.sql import functions as F

    integer, text = source.try_cast("bigint"), hash_texts(source)
    used = {forms.get(kind, "text") for kind in kinds}
    if used == {"integer"}:
        return integer
    if used == {"text"} or entity is None:
        return text
    integers = [kind for kind in kinds if forms.get(kind) == "integer"]
    return F.when(entity.isin(integers), integer).otherwise(text)


def id_problems(
    source: Column, entity: Column | None, kinds: tuple[str, ...], forms: Forms, max_bytes: int
) -> list[tuple[str, Column]]:
    """Return reasons with the condition of a bad id, which is null or false for a good one or a null."""
    from pyspark.sql import functions as F

    integers = [kind for kind in kinds if forms.get(kind) == "integer"]
    problems = [
        ("is empty", F.trim(source) == ""),
        (f"is longer than {max_bytes} bytes", F.octet_length(source) > max_bytes),
        ("has spaces around it; use trim() in SQL", source.rlike(r"^\s|\s$")),
        ("is negative", source.rlike(r"^-[0-9]+$") if integers else F.lit(False)),
    ]
    if integers:
        wrong = ~is_canonical(source)
        if entity is not None and len(integers) < len(kinds):
            wrong = wrong & entity.isin(integers)
        problems.append(("is not an integer, but the ids of this kind are integers", wrong))
    return problems


def hash_texts(texts: Column) -> Column:
    """Return the stable 62-bit ids of texts; null for null."""
    from pyspark.sql.functions import arrow_udf  # type: ignore[attr-defined]

    @arrow_udf("bigint")  # type: ignore[untyped-decorator, call-overload, misc, unused-ignore]
    def stable(values: pa.Array) -> pa.Array:
        from jobs.ingest.ids import stable_ids

        return pa.array(stable_ids(values.fill_null("")), pa.int64(), mask=values.is_null().to_numpy(False))

    column: Column = stable(texts)
    return column
