"""k-means into 1000 segments and their rankings, against scikit-learn, faiss, Spark MLlib and a plain SciPy product."""

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
import made_up
from harness import Answer, Peer

SEED = 7
RANKING = 200
FAISS = importlib.util.find_spec("faiss") is not None


@dataclass(frozen=True)
class Sizes:
    """Of the three data sets: users and width; listeners also have tracks and entries."""

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
    """Users of a truncated SVD at unit length (U, D): a continuum, as real ones are."""
    from sklearn.utils.extmath import randomized_svd

    damped = ratings.copy()
    damped.data = np.log1p(damped.data)
    u, sigma, _ = randomized_svd(damped, d, n_iter=3, random_state=0)
    x = (u * sigma).astype(np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def mixture(n: int, d: int, n_heaps: int = 3000) -> np.ndarray:
    """Unit vectors (U, D) of overlapping heaps with heavy-tailed sizes, spreads of their own and a falling spectrum."""
    rng = np.random.default_rng(SEED)
    spectrum = (1 / np.sqrt(1 + np.arange(d))).astype(np.float32)
    themes = rng.standard_normal((60, d), np.float32)
    centres = (themes[rng.integers(60, size=n_heaps)] + 0.8 * rng.standard_normal((n_heaps, d), np.float32)) * spectrum
    share = (1.0 + np.arange(n_heaps)) ** -0.8
    heap = rng.choice(n_heaps, n, p=share / share.sum())
    spread = rng.lognormal(-0.7, 0.5, n_heaps).astype(np.float32)
    x = np.empty((n, d), np.float32)
    for start in range(0, n, 1 << 16):
        mine = heap[start : start + (1 << 16)]
        part = centres[mine] + spread[mine, None] * spectrum * rng.standard_normal((len(mine), d), np.float32)
        x[start : start + (1 << 16)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return x


def quality(x: np.ndarray, centroids: np.ndarray) -> dict[str, float]:
    """The same for every peer: each user at the nearest of the peer's centroids."""
    from models.cold_start.nearest_centroid import nearest_centroids

    labels = nearest_centroids(x, centroids)
    parts = range(0, len(x), 1 << 14)
    gaps = (x[s : s + (1 << 14)] - centroids[labels[s : s + (1 << 14)]] for s in parts)
    inertia = sum(float(np.vecdot(gap, gap).sum(dtype=np.float64)) for gap in gaps)
    return {"inertia": inertia, "smallest": float(np.bincount(labels, minlength=len(centroids)).min())}


def overture(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ours as the jobs call it."""
    from blockfactor.kmeans import kmeans

    found = kmeans(x, k, SEED)
    return found.centroids, found.labels


def scikit_learn(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Its defaults: one greedy k-means++ start, up to 300 passes."""
    from sklearn.cluster import KMeans

    found = KMeans(k, random_state=SEED).fit(x)
    return found.cluster_centers_, found.labels_


def mini_batch(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's answer to many rows, at its defaults."""
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(k, random_state=SEED).fit(x)
    return found.cluster_centers_, found.labels_


def faiss(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """25 passes over at most 256 users a segment, its default; then everybody's segment."""
    import faiss

    found = faiss.Kmeans(x.shape[1], k, niter=25, seed=SEED)
    found.train(x)
    return found.centroids, found.assign(x)[1]


def cluster(how: Callable[[np.ndarray, int], Any], file: str, k: int) -> Answer:
    """One run; what is compiled or loaded on first use is so before the clock."""
    x = np.load(file)
    how(x[: 50 * 20], 20)
    elapsed = harness.stopwatch()
    centroids, _ = how(x, k)
    return Answer([elapsed()], quality(x, centroids))


def mllib(file: str, k: int) -> Answer:
    """pyspark.ml.clustering.KMeans (k-means||, 20 passes) with its rows in memory; the fit alone."""
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
    return Answer([seconds], quality(np.load(file), centroids))


def scipy_rankings(labels: np.ndarray, user_tracks: sp.csr_matrix, k: int, length: int) -> np.ndarray:
    """The shortest way to write it: a sparse product made dense, argpartition, then in order."""
    member = sp.csr_matrix((np.ones(len(labels), np.float32), (labels, np.arange(len(labels)))), (k, len(labels)))
    counts = (member @ user_tracks).toarray()
    best = np.argpartition(-counts, length - 1, axis=1)[:, :length]
    order = np.argsort(-np.take_along_axis(counts, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def rank(how: Callable[..., np.ndarray], tracks_file: str, labels_file: str, k: int) -> Answer:
    """Rankings alone; the quality is how much listening the lists hold, which the right lists share."""
    user_tracks, labels = sp.load_npz(tracks_file), np.load(labels_file)
    how(np.zeros(2, np.int32), user_tracks[:2], 1, 1)
    elapsed = harness.stopwatch()
    lists = how(labels, user_tracks, k, RANKING)
    return Answer([elapsed()], {"listened in the lists": listened(labels, user_tracks, lists)})


def listened(labels: np.ndarray, user_tracks: sp.csr_matrix, lists: np.ndarray) -> float:
    """Entries of `user_tracks` whose track is in the list of the user's segment."""
    held = sp.csr_matrix(
        (np.ones(lists.size, np.float32), (np.repeat(np.arange(len(lists)), lists.shape[1]), lists.ravel())),
        (len(lists), user_tracks.shape[1]),
    )
    parts = range(0, len(labels), 5000)
    return float(sum(user_tracks[s : s + 5000].multiply(held[labels[s : s + 5000]]).sum() for s in parts))


def both(how: Callable[..., Any], then: Callable[..., np.ndarray], file: str, tracks_file: str, k: int) -> Answer:
    """Clustering and rankings in one go."""
    x, user_tracks = np.load(file), sp.load_npz(tracks_file)
    how(x[: 50 * 20], 20)
    then(np.zeros(2, np.int32), user_tracks[:2], 1, 1)
    elapsed = harness.stopwatch()
    centroids, labels = how(x, k)
    lists = then(labels.astype(np.int32, copy=False), user_tracks, k, RANKING)
    seconds = elapsed()
    return Answer([seconds], quality(x, centroids) | {"listened in the lists": listened(labels, user_tracks, lists)})


def ours_rankings(labels: np.ndarray, user_tracks: sp.csr_matrix, k: int, length: int) -> np.ndarray:
    """Ours; imported in the peer's process."""
    from models.cold_start.segments import rankings

    return rankings(labels, user_tracks, k, length)


def spaced(number: int) -> str:
    """1000000 as 1 000 000."""
    return f"{number:,}".replace(",", " ")


def with_faiss(peer: Peer) -> list[Peer]:
    """Nothing where faiss is not installed."""
    return [peer] if FAISS else []


def case(name: str, about: str, peers: list[Peer]) -> dict[str, Any]:
    """Measure one case."""
    harness.say(name)
    found = harness.compare(peers)
    return {"case": name, "about": about, "peers": found, "ratios": harness.ratios(found, "overture")}


def users_case(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """All peers on the smaller one."""
    (n, d), k = sizes.users, sizes.k
    import pyarrow as pa
    import pyarrow.parquet as pq

    x = vectors(made_up.ratings(n, max(2000, n // 4), 40 * n, SEED), d)
    file = str(folder / "users.npy")
    np.save(file, x)
    pq.write_table(pa.table({"x": pa.FixedSizeListArray.from_arrays(x.ravel(), d)}), f"{file}.parquet")
    same = {"file": file, "k": k}
    found = case(
        f"{spaced(n)} users x {d}, k = {k}",
        "User vectors of a truncated SVD at unit length, until centroids and everybody's segment are there; the "
        "inertia is that of each user at the nearest centroid.",
        [
            Peer("overture", cluster, {"how": overture, **same}, sizes.runs),
            Peer("scikit-learn", cluster, {"how": scikit_learn, **same}, sizes.runs, "KMeans at its defaults"),
            *with_faiss(Peer("faiss", cluster, {"how": faiss, **same}, sizes.runs, "25 passes")),
            Peer("MLlib", mllib, same, 1, "the fit alone, rows cached, no segments of users"),
        ],
    )
    base = found["peers"]["scikit-learn"]["quality"]["inertia"]
    for peer in found["peers"].values():
        peer["quality"]["inertia / scikit-learn's"] = round(peer["quality"]["inertia"] / base, 4)
    return found


def many_case(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """The larger one, for those that end soon enough."""
    (n, d), k, few = sizes.many, sizes.k, min(2, sizes.runs)
    file = str(folder / "many.npy")
    np.save(file, mixture(n, d))
    same = {"file": file, "k": k}
    few_users = "25 passes over at most 256 users a segment, its default, then one for the segments"
    return case(
        f"{spaced(n)} users x {d}, k = {k}",
        "A mixture of 3000 overlapping heaps on the unit sphere. scikit-learn's KMeans and MLlib are left out: at a "
        "million users they would take many minutes.",
        [
            Peer("overture", cluster, {"how": overture, **same}, few),
            Peer("MiniBatchKMeans", cluster, {"how": mini_batch, **same}, few, "scikit-learn's, at its defaults"),
            *with_faiss(Peer("faiss", cluster, {"how": faiss, **same}, few, few_users)),
        ],
    )


def listeners_cases(folder: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Rankings alone, then with the clustering before them."""
    (n, d), k = sizes.listeners, sizes.k
    ratings = made_up.ratings(n, sizes.tracks, sizes.entries, SEED)
    x = vectors(ratings, d)
    file, tracks_file, labels_file = (str(folder / name) for name in ("x.npy", "tracks.npz", "labels.npy"))
    np.save(file, x)
    ratings.data[:] = 1
    sp.save_npz(tracks_file, ratings, compressed=False)
    from models.cold_start.nearest_centroid import nearest_centroids

    np.save(labels_file, nearest_centroids(x, x[np.random.default_rng(SEED).choice(n, k, replace=False)]))
    size = f"{spaced(n)} users x {spaced(sizes.tracks)} tracks, k = {k}"
    alone = {"tracks_file": tracks_file, "labels_file": labels_file, "k": k}
    joined = {"file": file, "tracks_file": tracks_file, "k": k}
    by_index, as_they_may = "ties to the more popular track", "product made dense, argpartition; ties as they fall"
    return [
        case(
            f"rankings, {size}",
            f"The {RANKING} most listened tracks of each segment from {spaced(sizes.entries)} entries.",
            [
                Peer("overture", rank, {"how": ours_rankings, **alone}, sizes.runs, by_index),
                Peer("SciPy", rank, {"how": scipy_rankings, **alone}, sizes.runs, as_they_may),
            ],
        ),
        case(
            f"clustering + rankings, {size}",
            f"Vectors of {d}; both steps under one clock.",
            [
                Peer("overture", both, {"how": overture, "then": ours_rankings, **joined}, sizes.runs),
                *with_faiss(Peer("faiss + SciPy", both, {"how": faiss, "then": scipy_rankings, **joined}, sizes.runs)),
            ],
        ),
    ]


def main() -> None:
    """All cases, then the promises."""
    chosen = harness.options("segments", __doc__ or "")
    sizes = QUICK if chosen.quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        users = users_case(folder, sizes)
        cases = [users, *listeners_cases(folder, sizes), many_case(folder, sizes)]
    speed_up = users["ratios"]["scikit-learn"]
    whole = cases[2]
    harness.finish(
        chosen,
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
                f"{whole['case']}, seconds", 5, whole["peers"]["overture"]["seconds"]["median"], at_most=True
            ),
        ],
        (f"times as fast as scikit-learn's KMeans, {users['case']}", speed_up),
    )


if __name__ == "__main__":
    main()
