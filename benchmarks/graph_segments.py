"""Compare segments from a graph of listeners (Leiden) with those of k-means, at equal k, on real playlists.

Task      as in benchmarks/playlists.py, with one week of both spaces. Each seed starts both clusterings and the mixture
Leiden    Traag, Waltman, van Eck 2019, of igraph, by modularity, on the graph of each listener's NEIGHBOURS nearest
          others by cosine; two listeners are joined if either is near the other, with the cosine as weight. The
          resolution is searched until the number of segments is that of k-means, as nearly as the search allows
Segments  those of fewer than groups.min_users members are merged in both (models/cold_start/segments.py). A centroid is
          the mean of the members' vectors. `modularity` is that of the final segments on the graph
Interval  95 %, paired bootstrap over the test listeners of Leiden minus k-means; the value of a listener is the mean
          over the seeds
Question  the third of Briand et al. 2021, section 5: graph-based clustering
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import harness
from harness import Measurement, Peer, stopwatch
from playlists import N_BOOTSTRAP, SPACES, K, listener_ndcg, prepare_week

SEED, SEEDS = 7, (7, 8, 9)
NEIGHBOURS, N_SEARCH = 15, 14
METHODS = ("semi_pers", "near_segments", "segment_mixture", "segment_mixture_reranked")
KMEANS, LEIDEN = "k-means", "Leiden"


@dataclass(frozen=True)
class Segments:
    """Segments of one clustering.

    Attributes:
        labels_U: segment of each user.
        centroids_KD: mean vector of each segment.
        seconds: time of the clustering without the search of the resolution.
    """

    labels_U: np.ndarray
    centroids_KD: np.ndarray
    seconds: float


def listener_graph(x_UD: np.ndarray) -> Any:
    """Return the graph of the listeners: vertices in order, weights by cosine."""
    import igraph

    from models.cold_start.top_k import ItemIndex, normalise

    unit_UD = normalise(x_UD)
    near = ItemIndex(unit_UD, "dot").top_k(unit_UD, min(NEIGHBOURS + 1, len(unit_UD)))
    ends = np.stack([np.repeat(np.arange(len(near)), near.shape[1]), near.ravel()], axis=1)
    ends = np.unique(np.sort(ends[ends[:, 0] != ends[:, 1]], axis=1), axis=0)
    weights = np.maximum((unit_UD[ends[:, 0]] * unit_UD[ends[:, 1]]).sum(axis=1), 1e-6)
    return igraph.Graph(n=len(x_UD), edges=ends.tolist(), edge_attrs={"weight": weights.tolist()})


def leiden(graph: Any, resolution: float, seed: int) -> np.ndarray:
    """Return the community of each vertex."""
    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    clusters = graph.community_leiden("modularity", weights="weight", resolution=resolution, n_iterations=10)
    return np.array(clusters.membership, np.int32)


def merged(x_UD: np.ndarray, labels_U: np.ndarray, min_users: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and centroids after small segments were merged."""
    from models.cold_start.segments import merge_small_segments

    sums_KD = np.zeros((labels_U.max() + 1, x_UD.shape[1]))
    np.add.at(sums_KD, labels_U, x_UD)
    centroids_KD = (sums_KD / np.bincount(labels_U)[:, None]).astype(np.float32)
    return merge_small_segments(x_UD, labels_U, centroids_KD, min_users)


def leiden_segments(graph: Any, x_UD: np.ndarray, k: int, min_users: int, seed: int) -> Segments:
    """Return the segments of Leiden whose number is nearest to k, by bisection of the logarithm of the resolution."""
    low, high, tried = -2.0, 4.0, []
    for _ in range(N_SEARCH):
        middle, clock = (low + high) / 2, stopwatch()
        labels_U, centroids_KD = merged(x_UD, leiden(graph, float(np.exp(middle)), seed), min_users)
        tried.append(Segments(labels_U, centroids_KD, clock()))
        if len(centroids_KD) == k:
            break
        low, high = (middle, high) if len(centroids_KD) < k else (low, middle)
    return min(tried, key=lambda segments: abs(len(segments.centroids_KD) - k))


def kmeans_segments(x_UD: np.ndarray, settings: Any, seed: int) -> Segments:
    """Return the segments of k-means, as the job makes them."""
    from blockfactor.kmeans import kmeans
    from models.cold_start.segments import merge_small_segments

    clock, options = stopwatch(), settings.segments
    clusters = kmeans(x_UD, options.k, seed, options.max_iter, options.n_init)
    labels_U, centroids_KD = merge_small_segments(x_UD, clusters.labels, clusters.centroids, settings.groups.min_users)
    return Segments(labels_U, centroids_KD, clock())


def builders(factory: Any, warm: Any, seed: int) -> dict[str, Callable[[], Any]]:
    """Return the methods over the segments of `warm`, by name; networks that learn start from `seed`."""
    from models.cold_start.methods import SemiPers
    from models.cold_start.methods.blend import RerankedMixture
    from models.cold_start.methods.mixture import NearSegments, SegmentMixture

    inputs, config = factory.inputs, factory.inputs.in_house
    mixture = SegmentMixture(warm, config.mixture, config.smoothing, seed)
    return {
        "semi_pers": lambda: SemiPers(inputs.predict, warm.centroids_KD, warm.rankings_KL),
        "near_segments": lambda: NearSegments(inputs.predict, warm, config.smoothing, config.sharpness),
        "segment_mixture": lambda: mixture,
        "segment_mixture_reranked": lambda: RerankedMixture(
            mixture, factory.blend, config.list_length, config.mixture_weight
        ),
    }


