"""Tests of the A/B analysis: it detects an effect, and raises if data or plan do not allow a conclusion."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import contracts
from contracts.arrow import arrow_schema
from contracts.entity_ids import stable_id
from contracts.errors import BadArgument, CheckFailed
from jobs.experiments import analyse, off_policy, plan
from jobs.experiments.exposures import days, from_fallback, n_misassigned
from jobs.platform.context import Context
from jobs.tracking.tracker import Tracker
from models.evaluation.assignment import arm_index, bucket_bounds
from serving.experiment import assignment
from tests.helpers import small_week

SECTION = {
    "first_day": "2026-11-23",
    "last_day": "2026-11-26",
    "control": "a",
    "baseline_rate": 0.2,
    "min_effect": 0.5,
    "alpha": 0.05,
    "power": 0.8,
    "displays_per_user": 8,
    "design_effect": 2.0,
    "arms": [
        {"name": "a", "method": "country_age_mean", "share": 0.5},
        {"name": "b", "method": "semi_pers", "share": 0.3},
        {"name": "c", "method": "popularity", "share": 0.2},
    ],
}
BEFORE = datetime(2026, 11, 20, tzinfo=UTC)
RATE = {"a": 0.2, "b": 0.4, "c": 0.2}


@pytest.fixture
def planned(tmp_path) -> Context:
    """A context with an empty MLflow database and an experiment in its settings."""
    context = small_week.ready(tmp_path / "home", taste=None)
    settings = context.settings.model_validate({**context.settings.model_dump(), "experiment": SECTION})
    return Context(settings, context.week, context.home)


def write_displays(
    context: Context, n: int = 1_500, rate=RATE, include=lambda user, arm: True, arm_for=lambda user, arm: arm, skip=()
):
    """Write two lists of four tracks for n listeners; outcomes follow the arm's rate times a random factor."""
    experiment = context.settings.experiment
    rng, bounds = np.random.default_rng(5), bucket_bounds([arm.share for arm in experiment.arms])
    by_day: dict[str, list[dict]] = {day: [] for day in days(experiment)}
    outcomes: dict[str, list[dict]] = {day: [] for day in by_day}
    for user in range(n):
        arm = experiment.arms[arm_index(experiment.name, experiment.salt, str(user), bounds)]
        if not include(user, arm.name):
            continue
        probability = min(rng.gamma(4, 0.25) * rate[arm.name], 1)
        for visit in range(2):
            day = list(by_day)[(user + visit) % len(by_day)]
            ts = datetime.fromisoformat(f"{day}T08:00:00+00:00")
            for position in range(1, 5):
                row = {"request_id": f"{user}-{visit}", "user_id": user, "ts": ts, "track_id": position}
                by_day[day].append(
                    {
                        **row,
                        "experiment": experiment.name,
                        "arm": arm_for(user, arm.name),
                        "position": position,
                        "propensity": 1.0,
                        "method": arm.method,
                        "release": "r",
                    }
                )
                if rng.random() < probability:
                    outcomes[day].append({**row, "kind": "stream"})
                    if rng.random() < 0.3:
                        outcomes[day].append({**row, "kind": "favorite"})
    for table, rows in (("exposures", by_day), ("outcomes", outcomes)):
        for day, day_rows in rows.items():
            if day_rows and day not in skip:
                frame = pa.Table.from_pylist(day_rows, arrow_schema(contracts.load(table)))
                context.lake.write(table, frame, day=day)


