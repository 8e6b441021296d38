"""Test the MPD adapter: its result on real playlists equals the task, recomputed with pandas."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.entity_ids import stable_id
from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.ids import MADE
from jobs.ingest.mpd import adapter as mpd
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import Settings

WEEK = Week.parse("2026-11-16")


def context_at(home, week=WEEK, **sections):
    return Context(Settings.model_validate({"name": "t", "week": str(week), **sections}), week, home)


def write_small_dataset(folder, n_playlists=8, n_tracks=6):
    """Write a small dataset: playlist p contains the tracks 0 to n - 1, and only even tracks are in the map."""
    folder.mkdir(exist_ok=True)
    row, track = np.divmod(np.arange(n_playlists * n_tracks), n_tracks)
    pq.write_table(pa.table({"row": row.astype(np.int32), "track": track.astype(np.int32)}), folder / mpd.PAIRS)
    even = np.arange(0, n_tracks, 2)
    uris = pa.table(
        {
            "track": even,
            "track_uri": [f"t{i}" for i in even],
            "artist_uri": [f"artist{i % 4}" for i in even],
            "album_uri": [f"album{i}" for i in even],
        }
    )
    pq.write_table(uris, folder / mpd.MAP)
    return folder


SMALL = {"source": {"kind": "mpd", "catalogue_tracks": 5, "min_playlist_tracks": 5}}


def read_events(context):
    return pd.concat(
        [context.lake.read("events", **p).to_pandas() for p in context.lake.partitions("events")], ignore_index=True
    )


class TestRealPlaylists:
    @pytest.fixture(scope="class")
    def ingested(self, data_dir, tmp_path_factory):
        context = context_at(
            tmp_path_factory.mktemp("mpd"), source={"kind": "mpd"}, matrix={"window_days": 120, "n_catalog": 20_000}
        )
        data = data_dir("spotify_mpd_15k")
        report = mpd.run(context, data)
        return context, report, read_events(context), pd.read_parquet(data / mpd.PAIRS).astype("int64"), data

    @pytest.fixture(scope="class")
    def task(self, ingested):
        """Return the task recomputed from its description with pandas alone: catalogue and cold rows."""
        pairs = ingested[3]
        rows = sorted(pairs.row.unique())
        warm = pairs[pairs.row.isin(rows[: len(rows) * 3 // 4])]
        count = warm.groupby("track").size().reset_index(name="n")
        catalogue = set(count.sort_values(["n", "track"], ascending=[False, True]).track[:20_000])
        rest = pairs[pairs.row.isin(rows[len(rows) * 3 // 4 :]) & pairs.track.isin(catalogue)]
        size = rest.groupby("row").size()
        return set(warm.row), catalogue, set(size.index[size >= 15])

    def test_report_counts_match_the_description(self, ingested, task):
        _, report, log, pairs, _ = ingested
        warm, catalogue, cold = task
        assert (report["warm"], report["cold"], report["catalogue"]) == (len(warm), len(cold), len(catalogue))
        assert report["cold_left_out"] == pairs.row.nunique() - len(warm) - len(cold)
        assert report["rows"]["events"] == len(log) == pairs.row.isin(warm | cold).sum()

    def test_each_track_of_a_playlist_is_streamed_once(self, ingested, task):
        _, _, log, pairs, _ = ingested
        warm, _, cold = task
        expected = pairs[pairs.row.isin(warm | cold)].sort_values(["row", "track"]).to_numpy()
        assert np.array_equal(log.sort_values(["user_id", "entity_id"])[["user_id", "entity_id"]].to_numpy(), expected)

    def test_the_pipeline_selects_the_same_catalogue(self, ingested, task):
        context, _, log, _, _ = ingested
        users = context.lake.read("users").to_pandas()
        warm_users = users.user_id[users.registered_at < WEEK.cohort_start]
        streams = log[log.user_id.isin(warm_users) & (log.ts >= WEEK.window_start(120)) & (log.ts < WEEK.as_of)]
        n = streams.groupby("entity_id").user_id.nunique().reset_index(name="n")
        assert set(n.sort_values(["n", "entity_id"], ascending=[False, True]).entity_id[:20_000]) == task[1]

    def test_first_days_and_truth(self, ingested, task):
        context, _, log, _, _ = ingested
        warm, catalogue, cold = task
        users = context.lake.read("users").to_pandas()
        assert users.country.isna().all()
        assert users.age.isna().all()
        registered = users.set_index("user_id").registered_at
        in_cohort = registered.between(WEEK.cohort_start, WEEK.cohort_end, inclusive="left")
        assert set(registered.index[in_cohort]) == cold
        assert (registered[~in_cohort] < WEEK.cohort_start).all()
        assert (registered >= WEEK.window_start(120)).all()
        since = (log.ts.dt.floor("D") - log.user_id.map(registered).dt.floor("D")).dt.days
        assert (log.ts > log.user_id.map(registered)).all()
        assert since.between(0, 30).all()
        first = log[since == 0].groupby("user_id").size()
        assert set(first.index) == warm | cold
        assert set(first) == {1, 2, 3, 4, 5}
        assert abs(first.mean() - 3) < 0.05
        assert set(log.entity_id[(since == 0) & log.user_id.isin(cold)]) <= catalogue
        truth = log[since.gt(0) & log.user_id.isin(cold) & log.entity_id.isin(catalogue)].groupby("user_id").size()
        assert truth.min() >= 10
        assert set(truth.index) == cold

    def test_playlists_equal_the_streams_of_their_owner(self, ingested, task):
        playlists = ingested[0].lake.read("playlists").to_pandas()
        streams = ingested[2].rename(columns={"entity_id": "track_id", "ts": "added_at"})
        same = playlists.merge(streams, on=["user_id", "track_id", "added_at"], how="outer", indicator=True)
        assert (same._merge == "both").all()
        assert (playlists.user_id == playlists.playlist_id).all()
        assert (playlists.public == True).all()  # noqa: E712 (null is not public)
        ordered = playlists.sort_values(["playlist_id", "position"])
        assert (ordered.groupby("playlist_id").cumcount() == ordered.position).all()
        step = ordered.groupby("playlist_id").added_at.diff().dropna()
        assert (step >= pd.Timedelta(0)).all()
        assert task[2] <= set(playlists.user_id)

    def test_artists_and_albums_are_read_from_the_map(self, ingested):
        context, report, log, _, data = ingested
        tracks = context.lake.read("tracks").to_pandas().set_index("track_id")
        uris = pd.read_parquet(data / mpd.MAP).set_index("track")
        assert set(tracks.index) == set(log.entity_id)
        known = tracks.index.intersection(uris.index)
        assert report["tracks_with_known_artist"] == len(known)
        for name in ("artist", "album"):
            column = tracks[f"{name}_id"]
            assert column.loc[known].nunique() == uris.loc[known, f"{name}_uri"].nunique()
            assert column.loc[known[7]] == stable_id(uris.loc[known[7], f"{name}_uri"])
            assert column.loc[known].max() < MADE
            synthetic = column.drop(known)
            assert synthetic.is_unique
            assert synthetic.min() >= MADE


def test_a_second_run_is_equal_and_another_seed_differs(tmp_path):
    data = write_small_dataset(tmp_path / "data")
    context = context_at(tmp_path / "home", **SMALL)
    first = mpd.run(context, data)
    before = read_events(context)
    second = mpd.run(context, data)
    assert {**first, "paths": None} == {**second, "paths": None}
    pd.testing.assert_frame_equal(read_events(context), before)
    other = context_at(tmp_path / "other", source={**SMALL["source"], "seed": 8})
    mpd.run(other, data)
    assert not read_events(other).equals(before)


def test_ties_prefer_the_smaller_track_and_small_cold_playlists_are_excluded(tmp_path):
    data = write_small_dataset(tmp_path / "data")
    pairs = pq.read_table(data / mpd.PAIRS).to_pandas()
    pairs = pairs[~((pairs.row == 7) & (pairs.track == 0))]
    doubled = pd.concat([pairs, pairs[:3]])
    pq.write_table(pa.Table.from_pandas(doubled, preserve_index=False), data / mpd.PAIRS)
    report = mpd.run(context_at(tmp_path / "home", **SMALL), data)
    # Playlist 7 contains the tracks 1 to 5. Four of them are in the catalogue (0 to 4).
    assert (report["warm"], report["cold"], report["cold_left_out"], report["pairs_repeated"]) == (6, 1, 1, 3)


def test_a_backtest_puts_the_cohort_after_the_monday(tmp_path):
    week = Week.parse("2026-10-05", backtest=True)
    context = context_at(tmp_path / "home", week, **SMALL)
    mpd.run(context, write_small_dataset(tmp_path / "data"))
    users = context.lake.read("users").to_pandas().set_index("user_id").registered_at
    assert users.loc[[6, 7]].between(week.cohort_start, week.cohort_end, inclusive="left").all()
    log = read_events(context)
    assert (log.ts[log.user_id < 6] < week.as_of).all()


def replace(file, **columns):
    table = pq.read_table(file)
    for name, values in columns.items():
        table = table.drop_columns(name)
        if values is not None:
            table = table.append_column(name, values)
    pq.write_table(table, file)


def test_damaged_files_raise_with_file_and_column(tmp_path):
    context = context_at(tmp_path / "home", **SMALL)
    cases = {
        "no map": (lambda d: (d / mpd.MAP).unlink(), BadArgument, "track_uri_map.parquet: no such file"),
        "no pairs": (lambda d: (d / mpd.PAIRS).unlink(), BadArgument, "playlist_track.parquet: no such file"),
        "cut": (lambda d: (d / mpd.PAIRS).write_bytes((d / mpd.PAIRS).read_bytes()[:-200]), CheckFailed, "truncated"),
        "column": (lambda d: replace(d / mpd.MAP, artist_uri=None), CheckFailed, "'artist_uri' is missing"),
        "type": (lambda d: replace(d / mpd.PAIRS, track=pa.array(["a"] * 48)), CheckFailed, "'track' must be integer"),
        "null": (lambda d: replace(d / mpd.MAP, album_uri=pa.array(["a", None, "b"])), CheckFailed, "1 nulls"),
        "negative": (lambda d: replace(d / mpd.PAIRS, track=pa.array([-1] * 48)), CheckFailed, "must be 0 or more"),
    }
    for name, (damage, error, message) in cases.items():
        data = write_small_dataset(tmp_path / name)
        damage(data)
        with pytest.raises(error, match=message):
            mpd.run(context, data)
    assert not context.lake.exists("users")


def test_impossible_settings_raise(tmp_path):
    data = write_small_dataset(tmp_path / "data")
    with pytest.raises(BadArgument, match=r"matrix.window_days: 37"):
        mpd.run(context_at(tmp_path / "home", matrix={"window_days": 37}, **SMALL), data)
    with pytest.raises(CheckFailed, match="min_playlist_tracks"):
        mpd.run(context_at(tmp_path / "home", source={"kind": "mpd"}), data)
    with pytest.raises(BadArgument, match="--data"):
        mpd.run(context_at(tmp_path / "home"), None)
