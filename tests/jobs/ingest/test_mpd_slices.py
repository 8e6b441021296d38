"""Test the published form of the Million Playlist Dataset: slices of JSON, good and bad, and the generator."""

import json

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.entity_ids import stable_id
from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.mpd import adapter as mpd
from jobs.ingest.mpd import generate
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import Settings
from tests.helpers.quarantine import quarantined

WEEK = Week.parse("2026-11-16")
BASE62 = "abcdefghijklmnopqrstuv"


def context_at(home, **source):
    source = {"kind": "mpd", "catalogue_tracks": 5, "min_playlist_tracks": 4, "max_bad_share": 0.5} | source
    return Context(Settings.model_validate({"name": "t", "week": str(WEEK), "source": source}), WEEK, home)


def track(n, pos=0, **fields):
    row = {
        "pos": pos,
        "artist_name": f"Artist {n % 2}",
        "track_uri": f"spotify:track:{n}{BASE62}",
        "artist_uri": f"spotify:artist:{n % 2}",
        "track_name": f"Track {n}",
        "album_uri": f"spotify:album:{n % 3}",
        "duration_ms": 200_499 + n,
        "album_name": f"Album {n % 3}",
    } | fields
    return {name: value for name, value in row.items() if value is not ...}


def playlist(pid, tracks=range(6), **fields):
    rows = [track(t, pos) if isinstance(t, int) else t for pos, t in enumerate(tracks)]
    row = {
        "name": f"List {pid}",
        "collaborative": "false",
        "pid": pid,
        "modified_at": 1_493_424_000,
        "num_tracks": len(rows),
        "num_albums": 3,
        "num_followers": 1,
        "tracks": rows,
    } | fields
    return {name: value for name, value in row.items() if value is not ...}


def write_slice(folder, first, playlists, last=None):
    folder.mkdir(exist_ok=True)
    name = f"mpd.slice.{first}-{first + len(playlists) - 1 if last is None else last}.json"
    info = {"generated_on": "2017-12-01", "slice": name[10:-5], "version": "v1"}
    (folder / name).write_text(json.dumps({"info": info, "playlists": playlists}, ensure_ascii=False))
    return folder / name


def dataset(folder, **fields):
    """Two slices of four playlists; `fields` replace those of playlist 0."""
    write_slice(folder, 0, [playlist(0, **fields), *(playlist(pid) for pid in (1, 2, 3))])
    write_slice(folder, 4, [playlist(pid) for pid in (4, 5, 6, 7)])
    return folder


def tables(context):
    events = [context.lake.read("events", **p).to_pandas() for p in context.lake.partitions("events")]
    rest = {name: context.lake.read(name).to_pandas() for name in ("users", "tracks", "playlists")}
    return rest | {"events": pd.concat(events, ignore_index=True)}


def test_uris_names_durations_and_titles_reach_the_tables(tmp_path):
    context = context_at(tmp_path / "home")
    report = mpd.run(context, dataset(tmp_path / "data", name="Été ☀"))
    result = tables(context)
    tracks = result["tracks"].set_index("external_id").sort_index()
    assert list(tracks.index) == [f"spotify:track:{n}{BASE62}" for n in range(6)]
    assert list(tracks.track_id) == [stable_id(uri) for uri in tracks.index]
    assert list(tracks.artist_id) == [stable_id(uri) for uri in tracks.artist_external_id]
    assert list(tracks.album_id) == [stable_id(uri) for uri in tracks.album_external_id]
    assert list(tracks.artist_external_id) == [f"spotify:artist:{n % 2}" for n in range(6)]
    assert list(tracks.album_external_id) == [f"spotify:album:{n % 3}" for n in range(6)]
    assert list(tracks.title) == [f"Track {n}" for n in range(6)]
    assert list(tracks.artist_name) == [f"Artist {n % 2}" for n in range(6)]
    assert list(tracks.duration_s) == [200, 201, 201, 201, 201, 201]
    assert tracks.genre.isna().all()
    lists = result["playlists"]
    assert set(zip(lists.playlist_id, lists.title, lists.public, strict=True)) == {
        (pid, "Été ☀" if pid == 0 else f"List {pid}", True) for pid in range(8)
    }
    assert (lists.user_id == lists.playlist_id).all()
    assert set(result["users"].user_id) == set(range(8))
    assert (report["warm"], report["cold"], report["catalogue"], report["slices"]) == (6, 2, 5, 2)
    assert report["playlists"] == {"read": 8, "bad": {}, "first": []}
    assert report["playlist_rows"] == {"read": 48, "bad": {}, "first": []}


