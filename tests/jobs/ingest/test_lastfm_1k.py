"""Test the lastfm_1k adapter: real lines are converted exactly, bad lines are counted, too many stop the job."""

from array import array
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from contracts.entity_ids import stable_id
from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.ids import MADE
from jobs.ingest.lastfm_1k import adapter as lastfm_1k
from jobs.ingest.lastfm_1k import parse as lastfm_parse
from jobs.ingest.lastfm_1k.parse import line_of, moments
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import Settings
from tests.helpers.quarantine import quarantined

WEEK = Week.parse("2006-07-10")
EVENTS = "userid-timestamp-artid-artname-traid-traname.tsv"
HEAD = "#id\tgender\tage\tcountry\tregistered"


def context_at(home, max_bad_share=0.01):
    settings = {"name": "t", "week": str(WEEK), "source": {"kind": "lastfm_1k", "max_bad_share": max_bad_share}}
    return Context(Settings.model_validate(settings), WEEK, home)


def line(user=1, time="2006-05-01T10:00:00Z", artid="a1", artist="Ann", traid="t1", title="One"):
    return f"user_{user:06d}\t{time}\t{artid}\t{artist}\t{traid}\t{title}".encode()


def folder(path, lines, profile=("user_000001\tm\t30\tJapan\tApr 1, 2006",)):
    path.mkdir(exist_ok=True)
    (path / EVENTS).write_bytes(b"\n".join(lines) + b"\n")
    (path / "userid-profile.tsv").write_text("\n".join([HEAD, *profile]) + "\n")
    return path


def run(tmp_path, lines, max_bad_share=1.0, **kwargs):
    context = context_at(tmp_path / "home", max_bad_share)
    report = lastfm_1k.run(context, folder(tmp_path / "data", lines, **kwargs))
    tables = {name: context.lake.read(name).to_pandas() for name in ("users", "tracks", "playlists")}
    parts = [context.lake.read("events", **p).to_pandas() for p in context.lake.partitions("events")]
    return report, tables | {"events": pd.concat(parts, ignore_index=True)}


