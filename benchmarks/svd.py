"""Randomised SVD on Spark against RowMatrix.computeSVD, scikit-learn and SciPy: seconds, error of sigma, angles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import harness
import made_up
from harness import Answer, Peer, stopwatch
from pairs import QUICK_PLAYLISTS, subset

OVERSAMPLING = 30
POWER_ITERATIONS = 3


def overture(data: str, truth: str, d: int) -> Answer:
    """This project on local Spark; packing is loading, as caching rows is for RowMatrix."""
    from blockfactor import csr_blocks
    from blockfactor.svd import SvdParameters, SvdResult
    from blockfactor.svd import factorise as factorise_blocks
    from spark_peers import CORES, entries, local, scratch

    def factorise(matrix: sp.csr_matrix, name: str, d: int) -> tuple[SvdResult, float, float]:
        parameters = SvdParameters(d=d, oversampling=OVERSAMPLING, power_iterations=POWER_ITERATIONS)
        frame = entries(spark, matrix, str(folder))
        clock = stopwatch()
        packed = csr_blocks.pack(frame, name, matrix.shape, CORES, Path(folder), permute=True)
        loading = clock()
        clock = stopwatch()
        found = factorise_blocks(spark, packed, packed, parameters, seed=1)
        return found, clock(), loading

    matrix = sp.load_npz(data)
    with scratch() as folder, local() as spark:
        factorise(*warm_up(matrix, d))
        found, seconds, loading = factorise(matrix, "pairs", d)
        quality = judge(np.array(found.left()), found.values, truth)
    return Answer([seconds], {**quality, "load s": loading})


def row_matrix(data: str, truth: str, d: int) -> Answer:
    """Spark MLlib's RowMatrix.computeSVD without U, rows cached in Java."""
    from pyspark.mllib.linalg import SparseVector
    from pyspark.mllib.linalg.distributed import RowMatrix

    from spark_peers import CORES, local

    def factorise(matrix: sp.csr_matrix, name: str, d: int) -> tuple[Any, float, float]:
        clock = stopwatch()
        rows = [
            (SparseVector(matrix.shape[1], matrix.indices[a:b], matrix.data[a:b].astype(float)),)
            for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
        ]
        cached = spark.createDataFrame(spark.sparkContext.parallelize(rows, 2 * CORES), [name]).cache()
        cached.count()
        mat = RowMatrix(cached)
        mat.numRows()
        loading = clock()
        clock = stopwatch()
        found = mat.computeSVD(d, computeU=False)
        return found, clock(), loading

    matrix = sp.load_npz(data)
    with local(partitions=2 * CORES) as spark:
        factorise(*warm_up(matrix, d))
        found, seconds, loading = factorise(matrix, "pairs", d)
        # the matrix is symmetric: its right vectors are its left ones up to sign
        quality = judge(found.V.toArray(), found.s.toArray(), truth)
    return Answer([seconds], {**quality, "load s": loading})


