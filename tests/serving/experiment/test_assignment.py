"""A running experiment: arms decide methods, lists are noted with exact propensities, and nobody else is touched."""

from __future__ import annotations

import json
import resource
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import BadArgument, CheckFailed
from models.cold_start.top_k import normalise
from serving.app import make_app
from serving.experiment import assignment
from serving.experiment.assignment import ActiveExperiment
from serving.experiment.exposure_log import ExposureLog
from serving.recommend import recommender
from serving.release import files
from serving.release.watcher import ChampionWatcher
from serving.schema import Listener, ListOptions
from serving.settings import Arm, Experiment, Explore, ServiceSettings
from tests.helpers.live import cohort_requests

AT = datetime(2026, 11, 24, 9, tzinfo=UTC)
FOREVER = {"first_day": "2000-01-01", "last_day": "2999-12-31"}
METHODS = ("country_age_mean", "semi_pers", "full_pers", "popularity")
FOUR = Experiment(
    name="four", arms=tuple(Arm(name=name.replace("_", "-"), method=name, share=0.25) for name in METHODS), **FOREVER
)


def people(n: int | None = None) -> list[Listener]:
    return [Listener.model_validate({**one, "user_id": at}) for at, one in enumerate(cohort_requests()[:n])]


def register(home: Path, found: Experiment) -> None:
    plan = found.model_dump(mode="json")
    path = assignment.plan_path(home, found.name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        files.canonical({"plan": plan, "digest": files.digest(files.canonical(plan)), "registered_at": ""})
    )


@pytest.fixture
def ready(shop):
    shop.promote(shop.first)
    champion = ChampionWatcher(shop.home)
    champion.refresh()
    return champion.current


def test_the_arm_decides_the_method_and_the_list_is_that_methods(ready):
    running, asked = ActiveExperiment(FOUR, np.random.default_rng(0)), ListOptions(k=7)
    shown = running.recommend(ready, people(), asked, AT)
    assert len(shown.bodies) == len(shown.lines) == len(people())
    for who, answer, line in zip(people(), shown.bodies, sorted(shown.lines, key=lambda x: x["user_id"]), strict=True):
        arm = running.arm_of(who.user_id)
        alone = recommender.recommend(ready, [who], ListOptions(k=7, method=arm.method))[0]
        assert answer["tracks"] == alone["tracks"]
        assert answer["experiment"] == {"experiment": "four", "arm": arm.name, "request_id": line["request_id"]}
        assert line["tracks"] == [ready.tracks[i].track_id for i in answer["tracks"]]
        assert line["propensities"] == [1.0] * 7
        assert (line["user_id"], line["arm"], line["release"]) == (who.user_id, arm.name, ready.name)
        assert "context" not in line
    assert {answer["experiment"]["arm"] for answer in shown.bodies} == {arm.name for arm in FOUR.arms}
    assert len({line["request_id"] for line in shown.lines}) == len(shown.lines)


def test_the_mean_of_country_and_age_is_a_method_of_its_own(ready):
    who = Listener.model_validate({"country": "FR", "streams": {"tracks": [ready.tracks[0].track_id]}})
    said = recommender.recommend(ready, [who], ListOptions(k=10, method="country_age_mean"))[0]
    mean = ready.space.demographics.country["FR"]
    segment = int(np.argmax(ready.space.centroids_KD @ normalise(mean[None])[0]))
    assert said["tracks"] == ready.space.rankings_KL[segment][:10].tolist()
    assert (said["vector_source"], said["degraded"]) == ("country_age_mean", None)
    nobody = recommender.recommend(ready, [Listener()], ListOptions(k=3, method="country_age_mean"))[0]
    assert nobody["method"] == "popularity"
    assert nobody["degraded"]["reason"] == "neither country nor age is known"


