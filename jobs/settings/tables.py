"""Settings of the source `tables`: inputs to read, and the raw tables as Spark SQL over them.

Placeholders `{data}`, `{day}` and `{week}` are replaced in paths, JDBC tables, JDBC queries and SQL. `{{day}}` is the
text `{day}`. Other braces, such as `[0-9]{4}` of a regular expression, are unchanged.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from jobs.settings.base import Section

PLACEHOLDERS = ("data", "day", "week")
RAW_TABLES = ("users", "tracks", "events", "playlists", "plays")
DAY_TABLES = ("events", "plays")
FILE_FORMATS = ("csv", "json", "parquet", "orc", "avro", "delta")
TEXT_FORMATS = ("csv", "json")
SECRET = "env:"

# An identifier in braces, except \p{L} and \P{L} of a regular expression.
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|(?<!\\p)(?<!\\P)\{([A-Za-z_]\w*)\}")
_SECRET_NAME = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_SECRET_OPTION = re.compile(r"password|secret|token|credential|access.?key|account.?key|private.?key|passphrase", re.I)
_URL_PASSWORD = re.compile(r"//[^/@\s]*:[^/@\s]*@|[?&;](password|pwd|secret|token)=", re.I)

InputName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Format = Literal["csv", "json", "parquet", "orc", "avro", "delta", "jdbc"]


class InputSettings(Section):
    """One input of the source `tables`: files, a Delta table, or a table or query of a database."""

    format: Format = Field(description="csv, json (one object per line), parquet, orc, avro, delta or jdbc")
    path: str = Field(
        "", description="files or a folder, with globs (`*`, `?`, `[...]`, `**`); begins with `{data}`, `/` or a scheme"
    )
    url: str = Field("", description="jdbc: URL of the database, or `env:NAME` of a variable that contains it")
    table: str = Field("", description="jdbc: name of the table")
    query: str = Field("", description="jdbc: a query instead of a table")
    options: dict[str, str | bool | int | float] = Field(
        {}, description="options of Spark's reader; a value `env:NAME` is read from the environment and never logged"
    )

    @model_validator(mode="after")
    def _check(self) -> InputSettings:
        for name in ("path", "table", "query"):
            check_placeholders(getattr(self, name), name)
        if self.format == "jdbc":
            if self.path or not self.url or bool(self.table) == bool(self.query):
                raise ValueError("jdbc needs `url` and either `table` or `query`, and no `path`")
            if "{data}" in self.table + self.query:
                raise ValueError("{data} is a folder; a JDBC table or query may contain {day} and {week} only")
        elif not self.path or self.url or self.table or self.query:
            raise ValueError(f"{self.format} needs `path`; `url`, `table` and `query` are for jdbc only")
        elif not (self.path.startswith(("{data}", "/")) or "://" in self.path):
            raise ValueError(f"path '{self.path}' must begin with {{data}}, / or a scheme such as s3://")
        self._check_secrets()
        return self

    def _check_secrets(self) -> None:
        if self.url.startswith(SECRET) and not _SECRET_NAME.fullmatch(self.url):
            raise ValueError("url: write env:NAME, the name of an environment variable")
        if _URL_PASSWORD.search(self.url) or _URL_PASSWORD.search(self.path):
            raise ValueError("the URL contains a password; write url: env:NAME, or the option password: env:NAME")
        for option, value in self.options.items():
            text = str(value)
            if text.startswith(SECRET) and not _SECRET_NAME.fullmatch(text):
                raise ValueError(f"options.{option}: write env:NAME, the name of an environment variable")
            if _SECRET_OPTION.search(option) and not text.startswith(SECRET):
                raise ValueError(f"options.{option} is a secret; write env:NAME, the name of an environment variable")

    @property
    def has_day(self) -> bool:
        """Whether the input has a part of its own for each day."""
        return any("day" in placeholders(text) for text in (self.path, self.table, self.query))


class TablesMixin(Section):
    """The fields of section `source` that only the source `tables` uses."""

    inputs: dict[InputName, InputSettings] = Field(
        {}, description="tables: inputs by name; the SQL of `tables` reads them as tables of this name"
    )
    tables: dict[str, str] = Field(
        {}, description="tables: Spark SQL by raw table: tracks and events, or plays; users and playlists are optional"
    )
    late_days: Annotated[int, Field(ge=0, le=60)] = Field(
        3, description="tables: an event may be this many days older than the day of the file that contains it"
    )
    duplicate_s: Annotated[int, Field(ge=0, le=3600)] = Field(
        0,
        description="tables: streams and skips of one track by one listener that begin at most so many seconds after "
        "the one before, on the same day, are one play; 0: off",
    )
    max_id_bytes: Annotated[int, Field(gt=0)] = Field(512, description="tables: longest id, in bytes of UTF-8")

    @field_validator("inputs", "tables", mode="before")
    @classmethod
    def _read_only_comments(cls, mapping: object) -> object:
        """Return an empty mapping for a key under which all lines are comments, as in a file that `init` wrote."""
        return {} if mapping is None else mapping

    @field_validator("tables")
    @classmethod
    def _check_tables(cls, tables: dict[str, str]) -> dict[str, str]:
        for name, sql in tables.items():
            if name not in RAW_TABLES:
                raise ValueError(f"unknown table '{name}'{nearest(name, RAW_TABLES)}; tables: {', '.join(RAW_TABLES)}")
            if not sql.strip():
                raise ValueError(f"{name}: the SQL is empty")
            check_placeholders(sql, name)
        return tables

    @field_validator("inputs")
    @classmethod
    def _check_inputs(cls, inputs: dict[str, InputSettings]) -> dict[str, InputSettings]:
        lower = [name.lower() for name in inputs]
        repeated = sorted({name for name in lower if lower.count(name) > 1})
        if repeated:
            raise ValueError(f"two inputs are named '{repeated[0]}'; Spark SQL ignores upper and lower case")
        return inputs


def check_mapping(inputs: Mapping[str, InputSettings], tables: Mapping[str, str]) -> None:
    """Check that inputs and tables are complete and fit together.

    Raises:
        ValueError: There is no input, a needed table is absent, or a table reads none of the inputs.
    """
    if not inputs:
        raise ValueError("source.inputs is empty; `overture init --data DIR` writes a file to start from")
    if "plays" not in tables and not {"tracks", "events"} <= set(tables):
        missing = " and ".join(name for name in ("tracks", "events") if name not in tables)
        raise ValueError(f"source.tables: no SQL for {missing}; the skip engine needs plays instead")
    for name, sql in tables.items():
        if not inputs_of(sql, inputs):
            raise ValueError(f"source.tables.{name}: the SQL reads none of the inputs ({', '.join(inputs)})")


def inputs_of(sql: str, inputs: Mapping[str, InputSettings]) -> list[str]:
    """Return the names of the inputs whose name occurs in the SQL outside of texts and comments."""
    words = {word.lower() for word in re.findall(r"\w+", sql_without_texts(sql))}
    return [name for name in inputs if name.lower() in words]


def sql_without_texts(sql: str) -> str:
    """Return the SQL with quoted texts and comments replaced by spaces. Names in backticks stay."""
    return re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|--[^\n]*|/\*.*?\*/", " ", sql, flags=re.S)


def placeholders(text: str) -> set[str]:
    """Return the names of the placeholders in a text."""
    return {match[2] for match in _PLACEHOLDER.finditer(text) if match[2]}


def check_placeholders(text: str, where: str) -> None:
    """Raise ValueError if a text contains a placeholder that does not exist."""
    for name in sorted(placeholders(text) - set(PLACEHOLDERS)):
        raise ValueError(
            f"{where}: unknown placeholder {{{name}}}{nearest(name, PLACEHOLDERS)}; the placeholders are {{data}}, "
            f"{{day}} and {{week}}; write {{{{{name}}}}} for the text itself"
        )


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Return the text with its placeholders replaced; `{{name}}` becomes `{name}`.

    Raises:
        KeyError: There is no value for a placeholder.
    """
    return _PLACEHOLDER.sub(lambda match: f"{{{match[1]}}}" if match[1] else values[match[2]], text)


def day_values(day: date) -> dict[str, str]:
    """Return the values of `{day}` and `{week}`, the Monday on or before the day."""
    return {"day": str(day), "week": str(day - timedelta(days=day.weekday()))}


def nearest(name: str, choices: tuple[str, ...] | list[str]) -> str:
    """Return `; did you mean 'x'?` with the most similar choice, or nothing."""
    similar = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.6)
    return f"; did you mean '{similar[0]}'?" if similar else ""
