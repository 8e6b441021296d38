"""Turn the result of a table's SQL into rows of the contract.

Columns   matched by name, upper and lower case alike. A column that is missing, ambiguous or of a type that does not
          fit is refused by name, with the nearest existing column and SQL that mends it. Nullable columns may be absent
Types     wider and narrower numbers, dates for times, and whole decimals are converted. Text is converted to numbers,
          times and booleans only if the SQL reads CSV or JSON, where everything can be text
Ids       columns such as `external_id` are filled with the source's own ids where these are text, byte for byte
Rows      each row has a column `_bad`: null, or the first rule that the row breaks. Values are never changed silently:
          a value that cannot be converted makes the row bad
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from contracts.entity_ids import EXTERNAL_COLUMNS
from contracts.errors import BadArgument
from contracts.expectations import expectations
from contracts.loader import Column as ContractColumn
from contracts.loader import Contract
from jobs.ingest.normalize import nfc
from jobs.ingest.tables.column_names import SYNONYMS
from jobs.ingest.tables.entity_ids import INTEGERS, Forms, id_problems, id_value, is_id, is_id_type, kinds_of
from jobs.ingest.time_bounds import TimeBounds
from jobs.platform.table_schema import SPARK_TYPES

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

BAD, ROW, REPLACEMENT = "_bad", "_row", "\ufffd"
USER = "_user"  # the source's own ids of the listeners of events, where no table has them
LONGEST_EXAMPLE = 300
FRACTIONS = ("float", "double")
# Columns that are needed but that some sources lack, with SQL that stands for them.
STAND_INS = {
    "album_id": "artist_id AS album_id",
    "position": "row_number() OVER (PARTITION BY playlist_id ORDER BY added_at) - 1 AS position",
    "added_at": "timestamp'2000-01-01' AS added_at",
    "kind": "'stream' AS kind",
    "entity": "'track' AS entity",
    "entity_id": "track_id AS entity_id",
}


@dataclass
class RowRules:
    """Bounds of the row rules that are settings.

    Attributes:
        times: Bounds of the times of events; other times only have the upper one.
        max_id_bytes: Longest id, in bytes of UTF-8.
    """

    times: TimeBounds
    max_id_bytes: int


@dataclass
class Mapped:
    """Rows of a contract with `_bad` and `_row`, and what was noticed about the columns.

    Attributes:
        frame: The contract's columns, `_bad` (text or null) and `_row` (the SQL's row as JSON).
        types: Spark type of each column of the SQL that the contract declares.
        absent: Nullable columns that the SQL does not return.
        ignored: Columns of the SQL that the contract does not declare.
    """

    frame: DataFrame
    types: dict[str, str]
    absent: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def check_columns(
    contract: Contract, frame: DataFrame, from_text: bool, inputs: dict[str, list[str]], optional: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return the frame's name of each column of the contract that it contains.

    Args:
        contract: The table's contract.
        frame: The result of the table's SQL.
        from_text: Whether the SQL reads CSV or JSON.
        inputs: Columns by input, for suggestions.
        optional: Columns that may be absent although they are never null.

    Raises:
        BadArgument: Columns are missing, ambiguous, similar to an absent column, or of a wrong type. All of them are
            in the message.
    """
    names: dict[str, list[str]] = {}
    for name in frame.columns:
        names.setdefault(name.lower(), []).append(name)
    unknown = [name for name in names if name not in contract.columns]
    problems, matched = [], {}
    derived = external_columns(contract)
    types = {f.name.lower(): f.dataType.simpleString() for f in frame.schema.fields}
    for column in contract.columns.values():
        if column.name in derived:
            continue
        same = names.get(column.name, [])
        if len(same) > 1:
            problems.append(
                f"column '{column.name}' is ambiguous: the SQL returns it {len(same)} times; "
                f"select it once, for example {_example_source(inputs, column.name)}"
            )
        elif not same:
            near = difflib.get_close_matches(column.name, unknown, n=1, cutoff=0.75)
            if near or not (column.nullable or column.name in optional):
                problems.append(f"column '{column.name}' is missing; {_mend_missing(column, near, unknown, inputs)}")
        else:
            matched[column.name] = same[0]
            mend = _mend_type(column, types[column.name], from_text)
            if mend:
                problems.append(
                    f"column '{column.name}' is {_short(types[column.name])}, the table needs "
                    f"{'an integer or text' if is_id(column) else SPARK_TYPES[column.type]}; {mend}"
                )
    if problems:
        raise BadArgument(f"source.tables.{contract.table}: " + f"\nsource.tables.{contract.table}: ".join(problems))
    return matched


