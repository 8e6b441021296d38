"""Tests of `overture status` for the skip engine."""

import json
from datetime import date

import pytest

from contracts.errors import CheckFailed
from jobs.cli import status
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release.skip import daily_update
from jobs.settings.settings import load
from tests.helpers import skip_week
from tests.helpers.skip_week import DAY, champion, with_gate_settings


@pytest.fixture
def context(skip_week_home, tmp_path, monkeypatch):
    return skip_week.copied(skip_week_home, tmp_path, monkeypatch)


def build_report(context):
    return status.build_report(Context(load(), Week.parse(skip_week.WEEK), context.home))


def printed(report, capsys):
    capsys.readouterr()
    status.render(report)
    return capsys.readouterr().out


def test_status_shows_the_skip_engine_if_cold_start_has_no_champion(context, capsys):
    report = build_report(context)
    assert json.loads(json.dumps(report)) == report
    release, skip = champion(context), report["skip"]
    assert (report["champion"], skip["champion"], skip["week"], skip["verdict"]) == (
        None,
        release.name,
        "2016-11-28",
        "pass",
    )
    assert skip["mlflow"]["aliases_agree"] is True
    assert {row["model"] for row in skip["evaluation"]} >= {"blend", "boosted_trees"}
    assert skip["checks"]["plays"]["success"] is True
    out = printed(report, capsys)
    for word in (
        "none yet",
        "Gate of the skip engine",
        "better than user rate",
        "Champion of the skip engine",
        release.name,
        "boosted trees",
        "of the skip engine in MLflow",
    ):
        assert word in out, word
    assert "skip/quality/2016-11-28/index.html" in "".join(out.split())  # the terminal may wrap the line
    auc = next(
        r
        for r in skip["evaluation"]
        if (r["model"], r["split"], r["slice"], r["metric"]) == ("blend", "test", "all", "auc")
    )
    assert f"{auc['value']:.4f} ({auc['low']:.4f}-{auc['high']:.4f})" in out
    assert f"Skip engine, {auc['n']} test plays" in out


def test_status_shows_a_failed_day_beside_the_champion_then_the_day_that_passed(context, capsys):
    with pytest.raises(CheckFailed):
        daily_update.run(with_gate_settings(context, max_calibration_error=0.0).settings, date.fromisoformat(DAY))
    report = build_report(context)["skip"]
    assert (report["week"], report["latest"]["week"], report["latest"]["verdict"]) == (
        "2016-11-28",
        "2016-11-29-daily",
        "fail",
    )
    assert "Gate of the skip engine, 2016-11-29-daily: not the champion" in printed(build_report(context), capsys)
    daily_update.run(context.settings, date.fromisoformat(DAY))
    report = build_report(context)
    assert (report["skip"]["week"], report["skip"]["latest"]) == ("2016-11-29-daily", None)
    assert report["skip"]["mlflow"]["parent"]["verdict"] == "pass"
    assert "plays of the day, 95 % interval" in printed(report, capsys)


def test_status_reports_a_damaged_release(context, capsys):
    (champion(context).folder / "answers.json").write_text("{}")
    report = build_report(context)
    assert "answers.json" in report["skip"]["problem"]
    assert "overture release rollback --engine skip" in printed(report, capsys)