def test_who_names_no_user_or_asks_for_a_method_or_comes_on_another_day_is_not_in_it(ready):
    running, who = ActiveExperiment(FOUR, np.random.default_rng(0)), people(3)
    anonymous = [one.model_copy(update={"user_id": None}) for one in who]
    past = ActiveExperiment(FOUR.model_copy(update={"last_day": "2026-11-23"}), np.random.default_rng(0))
    for found in (
        running.recommend(ready, anonymous, ListOptions(k=5), AT),
        running.recommend(ready, who, ListOptions(k=5, method="semi_pers"), AT),
        past.recommend(ready, who, ListOptions(k=5), AT),
    ):
        assert found.lines == []
        assert found.bodies == recommender.recommend(ready, anonymous, ListOptions(k=5, method="semi_pers"))
    mixed = running.recommend(ready, [who[0], anonymous[1], who[2]], ListOptions(k=5), AT)
    assert [("experiment" in one) for one in mixed.bodies] == [True, False, True]


def test_an_arm_whose_method_is_not_held_is_answered_as_configured_and_says_so(ready):
    blend = Experiment(
        name="b",
        arms=(Arm(name="one", method="blend", share=0.5), Arm(name="two", method="blend", share=0.5)),
        **FOREVER,
    )
    shown = ActiveExperiment(blend, np.random.default_rng(0)).recommend(ready, people(4), ListOptions(k=5), AT)
    assert {line["method"] for line in shown.lines} == {"semi_pers"}


def test_exploring_shows_each_list_as_often_as_its_propensity_says(ready):
    arm = Arm(name="try", method="semi_pers", share=0.5, explore=Explore(share=0.5, methods=("popularity",)))
    both = Experiment(name="e", arms=(arm, arm.model_copy(update={"name": "again"})), **FOREVER)
    running = ActiveExperiment(both, np.random.default_rng(1), log_signals=True)
    who, k = people(1)[0], 3
    lists = {
        m: [
            ready.tracks[i].track_id
            for i in recommender.recommend(ready, [who], ListOptions(k=k, method=m))[0]["tracks"]
        ]
        for m in ("semi_pers", "popularity")
    }
    pool = set(lists["semi_pers"]) | set(lists["popularity"])
    seen: list[Counter] = [Counter() for _ in range(k)]
    told: dict[tuple[int, int], float] = {}
    n = 3_000
    for start in range(0, n, 250):
        shown = running.recommend(
            ready, [who.model_copy(update={"user_id": start + at}) for at in range(250)], ListOptions(k=k), AT
        )
        for line in shown.lines:
            assert set(line["tracks"]) <= pool
            assert len(set(line["tracks"])) == k
            for place, (track, p) in enumerate(zip(line["tracks"], line["propensities"], strict=True)):
                seen[place][track] += 1
                assert told.setdefault((place, track), p) == p
        assert Listener.model_validate(shown.lines[0]["context"]["listener"]) == who.model_copy(
            update={"user_id": None}
        )
    for place in range(k):
        assert sum(told[place, track] for track in seen[place]) == pytest.approx(1)
        for track, count in seen[place].items():
            p = told[place, track]
            assert abs(count / n - p) < 5 * np.sqrt(p * (1 - p) / n)


