"""Tests of the feature job and of the reader of skip_features."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.dsg17 import adapter as dsg17
from jobs.ingest.dsg17 import generate as dsg17_make
from jobs.settings.skip import SplitSettings
from jobs.skip import build_features, dataset
from models.skip.data import splits
from tests.helpers.skip_tables import skip_context, write_rows

CUT, NEXT = "2016-11-20", "2016-11-21"


def table(context, name="skip_features", **where):
    parts = [p for p in context.lake.partitions(name) if where.items() <= p.items()]
    rows = pa.concat_tables([context.lake.read(name, **p) for p in parts])
    keys = ["play_id"] if name == "skip_features" else ["kind", "key", "other"]
    return rows.sort_by([(key, "ascending") for key in keys]).combine_chunks()


@pytest.fixture(scope="module")
def built(spark, tmp_path_factory):
    """Return the context of a simulated service with features of all days, and the report of the job."""
    folder = tmp_path_factory.mktemp("skip")
    dsg17_make.run(folder / "data", 4_000)
    context = skip_context(folder / "home")
    dsg17.run(context, folder / "data")
    report = build_features.run(context)
    return context, report


@pytest.fixture
def copy(built, tmp_path):
    """Return a lake of its own with the same plays."""
    context = skip_context(tmp_path / "home")
    for p in built[0].lake.partitions("plays"):
        context.lake.write("plays", built[0].lake.read("plays", **p), **p)
    return context


def test_every_play_has_one_row_of_features(built):
    context, report = built
    plays, features = (
        table(context, "skip_features"),
        [context.lake.rows("plays", **p) for p in context.lake.partitions("plays")],
    )
    assert plays.num_rows == sum(features) == report["rows"]["skip_features"]
    assert report["n_groups"] > 2  # users and artists are spread over several groups
    frame = plays.to_pandas()
    assert frame.play_id.is_unique
    for p in context.lake.partitions("skip_features"):
        assert set(context.lake.read("skip_features", columns=["ts"], **p).to_pandas().ts.dt.strftime("%Y-%m-%d")) == {
            p["day"]
        }


def test_counts_equal_those_of_pandas(built):
    frame = table(built[0]).to_pandas().sort_values("ts", kind="stable")
    known = frame[frame.is_listened.notna()]
    rng = np.random.default_rng(0)
    for _, row in frame.iloc[rng.choice(len(frame), 60, replace=False)].iterrows():
        past = known[known.ts < row.ts]
        user, track = past[past.user_id == row.user_id], past[past.track_id == row.track_id]
        assert row.user_plays == len(user)
        assert row.user_listened == user.is_listened.sum()
        assert row.user_genre_plays == (user.genre_id == row.genre_id).sum()
        assert row.track_plays == len(track)
        assert row.artist_plays == (past.artist_id == row.artist_id).sum()
        week = row.ts.normalize() - pd.Timedelta(days=7)
        assert row.track_plays_7d == (track.ts >= week).sum()
        day = past[past.ts < row.ts.normalize()]
        hour = user[user.ts >= row.ts - pd.Timedelta(hours=1)]
        daypart = user.ts.dt.hour // 6 == row.ts.hour // 6
        pairs = {
            "user_platform": user[user.platform_name == row.platform_name],
            "user_daypart": user[daypart],
            "user_family": user[user.platform_family == row.platform_family],
            "user_context": user[user.context_type == row.context_type],
            "user_album": user[user.album_id == row.album_id],
            "user_kind": user[user.is_flow == row.is_flow],
            "track_kind": track[track.is_flow == row.is_flow],
            "genre": day[day.genre_id == row.genre_id],
            "artist_kind": past[(past.artist_id == row.artist_id) & (past.is_flow == row.is_flow)],
            "context": day[day.context_type == row.context_type],
        }
        genre, context = pairs["genre"], pairs["context"]
        pairs |= {
            "genre_context": genre[genre.context_type == row.context_type],
            "genre_gender": genre[genre.user_gender == row.user_gender],
            "genre_age": genre[genre.user_age == row.user_age],
            "context_platform": context[
                (context.platform_name == row.platform_name) & (context.is_flow == row.is_flow)
            ],
        }
        for key, mine in pairs.items():
            assert (row[f"{key}_plays"], row[f"{key}_listened"]) == (len(mine), mine.is_listened.sum()), key
        assert (row.user_plays_1h, row.user_listened_1h) == (len(hour), hour.is_listened.sum())
        overall_rate = (day.is_listened.sum() + 1) / (len(day) + 2)
        assert row.user_rate == pytest.approx((user.is_listened.sum() + 20 * overall_rate) / (len(user) + 20), rel=1e-6)


def test_incremental_build_is_bit_identical_to_a_full_build(built, copy):
    context, report = built
    build_features.run(copy, end=CUT)
    assert build_features.run(copy, NEXT, NEXT)["state_from"] == CUT
    build_features.run(copy, "2016-11-22")
    assert table(copy).equals(table(context))
    last = report["days"]["last"]
    assert table(copy, "skip_state", day=last).equals(table(context, "skip_state", day=last))
    again = build_features.run(copy, NEXT, NEXT)
    assert again["later_days"][0] == "2016-11-22"
    assert table(copy).equals(table(context))


def test_changed_later_plays_do_not_change_earlier_features(built, copy):
    clean = table(built[0])
    day = pd.Timestamp(CUT, tz="UTC")
    for p in copy.lake.partitions("plays"):
        if p["day"] >= CUT:
            frame = copy.lake.read("plays", **p).to_pandas()
            frame["is_listened"] = ~frame.is_listened.fillna(False).astype(bool)
            frame["track_id"], frame["artist_id"] = frame.track_id.to_numpy()[::-1], frame.artist_id.to_numpy()[::-1]
            frame["is_flow"] = ~frame.is_flow
            for name in ("album_id", "genre_id", "context_type", "platform_name", "platform_family", "user_gender"):
                frame[name] = frame[name].to_numpy()[::-1]
            frame["user_age"] += 1
            schema = copy.lake.read("plays", **p).schema
            copy.lake.write("plays", pa.Table.from_pandas(frame, schema, preserve_index=False), **p)
    build_features.run(copy)
    before = pa.compute.less(clean.column("ts"), pa.scalar(day))
    assert table(copy).filter(pa.compute.less(table(copy).column("ts"), pa.scalar(day))).equals(clean.filter(before))
    assert not table(copy).equals(clean)


def test_unlabelled_rows_do_not_change_other_features(built, copy):
    for p in copy.lake.partitions("plays"):
        day = copy.lake.read("plays", **p)
        copy.lake.write("plays", day.filter(pa.compute.is_valid(day.column("is_listened"))), **p)
    build_features.run(copy)
    clean = table(built[0])
    assert table(copy).equals(clean.filter(pa.compute.is_valid(clean.column("is_listened"))))


def test_leaky_features_are_a_variant_and_contain_the_label(built):
    context = built[0]
    build_features.run(context, leaky=True)
    past, leaky = (table(context, variant=v).to_pandas() for v in ("past", "leaky"))
    assert (past.play_id == leaky.play_id).all()
    known = leaky[leaky.is_listened.notna()]
    assert (known.track_plays == known.groupby("track_id").track_id.transform("size")).all()
    assert (known.user_listened == known.groupby("user_id").is_listened.transform("sum")).all()
    assert (past.track_plays <= leaky.track_plays).all()
    assert (known.genre_age_plays == known.groupby(["genre_id", "user_age"]).genre_id.transform("size")).all()
    assert (known.user_daypart_plays == known.groupby(["user_id", known.hour // 6]).user_id.transform("size")).all()
    with pytest.raises(BadArgument, match="--leaky"):
        build_features.run(context, CUT, leaky=True)


def test_empty_day_has_no_rows_and_copies_the_state(copy):
    build_features.run(copy, end=CUT)
    nothing = copy.lake.read("plays", day=NEXT).slice(0, 0)
    copy.lake.write("plays", nothing, day=NEXT)
    assert build_features.run(copy, NEXT, NEXT)["rows"]["skip_features"] == 0
    assert copy.lake.rows("skip_features", variant="past", day=NEXT) == 0
    before, after = (table(copy, "skip_state", day=day).to_pandas() for day in (CUT, NEXT))
    assert (before.kind == "user_second").any()  # counts of the last hour, which is outdated one day later
    before = before[before.kind != "user_second"].reset_index(drop=True)
    pd.testing.assert_frame_equal(before.drop(columns=["days", "plays"]), after.drop(columns=["days", "plays"]))


def test_missing_or_outdated_state_raises(copy):
    with pytest.raises(CheckFailed, match=rf"skip_state: nothing for {CUT}"):
        build_features.run(copy, NEXT, NEXT)
    with pytest.raises(CheckFailed, match="no day from 2017-01-01 to 2017-01-02; the table has"):
        build_features.run(copy, "2017-01-01", "2017-01-02")
    for start, end, message in (("x", None, "--from: 'x' is not a date"), ("2016-11-05", "2016-11-04", "--to")):
        with pytest.raises(BadArgument, match=message):
            build_features.run(copy, start, end)
    build_features.run(copy, end=CUT)
    skip = copy.settings.skip
    other = skip.model_copy(update={"features": skip.features.model_copy(update={"session_gap_min": 30})})
    copy.settings = copy.settings.model_copy(update={"skip": other})
    with pytest.raises(CheckFailed, match=r"session_gap_min.*build all days again"):
        build_features.run(copy, NEXT, NEXT)
    copy.settings = copy.settings.model_copy(update={"skip": skip})
    state, report = copy.lake.read("skip_state", day=CUT), copy.lake.report("skip_state", day=CUT)
    older = report | {"settings": report["settings"] | {"skip_state": 1}}
    copy.lake.write("skip_state", state, report=older, day=CUT)
    with pytest.raises(CheckFailed, match=r"'skip_state': 1.*build all days again"):
        build_features.run(copy, NEXT, NEXT)
    copy.lake.write("skip_state", state, report=report, day=CUT)
    copy.lake.write("plays", copy.lake.read("plays", day=CUT), day=CUT)
    with pytest.raises(CheckFailed, match=f"plays of some day up to {CUT} were written again"):
        build_features.run(copy, NEXT, NEXT)


class TestReader:
    def test_plays_are_complete_sorted_and_split_by_time(self, built):
        labelled = dataset.read_labelled(built[0])
        plays = labelled.plays
        assert plays.names == dataset.NUMBERS
        assert (np.diff(plays.ts_N) >= 0).all()
        assert (
            len(plays)
            == pa.compute.sum(pa.compute.is_valid(table(built[0], variant="past").column("is_listened"))).as_py()
        )
        parts = [labelled.of_split(code) for code in (splits.TRAIN, splits.VALIDATION, splits.TEST)]
        assert parts[0].ts_N.max() < parts[1].ts_N.min() <= parts[1].ts_N.max() < parts[2].ts_N.min()
        assert sum(map(len, parts)) == len(plays)
        assert np.shares_memory(parts[0].numbers_NF, plays.numbers_NF)

    def test_columns_of_a_row_belong_together(self, built):
        plays = dataset.read_labelled(built[0], ("user_plays", "track_plays")).plays
        frame = table(built[0], variant="past").to_pandas()
        frame = frame[frame.is_listened.notna()].sort_values(["ts", "play_id"])
        np.testing.assert_array_equal(plays.user_N, frame.user_id)
        np.testing.assert_array_equal(plays.numbers_NF[:, 1], frame.track_plays)
        np.testing.assert_array_equal(plays.listened_N, frame.is_listened.astype(int))
        np.testing.assert_array_equal(plays.categories["hour"], frame.hour)

    def test_rare_categories_are_learned_from_training_rows_only(self, built):
        labelled = dataset.read_labelled(built[0])
        train = labelled.split_N == splits.TRAIN
        frame = table(built[0], variant="past").to_pandas()
        frame = frame[frame.is_listened.notna()].sort_values(["ts", "play_id"])
        n = frame.genre_id[train].value_counts()
        wanted = frame.genre_id.where(frame.genre_id.isin(n[n >= 50].index), -1)
        np.testing.assert_array_equal(labelled.plays.genre_N, wanted)
        assert (labelled.plays.genre_N == -1).any()
        unlabelled, numbers = dataset.read_unlabelled(built[0], labelled.cleaning)
        assert unlabelled.listened_N is None
        assert sorted(numbers) == list(range(len(unlabelled)))
        assert set(unlabelled.genre_N) <= set(labelled.plays.genre_N[train]) | {-1}

    @pytest.mark.parametrize("kind", ["user", "random", "competition"])
    def test_other_splits_have_all_parts(self, built, kind):
        labelled = dataset.read_labelled(built[0], ("user_plays",), split=SplitSettings(kind=kind))
        assert all(len(labelled.of_split(code)) for code in (splits.TRAIN, splits.VALIDATION, splits.TEST))

    def test_iqr_and_quantile_are_learned_from_training_rows(self, built):
        context, skip = built[0], built[0].settings.skip
        rules = skip.cleaning.model_copy(update={"duration_rule": "iqr", "rare_rule": "quantile", "rare_quantile": 0.5})
        other = skip_context(context.home)
        other.settings = other.settings.model_copy(update={"skip": skip.model_copy(update={"cleaning": rules})})
        labelled = dataset.read_labelled(other)
        durations = labelled.plays.numbers(("duration_s",))
        assert durations.max() == np.float32(labelled.cleaning.longest_s) < 600
        raw = dataset.read_labelled(context).plays.numbers(("duration_s",))
        assert raw.max() > durations.max()

    def test_one_class_missing_variant_and_unknown_names_raise(self, built, home, tmp_path):
        with pytest.raises(BadArgument, match="nonsense is not a number"):
            dataset.read_labelled(built[0], ("nonsense",))
        with pytest.raises(CheckFailed, match="run `overture skip features --leaky`"):
            dataset.read_labelled(skip_context(tmp_path / "none"), variant="leaky")
        context = skip_context(tmp_path / "home")
        write_rows(tmp_path / "train.csv", [{} for _ in range(20)])
        dsg17.run(context, tmp_path)
        build_features.run(context)
        with pytest.raises(CheckFailed, match="all 14 training plays were listened to"):
            dataset.read_labelled(context)


def test_command(built, command, monkeypatch):
    monkeypatch.setenv("OVERTURE_HOME", str(built[0].home))
    code, _, err = command("skip", "features", "--day", "2016-11-31")
    assert code == 2, err
    assert "is not a date" in err
    code, _, err = command("skip", "features", "--day", CUT, "--from", CUT)
    assert (code, "--day" in err) == (2, True)
    code, _, err = command("skip", "features", "--day", "2018-01-01")
    assert (code, "Traceback" in err) == (3, False)
