"""The log of one Delta table: files of its partitions, and commits that replace partitions.

Library   delta-rs (https://delta-io.github.io/delta-rs); any engine that reads Delta Lake can read the tables
Files     are written to a folder of their own inside the table. They are invisible until they are committed
Conflict  a commit carries an application transaction named after each of its partitions, numbered from 1. A writer that
          began before another one committed the same partition fails, also when the partition did not exist. Without
          it, two first writers of a partition would both succeed, and the partition would contain the rows of both
Metadata  a commit names its partition and has the facts of the write, such as the job's report. A commit of many
          partitions has a JSON object `partitions` instead: their facts by name
Order     data files and their folders are flushed to the disk, then the entry of the log is written and flushed
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from contracts.errors import CheckFailed, OvertureError
from jobs.platform.storage import Storage

LOG = "_delta_log"
# Entries of the log are small and contain the reports of the jobs: they stay for ten years.
TABLE_PROPERTIES = {"delta.logRetentionDuration": "interval 3650 days"}
FACTS = ("report", "contract", "rows_of")
Key = tuple[str, ...]
Facts = dict[str, Any]


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a commit: path relative to the table, size in bytes, number of rows (-1: unknown)."""

    path: str
    size: int
    rows: int


@dataclass(frozen=True)
class PartitionWrite:
    """What a commit makes of one partition.

    Attributes:
        key: Values of the partition keys.
        files: The new files, which exist; none removes the partition.
        facts: Entries of the commit's metadata, some of FACTS.
    """

    key: Key
    files: Sequence[DataFile]
    facts: Facts


@dataclass(frozen=True)
class Start:
    """The state of a table when a write begins; `commit` compares it with the newest one."""

    version: int
    table: DeltaTable | None


