"""Tests of realised quality: who is compared with what, completeness, re-runs, and that no later event is used."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from contracts.errors import CheckFailed
from jobs.monitor import realised
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.quality import check
from jobs.release import place_new_users, pointer, promote, publish
from jobs.settings.cold_start import EvaluationSettings, RealisedSettings
from jobs.settings.matrix import FirstDaySettings, MatrixSettings
from tests.helpers import small_week
from tests.helpers.small_tables import DAY, event, streams, table

MONDAY = date(2026, 11, 16)
SUNDAY = MONDAY + 6 * DAY
MICROSECOND = timedelta(microseconds=1)
N_A_DAY, K = 6, 10
ENOUGH = RealisedSettings(min_users_3d=20, min_users_7d=20, min_users_30d=20)
DAYS = [MONDAY + n * DAY for n in range(7)]
WARM = 777  # a listener who streams one track every day, so that no day is without events


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def settings(**changes: object):
    sections = {
        "matrix": MatrixSettings(min_truth_tracks=10),
        "evaluation": EvaluationSettings(n_bootstrap=50, min_slice_users=10, k=(K,)),
        "realised": ENOUGH,
    }
    return small_week.settings().model_copy(update={**sections, **changes})


def new_users() -> list[dict]:
    return [
        {"user_id": 100 + N_A_DAY * d + n, "registered_at": midnight(day) + n * timedelta(hours=3)}
        | {"country": ("BR", "DE", None)[(100 + n) % 3], "age": None if n == 5 else 18 + n}
        for d, day in enumerate(DAYS)
        for n in range(N_A_DAY)
    ]


def all_events() -> list[dict]:
    """Return what new users streamed: on the first day some, then one track of their taste every twelve hours.

    User 100 streams nothing in the first three days; user 101 at the first and the last moment of the horizons only.
    """
    ids, group, _ = small_week.tracks()
    rng = np.random.default_rng(3)
    log = [row for n in range(60) for row in streams(WARM, [ids[0]], midnight(MONDAY) + (n - 2) * DAY)]
    for user in new_users():
        liked, end = ids[group == user["user_id"] % 3], midnight(user["registered_at"].date() + DAY)
        if user["user_id"] % 2:
            log += streams(user["user_id"], rng.choice(liked, 3).tolist(), user["registered_at"])
        if user["user_id"] == 101:
            moments = [end, *(end + n * DAY + step for n in (3, 7, 30) for step in (-MICROSECOND, timedelta()))]
            log += [event(101, "stream", "track", ids[n], ts) for n, ts in enumerate(moments)]
            continue
        later = [end + n * timedelta(hours=12) for n in range(6 if user["user_id"] == 100 else 0, 62)]
        tracks = rng.choice(liked, len(later), p=small_week._popularity(len(liked)))
        log += [event(user["user_id"], "stream", "track", t, ts) for t, ts in zip(tracks.tolist(), later, strict=True)]
    return log


def write_events(context: Context, log: list[dict]) -> None:
    days: dict[str, list] = {}
    for row in log:
        days.setdefault(str(row["ts"].date()), []).append({"kind": "stream", "entity": "track", **row})
    for day, rows in days.items():
        context.lake.write("events", table("events", rows), day=day)


@pytest.fixture(scope="module")
def world_home(tmp_path_factory, spark):
    """Return a home in which the first week's release placed the new users of its seven days."""
    home = tmp_path_factory.mktemp("realised") / "home"
    small_week.staged(home, "champion")
    context = Context(settings(), Week.containing(MONDAY), home)
    context.lake.write("users", table("users", new_users()))
    write_events(context, all_events())
    for day in DAYS:
        assert place_new_users.run(context, day)["lists_recorded"] == N_A_DAY
    return home


@pytest.fixture
def world(world_home, home) -> Context:
    shutil.copytree(world_home, home)
    return Context(settings(), Week.containing(MONDAY), home)


