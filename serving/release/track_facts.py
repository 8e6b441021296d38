"""The files of a release that contain what the rules of lists use of its tracks.

tracks/{recording,released}.npy            (N,) int32 by track_idx: number of the recording, days since 1970
tracks/{explicit,available,everywhere}.npy (N,) bool
tracks/countries.npy  countries.json       (C, N) bool, and the country of each row
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from contracts.errors import CheckFailed
from models.arrays import IdVector
from models.cold_start.list_rules import TrackFacts

ARRAYS = {
    "recording": np.int32, "explicit": bool, "available": bool, "released": np.int32, "everywhere": bool,
}  # fmt: skip
"""Arrays of one value per track, by name, with their types."""


def read(folder: Path, artist_N: IdVector, album_N: IdVector) -> TrackFacts:
    """Return the facts of a release's tracks.

    Args:
        folder: Folder of the release.
        artist_N: Ids of the main artists by track_idx.
        album_N: Ids of the albums by track_idx.

    Raises:
        CheckFailed: The files do not belong together.
    """
    tracks = folder / "tracks"
    if not (tracks / "recording.npy").exists():  # a bundle of an older version
        return TrackFacts.unknown(artist_N, album_N)
    arrays = {name: np.load(tracks / f"{name}.npy", allow_pickle=False) for name in ARRAYS}
    table_CN = np.load(tracks / "countries.npy", mmap_mode="r", allow_pickle=False)
    names = json.loads((tracks / "countries.json").read_text())
    if {len(array) for array in arrays.values()} | {table_CN.shape[1]} != {len(artist_N)} or len(names) != len(
        table_CN
    ):
        raise CheckFailed(f"release {folder.name[:12]}: tracks/*.npy do not have one value for each track")
    return TrackFacts(
        artist_N,
        album_N,
        arrays["recording"],
        arrays["explicit"],
        arrays["available"],
        arrays["released"],
        dict(zip(names, table_CN, strict=True)),
        arrays["everywhere"],
    )