class TestRealExcerpt:
    @pytest.fixture(scope="class")
    def ingested(self, data_dir, tmp_path_factory):
        data = data_dir("lastfm_1k")
        context = context_at(tmp_path_factory.mktemp("lastfm"))
        report = lastfm_1k.run(context, data)
        log = pd.concat([context.lake.read("events", **p).to_pandas() for p in context.lake.partitions("events")])
        raw = pd.read_csv(
            next(data.glob("*first5000.tsv")),
            sep="\t",
            header=None,
            quoting=3,
            keep_default_na=False,
            names=["user", "time", "artid", "artist", "traid", "title"],
        )
        profile = pd.read_csv(data / "userid-profile.tsv", sep="\t", keep_default_na=False)
        return context, report, log, raw, profile

    def test_all_lines_become_streams_at_their_timestamp(self, ingested):
        _, report, log, raw, _ = ingested
        assert report["lines"] == {"read": 5000, "bad": {}, "first": []}
        assert set(log.kind) == {"stream"}
        assert log.listened_s.isna().all()
        expected = raw.user.str[5:].astype("int64").astype(str) + " " + raw.time
        assert sorted(log.user_id.astype(str) + " " + log.ts.dt.strftime("%Y-%m-%dT%H:%M:%SZ")) == sorted(expected)

    def test_tracks_are_identified_by_mbid_or_by_name(self, ingested):
        context, _, log, raw, _ = ingested
        key = raw.traid.where(
            raw.traid != "", raw.artist.str.lower().str.strip() + "|" + raw.title.str.lower().str.strip()
        )
        tracks = context.lake.read("tracks").to_pandas()
        assert len(tracks) == key.nunique() == log.entity_id.nunique()
        first = raw[raw.traid != ""].iloc[0]
        track = tracks.set_index("track_id").loc[stable_id(first.traid)]
        assert (track.title, track.artist_name) == (first.title, first.artist)
        assert track.artist_id == stable_id(first.artid)
        assert (tracks.album_id == MADE + tracks.artist_id).all()

    def test_users_are_the_profile_lines_with_a_date(self, ingested):
        context, report, _, _, profile = ingested
        users = context.lake.read("users").to_pandas().set_index("user_id")
        assert len(users) == (profile.registered != "").sum()
        assert report["users_without_date"] == (profile.registered == "").sum()
        day = pd.to_datetime(profile.registered, format="%b %d, %Y", errors="coerce", utc=True)
        ids = profile["#id"].str[5:].astype("int64")
        assert (users.registered_at == day.set_axis(ids).dropna()).all()
        is_user = ids.isin(users.index)
        # One user's country is Netherlands Antilles, whose code was withdrawn. Two users are below five years old.
        assert report["profile_countries_unknown"] == {"Netherlands Antilles": 1}
        assert users.country.notna().sum() == (profile.country[is_user] != "").sum() - 1
        assert report["profile_ages_unknown"] == 2
        assert users.age.notna().sum() == (profile.age[is_user] != "").sum() - 2
        assert users.loc[1, "country"] == "JP"

    def test_sessions_have_no_gap_above_half_an_hour(self, ingested):
        context, _, log, _, _ = ingested
        playlists = context.lake.read("playlists").to_pandas()
        assert not playlists.duplicated(["playlist_id", "position"]).any()
        assert not playlists.duplicated(["playlist_id", "track_id"]).any()
        assert playlists.groupby("playlist_id").size().min() >= 2
        log = log.sort_values(["user_id", "ts", "entity_id"])
        gap = log.groupby("user_id").ts.diff() > pd.Timedelta(minutes=30)
        session = (gap | (log.user_id != log.user_id.shift())).cumsum()
        sizes = log.groupby(session).entity_id.nunique()
        assert sorted(playlists.groupby("playlist_id").size()) == sorted(sizes[sizes >= 2])
        streams = set(zip(log.user_id, log.entity_id, log.ts, strict=True))
        assert set(zip(playlists.user_id, playlists.track_id, playlists.added_at, strict=True)) <= streams


def test_each_bad_line_is_counted_for_one_reason_with_file_and_line(tmp_path):
    lines = [
        line(),
        b"user_000001\ttorn",
        line(time="2006-02-30T10:00:00Z"),
        b"",
        line(title="", time="2006-05-01T10:01:00Z"),
        line(artid="", artist=" ", traid="x"),
        b"nobody\t2006-05-01T10:00:00Z\ta\tA\tt\tT",
        line(artist="").replace(b"One", b"\xff\xfe"),
        line(artid="", traid="", title=""),
        line(time="2006-05-01T10:05:00Z"),
    ]
    report, tables = run(tmp_path, lines)
    assert report["lines"]["read"] == 10
    assert report["lines"]["bad"] == {
        "2 columns instead of 6": 1,
        "empty line": 1,
        "no UTF-8": 1,
        "no artist or no track": 2,
        "time is not YYYY-MM-DDThh:mm:ssZ since 1970": 1,
        "user is not user_<digits>": 1,
    }
    locations = {text.split(": ")[0] for text in report["lines"]["first"]}
    assert len(report["lines"]["first"]) == 5
    assert locations <= {f"{EVENTS}:{n}" for n in (2, 3, 4, 6, 7, 8, 9)}
    assert f"{EVENTS}:2" in locations
    assert len(tables["events"]) == 3


