"""Compare ranked lists with the lists that they reorder, on real playlists: accuracy, other properties, and time.

Task      as in benchmarks/playlists.py, with one trained week of the space tt_svd. Each draw chooses new first days for
          the cohort's playlists, and the rest of a playlist is the truth; first-day tracks are in no list
Interval  95 %, paired bootstrap over the listeners; the value of a listener is the mean over the draws
Features  `25 features`: the ranker trained with the 25 features that have the largest gains; the others are zero
Loss      `LambdaMART`: the same rows and features with the loss of Burges 2010, truncated at 30
Scorer    `with a fold-in`: one more scorer in the first stage, the listener's fold-in into ALS factors (Hu, Koren,
          Volinsky 2008), fitted for each fold as the others are; score, share of the best score, and place
Diversity `diversity 0.2`: the first candidates of ranked_candidates, ordered as rules.diversity orders them with that
          weight of the difference between the tracks of a list
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import harness
from harness import Measurement, Peer, stopwatch
from playlists import K, prepare_week

SEED, SPACE = 7, "tt_svd"
TEST_DRAWS, VALIDATION_DRAWS = (7, 8, 9, 10, 11), (7, 8)
MAX_FIRST_DAY = 5
N_FEATURES = 25
N_TIMED = 300  # single listeners
DIVERSITIES = (0.1, 0.2, 0.3, 0.4, 0.6)
LAMBDAMART = {"objective": "lambdarank", "lambdarank_truncation_level": 30}
ALS_WIDTH, ALS_ITERATIONS = 128, 8
# each method, and the one that it is compared with
AGAINST = {
    "ranked_candidates": "blend",
    "ranked_candidates, 25 features": "blend",
    "ranked_candidates, LambdaMART": "blend",
    "ranked_candidates, with a fold-in": "blend",
    "segment_mixture_ranked": "segment_mixture_reranked",
    **{f"ranked_candidates, diversity {weight}": "ranked_candidates" for weight in DIVERSITIES},
}


def draw(days: Any, truth: Any, catalogue: Any, min_truth: int, seed: int) -> tuple[Any, Any]:
    """Return first days of 1 to MAX_FIRST_DAY random tracks of each listener, and the listener's other tracks.

    Args:
        days: first days of the cohort.
        truth: track_idx of the tracks that each listener streamed afterwards.
        catalogue: ids of the tracks.
        min_truth: tracks that stay in the truth.
        seed: seed of the draw.
    """
    from models.cold_start.input_vector import FirstDays
    from models.cold_start.ragged import Ragged

    rng = np.random.default_rng(seed)
    streamed_BN = catalogue.streamed_tracks(days)
    first, rest = [], []
    for b in range(len(days)):
        own = streamed_BN.indices[streamed_BN.indptr[b] : streamed_BN.indptr[b + 1]]
        tracks = rng.permutation(np.union1d(own, truth.row(b)))
        n = min(int(rng.integers(1, MAX_FIRST_DAY + 1)), len(tracks) - min_truth)
        first.append(catalogue.track_id_N[tracks[:n]])
        rest.append(np.sort(tracks[n:]))
    blocks = {"streamed_songs": Ragged.from_lists(first)}
    return FirstDays(days.country, days.age, blocks), Ragged.from_lists(rest)


def make_methods(factory: Any) -> dict[str, Any]:
    """Return the methods by row name; the rows of all rankers are computed once."""
    from models.cold_start.methods.candidates import FEATURES
    from models.cold_start.methods.ranked_candidates import RankedCandidates, RankedMixture
    from models.cold_start.methods.ranker import Queries, Ranker, cross_fitted_queries
    from models.cold_start.top_k import normalise

    config, seed, als = factory.inputs.in_house, factory.inputs.seed, factory.inputs.als
    clock = stopwatch()

    def with_fold_in(listeners: Any, fold: int) -> WithFoldIn:
        return WithFoldIn(factory.fold_stage(listeners, fold), als_factors(listeners.heard_UN, als, seed), als)

    wide = cross_fitted_queries(factory.warm, with_fold_in, config.ranker, seed)
    queries = Queries(np.ascontiguousarray(wide.features_RF[:, : len(FEATURES)]), wide.relevant_R, wide.sizes_Q)
    harness.log(f"  {len(queries.sizes_Q)} queries, {len(queries.features_RF)} rows: {clock():.0f} s")
    clock = stopwatch()
    ranker = Ranker.train(queries, config.ranker, seed)
    harness.log(f"  trees: {clock():.0f} s")
    gains = ranker.gains()
    for name, gain in sorted(gains.items(), key=lambda item: -item[1]):
        harness.log(f"    {name}: {100 * gain:.1f} %")
    best = sorted(FEATURES, key=lambda name: -gains[name])[:N_FEATURES]
    unused = np.array([name not in best for name in FEATURES])

    def without_unused(rows: Any) -> Any:
        return np.where(unused, np.float32(0), rows)

    small = Ranker.train(
        Queries(without_unused(queries.features_RF), queries.relevant_R, queries.sizes_Q), config.ranker, seed
    )
    clock = stopwatch()
    lambdamart = trees(queries, config.ranker, seed, LAMBDAMART)
    harness.log(f"  trees of LambdaMART: {clock():.0f} s")
    stage = factory.candidate_stage
    wide_stage = WithFoldIn(stage, als_factors(factory.warm.heard_UN, als, seed), als)
    ranked, unit_ND = RankedCandidates(stage, ranker.relevance), normalise(factory.inputs.track_ND)
    return {
        "blend": factory.blend,
        "ranked_candidates": ranked,
        "ranked_candidates, 25 features": RankedCandidates(stage, lambda rows: small.relevance(without_unused(rows))),
        "ranked_candidates, LambdaMART": RankedCandidates(stage, lambdamart),
        "ranked_candidates, with a fold-in": RankedCandidates(wide_stage, trees(wide, config.ranker, seed, {})),
        "segment_mixture_reranked": factory.build("segment_mixture_reranked"),
        "segment_mixture_ranked": RankedMixture(stage, ranker.relevance, factory.mixture, config.list_length),
        **{f"ranked_candidates, diversity {weight}": Diversified(ranked, unit_ND, weight) for weight in DIVERSITIES},
    }


def trees(queries: Any, recipe: Any, seed: int, changes: dict[str, Any]) -> Callable[[Any], Any]:
    """Return the relevance by trees of any number of features, with changed parameters of LightGBM."""
    from models.cold_start.methods.ranker import boost, parameters

    names = [f"feature_{f}" for f in range(queries.features_RF.shape[1])]
    booster = boost(queries, {**parameters(recipe, seed), **changes}, recipe.trees, names)
    return lambda rows: np.asarray(booster.predict(rows), np.float32)


def als_factors(heard_UN: Any, als: Any, seed: int) -> Any:
    """Return the tracks' ALS factors (N, ALS_WIDTH) of a matrix of ones, by exact solutions of one row at a time."""
    from scipy.sparse import csr_array

    from blockfactor.als_kernels import noise

    heard_UN = csr_array(heard_UN)
    heard_NU = csr_array(heard_UN.T)
    factors_ND = noise(heard_UN.shape[1], ALS_WIDTH, seed)
    for _ in range(ALS_ITERATIONS):
        factors_ND = fold_in_rows(heard_NU, fold_in_rows(heard_UN, factors_ND, als), als)
    return factors_ND


