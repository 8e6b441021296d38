"""Measure k-means into 1000 segments and their rankings against scikit-learn, faiss, Spark MLlib and SciPy."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import harness
import synthetic
from harness import Measurement, Peer

SEED = 7
RANKING = 200
FAISS = importlib.util.find_spec("faiss") is not None


@dataclass(frozen=True)
class Sizes:
    """Sizes of the three data sets.

    Attributes:
        k: number of segments.
        users: users and width of the first data set.
        many: users and width of the second data set.
        listeners: users and width of the third data set, which also has tracks.
        tracks: tracks of the third data set.
        entries: entries of the third data set.
        runs: runs of each peer.
    """

    k: int
    users: tuple[int, int]
    many: tuple[int, int]
    listeners: tuple[int, int]
    tracks: int
    entries: int
    runs: int


FULL = Sizes(1000, (70_000, 128), (1_000_000, 256), (100_000, 128), 50_000, 6_000_000, 3)
QUICK = Sizes(100, (8_000, 64), (10_000, 64), (8_000, 64), 4_000, 250_000, 1)


def vectors(ratings: sp.csr_matrix, d: int) -> np.ndarray:
    """Return user vectors (U, D) of a truncated SVD at unit length: not separated into clusters, like real users."""
    from sklearn.utils.extmath import randomized_svd

    damped = ratings.copy()
    damped.data = np.log1p(damped.data)
    u, sigma, _ = randomized_svd(damped, d, n_iter=3, random_state=0)
    x = (u * sigma).astype(np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def mixture(n: int, d: int, n_clusters: int = 3000) -> np.ndarray:
    """Return unit vectors (U, D) of overlapping clusters: heavy-tailed sizes, own spreads, a falling spectrum."""
    rng = np.random.default_rng(SEED)
    spectrum = (1 / np.sqrt(1 + np.arange(d))).astype(np.float32)
    themes = rng.standard_normal((60, d), np.float32)
    centres = (
        themes[rng.integers(60, size=n_clusters)] + 0.8 * rng.standard_normal((n_clusters, d), np.float32)
    ) * spectrum
    weight = (1.0 + np.arange(n_clusters)) ** -0.8
    cluster_of = rng.choice(n_clusters, n, p=weight / weight.sum())
    spread = rng.lognormal(-0.7, 0.5, n_clusters).astype(np.float32)
    x = np.empty((n, d), np.float32)
    for start in range(0, n, 1 << 16):
        clusters_of_part = cluster_of[start : start + (1 << 16)]
        part = centres[clusters_of_part] + spread[clusters_of_part, None] * spectrum * rng.standard_normal(
            (len(clusters_of_part), d), np.float32
        )
        x[start : start + (1 << 16)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return x


def quality(x: np.ndarray, centroids: np.ndarray) -> dict[str, float]:
    """Return inertia and smallest segment, with each user assigned to the nearest of the peer's centroids."""
    from models.cold_start.nearest_centroid import nearest_centroids

    labels = nearest_centroids(x, centroids)
    parts = range(0, len(x), 1 << 14)
    gaps = (x[s : s + (1 << 14)] - centroids[labels[s : s + (1 << 14)]] for s in parts)
    inertia = sum(float(np.vecdot(gap, gap).sum(dtype=np.float64)) for gap in gaps)
    return {"inertia": inertia, "smallest": float(np.bincount(labels, minlength=len(centroids)).min())}


