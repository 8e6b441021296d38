"""Popularity among the listeners of the same country and age class: lists for listeners without a known interaction.

Shapes   B listeners, U warm users, N tracks, L places of a ranking
Score    of track t in group g: (users of g who streamed t + prior_users * share of t in the parent group)
         / (users of g + prior_users)
         The parent of a country and an age class is the country. The parent of a country and of an age class is the
         group of all users. A group of fewer than min_users users has no ranking
Back-off a listener gets the ranking of country and age class, else of the country, else of the age class, else the most
         popular tracks: the first of these whose group has a ranking
Source   Beta prior, after Dirichlet smoothing (Zhai, Lafferty 2004, section 3.1)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from models.arrays import DoubleVector, IntMatrix, IntVector, LongVector, ObjectVector
from models.cold_start.input_vector import AGE_CLASSES, FirstDays, age_classes, without_known_interactions
from models.cold_start.methods.base import Method, Needs, as_input_rows, check_k, require_first_days
from models.cold_start.top_k import top_k_of_scores

Group = tuple[str, str]
"""Kind and name of a group: ("country", "FR"), ("age_class", "18-24") or ("country_age", "FR/18-24")."""


def group_rankings(
    heard_UN: csr_array,
    country_U: ObjectVector,
    age_class_U: ObjectVector,
    prior_users: float,
    min_users: int,
    length: int,
) -> dict[Group, IntVector]:
    """Return the ranking (L,) track_idx of each country, age class, and country and age class.

    Args:
        heard_UN: a one for each track that a user has streamed.
        country_U: country codes, None where unknown.
        age_class_U: names of age classes, None where unknown.
        prior_users: users of the parent group that are added to each group.
        min_users: users that a group needs.
        length: L, at most N.

    Raises:
        ValueError: the arrays are not of the same users.
    """
    heard_UN = csr_array(heard_UN)
    if not len(country_U) == len(age_class_U) == heard_UN.shape[0]:
        raise ValueError(
            f"country_age: needs country and age class of each of {heard_UN.shape[0]} users, "
            f"got {len(country_U)} and {len(age_class_U)}"
        )
    share_N = np.asarray(heard_UN.sum(axis=0), np.float64).ravel() / max(heard_UN.shape[0], 1)
    rankings: dict[Group, IntVector] = {}

    def rank(kind: str, name: str, users: LongVector, parent_N: DoubleVector) -> DoubleVector | None:
        if len(users) < min_users:
            return None
        count_N = np.asarray(heard_UN[users].sum(axis=0), np.float64).ravel()
        share_of_group_N: DoubleVector = (count_N + prior_users * parent_N) / (len(users) + prior_users)
        rankings[kind, name] = top_k_of_scores(share_of_group_N[None].astype(np.float32), length)[0]
        return share_of_group_N

    ages = {name: np.asarray(age_class_U == name) for name in AGE_CLASSES}
    for name, is_member_U in ages.items():
        rank("age_class", name, np.flatnonzero(is_member_U), share_N)
    for country in sorted({code for code in country_U if code is not None}):
        users = np.flatnonzero(country_U == country)
        of_country_N = rank("country", country, users, share_N)
        if of_country_N is None:
            continue
        for name in AGE_CLASSES:
            rank("country_age", f"{country}/{name}", users[ages[name][users]], of_country_N)
    return rankings


class CountryAge:
    """Recommends the tracks that most listeners of the same country and age class stream."""

    name = "country_age"
    needs = Needs(first_days=True)

    def __init__(self, n_tracks: int, rankings: Mapping[Group, ArrayLike]) -> None:
        """Store the rankings.

        Args:
            n_tracks: N.
            rankings: distinct track_idx by group; the most popular other tracks follow them.

        Raises:
            ValueError: a track_idx is not in 0..N - 1.
        """
        self.n_tracks = n_tracks
        self.rankings = {group: np.asarray(ranking, np.int32) for group, ranking in rankings.items()}
        for (kind, name), ranking in self.rankings.items():
            if ranking.size and not 0 <= ranking.min() <= ranking.max() < n_tracks:
                raise ValueError(
                    f"{self.name}: the ranking of {kind} {name} is not of a catalogue of {n_tracks} tracks"
                )

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return self.n_tracks

    def group(self, country: str | None, age_class: int) -> Group | None:
        """Return the most specific group with a ranking that a listener belongs to; None: the group of all.

        Args:
            country: country code, None where unknown.
            age_class: index into AGE_CLASSES, -1 where unknown.
        """
        age = AGE_CLASSES[age_class] if age_class >= 0 else None
        groups = (("country_age", f"{country}/{age}"), ("country", str(country)), ("age_class", str(age)))
        return next((group for group in groups if group in self.rankings), None)

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        first_days = require_first_days(self.name, x_BF, first_days)
        check_k(self.name, k, self.max_k, "the number of tracks")
        out = np.empty((len(first_days), k), np.int32)
        lists: dict[Group | None, IntVector] = {}
        for b, (country, age) in enumerate(zip(first_days.country, age_classes(first_days.age), strict=True)):
            group = self.group(country, int(age))
            if group not in lists:
                lists[group] = self._list(group, k)
            out[b] = lists[group]
        return out

    def _list(self, group: Group | None, k: int) -> IntVector:
        """Return the first k tracks of a group: its ranking, then the most popular others."""
        ranking = np.empty(0, np.int32) if group is None else self.rankings[group][:k]
        popular = np.arange(min(k + len(ranking), self.n_tracks), dtype=np.int32)
        return np.concatenate([ranking, popular[~np.isin(popular, ranking)]])[:k]


class WithCountryAge:
    """Recommends the lists of a method; a listener without a known interaction gets the list of country and age.

    Interactions with ids that have no vector tell the method nothing (`without_known_interactions`).
    """

    def __init__(self, method: Method, country_age: CountryAge) -> None:
        """Combine two methods of one catalogue."""
        self.method, self.country_age, self.name = method, country_age, method.name
        inner = method.needs
        self.needs = Needs(inner.cold_users, inner.signals, inner.parts, first_days=True)

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return self.method.max_k

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        first_days = require_first_days(self.name, x_BF, first_days)
        lists_BK, x = self.method.recommend(x_BF, k, first_days), as_input_rows(self.name, x_BF)
        silent = np.flatnonzero(without_known_interactions(x))
        if silent.size:
            lists_BK = lists_BK.copy()  # a method may return an array of its own
            lists_BK[silent] = self.country_age.recommend(x[silent], k, first_days.take(silent))
        return lists_BK
