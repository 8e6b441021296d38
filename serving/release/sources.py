"""Places that releases are read from: a URI of a file system of PyArrow, or an HTTP server.

A source has the layout of OVERTURE_HOME: releases/champion.json, releases/<digest>/, releases/<digest>.sig; the same
below skip/. Credentials of S3 are the environment variables of AWS or the machine's role, those of Google Cloud and
Azure what PyArrow finds.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from contracts.errors import BadArgument, CheckFailed, OvertureError

if TYPE_CHECKING:
    from pyarrow import fs

TIMEOUT_S = 10.0  # of a connection, and of each wait for more bytes
CHUNK = 4 << 20


class SourceUnavailable(OvertureError):
    """The source of releases cannot be read at this time."""


class Source(Protocol):
    """Where releases are read from."""

    def read(self, name: str, limit: int) -> bytes | None:
        """Return the content of a small file, or None if there is none.

        Args:
            name: path below the root of the source.
            limit: largest accepted size, in bytes.

        Raises:
            CheckFailed: the file is larger.
            SourceUnavailable: the source cannot be read.
        """

    def stream(self, name: str, start: int) -> tuple[int, Iterator[bytes]]:
        """Return the content of a file in pieces.

        Args:
            name: path below the root of the source.
            start: number of bytes to leave out.

        Returns:
            The offset of the first piece, `start` or 0, and the pieces. A cut connection can end them early without an
            error: compare the size.

        Raises:
            CheckFailed: the file is missing.
            SourceUnavailable: the source cannot be read; also while reading the pieces.
        """


def scheme_of(source: str) -> str:
    """Return the scheme of a URI in lower case; empty for the path of a folder."""
    return source.split("://", 1)[0].lower() if "://" in source else ""


def open_source(uri: str) -> Source:
    """Return a source of releases; nothing is read.

    Raises:
        BadArgument: the URI is wrong, or its scheme is not supported.
    """
    if urlsplit(uri).username is not None:
        raise BadArgument("service.release_source: a URI with user name or password is not accepted, logs contain it")
    return HttpSource(uri) if scheme_of(uri) in ("http", "https") else FileSystemSource(uri)


def _too_large(name: str, limit: int) -> CheckFailed:
    return CheckFailed(f"{name} is larger than {limit} bytes")


class HttpSource:
    """A server that returns files by GET. `Range` and `ETag` are used where the server supports them."""

    def __init__(self, root: str) -> None:
        """Set the address of the root."""
        self.root = root.rstrip("/")
        self._last: tuple[str, str, bytes] | None = None  # name, ETag and content of the last answer

    def read(self, name: str, limit: int) -> bytes | None:
        """Return the content of a small file; a file that was read last is asked for by its ETag."""
        tag = {"If-None-Match": self._last[1]} if self._last and self._last[0] == name else {}
        response = self._get(name, tag)
        if isinstance(response, int):
            return self._last[2] if response == 304 and self._last else None
        with response:
            try:
                content: bytes = response.read(limit + 1)
            except (OSError, http.client.HTTPException) as error:
                raise self._unavailable(name, error) from None
            if len(content) > limit:
                raise _too_large(name, limit)
            if response.length:  # bytes that the server announced and did not send
                raise SourceUnavailable(f"service.release_source: the connection was cut in the middle of {name}")
            etag = response.headers.get("ETag")
        self._last = (name, etag, content) if etag else None
        return content

    def stream(self, name: str, start: int) -> tuple[int, Iterator[bytes]]:
        """Return the content in pieces."""
        response = self._get(name, {"Range": f"bytes={start}-"} if start else {})
        if response == 416:  # the part that is here already is longer than the file
            start, response = 0, self._get(name, {})
        if isinstance(response, int):
            raise CheckFailed(f"{name} is missing at the source")
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        return (start if resumed else 0), self._pieces(name, response)

    def _pieces(self, name: str, response: http.client.HTTPResponse) -> Iterator[bytes]:
        with response:
            try:
                while piece := response.read(CHUNK):
                    yield piece
            except (OSError, http.client.HTTPException) as error:
                raise self._unavailable(name, error) from None

    def _get(self, name: str, headers: dict[str, str]) -> Any:
        """Return the response, or the status where it is 304, 404 or 416."""
        request = urllib.request.Request(f"{self.root}/{quote(name)}", headers={"User-Agent": "overture", **headers})
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (304, 404, 416):
                    return error.code
            raise SourceUnavailable(f"service.release_source: status {error.code} for {name}") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(name, error) from None

    def _unavailable(self, name: str, error: Exception) -> SourceUnavailable:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        return SourceUnavailable(f"service.release_source: {name} cannot be read: {reason}")


class FileSystemSource:
    """A file system of PyArrow, by URI: s3://, gs://, abfss://, hdfs://."""

    def __init__(self, uri: str) -> None:
        """Open the file system.

        Raises:
            BadArgument: the URI is wrong or its scheme is not supported.
        """
        from pyarrow import fs

        uri = uri.rstrip("/")
        try:
            if scheme_of(uri) == "s3":
                self._fs: Any = s3_file_system(connect_timeout=TIMEOUT_S, request_timeout=TIMEOUT_S)
                self._base = re.sub("^[sS]3://", "", uri)
            else:
                self._fs, self._base = fs.FileSystem.from_uri(uri)
        except (ValueError, OSError, NotImplementedError) as error:  # errors of Arrow are subclasses
            raise BadArgument(
                f"service.release_source: {uri} cannot be opened: {_first_line(error)}; use a folder, s3://, gs://, "
                "abfss://, hdfs://, http:// or https://"
            ) from None

    def read(self, name: str, limit: int) -> bytes | None:
        """Return the content of a small file."""
        try:
            with self._fs.open_input_stream(f"{self._base}/{name}", compression=None) as stream:
                content: bytes = stream.read(limit + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unavailable(name, error) from None
        if len(content) > limit:
            raise _too_large(name, limit)
        return content

    def stream(self, name: str, start: int) -> tuple[int, Iterator[bytes]]:
        """Return the content in pieces."""
        try:
            file = self._fs.open_input_file(f"{self._base}/{name}")
            start = start if start <= file.size() else 0
        except FileNotFoundError:
            raise CheckFailed(f"{name} is missing at the source") from None
        except OSError as error:
            raise self._unavailable(name, error) from None
        return start, self._pieces(name, file, start)

    def _pieces(self, name: str, file: Any, start: int) -> Iterator[bytes]:
        with file:
            try:
                file.seek(start)
                while piece := file.read(CHUNK):
                    yield piece
            except OSError as error:
                raise self._unavailable(name, error) from None

    def _unavailable(self, name: str, error: Exception) -> SourceUnavailable:
        return SourceUnavailable(f"service.release_source: {name} cannot be read: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def s3_endpoint() -> str:
    """Return the address of an S3 server other than Amazon's, from the environment; empty: Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def s3_file_system(**options: Any) -> fs.S3FileSystem:
    """Return PyArrow's file system of S3 with endpoint and region of the environment.

    Args:
        options: more arguments of `pyarrow.fs.S3FileSystem`.
    """
    from pyarrow import fs

    endpoint = urlsplit(s3_endpoint())
    if endpoint.netloc:
        options |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        options["region"] = region
    return fs.S3FileSystem(**options)


def folder_of(source: str, home: Path) -> Path | None:
    """Return the folder of a source that is one; None for a URI.

    Args:
        source: `service.release_source` or `release.destination`.
        home: OVERTURE_HOME, the default.
    """
    scheme = scheme_of(source)
    if scheme == "file":
        return Path(urllib.request.url2pathname(urlsplit(source).path))
    return None if scheme else Path(source or home).absolute()
