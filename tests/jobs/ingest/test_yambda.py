"""Test the yambda adapter: rows become events and plays, bad rows are counted, bad files rejected."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.ids import MADE
from jobs.ingest.tables.derive import UNKNOWN_REGISTRATION
from jobs.ingest.yambda import adapter, generate
from jobs.ingest.yambda.files import COLUMNS, find_files
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import Settings
from tests.helpers.quarantine import quarantined

DAY = 86_400
LISTENS = [  # uid, timestamp, item_id, is_organic, played_ratio_pct, track_length_seconds
    (100, 0, 7, 1, 100, 200),
    (100, 205, 8, 0, 49, 155),
    (100, 205, 9, 0, 50, 155),
    (100, DAY + 5, 7, 1, 130, 200),
    (200, 31 * DAY, 7, 0, 0, 200),
]


class Dataset:
    """A folder of the dataset with hand-written rows."""

    def __init__(self, root) -> None:
        self.data, self.home, self.source = root / "my [1] data", root / "home", {"max_bad_share": 0.0}
        self.write("listens", LISTENS)
        for name in ("likes", "unlikes", "dislikes", "undislikes"):
            self.write(name, [])
        self.write("artist_item_mapping", [(70, 7), (60, 7), (80, 8)])
        self.write("album_item_mapping", [(71, 7), (81, 8)])

    def path(self, name: str):
        folder = self.data if name.endswith("mapping") else self.data / "flat" / "50m"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.parquet"

    def write(self, name: str, rows: list, **types: pa.DataType) -> None:
        names = COLUMNS[name]
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        kinds = [types.get(column, generate.TYPES[column]) for column in names]
        arrays = [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)]
        pq.write_table(pa.table(dict(zip(names, arrays, strict=True))), self.path(name))

    @property
    def context(self) -> Context:
        source = {"kind": "yambda", "time_origin": "2026-02-02", **self.source}
        settings = Settings.model_validate({"name": "t", "week": "2026-11-16", "source": source})
        return Context(settings, Week.parse("2026-11-16"), self.home)

    def ingest(self) -> dict:
        return adapter.run(self.context, self.data)

    def table(self, name: str) -> pd.DataFrame:
        lake = self.context.lake
        parts = [lake.read(name, **day).to_pandas() for day in (lake.partitions(name) or [{}])]
        return pd.concat(parts, ignore_index=True)


@pytest.fixture
def dataset(spark, tmp_path, home) -> Dataset:
    return Dataset(tmp_path)


def test_listens_are_streams_and_skips_of_the_cold_start_engine(dataset):
    report = dataset.ingest()
    rows = dataset.table("events").sort_values(["user_id", "ts", "entity_id"])
    assert list(zip(rows.user_id, rows.kind, rows.entity_id, rows.listened_s, rows.context, strict=True)) == [
        (100, "stream", 7, 200, "organic"),
        (100, "skip", 8, 76, "recommended"),
        (100, "stream", 9, 78, "recommended"),
        (100, "stream", 7, 260, "organic"),
        (200, "skip", 7, 0, "recommended"),
    ]
    assert set(rows.entity) == {"track"}
    assert rows[["platform", "event_id"]].isna().all().all()
    assert rows.ts.iloc[1] == pd.Timestamp("2026-02-02T00:03:25Z")
    assert report["days"]["events"] == {"written": 3, "first": "2026-02-02", "last": "2026-03-05"}
    assert "synthetic" in report["notes"][0]
    users = dataset.table("users").set_index("user_id")
    assert users.registered_at[100] == UNKNOWN_REGISTRATION
    assert users.registered_at[200] == datetime(2026, 3, 5, tzinfo=UTC)
    assert users[["country", "age", "external_id"]].isna().all().all()
    playlists = dataset.table("playlists").sort_values("position")
    assert list(playlists.track_id) == [7, 9]
    assert not playlists.public.any()


def test_listens_are_plays_of_the_skip_engine(dataset):
    dataset.ingest()
    rows = dataset.table("plays").sort_values(["user_id", "ts", "track_id"])
    assert list(zip(rows.user_id, rows.track_id, rows.is_listened, rows.is_flow, rows.duration_s, strict=True)) == [
        (100, 7, True, False, 200),
        (100, 8, False, True, 155),
        (100, 9, True, True, 155),
        (100, 7, True, False, 200),
        (200, 7, False, True, 200),
    ]
    assert (rows[list(adapter.UNKNOWN_CODES)] == 0).all().all()
    assert rows.play_id.is_unique
    assert list(rows.artist_id) == [60, 80, MADE + 9, 60, 60]
    assert list(rows.album_id) == [71, 81, MADE + 9, 71, 71]


def test_a_setting_moves_the_bound_between_streams_and_skips(dataset):
    dataset.source |= {"min_played_pct": 51}
    dataset.ingest()
    assert dataset.table("events").kind.value_counts().to_dict() == {"skip": 3, "stream": 2}
    assert dataset.table("plays").is_listened.sum() == 2


def test_tracks_have_the_smallest_artist_and_an_own_one_without_a_mapping(dataset):
    dataset.write("likes", [(100, 5, 10, 1)])
    report = dataset.ingest()
    rows = dataset.table("tracks").set_index("track_id").sort_index()
    assert list(rows.index) == [7, 8, 9, 10]
    assert list(rows.artist_id) == [60, 80, MADE + 9, MADE + 10]
    assert rows.duration_s.tolist()[:3] == [200, 155, 155]
    assert pd.isna(rows.duration_s[10])
    assert (report["tracks_without_artist"], report["tracks_without_album"]) == (2, 2)


def test_a_like_counts_unless_it_is_taken_back_on_its_day(dataset):
    likes = [(100, 10, 1, 1), (100, 10, 2, 1), (100, 10, 3, 1), (100, 10, 4, 1), (100, 500, 5, 1), (100, 10, 6, 0)]
    unlikes = [(100, 60, 1, 1), (100, DAY, 2, 1), (200, 60, 3, 1), (100, 10, 4, 1), (100, 60, 5, 1)]
    dataset.write("likes", likes)
    dataset.write("unlikes", unlikes)
    dataset.write("dislikes", [(100, 10, 1, 1), (100, 10, 2, 0)])
    dataset.write("undislikes", [(100, 60, 1, 1)])
    report = dataset.ingest()
    rows = dataset.table("events")
    assert sorted(rows[rows.kind == "favorite"].entity_id) == [2, 3, 5, 6]
    assert list(rows[rows.kind == "ban"].entity_id) == [2]
    assert rows[rows.kind == "ban"].context.tolist() == ["recommended"]
    assert report["taken_back"] == {"likes": 2, "dislikes": 1}


def test_repeats_are_one_event_with_the_longest_listen(dataset):
    dataset.write(
        "listens", [(1, 5, 7, 1, 60, 200), (1, 5, 7, 1, 90, 200), (1, 5, 7, 1, 90, 200), (1, 5, 7, 1, 2, 200)]
    )
    report = dataset.ingest()
    rows = dataset.table("events").sort_values("kind")
    assert list(zip(rows.kind, rows.listened_s, strict=True)) == [("skip", 4), ("stream", 180)]
    assert report["repeats"] == {"events": 2, "plays": 1}
    assert len(dataset.table("plays")) == 3


def test_a_second_run_writes_equal_rows_and_drops_old_days(dataset):
    dataset.ingest()
    first = {name: dataset.table(name) for name in ("events", "plays", "tracks", "users", "playlists")}
    dataset.ingest()
    for name, rows in first.items():
        key = list(rows.columns[:6])
        again = dataset.table(name).sort_values(key, ignore_index=True)
        pd.testing.assert_frame_equal(rows.sort_values(key, ignore_index=True), again)
    dataset.write("listens", LISTENS[:1])
    report = dataset.ingest()
    assert report["days_dropped"] == {name: ["2026-02-03", "2026-03-05"] for name in ("events", "plays")}
    assert list(dataset.table("users").user_id) == [100]


def test_each_bad_row_is_counted_for_one_reason(dataset):
    dataset.source |= {"max_bad_share": 0.9}
    bad = [
        (None, 0, 7, 1, 100, 200),
        (100, 400 * DAY, 7, 1, 100, 200),
        (100, 0, 2**33, 1, 100, 200),
        (100, 0, 7, 2, 100, 200),
        (100, 0, 7, 1, None, 200),
        (100, 0, 7, 1, -1, 200),
        (100, 0, 7, 1, 100, 0),
        (100, 0, 7, 1, 60_000, 200),
    ]
    dataset.write("listens", LISTENS + bad, item_id=pa.int64(), played_ratio_pct=pa.int32())
    dataset.write("artist_item_mapping", [(None, 7), (80, 8)])
    report = dataset.ingest()
    files = report["files"]
    assert report["quarantined"] == {"events": 8, "tracks": 1}
    stored = quarantined(dataset.context.lake)
    assert stored["tracks"] == [
        ("artist_id is missing", '{"artist_id":null,"item_id":7}', "artist_item_mapping.parquet", 1)
    ]
    row = '{"uid":null,"timestamp":0,"item_id":7,"is_organic":1,"played_ratio_pct":100,"track_length_seconds":200}'
    assert ("uid is missing", row, "listens.parquet", 1) in stored["events"]
    assert files["listens"]["bad"] == {
        "uid is missing": 1,
        f"timestamp is not between 0 and {366 * DAY - 1} seconds": 1,
        f"item_id is not between 0 and {2**32 - 1}": 1,
        "is_organic is not 0 or 1": 1,
        "played_ratio_pct is missing": 1,
        "played_ratio_pct is negative": 1,
        f"track_length_seconds is not between 1 and {DAY}": 1,
        "more than a day was played": 1,
    }
    assert files["artist_item_mapping"] == {"read": 2, "bad": {"artist_id is missing": 1}, "kept": 1}
    assert len(dataset.table("events")) == len(LISTENS)


def test_too_many_bad_rows_stop_the_run_before_anything_is_written(dataset):
    dataset.source |= {"max_bad_share": 0.1}
    dataset.write("listens", [*LISTENS, (100, 0, 7, 1, None, 200)])
    message = r"listens\.parquet: 1 of 6 rows .*max_bad_share = 0\.1 .*played_ratio_pct is missing: 1"
    with pytest.raises(CheckFailed, match=message):
        dataset.ingest()
    assert not dataset.context.lake.exists("tracks")
    dataset.write("listens", [])
    with pytest.raises(CheckFailed, match=r"listens\.parquet: no rows"):
        dataset.ingest()


def test_missing_and_wrong_files_are_named(tmp_path):
    dataset = Dataset(tmp_path)
    assert find_files(dataset.data) == find_files(dataset.data / "flat" / "50m")
    pq.write_table(
        pa.table({"uid": [[1]], "timestamp": [[2]], "item_id": [[3]], "is_organic": [[1]]}), dataset.path("likes")
    )
    with pytest.raises(CheckFailed, match=r"likes\.parquet: column 'uid' must be an integer, found list"):
        find_files(dataset.data)
    pq.write_table(pa.table({"uid": [1], "item_id": [3], "is_organic": [1]}), dataset.path("likes"))
    with pytest.raises(CheckFailed, match=r"likes\.parquet: column 'timestamp' is missing; found uid"):
        find_files(dataset.data)
    dataset.path("likes").write_bytes(dataset.path("listens").read_bytes()[:100])
    with pytest.raises(CheckFailed, match=r"likes\.parquet: cannot be read as Parquet"):
        find_files(dataset.data)
    dataset.path("likes").unlink()
    with pytest.raises(BadArgument, match=r"likes\.parquet: no such file"):
        find_files(dataset.data)
    other = dataset.data / "flat" / "500m"
    other.mkdir()
    (other / "listens.parquet").write_bytes(b"")
    with pytest.raises(BadArgument, match=r"in one folder flat/SIZE, found several: .*500m"):
        find_files(dataset.data)
    with pytest.raises(BadArgument, match="found none"):
        find_files(tmp_path)


def test_generated_files_are_equal_for_equal_options_and_have_a_signal(tmp_path):
    report = generate.run(tmp_path / "a", 200, 100, 3)
    assert generate.run(tmp_path / "b", 200, 100, 3)["rows"] == report["rows"]
    for file in sorted((tmp_path / "a").rglob("*.parquet")):
        assert pq.read_table(file) == pq.read_table(tmp_path / "b" / file.relative_to(tmp_path / "a"))
    listens = pq.read_table(tmp_path / "a/flat/made_up/listens.parquet").to_pandas()
    assert (listens.timestamp % 5 == 0).all()
    listens["listened"] = listens.played_ratio_pct >= 50
    by_track = listens.groupby("item_id").listened.agg(["mean", "count"])
    often = by_track[by_track["count"] >= 100]["mean"]
    assert often.max() - often.min() > 0.25
    with pytest.raises(BadArgument, match="is not empty"):
        generate.run(tmp_path / "a", 200, 100, 3)


def test_generated_files_are_read_without_bad_rows(spark, tmp_path, home):
    generate.run(tmp_path / "data", 200, 100, 3)
    settings = Settings.model_validate({"name": "t", "week": "2026-11-16", "source": {"kind": "yambda"}})
    context = Context(settings, Week.parse("2026-11-16"), tmp_path / "home")
    report = adapter.run(context, tmp_path / "data" / "flat" / "made_up")
    assert all(not facts["bad"] for facts in report["files"].values())
    assert report["days"]["plays"]["last"] == "2026-11-22"
    assert 0 < report["taken_back"]["likes"] < report["files"]["unlikes"]["kept"]
    assert date.fromisoformat(report["days"]["events"]["first"]) == date(2026, 6, 29)


def test_the_command_rejects_a_folder_without_files(command, home, tmp_path):
    code, _, err = command("ingest", "yambda", "--data", tmp_path)
    assert (code, "listens.parquet in one folder flat/SIZE, found none" in err) == (2, True)
