"""Measure the rows of a table with Arrow, file by file, in this process: seconds for tables that fit one machine.

Batches are streamed. Memory contains a few numbers per rule, the referenced keys, and 8 bytes per row for uniqueness.
The measures equal those of jobs/quality/spark.py; a test compares both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from contracts.expectations import REFERENCE_RULES, Expectation
from jobs.platform.hash64 import splitmix64
from jobs.platform.lake import Lake
from jobs.quality.measures import N_EXAMPLES, Example, TableMeasures, data_files, short_name, to_json_value

BATCH_ROWS = 1 << 18
HashVector: TypeAlias = npt.NDArray[np.uint64]
Keys = dict[str, pa.Array]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class FileMeasures:
    """Measures of the rows of one file."""

    unit: str
    n_rows: int = 0
    spans: dict[str, tuple[int, Any, Any]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    hashes: dict[str, list[HashVector]] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)


def measure(lake: Lake, measured: TableMeasures, referenced: dict[str, TableMeasures]) -> None:
    """Compute all measures of the rows, and examples of violations. Changes `measured` in place.

    Args:
        lake: Lake with the tables.
        measured: Measures of the table's files; it must be readable.
        referenced: Measures of the tables that this table refers to, by name.
    """
    rules = measured.row_expectations()
    known = {
        e.measure: _referenced_values(lake, referenced[e.args["table"]], e.args["key"])
        for e in rules
        if e.rule in REFERENCE_RULES
    }

    def measure_file(item: tuple[dict[str, str], fs.FileSystem, str]) -> FileMeasures:
        return _file(lake, measured, rules, known, *item)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(measure_file, data_files(lake, measured)))
    for unit in dict.fromkeys(part.unit for part in parts):
        _merge(measured, unit, [part for part in parts if part.unit == unit])
    measured.fill_missing()
    for e in rules:
        if e.rule == "unique" and any(unit[e.measure] for unit in measured.measures.values()):
            _count_duplicates(lake, measured, e, parts)


def _referenced_values(lake: Lake, referenced: TableMeasures, column: str) -> pa.Array:
    """Return the distinct values of a referenced column."""
    parts = [pc.unique(_open(*item).read(columns=[column]).column(0)) for _, *item in data_files(lake, referenced)]
    return pc.unique(pa.concat_arrays(parts))


def _open(system: fs.FileSystem, path: str) -> pq.ParquetFile:
    return pq.ParquetFile(system.open_input_file(path))


def _file(
    lake: Lake,
    measured: TableMeasures,
    rules: list[Expectation],
    known: Keys,
    partition: dict[str, str],
    system: fs.FileSystem,
    path: str,
) -> FileMeasures:
    part = FileMeasures(", ".join(f"{key} {partition[key]}" for key in measured.units))
    name = short_name(path, lake, measured.contract.table)
    columns = measured.contract.columns
    for batch in _open(system, path).iter_batches(BATCH_ROWS, columns=list(columns)):
        part.n_rows += batch.num_rows
        for column in columns.values():
            old = part.spans.get(column.name, (0, None, None))
            part.spans[column.name] = _merge_spans(old, _column_span(batch.column(column.name), column.type))
        for e in rules:
            if e.rule == "unique":
                part.hashes.setdefault(e.measure, []).append(hash_rows(batch, e.columns))
            elif e.rule == "missing_share":
                n_concerned = int(pc.sum(concerned_rows(batch, e)).as_py() or 0)
                part.counts[e.measure] = part.counts.get(e.measure, 0) + n_concerned
            elif e.violation or e.measure in known:
                bad = bad_rows(batch, e, partition, known.get(e.measure))
                n_bad = int(pc.sum(bad).as_py() or 0)
                part.counts[e.measure] = part.counts.get(e.measure, 0) + n_bad
                if n_bad:
                    shown = list(dict.fromkeys([*measured.contract.grain, *e.columns]))
                    sample = batch.select(shown).filter(bad).slice(0, N_EXAMPLES)
                    more = [
                        {k: to_json_value(v) for k, v in row.items()} | {"file": name} for row in sample.to_pylist()
                    ]
                    part.examples.setdefault(e.measure, []).extend(more)
    return part


def _column_span(column: pa.Array, kind: str) -> tuple[int, Any, Any]:
    """Return the number of nulls, the minimum and the maximum of a column (of the lengths, for a list)."""
    values = pc.list_value_length(column) if kind.startswith("list<") else column
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    ends = pc.min_max(values).as_py()
    text = kind in ("timestamp", "date")
    low, high = (str(to_json_value(ends[k])) if text and ends[k] is not None else ends[k] for k in ("min", "max"))
    return column.null_count, low, high


def _merge_spans(a: tuple[int, Any, Any], b: tuple[int, Any, Any]) -> tuple[int, Any, Any]:
    low = min((v for v in (a[1], b[1]) if v is not None), default=None)
    return a[0] + b[0], low, max((v for v in (a[2], b[2]) if v is not None), default=None)


def bad_rows(batch: pa.RecordBatch, e: Expectation, partition: dict[str, str], known: pa.Array | None) -> pa.Array:
    """Return a boolean array: True for each row that violates the expectation. Equals the SQL of `violation`."""
    column = batch.column(e.columns[0])
    rule: dict[str, Callable[[], pa.Array]] = {
        "never_null": lambda: pc.is_null(column),
        "finite": lambda: pc.invert(pc.is_finite(column)),
        "range": lambda: _outside(column, e.args["min"], e.args["max"]),
        "values": lambda: _not_in(column, pa.array(e.args["values"])),
        "country": lambda: _not_in(column, pa.array(e.args["values"])),
        "elements": lambda: _bad_elements(column),
        "within_partition": lambda: _outside_day(column, partition["day"]),
        "pairs": lambda: pc.and_(
            pc.is_in(batch.column(e.args["given"]), pa.array(e.args["given_values"])),
            _not_in(column, pa.array(e.args["then_values"])),
        ),
    }
    if known is None:
        return pc.fill_null(rule[e.rule](), False)
    return pc.and_(concerned_rows(batch, e), pc.invert(pc.is_in(column, known)))


def concerned_rows(batch: pa.RecordBatch, e: Expectation) -> pa.Array:
    """Return a boolean array: True for each row that refers to another table."""
    valid, where = pc.is_valid(batch.column(e.columns[0])), e.args["where"]
    return pc.and_(valid, pc.fill_null(pc.equal(batch.column(where[0]), where[1]), False)) if where else valid


def _not_in(column: pa.Array, values: pa.Array) -> pa.Array:
    return pc.and_(pc.is_valid(column), pc.invert(pc.is_in(column, values)))


def _outside(column: pa.Array, low: float | None, high: float | None) -> pa.Array:
    bad = pa.array(np.zeros(len(column), bool))
    if low is not None:
        bad = pc.or_(bad, pc.fill_null(pc.less(column, low), False))
    if high is not None:
        bad = pc.or_(bad, pc.fill_null(pc.greater(column, high), False))
        if pa.types.is_floating(column.type):
            bad = pc.or_(bad, pc.fill_null(pc.is_nan(column), False))
    return bad


def _outside_day(column: pa.Array, day: str) -> pa.Array:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    timestamps = column.cast(pa.timestamp("us", "UTC"))
    ends = [pa.scalar(t, pa.timestamp("us", "UTC")) for t in (start, start + timedelta(days=1))]
    return pc.or_(pc.less(timestamps, ends[0]), pc.greater_equal(timestamps, ends[1]))


def _bad_elements(column: pa.Array) -> pa.Array:
    values, parents = pc.list_flatten(column), pc.list_parent_indices(column)
    bad = pc.is_null(values)
    if pa.types.is_floating(values.type):
        bad = pc.or_(bad, pc.fill_null(pc.invert(pc.is_finite(values)), True))
    rows = np.zeros(len(column), bool)
    rows[parents.filter(bad).to_numpy()] = True
    return pa.array(rows)


def hash_rows(batch: pa.RecordBatch, columns: tuple[str, ...]) -> HashVector:
    """Return a 64-bit hash (n,) of some columns of each row. Equal keys have equal hashes, in any batch."""
    from pandas.util import hash_array

    total = np.zeros(batch.num_rows, np.uint64)
    for name in columns:
        column = batch.column(name)
        if pa.types.is_string(column.type):
            coded = column.dictionary_encode()
            words = np.append(hash_array(coded.dictionary.to_numpy(zero_copy_only=False)), np.uint64(1))
            x = words[coded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)]
        else:
            wide = pa.int32() if pa.types.is_date(column.type) else pa.int64()
            if pa.types.is_floating(column.type):
                x = np.nan_to_num(column.to_numpy(zero_copy_only=False)).astype(np.float64).view(np.uint64)
            else:
                x = (
                    column.cast(wide)
                    .fill_null(-(2**30))
                    .to_numpy(zero_copy_only=False)
                    .astype(np.int64)
                    .view(np.uint64)
                )
        total = splitmix64(total * np.uint64(31) + x + _GOLDEN)
    return total


def _merge(measured: TableMeasures, unit: str, parts: list[FileMeasures]) -> None:
    spans: dict[str, tuple[int, Any, Any]] = {}
    for part in parts:
        for name, span in part.spans.items():
            spans[name] = _merge_spans(spans.get(name, (0, None, None)), span)
        for measure_name, examples in part.examples.items():
            kept = measured.examples.setdefault(measure_name, [])
            label = dict(word.split(" ", 1) for word in unit.split(", ") if word)
            kept.extend({**label, **e} for e in examples[: N_EXAMPLES - len(kept)])
    spans = {name: spans.get(name, (0, None, None)) for name in measured.contract.columns}
    measured.add_spans(unit, sum(part.n_rows for part in parts), spans)
    measures = measured.measures[unit]
    for measure_name in {name for part in parts for name in part.counts}:
        measures[measure_name] = float(sum(part.counts.get(measure_name, 0) for part in parts))
    for measure_name in {name for part in parts for name in part.hashes}:
        ordered = np.sort(np.concatenate([h for part in parts for h in part.hashes.get(measure_name, [])]))
        measures[measure_name] = float((ordered[1:] == ordered[:-1]).sum())


def _count_duplicates(lake: Lake, measured: TableMeasures, e: Expectation, parts: list[FileMeasures]) -> None:
    """Count the rows beyond the first of each key, and add examples. Only keys with equal hashes are compared."""
    units = list(dict.fromkeys(part.unit for part in parts))
    items = list(data_files(lake, measured))
    examples: list[Example] = []
    for unit in units:
        unit_files = [(item, part) for item, part in zip(items, parts, strict=True) if part.unit == unit]
        ordered = np.sort(np.concatenate([h for _, part in unit_files for h in part.hashes.get(e.measure, [])]))
        suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        rows = []
        for (_, system, path), _ in unit_files:
            for batch in _open(system, path).iter_batches(BATCH_ROWS, columns=list(e.columns)):
                rows.append(batch.filter(pa.array(np.isin(hash_rows(batch, e.columns), suspects))))
        counted = pa.Table.from_batches(rows).group_by(list(e.columns)).aggregate([([], "count_all")])
        duplicates = counted.filter(pc.greater(counted["count_all"], 1)).sort_by([(c, "ascending") for c in e.columns])
        measured.measures[unit][e.measure] = float((pc.sum(duplicates["count_all"]).as_py() or 0) - duplicates.num_rows)
        label = dict(word.split(" ", 1) for word in unit.split(", ") if word)
        for row in duplicates.slice(0, N_EXAMPLES - len(examples)).to_pylist():
            n_times = row.pop("count_all")
            examples.append({**label, **{k: to_json_value(row[k]) for k in e.columns}, "n_times": n_times})
    if examples:
        measured.examples[e.measure] = examples
