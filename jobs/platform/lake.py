"""The lake: reads and writes all tables, which are Delta tables.

Layout   `<root>/<table>/` is a Delta table (jobs/platform/delta_log.py) that any engine can read. A write puts its
         files into a folder of its own, `<key>=<value>/.../v<n>-<id>/*.parquet`
Write    files are written, flushed to the disk, and committed in one step that replaces one partition, or many days:
         after a crash at any moment the old rows are in force, and a reader never sees a part of a write
Cleanup  files that no version of the last days needs, and those of writes that failed, are removed by
         `overture lake vacuum`
Schema   data must conform to the table's contract: declared columns in declared order, exact types, no missing column
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import BadArgument, CheckFailed, OvertureError
from jobs.platform.delta_log import DataFile, DeltaLog, Facts, Key, PartitionWrite, Start, first_line
from jobs.platform.list_columns import to_matrix
from jobs.platform.spark_paths import spark_path
from jobs.platform.storage import open_storage
from jobs.platform.table_schema import conform, conform_spark, spark_schema
from models.arrays import FloatMatrix

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FINAL_ERRORS = ("NO_SUCH_BUCKET", "ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH")  # of S3
OLD_POINTER = "_current.json"  # of lakes before Delta Lake
DayReport: TypeAlias = "dict[str, Any] | Callable[[str], dict[str, Any]]"


@dataclass(frozen=True)
class WriteResult:
    """The result of a write.

    Attributes:
        table: Name of the table.
        path: Folder or URI of the table.
        rows: Number of rows of the partition.
        version: The table's version that the write made.
    """

    table: str
    path: str
    rows: int
    version: int


@dataclass(frozen=True)
class PartitionState:
    """The write whose rows a partition has.

    Attributes:
        partition: The keys of the partition.
        version: See `Lake.version`.
        rows: Number of rows.
        report: See `Lake.report`.
    """

    partition: dict[str, str]
    version: str
    rows: int
    report: dict[str, Any]


class Lake:
    """All tables below one root: a folder, or a URI of an object store."""

    def __init__(self, root: str, accept_old: bool = False) -> None:
        """Open the lake at `root`. Nothing is created before the first write.

        Args:
            root: Folder or URI.
            accept_old: Open tables that an older version of Overture wrote, to migrate them.

        Raises:
            BadArgument: The URI is not supported.
        """
        self.storage = open_storage(root)
        self.root, self.fs = self.storage.root, self.storage.fs
        self._base = self.storage.base
        self._logs: dict[str, DeltaLog] = {}
        self._accept_old = accept_old

    # -- reading -----------------------------------------------------------------------------------------------

    def exists(self, table: str, **partition: str) -> bool:
        """Return whether this partition has been written."""
        key = self._key(table, partition)
        return key in self._partitions(table)

    def files(self, table: str, **partition: str) -> list[str]:
        """Return the paths of the partition's files in `fs`: the one place where a version becomes files."""
        return [f"{self._base}/{table}/{file.path}" for file in self._files(table, partition)]

    def spark_paths(self, table: str, partitions: Iterable[dict[str, str]]) -> list[str]:
        """Return the paths of the partitions' files for Spark's reader."""
        known = self._partitions(table)
        keys = [self._key(table, partition) for partition in partitions]
        names = [file.path for key in keys for file in self._files_of(table, key, known)]
        return [spark_path(self._spark_uri(f"{self._base}/{table}/{name}")) for name in names]

    def rows(self, table: str, **partition: str) -> int:
        """Return the number of rows of the partition, without reading its data."""
        return self._rows(table, self._files(table, partition))

    def report(self, table: str, **partition: str) -> dict[str, Any]:
        """Return the report of the job that wrote the partition: inputs, counts of rows, git commit."""
        return self._state(table, self._key(table, partition), self._files(table, partition)).report

    def version(self, table: str, **partition: str) -> str:
        """Return the version of the table that wrote the partition, and the id of its commit, such as `12-3f9a1c2b`.

        A run logs it as its input. The number is the version for time travel.
        """
        return self._state(table, self._key(table, partition), self._files(table, partition)).version

    def states(self, table: str) -> list[PartitionState]:
        """Return version, rows and report of all partitions, sorted by their values, from one reading of the log."""
        partitions, last = self._partitions(table), self.log(table).version()
        return [self._state(table, key, files, last) for key, files in partitions.items()]

    def partitions(self, table: str) -> list[dict[str, str]]:
        """Return the keys of all written partitions, sorted by their values."""
        keys = contracts.load(table).partition
        return [dict(zip(keys, key, strict=True)) for key in self._partitions(table)]

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
        parts = []
        for file in self.files(table, **partition):
            try:
                parts.append(pq.ParquetFile(self.fs.open_input_file(file)).read(columns=columns))
            except (pa.ArrowException, OSError) as error:
                raise CheckFailed(f"{table}: file {file} cannot be read as Parquet: {error}") from None
        selected = schema if columns is None else pa.schema([schema.field(c) for c in columns])
        return pa.concat_tables(conform(table, part, selected) for part in parts)

    def batches(self, table: str, rows: int, **partition: str) -> Iterator[pa.Table]:
        """Yield the partition in parts of at most `rows` rows, in arbitrary order. One part is in memory at a time."""
        schema = arrow_schema(contracts.load(table))
        for file in self.files(table, **partition):
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
        return session.read.schema(spark_schema(table)).parquet(*self.spark_paths(table, [partition]))

    def events(self, session: SparkSession, start: datetime, end: datetime) -> DataFrame:
        """Return the events with start <= ts < end (UTC). Only the partitions of these days are opened."""
        from pyspark.sql import functions as F

        names = {str(start.date() + timedelta(days=n)) for n in range((end - start).days + 2)}
        paths = self.spark_paths("events", [p for p in self.partitions("events") if p["day"] in names])
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
        rows_of: str | None = None,
        **partition: str,
    ) -> WriteResult:
        """Replace one partition in one commit. After an error the old rows are in force.

        Args:
            table: Name of the table.
            frame: An Arrow table, Arrow record batches, or a Spark frame.
            report: Report of the job, stored in the commit.
            rows_of: The version whose rows these are, in other files; `version` continues to return it.
            **partition: Value of each partition key.

        Raises:
            CheckFailed: The data breaks the contract.
            OvertureError: The data could not be written, or another writer committed the partition at the same time.
        """
        key = self._key(table, partition)
        start = self.log(table).start()
        folder = "/".join([*(f"{k}={value}" for k, value in partition.items()), _commit_folder(start)])
        target = f"{self._base}/{table}/{folder}"
        try:
            if isinstance(frame, pa.Table | pa.RecordBatchReader) or not hasattr(frame, "sparkSession"):
                self._write_arrow(table, frame, target)
            else:
                self._write_spark(table, cast("DataFrame", frame), target)
            files = self._data_files(table, target)
        except BaseException as error:
            self._remove(target)  # not after a failed commit: its log entry may exist
            if isinstance(error, OvertureError) or not isinstance(error, Exception):
                raise
            raise OvertureError(
                f"{table}: could not write {self.root}/{table}/{'/'.join(folder.split('/')[:-1])}: "
                f"{_root_cause(error)}; the old data is unchanged"
            ) from error
        version = self.log(table).commit(start, [PartitionWrite(key, files, _facts(table, report, rows_of))])
        return self._result(table, files, version)

    def write_days(
        self, table: str, frame: DataFrame, *, report: DayReport | None = None, **partition: str
    ) -> dict[str, WriteResult]:
        """Replace the day partitions of a Spark frame, in one Spark job and one commit. Other days are unchanged.

        Args:
            table: Name of the table. Its last partition key is `day`.
            frame: The contract's columns and a column `day` of type date (strings sort slowly).
            report: Report of the job, stored in the commit for each day; or a function that returns it for a day.
            **partition: Value of each partition key except `day`.

        Returns:
            The result of each day's write, by day.
        """

        def fill(stage: str) -> None:
            writer = conform_spark(table, frame, "day").write.option("compression", "zstd").mode("append")
            writer.partitionBy("day").parquet(self._spark_uri(stage))

        return self.replace_days(table, fill, report=report, **partition)

    def replace_days(
        self, table: str, fill: Callable[[str], None], *, report: DayReport | None = None, **partition: str
    ) -> dict[str, WriteResult]:
        """Replace day partitions with the files that `fill` writes to a folder, in one commit.

        This is for tasks on many machines that write their own rows: each calls `stage_day` with the folder.

        Args:
            table: Name of the table. Its last partition key is `day`.
            fill: Writes all days to the folder that it receives, as `day=<day>/*.parquet`.
            report: Report of the job, stored in the commit for each day; or a function that returns it for a day.
            **partition: Value of each partition key except `day`.

        Returns:
            The result of each day's write, by day.

        Raises:
            OvertureError: A day could not be written, or another writer committed one of them; no day is replaced.
        """
        contract = contracts.load(table)
        start = self.log(table).start()
        outer = [f"{key}={partition[key]}" for key in contract.partition[:-1]]
        stage = "/".join([self._base, table, *outer, _commit_folder(start)])
        try:
            self._make_folder(stage)
            fill(stage)
            staged = sorted(i.base_name[4:] for i in self.storage.entries(stage) if i.base_name.startswith("day="))
            files = {day: self._data_files(table, f"{stage}/day={day}") for day in staged}
        except BaseException as error:
            self._remove(stage)
            if isinstance(error, OvertureError) or not isinstance(error, Exception):
                raise
            raise OvertureError(
                f"{table}: could not write days to {self.root}/{table}: {_root_cause(error)}; the old data is unchanged"
            ) from error
        if not staged:
            return {}
        writes = [
            PartitionWrite(self._key(table, {**partition, "day": day}), files[day], _facts(table, of_day))
            for day in staged
            for of_day in [report(day) if callable(report) else report]
        ]
        version = self.log(table).commit(start, writes)
        return {day: self._result(table, files[day], version) for day in staged}

    def stage_day(self, table: str, stage: str, day: str, name: str, frame: pa.Table) -> None:
        """Write one file of one day to the folder of `replace_days`.

        Args:
            table: Name of the table.
            stage: The folder.
            day: The day, YYYY-MM-DD.
            name: Name of the file without suffix; a task that runs again replaces its own file.
            frame: Rows of the day.
        """
        folder = f"{stage}/day={day}"
        self._make_folder(folder)
        temporary = f"{folder}/{name}.{uuid.uuid4().hex[:8]}"
        with self.fs.open_output_stream(temporary) as sink:
            pq.write_table(conform(table, frame, arrow_schema(contracts.load(table))), sink, compression="zstd")
        self.fs.move(temporary, f"{folder}/{name}.parquet")

    def drop(self, table: str, **partition: str) -> None:
        """Remove a partition in one commit. Its files stay until `overture lake vacuum` removes them."""
        key = self._key(table, partition)
        if self.exists(table, **partition):
            log = self.log(table)
            log.commit(log.start(), [PartitionWrite(key, [], {"report": {"dropped": True}})])

    def _write_arrow(self, table: str, frame: pa.Table | Iterable[pa.RecordBatch], target: str) -> None:
        schema = arrow_schema(contracts.load(table))
        self._make_folder(target)
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
        conform_spark(table, frame).write.option("compression", "zstd").parquet(self._spark_uri(target))

    def _result(self, table: str, files: Sequence[DataFile], version: int) -> WriteResult:
        return WriteResult(table, f"{self.root}/{table}", sum(file.rows for file in files), version)

    def _data_files(self, table: str, folder: str) -> list[DataFile]:
        """Return the files of a finished write; a folder without any gets one file without rows."""
        infos = self.storage.entries(folder, recursive=True)
        names = [(i.path, i.size) for i in infos if i.type == fs.FileType.File and i.path.endswith(".parquet")]
        if not names:
            self._write_arrow(table, arrow_schema(contracts.load(table)).empty_table(), folder)
            return self._data_files(table, folder)
        prefix = len(f"{self._base}/{table}/")
        return [DataFile(path[prefix:], size, self._footer(path)) for path, size in sorted(names)]

    def _make_folder(self, folder: str) -> None:
        if self.storage.is_local:  # an object store has no folders, and keeps an empty object for each that is made
            self.fs.create_dir(folder, recursive=True)

    def _remove(self, folder: str) -> None:
        if self.fs.get_file_info(folder).type == fs.FileType.Directory:
            self.fs.delete_dir(folder)

    # -- names -------------------------------------------------------------------------------------------------

    def log(self, table: str) -> DeltaLog:
        """Return the Delta log of a table.

        Raises:
            CheckFailed: The table was written by an older version, or the object store refuses access.
            OvertureError: The object store does not respond.
        """
        if table not in self._logs:
            contract = contracts.load(table)
            if not self._accept_old:
                try:
                    self._refuse_old_layout(table, len(contract.partition))
                except OSError as error:
                    message = f"lake {self.root} cannot be read: {first_line(error)}"
                    if any(code in str(error) for code in FINAL_ERRORS):
                        raise CheckFailed(f"{message}; check the bucket and the credentials") from None
                    raise OvertureError(message) from error
            self._logs[table] = DeltaLog(self.storage, table, arrow_schema(contract), contract.partition)
        return self._logs[table]

    def _refuse_old_layout(self, table: str, depth: int) -> None:
        """Raise if the table was written before the lake became Delta Lake, by the files of its first partition."""
        folder = f"{self._base}/{table}"
        for _ in range(depth):
            keyed = [
                i.path for i in self.storage.entries(folder) if i.type == fs.FileType.Directory and "=" in i.base_name
            ]
            if not keyed:
                return
            folder = min(keyed)
        if self.fs.get_file_info(f"{folder}/{OLD_POINTER}").type == fs.FileType.File:
            raise CheckFailed(
                f"{self.root}/{table} was written by an older version of Overture; run `overture lake migrate`, which "
                "makes Delta tables of the whole lake (--dry-run shows what it would do)"
            )

    def _partitions(self, table: str) -> dict[Key, list[DataFile]]:
        return self.log(table).partitions()

    def _files(self, table: str, partition: dict[str, str]) -> list[DataFile]:
        return self._files_of(table, self._key(table, partition), self._partitions(table))

    def _files_of(self, table: str, key: Key, partitions: dict[Key, list[DataFile]]) -> list[DataFile]:
        if key not in partitions:
            where = " ".join(f"{k}={v}" for k, v in zip(self.log(table).keys, key, strict=True)) or "(whole table)"
            raise CheckFailed(f"{table}: {where} has not been written; run the task that writes it first")
        return partitions[key]

    def _state(self, table: str, key: Key, files: Sequence[DataFile], last: int | None = None) -> PartitionState:
        """Return the version that wrote a partition, and its report, from the metadata of its commit."""
        log, folder = self.log(table), files[0].path.rsplit("/", 1)[0]
        names = [name for name in folder.split("/") if _is_commit_folder(name)]
        first = int(names[0][1:].split("-")[0]) if names else 0
        version, facts = log.commit_of(key, first, log.version() if last is None else last, folder)
        partition = dict(zip(log.keys, key, strict=True))
        identity = names[0].split("-", 1)[1] if names else folder[-8:]
        name = str(facts.get("rows_of", f"{version}-{identity}"))
        return PartitionState(partition, name, self._rows(table, files), facts.get("report", {}))

    def _rows(self, table: str, files: Sequence[DataFile]) -> int:
        return sum(f.rows if f.rows >= 0 else self._footer(f"{self._base}/{table}/{f.path}") for f in files)

    def _key(self, table: str, partition: dict[str, str]) -> Key:
        keys = contracts.load(table).partition
        if set(partition) != set(keys):
            raise BadArgument(f"{table}: partition is ({', '.join(keys) or 'none'}), got ({', '.join(partition)})")
        return tuple(partition[key] for key in keys)

    def _spark_uri(self, path: str) -> str:
        """Return a path of `fs` as Spark writes it: Hadoop calls the scheme of S3 `s3a`."""
        return path if self.storage.is_local else self.root.split("://", 1)[0].replace("s3", "s3a") + "://" + path

    def _footer(self, file: str) -> int:
        with self.fs.open_input_file(file) as source:
            return int(pq.ParquetFile(source).metadata.num_rows)


def _facts(table: str, report: dict[str, Any] | None, rows_of: str | None = None) -> Facts:
    facts = {"report": report or {}, "contract": contracts.load(table).version}
    return facts | {"rows_of": rows_of} if rows_of else facts


def _commit_folder(start: Start) -> str:
    """Return a new folder name: the first version that can commit it, and a random id."""
    return f"v{start.version + 1:08d}-{uuid.uuid4().hex[:8]}"


def _is_commit_folder(name: str) -> bool:
    return name[:1] == "v" and name[9:10] == "-" and name[1:9].isdigit()


def _root_cause(error: Exception) -> str:
    """Return the first line of the root cause's message, of Python or of the JVM."""
    java = getattr(error, "java_exception", None)
    while java is not None and java.getCause() is not None:
        java = java.getCause()
    return first_line(error) if java is None else str(java.toString()).splitlines()[0]
