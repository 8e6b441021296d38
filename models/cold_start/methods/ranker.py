"""The learned ranker of ranked_candidates: XE-NDCG-MART, trained by cross-fitting on warm listeners.

Shapes   U warm users, B listeners, N tracks, D width of the space, C candidates, R rows (candidates of queries),
         Q queries, F features
Method   The users of a sample are divided into folds. The first stage of a fold is fitted on the sample's users of the
         other folds, and scores synthetic first days of the fold's own users. So its scores are as good as those for
         new listeners, and the ranker cannot learn to trust a score that a stage memorised. A few folds give enough
         queries. When lists are made, the first stage knows all warm users.
Source   Bruch 2021 (XE-NDCG-MART, a cross entropy that bounds NDCG); cross-fitting as in stacked generalisation
         (Wolpert 1992)
Differs  The vectors and segments of a fold are computed from the fold's own users (`without_listeners`): the space's
         were computed with the users that the fold holds out
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
from scipy.sparse import csr_array
from sklearn.utils.extmath import randomized_svd

from blockfactor.kmeans import kmeans
from models.arrays import FloatMatrix, FloatVector, IntMatrix, LongVector
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import WarmListeners, require_ids
from models.cold_start.methods.candidates import FEATURES, CandidateStage
from models.cold_start.methods.ranked_candidates import CHUNK
from models.cold_start.methods.vocabulary import Vocabulary
from models.cold_start.ragged import Ragged
from models.cold_start.top_k import normalise

NAME = "ranked_candidates"
FitStage = Callable[[WarmListeners, int], CandidateStage]
"""Fits a first stage on warm listeners: (listeners, number of the fold) -> stage."""


@dataclass(frozen=True)
class RankerRecipe:
    """Training of the ranker; validated on construction. jobs/settings/cold_start.py describes each number.

    Attributes:
        candidates: C, the tracks of a listener that are ranked.
        segment_smoothing: of `SegmentRates`.
        max_listeners: size of the sample of warm users that folds and queries come from.
        folds: parts of the sample.
        scored_folds: folds whose users give queries; a first stage is fitted for each.
        draws: synthetic first days of each user.
        min_tracks: streamed tracks that a user needs for a query.
        trees: number of trees.
        leaves: of a tree.
        learning_rate: of the boosting.
        min_leaf_rows: rows that a leaf needs.
        column_share: share of the features that a tree may use.
    """

    candidates: int
    segment_smoothing: float
    max_listeners: int
    folds: int
    scored_folds: int
    draws: int
    min_tracks: int
    trees: int
    leaves: int
    learning_rate: float
    min_leaf_rows: int
    column_share: float

    def __post_init__(self) -> None:
        for name, least in (
            ("candidates", 1), ("max_listeners", 2), ("folds", 2), ("scored_folds", 1), ("draws", 1),
            ("min_tracks", 2), ("trees", 1), ("leaves", 2), ("min_leaf_rows", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"ranker.{name}: must be at least {least}, got {getattr(self, name)}")
        if self.scored_folds > self.folds:
            raise ValueError(f"ranker.scored_folds: must be at most folds ({self.folds}), got {self.scored_folds}")
        if not (self.learning_rate > 0 and 0 < self.column_share <= 1 and self.segment_smoothing > 0):
            raise ValueError(
                "ranker: learning_rate and segment_smoothing must be above 0 and column_share in (0, 1], got "
                f"{self.learning_rate}, {self.segment_smoothing} and {self.column_share}"
            )


@dataclass(frozen=True, eq=False)
class Queries:
    """Training rows of the ranker, the candidates of Q first days one after the other.

    Attributes:
        features_RF: features of each candidate.
        relevant_R: whether the listener streamed the candidate.
        sizes_Q: number of candidates of each query.
    """

    features_RF: FloatMatrix
    relevant_R: np.ndarray
    sizes_Q: LongVector


def without_listeners(warm: WarmListeners, kept: LongVector, seed: int) -> WarmListeners:
    """Return the training data of some users only, with vectors and segments that know no other user.

    Args:
        warm: all warm users, with ids.
        kept: user_idx of the users to keep.
        seed: seed of the vectors and the segments.
    """
    _, first_days = require_ids(NAME, warm)
    heard_UN = csr_array(csr_array(warm.heard_UN)[kept], dtype=np.float32)
    track_ND = _track_vectors(heard_UN, warm.track_ND.shape[1], seed)
    user_UD = normalise(heard_UN @ track_ND)
    segments = kmeans(user_UD, min(len(warm.centroids_KD), len(kept)), seed)
    return WarmListeners(
        x_UF=np.empty((len(kept), 0), np.float32),
        user_UD=user_UD,
        track_ND=track_ND,
        heard_UN=heard_UN,
        labels_U=segments.labels,
        centroids_KD=segments.centroids,
        rankings_KL=np.empty((len(segments.centroids), 0), np.int32),
        catalogue=warm.catalogue,
        first_days=first_days.take(kept),
    )


def _track_vectors(heard_UN: csr_array, d: int, seed: int) -> FloatMatrix:
    """Return vectors of the tracks at unit length, (N, d): right singular vectors of the scaled matrix.

    An entry is divided by the roots of the user's and the track's number of entries, so that the singular vectors are
    those of the cosine of tracks. Columns beyond the rank of the matrix are zero.
    """
    n_U, n_N = (np.maximum(np.asarray(heard_UN.sum(axis=axis)).ravel(), 1) for axis in (1, 0))
    scaled = csr_array(heard_UN.multiply(1 / np.sqrt(n_U)[:, None]).multiply(1 / np.sqrt(n_N)[None, :]))
    rank = min(d, *(size - 1 for size in scaled.shape)) if min(scaled.shape) > 1 else 1
    _, values, right = randomized_svd(scaled, rank, n_iter=3, random_state=seed)
    out_ND = np.zeros((heard_UN.shape[1], d), np.float32)
    out_ND[:, :rank] = right.T * np.sqrt(values)
    return normalise(out_ND)


def synthetic_first_days(
    warm: WarmListeners, users: LongVector, n_tracks_U: LongVector, rng: np.random.Generator
) -> tuple[FirstDays, csr_array]:
    """Return first days that consist of some of the users' own tracks, and the other tracks that they streamed.

    Args:
        warm: all warm users, with ids.
        users: B users with two tracks or more.
        n_tracks_U: numbers of tracks of real first days, one of which is drawn for each user.
        rng: source of the draws.

    Returns:
        The first days, with country and age of the users, and the targets, sparse (B, N) of ones.
    """
    catalogue, first_days = require_ids(NAME, warm)
    heard_BN = csr_array(csr_array(warm.heard_UN)[users])
    lengths = np.diff(heard_BN.indptr)
    n_B = np.minimum(rng.choice(n_tracks_U, len(users)), lengths - 1)
    row = np.repeat(np.arange(len(users)), lengths)
    order = np.lexsort((rng.random(len(row)), row))
    is_drawn = np.zeros(len(row), bool)
    is_drawn[order] = np.arange(len(row)) - np.repeat(heard_BN.indptr[:-1], lengths) < np.repeat(n_B, lengths)
    offsets = np.concatenate([[0], np.cumsum(n_B)])
    streams = Ragged(offsets, catalogue.track_id_N[heard_BN.indices[is_drawn]])
    own = first_days.take(users)
    left_BN = csr_array(
        (np.ones(int((~is_drawn).sum()), np.float32), (row[~is_drawn], heard_BN.indices[~is_drawn])), heard_BN.shape
    )
    return FirstDays(own.country, own.age, {"streamed_songs": streams}), left_BN


def cross_fitted_queries(warm: WarmListeners, fit_stage: FitStage, recipe: RankerRecipe, seed: int) -> Queries:
    """Return the ranker's training rows; every query is scored by a first stage that does not know its listener.

    First-day tracks are no rows: whether a listener streams them again is not known. A query without a streamed
    candidate is left out, because it orders nothing.

    Args:
        warm: all warm users, with ids.
        fit_stage: fits the first stage of a fold.
        recipe: sizes.
        seed: seed of sample, folds and first days.

    Raises:
        ValueError: the data has no ids, or too few users have `min_tracks` tracks.
    """
    catalogue, first_days = require_ids(NAME, warm)
    rng = np.random.default_rng(seed)
    n_users = len(first_days)
    sample = np.sort(rng.permutation(n_users)[: recipe.max_listeners])
    fold_of = rng.permutation(len(sample)) % recipe.folds
    lengths_U = np.diff(csr_array(warm.heard_UN).indptr)
    vocabulary = Vocabulary.build(catalogue, first_days)
    n_tracks_U = np.diff(csr_array(vocabulary.first_day_tokens(first_days)[:, : vocabulary.n_tracks]).indptr)
    parts: list[Queries] = []
    for fold in range(recipe.scored_folds):
        held_out = sample[fold_of == fold]
        asked = held_out[lengths_U[held_out] >= recipe.min_tracks]
        kept = sample[fold_of != fold]
        if not len(asked) or not len(kept):
            continue
        stage = fit_stage(without_listeners(warm, kept, seed + fold), fold)
        for _ in range(recipe.draws):
            days, target_BN = synthetic_first_days(warm, asked, n_tracks_U, rng)
            parts += _query_parts(stage, days, target_BN)
    queries = _join(parts)
    if not len(queries.sizes_Q):
        raise ValueError(
            f"{NAME}: none of {n_users} warm users with {recipe.min_tracks} tracks streamed a candidate; "
            "there is nothing to train on"
        )
    return queries


def _query_parts(stage: CandidateStage, days: FirstDays, target_BN: csr_array) -> list[Queries]:
    parts = []
    for start in range(0, len(days), CHUNK):
        stop = min(start + CHUNK, len(days))
        scores = stage.score(days.rows(start, stop))
        track_BC = stage.candidates(scores)
        features_BCF = stage.features(scores, track_BC)
        is_target_BC = _contains(target_BN[start:stop], track_BC)
        used_BC = ~_contains(csr_array(scores.tokens_BV[:, : stage.n_tracks]), track_BC)
        used_BC &= (is_target_BC & used_BC).any(axis=1, keepdims=True)
        sizes_B = used_BC.sum(axis=1)
        parts.append(Queries(features_BCF[used_BC], is_target_BC[used_BC], sizes_B[sizes_B > 0]))
    return parts


def _contains(matrix_BN: csr_array, track_BC: IntMatrix) -> np.ndarray:
    """Return whether a sparse (B, N) of ones contains each track of (B, C)."""
    dense_BN = matrix_BN.toarray() > 0
    result: np.ndarray = np.take_along_axis(dense_BN, track_BC, axis=1)
    return result


def _join(parts: list[Queries]) -> Queries:
    return Queries(
        np.concatenate([part.features_RF for part in parts] or [np.empty((0, len(FEATURES)), np.float32)]),
        np.concatenate([part.relevant_R for part in parts] or [np.empty(0, bool)]),
        np.concatenate([part.sizes_Q for part in parts] or [np.empty(0, np.int64)]).astype(np.int64),
    )


def parameters(recipe: RankerRecipe, seed: int) -> dict[str, Any]:
    """Return LightGBM's parameters, without the number of trees; equal rows and parameters give the same trees."""
    return {
        "objective": "rank_xendcg",
        "learning_rate": recipe.learning_rate,
        "num_leaves": recipe.leaves,
        "min_data_in_leaf": recipe.min_leaf_rows,
        "feature_fraction": recipe.column_share,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def boost(queries: Queries, boosting: dict[str, Any], n_trees: int, names: list[str]) -> lgb.Booster:
    """Return trees trained on queries.

    Args:
        queries: rows of any features.
        boosting: LightGBM's parameters.
        n_trees: number of trees.
        names: of the features.
    """
    relevant_R = queries.relevant_R.astype(np.float32)
    data = lgb.Dataset(queries.features_RF, relevant_R, group=queries.sizes_Q, feature_name=names, params=boosting)
    return lgb.train(boosting, data, n_trees)


class Ranker:
    """Trained trees over FEATURES."""

    def __init__(self, booster: lgb.Booster) -> None:
        """Take over a trained booster.

        Raises:
            ValueError: it was trained on other features.
        """
        if tuple(booster.feature_name()) != FEATURES:
            raise ValueError(f"{NAME}: the ranker was trained on other features: {booster.feature_name()}")
        self.booster = booster

    @classmethod
    def train(cls, queries: Queries, recipe: RankerRecipe, seed: int) -> Ranker:
        """Train on queries; equal arguments give the same trees."""
        booster = boost(queries, parameters(recipe, seed), recipe.trees, list(FEATURES))
        text = booster.model_to_string()
        return cls(lgb.Booster(model_str=float32_thresholds(text)))

    def relevance(self, features_RF: FloatMatrix) -> FloatVector:
        """Return the relevance of each row, (R,) float32."""
        return np.asarray(self.booster.predict(features_RF), np.float32)

    def gains(self) -> dict[str, float]:
        """Return the share of each feature in the total gain of the splits."""
        gain_F = self.booster.feature_importance("gain")
        return dict(zip(FEATURES, (gain_F / max(gain_F.sum(), 1e-12)).tolist(), strict=True))


def float32_thresholds(model: str) -> str:
    """Return LightGBM's text of a model with the thresholds of its trees rounded down to float32.

    The trees are the same for float32 features: x <= threshold holds for the same x. ONNX stores thresholds as float32,
    rounded to the nearest, which would move a feature that is next to one to the other side.
    """
    lines = []
    for line in model.split("\n"):
        if line.startswith("tree_sizes="):  # lengths of the old text; LightGBM reads trees without them too
            continue
        name, _, values = line.partition("=")
        if name == "threshold":
            exact = np.array(values.split(), np.float64)
            rounded = exact.astype(np.float32)
            above = rounded > exact
            rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
            line = f"{name}={' '.join(f'{value:.17g}' for value in rounded.tolist())}"
        lines.append(line)
    return "\n".join(lines)
