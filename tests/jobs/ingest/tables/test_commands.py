"""The commands of the source `tables`: arguments and exit codes before any Spark session starts."""

from __future__ import annotations

import json

import pytest


def test_init_writes_settings_once(command, home, tmp_path):
    (tmp_path / "users.csv").write_text("id,country\n1,DE\n")
    code, out, _ = command("init", "--data", tmp_path)
    assert code == 0
    assert json.loads(out.splitlines()[-1])["settings"] == str(tmp_path / "overture.yaml")
    code, _, err = command("init", "--data", tmp_path)
    assert (code, "exists" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ingest", "simulate", "--dry-run"), "are for the source tables"),
        (("ingest", "tables"), "source simulate is loaded at once, by `overture ingest simulate`"),
        (("ingest", "tables", "--data", ".", "--day", "yesterday"), "'yesterday' is not a day"),
        (("ingest", "tables", "--data", "."), "needs a settings file with source.kind: tables"),
        (("ingest", "tables", "--data", ".", "--dry-run"), "needs a settings file with source.kind: tables"),
        (("init", "--data", "nowhere"), "there is no folder nowhere"),
        (("make-tables", "--out", "."), "is not empty"),
    ],
)
def test_wrong_arguments_end_with_exit_code_2(command, home, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "f").write_text("x")
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*arguments)
    assert code == 2
    assert message in err
