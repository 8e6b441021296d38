"""Randomised SVD on Spark against RowMatrix.computeSVD, scikit-learn and SciPy: seconds, error of sigma, angles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import harness
import made_up
from harness import Answer, Peer, stopwatch

OVERSAMPLING = 30
POWER_ITERATIONS = 3


def overture(data: str, truth: str, d: int) -> Answer:
    """This project on local Spark; packing is loading, as caching rows is for RowMatrix."""
    from jobs.factorize import blocks
    from jobs.factorize import svd as job
    from jobs.settings import SvdSettings
    from spark_peers import CORES, entries, local, scratch

    def factorise(matrix: sp.csr_matrix, name: str, d: int) -> tuple[job.Factors, float, float]:
        settings = SvdSettings(d=d, oversampling=OVERSAMPLING, power_iterations=POWER_ITERATIONS)
        frame = entries(spark, matrix, str(folder))
        clock = stopwatch()
        packed = blocks.pack(frame, name, matrix.shape, CORES, Path(folder), spread=True)
        loading = clock()
        clock = stopwatch()
        found = job.factorise(spark, packed, packed, settings, seed=1)
        return found, clock(), loading

    matrix = sp.load_npz(data)
    with scratch() as folder, local() as spark:
        factorise(*warm_up(matrix, d))
        found, seconds, loading = factorise(matrix, "pairs", d)
        quality = judge(np.array(found.u()), found.values, truth)
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


def main() -> None:
    """One symmetric PMI matrix, every peer."""
    chosen = harness.options("svd", __doc__ or "")
    n_items, n_collections, d = (1_200, 2_000, 16) if chosen.quick else (20_000, 30_000, 128)
    runs, slow = (1, 1) if chosen.quick else (3, 2)
    from spark_peers import scratch

    with scratch() as folder:
        matrix = made_up.pairs(n_items, n_collections)
        files = {"data": f"{folder}/pairs.npz", "truth": f"{folder}/truth.npz"}
        sp.save_npz(files["data"], matrix)
        s, u = exact(matrix, d)
        np.savez(files["truth"], s=s, u=u)
        arguments = {**files, "d": d}
        same = {"n_oversamples": OVERSAMPLING, "n_iter": POWER_ITERATIONS}
        peers = harness.compare([
            Peer("overture", overture, arguments, runs,
                 f"oversampling {OVERSAMPLING}, {POWER_ITERATIONS} power iterations"),
            Peer("scikit-learn, same settings", sklearn, {**arguments, "settings": same}, runs,
                 f"randomized_svd, oversampling {OVERSAMPLING}, {POWER_ITERATIONS} power iterations"),
            Peer("scikit-learn, its defaults", sklearn, {**arguments, "settings": {}}, runs, "randomized_svd"),
            Peer("SciPy svds", svds, arguments, slow, "ARPACK"),
            Peer("RowMatrix", row_matrix, arguments, slow, "computeSVD without U, ARPACK in Java"),
        ])  # fmt: skip
    ratios = harness.ratios(peers, "overture")
    names = list(peers["overture"]["quality"])
    case = {
        "case": f"{n_items} x {n_items}, rank {d}",
        "about": f"Positive PMI of {n_collections} made-up collections, symmetric, {matrix.nnz} entries; "
        "errors against ARPACK in float64. Both Spark peers factorise a corner of the matrix before the clock.",
        "peers": peers,
        "ratios": ratios,
    }
    promises = [
        harness.promise("times RowMatrix.computeSVD's speed", 20, ratios["RowMatrix"]),
        harness.promise("times the seconds of scikit-learn, same settings", 2,
                        1 / ratios["scikit-learn, same settings"], at_most=True),
        harness.promise(names[0], 0.1, peers["overture"]["quality"][names[0]], at_most=True),
    ]  # fmt: skip
    harness.finish(chosen, [case], promises, (f"speed-up over RowMatrix.computeSVD, rank {d}", ratios["RowMatrix"]))


if __name__ == "__main__":
    main()