def test_the_service_answers_by_arm_logs_it_apart_and_tells_no_listener_in_the_ordinary_log(shop, serve, caplog):
    shop.promote(shop.first)
    register(shop.home, FOUR)
    live = serve(shop.home, experiment="four", exposure_log="shown", exposure_signals=True)
    secret = 987_654_321_987
    with caplog.at_level("INFO"):
        one = live.lists({"country": "FR", "user_id": secret}, k=4)
        assert live.lists({"country": "FR", "user_id": secret}, k=4)["tracks"] == one["tracks"]
        batch = live.call("/v1/recommendations/batch", {"listeners": [{"user_id": 5}, {"country": "DE"}], "k": 2})[2]
        signal_contributions = live.lists({"country": "FR", "user_id": secret}, k=4, explain=True)
    assert (
        one["experiment"]["arm"]
        == signal_contributions["experiment"]["arm"]
        == ActiveExperiment(FOUR, np.random.default_rng()).arm_of(secret).name
    )
    assert batch["answers"][0]["experiment"]["experiment"] == "four"
    assert "experiment" not in batch["answers"][1]
    assert str(secret) not in caplog.text
    logs = list((shop.home / "shown").iterdir())
    lines = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    assert [line["user_id"] for line in lines] == [secret, secret, 5, secret]
    assert lines[0]["request_id"] == one["experiment"]["request_id"]
    assert lines[0]["context"] == {"listener": {"country": "FR"}, "leave_out": [], "leave_out_first_day": None}
    assert all(path.stat().st_mode & 0o077 == 0 for path in logs)


def test_without_an_experiment_a_user_id_changes_nothing(live):
    said = live.lists({"country": "FR", "user_id": 5}, k=4)
    assert said == live.lists({"country": "FR"}, k=4)
    assert "experiment" not in said


def test_a_log_that_cannot_be_written_costs_no_answer_and_is_told(shop, serve, caplog):
    shop.promote(shop.first)
    register(shop.home, FOUR)
    (shop.home / "shown").write_text("a file where the folder should be")
    live = serve(shop.home, experiment="four", exposure_log="shown")
    assert live.lists({"country": "FR", "user_id": 7}, k=4)["experiment"]["experiment"] == "four"
    assert any(record.getMessage() == "exposures were not written" for record in caplog.records)


def test_only_a_registered_plan_that_nobody_changed_runs(shop, command):
    settings = ServiceSettings(experiment="four")
    with pytest.raises(BadArgument, match="is not registered"):
        make_app(settings, shop.home)
    register(shop.home, FOUR)
    make_app(settings, shop.home)
    path = assignment.plan_path(shop.home, "four")
    path.write_text(path.read_text().replace("0.25", "0.26", 1))
    with pytest.raises(CheckFailed, match="changed after its registration"):
        make_app(settings, shop.home)


def test_the_command_refuses_to_serve_what_is_not_registered(home, command, monkeypatch):
    for workers in (1, 2):
        monkeypatch.setenv("OVERTURE__SERVICE__EXPERIMENT", "nobody")
        code, _, said = command("serve", "--port", 0, "--workers", workers)
        assert (code, "nobody is not registered" in said) == (2, True)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"arms": [{"name": "a", "method": "popularity", "share": 0.5}]}, "two or more"),
        ({"arms": [{"name": n, "method": "popularity", "share": 0.4} for n in "ab"]}, "add up to 0.8"),
        ({"arms": [{"name": "a", "method": "popularity", "share": 0.5}] * 2}, "different names"),
        ({"first_day": "2026-02-30"}, "is not a date"),
        ({"first_day": "2027-01-01"}, "before first_day"),
        ({"name": "../x"}, "name"),
    ],
)
def test_an_experiment_that_does_not_hold_together_is_refused_by_name(changed, named):
    with pytest.raises(ValueError, match=named):
        Experiment.model_validate(changed)


def test_the_log_starts_a_file_a_day(tmp_path):
    log = ExposureLog(tmp_path / "log")
    for day in ("2026-11-23", "2026-11-24", "2026-11-24"):
        log.write([{"ts": f"{day}T10:00:00+00:00"}])
    log.write([])
    log.close()
    assert sorted(len(path.read_text().splitlines()) for path in (tmp_path / "log").iterdir()) == [1, 2]


def test_a_disk_that_takes_half_of_a_line_is_told(tmp_path):
    log, limits = ExposureLog(tmp_path / "shown"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # as a disk with so much room
    try:
        with pytest.raises(OSError, match="File too large"):
            log.write([{"ts": "2026-11-24T10:00:00+00:00", "tracks": list(range(100))}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