def test_an_effect_is_detected_and_logged(planned, capfd):
    registered = plan.register(planned, BEFORE)
    assert registered["users_per_arm"] < 250
    write_displays(planned)
    result = analyse.run(planned, "first_day")
    assert result["verdicts"] == {"b": "better", "c": "no difference shown"}
    arms = result["arms"]
    assert arms["b"]["stream"]["low"] < 2 < arms["b"]["stream"]["high"]
    assert arms["b"]["stream"]["rate"] == pytest.approx(0.4, abs=0.04)
    assert arms["b"]["stream"]["design_effect"] > 1.2
    assert arms["a"]["stream"]["ratio"] == 1
    output = capfd.readouterr().out
    for word in ("better", "no difference shown", "control", "streamed, %"):
        assert word in output
    assert (
        json.loads((planned.home / "experiments" / "first_day.verdict.json").read_text())["digest"] == result["digest"]
    )
    assert (planned.home / "experiments" / "first_day.verdict.png").read_bytes()[:4] == b"\x89PNG"
    tracker = Tracker.connect(Context(planned.settings, planned.week, planned.home, experiment="ab_tests"))
    run = tracker.client.get_run(result["mlflow_run"])
    assert run.data.tags["verdict.b"] == "better"
    assert run.data.tags["plan_digest"] == registered["digest"]
    assert {file.path for file in tracker.client.list_artifacts(result["mlflow_run"])} >= {
        "relative_rates.png",
        "verdict.json",
    }
    again = analyse.run(planned, "first_day")
    assert again["arms"] == arms


def rejection_message(context: Context, capfd) -> str:
    """Return the message of a rejected analysis, which must not print or store any rate."""
    with pytest.raises(CheckFailed) as raised:
        analyse.run(context, "first_day")
    output = capfd.readouterr().out
    assert "%" not in output, "a rejected analysis prints no rate"
    assert not (context.home / "experiments" / "first_day.verdict.json").exists()
    return str(raised.value)


def test_fewer_listeners_than_planned_are_rejected(planned, capfd):
    plan.register(planned, BEFORE)
    write_displays(planned, n=300)
    assert "listeners in each arm; there are" in rejection_message(planned, capfd)


def test_an_analysis_before_the_last_day_is_rejected(planned, capfd):
    plan.register(planned, BEFORE)
    write_displays(planned, skip=("2026-11-26",))
    assert "planned days without a display: 2026-11-26; the test is not over" in rejection_message(planned, capfd)


def test_a_day_without_outcomes_is_rejected(planned, capfd):
    plan.register(planned, BEFORE)
    write_displays(planned)
    planned.lake.drop("outcomes", day="2026-11-25")
    assert "without an outcome: 2026-11-25; run `overture ab-ingest`" in rejection_message(planned, capfd)


def test_a_sample_ratio_mismatch_is_rejected(planned, capfd):
    plan.register(planned, BEFORE)
    write_displays(planned, n=3_000, include=lambda user, arm: arm != "b" or user % 4)
    assert "sample ratio mismatch: listeners differ from the planned shares" in rejection_message(planned, capfd)


def test_a_listener_in_another_arm_is_rejected(planned, capfd):
    plan.register(planned, BEFORE)
    ends = bucket_bounds([0.5, 0.3, 0.2])
    stray = next(user for user in range(1_500) if arm_index("first_day", "1", str(user), ends) != 0)
    write_displays(planned, arm_for=lambda user, arm: "a" if user == stray else arm)
    assert "1 listeners were shown an arm other than the assigned one" in rejection_message(planned, capfd)


def test_the_arm_of_a_listener_is_that_of_the_external_id(planned):
    ends, settings = bucket_bounds([0.5, 0.3, 0.2]), planned.settings.experiment
    texts = [f"urn:user:{n}" for n in range(200)]
    arms = [settings.arms[arm_index("first_day", "1", text, ends)].name for text in texts]
    users = pd.DataFrame({"user_id": [stable_id(text) for text in texts], "user_external_id": texts, "arm": arms})
    assert n_misassigned(users, settings) == 0
    assert n_misassigned(users.assign(user_external_id=None), settings) > 50, "without the texts, the ids are hashed"


def test_a_plan_after_the_first_display_is_rejected(planned, capfd):
    plan.register(planned, BEFORE)
    write_displays(planned)
    early = planned.lake.read("exposures", day="2026-11-23").to_pylist()[:1]
    early[0]["ts"] = datetime(2026, 11, 19, 12, tzinfo=UTC)
    frame = pa.Table.from_pylist(early, arrow_schema(contracts.load("exposures")))
    planned.lake.write("exposures", frame, day="2026-11-19")
    assert "after the first display at 2026-11-19" in rejection_message(planned, capfd)