def rows_of(context: Context, day: date) -> list[dict]:
    return context.lake.read("realised_quality", day=str(day)).to_pylist()


def naive_scores(context: Context, log: list[dict], column: str, horizon: int, min_tracks: int) -> dict[int, dict]:
    """Return the metrics of each user with plain loops over the lists and the log."""
    ids = set(small_week.tracks()[0].tolist())
    scores = {}
    for day in DAYS:
        end = midnight(day + DAY)
        for row in context.lake.read("cold_lists", day=str(day)).to_pylist():
            truth = {
                e["entity_id"]
                for e in log
                if e["user_id"] == row["user_id"]
                and e.get("kind", "stream") == "stream"
                and end <= e["ts"] < end + horizon * DAY
            } & ids
            if len(truth) < min_tracks:
                continue
            hits = [track in truth for track in row[column][:K]]
            ideal = sum(1 / np.log2(n + 2) for n in range(min(len(truth), K)))
            scores[row["user_id"]] = {
                "precision": sum(hits) / min(len(truth), K),
                "recall": sum(hits) / len(truth),
                "ndcg": sum(hit / np.log2(n + 2) for n, hit in enumerate(hits)) / ideal,
            }
    return scores


@pytest.mark.parametrize(("horizon", "min_tracks", "n_users"), [(3, 1, 41), (7, 3, 42), (30, 10, 41)])
def test_numbers_equal_a_computation_with_plain_loops(world, horizon, min_tracks, n_users):
    day = SUNDAY + horizon * DAY
    report = realised.run(world, day)
    assert horizon in report["measured"]
    rows = [row for row in rows_of(world, day) if row["horizon_days"] == horizon]
    own = naive_scores(world, all_events(), "tracks", horizon, min_tracks)
    popular = naive_scores(world, all_events(), "popular_tracks", horizon, min_tracks)
    assert len(own) == n_users
    release = pointer.read(world.home).release
    assert {(row["release"], row["week"], row["status"]) for row in rows} == {(release, str(MONDAY), "measured")}
    assert {(row["from_day"], row["to_day"], row["n_days"]) for row in rows} == {(MONDAY, SUNDAY, 7)}
    whole = {row["metric"]: row for row in rows if row["slice"] == "all"}
    assert sorted(whole) == ["ndcg", "precision", "recall"]
    for metric, row in whole.items():
        mean, base = (np.mean([scores[metric] for scores in by_user.values()]) for by_user in (own, popular))
        assert (row["n_placed"], row["n_users"]) == (42, n_users)
        assert row["value"] == pytest.approx(mean, abs=1e-12)
        assert row["popularity"] == pytest.approx(base, abs=1e-12)
        assert row["ratio"] == pytest.approx(mean / base)
        assert row["gain"] == pytest.approx(mean - base, abs=1e-12)
        assert row["low"] < row["value"] < row["high"]
        assert row["gain_low"] < row["gain"] < row["gain_high"]
    assert whole["ndcg"]["ratio"] > 1.2
    users = {user["user_id"]: user for user in new_users()}
    by_country = [own[user]["ndcg"] for user in own if users[user]["country"] == "BR"]
    (row,) = (r for r in rows if (r["slice"], r["metric"]) == ("country=BR", "ndcg"))
    assert (row["n_placed"], row["n_users"]) == (14, len(by_country))
    assert row["value"] == pytest.approx(np.mean(by_country))
    silent = [own[user]["ndcg"] for user in own if not user % 2]
    (row,) = (r for r in rows if (r["slice"], r["metric"]) == ("interactions=none", "ndcg"))
    assert row["value"] == pytest.approx(np.mean(silent))
    assert "age=25-34" not in {row["slice"] for row in rows}, "fewer listeners than evaluation.min_slice_users"
    next_week = Context(world.settings, Week.containing(day + 7 * DAY), world.home)
    (result,) = check.check(next_week, ["realised_quality"])
    assert result["success"], result["failed"]


