"""Read inputs as Spark frames, and register them as temporary views.

Text     CSV and JSON are read with an explicit schema and a column for records that do not fit it. CSV columns are
         text: a number such as 007 keeps its zeros, and the contract's types decide how a value is read
Schema   inferred once per input, from its first and its last day, so that all days have the same columns. Files of
         Parquet, ORC and Avro may differ in the width of numbers only
Delta    files come from delta-rs, because no Spark extension of Delta exists for this Spark
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from contracts.errors import BadArgument, CheckFailed, OvertureError
from jobs.ingest.tables.paths import Match, files_below, find_days, nearest_existing, resolve
from jobs.ingest.tables.secrets import Secrets
from jobs.ingest.tables.text_files import check_csv, has_header, line_of
from jobs.platform.spark_paths import spark_path
from jobs.settings.tables import TEXT_FORMATS, InputSettings, day_values, placeholders, substitute

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import DataType, StructType

CORRUPT = "_corrupt_record"
# RFC 4180: a field may contain newlines, and a quote is doubled.
DEFAULTS: dict[str, dict[str, Any]] = {"csv": {"header": True, "multiLine": True, "escape": '"'}, "json": {}}
UNSUPPORTED = (".zip", ".7z", ".rar", ".tar", ".tgz", ".xlsx", ".xls")
# A driver that spark.jars or spark.jars.packages brings is found by its class only, not by the URL.
JDBC_DRIVERS = {
    "jdbc:postgresql": "org.postgresql.Driver",
    "jdbc:mysql": "com.mysql.cj.jdbc.Driver",
    "jdbc:mariadb": "org.mariadb.jdbc.Driver",
    "jdbc:sqlserver": "com.microsoft.sqlserver.jdbc.SQLServerDriver",
    "jdbc:oracle": "oracle.jdbc.OracleDriver",
    "jdbc:snowflake": "net.snowflake.client.jdbc.SnowflakeDriver",
    "jdbc:redshift": "com.amazon.redshift.jdbc.Driver",
}
WIDER = ("tinyint", "smallint", "int", "bigint"), ("float", "double")


class Inputs:
    """The inputs of one run."""

    def __init__(self, spark: SparkSession, inputs: dict[str, InputSettings], data: Path) -> None:
        """Prepare to read; nothing is read yet."""
        self.spark, self.inputs, self.data, self.secrets = spark, inputs, data, Secrets()
        self._days: dict[str, dict[str, list[Match]]] = {}
        self._schemas: dict[str, StructType] = {}
        self._corrupt: dict[str, list[tuple[date | None, DataFrame]]] = {}
        self._frames: dict[tuple[str, str], DataFrame] = {}

    def days(self, name: str) -> dict[str, list[Match]]:
        """Return the files of an input with `{day}` in its path, by day."""
        if name not in self._days:
            self._days[name] = find_days(self.inputs[name].path, self.data)
        return self._days[name]

    def register(self, names: list[str], day: date | None) -> dict[str, list[str]]:
        """Register the inputs as temporary views, as of a day; return the columns by input."""
        columns = {}
        for name in names:
            frame = self.read(name, day)
            frame.createOrReplaceTempView(name)
            columns[name] = frame.columns
        return columns

    def drop_views(self, names: list[str]) -> None:
        """Remove temporary views."""
        for name in names:
            self.spark.catalog.dropTempView(name)

    def read(self, name: str, day: date | None) -> DataFrame:
        """Return an input as a frame. Records of CSV and JSON that do not fit the schema are left out.

        Args:
            name: Name of the input.
            day: The day of `{day}`; None only if the input contains neither `{day}` nor `{week}`.

        Raises:
            BadArgument: The settings do not fit the files.
            CheckFailed: There is no file, or a file cannot be read or has other columns.
        """
        settings = self.inputs[name]
        changes = placeholders(settings.path + settings.table + settings.query) & {"day", "week"}
        key = (name, str(day) if changes else "")
        if key not in self._frames:
            with spark_errors(f"source.inputs.{name}", self.secrets):
                self._frames[key] = self._read(name, settings, day)
        return self._frames[key]

    def _read(self, name: str, settings: InputSettings, day: date | None) -> DataFrame:
        if settings.format == "jdbc":
            return self._read_jdbc(name, settings, day)
        matches = self._matches(name, settings, day)
        if settings.format == "delta":
            return self._read_delta(name, settings, matches)
        return self._read_files(name, settings, matches, day if settings.has_day else None)

    def corrupt_records(self, name: str, days: set[date] | None) -> tuple[int, list[str], DataFrame | None]:
        """Return number, examples and rows of the unreadable records of a CSV or JSON input in all files read so far.

        Args:
            name: Name of the input.
            days: Days whose files count; None: all files.

        Returns:
            The number; examples, as `file:line: record`; and source_file, record and day (null for files without a
            day) of each record.
        """
        from pyspark.sql import functions as F

        frames = [frame for day, frame in self._corrupt.get(name, []) if days is None or day is None or day in days]
        if not frames:
            return 0, [], None
        with spark_errors(f"source.inputs.{name}", self.secrets):
            records = reduce(lambda a, b: a.unionByName(b), frames)
            records = records.coalesce(4 * self.spark.sparkContext.defaultParallelism)
            record = F.struct("_file", CORRUPT, "_first")
            row = records.agg(F.count("*").alias("n"), F.min(record).alias("a"), F.max(record).alias("b")).collect()[0]
        examples = []
        for example in dict.fromkeys(e for e in (row["a"], row["b"]) if e is not None):
            path = local_path(example["_file"])
            examples.append(f"{path}:{line_of(path, example[CORRUPT]) or '?'}: {example[CORRUPT][:120]!r}")
        unused = F.coalesce(F.substring("_first", 1, 0), F.lit(""))  # keeps `_first` in the plan, as above
        record = F.concat(F.col(CORRUPT), unused).alias("record")
        rows = records.select(path_column("_file").alias("source_file"), record, "day")
        return int(row["n"]), examples, rows

    def _matches(self, name: str, settings: InputSettings, day: date | None) -> list[Match]:
        if "day" in placeholders(settings.path) and day is not None:
            matches = self.days(name).get(str(day), [])
        else:
            matches = resolve(settings.path, self.data, day)
        if not matches:
            which = f" of {day}" if settings.has_day else ""
            raise CheckFailed(
                f"source.inputs.{name}: no file{which} matches {settings.path}; "
                f"{nearest_existing(settings.path, self.data)}"
            )
        for match in matches:
            if match.path.lower().endswith(UNSUPPORTED):
                raise BadArgument(
                    f"source.inputs.{name}: {match.path}: unpack this file first; gz, bz2 and zst are read"
                )
        return matches

    def _read_files(self, name: str, settings: InputSettings, matches: list[Match], day: date | None) -> DataFrame:
        from pyspark.sql import functions as F

        schema = self._schema(name, settings, matches)
        if schema is None:
            raise CheckFailed(f"source.inputs.{name}: {matches[0].path} and all other files of the input are empty")
        reader = self._reader(name, settings)
        paths = [spark_path(match.path) for match in matches]
        if settings.format not in TEXT_FORMATS:
            return cast("DataFrame", reader.schema(schema).load(paths))
        full = type(schema)([*schema.fields]).add(CORRUPT, "string")
        raw = reader.option("columnNameOfCorruptRecord", CORRUPT).option("mode", "PERMISSIVE")
        frame = raw.option("columnPruning", False).schema(full).load(paths)
        # Spark refuses a query that reads nothing but the column of unreadable records: `_first` is one more.
        first = F.col(f"`{schema.fieldNames()[0]}`").cast("string").alias("_first")
        bad = frame.where(F.col(CORRUPT).isNotNull()).select(F.input_file_name().alias("_file"), CORRUPT, first)
        self._corrupt.setdefault(name, []).append((day, bad.withColumn("day", F.lit(day).cast("date"))))
        # The empty part of the first column keeps it in the plan, for the same reason.
        unused = F.substring(F.col(f"`{schema.fieldNames()[0]}`").cast("string"), 1, 0)
        mark = F.when(F.col(CORRUPT).isNotNull(), F.lit("bad"))
        return cast("DataFrame", frame.where(F.concat_ws("", mark, unused) == "").drop(CORRUPT))

    def _schema(self, name: str, settings: InputSettings, matches: list[Match]) -> StructType | None:
        if name in self._schemas:
            self._check_new_files(name, settings, matches)
            return self._schemas[name]
        if settings.has_day:  # the first and the last day stand for all
            days = list(self.days(name).values())
            matches = [*matches, *days[0], *days[-1]]
        files = [file for match in dict.fromkeys(matches) for file in files_below(match)]
        if settings.format == "csv":
            from pyspark.sql.types import StringType, StructField, StructType

            header = check_csv(name, files, settings.options)
            if not header and (has_header(settings.options) or not any(file.size for file in files)):
                return None
            if not header:
                header = self._reader(name, settings).load([spark_path(file.path) for file in files]).columns
            schema = StructType([StructField(column, StringType()) for column in header])
        elif settings.format == "json":
            reader = self._reader(name, settings).option("columnNameOfCorruptRecord", CORRUPT)
            schema = reader.load([spark_path(match.path) for match in matches]).schema
            schema = type(schema)([field for field in schema.fields if field.name != CORRUPT])
        else:
            schema = self._merged(name, settings, files)
        if not schema.fields:
            return None
        self._schemas[name] = schema
        return schema

    def _check_new_files(self, name: str, settings: InputSettings, matches: list[Match]) -> None:
        files = [file for match in matches for file in files_below(match)]
        known = self._schemas[name]
        if settings.format == "csv":
            header = check_csv(name, files, settings.options)
            if header and header != known.fieldNames():
                differing = sorted(set(header) ^ set(known.fieldNames())) or ["the order of the columns"]
                raise CheckFailed(
                    f"source.inputs.{name}: {files[0].path}: the header differs from other days "
                    f"({', '.join(differing[:5])})"
                )
        elif settings.format not in TEXT_FORMATS:
            merge_schemas(name, "other days", known, files[0].path, self._merged(name, settings, files))

    def _merged(self, name: str, settings: InputSettings, files: list[Match]) -> StructType:
        if not files:
            raise CheckFailed(f"source.inputs.{name}: {settings.path} contains no data file")
        merged, first, seen = None, files[0].path, set()
        for file in files:
            if settings.format == "parquet" and (key := _parquet_schema(name, file.path)) in seen:
                continue
            seen.add(key if settings.format == "parquet" else file.path)
            schema = self._reader(name, settings).load([spark_path(file.path)]).schema
            merged = schema if merged is None else merge_schemas(name, first, merged, file.path, schema)
        return cast("StructType", merged)

    def _reader(self, name: str, settings: InputSettings) -> Any:
        options = DEFAULTS.get(settings.format, {}) | settings.options
        reader = self.spark.read.format(settings.format)
        for option, value in options.items():
            where = f"source.inputs.{name}.options.{option}"
            reader = reader.option(option, self.secrets.value(value, where) if isinstance(value, str) else value)
        return reader

    def _read_jdbc(self, name: str, settings: InputSettings, day: date | None) -> DataFrame:
        values = day_values(day) if day else {}
        reader = self._reader(name, settings)
        url = self.secrets.value(settings.url, f"source.inputs.{name}.url")
        reader = reader.option("url", url)
        if "driver" not in settings.options and (driver := JDBC_DRIVERS.get(":".join(url.split(":")[:2]))):
            reader = reader.option("driver", driver)
        if settings.table:
            return cast("DataFrame", reader.option("dbtable", substitute(settings.table, values)).load())
        return cast("DataFrame", reader.option("query", substitute(settings.query, values)).load())

    def _read_delta(self, name: str, settings: InputSettings, matches: list[Match]) -> DataFrame:
        try:
            from deltalake import DeltaTable
            from deltalake.exceptions import DeltaError
        except ImportError:
            raise BadArgument(f"source.inputs.{name}: format delta needs the package `deltalake`") from None
        if len(matches) != 1:
            raise BadArgument(f"source.inputs.{name}: {settings.path} must match one Delta table, not {len(matches)}")
        root = matches[0].path
        options = {
            k: self.secrets.value(str(v), f"source.inputs.{name}.options.{k}") for k, v in settings.options.items()
        }
        try:
            table = DeltaTable(root, storage_options=options or None)
        except DeltaError as error:
            raise CheckFailed(f"source.inputs.{name}: {root}: {self.secrets.redact(str(error))}") from None
        features = set(table.protocol().reader_features or ())
        unsupported = features & {"deletionVectors", "columnMapping"}
        if unsupported:
            raise CheckFailed(
                f"source.inputs.{name}: {root} uses {', '.join(sorted(unsupported))}, which is not supported; "
                "write a copy without it, for example with REORG TABLE ... APPLY (PURGE)"
            )
        paths = [spark_path(local_path(uri)) for uri in table.file_uris()]
        if not paths:
            raise CheckFailed(f"source.inputs.{name}: {root} contains no row")
        return self.spark.read.option("basePath", spark_path(root)).option("mergeSchema", True).parquet(*paths)


def merge_schemas(name: str, file: str, known: StructType, other_file: str, other: StructType) -> StructType:
    """Return the schema that contains both; numbers take the wider type.

    Raises:
        CheckFailed: A column has types that do not fit. The message names column, types and file.
    """
    types: dict[str, DataType] = {field.name: field.dataType for field in known.fields}
    for field in other.fields:
        before = types.setdefault(field.name, field.dataType)
        a, b = before.simpleString(), field.dataType.simpleString()
        if a == b:
            continue
        family = next((family for family in WIDER if a in family and b in family), None)
        if family is None:
            raise CheckFailed(
                f"source.inputs.{name}: column '{field.name}' is {b} in {other_file}, but {a} in {file}; "
                "write the file again with the same type, or use one input per form and UNION ALL in SQL"
            )
        types[field.name] = before if family.index(a) > family.index(b) else field.dataType
    merged = type(known)()
    for column, kind in types.items():
        merged = merged.add(column, kind)
    return merged


def local_path(uri: str) -> str:
    """Return the path of a `file:` URI, or the URI itself."""
    return unquote("/" + uri.removeprefix("file:").lstrip("/")) if uri.startswith("file:") else uri


def path_column(uri: str) -> Column:
    """Return the paths of a column of `file:` URIs, as `local_path` does."""
    from pyspark.sql import functions as F

    path = F.regexp_replace(uri, "^file:/+", "/")
    return F.coalesce(F.try_url_decode(F.replace(path, F.lit("+"), F.lit("%2B"))), path)


@contextmanager
def spark_errors(where: str, secrets: Secrets) -> Iterator[None]:
    """Turn errors of Spark and of the JVM into one line that names the setting, without secrets."""
    from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
    from pyspark.errors import AnalysisException, ParseException, PySparkException

    try:
        yield
    except OvertureError:
        raise
    except (AnalysisException, ParseException) as error:
        if (error.getCondition() or "").startswith("FAILED_JDBC"):
            raise _database_error(where, secrets, error) from None
        raise BadArgument(f"{where}: {secrets.redact(_analysis_message(error))}") from None
    except (PySparkException, Py4JJavaError) as error:
        raise CheckFailed(f"{where}: {secrets.redact(_root_message(error))}") from None


def _analysis_message(error: Any) -> str:
    condition, values = error.getCondition() or "", error.getMessageParameters() or {}
    if condition.startswith("UNRESOLVED_COLUMN"):
        nearest = values.get("proposal", "")
        return f"there is no column {values.get('objectName')}; nearest: {nearest or 'none'}"
    if condition == "TABLE_OR_VIEW_NOT_FOUND":
        return f"there is no input {values.get('relationName')}; the SQL may read source.inputs only"
    if condition == "AMBIGUOUS_REFERENCE":
        return f"column {values.get('name')} is ambiguous; write one of {values.get('referenceNames')}"
    text = str(error)
    if "avro" in text and ("Failed to find" in text or "DATA_SOURCE_NOT_FOUND" in condition or "AVRO" in condition):
        return "Spark has no reader for avro; add org.apache.spark:spark-avro to spark.extra as spark.jars.packages"
    return _one_line(text)


def _database_error(where: str, secrets: Secrets, error: Any) -> OvertureError:
    """Return the error of a database: CheckFailed if it refuses the login, else one that is retried."""
    state, text = _sql_exception(getattr(error, "_origin", None)) or ("", str(error))
    text = _one_line(secrets.redact(text))
    if state.startswith("28"):  # SQL:2003, class "invalid authorization specification"
        return CheckFailed(f"{where}: the database refuses the login: {text}; check user and password of the URL")
    return OvertureError(f"{where}: the database does not answer: {text}")


def _sql_exception(java: Any) -> tuple[str, str] | None:
    """Return SQLSTATE and message of the first java.sql.SQLException among an exception and its causes."""
    from py4j.protocol import Py4JError

    while java is not None:
        try:
            return str(java.getSQLState()), str(java.getMessage())
        except Py4JError:  # another class, without this method
            java = java.getCause()
    return None


def _root_cause(java: Any) -> Any:
    while java is not None and java.getCause() is not None:
        java = java.getCause()
    return java


def _root_message(error: Any) -> str:
    java = _root_cause(getattr(error, "java_exception", None))
    text = str(java.toString()) if java is not None else str(error)
    if "CAST_INVALID_INPUT" in text or "CANNOT_PARSE" in text:
        text += "; write try_cast or try_to_timestamp: rows that it makes null are then counted as bad rows"
    if "No suitable driver" in text or "ClassNotFoundException" in text:
        text += (
            "; add the database's driver to spark.extra as spark.jars or spark.jars.packages, and name its class in "
            "the option `driver`"
        )
    return _one_line(text)


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("JVM", "\tat ", "=="))]
    return " ".join(lines)[:600]


def _parquet_schema(name: str, path: str) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import fs

    filesystem, file = fs.FileSystem.from_uri(path) if "://" in path else (fs.LocalFileSystem(), path)
    try:
        return str(pq.read_schema(file, filesystem=filesystem).remove_metadata())
    except (pa.ArrowException, OSError) as error:
        raise CheckFailed(f"source.inputs.{name}: {path} cannot be read as Parquet: {_one_line(str(error))}") from None
