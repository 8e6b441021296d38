"""The input vector: layout, means, counts, unknown ids, and bit-identical rows alone and in a batch."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.cold_start.input_vector import (
    AGE_CLASSES,
    BLOCKS,
    INTERACTIONS,
    KINDS,
    SCALARS,
    Demographics,
    Entities,
    FirstDays,
    Layout,
    age_class,
    age_classes,
    input_vectors,
)
from models.cold_start.ragged import Ragged

D = 4


@pytest.fixture(scope="module")
def entities() -> Entities:
    """Ten entities of each kind with ids 100, 110 ... 190; the vectors are small whole numbers."""
    rng = np.random.default_rng(0)
    ids = {kind: np.arange(100, 200, 10) for kind in KINDS}
    return Entities(ids, {kind: rng.integers(-9, 9, (10, D)).astype(np.float32) for kind in KINDS})


@pytest.fixture(scope="module")
def demographics() -> Demographics:
    age = np.arange(5 * D, dtype=np.float32).reshape(5, D) + 1
    return Demographics({"FR": np.full(D, 7, np.float32), "BR": np.full(D, 8, np.float32)}, age)


def random_days(b: int, seed: int = 1) -> FirstDays:
    rng = np.random.default_rng(seed)
    blocks = {
        name: Ragged.from_lists(
            [rng.integers(9, 21, rng.integers(0, 9)) * 10 for _ in range(b)]
        )  # 90 and 200 are unknown
        for name in INTERACTIONS
    }
    country = rng.choice(np.array(["FR", "BR", "ZZ", None], object), b)
    return FirstDays(country, rng.integers(-1, 80, b), blocks)


@pytest.mark.parametrize(("d", "size"), [(128, 2579), (256, 5139)])
def test_layout_has_the_papers_width(d: int, size: int) -> None:
    layout = Layout(d)
    assert layout.size == size == len(layout.names()) == len(set(layout.names()))
    assert Layout.from_width(size) == layout
    covered = np.zeros(size, int)
    for block in BLOCKS:
        covered[layout.block(block)] += 1
    for scalar in SCALARS:
        covered[layout.scalar(scalar)] += 1
    assert (covered == 1).all()


def test_layout_order() -> None:
    layout = Layout(128)
    assert layout.block("age").start == 0
    assert layout.block("country").start == 128
    assert layout.block("onboarding_like_artists").start == 6 * 128
    assert layout.block("streamed_songs").start == 10 * 128
    assert layout.block("search_playlists").stop == 2560
    assert layout.scalar("age_value") == 2560
    assert layout.scalar("nb_favorite_albums") == 2562  # here albums come before artists, unlike in the blocks
    assert layout.scalar("nb_onboarding_like_artists") == 2578


def test_layout_equals_that_of_the_public_dataset(data_dir) -> None:
    file = data_dir("deezer_public_sample") / "user_features_test_svd.parquet"
    assert pq.read_schema(file).names[2:] == Layout(128).names()


def test_layout_raises_on_unknown_names_and_widths() -> None:
    with pytest.raises(ValueError, match="no block 'streams'"):
        Layout(8).block("streams")
    with pytest.raises(ValueError, match="no scalar"):
        Layout(8).scalar("age")
    with pytest.raises(ValueError, match="2579"):
        Layout.from_width(2580)
    with pytest.raises(ValueError, match="at least 1"):
        Layout(0)


def test_age_classes_at_their_bounds() -> None:
    ages = [-1, 0, 17, 18, 24, 25, 34, 35, 49, 50, 99]
    expected = [-1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [age_class(a) for a in ages] == expected == age_classes(np.array(ages)).tolist()
    assert age_class(None) == -1
    assert AGE_CLASSES == ("under 18", "18-24", "25-34", "35-49", "50+")


def test_row_equals_a_manual_calculation(entities: Entities, demographics: Demographics) -> None:
    song, artist = entities.vectors["song"], entities.vectors["artist"]
    days = FirstDays.single(
        "BR", 30, {"streamed_songs": [110, 110, 150, 999], "streamed_artists": [120], "search_playlists": []}
    )
    layout, row = Layout(D), input_vectors(days, entities, demographics)[0]
    assert row.dtype == np.float32
    expected = np.zeros(layout.size, np.float32)
    expected[layout.block("age")] = demographics.age_class[2]
    expected[layout.block("country")] = 8
    # repeats count; the unknown id 999 is counted but is not part of the mean
    expected[layout.block("streamed_songs")] = (2 * song[1] + song[5]) / np.float32(3)
    expected[layout.block("streamed_artists")] = artist[2]
    expected[layout.scalar("age_value")] = 30
    expected[layout.scalar("nb_streamed_songs")] = 4
    expected[layout.scalar("nb_streamed_artists")] = 1
    np.testing.assert_array_equal(row, expected)


def test_each_block_has_its_own_columns(entities: Entities, demographics: Demographics) -> None:
    layout = Layout(D)
    for name in INTERACTIONS:
        row = input_vectors(FirstDays.single(None, None, {name: [130, 140]}), entities, demographics)[0]
        kind = name.rsplit("_", 1)[1][:-1]
        np.testing.assert_array_equal(row[layout.block(name)], entities.vectors[kind][3:5].mean(axis=0))
        assert row[layout.scalar(f"nb_{name}")] == 2
        row[layout.block(name)], row[layout.scalar(f"nb_{name}")] = 0, 0
        assert row[layout.scalar("age_value")] == -1
        assert np.count_nonzero(row) == 1


def test_empty_first_day_is_zero_except_for_the_age(entities: Entities, demographics: Demographics) -> None:
    row = input_vectors(FirstDays.single("XX", None, {"streamed_songs": [5]}), entities, demographics)[0]
    layout = Layout(D)
    assert row[layout.scalar("age_value")] == -1
    assert row[layout.scalar("nb_streamed_songs")] == 1
    assert np.count_nonzero(row) == 2


def test_batch_is_bit_identical_to_single_rows() -> None:
    rng = np.random.default_rng(3)
    ids = {kind: np.arange(100, 200, 10) for kind in KINDS}
    entities = Entities(ids, {kind: rng.standard_normal((10, 16)) for kind in KINDS})
    demographics = Demographics({"FR": rng.standard_normal(16)}, rng.standard_normal((5, 16)))
    days = random_days(3000)  # more than one pass
    batch = input_vectors(days, entities, demographics)
    for b in [*range(0, 3000, 97), 2047, 2048, 2999]:
        np.testing.assert_array_equal(input_vectors(days.rows(b, b + 1), entities, demographics)[0], batch[b])
    np.testing.assert_array_equal(input_vectors(days.rows(10, 2500), entities, demographics), batch[10:2500])


def test_single_listener_equals_the_arrow_table(entities: Entities, demographics: Demographics) -> None:
    days = random_days(6)
    lists = {name: [ragged.row(b).tolist() for b in range(6)] for name, ragged in days.blocks.items()}
    table = pa.table(
        {
            "user_id": pa.array(range(6), pa.int64()),
            "country": pa.array(days.country.tolist(), pa.string()),
            "age": pa.array([None if a < 0 else a for a in days.age.tolist()], pa.int32()),
            **{name: pa.array(lists[name], pa.list_(pa.int64())) for name in INTERACTIONS},
        }
    )
    expected = input_vectors(days, entities, demographics)
    np.testing.assert_array_equal(input_vectors(FirstDays.from_arrow(table), entities, demographics), expected)
    # sliced and chunked arrays have offsets that do not start at 0
    cut = pa.concat_tables([table.slice(4, 2), table.slice(1, 3)])
    got = input_vectors(FirstDays.from_arrow(cut), entities, demographics)
    np.testing.assert_array_equal(got, expected[[4, 5, 1, 2, 3]])
    got = input_vectors(FirstDays.from_arrow(table.slice(3)), entities, demographics)
    np.testing.assert_array_equal(got, expected[3:])
    for b in range(6):
        age = int(days.age[b])
        one = FirstDays.single(days.country[b], None if age < 0 else age, {n: lists[n][b] for n in INTERACTIONS})
        np.testing.assert_array_equal(input_vectors(one, entities, demographics)[0], expected[b])


def test_arrow_ids_are_not_copied() -> None:
    array = pa.array([[1, 2], [], [3]], pa.list_(pa.int64()))
    ragged = Ragged.from_arrow(array)
    assert np.shares_memory(ragged.ids, array.values.to_numpy())
    assert ragged.lengths.tolist() == [2, 0, 1]
    assert np.shares_memory(ragged.rows(1, 3).ids, ragged.ids)


def test_memory_mapped_vectors_are_not_copied(tmp_path) -> None:
    np.save(tmp_path / "v.npy", np.ones((2, 3), np.float32))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    entities = Entities({"song": np.array([1, 2])}, {"song": mapped})
    assert np.shares_memory(entities.vectors["song"], mapped)


def test_missing_kinds_and_rows_are_accepted(demographics: Demographics) -> None:
    entities = Entities(
        {"song": np.array([1]), "album": np.empty(0, np.int64)},
        {"song": np.ones((1, D), np.float32), "album": np.empty((0, D), np.float32)},
    )
    day = FirstDays.single(None, None, {"banned_albums": [1], "banned_artists": [1], "banned_songs": [1]})
    row, layout = input_vectors(day, entities, demographics)[0], Layout(D)
    assert (row[layout.block("banned_songs")] == 1).all()
    assert not row[layout.block("banned_albums")].any()
    assert not row[layout.block("banned_artists")].any()
    assert row[layout.scalar("nb_banned_artists")] == 1
    nobody = FirstDays(np.empty(0, object), np.empty(0, np.int32), {})
    assert input_vectors(nobody, entities, demographics).shape == (0, layout.size)


def test_ragged_take_and_of() -> None:
    ragged = Ragged.from_lists([[1, 2], [], [3], [4, 5, 6]])
    assert [ragged.take([3, 0, 1]).row(b).tolist() for b in range(3)] == [[4, 5, 6], [1, 2], []]
    mask = np.array([True, False, True, False])
    assert ragged.take(mask).ids.tolist() == [1, 2, 3]
    assert len(Ragged.from_lists([])) == 0
    with pytest.raises(IndexError):
        ragged.row(4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ragged(np.array([0, 2]), np.array([1])), "offsets must rise"),
        (lambda: Ragged(np.array([0, 2, 1, 3]), np.arange(3)), "offsets must rise"),
        (lambda: Ragged(np.array([0, 1]), np.array([0.5])), "integers"),
        (lambda: Ragged.from_arrow(pa.array([[1], None]), "events.ids"), "events.ids: contains nulls"),
        (lambda: Ragged.from_arrow(pa.array([[1, None]]), "ids"), "ids: contains nulls"),
        (lambda: FirstDays.single(None, None, {"streams": [1]}), "no block 'streams'"),
        (lambda: FirstDays.single(None, -2, {}), "age must be whole years"),
        (lambda: FirstDays(np.array([None]), np.array([1, 2]), {}), "country and age"),
        (
            lambda: FirstDays(np.array([None]), np.array([1]), {"banned_songs": Ragged.from_lists([[], []])}),
            "banned_songs has 2",
        ),
        (lambda: FirstDays.from_arrow(pa.table({"country": ["FR"]})), "columns missing: age, favorite_songs"),
        (lambda: Entities({"song": np.array([2, 1])}, {"song": np.ones((2, 3))}), "rise strictly"),
        (lambda: Entities({"song": np.array([1, 1])}, {"song": np.ones((2, 3))}), "rise strictly"),
        (lambda: Entities({"song": np.array([1])}, {"song": np.ones((2, 3))}), "vectors of song: must have shape"),
        (lambda: Entities({"song": np.array([1])}, {"song": np.full((1, 3), np.nan)}), "row 0 .* NaN"),
        (lambda: Entities({"track": np.array([1])}, {"track": np.ones((1, 3))}), "out of song, artist"),
        (lambda: Demographics({}, np.ones((4, 3))), r"age_class: must have shape \(5"),
        (lambda: Demographics({"FR": np.ones(2)}, np.ones((5, 3))), "country: must have shape"),
    ],
)
def test_invalid_input_raises(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_spaces_of_different_width_raise(entities: Entities) -> None:
    with pytest.raises(ValueError, match="d = 4, demographics d = 5"):
        input_vectors(FirstDays.single(None, None, {}), entities, Demographics({}, np.ones((5, 5))))