def test_lines_that_cannot_be_used_are_in_the_quarantine_of_the_last_run_alone(tmp_path):
    torn = [b"user_000001\ttorn", b"", b"", line(time="1970-01-01T00:00:00Z")]
    report, _ = run(tmp_path, [line(), *torn], profile=["user_000001\tm\t30\tJapan\tApr 1, 2006", "nobody\t\t\t\t"])
    context = context_at(tmp_path / "home", 1.0)
    assert quarantined(context.lake) == {
        "events": [
            ("2 columns instead of 6", "user_000001\ttorn", EVENTS, 1),
            ("empty line", "\t\t\t\t\t", EVENTS, 2),
            ("time is before 2000-01-01", line(time="1970-01-01T00:00:00Z").decode(), EVENTS, 1),
        ],
        "users": [("user is not user_<digits>", "nobody\t\t\t\t", "userid-profile.tsv", 1)],
    }
    assert report["quarantined"] == {"events": 3, "users": 1}
    report, _ = run(tmp_path, [line()])
    assert report["quarantined"] == quarantined(context.lake) == {}


def test_too_many_bad_lines_stop_the_run_before_it_writes(tmp_path):
    data = folder(tmp_path / "data", [line()] * 9 + [b"torn"])
    context = context_at(tmp_path / "home", 0.05)
    with pytest.raises(CheckFailed, match=r"1 of 10 lines .*0\.05(.|\n)*traname\.tsv:10: 1 columns"):
        lastfm_1k.run(context, data)
    assert not context.lake.exists("users")
    assert lastfm_1k.run(context_at(tmp_path / "home", 0.1), data)["events_repeated"] == 8


