"""Newcomers of a week against the champion's training: the same ones are the same, others are named."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import CheckFailed
from jobs.monitor import drift as monitor
from jobs.platform.context import Context
from jobs.release import pointer
from jobs.settings.cold_start import MonitorSettings
from models.cold_start.input_vector import INTERACTIONS, FirstDays, Ragged
from serving.release import input_drift
from tests.helpers import small_week

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
N = 700


@pytest.fixture
def champion(home) -> Context:
    return small_week.staged(home, "champion")


def newcomers(context: Context, days: list[int], n: int = N, country: str | None = None) -> None:
    """n newcomers a day, drawn from the first days that the champion learned from; `country`: all of this one."""
    trained = context.lake.read("first_day", week=small_week.FIRST, split="train").to_pylist()
    rng = np.random.default_rng(3)
    for back in days:
        born = MONDAY - timedelta(days=back)
        rows = [
            {**trained[at], "user_id": 1_000 * back + number, "registered_at": born + timedelta(seconds=number)}
            | ({"country": country} if country else {})
            for number, at in enumerate(rng.integers(0, len(trained), n))
        ]
        frame = pa.Table.from_pylist(rows, arrow_schema(contracts.load("cold_first_day")))
        context.lake.write("cold_first_day", frame, day=f"{born:%Y-%m-%d}")


def test_the_same_listeners_are_the_same_and_others_are_named(champion, capsys):
    newcomers(champion, [1, 2, 7])
    same = monitor.run(champion)
    assert (same["others"], same["newcomers"]) == ([], 3 * N)
    assert same["release"] == pointer.read(champion.home).release
    assert same["missing_days"] == ["2026-11-10", "2026-11-11", "2026-11-12", "2026-11-13"]
    assert "not placed and not counted: 2026-11-10" in capsys.readouterr().err
    newcomers(champion, [1, 2, 7], country="ZZ")
    other = monitor.run(champion)
    assert other["others"] == ["country"]
    said = capsys.readouterr()
    assert "newcomers are others in country" in said.err
    assert "stability index" in said.out


def test_days_of_other_weeks_are_not_looked_at(champion):
    newcomers(champion, [3])
    newcomers(champion, [0, 8], country="ZZ")
    assert monitor.run(champion)["newcomers"] == N


def test_few_newcomers_prove_nothing():
    """The limit alone would call every handful of listeners others."""
    rng = np.random.default_rng(0)

    def days(n: int, codes: list[str]) -> FirstDays:
        blocks = {name: Ragged.from_lists([[]] * n) for name in INTERACTIONS}
        return FirstDays(rng.choice(codes, n).astype(object), np.full(n, 30), blocks)

    codes = [f"{a}{b}" for a in "ABCDE" for b in "ABCDE"]
    reference = input_drift.reference(days(5_000, codes))
    few = {one.feature: one for one in monitor.judged(reference, days(20, codes), MonitorSettings())}
    assert few["country"].psi > MonitorSettings().psi_threshold
    assert few["country"].verdict == "same"
    alike = {one.feature: one for one in monitor.judged(reference, days(2_000, codes[:5]), MonitorSettings())}
    assert alike["country"].verdict == "others"
    assert alike["age"].psi == pytest.approx(0, abs=1e-3)


def test_what_is_missing_is_named(champion, home):
    with pytest.raises(CheckFailed, match="no newcomer from 2026-11-09 to 2026-11-15; run `overture cold-users"):
        monitor.run(champion)
    newcomers(champion, [1], n=5)
    name = pointer.read(home).release
    old = small_week.resealed(pointer.releases(home) / name, {"inputs.json": None})
    with pointer.move_lock(home):
        pointer.move(home, 1, old.name, small_week.FIRST)
    with pytest.raises(CheckFailed, match=r"too old to hold inputs\.json"):
        monitor.run(champion)
    (pointer.releases(home) / "champion.json").unlink()
    with pytest.raises(CheckFailed, match="there is no champion yet"):
        monitor.run(champion)


def test_the_command_reports_and_wants_a_monday(home, command):
    code, _, said = command("monitor", "--week", "2026-11-17")
    assert (code, "named by its Monday" in said) == (2, True)
    code, _, said = command("monitor", "--week", "2026-11-16")
    assert (code, "there is no champion yet" in said) == (3, True)


def test_the_run_keeps_the_table(champion):
    from jobs.tracking.tracker import Tracker

    newcomers(champion, [1])
    report = monitor.run(champion)
    kept = Context(champion.settings, champion.week, champion.home, experiment="monitor_weekly")
    client = Tracker.connect(kept).client
    run = client.get_run(report["mlflow_run"])
    assert run.data.tags["verdict"] == "same"
    assert run.data.metrics["newcomers"] == N
    assert "psi/streamed_songs" in run.data.metrics
    assert json.dumps(report)
