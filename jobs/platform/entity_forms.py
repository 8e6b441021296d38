"""The form of each kind of id in a lake: integer or text (contracts/entity_ids.py)."""

from __future__ import annotations

from typing import Literal

from contracts.entity_ids import EXTERNAL_COLUMNS, KINDS, Form
from jobs.platform.lake import Lake


def entity_forms(lake: Lake, engine: Literal["cold_start", "skip"] = "cold_start") -> dict[str, Form]:
    """Return the form of each kind of id.

    Ingestion decides it and stores it in the report of `tracks` or `plays`. For kinds that the report does not name, it
    is `text` where the table contains external ids, else `integer`.

    Args:
        lake: the lake.
        engine: whose tables count; the plays of the skip engine may come from another source.
    """
    day = lake.partitions("plays")[-1:]  # the newest day of plays

    def partition(table: str) -> dict[str, str]:
        return day[0] if table == "plays" and day else {}

    def is_written(table: str) -> bool:
        return bool(day) if table == "plays" else lake.exists(table)

    decided_by = "plays" if engine == "skip" else "tracks"
    columns = {
        id_column.removesuffix("_id"): (table, external)
        for (table, id_column), external in EXTERNAL_COLUMNS.items()
        if (table == "plays") == (engine == "skip")
    }
    forms: dict[str, Form] = {}
    if is_written(decided_by):
        forms |= lake.report(decided_by, **partition(decided_by)).get("ids", {})
    for kind in KINDS:
        if kind not in forms:
            table, column = columns.get(kind, ("", ""))
            forms[kind] = "integer"
            if table and is_written(table):
                texts = lake.read(table, columns=[column], **partition(table))[column]
                forms[kind] = "text" if texts.null_count < len(texts) else "integer"
    return forms