def fold_in_rows(matrix_RC: Any, factors_CD: Any, als: Any) -> Any:
    """Return the factors of each row (R, D) that fit its columns' factors best."""
    from blockfactor.als_kernels import fold_in, gram

    gram_DD, out = gram(factors_CD), np.zeros((matrix_RC.shape[0], factors_CD.shape[1]), np.float32)
    for row in range(len(out)):
        columns = matrix_RC.indices[matrix_RC.indptr[row] : matrix_RC.indptr[row + 1]]
        ones = np.ones(len(columns))
        out[row] = fold_in(columns, ones, factors_CD, als.alpha, als.regularisation, gram_DD, als.exponent)
    return out


class WithFoldIn:
    """A first stage with one more scorer, the fold-in into ALS factors: score, share of the best score, and place."""

    def __init__(self, stage: Any, factors_ND: Any, als: Any) -> None:
        """Extend a fitted stage by factors of its tracks and the settings of the fold-in."""
        self.stage, self.factors_ND, self.als = stage, factors_ND, als
        self.n_tracks, self.score, self.candidates = stage.n_tracks, stage.score, stage.candidates

    def features(self, scores: Any, track_BC: Any) -> Any:
        """Return the features of the stage and three more, (B, C, F + 3)."""
        from scipy.sparse import csr_array

        day_BN = csr_array(scores.tokens_BV[:, : self.n_tracks])
        score_BN = fold_in_rows(day_BN, self.factors_ND, self.als) @ self.factors_ND.T
        score_BC = np.take_along_axis(score_BN, track_BC, axis=1)
        best_B1 = np.maximum(score_BN.max(axis=1, keepdims=True), 1e-9)
        pairs = zip(np.sort(-score_BN, axis=1), -score_BC, strict=True)
        place_BC = np.stack([np.searchsorted(ascending_N, wanted_C) for ascending_N, wanted_C in pairs])
        own = (score_BC, score_BC / best_B1, np.minimum(place_BC, track_BC.shape[1]))
        return np.concatenate([self.stage.features(scores, track_BC), np.stack(own, axis=2)], axis=2, dtype=np.float32)


class Diversified:
    """The first candidates of a method in the order of rules.diversity."""

    def __init__(self, method: Any, unit_ND: Any, weight: float) -> None:
        """Reorder the lists of a method by the vectors of the tracks, at unit length, with a weight from 0 to 1."""
        self.method, self.unit_ND, self.weight, self.max_k = method, unit_ND, weight, method.max_k

    def recommend(self, x_BF: Any, k: int, first_days: Any) -> Any:
        """Return (B, k) track_idx, best first."""
        from models.cold_start.methods.ruled import POOL, diversify

        lists_BL = self.method.recommend(x_BF, max(k, POOL), first_days)
        return np.stack([diversify(row, self.unit_ND[row[:POOL]], self.weight)[:k] for row in lists_BL])


