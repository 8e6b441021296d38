"""Tests of `overture status`."""

from __future__ import annotations

import json

import pytest

from contracts.errors import CheckFailed
from jobs.cli import status
from jobs.release import bundle, gate, pointer, publish
from tests.helpers import small_week


@pytest.fixture
def promoted(home):
    return small_week.staged(home, "champion")


def printed(report, capsys) -> str:
    capsys.readouterr()
    status.render(report)
    return capsys.readouterr().out


def test_status_without_a_champion_prints_the_next_command_and_creates_nothing(home, capsys):
    context = small_week.context_at(home)
    report = status.build_report(context)
    assert (report["champion"], report["week"], report["verdict"], report["evaluation"]) == (None, None, None, [])
    assert "make demo" in printed(report, capsys)
    assert not home.exists() or not list(home.rglob("*.db"))


def test_status_shows_the_champion_with_metrics_and_verdict(promoted, capsys):
    report = status.build_report(promoted)
    assert json.loads(json.dumps(report)) == report
    assert (report["champion"], report["week"], report["verdict"]) == (
        bundle.release_of_week(promoted),
        "2026-11-16",
        "pass",
    )
    row = next(row for row in report["evaluation"] if row["method"] == "semi_pers" and row["split"] == "test")
    assert row.keys() >= {"space", "method", "split", "slice", "metric", "k", "value", "low", "high"}
    assert report["mlflow"]["aliases_agree"] is True
    assert report["mlflow"]["parent"]["url"].startswith("http://127.0.0.1:5000/#/experiments/")
    assert report["versions"]["onnxruntime"]
    assert report["latest"] is None
    out = printed(report, capsys)
    for word in (
        "Data checks",
        "tt_svd",
        "ut_als",
        "semi pers",
        "20.00 (10.00-30.00)",
        "better than popularity",
        report["champion"],
        "not yet",
        "Where to look next",
        "overture status --json",
    ):
        assert word in out, word
    publish.run(promoted)
    assert "not yet" not in printed(status.build_report(promoted), capsys)


def test_status_shows_a_newer_failed_week_beside_the_champion(promoted, capsys):
    later = small_week.ready(promoted.home, "2026-11-23", taste=0.0)
    bundle.run(later)
    with pytest.raises(CheckFailed):
        gate.run(later)
    report = status.build_report(promoted)
    assert (report["week"], report["verdict"]) == ("2026-11-16", "pass")
    assert (report["latest"]["week"], report["latest"]["verdict"]) == ("2026-11-23", "fail")
    assert "Gate of week 2026-11-23: not the champion" in printed(report, capsys)


def test_status_works_while_mlflow_is_unavailable(promoted, capsys):
    database = promoted.home / "mlflow" / "mlflow.db"
    database.unlink()
    database.mkdir()
    report = status.build_report(promoted)
    assert report["champion"] == bundle.release_of_week(promoted)
    assert report["evaluation"]
    assert report["mlflow"]["aliases_agree"] is None
    assert "is unavailable" in report["mlflow"]["unavailable"]
    assert "unknown, MLflow is unavailable" in printed(report, capsys)


def test_status_reports_differing_aliases_and_a_damaged_champion(promoted, capsys):
    current = pointer.read(promoted.home)
    next_week = small_week.ready(promoted.home, "2026-11-23", seed=3)
    release = bundle.run(next_week)["release"]
    pointer.move(promoted.home, current.revision, release, "2026-11-23")
    report = status.build_report(promoted)
    assert report["mlflow"]["aliases_agree"] is False
    assert report["verdict"] is None
    assert "differ" in printed(report, capsys)
    (pointer.releases(promoted.home) / release / "evaluation.json").unlink()
    report = status.build_report(promoted)
    assert "evaluation.json is missing" in report["problem"]
    assert "overture release rollback" in printed(report, capsys)
