"""Writes a submission for the DSG17 competition: the predicted probability for each row of the test set.

Input   DATA/test.csv for the rows; their features from skip_features; the week's blend with all of its members
Output  one CSV file `sample_id,is_listened`, rows in the order of test.csv; written atomically
Checked every row has exactly one prediction from 0 to 1

The blend is the one of `overture skip blend`. It includes members that cannot be exported to the service.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import BadArgument, CheckFailed
from jobs.platform import files
from jobs.release.skip.bundle import read_blend_plays
from jobs.release.skip.snapshot import end_day
from jobs.skip import artifacts, dataset
from jobs.tracking.tracker import Tracker
from models.arrays import DoubleVector, IdVector

if TYPE_CHECKING:
    from jobs.platform.context import Context

HEADER = ("sample_id", "is_listened")


def run(context: Context, data: Path, out: Path) -> dict[str, Any]:
    """Predict every row of DATA/test.csv and write OUT.

    Args:
        context: week, lake and settings of the skip engine.
        data: folder of test.csv.
        out: the file to write.

    Returns:
        The report: number of rows, mean and number of distinct predictions.


    Raises:
        BadArgument: there is no test.csv, or OUT cannot be written.
        CheckFailed: rows have no features, or sample ids are not numbers or not unique.
    """
    wanted_N = sample_ids(data / "test.csv")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise BadArgument(f"--out: {out} must be a file in an existing folder")
    with Tracker.task(context, "submit") as tracked:
        labelled, _ = read_blend_plays(context)
        plays, sample_N = dataset.read_unlabelled(context, labelled.cleaning, end=end_day(context))
        known_N, row_N = np.unique(sample_N, return_index=True)
        at = np.minimum(np.searchsorted(known_N, wanted_N), max(len(known_N) - 1, 0))
        missing = wanted_N if not len(known_N) else wanted_N[known_N[at] != wanted_N]
        if len(missing):
            raise CheckFailed(
                f"skip submit: {len(missing)} of {len(wanted_N)} rows have no features (sample_id "
                f"{', '.join(map(str, missing[:5]))} ...) before {end_day(context)}, the week's Monday; "
                "ingest this folder, run `overture skip features` again, or use a later week"
            )
        n_duplicates = len(sample_N) - len(known_N)
        if n_duplicates:
            raise CheckFailed(f"skip submit: {n_duplicates} rows have a duplicate sample_id; ingest this folder alone")
        listen_N = artifacts.load_blend(context).predict_proba(plays)[row_N[at]]
        if len(listen_N) != len(wanted_N) or not ((listen_N >= 0) & (listen_N <= 1)).all():
            raise CheckFailed("skip submit: the blend returned no probability from 0 to 1 for some rows")
        files.replace(out, csv_content(wanted_N, listen_N))
        numbers = {"rows": len(wanted_N), "mean": float(listen_N.mean()), "distinct": len(np.unique(listen_N))}
        tracked.log_metrics(numbers)
        tracked.log_artifact(out, "submission")
        return {
            **numbers,
            "path": str(out.absolute()),
            "members": artifacts.read_blend(context)["members"],
            **tracked.links,
        }


def sample_ids(file: Path) -> IdVector:
    """Return the sample ids of a test file, in its order, (N,) int64.

    Raises:
        BadArgument: the file does not exist.
        CheckFailed: the column is missing, or an id is not a number or not unique.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if HEADER[0] not in (rows.fieldnames or ()):
                raise CheckFailed(f"{file}: column '{HEADER[0]}' is missing")
            ids_N = np.asarray([int(row[HEADER[0]]) for row in rows], np.int64)
    except FileNotFoundError:
        raise BadArgument(f"--data: {file.parent} contains no test.csv") from None
    except (ValueError, TypeError) as error:
        raise CheckFailed(f"{file}: a {HEADER[0]} is not an integer: {error}") from None
    if not len(ids_N):
        raise CheckFailed(f"{file}: has no rows")
    n_duplicates = len(ids_N) - len(np.unique(ids_N))
    if n_duplicates:
        raise CheckFailed(f"{file}: {n_duplicates} sample ids are duplicates")
    return ids_N


def csv_content(sample_N: IdVector, listen_N: DoubleVector) -> bytes:
    """Return the content of the submission file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((int(sample_id), f"{p:.6f}") for sample_id, p in zip(sample_N, listen_N, strict=True))
    return out.getvalue().encode()
