"""Writes the state that the service needs to compute features online: counters, play history and tracks.

Input   skip_state of the last day before as_of, plays, skip_features
Output  state/<kind>/*.npy, history/*.npy, tracks/*.npy of a bundle (read by serving/skip/state.py), and the part of
        answers.json that describes them

Also here: the conversions to JSON and arrays that the bundle of a week and the bundle of a daily update share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.skip import build_features, dataset, spark_groups
from jobs.skip.artifacts import ModelReference
from models.arrays import AnyVector
from models.skip.data.cleaning import Cleaning, clean_plays
from models.skip.data.play_history import COLUMNS, Log
from models.skip.encoding.model_inputs import ModelInputs
from models.skip.ensemble.ensemble import Calibration, Mix
from models.skip.features import counter_state
from serving.skip.release import INPUTS
from serving.skip.state import KINDS, state_arrays

if TYPE_CHECKING:
    from jobs.platform.context import Context


class MemberEntry(TypedDict):
    """A member of the ensemble in answers.json."""

    name: str
    weight: float
    state: ModelReference


class CalibrationEntry(TypedDict):
    """The calibration of the ensemble in answers.json."""

    kind: str
    x: list[float]
    y: list[float]


class SnapshotFacts(TypedDict):
    """What answers.json contains about the snapshot.

    Attributes:
        totals: labelled plays and plays listened to, of all users together.
        session_gap_s: a pause of at least so many seconds begins a new session.
        smoothing: weight of the prior in a rate, in plays.
        state_until: seconds since 1970; the counters contain all plays before this second.
    """

    totals: dict[str, int]
    session_gap_s: int
    smoothing: float
    state_until: int


def end_day(context: Context) -> str:
    """Return the day of as_of, YYYY-MM-DD: the first day whose plays are not used."""
    return f"{context.week.as_of:%Y-%m-%d}"


def write_snapshot(context: Context, folder: Path, log: Log, history_lengths: Iterable[int]) -> SnapshotFacts:
    """Write counters, play history and tracks as of as_of into a bundle.

    Args:
        context: week, lake and settings.
        folder: folder of the bundle.
        log: all cleaned plays before as_of.
        history_lengths: numbers of recent plays per user that the members read; the largest is stored.

    Returns:
        The part of answers.json that describes the snapshot.
    """
    day = state_day(context)
    table = context.lake.read("skip_state", day=day)
    for kind in KINDS:
        rows = spark_groups.to_state_rows(table.filter(pc.equal(table.column("kind"), kind)))
        for name, array in state_arrays(kind, counter_state.from_rows(rows, kind)).items():
            files.write_array(folder / "state" / kind / f"{name}.npy", array)
    (total_row,) = table.filter(pc.equal(table.column("kind"), "all")).to_pylist()
    length = max(history_lengths, default=0)
    recent = log.newest(length) if length else Log.empty()
    for name in COLUMNS:
        files.write_array(folder / "history" / f"{name}.npy", recent.columns[name])
    for name, array in read_tracks(context).items():
        files.write_array(folder / "tracks" / f"{name}.npy", array)
    settings = context.settings.skip.features
    next_day = date.fromisoformat(day) + timedelta(days=1)
    return {
        "totals": {name: int(total_row[name]) for name in ("n_plays", "n_listened")},
        "session_gap_s": settings.session_gap_min * 60,
        "smoothing": settings.smoothing,
        "state_until": int(datetime.combine(next_day, datetime.min.time(), UTC).timestamp()),
    }


def state_day(context: Context) -> str:
    """Return the last day of plays before as_of; its state is the one in the release.

    Raises:
        CheckFailed: there are no plays, or no state of that day, or the state does not match settings and plays.
    """
    lake, end = context.lake, end_day(context)
    days = [p["day"] for p in lake.partitions("plays") if p["day"] < end]
    if not days:
        raise CheckFailed(f"plays: no day before {end}; run `overture ingest dsg17` first")
    if not lake.exists("skip_state", day=days[-1]):
        raise CheckFailed(f"skip_state: nothing for {days[-1]}; run `overture skip features --to {days[-1]}`")
    build_features.require_current_state(context, days[-1], days)
    return days[-1]


def read_tracks(context: Context) -> dict[str, AnyVector]:
    """Return the attributes of each track played before as_of, of its newest play: columns of serving/skip/state.py."""
    lake, end = context.lake, end_day(context)
    columns = ["track_id", "artist_id", "album_id", "genre_id", "duration_s", "release_date", "ts", "play_id"]
    newest: pa.Table | None = None
    for day in [p["day"] for p in lake.partitions("plays") if p["day"] < end]:
        plays = lake.read("plays", columns=columns, day=day)
        plays = plays.sort_by([("ts", "ascending"), ("play_id", "ascending")])
        both = plays if newest is None else pa.concat_tables([newest, plays])
        ids = both.column("track_id").to_numpy()
        _, last = np.unique(ids[::-1], return_index=True)
        newest = both.take(pa.array(len(ids) - 1 - last))
    assert newest is not None
    tracks = {name: newest.column(name).to_numpy() for name in columns[:4]}
    tracks["duration_s"] = newest.column("duration_s").to_numpy().astype(np.int64)
    release_days = newest.column("release_date").cast(pa.int32()).cast(pa.float64())
    tracks["release_day"] = release_days.to_numpy(zero_copy_only=False)
    return tracks


def read_play_log(context: Context, cleaning: Cleaning) -> Log:
    """Return every labelled play before as_of, cleaned: the history that session models read."""
    plays, _ = dataset.read_rows(context, (), "past", "", end_day(context))
    return Log.from_plays(clean_plays(plays, cleaning))


def member_entries(references: Mapping[str, ModelReference], mix: Mix) -> list[MemberEntry]:
    """Return the members for answers.json, in the order of the weights.

    Args:
        references: the saved model of each member, by name.
        mix: weights of the members.
    """
    pairs = zip(references.items(), mix.weights_M, strict=True)
    return [{"name": name, "weight": float(weight), "state": reference} for (name, reference), weight in pairs]


def calibration_entry(calibration: Calibration) -> CalibrationEntry:
    """Return a calibration for answers.json."""
    return {"kind": calibration.kind, "x": calibration.x_K.tolist(), "y": calibration.y_K.tolist()}


def required_columns(inputs: Iterable[ModelInputs]) -> dict[str, list[str]]:
    """Return the numbers and categories that the members read, each once: {numbers, categories}."""
    numbers: dict[str, None] = {}
    categories: dict[str, None] = {}
    for member in inputs:
        numbers |= dict.fromkeys(member.numbers.names)
        categories |= dict.fromkeys(member.numbers.categories)
    return {"numbers": list(numbers), "categories": list(categories)}


def write_model_inputs(folder: Path, inputs: ModelInputs) -> None:
    """Write the input encoding of a member: a JSON file and one array per file."""
    facts, arrays = inputs.state()
    files.write(folder / f"{INPUTS}.json", files.canonical(facts))
    for name, array in arrays.items():
        files.write_array(folder / INPUTS / f"{name}.npy", array)
