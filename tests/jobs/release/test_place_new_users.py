"""Tests of placing the new users of a day: who they are, what the champion returns, and that no later data is used."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.platform.list_columns import to_matrix
from jobs.platform.week import Week
from jobs.release import bundle, place_new_users, pointer, promote, publish
from jobs.tracking.tracker import Tracker
from models.cold_start.input_vector import FirstDays
from serving.release.bundle import open_release
from serving.stores import open_store
from serving.stores.interface import NotPublished, find_user
from tests.helpers import small_week
from tests.helpers.small_tables import DAY, SECOND, event, streams, table

BORN = date(2026, 11, 15)
START = datetime(2026, 11, 15, tzinfo=UTC)
HOUR = timedelta(hours=1)


def users(*more) -> list[dict]:
    return [
        {"user_id": 1, "registered_at": START + 20 * HOUR, "country": "FR", "age": 20},
        {"user_id": 2, "registered_at": START, "country": "BR"},
        {"user_id": 3, "registered_at": START - SECOND, "country": "DE"},
        {"user_id": 4, "registered_at": START + DAY, "country": "DE"},
        {"user_id": 5, "registered_at": START + DAY - SECOND},
        *more,
    ]


def events() -> list[dict]:
    ids = small_week.tracks()[0].tolist()
    return [
        *streams(1, ids[:3], START + 21 * HOUR),
        event(1, "ban", "track", ids[2], START + 22 * HOUR),
        event(1, "onboarding", "artist", 3, START + 20 * HOUR),
        event(2, "ban", "artist", 2, START + HOUR),
        event(2, "ban", "artist", 1, START - SECOND),  # before registration
        event(5, "ban", "album", 3, START + DAY - timedelta(microseconds=1)),
        event(1, "stream", "track", ids[9], START + 20 * HOUR - SECOND),  # before registration
        event(5, "stream", "track", ids[4], START + DAY - timedelta(microseconds=1)),
        *streams(3, ids[5:7], START + HOUR),
    ]


def ingest(context, new_users, log) -> None:
    context.lake.write("users", table("users", new_users))
    days: dict[str, list] = {}
    for row in log:
        days.setdefault(str(row["ts"].date()), []).append({"kind": "stream", "entity": "track", **row})
    for day, rows in days.items():
        context.lake.write("events", table("events", rows), day=day)


@pytest.fixture
def world(home, spark) -> Context:
    """Return the context of a home with the first week as champion and the day ingested."""
    small_week.staged(home, "champion")
    context = Context(small_week.settings(), Week.containing(BORN), home)
    ingest(context, users(), events())
    return context


def stored_rows(context, name="cold_users", day=BORN) -> list[dict]:
    return context.lake.read(name, day=str(day)).sort_by("user_id").to_pylist()


def stored_user(context, release, user):
    return find_user(open_store(context.settings.store, context.home), release, "tt_svd", user)


def test_release_places_the_new_users_of_the_day(world):
    report = place_new_users.run(world, BORN)
    release = open_release(pointer.releases(world.home) / pointer.read(world.home).release)
    assert (report["users"], report["without_interaction"], report["day"]) == (3, 1, "2026-11-15")
    new_users = world.lake.read("cold_first_day", day=str(BORN)).sort_by("user_id")
    assert new_users.column("user_id").to_pylist() == [1, 2, 5]
    ids = small_week.tracks()[0].tolist()
    assert new_users.column("streamed_songs").to_pylist() == [ids[:3], [], [ids[4]]]
    assert new_users.column("onboarding_like_artists").to_pylist() == [[3], [], []]
    days = FirstDays.from_arrow(new_users)
    x = release.inputs("tt_svd", days)
    space = release.spaces["tt_svd"]
    lists = release.track_ids[space.method("semi_pers").recommend(x, 60, days)].tolist()
    lists[0] = [track for track in lists[0] if track != ids[2]]  # banned
    artist_of = dict(zip(space.catalogue.track_id_N.tolist(), space.catalogue.artist_id_N.tolist(), strict=True))
    popular = release.track_ids.tolist()  # artists and albums have equal ids
    for user, artist in ((1, 2), (2, 3)):
        lists[user] = [track for track in dict.fromkeys([*lists[user], *popular]) if artist_of[track] != artist]
    table_ = world.lake.read("cold_users", day=str(BORN)).sort_by("user_id")
    np.testing.assert_array_equal(to_matrix(table_), space.predict(x))
    methods = ("semi_pers", "country_age", "semi_pers")  # the second user has no signal that a network reads
    for row, method, wanted, vector in zip(stored_rows(world), methods, lists, space.predict(x), strict=True):
        assert row["tracks"] == wanted[:50]
        assert (row["release"], row["space"], row["method"]) == (release.folder.name, "tt_svd", method)
        stored = stored_user(world, release.folder.name, row["user_id"])
        assert (stored.kind, stored.since, stored.segment_id) == ("cold", "2026-11-15", row["segment_id"])
        np.testing.assert_array_equal(stored.vector_D, vector)
        assert stored.track_ids.tolist() == wanted[:50]
    histories = [stored_user(world, release.folder.name, user).history for user in (1, 2, 5)]
    assert [[lists.tolist() for lists in history[:4]] for history in histories] == [
        [[ids[2], ids[1], ids[0]], [ids[2]], [], []],
        [[], [], [2], []],
        [[ids[4]], [], [], [3]],
    ]
    known = [(history.country, history.age) for history in histories]
    assert known == [("FR", 20), ("BR", None), (None, None)]
    with pytest.raises(NotPublished, match="only the new users"):  # the warm users' part is not there
        stored_user(world, release.folder.name, 3)


def test_events_after_the_day_are_not_used(world):
    place_new_users.run(world, BORN)
    before = [stored_rows(world, name) for name in ("cold_first_day", "cold_users")]
    ids = small_week.tracks()[0].tolist()
    later = [
        event(user, kind, "track", ids[n], START + DAY + n * SECOND)
        for user in (1, 2, 5)
        for n, kind in enumerate(("stream", "skip", "ban", "favorite"))
    ]
    later += [event(user, "ban", "artist", 1, START + DAY + HOUR) for user in (1, 2, 5)]
    newer = [{"user_id": 6 + n, "registered_at": START + DAY + n * HOUR, "country": "FR"} for n in range(3)]
    ingest(world, users(*newer), events() + later)
    again = place_new_users.run(world, BORN)
    assert [stored_rows(world, name) for name in ("cold_first_day", "cold_users")] == before
    assert again["users"] == 3


def test_day_without_new_users_writes_an_empty_part(world):
    release = place_new_users.run(world, BORN)["release"]
    assert stored_user(world, release, 1)
    ingest(world, users()[2:4], events())
    report = place_new_users.run(world, BORN)
    assert (report["users"], report["why"]) == (0, "nobody registered on 2026-11-15")
    assert stored_rows(world) == stored_rows(world, "cold_first_day") == []
    with pytest.raises(NotPublished):
        stored_user(world, release, 1)


def test_bad_requests_raise(world, home):
    with pytest.raises(CheckFailed, match=r"events: day=2026-11-18 has not been written; ingest the day first"):
        place_new_users.run(world, date(2026, 11, 18))
    (pointer.releases(home) / "champion.json").unlink()
    with pytest.raises(CheckFailed, match="there is no champion yet"):
        place_new_users.run(world, BORN)
    client = Tracker.connect(daily(world)).client
    runs = client.search_runs([Tracker.connect(daily(world)).experiment_id])
    assert {run.info.status for run in runs} == {"FAILED"}


def daily(context) -> Context:
    return Context(context.settings, context.week, context.home, experiment="cold_users_daily")


def test_champion_with_unusable_parts_places_no_users(world):
    whole = pointer.releases(world.home) / pointer.read(world.home).release
    broken = small_week.with_changed_files(whole, {"tt_svd/network.onnx": b"not a network"}).name
    pointer.move(world.home, 1, broken, small_week.FIRST)
    with pytest.raises(CheckFailed, match="has unusable parts"):
        place_new_users.run(world, BORN)
    assert not world.lake.exists("cold_users", day=str(BORN))


def test_publishing_places_new_users_of_earlier_weeks_again(world):
    first = place_new_users.run(world, BORN)["release"]
    second = small_week.build_and_gate(small_week.ready(world.home, small_week.SECOND))
    promote.run(second)
    report = publish.run(second)
    assert report["users"] == {"warm": small_week.N_WARM, "cold": 3}
    assert report["days"] == ["2026-11-15"]
    new = bundle.release_of_week(second)
    assert new != first
    for release in (first, new):
        assert stored_user(world, release, 1).since == "2026-11-15"
    assert stored_user(world, new, 2).banned_artists.tolist() == [2]
    small_week.write_history(second, [{"user_id": 2, "banned_artists": [1, 2], "heard_tracks": [8]}])
    publish.run(second)
    row, tracks = stored_user(world, new, 2), open_release(pointer.releases(world.home) / new).track_ids
    assert (row.banned_artists.tolist(), row.heard_tracks.tolist()) == ([1, 2], [8])
    groups = small_week.tracks()[1]  # artist 1 + group
    assert sorted(row.track_ids.tolist()) == sorted(tracks[groups == 2].tolist())
    assert stored_user(world, new, 5).banned_albums.tolist() == [3], "no row: the first day's"
    place_new_users.run(world, BORN)
    assert stored_user(world, new, 2).banned_artists.tolist() == [1, 2], "as when it was published"
    assert {row["release"] for row in stored_rows(world)} == {new}
    old = Context(world.settings, Week.parse("2027-01-04"), world.home)
    assert publish.cold_days(old) == [], "by then they had 37 days to become warm"


def test_champion_promoted_during_the_run_receives_the_day(world, monkeypatch):
    second = small_week.build_and_gate(small_week.ready(world.home, small_week.SECOND))
    first, honest = pointer.read(world.home).release, place_new_users.write_first_days

    def keep(context, day):
        promote.run(second)
        publish.run(second)  # the day does not exist yet
        return honest(context, day)

    monkeypatch.setattr(place_new_users, "write_first_days", keep)
    assert place_new_users.run(world, BORN)["release"] == bundle.release_of_week(second) != first
    for release in (first, bundle.release_of_week(second)):
        assert stored_user(world, release, 5)


def test_daily_experiment_has_a_parent_run_and_a_child_per_day(world, monkeypatch):
    monkeypatch.setenv("OVERTURE_DAG_ID", "cold_users_daily")
    monkeypatch.setenv("OVERTURE_DAG_RUN_ID", "scheduled__2026-11-16")
    report = place_new_users.run(world, BORN)
    tracker = Tracker.connect(daily(world))
    assert tracker.experiment_id != Tracker.connect(world).experiment_id
    runs = {run.data.tags["kind"]: run for run in tracker.client.search_runs([tracker.experiment_id])}
    child, parent = runs["task"], runs["parent"]
    assert {child.info.status, parent.info.status} == {"FINISHED"}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.data.tags["task"], child.data.tags["day"]) == ("cold_users 2026-11-15", "2026-11-15")
    assert child.data.metrics["users"] == 3
    assert report["mlflow_run"] == child.info.run_id
    assert parent.data.tags["dag_id"] == "cold_users_daily"


def test_command_rejects_an_invalid_day(command, world, tmp_path):
    settings = tmp_path / "small.yaml"
    settings.write_text(json.dumps(small_week.settings().model_dump(mode="json", exclude={"service", "store"})))
    for wrong in ("2026-02-30", "none", "yesterday"):
        code, _, err = command("cold-users", "--day", wrong, "--config", settings)
        assert (code, f"'{wrong}' is not a date" in err) == (2, True)
    code, out, err = command("cold-users", "--day", BORN, "--config", settings)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["users"] == 3


def test_first_error_is_reported_if_mlflow_becomes_unavailable(home, monkeypatch):
    """No Spark session is needed: the job ends before it reads a table."""
    context = small_week.context_at(home)

    def stops(*_: object) -> None:
        (home / "mlflow" / "mlflow.db").write_bytes(b"no database")
        raise CheckFailed("the champion is damaged")

    monkeypatch.setattr(place_new_users, "load_champion", stops)
    with pytest.raises(CheckFailed, match="the champion is damaged"):
        place_new_users.run(context, BORN)


def test_listener_who_banned_everything_has_an_empty_list(world):
    everything = [event(2, "ban", "artist", artist, START + HOUR) for artist in (1, 2, 3)]
    ingest(world, users(), events() + everything)
    release = place_new_users.run(world, BORN)["release"]
    assert stored_user(world, release, 2).track_ids.tolist() == [-1] * 50
    assert -1 not in stored_user(world, release, 1).track_ids
