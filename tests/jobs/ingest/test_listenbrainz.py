"""Test the listenbrainz adapter: lines become the right rows, bad lines are counted, too many stop the run."""

import gzip
import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from contracts.entity_ids import stable_id
from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.ids import MADE
from jobs.ingest.listenbrainz import adapter as listenbrainz
from jobs.ingest.listenbrainz import generate, parse
from jobs.ingest.listening_log import hashed_session_ids
from jobs.ingest.time_bounds import TimeBounds
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import Settings
from tests.helpers.quarantine import quarantined

WEEK = Week.parse("2020-06-01")
BOUNDS = TimeBounds(parse.EARLIEST, datetime(2026, 1, 1, tzinfo=UTC))


def context_at(home, max_bad_share=0.01):
    source = {"kind": "listenbrainz", "max_bad_share": max_bad_share}
    return Context(Settings.model_validate({"name": "t", "week": str(WEEK), "source": source}), WEEK, home)


def uid(n):
    return f"{n:08x}-0000-4000-8000-00000000000{n % 10}"


def seconds(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def listen(
    time="2020-05-01T10:00:00",
    user="rob",
    msid=1,
    artist="Ann",
    title="One",
    release=...,
    info=None,
    mapping=...,
    **rest,
):
    metadata = {
        "artist_name": artist,
        "track_name": title,
        "release_name": release,
        "additional_info": {"recording_msid": uid(msid) if msid is not None else None} | (info or {}),
        "mbid_mapping": mapping,
    }
    row = {
        "user_id": 7,
        "user_name": user,
        "timestamp": seconds(time) if isinstance(time, str) else time,
        "track_metadata": {name: value for name, value in metadata.items() if value is not ...},
        "recording_msid": uid(msid) if msid is not None else None,
    } | rest
    return {name: value for name, value in row.items() if value is not ...}


def love(score=1, user="rob", time="2020-05-03T09:00:00+00:00", **fields):
    return {"user_name": user, "recording_msid": uid(1), "feedback": score, "created": time} | fields


def text(rows):
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


def folder(path, listens, feedback=None):
    """Write the listens of a month and the feedback of a day as the dumps have them."""
    month = path / "listens" / "2020"
    month.mkdir(parents=True)
    (month / "5.listens").write_text(text(listens))
    if feedback is not None:
        day = path / "feedback" / "listens" / "2020" / "05" / "03"
        day.mkdir(parents=True)
        (day / "data.json").write_text(text(feedback))
    return path


def tables(context):
    events = [context.lake.read("events", **p).to_pandas() for p in context.lake.partitions("events")]
    rest = {name: context.lake.read(name).to_pandas() for name in ("users", "tracks", "playlists")}
    return rest | {"events": pd.concat(events, ignore_index=True)}


def run(tmp_path, listens, feedback=None, max_bad_share=0.01, name="data"):
    context = context_at(tmp_path / f"home-{name}", max_bad_share)
    report = listenbrainz.run(context, folder(tmp_path / name, listens, feedback))
    return report, tables(context)


def test_ids_are_mbids_where_mapped_then_sent_then_the_msid_and_names(tmp_path):
    mapped = {"recording_mbid": uid(11), "artist_mbids": [uid(12), uid(13)], "release_mbid": uid(14)}
    sent = {"recording_mbid": uid(21).upper(), "artist_mbids": [uid(22)], "release_mbid": uid(24)}
    cases = [
        (listen(msid=1, info=sent, mapping=mapped, release="R"), uid(11), uid(12), uid(14)),
        (listen(msid=2, info=sent, release="R"), uid(21), uid(22), uid(24)),
        (listen(msid=3, artist=" Be\u0301a ", release="LP 1 "), uid(3), "béa", "béa / lp 1"),
        (listen(msid=4, artist="BÉA", title="Two", release=None), uid(4), "béa", "béa"),
        (listen(msid=5, info={"recording_mbid": "spotify:1", "artist_mbids": "x"}, release=""), uid(5), "ann", "ann"),
        (listen(msid=6, info={"artist_mbids": [uid(22)]}), uid(6), uid(22), uid(22)),
        (listen(msid=None, info=sent | {"recording_mbid": uid(31)}), uid(31), uid(22), uid(24)),
    ]
    _, result = run(tmp_path, [row for row, *_ in cases])
    tracks = result["tracks"].set_index("external_id")
    assert set(tracks.index) == {track for _, track, _, _ in cases}
    for _, track, artist, album in cases:
        row = tracks.loc[track]
        assert (row.artist_external_id, row.album_external_id) == (artist, album)
        assert (row.track_id, row.artist_id, row.album_id) == tuple(map(stable_id, (track, artist, album)))
    assert set(result["events"].entity_id) == set(tracks.track_id)
    assert tracks.loc[uid(3), "artist_name"] == "Be\u0301a"


def test_names_durations_and_played_times_are_read(tmp_path):
    infos = [
        {"duration_ms": 200_499, "duration_played": 17},
        {"duration": 201, "duration_played": -1},
        {"duration_ms": "200000", "duration_played": "17"},
        {"duration_ms": 0, "duration": 202, "duration_played": 90_000},
        {"duration_ms": 1e300},
    ]
    times = [f"2020-05-01T10:0{n}:00" for n in range(5)]
    rows = [
        listen(time, msid=n + 1, info=info, title=f" T{n} ")
        for n, (time, info) in enumerate(zip(times, infos, strict=True))
    ]
    _, result = run(tmp_path, [*rows, listen("2020-05-01T11:00:00", title="Later", info={"duration_ms": 1_000})])
    tracks = result["tracks"].set_index("external_id").sort_index()
    assert tracks.duration_s.fillna(-1).astype(int).tolist() == [200, 201, -1, 202, -1]
    assert tracks.title.tolist() == ["T0", "T1", "T2", "T3", "T4"]
    events = result["events"].sort_values("ts")
    assert events.listened_s.fillna(-1).astype(int).tolist() == [17, -1, -1, -1, -1, -1]
    assert set(events.kind) == {"stream"}


def test_a_line_of_the_api_and_one_of_the_dump_give_the_same_event(tmp_path):
    dump, api = listen(), listen(timestamp=..., listened_at=seconds("2020-05-01T10:00:00"))
    assert parse.parse_listen(json.dumps(dump).encode(), BOUNDS) == parse.parse_listen(json.dumps(api).encode(), BOUNDS)
    report, result = run(tmp_path, [dump, api, listen(user=...), listen(user="", user_id="mb:7")])
    assert report["events_repeated"] == 1
    assert set(result["users"].external_id) == {"rob", "7", "mb:7"}


def test_feedback_becomes_favorites_and_bans_of_tracks_that_were_heard(tmp_path):
    listens = [listen(msid=1, mapping={"recording_mbid": uid(11)}), listen("2020-05-01T10:05:00", msid=2)]
    feedback = [
        love(1),
        love(-1, recording_msid=uid(2), time="2020-05-04T00:00:00+02:00"),
        {
            "user_id": "zoe",
            "recording_mbid": uid(11),
            "recording_msid": None,
            "score": 1,
            "created": seconds("2020-05-05T00:00:00"),
        },
        love(0),
        love(1, recording_msid=uid(9)),
        love(1, recording_msid=uid(9), recording_mbid=uid(8)),
        love(1, recording_mbid=uid(8), time="2020-05-06T00:00:00"),
    ]
    report, result = run(tmp_path, listens, feedback)
    assert report["feedback"] == {"read": 7, "bad": {}, "first": [], "taken_back": 1, "track_without_listen": 2}
    rows = result["events"].query("kind != 'stream'").sort_values("ts")
    names = result["users"].set_index("user_id").external_id
    ids = result["tracks"].set_index("track_id").external_id
    columns = (
        rows.user_id.map(names),
        rows.kind,
        rows.entity,
        rows.entity_id.map(ids),
        rows.ts.dt.strftime("%m-%d %H"),
    )
    assert list(zip(*columns, strict=True)) == [
        ("rob", "favorite", "track", uid(11), "05-03 09"),
        ("rob", "ban", "track", uid(2), "05-03 22"),
        ("zoe", "favorite", "track", uid(11), "05-05 00"),
        ("rob", "favorite", "track", uid(11), "05-06 00"),
    ]
    assert len(result["playlists"]) == 2  # feedback is in no session


def test_a_day_ends_at_midnight_and_a_session_does_not(tmp_path):
    times = [
        "2020-05-01T23:59:59",
        "2020-05-02T00:00:00",
        "2020-05-02T00:30:00",
        "2020-05-02T01:00:01",
        "2020-05-02T01:01:00",
    ]
    rows = [listen(time, msid=n) for time, n in zip(times, (1, 2, 1, 3, 4), strict=True)]
    context = context_at(tmp_path / "home")
    report = listenbrainz.run(context, folder(tmp_path / "data", rows))
    assert [p["day"] for p in context.lake.partitions("events")] == ["2020-05-01", "2020-05-02"]
    assert [context.lake.rows("events", day=f"2020-05-0{n}") for n in (1, 2)] == [1, 4]
    assert report["days"] == {"written": 2, "first": "2020-05-01", "last": "2020-05-02"}
    playlists = context.lake.read("playlists").to_pandas()
    ids = context.lake.read("tracks").to_pandas().set_index("track_id").external_id
    sessions = [
        part.track_id.map(ids).tolist()
        for _, part in playlists.sort_values("added_at").groupby("playlist_id", sort=False)
    ]
    assert sessions == [[uid(1), uid(2)], [uid(3), uid(4)]]
    assert not playlists.public.any()
    assert set(playlists.user_id) == {stable_id("rob")}


def test_registrations_of_the_first_thirty_days_are_unknown(tmp_path):
    rows = [
        listen("2020-05-01T10:00:00", user="first"),
        listen("2020-05-30T23:59:59", user="before"),
        listen("2020-05-31T00:00:00", user="after"),
        listen("2020-06-07T00:00:00", user="after"),
    ]
    report, result = run(tmp_path, rows)
    registered = result["users"].set_index("external_id").registered_at.dt.strftime("%Y-%m-%d").to_dict()
    assert registered == {"first": "1970-01-01", "before": "1970-01-01", "after": "2020-05-31"}
    assert report["users_with_unknown_registration"] == 2
    assert (result["users"].user_id == result["users"].external_id.map(stable_id)).all()
    assert result["users"].country.isna().all()


BAD_LISTENS = {
    "is not JSON": json.dumps(listen())[:80],
    "is not a JSON object": "[1]",
    "no track_metadata": listen(track_metadata=None),
    "no artist_name or no track_name": listen(title=" "),
    "no recording_mbid and no recording_msid": listen(msid=None),
    "no user_name and no user_id": listen(user=None, user_id=None),
    "time is neither a number nor ISO 8601": listen(time="2020-05-01T10:00:00") | {"timestamp": "yesterday"},
    "time is before 2002-10-01": listen(time="2002-09-30T23:59:59"),
    "time is in the future": listen(time=4_000_000_000),
}


def test_each_bad_line_is_counted_for_its_reason_up_to_the_allowed_share(tmp_path):
    rows = [listen(), *BAD_LISTENS.values(), listen(time="2002-10-01T00:00:00", msid=2)]
    report, result = run(tmp_path, rows, max_bad_share=0.82)
    assert report["listens"]["read"] == 11
    assert report["listens"]["bad"] == dict.fromkeys(BAD_LISTENS, 1)
    assert [line.split(": ")[0] for line in report["listens"]["first"]] == [
        f"listens/2020/5.listens:{n}" for n in range(2, 7)
    ]
    assert len(result["events"]) == 2
    stored = quarantined(context_at(tmp_path / "home-data").lake)
    assert stored == {
        "events": sorted((reason, text([row])[:-1], "listens/2020/5.listens", 1) for reason, row in BAD_LISTENS.items())
    }
    context = context_at(tmp_path / "other", 0.81)
    with pytest.raises(
        CheckFailed, match=r"9 of 11 listens .*source\.max_bad_share(.|\n)*listens/2020/5\.listens:2: is not JSON"
    ):
        listenbrainz.run(context, tmp_path / "data")
    assert not context.lake.exists("users")


def test_deep_json_nan_and_times_out_of_range_are_bad_lines(tmp_path):
    lines = [
        "[" * 100_000,
        json.dumps(listen()).replace("{", '{"x": NaN, ', 1),
        json.dumps(listen() | {"timestamp": "0001-01-01T00:00:00+01:00"}),
        json.dumps(listen() | {"timestamp": "9999-12-31T23:59:59-01:00"}),
        "",
    ]
    report, _ = run(tmp_path, [listen(), *lines], max_bad_share=0.9)
    assert report["listens"]["bad"] == {"is not JSON": 3, "time is before 2002-10-01": 1, "time is in the future": 1}
    assert max(len(row) for _, row, _, _ in quarantined(context_at(tmp_path / "home-data").lake)["events"]) == 10_000


BAD_FEEDBACK = {
    "score is not 1, 0 or -1": love(2),
    "no recording_mbid and no recording_msid": love(recording_msid="1"),
    "no user_name and no user_id": love(user=""),
    "time is neither a number nor ISO 8601": love(time=None),
    "is not JSON": '{"user_name',
}


@pytest.mark.parametrize("reason", BAD_FEEDBACK)
def test_bad_feedback_is_counted_up_to_the_allowed_share(tmp_path, reason):
    report, _ = run(tmp_path, [listen()], [love(), BAD_FEEDBACK[reason]], max_bad_share=0.5)
    assert report["feedback"]["bad"] == {reason: 1}
    row = (reason, text([BAD_FEEDBACK[reason]])[:-1], "feedback/listens/2020/05/03/data.json", 1)
    assert quarantined(context_at(tmp_path / "home-data").lake) == {"events": [row]}
    with pytest.raises(CheckFailed, match=r"1 of 2 lines of feedback (.|\n)*feedback/listens/2020/05/03/data\.json:2"):
        listenbrainz.run(context_at(tmp_path / "other", 0.49), tmp_path / "data")


def test_compressed_months_of_several_dumps_give_the_rows_of_one(tmp_path):
    rows = [listen(f"2020-0{month}-02T10:0{n}:00", msid=n, user=f"u{n}") for month in (4, 5) for n in range(9)]
    april, may = text(rows[:9]), text(rows[9:])
    one = tmp_path / "one" / "2020"
    one.mkdir(parents=True)
    (one / "4.listens").write_text(april)
    (one / "5.listens").write_text(may.rstrip("\n"))
    several = tmp_path / "several"
    for dump in ("full", "incremental"):
        (several / dump / "listens" / "2020").mkdir(parents=True)
    (several / "full/listens/2020/4.listens.gz").write_bytes(
        gzip.compress(april[:700].encode()) + gzip.compress(april[700:].encode())
    )
    with pa.CompressedOutputStream(str(several / "full/listens/2020/5.listens.zst"), "zstd") as target:
        target.write(may.encode())
    (several / "incremental/listens/2020/5.listens").write_text(text(rows[9:12]))
    contexts = [context_at(tmp_path / name) for name in ("a", "b")]
    reports = [
        listenbrainz.run(context, data) for context, data in zip(contexts, (tmp_path / "one", several), strict=True)
    ]
    assert [report["events_repeated"] for report in reports] == [0, 3]
    for name, table in tables(contexts[0]).items():
        pd.testing.assert_frame_equal(table, tables(contexts[1])[name])


def test_a_second_run_is_equal_and_blocks_and_runs_do_not_matter(tmp_path, monkeypatch):
    rows = [listen(f"2020-05-{n % 28 + 1:02d}T10:{n % 60:02d}:00", msid=n % 13, user=f"u{n % 5}") for n in range(200)]
    rows[77] = "torn"
    data = folder(tmp_path / "data", rows, [love(user="u1"), love(-1, user="u2")])
    context = context_at(tmp_path / "home")
    first = listenbrainz.run(context, data)
    before = tables(context)
    monkeypatch.setattr(parse, "BLOCK_BYTES", 700)
    monkeypatch.setattr(listenbrainz, "RUN", 50)
    second = listenbrainz.run(context, data)
    assert {**first, "paths": None} == {**second, "paths": None}
    assert first["listens"]["first"] == ["listens/2020/5.listens:78: is not JSON: 'torn'"]
    for name, table in tables(context).items():
        pd.testing.assert_frame_equal(table, before[name])


def test_missing_and_damaged_files_are_named(tmp_path):
    context = context_at(tmp_path / "home")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadArgument, match=r"has no file <year>/<month>\.listens$"):
        listenbrainz.run(context, empty)
    (empty / "listenbrainz-listens-dump-1-full.tar.zst").write_bytes(b"")
    with pytest.raises(BadArgument, match=r"unpack listenbrainz-listens-dump-1-full\.tar\.zst first"):
        listenbrainz.run(context, empty)
    data = folder(tmp_path / "data", [listen()])
    packed = gzip.compress(text([listen(msid=n) for n in range(50)]).encode())
    (data / "listens" / "2020" / "6.listens.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(CheckFailed, match=r"6\.listens\.gz: cannot be read, possibly truncated"):
        listenbrainz.run(context, data)
    (data / "listens" / "2020" / "6.listens.gz").unlink()
    (data / "listens" / "2020" / "5.listens").write_text("")
    with pytest.raises(CheckFailed, match="the file is empty"):
        listenbrainz.run(context, data)
    assert not context.lake.exists("users")


def test_ids_of_sessions_differ_and_are_above_those_of_a_source():
    user, start = np.divmod(np.arange(40_000), 200)
    ids = hashed_session_ids(user * 2**40 + 5, start * 60 + 1_588_000_000)
    assert len(set(ids.tolist())) == 40_000
    assert ids.min() >= MADE


def test_the_generator_writes_equal_files_that_the_adapter_reads(tmp_path):
    options = generate.ListenBrainzOptions(users=120, tracks=150, first_day="2026-09-01", last_day="2026-11-22")
    report = generate.run(tmp_path / "a", options)
    generate.run(tmp_path / "b", options)
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert [str(file) for file in files if file.suffix == ".listens"] == [
        f"listens/2026/{n}.listens" for n in (10, 11, 9)
    ]
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    context = context_at(tmp_path / "home")
    result = listenbrainz.run(context, tmp_path / "a")
    rows = report["rows"]
    assert (result["listens"]["read"], result["feedback"]["read"]) == (rows["listens"], rows["feedback"])
    assert sum(result["listens"]["bad"].values()) == rows["odd"] > 0
    assert result["events_repeated"] == rows["repeated"] > 0
    assert result["feedback"]["taken_back"] == rows["taken_back"]
    kinds = tables(context)["events"].kind.value_counts()
    assert kinds.favorite + kinds.ban > 0.9 * rows["feedback"]
    assert kinds.stream == rows["listens"] - rows["odd"] - rows["repeated"]
    with pytest.raises(BadArgument, match="is not empty"):
        generate.run(tmp_path / "a", options)


def test_the_commands_write_and_read_a_dump(home, tmp_path, command):
    days = ("--from", "2026-10-01", "--to", "2026-11-22")
    code, out, _ = command("make-listenbrainz", "--out", tmp_path / "a", "--users", 50, "--tracks", 100, *days)
    assert code == 0
    n_listens = json.loads(out)["rows"]["listens"]
    code, out, _ = command("ingest", "listenbrainz", "--data", tmp_path / "a")
    assert code == 0
    assert json.loads(out)["listens"]["read"] == n_listens