def map_rows(
    contract: Contract,
    frame: DataFrame,
    matched: dict[str, str],
    forms: Forms,
    rules: RowRules,
    partition_rules: bool = False,
) -> Mapped:
    """Return the frame's rows as rows of the contract; further columns that begin with `_` are kept.

    Args:
        contract: The table's contract.
        frame: The result of the table's SQL.
        matched: The frame's name of each column, from `check_columns`.
        forms: Form of each kind of id.
        rules: Bounds of the row rules.
        partition_rules: Also apply the rule that a time is inside the partition's day.
    """
    from pyspark.sql import functions as F

    types = {f.name: f.dataType.simpleString() for f in frame.schema.fields}
    kept = [name for name in frame.columns if name.startswith("_")]
    lower = [name.lower() for name in frame.columns]
    source = [name for name in frame.columns if not name.startswith("_") and lower.count(name.lower()) == 1]
    raw = frame.select(
        *[F.col(f"`{name}`").alias(f"r_{column}") for column, name in matched.items()],
        F.to_json(F.struct(*[F.col(f"`{name}`") for name in source])).alias(ROW),
        *kept,
    )
    derived = external_columns(contract)
    values, problems = [], []
    entity = F.col("r_entity").cast("string") if "entity" in matched else None
    for column in contract.columns.values():
        if column.name in derived and derived[column.name] in matched:
            text = F.col(f"r_{derived[column.name]}").cast("string")
            is_text = forms.get(kinds_of(contract.columns[derived[column.name]])[0]) == "text"
            values.append((text if is_text else F.lit(None).cast("string")).alias(column.name))
            continue
        if column.name not in matched:
            values.append(F.lit(None).cast(SPARK_TYPES[column.type]).alias(column.name))
            continue
        original, kind = F.col(f"r_{column.name}"), types[matched[column.name]]
        if is_id(column):
            text, kinds = original.cast("string"), kinds_of(column)
            of = entity if len(kinds) > 1 else None
            column_problems = id_problems(text, of, kinds, forms, rules.max_id_bytes)
            value = id_value(text, of, kinds, forms)
        else:
            value, column_problems = _convert(column, original, kind, rules)
        values.append(value.alias(column.name))
        problems += [(f"{column.name} {reason}", condition) for reason, condition in column_problems]
    first = F.coalesce(*[F.when(c, F.lit(reason)) for reason, c in problems]) if problems else F.lit(None)
    converted = raw.select(*values, first.alias("_first"), ROW, *kept)
    broken = [
        F.when(F.expr(e.violation), F.lit(f"{' and '.join(e.columns)} {_negated(e.text)}"))
        for e in expectations(contract)
        if e.violation and e.severity == "fail" and (partition_rules or e.rule != "within_partition")
        if set(e.columns) <= set(matched)
    ]
    bad = F.coalesce(F.col("_first"), *broken) if broken else F.col("_first")
    return Mapped(
        converted.withColumn(BAD, bad).drop("_first"),
        {column: types[name] for column, name in matched.items()},
        [name for name in contract.columns if name not in matched and name not in derived],
        sorted(name for name in source if name not in matched.values()),
    )


def external_columns(contract: Contract) -> dict[str, str]:
    """Return the id column of each column of external ids."""
    return {name: of for (table, of), name in EXTERNAL_COLUMNS.items() if table == contract.table}


def _convert(
    column: ContractColumn, value: Column, source: str, rules: RowRules
) -> tuple[Column, list[tuple[str, Column]]]:
    """Return the converted values, and reasons with the condition of a bad one."""
    from pyspark.sql import functions as F

    target = SPARK_TYPES[column.type]
    text = source == "string"
    if column.type == "string":
        as_is = column.values or column.country or column.name.endswith("_id")
        result = value.cast("string") if as_is else _normalized(value.cast("string"))
        return result, [("is not UTF-8; set options: {encoding: ...} of the input", result.contains(REPLACEMENT))]
    if column.type.startswith("list<"):
        return value.cast(target), []
    clean = F.when(F.trim(value) != "", F.trim(value)) if text else value  # an empty CSV field is null
    if column.type in ("long", "int", "short") and (text or source in FRACTIONS or source.startswith("decimal")):
        number = clean.try_cast("double")
        whole = number == F.floor(number)
        result = F.when(
            whole, clean.try_cast(target) if not text else F.coalesce(clean.try_cast(target), number.try_cast(target))
        )
    else:
        result = clean.try_cast(target)
    what = {"timestamp": "a time", "date": "a date", "bool": "true or false"}.get(column.type, "a number that fits")
    problems = [(f"is not {what}", clean.isNotNull() & result.isNull())]
    if column.type == "timestamp" and column.within_partition:
        problems.append((rules.times.too_early, result < _literal(rules.times.earliest)))
    if column.type == "timestamp":
        problems.append((rules.times.too_late, result >= _literal(rules.times.latest)))
    return result, problems


