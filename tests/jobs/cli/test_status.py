"""What `overture status` knows, and when."""

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


def printed(found, capsys) -> str:
    capsys.readouterr()
    status.render(found)
    return capsys.readouterr().out


def test_without_a_champion_it_says_what_to_do_and_makes_nothing(home, capsys):
    context = small_week.context_at(home)
    found = status.data(context)
    assert (found["champion"], found["week"], found["verdict"], found["evaluation"]) == (None, None, None, [])
    assert "make demo" in printed(found, capsys)
    assert not home.exists() or not list(home.rglob("*.db"))


def test_the_champion_its_metrics_and_its_verdict(promoted, capsys):
    found = status.data(promoted)
    assert json.loads(json.dumps(found)) == found
    assert (found["champion"], found["week"], found["verdict"]) == (bundle.of_week(promoted), "2026-11-16", "pass")
    row = next(row for row in found["evaluation"] if row["method"] == "semi_pers" and row["split"] == "test")
    assert row.keys() >= {"space", "method", "split", "slice", "metric", "k", "value", "low", "high"}
    assert found["mlflow"]["aliases_agree"] is True
    assert found["mlflow"]["parent"]["url"].startswith("http://127.0.0.1:5000/#/experiments/")
    assert found["versions"]["onnxruntime"]
    assert found["latest"] is None
    out = printed(found, capsys)
    for word in (
        "Data checks",
        "tt_svd",
        "ut_als",
        "semi pers",
        "20.00 (10.00-30.00)",
        "better than popularity",
        found["champion"],
        "not yet",
        "Where to look next",
        "overture status --json",
    ):
        assert word in out, word
    publish.run(promoted)
    assert "not yet" not in printed(status.data(promoted), capsys)


def test_a_newer_week_that_failed_is_shown_beside_the_champion(promoted, capsys):
    later = small_week.ready(promoted.home, "2026-11-23", taste=0.0)
    bundle.run(later)
    with pytest.raises(CheckFailed):
        gate.run(later)
    found = status.data(promoted)
    assert (found["week"], found["verdict"]) == ("2026-11-16", "pass")
    assert (found["latest"]["week"], found["latest"]["verdict"]) == ("2026-11-23", "fail")
    assert "Gate of week 2026-11-23: not the champion" in printed(found, capsys)


def test_it_works_while_mlflow_is_away(promoted, capsys):
    database = promoted.home / "mlflow" / "mlflow.db"
    database.unlink()
    database.mkdir()
    found = status.data(promoted)
    assert found["champion"] == bundle.of_week(promoted)
    assert found["evaluation"]
    assert found["mlflow"]["aliases_agree"] is None
    assert "is unavailable" in found["mlflow"]["away"]
    assert "unknown, MLflow is away" in printed(found, capsys)


def test_aliases_that_differ_and_a_damaged_champion_are_said(promoted, capsys):
    now = pointer.read(promoted.home)
    other = small_week.ready(promoted.home, "2026-11-23", seed=3)
    release = bundle.run(other)["release"]
    pointer.move(promoted.home, now.revision, release, "2026-11-23")
    found = status.data(promoted)
    assert found["mlflow"]["aliases_agree"] is False
    assert found["verdict"] is None
    assert "differ" in printed(found, capsys)
    (pointer.releases(promoted.home) / release / "evaluation.json").unlink()
    found = status.data(promoted)
    assert "evaluation.json is missing" in found["problem"]
    assert "overture release rollback" in printed(found, capsys)