class DeltaLog:
    """The log of one table. Methods may be called from several threads."""

    def __init__(self, storage: Storage, table: str, schema: pa.Schema, keys: Sequence[str]) -> None:
        """Open nothing yet.

        Args:
            storage: Storage of the lake.
            table: Name of the table, its folder below the root.
            schema: The contract's columns, without partition keys.
            keys: Partition keys, outer first.
        """
        self.storage, self.name, self.keys = storage, table, tuple(keys)
        self.uri, self.base = f"{storage.root}/{table}", f"{storage.base}/{table}"
        full = schema
        for key in keys:
            full = full.append(pa.field(key, pa.string(), nullable=False))
        self._schema = full
        self._lock = threading.RLock()
        self._table: DeltaTable | None = None
        self._files: tuple[int, dict[Key, list[DataFile]]] = (-1, {})
        self._commits: dict[int, tuple[set[str], dict[str, Facts]]] = {}

    # -- reading -----------------------------------------------------------------------------------------------

    def partitions(self) -> dict[Key, list[DataFile]]:
        """Return the files of each partition in the newest version; keys are the values of the partition keys."""
        with self._lock:
            table = self._newest()
            if table is None:
                return {}
            if self._files[0] != table.version():
                self._files = (table.version(), self._partitions(table))
            return self._files[1]

    def start(self) -> Start:
        """Return the state of the table at the start of a write."""
        with self._lock:
            table = self._newest()
            if table is None:
                return Start(-1, None)
            return Start(table.version(), DeltaTable(self.uri, storage_options=self.storage.options))

    def version(self) -> int:
        """Return the newest version, or -1 if there is no table."""
        with self._lock:
            table = self._newest()
            return -1 if table is None else int(table.version())

    def commit_of(self, key: Key, first: int, last: int, folder: str) -> tuple[int, Facts]:
        """Return the version that wrote a partition, and the facts of that write.

        Args:
            key: Values of the partition keys.
            first: The first version that can have written it.
            last: The last one.
            folder: Folder of its files, relative to the table.
        """
        name = self._partition_name(key)
        for version in range(first, last + 1):
            folders, facts = self._commit(version)
            if folder in folders and name in facts:
                return version, facts[name]
        return last, {}

    # -- writing -----------------------------------------------------------------------------------------------

    def commit(self, start: Start, writes: Sequence[PartitionWrite]) -> int:
        """Replace the files of partitions in one commit; return the table's new version.

        Args:
            start: State of the table when the write began. A later commit of one of the partitions is a conflict.
            writes: At least one partition. Keys of several partitions differ in one place.

        Raises:
            OvertureError: Another writer committed one of the partitions in the meantime. A retry may succeed.
        """
        names = [self._partition_name(write.key) for write in writes]
        named = names[0] if len(names) == 1 else f"{len(names)} partitions from {names[0]} to {names[-1]}"
        self.storage.sync([f"{self.base}/{file.path}" for write in writes for file in write.files])
        with self._lock:
            table = self._open_or_create()
            transactions = []
            for name in names:
                n_writes = (start.table.transaction_version(name) if start.table is not None else None) or 0
                if (table.transaction_version(name) or 0) != n_writes:
                    raise self._conflict(name)
                transactions.append(Transaction(app_id=name, version=n_writes + 1))
            now = int(time.time() * 1000)
            actions = [
                AddAction(f.path, f.size, partition, now, True, json.dumps({"numRecords": f.rows}))
                for write in writes
                for partition in [dict(zip(self.keys, write.key, strict=True))]
                for f in write.files
            ]
            properties = CommitProperties(
                custom_metadata=_metadata(dict(zip(names, (write.facts for write in writes), strict=True))),
                app_transactions=transactions,
            )
            try:
                table.create_write_transaction(
                    actions,
                    "overwrite",
                    self._evolved(table),
                    partition_by=list(self.keys),
                    partition_filters=self._filters(writes),
                    commit_properties=properties,
                )
            except CommitFailedError as error:
                raise self._conflict(named) from error
            except (DeltaError, OSError) as error:
                raise OvertureError(f"{self.uri}: could not commit {named}: {first_line(error)}; run again") from error
            finally:
                table.update_incremental()
            version = int(table.version())
        self._sync_log(version)
        return version

    def _filters(self, writes: Sequence[PartitionWrite]) -> list[tuple[str, str, Any]] | None:
        """Return delta-rs' filters that select exactly the partitions of a commit; None: the table has no keys."""
        values = [sorted(set(column)) for column in zip(*(write.key for write in writes), strict=True)]
        if sum(len(of_key) > 1 for of_key in values) > 1:
            raise ValueError(f"{self.name}: keys of the partitions of one commit differ in more than one place")
        filters = [
            (key, "=", of_key[0]) if len(of_key) == 1 else (key, "in", of_key)
            for key, of_key in zip(self.keys, values, strict=True)
        ]
        return filters or None

    def _commit(self, version: int) -> tuple[set[str], dict[str, Facts]]:
        """Return the folders that a version added files to, and its facts by partition. Log entries never change."""
        if version not in self._commits:
            try:
                with self.storage.fs.open_input_stream(f"{self.base}/{LOG}/{version:020d}.json") as source:
                    actions = [json.loads(line) for line in source.read().splitlines() if line.strip()]
            except FileNotFoundError:
                return set(), {}
            folders = {action["add"]["path"].rsplit("/", 1)[0] for action in actions if "add" in action}
            info: dict[str, Any] = next((a["commitInfo"] for a in actions if "commitInfo" in a), {})
            self._commits[version] = folders, facts_by_partition(info)
        return self._commits[version]

    def _newest(self) -> DeltaTable | None:
        try:
            if self._table is None:
                self._table = DeltaTable(self.uri, storage_options=self.storage.options)
            else:
                self._table.update_incremental()
        except TableNotFoundError:
            self._table = None
        except (DeltaError, OSError) as error:
            self._table = None
            if self.storage.is_local and self.storage.fs.get_file_info(f"{self.base}/{LOG}").type.value <= 1:
                return None  # no folder, or no log in it
            raise OvertureError(f"{self.uri}: the table's log cannot be read: {first_line(error)}") from error
        return self._table

    def _open_or_create(self) -> DeltaTable:
        table = self._newest()
        if table is not None:
            return table
        try:
            DeltaTable.create(
                self.uri,
                self._schema,
                mode="ignore",
                partition_by=list(self.keys),
                configuration=TABLE_PROPERTIES,
                storage_options=self.storage.options,
            )
        except DeltaError:  # another writer created it at the same time, or it cannot be created
            self._table = None
            table = self._newest()
            if table is None:
                raise
            return table
        self._sync_log(0)
        self._table = DeltaTable(self.uri, storage_options=self.storage.options)
        return self._table

    def _evolved(self, table: DeltaTable) -> Schema:
        """Return the contract's schema, if all files of the table can be read with it.

        Raises:
            CheckFailed: The table has columns of other types. New nullable columns are no problem.
        """
        wanted = Schema.from_arrow(self._schema)
        old, new = ({f.name: f for f in schema.fields} for schema in (table.schema(), wanted))
        if list(old) == list(new) and old == new:
            return wanted
        changed = [name for name in old if name in new and old[name].type != new[name].type]
        missing = [name for name in new if name not in old and not new[name].nullable]
        if (changed or missing) and any(self.partitions().values()):
            raise CheckFailed(
                f"{self.name}: the table in {self.storage.root} has other columns than the contract: "
                f"{', '.join([*changed, *missing])}. Write to a new lake, or drop its partitions first"
            )
        return wanted

    def _partitions(self, table: DeltaTable) -> dict[Key, list[DataFile]]:
        adds = pa.table(table.get_add_actions(flatten=True))
        keys = [adds.column(f"partition.{key}").to_pylist() for key in self.keys]
        columns = {name: adds.column(name).to_pylist() for name in adds.column_names}
        unknown: list[int | None] = [None] * len(adds)  # a file of another engine, without statistics
        partitions: dict[Key, list[DataFile]] = {}
        for n, (path, size, rows) in enumerate(
            zip(columns["path"], columns["size_bytes"], columns.get("num_records", unknown), strict=True)
        ):
            file = DataFile(path, size, -1 if rows is None else rows)
            partitions.setdefault(tuple(values[n] for values in keys), []).append(file)
        return {key: sorted(partitions[key], key=lambda f: f.path) for key in sorted(partitions)}

    def _partition_name(self, key: Key) -> str:
        return "/".join(f"{k}={value}" for k, value in zip(self.keys, key, strict=True)) or "(whole table)"

    def _conflict(self, name: str) -> OvertureError:
        return OvertureError(
            f"{self.uri}: another writer committed {name} at the same time; this write was not committed and the table "
            "contains the other writer's rows; run the task again"
        )

    def _sync_log(self, version: int) -> None:
        if self.storage.is_local:
            self.storage.sync([f"{self.base}/{LOG}/{version:020d}.json"])


def _metadata(facts: Mapping[str, Facts]) -> dict[str, str]:
    """Return the metadata of a commit: the facts by partition, as `facts_by_partition` reads them."""
    if len(facts) > 1:
        return {"partitions": json.dumps(facts, sort_keys=True)}
    ((name, values),) = facts.items()
    return {"partition": name, **{key: json.dumps(value, sort_keys=True) for key, value in values.items()}}


def facts_by_partition(info: Mapping[str, Any]) -> dict[str, Facts]:
    """Return the facts of each partition that a commit replaced, from its entry `commitInfo`.

    Returns:
        Facts by name of the partition, such as `week=2026-11-16/space=tt_svd`. A commit of another engine has none.
    """
    if "partitions" in info:
        facts: dict[str, Facts] = json.loads(info["partitions"])
        return facts
    if "partition" in info:
        return {info["partition"]: {key: json.loads(info[key]) for key in FACTS if key in info}}
    return {}


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