def overture(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster with this project, as the jobs do."""
    from blockfactor.kmeans import kmeans

    clustering = kmeans(x, k, SEED)
    return clustering.centroids, clustering.labels


def scikit_learn(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster with KMeans at its defaults: one greedy k-means++ start, up to 300 passes."""
    from sklearn.cluster import KMeans

    model = KMeans(k, random_state=SEED).fit(x)
    return model.cluster_centers_, model.labels_


def mini_batch(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster with MiniBatchKMeans of scikit-learn at its defaults."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(k, random_state=SEED).fit(x)
    return model.cluster_centers_, model.labels_


def faiss(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster with 25 passes over at most 256 users per segment, the default; then assign all users."""
    import faiss

    clustering = faiss.Kmeans(x.shape[1], k, niter=25, seed=SEED)
    clustering.train(x)
    return clustering.centroids, clustering.assign(x)[1]


def cluster(clusterer: Callable[[np.ndarray, int], Any], file: str, k: int) -> Measurement:
    """Measure one clustering; compilation and loading happen before the measurement."""
    x = np.load(file)
    clusterer(x[: 50 * 20], 20)
    elapsed = harness.stopwatch()
    centroids, _ = clusterer(x, k)
    return Measurement([elapsed()], quality(x, centroids))


def mllib(file: str, k: int) -> Measurement:
    """Measure the fit of pyspark.ml.clustering.KMeans (k-means||, 20 passes) with its rows in memory."""
    from pyspark.ml.clustering import KMeans
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql.functions import col

    import spark_peers

    with spark_peers.local(memory="4g") as spark:
        rows = spark.read.parquet(f"{file}.parquet").repartition(2 * spark_peers.CORES)
        rows = rows.select(array_to_vector(col("x").cast("array<double>")).alias("features")).cache()
        rows.count()
        elapsed = harness.stopwatch()
        model = KMeans(k=k, seed=SEED).fit(rows)
        seconds = elapsed()
        centroids = np.array(model.clusterCenters(), np.float32)
    return Measurement([seconds], quality(np.load(file), centroids))


def scipy_rankings(labels: np.ndarray, user_tracks: sp.csr_matrix, k: int, length: int) -> np.ndarray:
    """Return rankings (K, length): a dense sparse product, argpartition, then a sort."""
    member = sp.csr_matrix((np.ones(len(labels), np.float32), (labels, np.arange(len(labels)))), (k, len(labels)))
    counts = (member @ user_tracks).toarray()
    best = np.argpartition(-counts, length - 1, axis=1)[:, :length]
    order = np.argsort(-np.take_along_axis(counts, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def rank(ranker: Callable[..., np.ndarray], tracks_file: str, labels_file: str, k: int) -> Measurement:
    """Measure rankings only; the quality is the number of entries in the lists, equal for all correct lists."""
    user_tracks, labels = sp.load_npz(tracks_file), np.load(labels_file)
    ranker(np.zeros(2, np.int32), user_tracks[:2], 1, 1)
    elapsed = harness.stopwatch()
    lists = ranker(labels, user_tracks, k, RANKING)
    return Measurement([elapsed()], {"listened in the lists": listened_in_lists(labels, user_tracks, lists)})


def listened_in_lists(labels: np.ndarray, user_tracks: sp.csr_matrix, lists: np.ndarray) -> float:
    """Return the number of entries of `user_tracks` whose track is in the list of the user's segment."""
    in_list = sp.csr_matrix(
        (np.ones(lists.size, np.float32), (np.repeat(np.arange(len(lists)), lists.shape[1]), lists.ravel())),
        (len(lists), user_tracks.shape[1]),
    )
    parts = range(0, len(labels), 5000)
    return float(sum(user_tracks[s : s + 5000].multiply(in_list[labels[s : s + 5000]]).sum() for s in parts))


def cluster_and_rank(
    clusterer: Callable[..., Any], ranker: Callable[..., np.ndarray], file: str, tracks_file: str, k: int
) -> Measurement:
    """Measure clustering and rankings together."""
    x, user_tracks = np.load(file), sp.load_npz(tracks_file)
    clusterer(x[: 50 * 20], 20)
    ranker(np.zeros(2, np.int32), user_tracks[:2], 1, 1)
    elapsed = harness.stopwatch()
    centroids, labels = clusterer(x, k)
    lists = ranker(labels.astype(np.int32, copy=False), user_tracks, k, RANKING)
    seconds = elapsed()
    return Measurement(
        [seconds], quality(x, centroids) | {"listened in the lists": listened_in_lists(labels, user_tracks, lists)}
    )


def overture_rankings(labels: np.ndarray, user_tracks: sp.csr_matrix, k: int, length: int) -> np.ndarray:
    """Return rankings (K, length) of this project; imported in the peer's process."""
    from models.cold_start.segments import rankings

    return rankings(labels, user_tracks, k, length)


def with_spaces(number: int) -> str:
    """Return a number with spaces between thousands: 1000000 as 1 000 000."""
    return f"{number:,}".replace(",", " ")


def if_faiss(peer: Peer) -> list[Peer]:
    """Return a list with the peer, or an empty list if faiss is not installed."""
    return [peer] if FAISS else []


def measure_case(name: str, about: str, peers: list[Peer]) -> dict[str, Any]:
    """Return one case."""
    harness.log(name)
    peer_results = harness.compare(peers)
    return {"case": name, "about": about, "peers": peer_results, "ratios": harness.ratios(peer_results, "overture")}


def users_case(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Return the case of the first data set, with all peers."""
    (n, d), k = sizes.users, sizes.k
    import pyarrow as pa
    import pyarrow.parquet as pq

    x = vectors(synthetic.ratings(n, max(2000, n // 4), 40 * n, SEED), d)
    file = str(folder / "users.npy")
    np.save(file, x)
    pq.write_table(pa.table({"x": pa.FixedSizeListArray.from_arrays(x.ravel(), d)}), f"{file}.parquet")
    arguments = {"file": file, "k": k}
    result = measure_case(
        f"{with_spaces(n)} users x {d}, k = {k}",
        "User vectors of a truncated SVD at unit length, until centroids and the segments of all users are computed; "
        "the inertia is that of each user at the nearest centroid.",
        [
            Peer("overture", cluster, {"clusterer": overture, **arguments}, sizes.runs),
            Peer(
                "scikit-learn", cluster, {"clusterer": scikit_learn, **arguments}, sizes.runs, "KMeans at its defaults"
            ),
            *if_faiss(Peer("faiss", cluster, {"clusterer": faiss, **arguments}, sizes.runs, "25 passes")),
            Peer("MLlib", mllib, arguments, 1, "the fit alone, rows cached, no segments of users"),
        ],
    )
    base = result["peers"]["scikit-learn"]["quality"]["inertia"]
    for peer in result["peers"].values():
        peer["quality"]["inertia / scikit-learn's"] = round(peer["quality"]["inertia"] / base, 4)
    return result


def many_case(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Return the case of the second data set, with the peers that finish in reasonable time."""
    (n, d), k, n_runs = sizes.many, sizes.k, min(2, sizes.runs)
    file = str(folder / "many.npy")
    np.save(file, mixture(n, d))
    arguments = {"file": file, "k": k}
    faiss_note = "25 passes over at most 256 users a segment, its default, then one for the segments"
    return measure_case(
        f"{with_spaces(n)} users x {d}, k = {k}",
        "A mixture of 3000 overlapping clusters on the unit sphere. scikit-learn's KMeans and MLlib are excluded: at a "
        "million users they would take many minutes.",
        [
            Peer("overture", cluster, {"clusterer": overture, **arguments}, n_runs),
            Peer(
                "MiniBatchKMeans",
                cluster,
                {"clusterer": mini_batch, **arguments},
                n_runs,
                "scikit-learn's, at its defaults",
            ),
            *if_faiss(Peer("faiss", cluster, {"clusterer": faiss, **arguments}, n_runs, faiss_note)),
        ],
    )


def listeners_cases(folder: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Return the cases of the third data set: rankings only, then clustering and rankings."""
    (n, d), k = sizes.listeners, sizes.k
    ratings = synthetic.ratings(n, sizes.tracks, sizes.entries, SEED)
    x = vectors(ratings, d)
    file, tracks_file, labels_file = (str(folder / name) for name in ("x.npy", "tracks.npz", "labels.npy"))
    np.save(file, x)
    ratings.data[:] = 1
    sp.save_npz(tracks_file, ratings, compressed=False)
    from models.cold_start.nearest_centroid import nearest_centroids

    np.save(labels_file, nearest_centroids(x, x[np.random.default_rng(SEED).choice(n, k, replace=False)]))
    size = f"{with_spaces(n)} users x {with_spaces(sizes.tracks)} tracks, k = {k}"
    rank_arguments = {"tracks_file": tracks_file, "labels_file": labels_file, "k": k}
    joint_arguments = {"file": file, "tracks_file": tracks_file, "k": k}
    overture_note, scipy_note = "ties to the more popular track", "product made dense, argpartition; ties in any order"
    return [
        measure_case(
            f"rankings, {size}",
            f"The {RANKING} most listened tracks of each segment from {with_spaces(sizes.entries)} entries.",
            [
                Peer("overture", rank, {"ranker": overture_rankings, **rank_arguments}, sizes.runs, overture_note),
                Peer("SciPy", rank, {"ranker": scipy_rankings, **rank_arguments}, sizes.runs, scipy_note),
            ],
        ),
        measure_case(
            f"clustering + rankings, {size}",
            f"Vectors of {d} values; both steps in one measurement.",
            [
                Peer(
                    "overture",
                    cluster_and_rank,
                    {"clusterer": overture, "ranker": overture_rankings, **joint_arguments},
                    sizes.runs,
                ),
                *if_faiss(
                    Peer(
                        "faiss + SciPy",
                        cluster_and_rank,
                        {"clusterer": faiss, "ranker": scipy_rankings, **joint_arguments},
                        sizes.runs,
                    )
                ),
            ],
        ),
    ]


def main() -> None:
    """Measure all cases, then check the targets."""
    arguments = harness.parse_arguments("segments", __doc__ or "")
    sizes = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        users = users_case(folder, sizes)
        cases = [users, *listeners_cases(folder, sizes), many_case(folder, sizes)]
    speed_up = users["ratios"]["scikit-learn"]
    joint = cases[2]
    harness.write_result(
        arguments,
        cases,
        [
            harness.promise(f"speed-up over scikit-learn's KMeans, {users['case']}", 1, speed_up),
            harness.promise(
                "inertia / scikit-learn's",
                1.002,
                users["peers"]["overture"]["quality"]["inertia / scikit-learn's"],
                at_most=True,
            ),
            harness.promise(
                f"{joint['case']}, seconds", 5, joint["peers"]["overture"]["seconds"]["median"], at_most=True
            ),
        ],
        (f"times as fast as scikit-learn's KMeans, {users['case']}", speed_up),
    )


if __name__ == "__main__":
    main()
