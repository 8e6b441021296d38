"""A running experiment: arms set methods, exposures are logged with exact propensities, other requests stay equal."""

from __future__ import annotations

import json
import resource
from collections import Counter
from dataclasses import replace
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
from serving.recommend.signals import FirstDaySignals, ListParameters, read_listener
from serving.release import files
from serving.release.watcher import ChampionWatcher
from serving.schema import Listener
from serving.settings import Arm, Experiment, Explore, ServiceSettings
from tests.helpers import release_keys
from tests.helpers.live import cohort_requests

AT = datetime(2026, 11, 24, 9, tzinfo=UTC)
UNLIMITED_DAYS = {"first_day": "2000-01-01", "last_day": "2999-12-31"}
METHODS = ("country_age_mean", "semi_pers", "full_pers", "popularity")
FOUR_ARMS = Experiment(
    name="four",
    arms=tuple(Arm(name=name.replace("_", "-"), method=name, share=0.25) for name in METHODS),
    **UNLIMITED_DAYS,
)


def listeners(ready, n: int | None = None) -> list[FirstDaySignals]:
    return [
        read_listener(ready, Listener.model_validate({**request, "user_id": str(user_id)}))
        for user_id, request in enumerate(cohort_requests()[:n])
    ]


def register(home: Path, experiment: Experiment) -> None:
    plan = experiment.model_dump(mode="json")
    path = assignment.plan_path(home, experiment.name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        files.canonical({"plan": plan, "digest": files.digest(files.canonical(plan)), "registered_at": ""})
    )


@pytest.fixture
def ready(release_home):
    release_home.promote(release_home.first)
    champion = ChampionWatcher(release_keys.folders(release_home.home), poll_s=1.0)
    champion.refresh()
    return champion.current


def test_arm_sets_the_method_of_the_list(ready):
    experiment, options = ActiveExperiment(FOUR_ARMS, np.random.default_rng(0)), ListParameters(k=7)
    result = experiment.recommend(ready, listeners(ready), options, AT)
    assert len(result.bodies) == len(result.lines) == len(listeners(ready))
    for listener, response, line in zip(
        listeners(ready), result.bodies, sorted(result.lines, key=lambda x: int(x["user_id"])), strict=True
    ):
        arm = experiment.arm_of(listener.user_id)
        expected = recommender.recommend(ready, [listener], ListParameters(k=7, method=arm.method))[0]
        assert response["tracks"] == expected["tracks"]
        assert response["experiment"] == {"experiment": "four", "arm": arm.name, "request_id": line["request_id"]}
        assert line["tracks"] == [str(ready.tracks[i].track_id) for i in response["tracks"]]
        assert line["propensities"] == [1.0] * 7
        assert (line["user_id"], line["arm"], line["release"]) == (listener.user_id, arm.name, ready.name)
        assert "context" not in line
    assert {response["experiment"]["arm"] for response in result.bodies} == {arm.name for arm in FOUR_ARMS.arms}
    assert len({line["request_id"] for line in result.lines}) == len(result.lines)


def test_country_age_mean_ranks_the_nearest_segment(ready):
    listener = read_listener(
        ready, Listener.model_validate({"country": "FR", "streams": {"tracks": [ready.tracks[0].track_id]}})
    )
    response = recommender.recommend(ready, [listener], ListParameters(k=10, method="country_age_mean"))[0]
    mean = ready.space.demographics.country["FR"]
    segment = int(np.argmax(ready.space.centroids_KD @ normalise(mean[None])[0]))
    assert response["tracks"] == ready.space.rankings_KL[segment][:10].tolist()
    assert (response["vector_source"], response["degraded"]) == ("country_age_mean", None)
    empty = recommender.recommend(
        ready, [read_listener(ready, Listener())], ListParameters(k=3, method="country_age_mean")
    )[0]
    assert empty["method"] == "popularity"
    assert empty["degraded"]["reason"] == "neither country nor age is known"


