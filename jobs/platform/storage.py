"""File systems of the lake: a local folder, or an object store by URI.

PyArrow reads and writes data files, delta-rs the logs of the tables. Both use the same credentials: the environment
variables of AWS (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`), or what the
machine's role provides.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from contracts import atomic_files
from contracts.errors import BadArgument
from serving.release.sources import s3_endpoint, s3_file_system


@dataclass(frozen=True)
class Storage:
    """A file system and a root folder.

    Attributes:
        root: The root as people write it: an absolute path, or a URI.
        base: The root inside `fs`.
        fs: File system of PyArrow.
        options: Storage options of delta-rs; None for a local folder.
    """

    root: str
    base: str
    fs: fs.FileSystem
    options: dict[str, str] | None

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return self.options is None

    def entries(self, folder: str, recursive: bool = False) -> list[fs.FileInfo]:
        """Return what a folder contains; nothing if it does not exist.

        Args:
            folder: Path in `fs`.
            recursive: Whether to list the folders below it too.
        """
        try:
            entries: list[fs.FileInfo] = self.fs.get_file_info(fs.FileSelector(folder, recursive=recursive))
        except FileNotFoundError:  # not `allow_not_found`: it fails if the folder appears at that moment
            return []
        return entries

    def sync(self, files: list[str]) -> None:
        """Flush files below the root, and the folders from them up to the parent of the root, to the disk.

        An object store does this by itself.

        Args:
            files: Paths in `fs`.
        """
        if not self.is_local:
            return
        top = Path(self.base).parent
        folders: set[Path] = set()
        for file in files:
            atomic_files.sync(Path(file))
            folder = Path(file).parent
            while folder not in folders and folder.is_relative_to(top):
                folders.add(folder)
                folder = folder.parent
        for folder in sorted(folders, reverse=True):
            atomic_files.sync(folder)


def open_storage(root: str) -> Storage:
    """Return the storage at `root`. Nothing is created.

    Raises:
        BadArgument: The scheme of the URI is not supported, or the path or URI is wrong.
    """
    scheme = root.split("://", 1)[0] if "://" in root else ""
    if scheme in ("", "file"):
        folder = os.path.abspath(unquote(urlsplit(root).path) if scheme else root)
        if re.search("%[0-9A-Fa-f]{2}", folder):  # delta-rs reads these as one character
            raise BadArgument(f"lake: {folder}: the path of a lake cannot contain % and two hexadecimal digits")
        return Storage(folder, folder, fs.LocalFileSystem(), None)
    root = root.rstrip("/")
    try:
        if scheme == "s3":
            return Storage(root, root.removeprefix("s3://"), s3_file_system(), _s3_options())
        filesystem, base = fs.FileSystem.from_uri(root)
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise BadArgument(f"lake: {root} cannot be opened: {first}; use a folder, s3://, gs:// or abfss://") from None
    return Storage(root, base, filesystem, {})


def _s3_options() -> dict[str, str]:
    """Return the options of delta-rs: a commit is a PUT that fails if the log entry exists."""
    endpoint = s3_endpoint()
    options = {"aws_conditional_put": "etag"}
    if endpoint:
        options["aws_endpoint"] = endpoint
    if endpoint.startswith("http://"):
        options["aws_allow_http"] = "true"
    return options
