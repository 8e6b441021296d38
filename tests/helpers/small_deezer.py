"""Small synthetic files in the format of the public dataset, generated once per process, and ways to damage them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.ingest.deezer import generate as deezer_make

USERS, TRACKS = 400, 300
SPACES = ("tt_svd", "ut_als")


@cache
def folder(encoding: str = "array", users: int = USERS, tracks: int = TRACKS, spaces: tuple[str, ...] = SPACES) -> Path:
    """Return a folder with the files."""
    target = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    deezer_make.run(target, deezer_make.GeneratorOptions(users, tracks, 3, encoding, spaces))
    return target


def copied(target: Path, **sizes: object) -> Path:
    """Create a second folder with links to the files; a test can replace single files."""
    target.mkdir(parents=True)
    for file in folder(**sizes).iterdir():
        (target / file.name).symlink_to(file)
    return target


def rewrite(file: Path, change) -> None:
    """Replace a file by the result of `change` on its table; the mark of synthetic files is preserved."""
    table = pq.ParquetFile(file).read()
    changed = change(table)
    file.unlink()
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), file)


def with_value(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    """Return the table with one value changed."""
    values = table.column(column).to_pylist()
    values[row] = value
    field = table.schema.field(column)
    return table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
