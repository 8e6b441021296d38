"""Test the public files: real rows in both encodings, exact values of synthetic files, and errors of damaged files."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.deezer import adapter as deezer
from jobs.ingest.deezer import files as deezer_files
from jobs.ingest.deezer import generate as deezer_generate
from jobs.ingest.deezer.files import CONTRACT, SPLITS, Missing, inspect
from models.cold_start.input_vector import Layout
from tests.helpers import small_deezer

SUFFIX = {"tt_svd": "svd", "ut_als": "mf"}


class TestRealRows:
    """Five real rows of five of the eight files. They test only the format."""

    @pytest.fixture
    def sample(self, data_dir):
        return data_dir("deezer_public_sample")

    @pytest.mark.parametrize("space", list(SUFFIX))
    def test_vectors_have_the_lengths_of_the_contract(self, sample, space):
        spec = CONTRACT.spaces[space]
        songs, vectors, unusual = deezer_files.read_vectors(
            sample / "song_embeddings.parquet", "song_index", spec.songs
        )
        assert songs.tolist() == [0, 1, 2, 3, 4]
        assert vectors.shape == (5, spec.width)
        assert unusual == 0
        users, vectors, _ = deezer_files.read_vectors(sample / "user_embeddings.parquet", "user_index", spec.users)
        assert (np.diff(users) > 0).all()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    @pytest.mark.parametrize("split", SPLITS)
    def test_input_rows_and_lists(self, sample, split):
        file, layout = sample / f"user_features_{split}_svd.parquet", Layout(128)
        users, truth = deezer_files.read_truth(file, 50_000)
        assert (truth.lengths > 0).all()
        missing = Missing()
        (user_index, x), *other_batches = deezer_files.input_rows(file, layout, missing)
        assert not other_batches
        np.testing.assert_array_equal(user_index, users)
        assert x.shape == (5, 2579)
        ages = x[:, layout.scalar("age_value")]
        assert ((ages == -1) | ((ages > 10) & (ages < 100))).all()
        # Streams are counted at three levels. A block is non-zero exactly where its count is above 0.
        streams = x[:, layout.scalar("nb_streamed_songs")]
        np.testing.assert_array_equal(streams, x[:, layout.scalar("nb_streamed_artists")])
        np.testing.assert_array_equal(streams > 0, np.abs(x[:, layout.block("streamed_songs")]).sum(1) > 0)

    def test_a_song_index_above_the_catalogue_raises(self, sample):
        with pytest.raises(CheckFailed, match=r"user_features_train_svd.*d1d30_songs"):
            deezer_files.read_truth(sample / "user_features_train_svd.parquet", 5)


@pytest.mark.parametrize("space", list(SUFFIX))
@pytest.mark.parametrize("encoding", ["array", "json"])
def test_rows_are_matched_by_user_and_song_index(context, encoding, space):
    folder = small_deezer.folder(encoding)
    data = deezer.load(context, inspect(folder, space))
    layout, names = data.layout, data.layout.names()
    songs = pq.read_table(folder / "song_embeddings.parquet")
    assert pa.types.is_binary(songs.schema.field(1).type) == (encoding == "json")
    track_ids = []
    for split in SPLITS:
        table = pq.read_table(folder / f"user_features_{split}_{SUFFIX[space]}.parquet").to_pydict()
        assert table["user_index"] != sorted(table["user_index"]), "the files are not sorted"
        part = data.parts[split]
        assert part.user_index.tolist() == sorted(table["user_index"])
        for row in (0, 7, len(part.user_index) - 1):
            at = table["user_index"].index(part.user_index[row])
            expected = np.array([table[name][at] or 0 for name in names], np.float32)
            np.testing.assert_array_equal(part.x_BF[row], np.nan_to_num(expected))
            assert sorted(data.song_index_N[part.truth.row(row)]) == table["d1d30_songs"][at]
        track_ids.append(part.truth.ids)
    # track_idx is the popularity rank among warm users.
    counts = np.bincount(track_ids[0], minlength=small_deezer.TRACKS)
    assert (np.diff(counts) <= 0).all()
    assert sorted(data.song_index_N) == list(range(small_deezer.TRACKS))
    lengths = np.linalg.norm(data.track_ND, axis=1)
    assert ((lengths > 10) & (lengths < 13)).all() if space == "ut_als" else np.allclose(lengths, 1, atol=1e-5)
    assert data.facts["missing_counts"] > 0
    assert layout.size == data.facts["features"]
    assert data.facts["made_up"].endswith("seed=3")
    assert not data.facts["claims"]


def test_both_encodings_give_equal_data(context, home):
    arrays = deezer.load(context, inspect(small_deezer.folder("array"), "tt_svd"))
    x, tracks = np.array(arrays.parts["test"].x_BF), arrays.track_ND.copy()
    text = deezer.load(context, inspect(small_deezer.folder("json"), "tt_svd"))
    np.testing.assert_array_equal(text.parts["test"].x_BF, x)
    np.testing.assert_array_equal(text.track_ND, tracks)


def test_arrays_are_reused_until_a_file_changes(context, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(small_deezer.folder(), folder)
    deezer.load(context, inspect(folder, "tt_svd"))
    modified_ns = (context.home / "deezer" / "tt_svd" / "test_x.npy").stat().st_mtime_ns
    deezer.load(context, inspect(folder, "tt_svd"))
    assert (context.home / "deezer" / "tt_svd" / "test_x.npy").stat().st_mtime_ns == modified_ns
    assert "used again" in capsys.readouterr().err
    small_deezer.rewrite(
        folder / "user_features_test_svd.parquet", lambda t: small_deezer.with_value(t, "nb_streamed_songs", 0, 99)
    )
    again = deezer.load(context, inspect(folder, "tt_svd"))
    assert 99 in again.parts["test"].x_BF[:, again.layout.scalar("nb_streamed_songs")]


def test_a_failed_load_does_not_change_the_stored_arrays(context, tmp_path):
    deezer.load(context, inspect(small_deezer.folder(), "tt_svd"))
    before = sorted(path.name for path in (context.home / "deezer").iterdir())
    broken = small_deezer.copied(tmp_path / "data")
    small_deezer.rewrite(
        broken / "user_features_test_svd.parquet", lambda t: small_deezer.with_value(t, "nb_skipped_songs", 3, -2)
    )
    with pytest.raises(CheckFailed, match=r"'nb_skipped_songs' of user_index .* is -2"):
        deezer.load(context, inspect(broken, "tt_svd"))
    assert sorted(path.name for path in (context.home / "deezer").iterdir()) == before == ["tt_svd"]


class TestSyntheticFiles:
    def test_the_same_seed_gives_the_same_bytes(self, tmp_path):
        options = deezer_generate.GeneratorOptions(60, 200, 5, "array", ("tt_svd",))
        for name in ("a", "b"):
            deezer_generate.run(tmp_path / name, options)
        for file in (tmp_path / "a").iterdir():
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()

    def test_files_have_the_format_and_typical_values_of_the_published_ones(self):
        folder, layout = small_deezer.folder(), Layout(128)
        assert len(list(folder.glob("*.parquet"))) == 8
        parts = {split: pq.read_table(folder / f"user_features_{split}_svd.parquet") for split in SPLITS}
        assert {split: table.num_rows for split, table in parts.items()} == {"train": 280, "validation": 80, "test": 40}
        for split, table in parts.items():
            assert table.schema.names == ["user_index", "d1d30_songs", *layout.names()]
            lists = table["d1d30_songs"].to_pylist()
            assert all(len(set(one)) == len(one) >= 50 for one in lists)
            has_favourites = table["nb_favorite_songs"].null_count < table.num_rows
            assert has_favourites == (split == "train")
            assert 0 < table["nb_streamed_songs"].null_count < table.num_rows / 2
        unknown = np.mean(np.array(parts["train"]["age_value"].to_pylist()) == -1)
        assert 0.05 < unknown < 0.25

    def test_some_users_have_no_first_day_interaction(self, context):
        from jobs.paper.breakdowns import no_interaction

        data = deezer.load(context, inspect(small_deezer.folder(), "tt_svd"))
        inactive = no_interaction(data.parts["train"].x_BF, data.layout)
        assert 0.02 < inactive.mean() < 0.1
        blocks = slice(2 * 128, 20 * 128)
        assert not np.abs(data.parts["train"].x_BF[inactive, blocks]).any()

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"users": 3}, "--users"), ({"tracks": 10}, "--tracks"), ({"encoding": "csv"}, "--encoding")],
    )
    def test_invalid_sizes_and_encodings_raise(self, options, message):
        with pytest.raises(BadArgument, match=message):
            deezer_generate.GeneratorOptions(**options)


def edit(name, change):
    return lambda folder: small_deezer.rewrite(folder / name, change)


def value(name, column, new, row=2):
    return edit(name, lambda table: small_deezer.with_value(table, column, row, new))


TRAIN, TEST, SONGS = "user_features_train_svd.parquet", "user_features_test_svd.parquet", "song_embeddings.parquet"
SMALL = {"users": 60, "tracks": 200}
BROKEN = {
    "missing file": (lambda f: (f / TEST).unlink(), (TEST, "no file")),
    "cut short": (lambda f: cut(f / TEST), (TEST, "truncated")),
    "wrong space": (
        lambda f: (f / TRAIN).unlink() or (f / TRAIN).symlink_to(f / "user_features_train_mf.parquet"),
        (TRAIN, "5139 features of ut_als", "2579"),
    ),
    "a row of 2578": (
        edit(TRAIN, lambda t: t.drop_columns("skipped_songs_embedding17")),
        (TRAIN, "'skipped_songs_embedding17'", "2578 of 2579"),
    ),
    "text instead of numbers": (
        edit(TRAIN, lambda t: t.set_column(5, "age_embedding3", pa.array(["a"] * t.num_rows))),
        (TRAIN, "'age_embedding3'", "number"),
    ),
    "song too high": (value(TEST, "d1d30_songs", [1, 2, 200]), (TEST, "d1d30_songs", "song 200", "0 to 199")),
    "song below 0": (value(TEST, "d1d30_songs", [-1]), (TEST, "d1d30_songs", "song -1")),
    "song twice": (value(TEST, "d1d30_songs", [4, 9, 4]), (TEST, "d1d30_songs", "song 4 twice")),
    "empty list": (value(TEST, "d1d30_songs", []), (TEST, "d1d30_songs", "is empty")),
    "list missing": (value(TEST, "d1d30_songs", None), (TEST, "d1d30_songs", "is empty")),
    "zero vector": (value(SONGS, "features_svd", [0.0] * 128), (SONGS, "features_svd", "song_index 2", "length 0")),
    "vector of no values": (value(SONGS, "features_svd", []), (SONGS, "features_svd", "song_index 2", "0 values")),
    "short vector": (value(SONGS, "features_svd", [0.1] * 127), (SONGS, "features_svd", "127 values, not 128")),
    "NaN in a vector": (
        value(SONGS, "features_svd", [float("nan")] * 128),
        (SONGS, "features_svd", "song_index 2", "length nan"),
    ),
    "long user": (
        value("user_embeddings.parquet", "svd_embeddings", [1.0] * 128),
        ("user_embeddings.parquet", "svd_embeddings", "user_index 2", "0.99 to 1.01"),
    ),
    "infinite input": (value(TEST, "country_embedding5", float("inf")), (TEST, "'country_embedding5'", "not finite")),
    "age below -1": (value(TEST, "age_value", -2), (TEST, "'age_value'", "is -2")),
    "user twice": (edit(TEST, lambda t: pa.concat_tables([t, t.slice(0, 1)])), (TEST, "user_index", "twice")),
    "user in two splits": (value(TEST, "user_index", 0), (TEST, "user_index 0", "also in", TRAIN)),
    "unknown warm user": (value(TRAIN, "user_index", 999), (TRAIN, "user_index", "not the same")),
    "song missing": (value(SONGS, "song_index", 777), (SONGS, "song_index", "2 is missing")),
}


def cut(file):
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])


@pytest.fixture
def overture(home, command):
    """Run a command in a temporary home."""
    return command


@pytest.mark.parametrize("case", list(BROKEN))
def test_invalid_files_stop_the_command_before_training(overture, home, tmp_path, case):
    damage, words = BROKEN[case]
    folder = small_deezer.copied(tmp_path / "data", **SMALL)
    damage(folder)
    code, out, err = overture("paper", "--data", folder, "--segments", 5)
    assert code == 3, err
    for word in words:
        assert word in err
    assert "Traceback" not in err
    assert out == ""
    assert not (home / "paper").exists()
    assert not (home / "mlflow").exists()


def test_more_segments_than_warm_users_exit_with_code_3(overture):
    code, _, err = overture("paper", "--data", small_deezer.folder(**SMALL), "--segments", 43)
    assert code == 3
    assert "42 warm users" in err
    assert "43" in err
    assert "user_embeddings.parquet" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "svd"], "--space: unknown space 'svd'"),
        (["--methods", "popularity,magic"], "'magic' is not a method"),
        (["--recipe", "grandmother"], "--recipe"),
        (["--segments", "-3"], "--segments"),
    ],
)
def test_invalid_arguments_exit_with_code_2(overture, arguments, message):
    code, _, err = overture("paper", "--data", small_deezer.folder(**SMALL), *arguments)
    assert code == 2
    assert message in err


def test_a_missing_folder_exits_with_code_2(overture, tmp_path):
    code, _, err = overture("paper", "--data", tmp_path / "none")
    assert code == 2
    assert "no such folder" in err


def test_ingest_reads_both_spaces(overture, home):
    import json

    code, out, err = overture("ingest", "deezer", "--data", small_deezer.folder(**SMALL))
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert {name: space_report["features"] for name, space_report in report["spaces"].items()} == {
        "tt_svd": 2579,
        "ut_als": 5139,
    }
    assert (home / "deezer" / "ut_als" / "train_x.npy").is_file()


def test_a_different_md5_prints_a_warning(overture, monkeypatch):
    monkeypatch.setenv("OVERTURE__SOURCE__SONG_MD5", "0" * 32)
    code, _, err = overture("ingest", "deezer", "--data", small_deezer.folder(**SMALL))
    assert code == 0, err
    assert "warning" in err
    assert "song_embeddings.parquet: md5 is" in err