def test_a_plan_is_registered_once_and_before_its_first_day(planned):
    first = plan.register(planned, BEFORE)
    again = plan.register(planned, datetime(2026, 12, 24, tzinfo=UTC))
    assert (again["digest"], again["registered_at"], again["already_registered"]) == (
        first["digest"],
        BEFORE.isoformat(),
        True,
    )
    changed = planned.settings.experiment.model_copy(update={"alpha": 0.2})
    changed_context = Context(planned.settings.model_copy(update={"experiment": changed}), planned.week, planned.home)
    with pytest.raises(BadArgument, match="another plan of this name"):
        plan.register(changed_context, BEFORE)
    late = Context(
        planned.settings.model_copy(update={"experiment": changed.model_copy(update={"name": "late"})}),
        planned.week,
        planned.home,
    )
    with pytest.raises(BadArgument, match="has begun"):
        plan.register(late, datetime(2026, 11, 23, 0, 0, 1, tzinfo=UTC))
    assert not assignment.plan_path(planned.home, "late").exists()


def test_a_changed_plan_is_rejected(planned, capfd):
    plan.register(planned, BEFORE)
    write_displays(planned)
    path = assignment.plan_path(planned.home, "first_day")
    path.write_text(path.read_text().replace('"alpha":0.05', '"alpha":0.25'))
    assert "changed after its registration" in rejection_message(planned, capfd)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"plan": {}}', "\\"])
def test_a_damaged_plan_raises_with_its_name(home, content):
    path = assignment.plan_path(home, "first_day")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(CheckFailed, match="first_day"):
        assignment.read_plan(home, "first_day")


def test_without_a_plan_or_displays_the_error_contains_the_command(planned, capfd):
    with pytest.raises(BadArgument, match="overture ab-plan"):
        analyse.run(planned, "first_day")
    plan.register(planned, BEFORE)
    assert "overture ab-ingest" in rejection_message(planned, capfd)


def test_missing_contexts_or_propensities_raise(planned):
    plan.register(planned, BEFORE)
    write_displays(planned)
    with pytest.raises(CheckFailed, match="exposure_contexts of 2026-11-23 are missing"):
        off_policy.run(planned, "first_day", "b", "popularity")
    with pytest.raises(BadArgument, match="has no arm x"):
        off_policy.run(planned, "first_day", "x", "popularity")
    rows = planned.lake.read("exposures", day="2026-11-23").to_pylist()
    rows[0]["propensity"] = next(row for row in rows if row["arm"] == "b")["propensity"] = None
    frame = pa.Table.from_pylist(rows, arrow_schema(contracts.load("exposures")))
    planned.lake.write("exposures", frame, day="2026-11-23")
    with pytest.raises(CheckFailed, match="1 have no propensity"):
        off_policy.run(planned, "first_day", "b", "popularity")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{control: nobody}", "no arm nobody"),
        ("{baseline_rate: 0.9, min_effect: 0.2}", "cannot grow"),
        ("{arms: [{name: a, method: magic, share: 0.5}]}", "experiment.arms.0.method"),
        ("{salt: 'a b'}", "experiment.salt"),
    ],
)
def test_an_invalid_plan_is_rejected(section, message, home, tmp_path, command):
    file = tmp_path / "mine.yaml"
    file.write_text(f'name: mine\nweek: "2026-11-16"\nexperiment: {section}\n')
    code, _, error = command("ab-plan", "--config", file)
    assert (code, message in error) == (2, True), error


def test_an_unknown_policy_is_rejected(home, command):
    code, _, error = command("ab-estimate", "--policy", "magic", "--arm", "exploring")
    assert (code, "choose semi_pers" in error) == (2, True)


def test_lists_by_country_and_age_are_no_fallback_of_a_method_that_uses_them():
    method = pd.Series(["semi_pers", "country_age", "popularity", "country_age"])
    of_arm = pd.Series(["semi_pers", "semi_pers", "semi_pers", "blend"])
    assert from_fallback(method, of_arm).tolist() == [False, False, True, True]
