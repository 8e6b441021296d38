"""The embedded store: memory-mapped arrays of known listeners under the home, searched by bisection.

    stores/<release>/<space>/<part>.json                      the notice: which folder is in force
    stores/<release>/<space>/<publication>.<token>/           user_ids.npy ascending; vectors, segments, tracks, spans
                                                              history.bin: ids of all users' histories, end to end
    stores/<release>/retired.json                             when it was marked

A folder is filled under a hidden name, flushed, and renamed; the notice is replaced atomically. Readers share the pages
through the operating system, and keep what they have mapped when a folder is removed. A publisher locks its folder
until the notice is written. Folders without a notice and without a lock were left by a publisher that was killed; the
next publisher removes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from contracts import folder_lock
from contracts.errors import CheckFailed
from serving.release import files
from serving.stores.interface import (
    HISTORY,
    WARM,
    Block,
    History,
    Kind,
    Notice,
    StorePart,
    UserRow,
    checked_blocks,
    read_order,
)

ARRAYS = ("user_ids", "vectors", "segments", "tracks", "spans")
IDS = "history.bin"
RETIRED = "retired.json"


class Mapped(NamedTuple):
    """A publication's arrays.

    Shapes: (U,) int64 ascending, (U, d) float32, (U,) int32, (U, n) int64, (U, H + 1) int64, (V,) int64.

    The history of user u: list i of the H of HISTORY is history[spans[u, i]:spans[u, i + 1]].
    """

    user_ids: np.ndarray
    vectors: np.ndarray
    segments: np.ndarray
    tracks: np.ndarray
    spans: np.ndarray
    history: np.ndarray

    def row(self, at: int, kind: Kind, notice: Notice) -> UserRow:
        """Return the row at a position.

        Raises:
            CheckFailed: the history is shorter than the row needs.
        """
        ends = self.spans[at].tolist()
        if ends[-1] > len(self.history):
            raise CheckFailed(f"stores: {notice.publication} is damaged; publish the release again")
        history = History(*(self.history[start:end] for start, end in pairwise(ends)))
        user, segment = int(self.user_ids[at]), int(self.segments[at])
        return UserRow(user, kind, notice.since, self.vectors[at], segment, self.tracks[at], *history)


class MemoryMapped:
    """Rows in files of this machine."""

    name = "memory"

    def __init__(self, home: Path) -> None:
        """Set the folder; nothing is created before the first publication."""
        self.root = home / "stores"
        self._open: dict[Path, Mapped] = {}
        self._lock = threading.Lock()

    def notices(self, release: str, space: str) -> dict[str, Notice]:
        """Return the parts in force; `publication` is the name of a folder."""
        notices = {}
        folder = self.root / release / space
        for path in folder.glob("*.json"):
            # A release may be removed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                notices[path.stem] = Notice.read(path.read_bytes(), f"{path.name} of {release[:12]}/{space}")
        return notices

    def row(self, release: str, space: str, user_id: int, notices: dict[str, Notice]) -> UserRow | None:
        """Return the row of a user, by bisection in each part."""
        for notice in read_order(notices):
            try:
                arrays = self._mapped(self.root / release / space / notice.publication)
            except FileNotFoundError:
                if notice in self.notices(release, space).values():
                    raise CheckFailed(f"stores: {notice.publication} is missing; publish the release again") from None
                continue  # replaced meanwhile: the caller reads the notices again
            at = int(np.searchsorted(arrays.user_ids, user_id))
            if at < len(arrays.user_ids) and arrays.user_ids[at] == user_id:
                return arrays.row(at, "warm" if notice == notices.get(WARM) else "cold", notice)
        return None

    def _mapped(self, folder: Path) -> Mapped:
        mapped = self._open.get(folder)
        if mapped is None:
            with self._lock:
                # Mappings of replaced or removed folders are dropped when a new one is opened.
                self._open = {path: arrays for path, arrays in self._open.items() if path.is_dir()}
                try:
                    arrays = [_load(folder / f"{name}.npy") for name in ARRAYS]
                    mapped = Mapped(*[*arrays, _load_ids(folder / IDS)])
                except (ValueError, EOFError) as error:
                    raise CheckFailed(f"stores: {folder.name} is damaged: {error}") from None
                if len({len(array) for array in mapped[:-1]}) != 1:
                    raise CheckFailed(f"stores: {folder.name} is damaged: its arrays differ in length")
                self._open[folder] = mapped
        return mapped

    def publish(self, part_rows: StorePart, blocks: Iterable[Block]) -> None:
        """Fill a new folder, put it in force, remove the previous one."""
        space = self.root / part_rows.release / part_rows.space
        space.mkdir(parents=True, exist_ok=True)
        self._sweep(part_rows.release, part_rows.space)
        folder = space / f"{part_rows.publication}.{uuid.uuid4().hex[:8]}"
        hidden, handle = _new_locked_folder(space)
        try:
            _fill(hidden, part_rows, blocks)
            os.rename(hidden, folder)
            files.sync(space)
            before = self.notices(part_rows.release, part_rows.space).get(part_rows.part)
            notice = Notice(folder.name, part_rows.since, len(part_rows.user_ids))
            files.replace(space / f"{part_rows.part}.json", files.canonical(asdict(notice)))
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            os.close(handle)
        if before:
            shutil.rmtree(space / before.publication, ignore_errors=True)

    def _sweep(self, release: str, space: str) -> None:
        """Remove what interrupted publishers left: folders that no notice names and no publisher has locked."""
        for folder in (self.root / release / space).glob("*/"):
            handle = folder_lock.try_lock(folder, exclusive=True)
            if handle is None:
                continue
            # Read after the lock was taken: a publisher writes its notice before it releases its lock.
            if folder.name not in {notice.publication for notice in self.notices(release, space).values()}:
                shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)

    def releases(self) -> dict[str, float | None]:
        """Return the folders under stores/."""
        retired_at: dict[str, float | None] = {}
        for folder in self.root.glob("*/"):
            try:
                retired_at[folder.name] = float(json.loads((folder / RETIRED).read_text())["at"])
            except FileNotFoundError:
                retired_at[folder.name] = None
        return retired_at

    def retire(self, release: str, at: float | None) -> None:
        """Write or remove the mark."""
        mark = self.root / release / RETIRED
        if at is None:
            mark.unlink(missing_ok=True)
        else:
            files.replace(mark, files.canonical({"at": at}))

    def remove(self, release: str) -> None:
        """Remove notices first, so that no reader starts on what is being removed."""
        for notice in (self.root / release).glob("*/*.json"):
            notice.unlink()
        shutil.rmtree(self.root / release)

    def close(self) -> None:
        """Drop all mappings."""
        self._open = {}


def _load(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _load_ids(path: Path) -> np.ndarray:
    return np.memmap(path, "<i8", "r") if path.stat().st_size else np.zeros(0, np.int64)


def _new_locked_folder(space: Path) -> tuple[Path, int]:
    """Return a new hidden folder, and the file descriptor that locks it."""
    while True:
        folder = space / f".writing-{uuid.uuid4().hex}"
        folder.mkdir()
        handle = folder_lock.try_lock(folder, exclusive=True)
        if handle is not None:  # else another publisher removed the folder before it was locked
            return folder, handle


def _fill(folder: Path, part_rows: StorePart, blocks: Iterable[Block]) -> None:
    """Write arrays in ascending order of user ids; each block goes directly to its rows on disk."""
    user_ids, size = np.sort(part_rows.user_ids), len(part_rows.user_ids)
    shapes = {"vectors": (size, part_rows.d), "segments": (size,), "tracks": (size, part_rows.n)}
    shapes["spans"] = (size, len(HISTORY) + 1)
    types = {"vectors": np.float32, "segments": np.int32, "tracks": np.int64, "spans": np.int64}
    np.save(folder / "user_ids.npy", user_ids, allow_pickle=False)
    if not size:  # an empty file cannot be mapped for writing
        for name, shape in shapes.items():
            np.save(folder / f"{name}.npy", np.zeros(shape, types[name]), allow_pickle=False)
        list(checked_blocks(part_rows, blocks))
        (folder / IDS).touch()
    else:
        into = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(types[name]), shape)
            for name, shape in shapes.items()
        }
        with (folder / IDS).open("wb") as ids:
            for block in checked_blocks(part_rows, blocks):
                at = np.searchsorted(user_ids, block.user_ids)
                into["vectors"][at], into["segments"][at] = block.vectors_BD, block.segments_B
                into["tracks"][at] = block.tracks_Bn
                into["spans"][at] = _append_history(ids, block)
        for array in into.values():
            array.flush()
    for path in folder.iterdir():
        files.sync(path)
    files.sync(folder)


def _append_history(file: BinaryIO, block: Block) -> np.ndarray:
    """Write the ids of a block's users, one user after the other; return their spans (B, H + 1)."""
    histories = [block.history_of(b) for b in range(len(block.user_ids))]
    lengths = np.array([[len(ids) for ids in history] for history in histories], np.int64).reshape(-1, len(HISTORY))
    ends = file.tell() // 8 + np.cumsum(lengths).reshape(lengths.shape)
    for history in histories:
        for ids in history:
            file.write(ids.astype("<i8").tobytes())
    return np.concatenate([ends[:, :1] - lengths[:, :1], ends], axis=1)