def test_events_after_the_day_change_nothing_and_the_truth_does(world):
    day = SUNDAY + 7 * DAY
    realised.run(world, day)
    before = world.lake.read("realised_quality", day=str(day))
    lists = [world.lake.read("cold_lists", day=str(d)) for d in DAYS]
    other = small_week.tracks()[0].tolist()[::-1]
    as_of = midnight(day + DAY)
    log = all_events()
    later = [{**e, "entity_id": other[n % 150]} if e["ts"] >= as_of else e for n, e in enumerate(log)]
    later += [event(u["user_id"], "ban", "artist", 1, as_of + u["user_id"] * MICROSECOND) for u in new_users()]
    assert later[: len(log)] != log
    write_events(world, later)
    realised.run(world, day)
    assert world.lake.read("realised_quality", day=str(day)).equals(before)
    for d in (MONDAY, SUNDAY):
        place_new_users.run(world, d)
    assert [world.lake.read("cold_lists", day=str(d)) for d in DAYS] == lists
    late_row = event(102, "stream", "track", world.lake.read("cold_lists", day=str(MONDAY))["tracks"][2][9].as_py(), 0)
    write_events(world, [*log, {**late_row, "ts": midnight(MONDAY + 2 * DAY) + MICROSECOND}])
    realised.run(world, day)
    assert not world.lake.read("realised_quality", day=str(day)).equals(before), "late events count in a re-run"


def test_horizon_with_a_missing_day_has_a_status_and_no_number(world):
    day = SUNDAY + 7 * DAY
    lost = str(MONDAY + 3 * DAY)
    shutil.rmtree(world.home / "lake" / "events")
    context = Context(world.settings, world.week, world.home)
    write_events(context, [e for e in all_events() if str(e["ts"].date()) != lost])
    report = realised.run(context, day)
    assert (report["measured"], f"incomplete days of events: {lost}" in report["missing"]["7 days"]) == ([], True)
    written = rows_of(context, day)
    assert {row["status"] for row in written if row["horizon_days"] == 3} == {"too_few_users"}, "its days are complete"
    rows = [row for row in written if row["horizon_days"] == 7]
    assert {row["slice"] for row in rows} == {"all"}
    assert {(row["status"], row["n_placed"], row["n_users"]) for row in rows} == {("incomplete", 42, None)}
    assert all(row[name] is None for row in rows for name in realised.NUMBERS)


def test_too_few_listeners_have_a_status_and_no_number(world):
    few = RealisedSettings(min_users_3d=42, min_users_7d=42, min_users_30d=1)
    context = Context(settings(realised=few), world.week, world.home)
    day = SUNDAY + 3 * DAY
    assert realised.run(context, day)["measured"] == []
    rows = rows_of(context, day)
    assert {(row["horizon_days"], row["status"], row["n_placed"], row["n_users"]) for row in rows} == {
        (3, "too_few_users", 42, 41),
        (7, "too_few_users", 18, 18),  # the new users of Monday to Wednesday
    }
    assert {row["n_days"] for row in rows if row["horizon_days"] == 7} == {3}
    assert all(row[name] is None for row in rows for name in realised.NUMBERS)


def test_half_empty_day_of_an_own_source_makes_a_horizon_incomplete(world):
    source = world.settings.source.model_copy(update={"kind": "tables"})
    context = Context(settings(source=source), world.week, world.home)
    needed = [MONDAY + n * DAY for n in range(60)]
    half_empty = realised.bad_days(context, needed[:30])
    assert half_empty == []
    kept = [row for row in all_events() if row["ts"].date() != MONDAY + 20 * DAY or row["user_id"] == WARM]
    write_events(context, kept)
    assert realised.bad_days(context, needed[:30]) == [str(MONDAY + 20 * DAY)]


