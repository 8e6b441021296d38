"""What the rules of lists use of the week's tracks, from the tables `catalog` and `tracks`."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.platform.context import Context
from models.cold_start.list_rules import UNKNOWN_DAY, TrackFacts, recording_groups

COLUMNS = ["track_id", "title", "release_date", "recording_id", "explicit", "available", "countries"]


def track_facts(context: Context) -> TrackFacts:
    """Return the facts of the week's catalogue, by track_idx.

    A track that has left `tracks` since the catalogue was made is unavailable.
    """
    catalog = context.lake.read("catalog", week=context.week.name).sort_by("track_idx")
    tracks = context.lake.read("tracks", columns=COLUMNS)
    rows = pc.index_in(catalog["track_id"], value_set=tracks["track_id"].combine_chunks())
    of_track = {name: tracks[name].combine_chunks().take(rows.combine_chunks()) for name in COLUMNS[1:]}
    artist_N, album_N = catalog["artist_id"].to_numpy(), catalog["album_id"].to_numpy()
    days = of_track["release_date"].cast(pa.int32()).fill_null(UNKNOWN_DAY)
    countries, everywhere_N = country_flags(of_track["countries"])
    is_known = pc.is_valid(rows.combine_chunks())
    return TrackFacts(
        artist_N,
        album_N,
        recording_groups(of_track["recording_id"].to_pylist(), artist_N.tolist(), of_track["title"].to_pylist()),
        _flags(of_track["explicit"].fill_null(False)),
        _flags(pc.and_(of_track["available"].fill_null(True), is_known)),
        days.to_numpy(),
        countries,
        everywhere_N,
    )


def country_flags(lists: pa.ListArray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return in which countries tracks can be played, and which tracks can be played in every country.

    Args:
        lists: Country codes of each of N tracks; null: every country.

    Returns:
        (N,) bool by country code, for the countries that occur; and (N,) bool.
    """
    everywhere_N = _flags(pc.is_null(lists))
    row = pc.list_parent_indices(lists).to_numpy()
    code = pc.list_flatten(lists).dictionary_encode()
    countries: dict[str, np.ndarray] = {}
    for number, name in enumerate(code.dictionary.to_pylist()):
        flags = everywhere_N.copy()
        flags[row[code.indices.to_numpy(zero_copy_only=False) == number]] = True
        countries[name] = flags
    return dict(sorted(countries.items())), everywhere_N


def days_since_1970(day: date) -> int:
    """Return a date as days since 1970."""
    return (day - date(1970, 1, 1)).days


def _flags(column: pa.Array) -> np.ndarray:
    return np.asarray(column.to_numpy(zero_copy_only=False), bool)