def _normalized(texts: Column) -> Column:
    """Return texts in Unicode's composed form (NFC)."""
    from pyspark.sql.functions import arrow_udf  # type: ignore[attr-defined]

    @arrow_udf("string")  # type: ignore[untyped-decorator, call-overload, misc, unused-ignore]
    def composed(values: pa.Array) -> pa.Array:
        return nfc(values)

    column: Column = composed(texts)
    return column


def _mend_type(column: ContractColumn, source: str, from_text: bool) -> str:
    """Return the advice for a type that does not fit, or nothing if it fits."""
    name = column.name
    if column.type.startswith("list<"):
        elements = source.removeprefix("array<").removesuffix(">")
        is_number = elements in INTEGERS or elements in FRACTIONS or elements.startswith("decimal")
        if source in (SPARK_TYPES[column.type], "void") or (column.type == "list<float>" and is_number):
            return ""
        return f"write split({name}, ',') AS {name}" if source == "string" else f"select an array AS {name}"
    if source.startswith(("struct<", "array<", "map<")):
        inner = source.removeprefix("struct<").split(":")[0] if source.startswith("struct<") else ""
        return f"select a part of it, for example {name}.{inner} AS {name}" if inner else "select one element of it"
    if is_id(column):
        return "" if is_id_type(source) else f"write CAST({name} AS BIGINT) AS {name}, or CAST({name} AS STRING)"
    if source in ("binary", "void", "variant") or source.startswith("interval"):
        return "" if source == "void" else f"write CAST({name} AS STRING) AS {name}"
    number = source in INTEGERS or source in FRACTIONS or source.startswith("decimal")
    if column.type == "string":
        return ""
    if source == "string":
        mends = {"timestamp": f"write to_timestamp({name}) AS {name}", "date": f"write to_date({name}) AS {name}"}
        return (
            ""
            if from_text
            else mends.get(column.type, f"write try_cast({name} AS {SPARK_TYPES[column.type]}) AS {name}")
        )
    if column.type in ("timestamp", "date"):
        if source in ("timestamp", "timestamp_ntz", "date"):
            return ""
        to = "" if column.type == "timestamp" else "; then to_date() of it"
        return f"write timestamp_seconds({name}), timestamp_millis({name}) or timestamp_micros({name}) AS {name}{to}"
    if column.type == "bool":
        return "" if source == "boolean" else f"write {name} = 1 AS {name}"
    return "" if number else f"write CAST({name} AS {SPARK_TYPES[column.type]}) AS {name}"


def _mend_missing(column: ContractColumn, near: list[str], unknown: list[str], inputs: dict[str, list[str]]) -> str:
    if near:
        return f"nearest is '{near[0]}'; write {near[0]} AS {column.name}"
    candidates = {c.lower(): (c, name) for name, columns in inputs.items() for c in columns}
    wanted = [column.name, *SYNONYMS.get(column.name, ())]
    exact = next((w for w in wanted if w in candidates), None)
    similar = [exact] if exact else difflib.get_close_matches(column.name, [*candidates, *unknown], n=1, cutoff=0.5)
    if similar:
        original, where = candidates.get(similar[0], (similar[0], ""))
        origin = f" of input {where}" if where else ""
        return f"nearest is '{original}'{origin}; write {original} AS {column.name}"
    if column.name in STAND_INS:
        return f"write {STAND_INS[column.name]} if the source has none"
    return f"no input has a similar column; write an expression AS {column.name}"


def _example_source(inputs: dict[str, list[str]], column: str) -> str:
    holders = [name for name, columns in inputs.items() if column in [c.lower() for c in columns]]
    return f"{holders[0]}.{column}" if holders else f"<input>.{column}"


def _negated(text: str) -> str:
    """Return `is never null` as `is null`, `is 5 to 120` as `is not 5 to 120`."""
    if text == "is never null":
        return "is null"
    return text.replace("is ", "is not ", 1) if text.startswith("is ") else f"breaks the rule: {text}"


def _short(kind: str) -> str:
    return kind if len(kind) <= 60 else kind[:57] + "..."


def _literal(moment: datetime) -> Column:
    from pyspark.sql import functions as F

    return F.lit(moment.isoformat()).cast("timestamp")