def warm_up(matrix: sp.csr_matrix, d: int) -> tuple[sp.csr_matrix, str, int]:
    """A corner of the matrix at a small rank: what a peer does before the clock, so that Java and numba are awake."""
    n = min(400, matrix.shape[0] // 2)
    return matrix[:n, :n].tocsr(), "warm", min(8, d // 2)


def sklearn(data: str, truth: str, d: int, settings: dict[str, Any]) -> Answer:
    """scikit-learn's randomized_svd on all cores."""
    from sklearn.utils.extmath import randomized_svd

    matrix = sp.load_npz(data)
    clock = stopwatch()
    u, s, _ = randomized_svd(matrix, d, random_state=1, **settings)
    return Answer([clock()], {**judge(u, s, truth), "load s": 0.0})


def svds(data: str, truth: str, d: int) -> Answer:
    """SciPy's ARPACK, float32 like the others."""
    from scipy.sparse.linalg import svds as arpack

    matrix = sp.load_npz(data)
    clock = stopwatch()
    u, s, _ = arpack(matrix, d, random_state=1)
    seconds = clock()
    order = np.argsort(-s)
    return Answer([seconds], {**judge(u[:, order], s[order], truth), "load s": 0.0})


def judge(u: np.ndarray, s: np.ndarray, truth: str) -> dict[str, float]:
    """Largest relative error of the first half of sigma, and of all; the largest angle between leading subspaces."""
    exact = np.load(truth)
    half, quarter = len(s) // 2, len(s) // 4
    error = np.abs(s / exact["s"][: len(s)] - 1)
    # the sine, from what the exact subspace misses: arccos would round small angles away
    mine = np.linalg.qr(u[:, :quarter].astype(np.float64))[0]
    theirs = exact["u"][:, :quarter]
    sine = np.linalg.norm(mine - theirs @ (theirs.T @ mine), 2)
    return {
        f"sigma error, first {half}, %": 100 * float(error[:half].max()),
        f"all {len(s)}, %": 100 * float(error.max()),
        f"angle, first {quarter}, degrees": float(np.degrees(np.arcsin(min(1.0, sine)))),
    }


def exact(matrix: sp.csr_matrix, d: int) -> tuple[np.ndarray, np.ndarray]:
    """The truth in float64: sigma and left vectors of a symmetric matrix."""
    from scipy.sparse.linalg import eigsh

    values, vectors = eigsh(matrix.astype(np.float64), k=d + d // 8, which="LM", v0=np.ones(matrix.shape[0]))
    order = np.argsort(-np.abs(values))[:d]
    return np.abs(values[order]), vectors[:, order]


def real(data: str, home: str, out: str, playlists: int | None) -> Answer:
    """The week's PMI of configs/mpd.yaml, from the playlists on: left as a matrix in `out`."""
    from jobs.ingest.mpd import adapter as mpd
    from jobs.matrix import catalog, track_pairs
    from jobs.platform.context import Context
    from jobs.platform.week import Week
    from jobs.settings.settings import load

    settings = load(Path(__file__).parents[1] / "configs" / "mpd.yaml")
    context = Context(settings, Week.parse(settings.week), Path(home))
    clock = stopwatch()
    mpd.run(context, subset(Path(data), Path(home).with_name("few"), playlists) if playlists else Path(data))
    catalog.run(context)
    track_pairs.run(context)
    week = context.week.name
    pairs = context.lake.read("track_pairs", columns=["track_idx_i", "track_idx_j", "pmi"], week=week)
    i, j, value = (pairs[name].to_numpy() for name in ("track_idx_i", "track_idx_j", "pmi"))
    n = context.lake.rows("catalog", week=week)
    half = sp.coo_matrix((value.astype(np.float32), (i, j)), shape=(n, n)).tocsr()
    sp.save_npz(out, (half + half.T).tocsr())
    context.spark.stop()
    return Answer([clock()])


def case(matrix: sp.csr_matrix, about: str, d: int, runs: int, slow: int, folder: str) -> dict[str, Any]:
    """Every peer on one symmetric matrix."""
    files = {"data": f"{folder}/pairs.npz", "truth": f"{folder}/truth.npz"}
    sp.save_npz(files["data"], matrix)
    s, u = exact(matrix, d)
    np.savez(files["truth"], s=s, u=u)
    arguments = {**files, "d": d}
    same = {"n_oversamples": OVERSAMPLING, "n_iter": POWER_ITERATIONS}
    peers = harness.compare(
        [
            Peer(
                "overture",
                overture,
                arguments,
                runs,
                f"oversampling {OVERSAMPLING}, {POWER_ITERATIONS} power iterations",
            ),
            Peer(
                "scikit-learn, same settings",
                sklearn,
                {**arguments, "settings": same},
                runs,
                f"randomized_svd, oversampling {OVERSAMPLING}, {POWER_ITERATIONS} power iterations",
            ),
            Peer("scikit-learn, its defaults", sklearn, {**arguments, "settings": {}}, runs, "randomized_svd"),
            Peer("SciPy svds", svds, arguments, slow, "ARPACK"),
            Peer("RowMatrix", row_matrix, arguments, slow, "computeSVD without U, ARPACK in Java"),
        ]
    )
    n = matrix.shape[0]
    return {
        "case": f"{about}, {n} x {n}, rank {d}",
        "about": f"Positive PMI of {about}, symmetric, {matrix.nnz} entries; errors against ARPACK in float64. Both "
        "Spark peers factorise a corner of the matrix before the clock.",
        "peers": peers,
        "ratios": harness.ratios(peers, "overture"),
    }


def promises(case: dict[str, Any]) -> list[dict[str, Any]]:
    """What this project holds itself to, on one matrix."""
    quality, ratios, of = case["peers"]["overture"]["quality"], case["ratios"], case["case"].split(",")[0]
    error = next(iter(quality))
    return [
        harness.promise(f"{of}: times RowMatrix.computeSVD's speed", 20, ratios["RowMatrix"]),
        harness.promise(
            f"{of}: times the seconds of scikit-learn, same settings",
            2,
            1 / ratios["scikit-learn, same settings"],
            at_most=True,
        ),
        harness.promise(f"{of}: {error}", 0.1, quality[error], at_most=True),
    ]


def main() -> None:
    """A made-up matrix, and with --data the one of real playlists."""
    chosen = harness.options("svd", __doc__ or "", data="also the PMI of real playlists, as configs/mpd.yaml makes it")
    n_items, n_collections, d = (1_200, 2_000, 16) if chosen.quick else (20_000, 30_000, 128)
    runs, slow = (1, 1) if chosen.quick else (3, 2)
    from spark_peers import scratch

    with scratch() as folder:
        matrix = made_up.pairs(n_items, n_collections)
        cases = [case(matrix, f"{n_collections} made-up collections", d, runs, slow, folder)]
        if chosen.data:
            few = QUICK_PLAYLISTS if chosen.quick else None
            made = {"home": f"{folder}/lake", "out": f"{folder}/real.npz", "playlists": few}
            harness.say("svd: the PMI of the playlists ...")
            harness.alone(Peer("playlists", real, {"data": str(chosen.data), **made}))
            about = f"the playlists of {chosen.data.name}"
            cases.append(case(sp.load_npz(made["out"]), about, d, runs, slow, folder))
    headline = f"speed-up over RowMatrix.computeSVD, rank {d}", cases[0]["ratios"]["RowMatrix"]
    harness.finish(chosen, cases, [promise for case in cases for promise in promises(case)], headline)


if __name__ == "__main__":
    main()