def test_anonymous_explicit_and_out_of_period_requests_are_not_in_the_experiment(ready):
    experiment, known = ActiveExperiment(FOUR_ARMS, np.random.default_rng(0)), listeners(ready, 3)
    anonymous = [replace(listener, user_id=None) for listener in known]
    ended = ActiveExperiment(FOUR_ARMS.model_copy(update={"last_day": "2026-11-23"}), np.random.default_rng(0))
    for result in (
        experiment.recommend(ready, anonymous, ListParameters(k=5), AT),
        experiment.recommend(ready, known, ListParameters(k=5, method="semi_pers"), AT),
        ended.recommend(ready, known, ListParameters(k=5), AT),
    ):
        assert result.lines == []
        assert result.bodies == recommender.recommend(ready, anonymous, ListParameters(k=5, method="semi_pers"))
    mixed = experiment.recommend(ready, [known[0], anonymous[1], known[2]], ListParameters(k=5), AT)
    assert [("experiment" in response) for response in mixed.bodies] == [True, False, True]


def test_arm_with_a_missing_method_falls_back_and_logs_the_method_used(ready):
    blend = Experiment(
        name="b",
        arms=(Arm(name="one", method="blend", share=0.5), Arm(name="two", method="blend", share=0.5)),
        **UNLIMITED_DAYS,
    )
    result = ActiveExperiment(blend, np.random.default_rng(0)).recommend(
        ready, listeners(ready, 4), ListParameters(k=5), AT
    )
    assert {line["method"] for line in result.lines} == {"semi_pers", "country_age"}, "one has no interaction"


def test_exploration_frequencies_match_the_logged_propensities(ready):
    arm = Arm(name="try", method="semi_pers", share=0.5, explore=Explore(share=0.5, methods=("popularity",)))
    experiment = Experiment(name="e", arms=(arm, arm.model_copy(update={"name": "again"})), **UNLIMITED_DAYS)
    running = ActiveExperiment(experiment, np.random.default_rng(1), log_signals=True)
    listener, k = listeners(ready, 1)[0], 3
    lists = {
        m: [
            str(ready.tracks[i].track_id)
            for i in recommender.recommend(ready, [listener], ListParameters(k=k, method=m))[0]["tracks"]
        ]
        for m in ("semi_pers", "popularity")
    }
    pool = set(lists["semi_pers"]) | set(lists["popularity"])
    counts: list[Counter] = [Counter() for _ in range(k)]
    propensities: dict[tuple[int, str], float] = {}
    n = 3_000
    for start in range(0, n, 250):
        result = running.recommend(
            ready, [replace(listener, user_id=str(start + offset)) for offset in range(250)], ListParameters(k=k), AT
        )
        for line in result.lines:
            assert set(line["tracks"]) <= pool
            assert len(set(line["tracks"])) == k
            for place, (track, p) in enumerate(zip(line["tracks"], line["propensities"], strict=True)):
                counts[place][track] += 1
                assert propensities.setdefault((place, track), p) == p
        logged = read_listener(ready, Listener.model_validate(result.lines[0]["context"]["listener"]))
        assert vars(logged) == vars(replace(listener, user_id=None))
    for place in range(k):
        assert sum(propensities[place, track] for track in counts[place]) == pytest.approx(1)
        for track, count in counts[place].items():
            p = propensities[place, track]
            assert abs(count / n - p) < 5 * np.sqrt(p * (1 - p) / n)