def test_times_before_the_earliest_day_and_in_the_future_are_bad_lines(tmp_path):
    """One line with a wrong clock changes neither the days of the log nor its listener's registration."""
    times = ["1970-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "2000-01-01T00:00:00Z", "2006-05-01T10:00:00Z"]
    tomorrow, later = (datetime.now(UTC) + timedelta(hours=h) for h in (23, 25))
    times += [f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (tomorrow, later)]
    lines = [line(time=time, user=n) for n, time in enumerate(times)]
    profile = ["user_000001\t\t\t\tJan 1, 2150"]
    report, tables = run(tmp_path, lines, profile=profile)
    assert report["lines"]["bad"] == {"time is before 2000-01-01": 2, "time is in the future": 1}
    assert report["days"] == {"written": 3, "first": "2000-01-01", "last": f"{tomorrow:%Y-%m-%d}"}
    assert tables["events"].user_id.tolist() == [2, 3, 4]
    assert report["profile_dates_unknown"] == report["users_without_date"] == 1
    assert tables["users"].user_id.tolist() == [2, 3, 4]
    context = context_at(tmp_path / "home", 1.0)
    source = context.settings.source.model_copy(update={"earliest_day": date(2006, 5, 1)})
    context.settings = context.settings.model_copy(update={"source": source})
    report = lastfm_1k.run(context, tmp_path / "data")
    assert report["lines"]["bad"] == {"time is before 2006-05-01": 3, "time is in the future": 1}


def test_bad_profile_lines_are_counted_and_an_empty_log_raises(tmp_path):
    with pytest.raises(CheckFailed, match=r"userid-profile.tsv:3: user has more than one line"):
        run(tmp_path, [line()], 0.01, profile=["user_000001\t\t\t\t", "user_000001\t\t\t\t"])
    data = folder(tmp_path / "data", [line()])
    (data / EVENTS).write_bytes(b"")
    with pytest.raises(CheckFailed, match="the file is empty"):
        lastfm_1k.run(context_at(tmp_path / "home"), data)


def test_line_numbers_and_rows_do_not_depend_on_the_block_size(tmp_path, monkeypatch):
    lines = []
    for i in range(400):
        torn, late = i % 37 == 5, i % 91 == 90
        lines.append(
            b"torn" if torn else line(time="never" if late else f"2006-05-{i % 28 + 1:02d}T10:00:{i % 60:02d}Z")
        )
    whole = run(tmp_path, lines)
    monkeypatch.setattr(lastfm_parse, "BLOCK_BYTES", 700)
    parts = run(tmp_path, lines)
    assert whole[0]["lines"]["bad"] == parts[0]["lines"]["bad"]
    for name, table in whole[1].items():
        pd.testing.assert_frame_equal(table, parts[1][name])
    for text in whole[0]["lines"]["first"] + parts[0]["lines"]["first"]:
        number = int(text.split(":")[1])
        assert lines[number - 1] == b"torn" or b"never" in lines[number - 1]


def test_line_of_counts_excluded_lines():
    torn = array("q", [1, 4, 5, 9])
    assert [line_of(row, torn) for row in range(6)] == [2, 3, 6, 7, 8, 10]


def test_moments_parses_timestamps_to_microseconds():
    texts = ["2009-05-04T23:08:57Z", "2009-02-30T00:00:00Z", "2009-5-4T1:1:1Z", "", "1969-12-31T23:59:59Z"]
    assert moments(pa.array(texts)).tolist() == [1241478537000000, -1, -1, -1, -1]


def test_ids_by_name_ignore_case_and_spaces_and_differ_from_ids_by_mbid(tmp_path):
    lines = [
        line(artid="", traid="", artist="Ann", title="One"),
        line(artid="", traid="", artist=" ann", title="ONE ", time="2006-05-01T10:01:00Z"),
        line(artid="", traid="Ann\x1fOne", artist="Ann", title="One", time="2006-05-01T10:02:00Z"),
    ]
    _, tables = run(tmp_path, lines)
    assert len(tables["tracks"]) == 2
    assert tables["tracks"].artist_id.nunique() == 1
    assert tables["tracks"].album_id.nunique() == 1
    assert set(tables["tracks"].title) == {"One"}


def test_names_in_composed_and_decomposed_form_are_one_track_and_one_artist(tmp_path):
    names = [
        ("Beyonc\u00e9", "D\u00e9j\u00e0 Vu"),
        ("Beyonce\u0301", "De\u0301ja\u0300 Vu"),
        ("BEYONCE\u0301", "D\u00c9J\u00c0 VU"),
    ]
    lines = [
        line(artid="", traid="", artist=artist, title=title, time=f"2006-05-01T10:0{n}:00Z")
        for n, (artist, title) in enumerate(names[::-1])
    ]
    lines.append(line(artid="", traid="t9", artist="Beyonce\u0301", title="Halo", time="2006-05-01T11:00:00Z"))
    _, tables = run(tmp_path, lines)
    assert len(tables["tracks"]) == 2
    assert tables["tracks"].artist_id.nunique() == 1
    assert set(tables["tracks"].title) == {"D\u00c9J\u00c0 VU", "Halo"}  # composed; of the first line
    assert set(tables["tracks"].artist_name) == {"BEYONC\u00c9", "Beyonc\u00e9"}


@pytest.mark.parametrize("head", [f"{HEAD}\n", ""])
def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path, head):
    """Notepad and Excel write the mark; with fewer than 100 lines one bad line would stop the run."""
    data = folder(tmp_path / "data", [b"\xef\xbb\xbf" + line(), line(time="2006-05-02T10:00:00Z")])
    content = f"\ufeff{head}user_000001\t\t30\tJapan\tApr 1, 2006\n"
    (data / "userid-profile.tsv").write_text(content, encoding="utf-8")
    context = context_at(tmp_path / "home")
    report = lastfm_1k.run(context, data)
    assert report["rows"]["events"] == 2
    assert context.lake.read("users")["age"].to_pylist() == [30]


def test_registration_is_the_earlier_of_profile_and_first_event(tmp_path):
    lines = [line(user=n, time=f"2006-05-{n:02d}T10:00:00Z") for n in (1, 2, 3)]
    profile = [
        "user_000001\tm\t30\tJapan\tApr 1, 2006",
        "user_000002\tf\t3\tAtlantis\tMay 9, 2006",
        "user_000004\t\t\t\tFeb 30, 2006",
    ]
    report, tables = run(tmp_path, lines, profile=profile)
    users = tables["users"].set_index("user_id")
    assert users.registered_at.dt.strftime("%Y-%m-%d %H").to_dict() == {
        1: "2006-04-01 00",
        2: "2006-05-02 10",
        3: "2006-05-03 10",
    }
    assert users.country.to_dict() == {1: "JP", 2: None, 3: None}
    assert users.age.fillna(-1).to_dict() == {1: 30, 2: -1, 3: -1}
    assert report["users_without_profile"] == report["users_without_date"] == 1
    assert report["users_heard_before_registration"] == 1
    assert report["profile_countries_unknown"] == {"Atlantis": 1}
    assert report["profile_ages_unknown"] == report["profile_dates_unknown"] == 1


