"""Tests of the DAG parameters, which the trigger form, the REST API and the command line share."""

from __future__ import annotations

import pytest

DIGEST = "0123456789ab"
INVALID_WEEKS = [
    "2026-02-30",
    "2026-2-3",
    "20261116",
    "2026-11-16\n",
    "2026-11-16; ls",
    "$(ls)",
    "next week",
    "",
    20261116,
    True,
]
INVALID_RELEASES = [
    "",
    "0123456789a",
    "a" * 65,
    DIGEST.upper(),
    DIGEST + "\n",
    DIGEST + "; ls",
    "../" + DIGEST,
    123456789012,
    True,
]


@pytest.fixture
def accept(bag):
    """A function that validates a form as the API does, with the serialized DAG."""
    from airflow.serialization.serialized_objects import DagSerialization

    def check(dag_id, **typed):
        params = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags[dag_id])).params
        return params.deep_merge(typed).validate()

    return check


@pytest.mark.parametrize("week", INVALID_WEEKS, ids=repr)
@pytest.mark.parametrize("dag_id", ["cold_start_weekly", "backtest"])
def test_an_invalid_week_is_rejected(accept, dag_id, week):
    with pytest.raises(Exception, match="week"):
        accept(dag_id, week=week)


@pytest.mark.parametrize("day", INVALID_WEEKS, ids=repr)
def test_an_invalid_day_is_rejected(accept, day):
    with pytest.raises(Exception, match="day"):
        accept("cold_users_daily", day=day)


@pytest.mark.parametrize("release", INVALID_RELEASES, ids=repr)
@pytest.mark.parametrize(("dag_id", "name"), [("promote", "release"), ("rollback", "to"), ("anchor", "to")])
def test_an_invalid_release_is_rejected(accept, dag_id, name, release):
    with pytest.raises(Exception, match=name):
        accept(dag_id, **{name: release})


def test_only_a_scheduled_dag_has_an_optional_week(accept):
    assert accept("cold_start_weekly") == {"week": None}
    with pytest.raises(Exception, match="week"):
        accept("backtest")
    with pytest.raises(Exception, match="week"):
        accept("backtest", week=None)


def test_valid_values_pass(accept):
    assert accept("cold_start_weekly", week="2026-11-16") == {"week": "2026-11-16"}
    assert accept("backtest", week="2026-11-16") == {"week": "2026-11-16"}
    assert accept("cold_users_daily") == {"day": None}
    assert accept("cold_users_daily", day="2026-11-15") == {"day": "2026-11-15"}
    assert accept("rollback") == {"engine": "cold_start", "to": None}
    assert accept("rollback", engine="skip") == {"engine": "skip", "to": None}
    assert accept("rollback", to=DIGEST)["to"] == DIGEST
    assert accept("promote", release=DIGEST) == {"engine": "cold_start", "release": DIGEST}
    assert accept("promote", release=DIGEST * 5)["release"] == DIGEST * 5


@pytest.mark.parametrize("engine", ["", "Skip", "skip\n", "skip; ls", "cold start", None, True])
@pytest.mark.parametrize("dag_id", ["promote", "rollback", "anchor"])
def test_an_unknown_engine_is_rejected(accept, dag_id, engine):
    with pytest.raises(Exception, match="engine"):
        accept(dag_id, engine=engine, **({"release": DIGEST} if dag_id == "promote" else {}))


def test_promote_requires_a_release(accept):
    with pytest.raises(Exception, match="release"):
        accept("promote")


def test_every_field_has_a_title_a_help_text_and_a_pattern(bag):
    for dag in bag.dags.values():
        for name in dag.params:
            field = dag.params.get_param(name)
            assert field.description
            assert field.schema["title"]
            assert "pattern" in field.schema  # free text never reaches a shell
