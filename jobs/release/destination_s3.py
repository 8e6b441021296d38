"""Releases and the champion's pointer in S3, or in a server with its API.

Uploads carry the SHA-256 of the manifest, which the server verifies. The pointer is replaced by a conditional write
(`If-Match` with the ETag that was read, `If-None-Match: *` for the first one), so that of two promotions from different
machines one fails. PyArrow has no conditional writes, so this module uses boto3.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.errors import CheckFailed, OvertureError
from jobs.platform.context import Context
from jobs.release import pointer
from jobs.release.destination_folder import StoredRelease, accepted_keys
from jobs.release.pointer import Pointer
from serving.release import manifest
from serving.release.folders import FetchedFolders
from serving.release.pointer import DIGEST, parse
from serving.release.signature import signature_file
from serving.release.sources import open_source, s3_endpoint

if TYPE_CHECKING:
    from botocore.client import BaseClient

ABANDONED_S = 24 * 3600.0  # an incomplete release without a newer object than this is not being written any more
MAX_OBJECT_BYTES = 5 << 30  # of one PUT
CHANGED = ("PreconditionFailed", "ConditionalRequestConflict")


class S3Destination:
    """A prefix in a bucket."""

    def __init__(self, uri: str, context: Context) -> None:
        """Set bucket and prefix; nothing is read.

        Args:
            uri: s3://bucket/prefix.
            context: its engine, its home for the lock and for fetched releases, its keys.
        """
        self.name = self._uri = uri.rstrip("/")
        self._context = context
        bucket, _, prefix = self._uri.removeprefix("s3://").partition("/")
        self._engine = "" if context.engine == "cold_start" else context.engine
        self._bucket = bucket
        self._prefix = "/".join(part for part in (prefix, self._engine, "releases") if part)
        self._client = _client()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the pointer on this machine; on others the conditional write decides."""
        with pointer.move_lock(self._context.release_home):
            yield

    def read_pointer(self) -> Pointer | None:
        """Return the pointer."""
        return self._read_pointer()[0]

    def _read_pointer(self) -> tuple[Pointer | None, str]:
        """Return the pointer and its ETag."""
        key = f"{self._prefix}/{pointer.NAME}"
        with self._errors(key):
            try:
                response = self._client.get_object(Bucket=self._bucket, Key=key)
            except self._client.exceptions.NoSuchKey:
                return None, ""
            content = response["Body"].read()
        return parse(content, f"s3://{self._bucket}/{key}"), str(response["ETag"])

    def move(self, expected_revision: int, release: str, week: str) -> Pointer:
        """Replace the pointer if nobody else has since it was read."""
        from botocore.exceptions import ClientError

        key = f"{self._prefix}/{pointer.NAME}"
        current, etag = self._read_pointer()
        new = pointer.following(current, expected_revision, release, week)
        condition = {"IfMatch": etag} if current else {"IfNoneMatch": "*"}
        with self._errors(key):
            try:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=pointer.as_json(new), **condition)
            except ClientError as error:
                if error.response["Error"]["Code"] not in CHANGED:
                    raise
                current = self.read_pointer()
                if current != new:  # else the write was repeated after its response was lost
                    pointer.following(current, expected_revision, release, week)
                    raise OvertureError(
                        f"release.destination: {self.name}: another process writes the pointer"
                    ) from None
        return new

    def write_release(self, folder: Path) -> None:
        """Upload the files, then the manifest, then the signature; equal objects are not uploaded again."""
        for name, entry in manifest.read(folder)["files"].items():
            if entry["bytes"] > MAX_OBJECT_BYTES:
                raise CheckFailed(f"release {folder.name[:12]}: {name} is larger than 5 GiB, the limit of one S3 write")
            self._write(f"{folder.name}/{name}", folder / name, entry["sha256"])
        self._write(f"{folder.name}/{manifest.NAME}", folder / manifest.NAME, folder.name)
        self.write_signature(folder)

    def _write(self, name: str, file: Path, sha256: str) -> None:
        from botocore.exceptions import ClientError

        key, checksum = f"{self._prefix}/{name}", base64.b64encode(bytes.fromhex(sha256)).decode()
        with self._errors(key):
            try:
                there = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
                if there.get("ChecksumSHA256") == checksum:
                    return
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "NotFound"):
                    raise
            with file.open("rb") as body:
                self._client.put_object(
                    Bucket=self._bucket, Key=key, Body=body, ChecksumAlgorithm="SHA256", ChecksumSHA256=checksum
                )

    def write_signature(self, folder: Path) -> None:
        """Upload the signature."""
        file = signature_file(folder)
        key = f"{self._prefix}/{file.name}"
        with self._errors(key):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=file.read_bytes())

    def fetch(self, release: str) -> Path:
        """Fetch a release into the engine's releases of this machine, as a service does."""
        source, home = open_source(self._uri), self._context.release_home
        folders = FetchedFolders(source, self._engine, home, accepted_keys(self._context))
        verified = folders.acquire(release)
        verified.close()
        return verified.folder

    def releases(self) -> list[StoredRelease]:
        """Return the releases that have a manifest."""
        return [
            StoredRelease(name, max(at for _, at, _ in objects), sum(n_bytes for *_, n_bytes in objects))
            for name, objects in self._objects().items()
            if any(key.endswith(f"/{name}/{manifest.NAME}") for key, *_ in objects)
        ]

    def _objects(self) -> dict[str, list[tuple[str, float, int]]]:
        """Return key, time and size of all objects of each release, complete or not."""
        objects: dict[str, list[tuple[str, float, int]]] = {}
        with self._errors(self._prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}/"
            ):
                for one in page.get("Contents", ()):
                    name = one["Key"].removeprefix(f"{self._prefix}/").split("/")[0].removesuffix(".sig")
                    if DIGEST.fullmatch(name):
                        entry = (one["Key"], one["LastModified"].timestamp(), one["Size"])
                        objects.setdefault(name, []).append(entry)
        return objects

    def remove(self, names: list[str]) -> None:
        """Delete signature and manifest, then the files; also releases whose upload nobody completed."""
        objects = self._objects()
        complete = {stored.name for stored in self.releases()}
        abandoned = [
            name
            for name, parts in objects.items()
            if name not in complete and max(at for _, at, _ in parts) < time.time() - ABANDONED_S
        ]
        for name in [*names, *abandoned]:
            keys = [key for key, *_ in objects.get(name, ())]
            first = [key for key in keys if key.endswith((".sig", f"/{name}/{manifest.NAME}"))]
            rest = [key for key in keys if key not in first]
            for part in (first, *(rest[start : start + 1000] for start in range(0, len(rest), 1000))):
                if part:
                    self._delete(part)

    def _delete(self, keys: list[str]) -> None:
        with self._errors(keys[0]):
            request = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
            response = self._client.delete_objects(Bucket=self._bucket, Delete=request)
        for error in response.get("Errors", ()):
            raise OvertureError(
                f"release.destination: s3://{self._bucket}/{error['Key']} cannot be deleted: {error['Code']}"
            )

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Raise boto's errors as OvertureError."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise OvertureError(f"release.destination: s3://{self._bucket}/{key}: {error}") from error


def _client() -> BaseClient:
    import boto3
    from botocore.config import Config

    options: dict[str, Any] = {"s3": {"addressing_style": "path"}} if s3_endpoint() else {}
    return boto3.client(
        "s3",
        endpoint_url=s3_endpoint() or None,
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        config=Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 5, "mode": "standard"}, **options),
    )
