"""The one place that reads and writes tables.

A partition is a folder `<root>/<table>/<key>=<value>/...` with immutable versions `v-<id>/*.parquet` and one small
file `_current.json` that names the version in force. A write fills a new version and then replaces that file in one
step: a crash at any moment leaves the old version whole, and a reader never sees half of anything. The version
before the current one stays for readers that already hold it; older ones are removed.

The frame is held to the table's contract: declared columns in declared order, exact types, nothing missing.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import BadArgument, CheckFailed, OvertureError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

POINTER = "_current.json"
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
}


@dataclass(frozen=True)
class Written:
    """What a write left behind."""

    table: str
    path: str
    rows: int


class Lake:
    """All tables below one root: a folder, or any URI that pyarrow and Spark both know."""

    def __init__(self, root: str) -> None:
        """Open the lake at `root`; nothing is created before the first write."""
        self.uri = "://" in root
        self.root = root.rstrip("/")
        self.fs: fs.FileSystem = fs.LocalFileSystem()
        self._base: str = self.root
        if self.uri:
            self.fs, self._base = fs.FileSystem.from_uri(self.root)

    # -- reading -----------------------------------------------------------------------------------------------

    def exists(self, table: str, **partition: str) -> bool:
        """Whether this partition has been written."""
        folder = self._folder(table, partition)
        return bool(self.fs.get_file_info(f"{folder}/{POINTER}").type == fs.FileType.File)

    def path(self, table: str, **partition: str) -> str:
        """Folder (or URI) of the version in force."""
        folder = self._folder(table, partition)
        return self._public(f"{folder}/{self._pointer(table, folder, partition)['version']}")

    def rows(self, table: str, **partition: str) -> int:
        """Rows of the partition, from its pointer."""
        return int(self._pointer(table, self._folder(table, partition), partition)["rows"])

    def report(self, table: str, **partition: str) -> dict[str, Any]:
        """The report that was kept beside the data: inputs, rows in, out, dropped and why, git commit."""
        report: dict[str, Any] = self._pointer(table, self._folder(table, partition), partition)["report"]
        return report

    def version(self, table: str, **partition: str) -> str:
        """Id of the version in force: what a run that read it may note."""
        return str(self._pointer(table, self._folder(table, partition), partition)["version"])

    def partitions(self, table: str) -> list[dict[str, str]]:
        """All written partitions, sorted."""
        keys = contracts.load(table).partition
        base = f"{self._base}/{table}"
        if self.fs.get_file_info(base).type != fs.FileType.Directory:
            return []
        level = [base]
        for _ in keys:
            level = [
                info.path
                for folder in level
                for info in self.fs.get_file_info(fs.FileSelector(folder))
                if info.type == fs.FileType.Directory and "=" in info.base_name
            ]
        found = [dict(part.split("=", 1) for part in folder[len(base) + 1 :].split("/") if part) for folder in level]
        return sorted((p for p in found if self.exists(table, **p)), key=lambda p: tuple(p.values()))

    def read(self, table: str, *, columns: list[str] | None = None, **partition: str) -> pa.Table:
        """The partition as one Arrow table, held to the contract's types."""
        schema = arrow_schema(contracts.load(table))
        folder = self._folder(table, partition)
        version = f"{folder}/{self._pointer(table, folder, partition)['version']}"
        parts = []
        for file in self._files(version):
            try:
                parts.append(pq.ParquetFile(self.fs.open_input_file(file)).read(columns=columns))
            except (pa.ArrowException, OSError) as error:
                raise CheckFailed(f"{table}: file {file} cannot be read as Parquet: {error}") from None
        wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns])
        if not parts:
            return wanted.empty_table()
        return pa.concat_tables(conform(table, part, wanted) for part in parts)

    def batches(self, table: str, rows: int, **partition: str) -> Iterator[pa.Table]:
        """The partition in pieces of at most so many rows, in no order that means anything: bounded memory."""
        schema = arrow_schema(contracts.load(table))
        folder = self._folder(table, partition)
        version = f"{folder}/{self._pointer(table, folder, partition)['version']}"
        for file in self._files(version):
            try:
                with self.fs.open_input_file(file) as source:
                    for batch in pq.ParquetFile(source).iter_batches(rows):
                        yield conform(table, pa.Table.from_batches([batch]), schema)
            except (pa.ArrowException, OSError) as error:
                raise CheckFailed(f"{table}: file {file} cannot be read as Parquet: {error}") from None

    def matrix(self, table: str, **partition: str) -> np.ndarray:
        """The vectors of a table whose grain is one dense index, row i at place i: (n, d) float32."""
        index = contracts.load(table).grain[0]
        found = self.read(table, columns=[index, "vector"], **partition).sort_by(index)
        if not np.array_equal(found.column(index).to_numpy(), np.arange(found.num_rows)):
            raise CheckFailed(f"{table}: column '{index}' does not run from 0 to {found.num_rows - 1}")
        return vectors(found)

    def spark(self, session: SparkSession, table: str, **partition: str) -> DataFrame:
        """The partition as a Spark frame with the contract's schema."""
        return session.read.schema(spark_schema(table)).parquet(self.path(table, **partition))

    def events(self, session: SparkSession, start: datetime, end: datetime) -> DataFrame:
        """Events with start <= ts < end (UTC, half-open); only the days that may hold them are opened."""
        from pyspark.sql import functions as F

        days = (start.date() + timedelta(days=n) for n in range((end - start).days + 2))
        paths = [self.path("events", day=str(day)) for day in days if self.exists("events", day=str(day))]
        reader = session.read.schema(spark_schema("events"))
        frame = reader.parquet(*paths) if paths else session.createDataFrame([], spark_schema("events"))
        moment = [F.lit(t.astimezone(UTC).isoformat()).cast("timestamp") for t in (start, end)]
        return frame.where((F.col("ts") >= moment[0]) & (F.col("ts") < moment[1]))

    # -- writing -----------------------------------------------------------------------------------------------

    def write(
        self,
        table: str,
        frame: pa.Table | Iterable[pa.RecordBatch] | DataFrame,
        *,
        report: dict[str, Any] | None = None,
        **partition: str,
    ) -> Written:
        """Replace one partition in one step; on any error the old version stays in force."""
        contract = contracts.load(table)
        folder = self._folder(table, partition)
        version = f"v-{uuid.uuid4().hex[:16]}"
        target = f"{folder}/{version}"
        self.fs.create_dir(folder, recursive=True)
        try:
            if isinstance(frame, pa.Table | pa.RecordBatchReader) or not hasattr(frame, "sparkSession"):
                self._write_arrow(table, frame, target)
            else:
                self._write_spark(table, cast("DataFrame", frame), target)
            rows = sum(self._footer(file) for file in self._files(target))
            pointer = {"version": version, "rows": rows, "contract": contract.version, "report": report or {}}
            self._replace(f"{folder}/{POINTER}", json.dumps(pointer, indent=1, sort_keys=True).encode())
        except BaseException as error:
            self._remove(target)
            if isinstance(error, OvertureError) or not isinstance(error, Exception):
                raise
            raise OvertureError(
                f"{table}: could not write {self._public(folder)}: {_root_cause(error)}; the old data is untouched"
            ) from error
        self._forget_old(folder, version)
        return Written(table, self._public(target), rows)

    def write_days(
        self, table: str, frame: DataFrame, *, report: dict[str, Any] | None = None, **partition: str
    ) -> dict[str, Written]:
        """Replace the day partitions that the frame's column `day` (a date; text sorts slowly) names, in one Spark job.

        Other days stay as they are. Returns what was written by day; `partition` holds the table's other keys.
        """

        def fill(stage: str) -> None:
            held = self._held(table, frame, "day").write.option("compression", "zstd").mode("append")
            held.partitionBy("day").parquet(self._public(stage))

        return self.swap_days(table, fill, report=report, **partition)

    def swap_days(
        self, table: str, fill: Callable[[str], None], *, report: dict[str, Any] | None = None, **partition: str
    ) -> dict[str, Written]:
        """Let `fill` write days aside, into the folder that it is given; then swap each in by itself, in order.

        For tasks on many machines that write rows where they are made: each calls `put_day` with that folder.
        """
        contract = contracts.load(table)
        whole = "/".join([self._base, table, *(f"{key}={partition[key]}" for key in contract.partition[:-1])])
        stage = f"{whole}/_stage"  # one writer at a time; what a killed one left goes
        self._remove(stage)
        written = {}
        try:
            self.fs.create_dir(stage, recursive=True)
            fill(stage)
            found = self.fs.get_file_info(fs.FileSelector(stage))
            for day in sorted(i.base_name[4:] for i in found if i.base_name.startswith("day=")):
                folder = self._folder(table, {**partition, "day": day})
                version = f"v-{uuid.uuid4().hex[:16]}"
                self.fs.create_dir(f"{folder}/{version}", recursive=True)
                for file in self._files(f"{stage}/day={day}"):
                    self.fs.move(file, f"{folder}/{version}/{file.rsplit('/', 1)[1]}")
                rows = sum(self._footer(file) for file in self._files(f"{folder}/{version}"))
                pointer = {"version": version, "rows": rows, "contract": contract.version, "report": report or {}}
                self._replace(f"{folder}/{POINTER}", json.dumps(pointer, indent=1, sort_keys=True).encode())
                self._forget_old(folder, version)
                written[day] = Written(table, self._public(f"{folder}/{version}"), rows)
        except OvertureError:
            raise
        except Exception as error:
            raise OvertureError(
                f"{table}: could not write days to {self.root}/{table}: {_root_cause(error)}; days that were not "
                "swapped in hold the old data"
            ) from error
        finally:
            self._remove(stage)
        return written

    def put_day(self, table: str, stage: str, day: str, name: str, frame: pa.Table) -> None:
        """One file of one day of `swap_days`; a task that is run again replaces its own."""
        folder = f"{stage}/day={day}"
        self.fs.create_dir(folder, recursive=True)
        temporary = f"{folder}/{name}.{uuid.uuid4().hex[:8]}"
        with self.fs.open_output_stream(temporary) as sink:
            pq.write_table(conform(table, frame, arrow_schema(contracts.load(table))), sink, compression="zstd")
        self.fs.move(temporary, f"{folder}/{name}.parquet")

    def drop(self, table: str, **partition: str) -> None:
        """Remove a partition: first its pointer, so that no reader starts on it, then its versions."""
        folder = self._folder(table, partition)
        if self.exists(table, **partition):
            self.fs.delete_file(f"{folder}/{POINTER}")
        self._remove(folder)

    def _write_arrow(self, table: str, frame: pa.Table | Iterable[pa.RecordBatch], target: str) -> None:
        schema = arrow_schema(contracts.load(table))
        self.fs.create_dir(target, recursive=True)
        batches: Iterator[pa.Table] = (
            iter([frame]) if isinstance(frame, pa.Table) else (pa.Table.from_batches([batch]) for batch in frame)
        )
        with (
            self.fs.open_output_stream(f"{target}/part-00000.parquet") as sink,
            pq.ParquetWriter(sink, schema, compression="zstd") as writer,
        ):
            for batch in batches:
                writer.write_table(conform(table, batch, schema))

    def _write_spark(self, table: str, frame: DataFrame, target: str) -> None:
        held = self._held(table, frame)
        held.write.option("compression", "zstd").parquet(self._public(target))

    def _held(self, table: str, frame: DataFrame, *keys: str) -> DataFrame:
        """The contract's columns in order, then the keys; a missing column or a wrong type is refused by name."""
        wanted = spark_schema(table)
        found = {f.name: f.dataType for f in frame.schema.fields}
        for column in wanted.fields:
            if column.name not in found:
                raise CheckFailed(f"{table}: column '{column.name}' is missing; the frame has {sorted(found)}")
            if found[column.name].simpleString() != column.dataType.simpleString():
                raise CheckFailed(
                    f"{table}: column '{column.name}' is {found[column.name].simpleString()}, "
                    f"the contract says {column.dataType.simpleString()}"
                )
        return frame.select(*wanted.fieldNames(), *keys)

    def _replace(self, file: str, content: bytes) -> None:
        temporary = f"{file}.{uuid.uuid4().hex[:8]}"
        with self.fs.open_output_stream(temporary) as sink:
            sink.write(content)
        self.fs.move(temporary, file)

    def _remove(self, folder: str) -> None:
        if self.fs.get_file_info(folder).type == fs.FileType.Directory:
            self.fs.delete_dir(folder)

    def _forget_old(self, folder: str, current: str) -> None:
        versions = [i for i in self.fs.get_file_info(fs.FileSelector(folder)) if i.base_name.startswith("v-")]
        old = sorted((i for i in versions if i.base_name != current), key=lambda i: i.mtime_ns or 0)
        for info in old[:-1]:
            self._remove(info.path)

    # -- names -------------------------------------------------------------------------------------------------

    def _folder(self, table: str, partition: dict[str, str]) -> str:
        keys = contracts.load(table).partition
        if set(partition) != set(keys):
            raise BadArgument(f"{table}: partition is ({', '.join(keys) or 'none'}), got ({', '.join(partition)})")
        return "/".join([self._base, table, *(f"{key}={partition[key]}" for key in keys)])

    def _public(self, path: str) -> str:
        return self.root + path[len(self._base) :]

    def _pointer(self, table: str, folder: str, partition: dict[str, str]) -> dict[str, Any]:
        try:
            with self.fs.open_input_stream(f"{folder}/{POINTER}") as source:
                pointer: dict[str, Any] = json.loads(source.read())
                return pointer
        except FileNotFoundError:
            where = " ".join(f"{k}={v}" for k, v in partition.items()) or "(whole table)"
            raise CheckFailed(f"{table}: {where} has not been written; run the task that writes it first") from None

    def _files(self, folder: str) -> list[str]:
        infos = self.fs.get_file_info(fs.FileSelector(folder, recursive=True))
        return sorted(i.path for i in infos if i.type == fs.FileType.File and i.path.endswith(".parquet"))

    def _footer(self, file: str) -> int:
        with self.fs.open_input_file(file) as source:
            return int(pq.ParquetFile(source).metadata.num_rows)


