"""Components of the first-day methods: tokens, synthetic first days, mixtures, neighbours and fold-in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from models.cold_start.input_vector import FirstDays
from models.cold_start.methods import WarmListeners, first_day_network
from models.cold_start.methods.first_day_network import Batch, TrainingUsers
from models.cold_start.methods.mixture import NearSegments, SegmentMixture, SegmentTrackProbabilities
from models.cold_start.methods.neighbours import Neighbours
from models.cold_start.methods.peers import Ease, IalsFoldIn
from models.cold_start.methods.vocabulary import Catalogue, Vocabulary
from models.cold_start.ragged import Ragged
from models.cold_start.top_k import exclude_items, top_k_of_scores
from tests.helpers.method_recipes import first_day_network_recipe, neighbour_recipe

CATALOGUE = Catalogue(np.array([40, 10, 30, 20]), np.array([7, 7, 8, 9]), np.array([1, 2, 2, 3]))
TRACKS, ARTISTS, ALBUMS = slice(0, 4), slice(4, 7), slice(7, 10)
HEARD = csr_array(np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 1, 1]], np.float32))


def days(streamed, country=None, age=None, **blocks):
    n = len(streamed)
    lists = {"streamed_songs": streamed, **blocks}
    country = np.array(country if country is not None else [None] * n, object)
    return FirstDays(country, np.array(age or [-1] * n), {name: Ragged.from_lists(ids) for name, ids in lists.items()})


def warm(**changed):
    eye = np.eye(4, dtype=np.float32)
    listeners = WarmListeners(
        x_UF=np.zeros((4, 3), np.float32),
        user_UD=eye,
        track_ND=eye,
        heard_UN=HEARD,
        labels_U=np.array([0, 0, 1, 1], np.int32),
        centroids_KD=np.array([[1, 0, 0, 0], [0, 0, 0, 1]], np.float32),
        rankings_KL=np.array([[0, 1], [2, 3]], np.int32),
        catalogue=CATALOGUE,
        first_days=days([[40], [10], [30], [20]], ["FR", "FR", "BR", None]),
    )
    return replace(listeners, **changed)


def test_first_day_tokens():
    vocabulary = Vocabulary.build(CATALOGUE, warm().first_days)
    assert vocabulary.spans == {
        "track": TRACKS,
        "artist": ARTISTS,
        "album": ALBUMS,
        "country": slice(10, 12),
        "age": slice(12, 17),
    }
    result = vocabulary.first_day_tokens(
        days([[40, 40, 999], []], ["FR", "US"], [20, -1], onboarding_like_artists=[[], [9]], skipped_songs=[[20], [10]])
    )
    # track 40 has index 0, artist 7 and album 1; 999, US and skipped tracks have no token
    assert np.flatnonzero(result[[0]].toarray()).tolist() == [0, 4, 7, 11, 13]
    assert np.flatnonzero(result[[1]].toarray()).tolist() == [6]
    assert set(result.data) == {1}
    assert CATALOGUE.streamed_tracks(days([[20, 20, 10], [999]])).toarray().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("epochs", [1, 2, 9, 19])
def test_few_steps_of_training_give_finite_weights(epochs):
    """With nine steps, the part of the schedule in which the rate rises had the length zero."""
    recipe = replace(first_day_network_recipe(), epochs=epochs, batch_users=8)
    losses = []
    net = first_day_network.fit(
        "x", warm(), np.zeros(4, np.float32), lambda logits, _: logits.square().mean(), recipe, 7,
        lambda _, loss: losses.append(loss),
    )  # fmt: skip
    assert len(losses) == epochs
    assert all(torch.isfinite(values).all() for values in net.parameters())


def test_synthetic_first_day_does_not_contain_its_targets():
    side = warm()
    users = TrainingUsers(
        side, Vocabulary.build(CATALOGUE, side.first_days), side.first_days, first_day_network_recipe(real_share=0.5)
    )
    rng = np.random.default_rng(0)
    for _ in range(50):
        for batch in users.batches(rng):
            shown = batch.tokens_BV.toarray()[:, TRACKS]
            truth = batch.target_BN.toarray()
            heard = HEARD.toarray()[batch.users]
            assert not (shown * truth).any()
            np.testing.assert_array_equal(np.maximum(shown, truth)[heard > 0], 1)
            assert not truth[heard == 0].any()


def test_excluded_kinds_do_not_appear_in_synthetic_first_days():
    side = warm()
    users = TrainingUsers(
        side, Vocabulary.build(CATALOGUE, side.first_days), side.first_days, first_day_network_recipe(kinds=("track",))
    )
    for batch in users.batches(np.random.default_rng(0)):
        assert not batch.tokens_BV.toarray()[:, 4:].any()


def test_segment_distributions_are_counts_smoothed_by_popularity():
    tastes = SegmentTrackProbabilities(warm(), 2.0)
    popularity = (np.array([2, 3, 3, 2]) + 0.5) / 12
    np.testing.assert_allclose(
        tastes.mix(np.eye(2)),
        [(np.array([2, 2, 1, 0]) + 2 * popularity) / 7, (np.array([0, 1, 2, 2]) + 2 * popularity) / 7],
        rtol=1e-6,
    )
    half = tastes.mix(np.array([[0.5, 0.5]]))
    np.testing.assert_allclose(half, tastes.mix(np.eye(2)).mean(axis=0, keepdims=True), rtol=1e-6)


def test_mixture_loss_excludes_the_streams_of_the_user():
    mixture = SegmentMixture(warm(), first_day_network_recipe(epochs=1, width=4), smoothing=2.0)
    loss = mixture._loss(0)
    truth = csr_array(np.array([[0, 1, 0, 0]], np.float32))  # track 1 is the target of user 0 of segment 0
    result = loss(torch.tensor([[0.3, -0.2]]), Batch(np.array([0]), truth, truth))
    prior = 2 * 3.5 / 12
    own, other = (2 - 1 + prior) / (5 - 2 + 2), (1 + prior) / (5 + 2)  # without user 0: one stream of three
    weight = np.exp([0.3, -0.2]) / np.exp([0.3, -0.2]).sum()
    assert float(result) == pytest.approx(-np.log(weight @ [own, other]), rel=1e-5)


def test_sharp_mixture_uses_only_the_nearest_segment():
    predict = lambda x: np.tile(np.array([[1, 0, 0, 0.9]], np.float32), (len(x), 1))  # noqa: E731
    x = np.zeros((1, 3), np.float32)
    sharp = NearSegments(predict, warm(), 1e-3, 1e4).recommend(x, 3)
    assert sharp.tolist() == [[1, 0, 2]]  # each has two streams in the segment: the more popular track is first
    silent = NearSegments(lambda x: np.zeros((len(x), 4), np.float32), warm(), 2.0, 10.0).recommend(x, 4)
    assert silent.tolist() == [[1, 2, 0, 3]]  # no information: by popularity, ties by index


def test_neighbours_equal_a_manual_calculation():
    fitted = Neighbours.fit(
        warm(),
        neighbour_recipe(token_exponent=0.7, track_exponent=0.3, shrinkage=5.0, artist_weight=0.5, album_weight=0.0),
    )
    scores = fitted.score_VN.toarray()
    assert scores[0, 1] == pytest.approx(2 / (2**0.7 * 3**0.3 + 5))  # two users stream tracks 0 and 1
    assert scores[1, 0] == pytest.approx(2 / (3**0.7 * 2**0.3 + 5))
    assert (np.diag(scores[TRACKS]) == 0).all()
    assert scores[4, 2] == pytest.approx(0.5 * 2 / (3**0.7 * 3**0.3 + 5))  # three users stream artist 7, two track 2
    assert not scores[ALBUMS].any()
    assert fitted.score_VN.indices.dtype == np.int32  # a release stores them: int64 would double its largest file
    few = Neighbours.fit(warm(), neighbour_recipe(max_neighbours=1)).score_VN
    assert (np.diff(few.indptr) <= 1).all()


def test_ease_equals_the_closed_form():
    weights = Ease(warm(), 2.0).weight_NN
    inverse = np.linalg.inv(HEARD.toarray().T @ HEARD.toarray() + 2 * np.eye(4))
    expected = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    with pytest.raises(ValueError, match="at most 30000 tracks"):
        Ease(warm(heard_UN=csr_array((4, 30_001), dtype=np.float32)))


def test_fold_in_solves_the_weighted_least_squares():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((4, 3)).astype(np.float32)
    lists = IalsFoldIn(warm(track_ND=y), alpha=10.0, regularisation=0.5, exponent=0.0).recommend(
        np.zeros((2, 1), np.float32), 4, days([[40, 20], []])
    )
    c = np.array([11, 1, 1, 11])
    vector = np.linalg.solve((y.T * c) @ y + 0.5 * np.eye(3), (y.T * c) @ np.array([1, 0, 0, 1]))
    assert lists[0].tolist() == np.argsort(-(y @ vector)).tolist()
    assert lists[1].tolist() == [0, 1, 2, 3]


def test_top_k_is_a_stable_sort():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (20, 30)).astype(np.float32)
    for k in (1, 7, 30):
        np.testing.assert_array_equal(top_k_of_scores(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])
    with pytest.raises(ValueError, match="k must be from 1"):
        top_k_of_scores(scores, 31)


def test_excluded_items_are_not_in_the_lists():
    lists = np.array([[4, 2, 0, 1], [3, 1, 0, 2]], np.int32)
    taken = csr_array(np.array([[0, 0, 1, 0, 1], [0, 0, 0, 0, 1]]))
    assert exclude_items(lists, taken, 2).tolist() == [[0, 1], [3, 1]]
    with pytest.raises(ValueError, match="row 0 has 2 items left of 3"):
        exclude_items(lists, taken, 3)


def test_invalid_settings_raise():
    for wrong, message in (
        ({"epochs": 0}, "epochs"),
        ({"dropout": 1.0}, "dropout"),
        ({"learning_rate": 0}, "learning"),
    ):
        with pytest.raises(ValueError, match=message):
            first_day_network_recipe(**wrong)
    with pytest.raises(ValueError, match=r"neighbours.max_neighbours"):
        neighbour_recipe(max_neighbours=0)