def test_service_assigns_arms_and_logs_users_only_in_the_exposure_log(release_home, serve, caplog):
    release_home.promote(release_home.first)
    register(release_home.home, FOUR_ARMS)
    live = serve(release_home.home, experiment="four", exposure_log="shown", exposure_signals=True)
    user_id = 987_654_321_987
    with caplog.at_level("INFO"):
        response = live.lists({"country": "FR", "user_id": user_id}, k=4)
        assert live.lists({"country": "FR", "user_id": user_id}, k=4)["tracks"] == response["tracks"]
        batch = live.call("/v1/recommendations/batch", {"listeners": [{"user_id": 5}, {"country": "DE"}], "k": 2})[2]
        signal_contributions = live.lists({"country": "FR", "user_id": user_id}, k=4, explain=True)
    assert (
        response["experiment"]["arm"]
        == signal_contributions["experiment"]["arm"]
        == ActiveExperiment(FOUR_ARMS, np.random.default_rng()).arm_of(str(user_id)).name
    )
    assert batch["answers"][0]["experiment"]["experiment"] == "four"
    assert "experiment" not in batch["answers"][1]
    assert str(user_id) not in caplog.text
    logs = list((release_home.home / "shown").iterdir())
    lines = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    assert [line["user_id"] for line in lines] == [str(user_id), str(user_id), "5", str(user_id)]
    assert lines[0]["request_id"] == response["experiment"]["request_id"]
    assert lines[0]["context"] == {"listener": {"country": "FR"}, "leave_out": [], "options": {}}
    assert all(path.stat().st_mode & 0o077 == 0 for path in logs)


def test_user_id_has_no_effect_without_an_experiment(live):
    response = live.lists({"country": "FR", "user_id": 5}, k=4)
    assert response == live.lists({"country": "FR"}, k=4)
    assert "experiment" not in response


def test_failed_exposure_log_is_reported_and_does_not_fail_the_request(release_home, serve, caplog):
    release_home.promote(release_home.first)
    register(release_home.home, FOUR_ARMS)
    (release_home.home / "shown").write_text("a file where the folder should be")
    live = serve(release_home.home, experiment="four", exposure_log="shown")
    assert live.lists({"country": "FR", "user_id": 7}, k=4)["experiment"]["experiment"] == "four"
    assert any(record.getMessage() == "exposures were not written" for record in caplog.records)


def test_only_a_registered_and_unchanged_plan_runs(release_home, command):
    settings = ServiceSettings(experiment="four")
    with pytest.raises(BadArgument, match="is not registered"):
        make_app(settings, release_home.home)
    register(release_home.home, FOUR_ARMS)
    make_app(settings, release_home.home)
    path = assignment.plan_path(release_home.home, "four")
    path.write_text(path.read_text().replace("0.25", "0.26", 1))
    with pytest.raises(CheckFailed, match="changed after its registration"):
        make_app(settings, release_home.home)


def test_serve_rejects_an_unregistered_experiment(home, command, monkeypatch):
    for workers in (1, 2):
        monkeypatch.setenv("OVERTURE__SERVICE__EXPERIMENT", "nobody")
        code, _, err = command("serve", "--port", 0, "--workers", workers)
        assert (code, "nobody is not registered" in err) == (2, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": [{"name": "a", "method": "popularity", "share": 0.5}]}, "two or more"),
        ({"arms": [{"name": n, "method": "popularity", "share": 0.4} for n in "ab"]}, "add up to 0.8"),
        ({"arms": [{"name": "a", "method": "popularity", "share": 0.5}] * 2}, "different names"),
        ({"first_day": "2026-02-30"}, "is not a date"),
        ({"first_day": "2027-01-01"}, "before first_day"),
        ({"name": "../x"}, "name"),
    ],
)
def test_inconsistent_experiment_raises(changes, message):
    with pytest.raises(ValueError, match=message):
        Experiment.model_validate(changes)


def test_exposure_log_writes_one_file_per_day(tmp_path):
    log = ExposureLog(tmp_path / "log")
    for day in ("2026-11-23", "2026-11-24", "2026-11-24"):
        log.write([{"ts": f"{day}T10:00:00+00:00"}])
    log.write([])
    log.close()
    assert sorted(len(path.read_text().splitlines()) for path in (tmp_path / "log").iterdir()) == [1, 2]


def test_partial_write_to_the_exposure_log_raises(tmp_path):
    log, limits = ExposureLog(tmp_path / "shown"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # simulates a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            log.write([{"ts": "2026-11-24T10:00:00+00:00", "tracks": list(range(100))}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
