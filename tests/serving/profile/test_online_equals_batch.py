"""The input vector of the online profile equals the batch's, from the landed files through the source `tables`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import yaml

from jobs.ingest.tables import adapter
from jobs.matrix import first_day as batch
from jobs.matrix.first_day_bounds import end_of_day as batch_end_of_day
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.matrix import FirstDaySettings
from jobs.settings.settings import Settings
from models.cold_start.input_vector import FirstDays
from serving.recommend.first_day import end_of_day, first_day
from serving.recommend.signals import days_of
from tests.helpers import small_week
from tests.helpers.live import ROOT
from tests.serving.profile.test_event_routes import method, send

TRACKS = [int(track) for track in small_week.tracks()[0]]
ARTISTS = (1 + small_week.tracks()[1]).tolist()
LISTENERS = ("501", "502", "503", "504", "505")


def documented_source() -> dict:
    """Return the settings of the how-to page."""
    (text,) = re.findall(r"```yaml\n(source:.*?)```", (ROOT / "docs/how-to/send-events.md").read_text(), re.DOTALL)
    return yaml.safe_load(text)["source"]


@pytest.fixture
def sent(release_home, serve):
    """A service that received the days of five listeners, with everything that can happen to an event."""
    release_home.promote(release_home.first)
    service = serve(release_home.home)
    now = datetime.now(UTC)
    start = max(now - timedelta(minutes=10), now.replace(hour=0, minute=0, second=0, microsecond=0))

    def event(event_id, user, ms, kind, entity_id, entity="track", **more):
        ts = (start + timedelta(milliseconds=ms)).isoformat()
        named = {"event_id": event_id, "user_id": user, "ts": ts, "kind": kind, "entity": entity, "id": entity_id}
        return named | more

    registered = {"country": "FR", "age": 41, "registered_at": (start + timedelta(milliseconds=5)).isoformat()}
    rich = [
        event("early", "501", 4, "stream", TRACKS[40]),  # before the registration
        event("r", "501", 5, "onboarding", 2, "artist", listener={"country": "DE", "age": 20}),
        event("r2", "501", 6, "onboarding", 1, "artist", listener=registered),
        *[event(f"s{n}", "501", 20, "stream", track, seconds=100 + n) for n, track in enumerate(TRACKS[7:1:-1])],
        event("again", "501", 20, "stream", TRACKS[5]),  # equal time, kind and entity: one event
        event("s-later", "501", 30, "stream", TRACKS[3], platform="web", context="search"),
        event("unknown", "501", 31, "stream", 999_999_999),
        event("k", "501", 32, "skip", TRACKS[9], seconds=2),
        event("b", "501", 33, "ban", TRACKS[10]),
        event("ba", "501", 33, "ban", 3, "artist"),
        event("bl", "501", 33, "ban", 2, "album"),
        *[event(f"f{n}", "501", 40 + n, "favourite", n, entity) for n, entity in enumerate(("album", "artist"), 1)],
        event("fp", "501", 44, "favourite", 3, "playlist"),
        event("fu", "501", 44, "favourite", 888, "artist"),  # without a vector: counted
        event("ft", "501", 44, "favourite", TRACKS[12]),
        *[
            event(f"q{n}", "501", 50, "search", n, entity)
            for n, entity in enumerate(("album", "artist", "playlist"), 1)
        ],
        event("qt", "501", 50, "search", TRACKS[13]),
        event("undone", "501", 51, "stream", TRACKS[14]),
    ]
    assert set(send(service, *rich)) == {"accepted"}
    assert set(send(service, *rich[:3])) == {"repeated"}
    assert method(service, "DELETE", "/v1/users/501/events/undone")[0] == 200
    plain = [event(f"p{n}", "502", 90 - n, "stream", track) for n, track in enumerate(TRACKS[20:25])]
    assert set(send(service, *plain)) == {"accepted"}
    guest = [
        event(f"g{n}", "99", 60 + n, "stream", track, listener={"age": 33}) for n, track in enumerate(TRACKS[30:34])
    ]
    assert set(send(service, *guest)) == {"accepted"}
    assert method(service, "POST", "/v1/users/99/merge", {"into": "503"})[1]["moved"] == 4
    assert send(service, event("late", "99", 58, "skip", TRACKS[35])) == ["accepted"]
    assert set(send(service, event("x1", "504", 70, "stream", TRACKS[1]))) == {"accepted"}
    assert method(service, "DELETE", "/v1/users/504/events")[1]["removed"] == 1
    assert send(service, event("other", "505", 70, "search", TRACKS[2])) == ["accepted"]
    with (release_home.home / "songs.jsonl").open("w") as sink:
        for track, artist in zip(TRACKS, ARTISTS, strict=True):
            sink.write(json.dumps({"track_id": track, "artist_id": artist, "album_id": artist}) + "\n")
    return service


def test_online_profile_equals_the_batch_bit_for_bit(sent, release_home, spark, tmp_path):
    values = {"name": "events", "week": "2026-11-16", "source": documented_source()}
    context = Context(Settings.model_validate(values), Week.parse("2026-11-16"), tmp_path / "jobs")
    report = adapter.run(context, release_home.home)
    assert report["quarantined"] == {"events": 0, "tracks": 0, "users": 0}
    lake = context.lake
    users = lake.spark(spark, "users")
    days = batch.registration_days(users, context.settings.matrix.first_day)
    events = spark.read.parquet(*lake.spark_paths("events", lake.partitions("events")))
    rows = batch.collect_first_days(days, events, lake.spark(spark, "tracks")).orderBy("user_id").toArrow()
    assert rows["user_id"].to_pylist() == [501, 502, 503, 505]  # 504 was forgotten, guest 99 is 503
    loaded = sent.app.app.state.champion.current
    x_batch = loaded.inputs(FirstDays.from_arrow(rows))
    profiles = [first_day(loaded, user, of_user(sent, user)) for user in ("501", "502", "503", "505")]
    x_online = loaded.inputs(days_of(loaded, [profile.signals for profile in profiles]))
    assert x_batch.tobytes() == x_online.tobytes()
    for n, profile in enumerate(profiles):  # the path of one listener
        assert loaded.inputs(days_of(loaded, [profile.signals])).tobytes() == x_online[n].tobytes()
    assert (x_online != 0).any(axis=1).all()
    assert len(np.unique(x_online, axis=0)) == 4
    assert rows["streamed_songs"].to_pylist()[0] == [*sorted(TRACKS[2:8]), TRACKS[3]]
    assert rows.select(["country", "age"]).to_pylist()[0] == {"country": "FR", "age": 41}
    assert profiles[0].signals.unknown == {"streams.tracks": ["999999999"], "favourites.artists": ["888"]}
    assert first_day(loaded, "504", of_user(sent, "504")) is None


def of_user(service, user):
    """The events of a user as another process reads them from the log."""
    from serving.profile.days import Days
    from serving.profile.event_log import EventLog
    from serving.profile.memory import MemoryProfiles

    log = EventLog(service.app.app.state.profiles.days.log.folder)
    return Days(MemoryProfiles(log, 172_800.0), log).events(user)


@pytest.mark.parametrize(
    "settings",
    [
        FirstDaySettings(),
        FirstDaySettings(time_zone="America/Sao_Paulo"),
        FirstDaySettings(time_zone="Asia/Beirut"),
        FirstDaySettings(length="24_hours"),
    ],
    ids=lambda settings: f"{settings.length}-{settings.time_zone}",
)
def test_first_day_ends_when_the_batch_ends_it(spark, settings):
    """Around changes of the clock at midnight, too: Brazil's until 2018, Lebanon's in 2023 and 2026."""
    zone = ZoneInfo(settings.time_zone)
    around = [
        datetime(2018, 11, 3, 12, tzinfo=zone),
        datetime(2018, 2, 17, 12, tzinfo=zone),
        datetime(2026, 3, 28, 12, tzinfo=zone),
        datetime(2026, 10, 24, 12, tzinfo=zone),
    ]
    moments = [
        (day + timedelta(hours=hours, microseconds=us)).astimezone(UTC)
        for day in around
        for hours in range(0, 48, 3)
        for us in (-1, 0)
    ]
    frame = spark.createDataFrame([(moment.replace(tzinfo=None).isoformat(),) for moment in moments], "at string")
    ends = frame.select(batch_end_of_day(frame.at.cast("timestamp"), settings).cast("string").alias("end")).collect()
    online = [f"{end_of_day(moment, settings.model_dump()):%Y-%m-%d %H:%M:%S.%f}" for moment in moments]
    assert [datetime.fromisoformat(row.end) for row in ends] == [datetime.fromisoformat(text) for text in online]