def parquet_of(slices, folder):
    """Write the slices in the Parquet form, with tracks numbered as they first appear."""
    folder.mkdir()
    numbers, rows = {}, []
    for file in sorted(slices.glob("*.json"), key=lambda f: int(f.name.split(".")[2].split("-")[0])):
        for one in json.loads(file.read_text())["playlists"]:
            for row in one["tracks"]:
                if "track_uri" in row:
                    numbers.setdefault(row["track_uri"], (len(numbers), row["artist_uri"], row["album_uri"]))
                    rows.append((one["pid"], numbers[row["track_uri"]][0]))
    pairs = np.array(rows)
    pq.write_table(pa.table({"row": pairs[:, 0], "track": pairs[:, 1]}), folder / mpd.PAIRS)
    columns = zip(*((n, uri, artist, album) for uri, (n, artist, album) in numbers.items()), strict=True)
    names = ("track", "track_uri", "artist_uri", "album_uri")
    pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), folder / mpd.MAP)
    return {n: stable_id(uri) for uri, (n, _, _) in numbers.items()}


def test_both_forms_of_the_same_playlists_give_the_same_events(tmp_path):
    generate.run(tmp_path / "slices", generate.MpdOptions(playlists=1_200, tracks=300))
    ids = parquet_of(tmp_path / "slices", tmp_path / "parquet")
    sizes = {"catalogue_tracks": 200, "min_playlist_tracks": 10, "max_bad_share": 0.01}
    contexts = [context_at(tmp_path / name, **sizes) for name in ("a", "b")]
    reports = [mpd.run(context, tmp_path / form) for context, form in zip(contexts, ("slices", "parquet"), strict=True)]
    for name in ("warm", "cold", "cold_left_out", "catalogue", "pairs_repeated", "rows"):
        assert reports[0][name] == reports[1][name], name
    json_form, parquet_form = (tables(context) for context in contexts)
    parquet_form["events"]["entity_id"] = parquet_form["events"].entity_id.map(ids)
    parquet_form["playlists"]["track_id"] = parquet_form["playlists"].track_id.map(ids)
    for table, key in (("events", ["ts", "user_id", "entity_id"]), ("playlists", ["playlist_id", "position"])):
        left, right = (form[table].sort_values(key, ignore_index=True) for form in (json_form, parquet_form))
        pd.testing.assert_frame_equal(
            left.drop(columns="title", errors="ignore"), right.drop(columns="title", errors="ignore")
        )
    pd.testing.assert_frame_equal(json_form["users"], parquet_form["users"])
    assert parquet_form["playlists"].public.all()
    assert parquet_form["playlists"].title.isna().all()
    by_id = json_form["tracks"].set_index("track_id").sort_index()
    other = parquet_form["tracks"].assign(track_id=parquet_form["tracks"].track_id.map(ids)).set_index("track_id")
    assert (by_id[["artist_id", "album_id"]] == other.sort_index()[["artist_id", "album_id"]]).all().all()


