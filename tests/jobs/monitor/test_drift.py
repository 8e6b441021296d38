"""Tests of jobs/monitor/drift.py: drifted features are reported, others are not."""

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
from models.cold_start.input_vector import INTERACTIONS, FirstDays
from models.cold_start.ragged import Ragged
from serving.release import input_drift
from tests.helpers import small_week

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
N = 700


@pytest.fixture
def champion(home) -> Context:
    return small_week.staged(home, "champion")


def write_first_days(context: Context, days: list[int], n: int = N, country: str | None = None) -> None:
    """Write first days of n new listeners per day, sampled from the training data; `country` replaces their country."""
    trained = context.lake.read("first_day", week=small_week.FIRST, split="train").to_pylist()
    rng = np.random.default_rng(3)
    for back in days:
        registered = MONDAY - timedelta(days=back)
        rows = [
            {**trained[at], "user_id": 1_000 * back + number, "registered_at": registered + timedelta(seconds=number)}
            | ({"country": country} if country else {})
            for number, at in enumerate(rng.integers(0, len(trained), n))
        ]
        frame = pa.Table.from_pylist(rows, arrow_schema(contracts.load("cold_first_day")))
        context.lake.write("cold_first_day", frame, day=f"{registered:%Y-%m-%d}")


def test_only_drifted_features_are_reported(champion, capsys):
    write_first_days(champion, [1, 2, 7])
    same = monitor.run(champion)
    assert (same["drifted"], same["new_listeners"]) == ([], 3 * N)
    assert same["release"] == pointer.read(champion.home).release
    assert same["missing_days"] == ["2026-11-10", "2026-11-11", "2026-11-12", "2026-11-13"]
    assert "days without data: 2026-11-10" in capsys.readouterr().err
    write_first_days(champion, [1, 2, 7], country="ZZ")
    shifted = monitor.run(champion)
    assert shifted["drifted"] == ["country"]
    output = capsys.readouterr()
    assert "new listeners have drifted in country" in output.err
    assert "PSI" in output.out


def test_days_of_other_weeks_are_ignored(champion):
    write_first_days(champion, [3])
    write_first_days(champion, [0, 8], country="ZZ")
    assert monitor.run(champion)["new_listeners"] == N


def test_few_new_listeners_are_not_drift():
    """With psi_threshold alone, every small sample would count as drifted."""
    rng = np.random.default_rng(0)

    def days(n: int, codes: list[str]) -> FirstDays:
        blocks = {name: Ragged.from_lists([[]] * n) for name in INTERACTIONS}
        return FirstDays(rng.choice(codes, n).astype(object), np.full(n, 30), blocks)

    codes = [f"{a}{b}" for a in "ABCDE" for b in "ABCDE"]
    reference = input_drift.reference(days(5_000, codes))
    few = {drift.feature: drift for drift in monitor.measure_drift(reference, days(20, codes), MonitorSettings())}
    assert few["country"].psi > MonitorSettings().psi_threshold
    assert few["country"].verdict == "same"
    many = {
        drift.feature: drift for drift in monitor.measure_drift(reference, days(2_000, codes[:5]), MonitorSettings())
    }
    assert many["country"].verdict == "drifted"
    assert many["age"].psi == pytest.approx(0, abs=1e-3)


def test_missing_inputs_raise(champion, home):
    with pytest.raises(CheckFailed, match="no new listener from 2026-11-09 to 2026-11-15; run `overture cold-users"):
        monitor.run(champion)
    write_first_days(champion, [1], n=5)
    name = pointer.read(home).release
    old = small_week.with_changed_files(pointer.releases(home) / name, {"inputs.json": None})
    with pointer.move_lock(home):
        pointer.move(home, 1, old.name, small_week.FIRST)
    with pytest.raises(CheckFailed, match=r"does not contain inputs\.json"):
        monitor.run(champion)
    (pointer.releases(home) / "champion.json").unlink()
    with pytest.raises(CheckFailed, match="there is no champion yet"):
        monitor.run(champion)


def test_the_command_requires_a_monday_and_a_champion(home, command):
    code, _, error = command("monitor", "--week", "2026-11-17")
    assert (code, "named by its Monday" in error) == (2, True)
    code, _, error = command("monitor", "--week", "2026-11-16")
    assert (code, "there is no champion yet" in error) == (3, True)


def test_the_run_contains_metrics_and_tags(champion):
    from jobs.tracking.tracker import Tracker

    write_first_days(champion, [1])
    report = monitor.run(champion)
    monitor_context = Context(champion.settings, champion.week, champion.home, experiment="monitor_weekly")
    client = Tracker.connect(monitor_context).client
    run = client.get_run(report["mlflow_run"])
    assert run.data.tags["verdict"] == "same"
    assert run.data.metrics["new_listeners"] == N
    assert "psi/streamed_songs" in run.data.metrics
    assert json.dumps(report)
