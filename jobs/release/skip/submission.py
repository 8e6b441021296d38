"""The competition's submission: the chance of a listen of each row to judge, `sample_id,is_listened`.

Input   DATA/test.csv for which rows; their features from skip_features; the week's blend, all of its members
Output  one CSV file, rows in the order of test.csv; written aside and put in place in one step
Checked every row is answered once, by a number from 0 to 1

The blend is the one that `overture skip blend` kept: members that no service can answer with are part of it here.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import BadArgument, CheckFailed
from jobs.platform import files
from jobs.release.skip import bundle
from jobs.skip import artifacts, dataset
from jobs.tracking.tracker import Tracker

if TYPE_CHECKING:
    from jobs.platform.context import Context

HEADER = ("sample_id", "is_listened")


def run(context: Context, data: Path, out: Path) -> dict[str, Any]:
    """Answer every row of DATA/test.csv and write OUT; returns how many, and what was said on the whole.

    Raises:
        BadArgument: no test.csv, or OUT cannot be written.
        CheckFailed: rows without features, or sample ids that are no numbers, or twice.
    """
    wanted = sample_ids(data / "test.csv")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise BadArgument(f"--out: {out} must be a file in a folder that is there")
    with Tracker.task(context, "submit") as tracked:
        found, _ = bundle.learned_from(context)
        plays, sample_N = dataset.read_unlabelled(context, found.cleaning, end=bundle.before(context))
        known_N, row_N = np.unique(sample_N, return_index=True)
        at = np.minimum(np.searchsorted(known_N, wanted), max(len(known_N) - 1, 0))
        missing = wanted if not len(known_N) else wanted[known_N[at] != wanted]
        if len(missing):
            raise CheckFailed(
                f"skip submit: {len(missing)} of {len(wanted)} rows have no features (sample_id "
                f"{', '.join(map(str, missing[:5]))} ...) before {bundle.before(context)}, the week's Monday; "
                "ingest this folder, run `overture skip features` again, or answer by a later week"
            )
        twice = len(sample_N) - len(known_N)
        if twice:
            raise CheckFailed(f"skip submit: {twice} questions share a sample_id; ingest this folder alone")
        listen_N = artifacts.load_blend(context).predict_proba(plays)[row_N[at]]
        if len(listen_N) != len(wanted) or not ((listen_N >= 0) & (listen_N <= 1)).all():
            raise CheckFailed("skip submit: the blend gave something else than a chance for some rows")
        files.replace(out, rendered(wanted, listen_N))
        numbers = {"rows": len(wanted), "mean": float(listen_N.mean()), "distinct": len(np.unique(listen_N))}
        tracked.log_metrics(numbers)
        tracked.log_artifact(out, "submission")
        return {
            **numbers,
            "path": str(out.absolute()),
            "members": artifacts.read_blend(context)["members"],
            **tracked.links,
        }


def sample_ids(file: Path) -> np.ndarray:
    """The rows that are asked for, in the file's order (N,) int64."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if HEADER[0] not in (rows.fieldnames or ()):
                raise CheckFailed(f"{file}: column '{HEADER[0]}' is missing")
            found = np.asarray([int(row[HEADER[0]]) for row in rows], np.int64)
    except FileNotFoundError:
        raise BadArgument(f"--data: {file.parent} holds no test.csv") from None
    except (ValueError, TypeError) as error:
        raise CheckFailed(f"{file}: a {HEADER[0]} is no whole number: {error}") from None
    if not len(found):
        raise CheckFailed(f"{file}: has no rows")
    if len(np.unique(found)) < len(found):
        raise CheckFailed(f"{file}: {len(found) - len(np.unique(found))} sample ids are there twice")
    return found


def rendered(sample_N: np.ndarray, listen_N: np.ndarray) -> bytes:
    """The file's content."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((int(one), f"{p:.6f}") for one, p in zip(sample_N, listen_N, strict=True))
    return out.getvalue().encode()
