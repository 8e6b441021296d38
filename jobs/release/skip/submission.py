"""Writes a submission for the DSG17 competition: the predicted probability for each row of the test set.

Input   DATA/test.csv for the rows; their features from skip_features; the week's blend
Output  one CSV file `sample_id,is_listened`, rows in the order of test.csv; written atomically
Checked every row has exactly one prediction from 0 to 1

The blend is that of `overture skip blend`, with members that were fitted on all labelled plays: those of the release.

A competition needs a value for every row. A row without features (ingestion put it into the quarantine, for example for
a time of 1970, or its day is not before as_of) gets the smoothed rate of its listener over the labelled plays before
as_of; a listener without such plays, the rate of its track; otherwise the mean. The report counts these rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadArgument, CheckFailed
from jobs.platform import files
from jobs.platform.progress import log_line
from jobs.release.skip.bundle import read_blend_plays
from jobs.release.skip.snapshot import end_day
from jobs.skip import artifacts, dataset
from jobs.tracking.tracker import Tracker
from models.arrays import BoolVector, DoubleVector, IdVector

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from models.skip.data.plays import Plays

HEADER = ("sample_id", "is_listened")
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class TestRows:
    """The rows of a test file, in its order.

    Attributes:
        sample_N: sample ids.
        user_N: listeners; UNKNOWN where the file has no integer.
        track_N: tracks (media_id); UNKNOWN where the file has no integer.
    """

    sample_N: IdVector
    user_N: IdVector
    track_N: IdVector


def run(context: Context, data: Path, out: Path) -> dict[str, Any]:
    """Predict every row of DATA/test.csv and write OUT.

    Args:
        context: week, lake and settings of the skip engine.
        data: folder of test.csv.
        out: the file to write.

    Returns:
        The report: number of rows, mean and number of distinct predictions; number of rows without features
        (`fallback`), and how many of them got the rate of the listener, of the track, and the mean.

    Raises:
        BadArgument: there is no test.csv, or OUT cannot be written.
        CheckFailed: sample ids are not numbers or not unique.
    """
    rows = read_test_rows(data / "test.csv")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise BadArgument(f"--out: {out} must be a file in an existing folder")
    with Tracker.task(context, "submit") as tracked:
        labelled, _ = read_blend_plays(context)
        plays, sample_N = dataset.read_unlabelled(context, labelled.cleaning, end=end_day(context))
        known_N, row_N = np.unique(sample_N, return_index=True)
        n_duplicates = len(sample_N) - len(known_N)
        if n_duplicates:
            raise CheckFailed(f"skip submit: {n_duplicates} rows have a duplicate sample_id; ingest this folder alone")
        listen_N, counts = fallback_rates(labelled.plays, rows, context.settings.skip.features.smoothing)
        has_features_N = np.isin(rows.sample_N, known_N)
        place_N = row_N[np.searchsorted(known_N, rows.sample_N[has_features_N])]
        if len(place_N):
            listen_N[has_features_N] = artifacts.load_blend(context, artifacts.REFITTED).predict_proba(plays)[place_N]
        n_fallback = int((~has_features_N).sum())
        if not ((listen_N >= 0) & (listen_N <= 1)).all():
            raise CheckFailed("skip submit: the blend returned no probability from 0 to 1 for some rows")
        if n_fallback:
            missing = ", ".join(map(str, rows.sample_N[~has_features_N][:5]))
            log_line(
                f"skip submit: {n_fallback} of {len(listen_N)} rows have no features before {end_day(context)}, the "
                f"week's Monday, and get a rate instead (sample_id {missing}). If they should have features, ingest "
                "this folder, run `overture skip features` again, or use a later week"
            )
        files.replace(out, csv_content(rows.sample_N, listen_N))
        numbers = {"rows": len(listen_N), "mean": float(listen_N.mean()), "distinct": len(np.unique(listen_N))}
        numbers["fallback"] = n_fallback
        numbers |= {name: int((of_N & ~has_features_N).sum()) for name, of_N in counts.items()}
        tracked.log_metrics(numbers)
        tracked.log_artifact(out, "submission")
        return {
            **numbers,
            "path": str(out.absolute()),
            "members": artifacts.read_blend(context)["members"],
            **tracked.links,
        }


def fallback_rates(plays: Plays, rows: TestRows, smoothing: float) -> tuple[DoubleVector, dict[str, BoolVector]]:
    """Return the rate of each test row without its features, (N,), and a mask of the rows (N,) by kind of rate.

    Args:
        plays: labelled plays.
        rows: the test rows.
        smoothing: plays at the mean rate that are added to a rate (skip.features.smoothing).
    """
    labels_N = plays.labels()
    mean = float(labels_N.mean(dtype=np.float64))
    listener_N, has_listener_N = smoothed_rates(plays.user_N, labels_N, rows.user_N, mean, smoothing)
    track_N, has_track_N = smoothed_rates(plays.track_N, labels_N, rows.track_N, mean, smoothing)
    rate_N = np.where(has_listener_N, listener_N, np.where(has_track_N, track_N, mean))
    kinds = {
        "listener_rate": has_listener_N,
        "track_rate": ~has_listener_N & has_track_N,
        "mean_rate": ~has_listener_N & ~has_track_N,
    }
    return rate_N, kinds


def smoothed_rates(
    id_L: IdVector, labels_L: NDArray[np.int8], wanted_N: IdVector, mean: float, smoothing: float
) -> tuple[DoubleVector, BoolVector]:
    """Return the smoothed share of listened plays of each wanted id, (N,), and whether the id has plays, (N,).

    Args:
        id_L: id of each labelled play.
        labels_L: label of each play.
        wanted_N: ids to look up.
        mean: rate of an id without plays.
        smoothing: weight of the mean, in plays.
    """
    distinct, code_L = np.unique(id_L, return_inverse=True)
    at_N = np.minimum(np.searchsorted(distinct, wanted_N), len(distinct) - 1)
    has_plays_N = (distinct[at_N] == wanted_N) & (wanted_N != UNKNOWN)
    rate_U = (np.bincount(code_L, labels_L) + smoothing * mean) / (np.bincount(code_L) + smoothing)
    return np.where(has_plays_N, rate_U[at_N], mean), has_plays_N


def read_test_rows(file: Path) -> TestRows:
    """Return the rows of a test file, in its order.

    Raises:
        BadArgument: the file does not exist.
        CheckFailed: the column sample_id is missing, or an id is not a number or not unique.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            if HEADER[0] not in (reader.fieldnames or ()):
                raise CheckFailed(f"{file}: column '{HEADER[0]}' is missing")
            rows = list(reader)
        sample_N = np.asarray([int(row[HEADER[0]]) for row in rows], np.int64)
    except FileNotFoundError:
        raise BadArgument(f"--data: {file.parent} contains no test.csv") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckFailed(f"{file}: a {HEADER[0]} is not an integer: {error}") from None
    if not len(sample_N):
        raise CheckFailed(f"{file}: has no rows")
    n_duplicates = len(sample_N) - len(np.unique(sample_N))
    if n_duplicates:
        raise CheckFailed(f"{file}: {n_duplicates} sample ids are duplicates")
    return TestRows(sample_N, read_ids(rows, "user_id"), read_ids(rows, "media_id"))


def read_ids(rows: Sequence[Mapping[str, str | None]], name: str) -> IdVector:
    """Return a column of ids, (N,); UNKNOWN where it is missing or not a non-negative 64-bit integer."""
    ids_N = np.full(len(rows), UNKNOWN, np.int64)
    for n, row in enumerate(rows):
        with suppress(ValueError, OverflowError):
            ids_N[n] = max(int(row.get(name) or UNKNOWN), UNKNOWN)
    return ids_N


def csv_content(sample_N: IdVector, listen_N: DoubleVector) -> bytes:
    """Return the content of the submission file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((int(sample_id), f"{p:.6f}") for sample_id, p in zip(sample_N, listen_N, strict=True))
    return out.getvalue().encode()