def ndcg(method: Any, cohort: Any, catalogue: Any, min_truth: int, seed: int, k: int = K) -> tuple[Any, Any]:
    """Return NDCG of each listener for one draw of first days, and the lists."""
    from models.cold_start.methods import recommend_lists
    from models.evaluation.metrics import score

    days, truth = draw(cohort.days, cohort.truth, catalogue, min_truth, seed)
    lists_BK = recommend_lists(method, cohort.x_BF, k, days, catalogue.streamed_tracks(days))
    return score(lists_BK, truth, k)["ndcg"], lists_BK


def milliseconds(method: Any, cohort: Any) -> float:
    """Return the median time of one listener's list."""
    times = []
    for b in range(min(N_TIMED, len(cohort.days))):
        start = time.perf_counter()
        method.recommend(cohort.x_BF[b : b + 1], K, cohort.days.rows(b, b + 1))
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def measure(context: Any, factory: Any, make: Callable[[Any], dict[str, Any]] = make_methods) -> dict[str, float]:
    """Return all numbers by "row/column", NDCG in %."""
    from jobs.cold_start.evaluate import read_cohort
    from models.cold_start.methods.candidates import listener_totals
    from models.cold_start.top_k import normalise
    from models.evaluation.list_properties import list_properties
    from models.evaluation.metrics import paired_bootstrap

    methods, catalogue, warm = make(factory), factory.warm.catalogue, factory.warm
    unit_ND, listeners_N = normalise(factory.inputs.track_ND), listener_totals(warm.heard_UN)
    quality: dict[str, float] = {}
    for split, draws in (("validation", VALIDATION_DRAWS), ("test", TEST_DRAWS)):
        cohort = read_cohort(context, SPACE, split)
        values: dict[str, Any] = {}
        for name, method in methods.items():
            results = [
                ndcg(method, cohort, catalogue, context.settings.matrix.min_truth_tracks, seed) for seed in draws
            ]
            values[name] = 100 * np.mean([value_B for value_B, _ in results], axis=0)
            quality[f"{name}/{split} ndcg"] = float(values[name].mean())
            if split == "test":
                properties = list_properties(
                    results[0][1], unit_ND, listeners_N, warm.heard_UN.shape[0], catalogue.artist_id_N
                )
                quality |= {f"{name}/{key}": value for key, value in properties.items()}
                quality[f"{name}/ms"] = milliseconds(method, cohort)
            other = AGAINST.get(name, name)
            gain, low, high = paired_bootstrap(values[name], values[other], 1_000)
            quality |= {f"{name}/{split} gain": gain, f"{name}/{split} low": low, f"{name}/{split} high": high}
            shown = {key.partition("/")[2]: round(x, 3) for key, x in quality.items() if key.startswith(f"{name}/")}
            harness.log(f"  {name}: {shown}")
    return quality


def rows(data: str, quick: bool) -> Measurement:
    """Prepare the week, train and compare."""
    from jobs.cold_start.methods import method_factory

    clock = stopwatch()
    context = prepare_week(data, SEED, quick, (SPACE,))
    return Measurement([clock()], measure(context, method_factory(context, SPACE, lambda *_: None)))


def main() -> None:
    """Measure all rows in one run."""
    data_help = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    arguments = harness.parse_arguments("ranker", (__doc__ or "").splitlines()[0], data_help, required=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    measurement, peak = harness.run_in_process(
        Peer("rows", rows, {"data": str(arguments.data), "quick": arguments.quick})
    )
    quality = measurement.quality
    names = list(dict.fromkeys(key.partition("/")[0] for key in quality))
    peers = {}
    for name in names:
        own = {key.partition("/")[2]: value for key, value in quality.items() if key.partition("/")[0] == name}
        peers[name] = harness.summary([(Measurement(measurement.seconds, own), peak)], "")
    case = {
        "case": f"ranked lists, NDCG@{K} in %",
        "about": f"Means over {len(TEST_DRAWS)} draws of first days on test, {len(VALIDATION_DRAWS)} on validation, of "
        "one trained week. gain, low, high: difference to the lists that are reordered (blend, "
        "segment_mixture_reranked, ranked_candidates), with its interval. ms: median of single lists. Seconds and "
        "MiB are those of the whole script.",
        "peers": peers,
        "ratios": {},
    }
    best = quality["ranked_candidates/test ndcg"]
    promises = [
        harness.promise("test NDCG@50 of ranked_candidates, %", 27.2, best),
        harness.promise("test NDCG@50 of segment_mixture_ranked, %", 26, quality["segment_mixture_ranked/test ndcg"]),
        harness.promise("lower bound of the gain over the blend", 0, quality["ranked_candidates/test low"]),
    ]
    harness.write_result(arguments, [case], promises, ("test NDCG@50 of ranked_candidates, %", best))


if __name__ == "__main__":
    main()