def rows(data: str, quick: bool) -> Measurement:
    """Cluster with both algorithms and evaluate; `quality` and `samples` map "space/algorithm/seed/name" to values."""
    from jobs.cold_start.evaluate import read_cohort
    from jobs.cold_start.methods import method_factory
    from models.cold_start.segments import NO_SEGMENT, rankings

    clock = stopwatch()
    context = prepare_week(data, SEED, quick)
    settings = context.settings
    quality: dict[str, float] = {}
    samples: dict[str, np.ndarray] = {}
    for space in SPACES:
        factory = method_factory(context, space, lambda *_: None)
        warm, cohort = factory.warm, read_cohort(context, space, "test")
        has_vector = warm.user_UD.any(axis=1)
        x_UD = warm.user_UD[has_vector]
        watch = stopwatch()
        graph = listener_graph(x_UD)
        harness.log(f"  {space}: {graph.ecount()} edges, {watch():.1f} s")
        for seed in SEEDS[:1] if quick else SEEDS:
            by_kmeans = kmeans_segments(x_UD, settings, seed)
            n_segments = len(by_kmeans.centroids_KD)
            by_leiden = leiden_segments(graph, x_UD, n_segments, settings.groups.min_users, seed)
            for algorithm, segments in ((KMEANS, by_kmeans), (LEIDEN, by_leiden)):
                labels_U = np.full(len(has_vector), NO_SEGMENT, np.int32)
                labels_U[has_vector] = segments.labels_U
                k, length = len(segments.centroids_KD), warm.rankings_KL.shape[1]
                own = replace(
                    warm,
                    labels_U=labels_U,
                    centroids_KD=segments.centroids_KD,
                    rankings_KL=rankings(labels_U, warm.heard_UN, k, length),
                )
                sizes = np.bincount(segments.labels_U)
                gaps_UD = x_UD - segments.centroids_KD[segments.labels_U]
                key = f"{space}/{algorithm}/{seed}"
                quality |= {
                    f"{key}/s": segments.seconds,
                    f"{key}/segments": k,
                    f"{key}/smallest": sizes.min(),
                    f"{key}/largest": sizes.max(),
                    f"{key}/inertia": np.square(gaps_UD).sum(),
                    f"{key}/modularity": graph.modularity(segments.labels_U.tolist(), weights="weight"),
                }
                for name, build in builders(factory, own, seed).items():
                    samples[f"{key}/{name}"] = listener_ndcg(context, build(), cohort)
                    quality[f"{key}/{name}"] = float(samples[f"{key}/{name}"].mean())
                shown = {name.rpartition("/")[2]: round(v, 2) for name, v in quality.items() if name.startswith(key)}
                harness.log(f"  {key}: {shown}")
    return Measurement([clock()], quality, samples)


def case(space: str, measurement: Measurement, peak_mib: float) -> dict[str, Any]:
    """Return the case of one space: both algorithms, means over the seeds."""
    from models.evaluation.metrics import paired_bootstrap

    seeds = sorted({key.split("/")[2] for key in measurement.quality})

    def values(algorithm: str, name: str) -> np.ndarray:
        return np.mean([measurement.samples[f"{space}/{algorithm}/{seed}/{name}"] for seed in seeds], axis=0)

    peers = {}
    for algorithm in (KMEANS, LEIDEN):
        own = {
            name: [measurement.quality[f"{space}/{algorithm}/{seed}/{name}"] for seed in seeds]
            for name in ("s", "segments", "smallest", "largest", "inertia", "modularity", *METHODS)
        }
        quality = {name: statistics.fmean(value) for name, value in own.items() if name != "s"}
        for name in METHODS:
            difference = paired_bootstrap(values(algorithm, name), values(KMEANS, name), N_BOOTSTRAP)
            quality |= dict(zip((f"{name} change", f"{name} low", f"{name} high"), difference, strict=True))
        peers[algorithm] = harness.summary([(Measurement(own["s"], quality), peak_mib)], "")
    n_listeners = len(values(KMEANS, METHODS[0]))
    return {
        "case": f"segments of the space {space}, NDCG@{K} in %",
        "about": f"Means over {len(seeds)} seeds, {n_listeners} test listeners. Seconds are those of one clustering, "
        "without the search of the resolution and without the graph; MiB is that of the whole script.",
        "peers": peers,
        "ratios": harness.ratios(peers, KMEANS),
    }


def main() -> None:
    """Compare both clusterings in both spaces."""
    data_help = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    arguments = harness.parse_arguments("graph_segments", (__doc__ or "").splitlines()[0], data_help, required=True)
    measurement, peak = harness.run_in_process(
        Peer("rows", rows, {"data": str(arguments.data), "quick": arguments.quick})
    )
    cases = [case(space, measurement, peak) for space in SPACES]
    change = cases[0]["peers"][LEIDEN]["quality"]["semi_pers change"]
    harness.write_result(arguments, cases, [], ("NDCG@50 points of Leiden over k-means, semi_pers in tt_svd", change))


if __name__ == "__main__":
    main()