def _root_cause(error: Exception) -> str:
    """One line for people, whether Python or the JVM spoke last."""
    java = getattr(error, "java_exception", None)
    while java is not None and java.getCause() is not None:
        java = java.getCause()
    lines = [line for line in str(java.toString() if java is not None else error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def conform(table: str, frame: pa.Table, schema: pa.Schema) -> pa.Table:
    """The schema's columns in order; a missing column, a wrong type or a forbidden null is refused by name."""
    columns = []
    for want in schema:
        index = frame.schema.get_field_index(want.name)
        if index < 0:
            raise CheckFailed(f"{table}: column '{want.name}' is missing; the data has {frame.schema.names}")
        column = frame.column(index)
        if column.type != want.type and not _same_list(column.type, want.type):
            raise CheckFailed(f"{table}: column '{want.name}' is {column.type}, the contract says {want.type}")
        if not want.nullable and column.null_count:
            raise CheckFailed(f"{table}: column '{want.name}' has {column.null_count} nulls, the contract allows none")
        columns.append(column.cast(want.type) if column.type != want.type else column)
    return pa.table(columns, schema=schema)


def _same_list(a: pa.DataType, b: pa.DataType) -> bool:
    """Lists that differ only in the name of their element, as Spark's and Arrow's do; Spark's times are UTC too."""
    if pa.types.is_timestamp(a) and pa.types.is_timestamp(b):
        return bool(a.unit == b.unit and a.tz is not None and b.tz is not None)
    lists = all(pa.types.is_list(t) or pa.types.is_fixed_size_list(t) for t in (a, b))
    return bool(lists and a.value_type == b.value_type)


def spark_schema(table: str) -> StructType:
    """The contract as a Spark schema; Spark reads every column as nullable, so does this."""
    from pyspark.sql.types import StructType

    columns = contracts.load(table).columns.values()
    ddl = StructType.fromDDL(", ".join(f"`{c.name}` {SPARK_TYPES[c.type]}" for c in columns))
    return cast(StructType, ddl)


def vectors(table: pa.Table, column: str = "vector") -> np.ndarray:
    """A list<float> column as an array (n, d) float32; ragged rows are refused."""
    lists = table.column(column).combine_chunks()
    if len(lists) == 0:
        return np.zeros((0, 0), np.float32)
    offsets = lists.offsets.to_numpy()
    widths = np.diff(offsets)
    if (widths != widths[0]).any():
        raise CheckFailed(f"column '{column}': vectors of different lengths, {widths.min()} to {widths.max()}")
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(lists), -1)


def list_column(values: np.ndarray) -> pa.Array:
    """An array (n, d) float32 or int32 as a list column, without a copy of the values."""
    n, d = values.shape
    offsets = np.arange(0, (n + 1) * d, d, dtype=np.int32) if d else np.zeros(n + 1, np.int32)
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(values).reshape(-1))
