"""Properties that every method must have, and tests of single methods."""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cache, cached_property

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from blockfactor.kmeans import kmeans
from models.cold_start.input_vector import FirstDays, Layout
from models.cold_start.methods import (
    FullPers,
    Method,
    Needs,
    Popularity,
    RegistrationDayStreams,
    SemiPers,
    WarmListeners,
)
from models.cold_start.methods.autoencoder import FirstDayAutoencoder
from models.cold_start.methods.blend import Blend, RerankedMixture
from models.cold_start.methods.country_age import CountryAge, WithCountryAge, group_rankings
from models.cold_start.methods.dropoutnet import DropoutNet, DropoutNetFull, DropoutNetSemi
from models.cold_start.methods.input_clusters import InputFeaturesClustering
from models.cold_start.methods.melu import Melu, MeluFull, MeluSemi
from models.cold_start.methods.mixture import NearSegments, SegmentMixture
from models.cold_start.methods.neighbours import Neighbours
from models.cold_start.methods.peers import Ease, IalsFoldIn, item_knn
from models.cold_start.methods.ranked_candidates import RankedCandidates, RankedMixture
from models.cold_start.methods.ranker import Ranker
from models.cold_start.methods.registry import METHOD_NAMES, AlsRecipe, MethodFactory, MethodInputs
from models.cold_start.methods.vocabulary import Catalogue
from models.cold_start.ragged import Ragged
from models.cold_start.segments import rankings
from tests.helpers.method_recipes import (
    dropoutnet_recipe,
    first_day_network_recipe,
    in_house,
    melu_recipe,
    neighbour_recipe,
    ranker_recipe,
)

D, N, B, U = 6, 40, 24, 200
DROPOUTNET = dropoutnet_recipe(hidden=(32, 16), rank=8, epochs=15, batch_users=50, batch_tracks=N)
BAG = first_day_network_recipe(width=16, epochs=30, learning_rate=0.02, batch_users=50, dropout=0.1)
MELU = melu_recipe(embedding_dim=8, hidden=8, epochs=25, learning_rate=1e-2, batch_users=50)
RANKER = ranker_recipe(
    candidates=25, folds=2, scored_folds=2, draws=3, min_tracks=5, trees=40, min_leaf_rows=5, segment_smoothing=1.0
)
LAYOUT = Layout(D)
TRACK_ID = 1000 + np.random.default_rng(9).permutation(N)
STREAMS = LAYOUT.block("streamed_songs")


