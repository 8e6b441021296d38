"""Tests of jobs/ingest/day_files.py: files of a day before and after its deadline."""

from datetime import UTC, date, datetime, timedelta

import pytest

from contracts.errors import BadArgument, CheckFailed, NotReady
from jobs.ingest.day_files import ready
from jobs.settings.source import SourceSettings

DAY = date(2026, 11, 15)
DEADLINE = datetime(2026, 11, 16, 12, tzinfo=UTC)
INPUTS = {
    "songs": "{data}/songs.csv",
    "streams": "{data}/{day}/streams*.csv",
    "likes": "{data}/likes-{day}.csv",
    "unused": "{data}/unused-{day}.csv",
}


@pytest.fixture
def source(tmp_path):
    """A mapping with two inputs by day that the SQL reads, and one that it does not."""
    return SourceSettings.model_validate(
        {
            "kind": "tables",
            "data": str(tmp_path),
            "inputs": {name: {"format": "csv", "path": path} for name, path in INPUTS.items()},
            "tables": {
                "tracks": "SELECT * FROM songs",
                "events": "SELECT * FROM streams UNION ALL SELECT * FROM likes",
            },
        }
    )


def test_missing_files_are_awaited_until_the_deadline_and_named(source, tmp_path):
    (tmp_path / "2026-11-15").mkdir()
    (tmp_path / "2026-11-15" / "streams-0.csv").touch()
    (tmp_path / "likes-2026-11-14.csv").touch()
    report, error = ready(source, DAY, DEADLINE - timedelta(seconds=1))
    assert (report["inputs"], report["missing"]) == (["streams", "likes"], ["likes"])
    assert isinstance(error, NotReady)
    assert "source.inputs.likes: no file of 2026-11-15 matches {data}/likes-{day}.csv" in str(error)
    assert "awaited until 2026-11-16 12:00 UTC" in str(error)
    report, error = ready(source, DAY, DEADLINE)
    assert isinstance(error, CheckFailed)
    (tmp_path / "likes-2026-11-15.csv").touch()
    for now in (DEADLINE - timedelta(days=1), DEADLINE):
        report, error = ready(source, DAY, now)
        assert (report["complete"], error) == (True, None)


def test_a_source_without_files_by_day_is_a_bad_argument(source, tmp_path):
    with pytest.raises(BadArgument, match="simulate is loaded at once"):
        ready(SourceSettings(), DAY)
    with pytest.raises(BadArgument, match=r"source.data: not a folder: ''"):
        ready(source.model_copy(update={"data": ""}), DAY)
