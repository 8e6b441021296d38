"""The A/B test as a command: it finds an effect, and it refuses a verdict that the data or the plan do not carry."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import BadArgument, CheckFailed
from jobs.experiments import analyse, off_policy, plan
from jobs.experiments.exposures import days
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
    """A home with a fresh MLflow and an experiment in its settings."""
    context = small_week.ready(tmp_path / "home", taste=None)
    settings = context.settings.model_validate({**context.settings.model_dump(), "experiment": SECTION})
    return Context(settings, context.week, context.home)


def show(
    context: Context, n: int = 1_500, rate=RATE, keep=lambda user, arm: True, arm_for=lambda user, arm: arm, skip=()
):
    """n listeners with two lists of four; outcomes by the arm's rate and a listener's own liking."""
    planned_ = context.settings.experiment
    rng, ends = np.random.default_rng(5), bucket_bounds([arm.share for arm in planned_.arms])
    by_day: dict[str, list[dict]] = {day: [] for day in days(planned_)}
    heard: dict[str, list[dict]] = {day: [] for day in by_day}
    for user in range(n):
        arm = planned_.arms[arm_index(planned_.name, planned_.salt, user, ends)]
        if not keep(user, arm.name):
            continue
        liking = min(rng.gamma(4, 0.25) * rate[arm.name], 1)
        for visit in range(2):
            day = list(by_day)[(user + visit) % len(by_day)]
            ts = datetime.fromisoformat(f"{day}T08:00:00+00:00")
            for position in range(1, 5):
                row = {"request_id": f"{user}-{visit}", "user_id": user, "ts": ts, "track_id": position}
                by_day[day].append(
                    {
                        **row,
                        "experiment": planned_.name,
                        "arm": arm_for(user, arm.name),
                        "position": position,
                        "propensity": 1.0,
                        "method": arm.method,
                        "release": "r",
                    }
                )
                if rng.random() < liking:
                    heard[day].append({**row, "kind": "stream"})
                    if rng.random() < 0.3:
                        heard[day].append({**row, "kind": "favorite"})
    for table, rows in (("exposures", by_day), ("outcomes", heard)):
        for day, found in rows.items():
            if found and day not in skip:
                frame = pa.Table.from_pylist(found, arrow_schema(contracts.load(table)))
                context.lake.write(table, frame, day=day)


def test_an_effect_is_found_where_it_is_and_kept_in_mlflow(planned, capfd):
    registered = plan.register(planned, BEFORE)
    assert registered["users_per_arm"] < 250
    show(planned)
    found = analyse.run(planned, "first_day")
    assert found["verdicts"] == {"b": "better", "c": "no difference shown"}
    arms = found["arms"]
    assert arms["b"]["stream"]["low"] < 2 < arms["b"]["stream"]["high"]
    assert arms["b"]["stream"]["rate"] == pytest.approx(0.4, abs=0.04)
    assert arms["b"]["stream"]["design_effect"] > 1.2
    assert arms["a"]["stream"]["ratio"] == 1
    said = capfd.readouterr().out
    for word in ("better", "no difference shown", "control", "streamed, %"):
        assert word in said
    assert (
        json.loads((planned.home / "experiments" / "first_day.verdict.json").read_text())["digest"] == found["digest"]
    )
    assert (planned.home / "experiments" / "first_day.verdict.png").read_bytes()[:4] == b"\x89PNG"
    tracker = Tracker.connect(Context(planned.settings, planned.week, planned.home, experiment="ab_tests"))
    run = tracker.client.get_run(found["mlflow_run"])
    assert run.data.tags["verdict.b"] == "better"
    assert run.data.tags["plan_digest"] == registered["digest"]
    assert {file.path for file in tracker.client.list_artifacts(found["mlflow_run"])} >= {
        "relative_rates.png",
        "verdict.json",
    }
    again = analyse.run(planned, "first_day")
    assert again["arms"] == arms


def refused(context: Context, capfd) -> str:
    with pytest.raises(CheckFailed) as stop:
        analyse.run(context, "first_day")
    said = capfd.readouterr().out
    assert "%" not in said, "a refusal tells no rate"
    assert not (context.home / "experiments" / "first_day.verdict.json").exists()
    return str(stop.value)


def test_fewer_listeners_than_planned_are_no_verdict(planned, capfd):
    plan.register(planned, BEFORE)
    show(planned, n=300)
    assert "listeners in each arm; there are" in refused(planned, capfd)


def test_before_the_last_day_there_is_no_verdict(planned, capfd):
    plan.register(planned, BEFORE)
    show(planned, skip=("2026-11-26",))
    assert "planned days without a display: 2026-11-26; the test is not over" in refused(planned, capfd)


def test_a_day_of_which_the_app_told_nothing_is_no_verdict(planned, capfd):
    plan.register(planned, BEFORE)
    show(planned)
    planned.lake.drop("outcomes", day="2026-11-25")
    assert "without an outcome: 2026-11-25; run `overture ab-ingest`" in refused(planned, capfd)


def test_listeners_that_got_lost_are_no_verdict(planned, capfd):
    plan.register(planned, BEFORE)
    show(planned, n=3_000, keep=lambda user, arm: arm != "b" or user % 4)
    assert "did not come by the planned shares" in refused(planned, capfd)


def test_a_listener_in_another_arm_is_no_verdict(planned, capfd):
    plan.register(planned, BEFORE)
    ends = bucket_bounds([0.5, 0.3, 0.2])
    stray = next(user for user in range(1_500) if arm_index("first_day", "1", user, ends) != 0)
    show(planned, arm_for=lambda user, arm: "a" if user == stray else arm)
    assert "1 listeners were shown another arm than their own" in refused(planned, capfd)


def test_a_plan_that_came_after_the_first_display_is_no_verdict(planned, capfd):
    plan.register(planned, BEFORE)
    show(planned)
    early = planned.lake.read("exposures", day="2026-11-23").to_pylist()[:1]
    early[0]["ts"] = datetime(2026, 11, 19, 12, tzinfo=UTC)
    frame = pa.Table.from_pylist(early, arrow_schema(contracts.load("exposures")))
    planned.lake.write("exposures", frame, day="2026-11-19")
    assert "after the first display at 2026-11-19" in refused(planned, capfd)


def test_a_plan_is_registered_once_and_before_its_first_day(planned):
    first = plan.register(planned, BEFORE)
    again = plan.register(planned, datetime(2026, 12, 24, tzinfo=UTC))
    assert (again["digest"], again["registered_at"], again["again"]) == (first["digest"], BEFORE.isoformat(), True)
    changed = planned.settings.experiment.model_copy(update={"alpha": 0.2})
    other = Context(planned.settings.model_copy(update={"experiment": changed}), planned.week, planned.home)
    with pytest.raises(BadArgument, match="another plan of this name"):
        plan.register(other, BEFORE)
    late = Context(
        planned.settings.model_copy(update={"experiment": changed.model_copy(update={"name": "late"})}),
        planned.week,
        planned.home,
    )
    with pytest.raises(BadArgument, match="has begun"):
        plan.register(late, datetime(2026, 11, 23, 0, 0, 1, tzinfo=UTC))
    assert not assignment.registered(planned.home, "late").exists()


def test_a_plan_that_was_changed_is_refused(planned, capfd):
    plan.register(planned, BEFORE)
    show(planned)
    path = assignment.registered(planned.home, "first_day")
    path.write_text(path.read_text().replace('"alpha":0.05', '"alpha":0.25'))
    assert "changed after its registration" in refused(planned, capfd)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"plan": {}}', "\\"])
def test_a_damaged_plan_is_refused_by_name(home, content):
    path = assignment.registered(home, "first_day")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(CheckFailed, match="first_day"):
        assignment.read(home, "first_day")


def test_without_displays_or_a_plan_it_says_what_to_run(planned, capfd):
    with pytest.raises(BadArgument, match="overture ab-plan"):
        analyse.run(planned, "first_day")
    plan.register(planned, BEFORE)
    assert "overture ab-ingest" in refused(planned, capfd)


def test_an_arm_without_contexts_or_propensities_carries_no_estimate(planned):
    plan.register(planned, BEFORE)
    show(planned)
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
    ("section", "named"),
    [
        ("{control: nobody}", "no arm nobody"),
        ("{baseline_rate: 0.9, min_effect: 0.2}", "cannot grow"),
        ("{arms: [{name: a, method: magic, share: 0.5}]}", "experiment.arms.0.method"),
        ("{salt: 'a b'}", "experiment.salt"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_name(section, named, home, tmp_path, command):
    file = tmp_path / "mine.yaml"
    file.write_text(f'name: mine\nweek: "2026-11-16"\nexperiment: {section}\n')
    code, _, said = command("ab-plan", "--config", file)
    assert (code, named in said) == (2, True), said


def test_a_policy_that_the_service_does_not_know_is_refused(home, command):
    code, _, said = command("ab-estimate", "--policy", "magic", "--arm", "exploring")
    assert (code, "choose semi_pers" in said) == (2, True)