def test_lists_of_a_later_release_are_not_recorded(world):
    first = pointer.read(world.home).release
    before = [world.lake.read("cold_lists", day=str(day)) for day in DAYS]
    second = small_week.build_and_gate(small_week.ready(world.home, small_week.SECOND))
    promote.run(second)
    publish.run(second)
    assert {row["release"] for row in world.lake.read("cold_users", day=str(MONDAY)).to_pylist()} != {first}
    assert place_new_users.run(world, MONDAY)["lists_recorded"] == 0
    assert [world.lake.read("cold_lists", day=str(day)) for day in DAYS] == before
    next_day = SUNDAY + DAY
    later = [{"user_id": 900 + n, "registered_at": midnight(next_day)} for n in range(3)]
    world.lake.write("users", table("users", [*new_users(), *later]))
    assert place_new_users.run(world, next_day)["lists_recorded"] == 3
    day = next_day + 3 * DAY
    realised.run(world, day)
    rows = {(row["week"], row["status"], row["n_placed"], row["n_days"]) for row in rows_of(world, day)}
    assert rows >= {(small_week.FIRST, "measured", 36, 6), (small_week.SECOND, "too_few_users", 3, 1)}
    pointer.move(world.home, pointer.read(world.home).revision, first, small_week.FIRST)
    assert place_new_users.run(world, next_day)["lists_recorded"] == 0, "the first release of a day stays recorded"


def test_window_without_lists_has_no_row(world):
    day = SUNDAY + 3 * DAY - 10 * DAY
    report = realised.run(world, day)
    assert (report["rows"], report["measured"]) == (0, [])
    assert "no lists are recorded of the users of 2026-11-" in report["missing"]["3 days"][0]
    assert rows_of(world, day) == []


def test_users_whose_first_day_ends_in_another_zone_get_full_days(world):
    """In New York the first day ends at 05:00 UTC: three days later is after midnight, and still before the as-of."""
    zone = FirstDaySettings(time_zone="America/New_York")
    context = Context(settings(matrix=MatrixSettings(min_truth_tracks=10, first_day=zone)), world.week, world.home)
    users = realised.read_users(context, DAYS)
    window = realised.Window(3, SUNDAY + 3 * DAY)
    truth = realised.read_truth(context, window, users, small_week.FIRST)
    ids = small_week.tracks()[0].tolist()
    user = users[users["user_id"] == 102].iloc[0]  # registered at 06:00 UTC, 01:00 in New York
    start = midnight(user["registered_at"].date() + DAY) + timedelta(hours=5)
    expected = {
        ids.index(e["entity_id"]) for e in all_events() if e["user_id"] == 102 and start <= e["ts"] < start + 3 * DAY
    }
    assert truth[102] == sorted(expected)


def test_track_matrix_keeps_ranks():
    matrix = realised.track_matrix([[30, 99, 10], [20]], {10: 0, 20: 1, 30: 2}, 3)
    np.testing.assert_array_equal(matrix, [[2, 4, 0], [1, 4, 5]])


def test_command(world, command, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(settings().model_dump(mode="json", exclude={"service", "store"})))
    code, _, error = command("realised", "--day", "2026-02-30", "--config", file)
    assert (code, "'2026-02-30' is not a date" in error) == (2, True)
    code, _, error = command("realised", "--day", "2027-02-28", "--config", file)
    assert (code, "events: day=2027-02-28 has not been written" in error) == (3, True)
    code, out, error = command("realised", "--day", SUNDAY + 3 * DAY, "--config", file)
    assert code == 0, error
    report = json.loads(out.splitlines()[-1])
    assert (report["measured"], report["mlflow_run"] != "") == ([3], True)
    assert "warning: horizon of 30 days: no lists are recorded" in error
    longer = settings(evaluation=EvaluationSettings(k=(60,)))
    with pytest.raises(CheckFailed, match=r"the stored lists have 50 tracks \(store.list_length\)"):
        realised.run(Context(longer, world.week, world.home), SUNDAY + 3 * DAY)
