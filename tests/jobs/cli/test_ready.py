"""Tests of `overture ready` and of the setting `source.data`: exit codes, and the report on the last line of stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

SOURCE = {
    "kind": "tables",
    "inputs": {"rows": {"format": "csv", "path": "{data}/{day}.csv"}},
    "tables": {"tracks": "SELECT * FROM rows", "events": "SELECT * FROM rows"},
}


@pytest.fixture
def config(home, tmp_path):
    """A function that writes a settings file of the source `tables`, with changes, and returns its path."""

    def write(**changes: object) -> Path:
        file = tmp_path / "overture.yaml"
        file.write_text(yaml.safe_dump({"name": "t", "week": "2026-11-16", "source": {**SOURCE, **changes}}))
        return file

    return write


def last_line(out):
    """Return the report of a command."""
    return json.loads(out.splitlines()[-1])


def test_a_future_day_is_awaited_and_a_past_day_is_missing(command, config):
    file = config()
    code, out, err = command("ready", "--day", "2999-01-01", "--config", file)
    assert (code, last_line(out)["complete"]) == (4, False)
    assert "events: input is not complete yet: 1 incomplete day, 2999-01-01" in err
    code, out, err = command("ready", "--day", "2015-01-01", "--engine", "skip", "--config", file)
    assert (code, last_line(out)["table"]) == (3, "plays")
    assert "plays: 1 incomplete day, 2015-01-01" in err
    assert "overture ingest tables --day 2015-01-01; or accept: source.accepted_days: [2015-01-01]" in err


def test_an_accepted_day_is_complete(command, config):
    code, out, _ = command("ready", "--day", "2015-01-01", "--config", config(accepted_days=["2015-01-01"]))
    report = last_line(out)
    assert (code, report["complete"], report["accepted_days"]) == (0, True, ["2015-01-01"])


def test_a_week_is_the_window_and_a_backtest_ends_with_its_ground_truth(command, config):
    file = config()
    code, out, _ = command("ready", "--week", "2015-01-05", "--config", file)
    report = last_line(out)
    assert (code, report["first_day"], report["last_day"]) == (3, "2014-10-07", "2015-01-04")
    _, out, _ = command("ready", "--week", "2015-01-05", "--backtest", "--config", file)
    assert last_line(out)["last_day"] == "2015-02-10"


def test_a_simulated_source_is_ready_and_the_report_says_why(command, home):
    code, out, _ = command("ready", "--week", "2026-11-16")
    assert code == 0
    assert last_line(out)["note"] == "days are not checked: source simulate is loaded at once"


def test_ingest_reads_the_folder_of_the_settings_unless_the_option_names_one(command, config, tmp_path):
    code, _, err = command("ingest", "tables", "--config", config(data="/nowhere"))
    assert (code, "got /nowhere" in err) == (2, True)
    code, _, err = command("ingest", "tables", "--config", config(data="/nowhere"), "--data", tmp_path / "other")
    assert (code, f"got {tmp_path / 'other'}" in err) == (2, True)
    code, _, err = command("ingest", "tables", "--config", config())
    assert (code, "(or setting source.data), got None" in err) == (2, True)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data": "relative/folder"}, "source.data"),
        ({"deadline_h": 97}, "source.deadline_h"),  # the task `ready` waits five days at most
        ({"min_day_share": 1.5}, "source.min_day_share"),
        ({"accepted_days": ["2026-02-30"]}, "source.accepted_days.0"),
    ],
)
def test_an_invalid_setting_ends_with_exit_code_2(command, config, changes, field):
    code, _, err = command("ready", "--day", "2015-01-01", "--config", config(**changes))
    assert code == 2
    assert field in err
