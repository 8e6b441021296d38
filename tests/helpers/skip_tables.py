"""A small simulated DSG17 folder and the settings to ingest it."""

from __future__ import annotations

import csv

from jobs.ingest.dsg17.adapter import COLUMNS, LABEL
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import load
from jobs.settings.skip import SkipSettings

NAMES = (*COLUMNS, LABEL)
VALID = dict(zip(NAMES, (7, 1_478_000_000, 11, 12, 1, 20160101, 0, 0, 200, 1, 0, 3, 13, 25, 1), strict=True))


def write_rows(file, rows, names=NAMES):
    """Write rows that state only the tested columns; None becomes an empty field."""
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(names)
        for n, row in enumerate(rows):
            full = {**VALID, "sample_id": n, "ts_listen": VALID["ts_listen"] + n, **row}
            writer.writerow([full[name] for name in names])


def skip_context(home, **cleaning):
    """Return a context with the tiny settings and a cleaning section; OVERTURE_HOME is `home` already."""
    settings = load()
    skip = SkipSettings.model_validate({"cleaning": cleaning, "features": {"rows_per_group": 2_000}})
    return Context(settings.model_copy(update={"skip": skip}), Week.parse("2016-12-05"), home)