def test_slices_are_read_by_their_first_playlist_and_a_second_run_is_equal(tmp_path):
    data = tmp_path / "data"
    for first in (1000, 0, 2000):  # by name, 1000 would come before 0
        write_slice(
            data, first, [playlist(first + n, tracks=np.roll(range(6), first // 1000).tolist()) for n in range(4)]
        )
    context = context_at(tmp_path / "home")
    first = mpd.run(context, data)
    before = tables(context)
    second = mpd.run(context, data)
    assert {**first, "paths": None} == {**second, "paths": None}
    for name, table in tables(context).items():
        pd.testing.assert_frame_equal(table, before[name])
    assert first["warm"] == 9
    assert set(before["users"].user_id[before["users"].registered_at >= WEEK.cohort_start]) == {2001, 2002, 2003}


BAD_ROWS = {
    "no track_uri": track(1, 1, track_uri=...),
    "no artist_uri": track(1, 1, artist_uri=None),
    "no album_uri": track(1, 1, album_uri=""),
    "pos is not an integer of 0 or more": track(1, -1),
    "track_name is not text": track(1, 1, track_name=7),
    "is not an object": ["track"],
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_bad_row_is_counted_up_to_the_allowed_share(tmp_path, reason):
    data = dataset(tmp_path / "data", tracks=[track(0), BAD_ROWS[reason], *(track(n, n) for n in (2, 3, 4, 5))])
    context = context_at(tmp_path / "home", max_bad_share=0.03)
    report = mpd.run(context, data)
    assert report["playlist_rows"]["bad"] == {reason: 1}
    assert report["playlist_rows"]["first"][0].startswith(f"mpd.slice.0-3.json: playlist 0, tracks[1]: {reason}")
    assert report["rows"]["events"] == 47
    row = orjson.dumps(BAD_ROWS[reason]).decode()
    assert quarantined(context.lake) == {"playlists": [(reason, row, "mpd.slice.0-3.json", 1)]}
    with pytest.raises(CheckFailed, match=r"1 of 48 rows of playlists (.|\n)*mpd\.slice\.0-3\.json: playlist 0"):
        mpd.run(context_at(tmp_path / "other", max_bad_share=0.02), data)
    assert not context_at(tmp_path / "other").lake.exists("users")


BAD_PLAYLISTS = {
    "pid is repeated": playlist(1),
    "pid is not an integer of 0 or more": playlist("8"),
    "has no list of tracks": playlist(8, tracks=[]) | {"tracks": None},
    "name is not text": playlist(8, name=["a"]),
    "is not an object": "playlist",
}


@pytest.mark.parametrize("reason", BAD_PLAYLISTS)
def test_a_bad_playlist_is_counted_up_to_the_allowed_share(tmp_path, reason):
    data = dataset(tmp_path / "data")
    write_slice(data, 8, [BAD_PLAYLISTS[reason], playlist(9)])
    context = context_at(tmp_path / "home", max_bad_share=0.1)
    report = mpd.run(context, data)
    assert report["playlists"]["bad"] == {reason: 1}
    assert report["playlists"]["first"][0].startswith(f"mpd.slice.8-9.json: playlists[0]: {reason}")
    assert report["rows"]["users"] == 9
    row = orjson.dumps(BAD_PLAYLISTS[reason]).decode()
    assert quarantined(context.lake) == {"playlists": [(reason, row, "mpd.slice.8-9.json", 1)]}
    with pytest.raises(CheckFailed, match=r"1 of 10 playlists .*source\.max_bad_share(.|\n)*mpd\.slice\.8-9\.json"):
        mpd.run(context_at(tmp_path / "other", max_bad_share=0.09), data)


def test_a_file_that_is_no_slice_stops_the_run_with_its_name(tmp_path):
    cases = {
        "torn": (lambda text: text[: len(text) // 2], r"cannot be read as JSON, possibly truncated"),
        "nan": (lambda text: text.replace("200499", "NaN", 1), r"cannot be read as JSON.*column"),
        "list": (lambda text: "[]", r"has no list 'playlists'"),
        "text": (lambda text: '{"playlists": "none"}', r"has no list 'playlists'"),
        "empty": (lambda text: "", r"cannot be read as JSON"),
    }
    for name, (damage, message) in cases.items():
        data = dataset(tmp_path / name)
        file = data / "mpd.slice.4-7.json"
        file.write_text(damage(file.read_text()))
        context = context_at(tmp_path / "home")
        with pytest.raises(CheckFailed, match=r"mpd\.slice\.4-7\.json: " + message):
            mpd.run(context, data)
        assert not context.lake.exists("users")


def test_odd_values_are_unknown_and_repeated_tracks_are_one_stream(tmp_path):
    rows = [
        track(0, duration_ms=-1),
        track(1, 1, duration_ms=499, track_name=""),
        track(2, 2, duration_ms=500, artist_name=None),
        track(3, 3, duration_ms="200000"),
        track(4, 4, duration_ms=1e300),
        track(5, 5, duration_ms=...),
        track(0, 6, duration_ms=200_000),
    ]
    context = context_at(tmp_path / "home")
    report = mpd.run(context, dataset(tmp_path / "data", tracks=rows, name=""))
    assert report["pairs_repeated"] == 1
    assert report["durations_unknown"] == 5
    result = tables(context)
    tracks = result["tracks"].set_index("external_id").sort_index()
    assert tracks.duration_s.fillna(-1).astype(int).tolist() == [-1, -1, 1, -1, -1, -1]
    assert tracks.title.isna().tolist() == [False, True, False, False, False, False]
    assert tracks.artist_name.isna().tolist() == [False, False, True, False, False, False]
    lists = result["playlists"]
    assert lists.title[lists.playlist_id == 0].isna().all()
    assert (lists.playlist_id == 0).sum() == 6


def test_a_folder_with_both_forms_or_with_none_is_refused(tmp_path):
    data = dataset(tmp_path / "data")
    (data / mpd.MAP).write_bytes(b"")
    with pytest.raises(BadArgument, match=r"both forms.*mpd\.slice\.0-3\.json and track_uri_map\.parquet"):
        mpd.run(context_at(tmp_path / "home"), data)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "challenge_set.json").write_text("{}")
    with pytest.raises(BadArgument, match=r"must contain mpd\.slice\.\*\.json, or playlist_track\.parquet"):
        mpd.run(context_at(tmp_path / "home"), tmp_path / "none")
    with pytest.raises(BadArgument, match=r"nowhere/playlist_track\.parquet: no such file"):
        mpd.run(context_at(tmp_path / "home"), tmp_path / "nowhere")


def test_the_generator_writes_equal_files_for_equal_options(tmp_path):
    options = generate.MpdOptions(playlists=1_500, tracks=400)
    report = generate.run(tmp_path / "a", options)
    generate.run(tmp_path / "b", options)
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert files == ["mpd.slice.0-999.json", "mpd.slice.1000-1499.json"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    generate.run(tmp_path / "c", generate.MpdOptions(playlists=1_500, tracks=400, seed=8))
    assert (tmp_path / "a" / files[0]).read_bytes() != (tmp_path / "c" / files[0]).read_bytes()
    result = mpd.run(context_at(tmp_path / "home", max_bad_share=0.01), tmp_path / "a")
    assert result["playlists"]["read"] == 1_500 == report["rows"]["playlists"]
    assert result["playlist_rows"]["read"] == report["rows"]["playlist_rows"]
    assert 0 < result["playlist_rows"]["bad"]["no track_uri"] < report["rows"]["odd"]
    assert result["pairs_repeated"] == report["rows"]["odd"] - result["playlist_rows"]["bad"]["no track_uri"]
    assert result["durations_unknown"] == 1
    with pytest.raises(BadArgument, match="is not empty"):
        generate.run(tmp_path / "a", options)


def test_the_commands_write_and_read_slices(home, tmp_path, command):
    arguments = ("make-mpd", "--out", tmp_path / "a", "--playlists", 200, "--tracks", 100)
    code, out, _ = command(*arguments)
    assert code == 0
    assert '"playlists": 200' in out
    assert command(*arguments)[0] == 2
    code, out, _ = command("ingest", "mpd", "--data", tmp_path / "a")
    assert code == 0
    assert json.loads(out)["warm"] == 150
    (tmp_path / "a" / "mpd.slice.0-199.json").write_text("{")
    code, _, err = command("ingest", "mpd", "--data", tmp_path / "a")
    assert code == 3
    assert "mpd.slice.0-199.json: cannot be read as JSON" in err