def test_countries_and_ages_that_are_not_valid_are_counted_up_to_the_bound(tmp_path):
    lines = [line(user=n, time=f"2006-05-{n:02d}T10:00:00Z") for n in (1, 2, 3, 4)]
    profile = [f"user_{n:06d}\t\t30\t{country}\t" for n, country in enumerate(("Japan", "Atlantis", "Japan", ""), 1)]
    report, _ = run(tmp_path, lines, 0.25, profile=profile)
    assert report["profile_countries_unknown"] == {"Atlantis": 1}
    with pytest.raises(CheckFailed, match=r"column 'country': 1 of 4 values are not valid \(Atlantis\), .*= 0\.2 "):
        run(tmp_path, lines, 0.2, profile=profile)
    profile[2:] = ["user_000003\t\t121\tJapan\t", "user_000004\t\t4\tJapan\t"]
    with pytest.raises(CheckFailed, match="column 'age': 2 of 4 values"):
        run(tmp_path, lines, 0.25, profile=profile)


def test_a_session_contains_a_track_once_and_ends_after_half_an_hour(tmp_path):
    times = ["10:00:00", "10:30:00", "11:00:00", "11:30:01", "11:31:00", "13:00:00"]
    lines = [line(time=f"2006-05-01T{t}Z", traid=i) for t, i in zip(times, "abacdz", strict=True)]
    _, tables = run(tmp_path, lines)
    playlists = tables["playlists"]
    sessions = [part.track_id.tolist() for _, part in playlists.groupby("playlist_id")]
    assert sessions == [[stable_id("a"), stable_id("b")], [stable_id("c"), stable_id("d")]]
    assert playlists.position.tolist() == [0, 1, 0, 1]
    assert (~playlists.public.astype(bool)).all(), "sessions are private"
    assert playlists.public.notna().all()
    assert playlists.added_at.dt.strftime("%H:%M:%S").tolist() == ["10:00:00", "10:30:00", "11:30:01", "11:31:00"]


def test_quotes_and_windows_line_ends_are_plain_text(tmp_path):
    lines = [line(title='Say "Hello') + b"\r", line(title='"', traid="t2", time="2006-05-01T10:01:00Z") + b"\r"]
    report, tables = run(tmp_path, lines, 0.0)
    assert report["lines"]["bad"] == {}
    assert set(tables["tracks"].title) == {'Say "Hello', '"'}


def test_a_missing_file_raises_with_its_name(tmp_path):
    data = folder(tmp_path / "data", [line()])
    (data / "userid-profile.tsv").unlink()
    with pytest.raises(BadArgument, match=r"userid-profile\.tsv: no such file"):
        lastfm_1k.run(context_at(tmp_path / "home"), data)
    (data / EVENTS).unlink()
    with pytest.raises(BadArgument, match="found none"):
        lastfm_1k.run(context_at(tmp_path / "home"), data)
    with pytest.raises(BadArgument, match="--data"):
        lastfm_1k.run(context_at(tmp_path / "home"), None)


def test_ids_are_stable_and_below_the_synthetic_ones():
    assert stable_id("f1b1cf71-bd35-4e99-8624-24a6e15f133a") == stable_id("f1b1cf71-bd35-4e99-8624-24a6e15f133a")
    ids = np.array([stable_id(str(i)) for i in range(2000)])
    assert len(set(ids)) == 2000
    assert ids.min() >= 0
    assert ids.max() < MADE
