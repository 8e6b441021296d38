"""Rankings by country and age class by hand, the back-off from group to group, and what they allow at best."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from jobs.ingest.simulate.catalogue import AGES, COUNTRIES, build
from jobs.settings.source import SimulateSettings
from models.cold_start.input_vector import Demographics, Entities, FirstDays, input_vectors
from models.cold_start.methods.country_age import CountryAge, WithCountryAge, group_rankings
from models.cold_start.ragged import Ragged
from models.cold_start.top_k import top_k_of_scores
from tests.helpers import simulated_tastes

# Three users of FR, two of them young; two users of BR; one of no country. Track 0 is the most popular.
HEARD = csr_array(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]], float))
COUNTRY = np.array(["FR", "FR", "FR", "BR", "BR", None], object)
AGE = np.array(["18-24", "18-24", "50+", "50+", None, "18-24"], object)


def rank(prior_users: float = 1.0, min_users: int = 1) -> dict[tuple[str, str], list[int]]:
    got = group_rankings(HEARD, COUNTRY, AGE, prior_users, min_users, 4)
    assert all(ranking.dtype == np.int32 for ranking in got.values())
    return {group: ranking.tolist() for group, ranking in got.items()}


def test_rankings_equal_a_manual_calculation() -> None:
    # Shares of all: 5/6, 2/6, 1/6, 2/6. BR: (1 + 5/6, 2/6, 1/6, 2 + 2/6) / 3. FR: (3 + 5/6, 2 + 2/6, 1 + 1/6, 2/6) / 4.
    # FR/50+ with the prior of FR: (1 + 23/24, 14/24, 1 + 7/24, 2/24) / 2.
    # BR/50+ with the prior of BR: (1 + 11/18, 2/18, 1/18, 1 + 14/18) / 2.
    assert rank() == {
        ("age_class", "18-24"): [0, 1, 3, 2],
        ("age_class", "50+"): [0, 3, 2, 1],
        ("country", "BR"): [3, 0, 1, 2],
        ("country", "FR"): [0, 1, 2, 3],
        ("country_age", "BR/50+"): [3, 0, 1, 2],
        ("country_age", "FR/18-24"): [0, 1, 2, 3],
        ("country_age", "FR/50+"): [0, 2, 1, 3],
    }


def test_a_strong_prior_ranks_as_the_parent_group() -> None:
    rankings = rank(prior_users=1e12)
    assert rankings["country", "BR"] == [0, 1, 3, 2]  # of all; tracks 1 and 3 tie and the more popular one is first
    assert rankings["country_age", "FR/50+"] == rankings["country", "FR"]


def test_groups_below_the_minimum_have_no_ranking() -> None:
    assert set(rank(min_users=2)) == {
        ("age_class", "18-24"), ("age_class", "50+"), ("country", "BR"), ("country", "FR"), ("country_age", "FR/18-24"),
    }  # fmt: skip
    assert set(rank(min_users=3)) == {("age_class", "18-24"), ("country", "FR")}
    assert rank(min_users=7) == {}
    assert group_rankings(HEARD, np.full(6, None, object), np.full(6, None, object), 1.0, 1, 4) == {}


def test_one_user_does_not_determine_a_ranking_but_the_parent_does() -> None:
    heard = csr_array(np.eye(4)[[0] * 50 + [3]])
    country = np.array(["FR"] * 50 + ["MC"], object)
    ranking = group_rankings(heard, country, np.full(51, None, object), 100.0, 1, 4)["country", "MC"]
    assert ranking.tolist() == [0, 3, 1, 2]


def test_users_of_another_matrix_raise() -> None:
    with pytest.raises(ValueError, match="country and age class of each of 6 users, got 5 and 6"):
        group_rankings(HEARD, COUNTRY[:5], AGE, 1.0, 1, 4)


def days(*listeners: tuple[str | None, int], streams: list[list[int]] | None = None) -> FirstDays:
    country, age = zip(*listeners, strict=True)
    lists = Ragged.from_lists(streams or [[] for _ in listeners])
    return FirstDays(np.array(country, object), np.array(age), {"streamed_songs": lists})


def test_back_off_from_country_and_age_to_popularity() -> None:
    method = CountryAge(4, {g: r[:2] for g, r in rank(min_users=2).items()})
    listeners = days(("FR", 20), ("FR", 60), ("BR", 60), (None, 60), ("DE", 20), ("FR", -1), (None, -1), ("DE", -1))
    assert method.recommend(np.zeros((8, 3)), 2, listeners).tolist() == [
        [0, 1],  # FR and 18-24
        [0, 1],  # one user of FR is 50+: the country
        [3, 0],  # BR
        [0, 3],  # 50+
        [0, 1],  # nobody of DE: 18-24
        [0, 1],  # FR
        [0, 1],  # popularity
        [0, 1],
    ]
    longer = method.recommend(np.zeros((8, 3)), 4, listeners)
    assert longer[2].tolist() == [3, 0, 1, 2]  # the most popular other tracks follow a ranking
    assert longer[7].tolist() == [0, 1, 2, 3]


def test_rankings_of_another_catalogue_raise() -> None:
    with pytest.raises(ValueError, match="the ranking of country FR is not of a catalogue of 3 tracks"):
        CountryAge(3, {("country", "FR"): [0, 3]})


def test_only_listeners_without_a_known_interaction_get_the_list_of_country_and_age() -> None:
    class Last:
        name, needs, max_k = "last", CountryAge.needs, 4
        own = np.tile(np.arange(3, -1, -1, dtype=np.int32), (4, 1))

        def recommend(self, x_BF, k, first_days=None):
            return self.own[: len(x_BF), :k]

    method = WithCountryAge(Last(), CountryAge(4, rank()))
    listeners = days(("BR", -1), ("BR", -1), (None, -1), ("BR", -1), streams=[[], [7], [], [99]])
    entities = Entities({"song": np.array([7])}, {"song": np.ones((1, 2), np.float32)})
    x = input_vectors(listeners, entities, Demographics({"BR": np.ones(2)}, np.ones((5, 2), np.float32)))
    assert method.recommend(x, 2, listeners).tolist() == [[3, 0], [3, 2], [0, 1], [3, 0]], "track 99 has no vector"
    assert (Last.own == np.arange(3, -1, -1)).all()  # an array of the method is not changed
    with pytest.raises(ValueError, match="last: needs the first day"):
        method.recommend(x, 2)


SMALL = SimulateSettings(n_users=1000, n_tracks=4000)


def test_the_generator_s_probabilities_are_those_of_its_streams() -> None:
    world = build(SMALL)
    ids = simulated_tastes.Ids.of(world, SMALL).track
    country, age = np.array(["FR", "MA", None], object), np.array([22, -1, 60])
    got = simulated_tastes.track_probabilities(SMALL, ids, country, age)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)
    scenes = simulated_tastes.scene_probabilities(world)
    assert scenes.shape == (len(COUNTRIES), len(AGES), world.n_scenes)
    np.testing.assert_allclose(scenes.sum(axis=2), 1, rtol=1e-6)


def test_country_and_age_reach_most_of_what_the_generator_allows() -> None:
    """Learn from simulated streams; the mean probability of 50 tracks is compared with the best 50 and the popular."""
    world, rng, n, n_streams = build(SMALL), np.random.default_rng(3), 4000, 40
    ids = simulated_tastes.Ids.of(world, SMALL).track
    country = rng.choice(list(COUNTRIES), n, p=list(COUNTRIES.values())).astype(object)
    age = simulated_tastes.draw_ages(n, rng)
    chosen, group = np.unique(np.stack([country.astype(str), age.astype(str)]), axis=1, return_inverse=True)
    probability = simulated_tastes.track_probabilities(SMALL, ids, chosen[0].astype(object), chosen[1].astype(int))
    cumulative = np.cumsum(probability, axis=1)
    draws = [np.searchsorted(cumulative[g], rng.random(n_streams) * cumulative[g, -1]) for g in group]
    heard = csr_array((np.ones(n * n_streams), (np.repeat(np.arange(n), n_streams), np.concatenate(draws))), (n, 4000))
    heard.data[:] = 1
    by_popularity = np.argsort(-np.asarray(heard.sum(axis=0)).ravel(), kind="stable")
    classes = np.array(["under 18", "18-24", "25-34", "35-49", "50+"], object)[np.digitize(age, [18, 25, 35, 50])]
    method = CountryAge(4000, group_rankings(heard[:, by_popularity], country, classes, 100.0, 10, 200))
    lists = by_popularity[method.recommend(np.zeros((n, 3)), 50, days(*zip(country, age, strict=True)))]

    def mass(of_user: np.ndarray) -> float:
        return float(np.take_along_axis(probability[group], of_user, axis=1).sum(axis=1).mean())

    best = mass(top_k_of_scores(probability.astype(np.float32), 50)[group])
    popular = mass(np.tile(by_popularity[:50], (n, 1)))
    assert best > 1.2 * popular
    assert (mass(lists) - popular) / (best - popular) > 0.7