class World:
    """A checkerboard: even tracks and listeners belong to one taste, odd ones to the other."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        poles = np.zeros((2, D), np.float32)
        poles[0, 0] = poles[1, 1] = 1
        self.tracks = (poles[np.arange(N) % 2] + 0.1 * rng.standard_normal((N, D))).astype(np.float32)
        self.tracks /= np.linalg.norm(self.tracks, axis=1, keepdims=True)
        warm = (poles[np.arange(U) % 2] + 0.1 * rng.standard_normal((U, D))).astype(np.float32)
        heard = csr_array((rng.random((U, N)) < 0.6) & (np.arange(U)[:, None] % 2 == np.arange(N) % 2))
        clusters = kmeans(warm, 6, seed=0)
        self.centroids, self.rankings = clusters.centroids, rankings(clusters.labels, heard, 6, 30)
        # Cold listeners have a few streams of their taste; the last two have no activity.
        self.taste = np.arange(B) % 2
        self.poles = poles
        self.x, self.days = self.first_days(rng, self.taste, silent=np.arange(B) >= B - 2)
        warm_x, warm_days = self.first_days(rng, np.arange(U) % 2, silent=rng.random(U) < 0.3)
        place = np.arange(N)
        self.warm = WarmListeners(
            x_UF=warm_x,
            user_UD=warm,
            track_ND=self.tracks,
            heard_UN=heard.astype(np.float32),
            labels_U=clusters.labels,
            centroids_KD=self.centroids,
            rankings_KL=self.rankings,
            catalogue=Catalogue(TRACK_ID, 10 * (place % 2) + place // 8, 10 * (place % 2) + place // 4),
            first_days=warm_days,
        )

    def recommend_rows(self, method: Method, k: int, rows: ArrayLike = range(B)) -> np.ndarray:
        """Return lists for the cold listeners in `rows`."""
        index = np.asarray(rows, np.int64)
        blocks = {name: ragged.take(index) for name, ragged in self.days.blocks.items()}
        days = FirstDays(self.days.country[index], self.days.age[index], blocks)
        return method.recommend(self.x[index], k, days)

    def first_days(
        self, rng: np.random.Generator, taste: np.ndarray, silent: np.ndarray
    ) -> tuple[np.ndarray, FirstDays]:
        streams: list[np.ndarray] = [np.empty(0, np.int64)] * len(taste)
        x = np.zeros((len(taste), LAYOUT.size), np.float32)
        for b in np.flatnonzero(~silent):
            mine = rng.choice(np.arange(taste[b], N, 2), 3, replace=False)
            streams[b] = TRACK_ID[mine]
            x[b, STREAMS] = self.tracks[mine].mean(axis=0)
            x[b, LAYOUT.scalar("nb_streamed_songs")] = 3
        x[:, LAYOUT.block("country")] = 0.3 * self.poles[taste]
        country = np.array(["FR", "BR"], object)[taste]
        return x, FirstDays(country, np.full(len(taste), -1), {"streamed_songs": Ragged.from_lists(streams)})

    @cached_property
    def country_age(self) -> CountryAge:
        country_U = self.warm.first_days.country
        rankings = group_rankings(self.warm.heard_UN, country_U, np.full(U, None, object), 10.0, 5, 30)
        return CountryAge(N, rankings)

    @cached_property
    def autoencoder(self) -> FirstDayAutoencoder:
        return FirstDayAutoencoder(self.warm, BAG, seed=1)

    @cached_property
    def mixture(self) -> SegmentMixture:
        return SegmentMixture(self.warm, BAG, 20.0, seed=1)

    @cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours.fit(self.warm, neighbour_recipe())

    @cached_property
    def factory(self) -> MethodFactory:
        """Return a factory whose networks are trained once, for the methods with a ranker."""
        inputs = MethodInputs(
            self.tracks, self.centroids, self.rankings, self.predict, lambda: self.warm, similarity="cosine", seed=1,
            dropoutnet=DROPOUTNET, melu=MELU, in_house=in_house(autoencoder=BAG, mixture=BAG, ranker=RANKER),
            als=AlsRecipe(alpha=10.0, regularisation=20.0, exponent=0.0),
        )  # fmt: skip
        return MethodFactory(inputs)

    @cached_property
    def ranker(self) -> Ranker:
        return self.factory.ranker

    @cached_property
    def dropoutnet(self) -> DropoutNet:
        return DropoutNet(self.warm, DROPOUTNET, seed=1)

    @cached_property
    def melu(self) -> Melu:
        return Melu(self.warm, MELU, seed=1)

    def predict(self, x_BF: np.ndarray) -> np.ndarray:
        """Replace the network: return twice the stream block plus the country block."""
        return 2 * x_BF[:, STREAMS] + x_BF[:, LAYOUT.block("country")]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


MAKE: dict[str, Callable[[World], Method]] = {
    "popularity": lambda w: Popularity(N),
    "registration_day_streams": lambda w: RegistrationDayStreams(w.tracks, "cosine"),
    "full_pers": lambda w: FullPers(w.predict, w.tracks, "cosine"),
    "full_pers_dot": lambda w: FullPers(w.predict, w.tracks, "dot"),
    "semi_pers": lambda w: SemiPers(w.predict, w.centroids, w.rankings),
    "semi_pers_with_country_age": lambda w: WithCountryAge(SemiPers(w.predict, w.centroids, w.rankings), w.country_age),
    "country_age": lambda w: w.country_age,
    "no_fallback": lambda w: RegistrationDayStreams(w.tracks, "cosine", fallback=False),
    "input_features_clustering": lambda w: InputFeaturesClustering(w.warm, k=6),
    "dropoutnet_full": lambda w: DropoutNetFull(w.dropoutnet),
    "dropoutnet_full_cosine": lambda w: DropoutNetFull(w.dropoutnet, "cosine"),
    "dropoutnet_semi": lambda w: DropoutNetSemi(w.dropoutnet, w.warm),
    "melu_full": lambda w: MeluFull(w.melu),
    "melu_semi": lambda w: MeluSemi(w.melu, w.warm),
    "near_segments": lambda w: NearSegments(w.predict, w.warm, 20.0, 10.0),
    "segment_mixture": lambda w: w.mixture,
    "segment_mixture_reranked": lambda w: RerankedMixture(w.mixture, Blend(w.autoencoder, w.neighbours, 0.5), 30, 0.25),
    "segment_mixture_ranked": lambda w: RankedMixture(w.factory.candidate_stage, w.ranker.relevance, w.mixture, 30),
    "neighbours": lambda w: w.neighbours,
    "first_day_autoencoder": lambda w: w.autoencoder,
    "blend": lambda w: Blend(w.autoencoder, w.neighbours, 0.5),
    "ranked_candidates": lambda w: RankedCandidates(w.factory.candidate_stage, w.ranker.relevance),
    "item_knn": lambda w: item_knn(w.warm),
    "ease": lambda w: Ease(w.warm, 5.0),
    "ials_fold_in": lambda w: IalsFoldIn(w.warm, 10.0, 1.0, 0.0),
}
PERSONAL = [name for name in MAKE if name != "popularity"]


@pytest.fixture(scope="module")
def make_method(world: World) -> Callable[[str], Method]:
    return cache(lambda name: MAKE[name](world))


@pytest.fixture(params=list(MAKE))
def method(request, make_method) -> Method:
    return make_method(request.param)


@pytest.mark.parametrize("name", PERSONAL)
def test_checkerboard(name: str, make_method, world: World) -> None:
    method = make_method(name)
    lists = world.recommend_rows(method, 10)
    served = slice(None) if method.needs.cold_users else slice(0, B - 2)
    assert (lists[served] % 2 == world.taste[served, None]).all()


def test_lists_have_the_requested_shape_and_no_duplicates(method: Method, world: World) -> None:
    for k in (1, 10, 30):
        lists = world.recommend_rows(method, k)
        assert lists.shape == (B, k)
        assert lists.dtype == np.int32
        assert lists.min() >= 0
        assert lists.max() < N
        assert all(len(set(row)) == k for row in lists.tolist())


def test_shorter_list_is_a_prefix_of_a_longer_one(method: Method, world: World) -> None:
    np.testing.assert_array_equal(world.recommend_rows(method, 30)[:, :7], world.recommend_rows(method, 7))


def test_row_order_follows_the_input(method: Method, world: World) -> None:
    order = np.random.default_rng(1).permutation(B)
    np.testing.assert_array_equal(world.recommend_rows(method, 10, order), world.recommend_rows(method, 10)[order])


def test_batch_equals_single_rows(method: Method, world: World) -> None:
    batch = world.recommend_rows(method, 10)
    for b in range(B):
        np.testing.assert_array_equal(world.recommend_rows(method, 10, [b])[0], batch[b])
    assert world.recommend_rows(method, 10, []).shape == (0, 10)


def test_repeated_recommendations_are_equal_and_do_not_change_the_input(method: Method, world: World) -> None:
    x = world.x.copy()
    first = method.recommend(x, 10, world.days)
    expected = first.copy()
    first[:] = -1  # changing the returned array must not affect the method
    np.testing.assert_array_equal(method.recommend(x, 10, world.days), expected)
    np.testing.assert_array_equal(x, world.x)


def test_k_out_of_range_raises(method: Method, world: World) -> None:
    for k in (0, N + 1):
        with pytest.raises(ValueError, match=f"got {k}"):
            world.recommend_rows(method, k)


def test_wrong_shape_raises(method: Method, world: World) -> None:
    with pytest.raises(ValueError, match=f"{method.name}: x must be"):
        method.recommend(world.x[0], 3, world.days)


@pytest.mark.parametrize(
    "fit",
    [
        lambda w: InputFeaturesClustering(w.warm, 6, seed=3),
        lambda w: DropoutNetSemi(DropoutNet(w.warm, replace(DROPOUTNET, epochs=2), seed=3), w.warm, seed=3),
        lambda w: DropoutNetFull(DropoutNet(w.warm, replace(DROPOUTNET, epochs=2), seed=3)),
        lambda w: MeluSemi(Melu(w.warm, replace(MELU, epochs=2), seed=3), w.warm, seed=3),
        lambda w: MeluFull(Melu(w.warm, replace(MELU, epochs=2), seed=3)),
        lambda w: FirstDayAutoencoder(w.warm, replace(BAG, epochs=2), seed=3),
        lambda w: SegmentMixture(w.warm, replace(BAG, epochs=2), 20.0, seed=3),
        lambda w: Neighbours.fit(w.warm, neighbour_recipe()),
    ],
)
def test_repeated_fits_are_equal(world: World, fit: Callable[[World], Method]) -> None:
    np.testing.assert_array_equal(world.recommend_rows(fit(world), 30), world.recommend_rows(fit(world), 30))


def test_every_method_is_built_by_its_name(world: World) -> None:
    calls: list[str] = []
    losses: dict[str, list[float]] = {}

    def warm() -> WarmListeners:
        calls.append("warm")
        return world.warm

    parts = MethodInputs(
        world.tracks,
        world.centroids,
        world.rankings,
        world.predict,
        warm,
        similarity="cosine",
        seed=1,
        dropoutnet=replace(DROPOUTNET, epochs=2),
        melu=replace(MELU, epochs=3),
        in_house=in_house(
            autoencoder=replace(BAG, epochs=4), mixture=replace(BAG, epochs=5), list_length=30, ranker=RANKER
        ),
        als=AlsRecipe(alpha=10.0, regularisation=20.0, exponent=0.0),
        on_loss=lambda name, epoch, loss: losses.setdefault(name, []).append(loss),
        country_age=world.country_age,
    )
    light = [name for name in METHOD_NAMES if name.endswith("_pers") or name.startswith(("popularity", "registration"))]
    factory = MethodFactory(parts)
    assert [factory.build(name).name for name in light] == light
    assert not calls  # methods without training do not load the warm listeners
    assert [factory.build(name).name for name in reversed(METHOD_NAMES)] == list(reversed(METHOD_NAMES))
    assert calls == ["warm"]
    assert {name: len(curve) for name, curve in losses.items()} == {
        "dropoutnet": 2,
        "melu": 3,
        "first_day_autoencoder": 4,
        "segment_mixture": 5,  # each is trained once
        "ranker_fold_0": 4,
        "ranker_fold_1": 4,
    }
    with pytest.raises(ValueError, match="no 'melu'; there are popularity, "):
        factory.build("melu")
    without = MethodFactory(replace(parts, country_age=None))
    with pytest.raises(ValueError, match="country_age: needs rankings by country and age class"):
        without.build("country_age")
    for name in ("semi_pers", "full_pers", "near_segments"):  # the silent listeners of data with and without countries
        silent = without.build(name).recommend(world.x[-2:], 9, world.days.take([B - 2, B - 1]))
        np.testing.assert_array_equal(silent, without.build(name).recommend(world.x, 9, world.days)[-2:])
        got = factory.build(name).recommend(world.x, 9, world.days)
        np.testing.assert_array_equal(got[-2:], world.recommend_rows(world.country_age, 9)[-2:])
        np.testing.assert_array_equal(got[:-2], without.build(name).recommend(world.x, 9, world.days)[:-2])


@pytest.mark.parametrize("name", [name for name in MAKE if name in METHOD_NAMES])
def test_missing_first_days_raise_where_a_method_needs_them(name: str, make_method, world: World) -> None:
    method = make_method(name)
    if not method.needs.first_days:
        np.testing.assert_array_equal(method.recommend(world.x, 5), world.recommend_rows(method, 5))
        return
    with pytest.raises(ValueError, match=f"{name}: needs the first day of each of the {B} listeners, got none"):
        method.recommend(world.x, 5)
    with pytest.raises(ValueError, match="got those of 3 listeners"):
        method.recommend(world.x, 5, world.days.rows(0, 3))
    if name == "country_age":  # it is not trained on first days
        return
    blind = copy(world)
    blind.warm = replace(world.warm, first_days=None)
    for learned in ("autoencoder", "mixture", "neighbours", "factory", "ranker"):
        vars(blind).pop(learned, None)
    with pytest.raises(ValueError, match="needs ids"):
        MAKE[name](blind)


def test_names_and_needs_are_declared() -> None:
    classes = [Popularity, RegistrationDayStreams, FullPers, SemiPers]
    assert [m.name for m in classes] == ["popularity", "registration_day_streams", "full_pers", "semi_pers"]
    assert Popularity.needs == Needs()
    assert not RegistrationDayStreams.needs.cold_users
    assert "network" in FullPers.needs.parts
    assert "rankings" in SemiPers.needs.parts


def test_popularity_follows_the_order_of_the_catalogue(world: World) -> None:
    assert Popularity(N).recommend(world.x, 4).tolist() == [[0, 1, 2, 3]] * B


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_listener_without_streams_gets_the_most_popular_tracks(world: World, similarity) -> None:
    lists = RegistrationDayStreams(world.tracks, similarity).recommend(world.x, 5)
    assert lists[-2:].tolist() == [[0, 1, 2, 3, 4]] * 2
    unknown = world.x[:1].copy()
    unknown[0, STREAMS] = 0  # has streams, but none with a vector
    assert RegistrationDayStreams(world.tracks, similarity).recommend(unknown, 3).tolist() == [[0, 1, 2]]


FROM_IDS = (
    "country_age", "segment_mixture", "segment_mixture_reranked", "segment_mixture_ranked", "neighbours",
    "first_day_autoencoder", "blend", "ranked_candidates", "item_knn", "ease", "ials_fold_in",
)  # fmt: skip


@pytest.mark.parametrize("name", FROM_IDS)
def test_listener_of_whom_nothing_is_known_gets_the_most_popular_tracks(name: str, make_method, world: World) -> None:
    nothing, unknown_track = np.empty(0, np.int64), np.array([1], np.int64)
    streams = Ragged.from_lists([nothing, unknown_track, TRACK_ID[:2]])
    days = FirstDays(np.array([None, "XX", None], object), np.full(3, -1), {"streamed_songs": streams})
    lists = make_method(name).recommend(np.zeros((3, LAYOUT.size), np.float32), 5, days)
    assert lists[:2].tolist() == [[0, 1, 2, 3, 4]] * 2
    if name != "country_age":
        assert lists[2].tolist() != [0, 1, 2, 3, 4]


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_listener_without_streams_or_fallback_gets_tracks_near_the_mean(world: World, similarity) -> None:
    method = RegistrationDayStreams(world.tracks, similarity, fallback=False)
    lists = method.recommend(world.x, 5)
    middle = world.x[:1].copy()
    middle[0, STREAMS] = world.tracks.mean(axis=0)
    np.testing.assert_array_equal(lists[-2:], np.tile(method.recommend(middle, 5), (2, 1)))
    np.testing.assert_array_equal(
        lists[:-2], RegistrationDayStreams(world.tracks, similarity).recommend(world.x[:-2], 5)
    )


def test_registration_day_streams_uses_streams_only(world: World) -> None:
    x = np.random.default_rng(0).standard_normal(world.x.shape).astype(np.float32)
    x[:, STREAMS] = world.x[:, STREAMS]
    method = RegistrationDayStreams(world.tracks, "cosine")
    np.testing.assert_array_equal(method.recommend(x, 9), method.recommend(world.x, 9))


def test_semi_pers_uses_the_direction_of_a_prediction(world: World) -> None:
    far = SemiPers(lambda x: 1000 * world.predict(x), world.centroids, world.rankings)
    near = SemiPers(world.predict, world.centroids, world.rankings)
    np.testing.assert_array_equal(far.segments(world.x), near.segments(world.x))
    np.testing.assert_array_equal(near.recommend(world.x, 30), world.rankings[near.segments(world.x)])


def test_semi_pers_uses_euclidean_distance_and_not_the_angle() -> None:
    # The prediction is (1, 0). The first centroid has the smaller angle, the second is nearer.
    method = SemiPers(lambda x: np.tile([5.0, 0], (len(x), 1)), [[0.1, 0], [0.9, 0.3]], [[0, 1], [1, 0]])
    assert method.recommend(np.zeros((1, 3)), 1).tolist() == [[1]]


def test_predict_with_a_wrong_width_raises(world: World) -> None:
    for method in (
        FullPers(lambda x: x, world.tracks, "cosine"),
        SemiPers(lambda x: x, world.centroids, world.rankings),
    ):
        with pytest.raises(ValueError, match=f"{method.name}: predict must return"):
            method.recommend(world.x, 3)


def test_inconsistent_arguments_raise(world: World) -> None:
    with pytest.raises(ValueError, match="a row for each of 6 centroids"):
        SemiPers(world.predict, world.centroids, world.rankings[:-1])
    with pytest.raises(ValueError, match="n_tracks"):
        Popularity(0)
    with pytest.raises(ValueError, match="track_vectors: row 0 contains NaN"):
        FullPers(world.predict, np.full((3, D), np.nan), "cosine")
    with pytest.raises(ValueError, match="registration_day_streams: x must be"):
        RegistrationDayStreams(world.tracks, "cosine").recommend(world.x[:, :-1], 3)
