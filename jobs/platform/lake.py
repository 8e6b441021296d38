"""The lake: reads and writes all tables.

Layout   a partition is a folder `<root>/<table>/<key>=<value>/...` with immutable versions `v-<id>/*.parquet` and one
         small file `_current.json` that names the current version
Write    a new version is written, then `_current.json` is replaced in one step: after a crash at any moment the old
         version is still current, and a reader never sees a partial version
Cleanup  the version before the current one stays for readers that have opened it; older versions are removed
Schema   data must conform to the table's contract: declared columns in declared order, exact types, no missing column
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
from jobs.platform.list_columns import to_matrix
from jobs.platform.table_schema import conform, conform_spark, spark_schema
from models.arrays import FloatMatrix

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

POINTER = "_current.json"


@dataclass(frozen=True)
class WriteResult:
    """The result of a write.

    Attributes:
        table: Name of the table.
        path: Folder or URI of the new version.
        rows: Number of rows.
    """

    table: str
    path: str
    rows: int


class Lake:
    """All tables below one root: a folder, or a URI that PyArrow and Spark support."""

    def __init__(self, root: str) -> None:
        """Open the lake at `root`. Nothing is created before the first write."""
        self.uri = "://" in root
        self.root = root.rstrip("/")
        self.fs: fs.FileSystem = fs.LocalFileSystem()
        self._base: str = self.root
        if self.uri:
            self.fs, self._base = fs.FileSystem.from_uri(self.root)

    # -- reading -----------------------------------------------------------------------------------------------

    def exists(self, table: str, **partition: str) -> bool:
        """Return whether this partition has been written."""
        folder = self._folder(table, partition)
        return bool(self.fs.get_file_info(f"{folder}/{POINTER}").type == fs.FileType.File)

    def path(self, table: str, **partition: str) -> str:
        """Return the folder or URI of the current version."""
        folder = self._folder(table, partition)
        return self._public(f"{folder}/{self._pointer(table, folder, partition)['version']}")

    def rows(self, table: str, **partition: str) -> int:
        """Return the number of rows of the partition, without reading its data."""
        return int(self._pointer(table, self._folder(table, partition), partition)["rows"])

    def report(self, table: str, **partition: str) -> dict[str, Any]:
        """Return the report of the job that wrote the partition: inputs, counts of rows, git commit."""
        report: dict[str, Any] = self._pointer(table, self._folder(table, partition), partition)["report"]
        return report

    def version(self, table: str, **partition: str) -> str:
        """Return the id of the current version, which a run logs as its input."""
        return str(self._pointer(table, self._folder(table, partition), partition)["version"])

    def partitions(self, table: str) -> list[dict[str, str]]:
        """Return the keys of all written partitions, sorted by their values."""
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
        partitions = [
            dict(part.split("=", 1) for part in folder[len(base) + 1 :].split("/") if part) for folder in level
        ]
        return sorted((p for p in partitions if self.exists(table, **p)), key=lambda p: tuple(p.values()))

    def read(self, table: str, *, columns: list[str] | None = None, **partition: str) -> pa.Table:
        """Return the partition as one Arrow table that conforms to the contract.

        Args:
            table: Name of the table.
            columns: Columns to read, in this order; None: all.
            **partition: Value of each partition key.

        Raises:
            CheckFailed: The partition has not been written, a file is damaged, or the data breaks the contract.
        """
        schema = arrow_schema(contracts.load(table))
        folder = self._folder(table, partition)
        version = f"{folder}/{self._pointer(table, folder, partition)['version']}"
        parts = []
        for file in self._files(version):
            try:
                parts.append(pq.ParquetFile(self.fs.open_input_file(file)).read(columns=columns))
            except (pa.ArrowException, OSError) as error:
                raise CheckFailed(f"{table}: file {file} cannot be read as Parquet: {error}") from None
        selected = schema if columns is None else pa.schema([schema.field(c) for c in columns])
        if not parts:
            return selected.empty_table()
        return pa.concat_tables(conform(table, part, selected) for part in parts)

    def batches(self, table: str, rows: int, **partition: str) -> Iterator[pa.Table]:
        """Yield the partition in parts of at most `rows` rows, in arbitrary order. One part is in memory at a time."""
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

    def matrix(self, table: str, **partition: str) -> FloatMatrix:
        """Return column `vector` of a table whose grain is one index 0, 1, 2, ...: row i of the matrix has index i.

        Returns:
            (n, d) float32.

        Raises:
            CheckFailed: The index has gaps, or the vectors have different lengths.
        """
        index = contracts.load(table).grain[0]
        rows = self.read(table, columns=[index, "vector"], **partition).sort_by(index)
        if not np.array_equal(rows.column(index).to_numpy(), np.arange(rows.num_rows)):
            raise CheckFailed(f"{table}: column '{index}' does not run from 0 to {rows.num_rows - 1}")
        return to_matrix(rows)

    def spark(self, session: SparkSession, table: str, **partition: str) -> DataFrame:
        """Return the partition as a Spark frame with the contract's schema."""
        return session.read.schema(spark_schema(table)).parquet(self.path(table, **partition))

    def events(self, session: SparkSession, start: datetime, end: datetime) -> DataFrame:
        """Return the events with start <= ts < end (UTC). Only the partitions of these days are opened."""
        from pyspark.sql import functions as F

        days = (start.date() + timedelta(days=n) for n in range((end - start).days + 2))
        paths = [self.path("events", day=str(day)) for day in days if self.exists("events", day=str(day))]
        reader = session.read.schema(spark_schema("events"))
        frame = reader.parquet(*paths) if paths else session.createDataFrame([], spark_schema("events"))
        first, last = (F.lit(t.astimezone(UTC).isoformat()).cast("timestamp") for t in (start, end))
        return frame.where((F.col("ts") >= first) & (F.col("ts") < last))

    # -- writing -----------------------------------------------------------------------------------------------

    def write(
        self,
        table: str,
        frame: pa.Table | Iterable[pa.RecordBatch] | DataFrame,
        *,
        report: dict[str, Any] | None = None,
        **partition: str,
    ) -> WriteResult:
        """Replace one partition in one step. After an error the old version is still current.

        Args:
            table: Name of the table.
            frame: An Arrow table, Arrow record batches, or a Spark frame.
            report: Report of the job, stored beside the data.
            **partition: Value of each partition key.

        Raises:
            CheckFailed: The data breaks the contract.
            OvertureError: The data could not be written.
        """
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
                f"{table}: could not write {self._public(folder)}: {_root_cause(error)}; the old data is unchanged"
            ) from error
        self._remove_old_versions(folder, version)
        return WriteResult(table, self._public(target), rows)

    def write_days(
        self, table: str, frame: DataFrame, *, report: dict[str, Any] | None = None, **partition: str
    ) -> dict[str, WriteResult]:
        """Replace the day partitions of a Spark frame, in one Spark job. Partitions of other days are unchanged.

        Args:
            table: Name of the table. Its last partition key is `day`.
            frame: The contract's columns and a column `day` of type date (strings sort slowly).
            report: Report of the job, stored beside the data of each day.
            **partition: Value of each partition key except `day`.

        Returns:
            The result of each day's write, by day.
        """

        def fill(stage: str) -> None:
            writer = conform_spark(table, frame, "day").write.option("compression", "zstd").mode("append")
            writer.partitionBy("day").parquet(self._public(stage))

        return self.replace_days(table, fill, report=report, **partition)

    def replace_days(
        self, table: str, fill: Callable[[str], None], *, report: dict[str, Any] | None = None, **partition: str
    ) -> dict[str, WriteResult]:
        """Replace day partitions with the files that `fill` writes to a staging folder, one day after the other.

        This is for tasks on many machines that write their own rows: each calls `stage_day` with the staging folder.

        Args:
            table: Name of the table. Its last partition key is `day`.
            fill: Writes all days to the staging folder that it receives.
            report: Report of the job, stored beside the data of each day.
            **partition: Value of each partition key except `day`.

        Returns:
            The result of each day's write, by day.

        Raises:
            OvertureError: A day could not be written; days that were not replaced contain the old data.
        """
        contract = contracts.load(table)
        parent = "/".join([self._base, table, *(f"{key}={partition[key]}" for key in contract.partition[:-1])])
        stage = f"{parent}/_stage"  # one writer at a time, so an existing folder is of a killed job
        self._remove(stage)
        written = {}
        try:
            self.fs.create_dir(stage, recursive=True)
            fill(stage)
            staged = self.fs.get_file_info(fs.FileSelector(stage))
            for day in sorted(i.base_name[4:] for i in staged if i.base_name.startswith("day=")):
                folder = self._folder(table, {**partition, "day": day})
                version = f"v-{uuid.uuid4().hex[:16]}"
                self.fs.create_dir(f"{folder}/{version}", recursive=True)
                for file in self._files(f"{stage}/day={day}"):
                    self.fs.move(file, f"{folder}/{version}/{file.rsplit('/', 1)[1]}")
                rows = sum(self._footer(file) for file in self._files(f"{folder}/{version}"))
                pointer = {"version": version, "rows": rows, "contract": contract.version, "report": report or {}}
                self._replace(f"{folder}/{POINTER}", json.dumps(pointer, indent=1, sort_keys=True).encode())
                self._remove_old_versions(folder, version)
                written[day] = WriteResult(table, self._public(f"{folder}/{version}"), rows)
        except OvertureError:
            raise
        except Exception as error:
            raise OvertureError(
                f"{table}: could not write days to {self.root}/{table}: {_root_cause(error)}; days that were not "
                "replaced contain the old data"
            ) from error
        finally:
            self._remove(stage)
        return written

    def stage_day(self, table: str, stage: str, day: str, name: str, frame: pa.Table) -> None:
        """Write one file of one day to the staging folder of `replace_days`.

        Args:
            table: Name of the table.
            stage: The staging folder.
            day: The day, YYYY-MM-DD.
            name: Name of the file without suffix; a task that runs again replaces its own file.
            frame: Rows of the day.
        """
        folder = f"{stage}/day={day}"
        self.fs.create_dir(folder, recursive=True)
        temporary = f"{folder}/{name}.{uuid.uuid4().hex[:8]}"
        with self.fs.open_output_stream(temporary) as sink:
            pq.write_table(conform(table, frame, arrow_schema(contracts.load(table))), sink, compression="zstd")
        self.fs.move(temporary, f"{folder}/{name}.parquet")

    def drop(self, table: str, **partition: str) -> None:
        """Remove a partition, first `_current.json`, so that no reader opens a version that is being removed."""
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
        conform_spark(table, frame).write.option("compression", "zstd").parquet(self._public(target))

    def _replace(self, file: str, content: bytes) -> None:
        temporary = f"{file}.{uuid.uuid4().hex[:8]}"
        with self.fs.open_output_stream(temporary) as sink:
            sink.write(content)
        self.fs.move(temporary, file)

    def _remove(self, folder: str) -> None:
        if self.fs.get_file_info(folder).type == fs.FileType.Directory:
            self.fs.delete_dir(folder)

    def _remove_old_versions(self, folder: str, current: str) -> None:
        versions = [i for i in self.fs.get_file_info(fs.FileSelector(folder)) if i.base_name.startswith("v-")]
        other = sorted((i for i in versions if i.base_name != current), key=lambda i: i.mtime_ns or 0)
        for info in other[:-1]:
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
    """Return the first line of the root cause's message, of Python or of the JVM."""
    java = getattr(error, "java_exception", None)
    while java is not None and java.getCause() is not None:
        java = java.getCause()
    lines = [line for line in str(java.toString() if java is not None else error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
