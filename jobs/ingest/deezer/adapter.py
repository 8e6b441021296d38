"""Convert the paper's public dataset into arrays that training and evaluation can memory-map.

Input    DATA/*.parquet as published (jobs/ingest/deezer/files.py), which contain vectors in both spaces
Output   OVERTURE_HOME/deezer/<space>/: vectors, lists and input rows as .npy, and manifest.json
Grain    one row per warm user by user_index, one per track by popularity, one per listener of each split by user_index
Time     input rows describe the registration day; lists contain the songs streamed on days 1 to 30
Memory   the lists of songs and the vectors; input rows are copied batch by batch into a memory-mapped array
Checks   first all footers, then ids and lists, then vectors, then input rows: errors are raised as early as possible

The arrays are not tables of the lake because reading 70 000 rows of 5139 values back would need twice their size in
memory. Rows are joined by user_index, never by position: the feature files are not sorted.

As elsewhere, track_idx is the popularity rank: tracks are ordered by the number of warm users who streamed them on days
1 to 30, then by song_index. The authors' code ranks in this order for its Popularity. `song_index_N` maps track_idx to
song_index.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.deezer.files import (
    CONTRACT,
    KEY,
    SPLITS,
    Files,
    Missing,
    input_rows,
    inspect,
    md5,
    read_truth,
    read_vectors,
)
from jobs.platform.progress import log_line, progress
from jobs.settings.base import SPACES, Space
from models.cold_start.input_vector import Layout
from models.cold_start.ragged import Ragged

if TYPE_CHECKING:
    from jobs.platform.context import Context

FORMAT = 1  # version of the written folder; a folder of another version is converted again


@dataclass(frozen=True, eq=False)
class Part:
    """Listeners of one split by user_index.

    Attributes:
        user_index: ids (B,), ascending.
        x_BF: input rows (B, F) float32, memory-mapped.
        truth: tracks that each listener streamed on days 1 to 30.
    """

    user_index: np.ndarray
    x_BF: np.ndarray
    truth: Ragged


@dataclass(frozen=True, eq=False)
class PublicData:
    """One space of the dataset.

    Attributes:
        space: ut_als or tt_svd.
        song_index_N: song_index (N,) of each track_idx.
        track_ND: track vectors (N, d) by track_idx.
        user_UD: vectors (U, d) of the warm users, in the order of the split `train`.
        parts: the splits train, validation and test.
        facts: numbers of rows and of missing or unusual values.
    """

    space: Space
    song_index_N: np.ndarray
    track_ND: np.ndarray
    user_UD: np.ndarray
    parts: Mapping[str, Part]
    facts: dict[str, Any]

    @property
    def layout(self) -> Layout:
        """Positions of the features in an input row."""
        return Layout(int(self.track_ND.shape[1]))


def run(context: Context, data: Path | None) -> dict[str, Any]:
    """Read all eight files; return the facts of each space for the last line of stdout.

    Raises:
        BadArgument: no folder is given.
        CheckFailed: the files break the contract.
    """
    if data is None:
        raise BadArgument("--data: deezer needs the folder of the eight published files")
    for space in SPACES:  # both spaces first: a missing file fails before any conversion
        inspect(data, space)
    facts = {space: load(context, inspect(data, space)).facts for space in SPACES}
    return {"source": "deezer", "spaces": facts, "path": str(context.home / "deezer")}


def load(context: Context, files: Files) -> PublicData:
    """Return the dataset in one space; convert the files unless the stored arrays were converted from these files.

    Raises:
        CheckFailed: the files break the contract; the message names file, column and row.
    """
    folder = context.home / "deezer" / files.space
    stamp = {"format": FORMAT, "contract": CONTRACT.version, "files": _stamp(files)}
    if _manifest(folder).get("made_from") != stamp:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(mkdtemp(prefix=f".{files.space}-", dir=folder.parent))
        try:
            facts = convert(files, temporary)
            (temporary / "manifest.json").write_text(json.dumps({"made_from": stamp, "facts": facts}, indent=1))
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    else:
        log_line(f"deezer: {folder} was converted from these files and is used again")
    dataset = open_folder(folder, files.space)
    expected_md5 = context.settings.source.song_md5
    if expected_md5 and dataset.facts["song_md5"] != expected_md5:
        log_line(
            f"deezer: warning: {files.songs}: md5 is {dataset.facts['song_md5']}, source.song_md5 is {expected_md5}; "
            "the file may be another version, or damaged in transfer"
        )
    return dataset


def open_folder(folder: Path, space: Space) -> PublicData:
    """Return the arrays that `convert` wrote; input rows stay on disk."""

    def array(name: str) -> np.ndarray:
        return np.asarray(np.load(folder / f"{name}.npy", allow_pickle=False))

    parts = {
        split: Part(
            array(f"{split}_user_index"),
            np.load(folder / f"{split}_x.npy", mmap_mode="r", allow_pickle=False),
            Ragged(array(f"{split}_offsets"), array(f"{split}_tracks")),
        )
        for split in SPLITS
    }
    facts = _manifest(folder)["facts"]
    return PublicData(space, array("song_index"), array("tracks"), array("users"), parts, facts)


def convert(files: Files, folder: Path) -> dict[str, Any]:
    """Check everything and write the arrays of one space; return facts about the files.

    Raises:
        CheckFailed: the files break the contract; the message names file, column and row.
    """
    spec, layout = CONTRACT.spaces[files.space], Layout(CONTRACT.spaces[files.space].width)
    n_songs = files.rows["songs"]
    users, truth = {}, {}
    for split in SPLITS:
        users[split], truth[split] = read_truth(files.features(split), n_songs)
    _check_disjoint(files, users)
    song_index, songs, unusual = read_vectors(files.songs, "song_index", spec.songs)
    if not np.array_equal(song_index, np.arange(n_songs)):
        missing_index = int(np.argmax(song_index != np.arange(n_songs)))
        raise CheckFailed(
            f"{files.songs}: column 'song_index' must run from 0 to {n_songs - 1}; {missing_index} is missing"
        )
    warm, user_vectors, _ = read_vectors(files.users, KEY, spec.users)
    if not np.array_equal(warm, np.sort(users["train"])):
        unmatched = np.setxor1d(warm, users["train"])
        raise CheckFailed(
            f"{files.features('train')}: its users are not the same as those of {files.users.name}; "
            f"{KEY} {unmatched[0]} is in only one of them ({unmatched.size} such users)"
        )
    n_listeners = np.bincount(truth["train"].ids, minlength=n_songs)
    by_popularity = np.lexsort((np.arange(n_songs), -n_listeners))
    track_of = np.empty(n_songs, np.int32)
    track_of[by_popularity] = np.arange(n_songs, dtype=np.int32)
    np.save(folder / "song_index.npy", by_popularity)
    np.save(folder / "tracks.npy", songs[by_popularity])
    np.save(folder / "users.npy", user_vectors)
    missing = Missing()
    for split in SPLITS:
        order = np.argsort(users[split])
        ordered = truth[split].take(order)
        np.save(folder / f"{split}_user_index.npy", users[split][order])
        np.save(folder / f"{split}_offsets.npy", ordered.offsets)
        np.save(folder / f"{split}_tracks.npy", track_of[ordered.ids])
        _write_rows(files, split, users[split][order], layout, missing, folder / f"{split}_x.npy")
    n_short = sum(int((truth[split].lengths < CONTRACT.usual_min_truth).sum()) for split in SPLITS)
    facts = {
        "space": files.space,
        "folder": str(files.folder),
        "made_up": files.made_up,
        "claims": files.claims,
        "songs": n_songs,
        "features": layout.size,
        **{split: len(users[split]) for split in SPLITS},
        "missing_counts": missing.counts,
        "missing_values": missing.values,
        "missing_ages": missing.ages,
        "ages_unknown": _unknown_ages(folder, layout),
        "ages_unusual": missing.old,
        "songs_unusual_length": unusual,
        "lists_below_50": n_short,
        "song_md5": md5(files.songs),
    }
    for name, what in (
        ("songs_unusual_length", f"song vectors are not {spec.songs.usual_norm} long"),
        ("ages_unusual", f"ages are above {CONTRACT.usual_max_age}"),
        ("lists_below_50", f"lists of songs are shorter than {CONTRACT.usual_min_truth}"),
        ("missing_values", "values of vectors are missing and read as 0"),
    ):
        if facts[name]:
            log_line(f"deezer: warning: {facts[name]} {what}")
    return facts


def _write_rows(files: Files, split: str, users: np.ndarray, layout: Layout, missing: Missing, target: Path) -> None:
    """Write the input rows in the order of `users` (ascending), for any order of the file."""
    out = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=(len(users), layout.size))
    filled = np.zeros(len(users), bool)
    rows = input_rows(files.features(split), layout, missing)
    for batch_users, x_BF in progress(rows, None, f"deezer: batches of {files.features(split).name}"):
        position = np.searchsorted(users, batch_users)
        out[position] = x_BF
        filled[position] = True
    out.flush()
    if not filled.all():
        raise AssertionError(f"{files.features(split)}: a row was not read")


def _unknown_ages(folder: Path, layout: Layout) -> dict[str, int]:
    age = layout.scalar("age_value")
    return {split: int((np.load(folder / f"{split}_x.npy", mmap_mode="r")[:, age] < 0).sum()) for split in SPLITS}


def _check_disjoint(files: Files, users: dict[str, np.ndarray]) -> None:
    """Check that no user is in two splits: a test listener must be in no training set."""
    for n, split in enumerate(SPLITS):
        for other_split in SPLITS[n + 1 :]:
            common = np.intersect1d(users[split], users[other_split])
            if common.size:
                raise CheckFailed(
                    f"{files.features(other_split)}: {KEY} {common[0]} is also in {files.features(split).name} "
                    f"({common.size} such users)"
                )


def _stamp(files: Files) -> dict[str, list[int | str]]:
    """Return path -> size and modification time of each file, which identify a set of files without reading them."""
    paths = [files.songs, files.users, *(files.features(split) for split in SPLITS)]
    return {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        return manifest
    except (OSError, ValueError):
        return {}
