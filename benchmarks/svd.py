"""Measure randomised SVD on Spark against RowMatrix.computeSVD, scikit-learn and SciPy: seconds, errors, angles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

import harness
import synthetic
from harness import Measurement, Peer, stopwatch
from pairs_task import QUICK_PLAYLISTS, subset

OVERSAMPLING = 30
POWER_ITERATIONS = 3


def overture(data: str, truth: str, d: int) -> Measurement:
    """Measure this project on local Spark; packing counts as loading, as caching of rows does for RowMatrix."""
    from blockfactor import csr_blocks
    from blockfactor.svd import SvdParameters, SvdResult
    from blockfactor.svd import factorise as factorise_blocks
    from spark_peers import CORES, entries, local, scratch

    def factorise(matrix: sp.csr_matrix, name: str, d: int) -> tuple[SvdResult, float, float]:
        parameters = SvdParameters(d=d, oversampling=OVERSAMPLING, power_iterations=POWER_ITERATIONS)
        frame = entries(spark, matrix, str(folder))
        clock = stopwatch()
        packed = csr_blocks.pack(frame, name, matrix.shape, CORES, Path(folder), permute=True)
        load_s = clock()
        clock = stopwatch()
        result = factorise_blocks(spark, packed, packed, parameters, seed=1)
        return result, clock(), load_s

    matrix = sp.load_npz(data)
    with scratch() as folder, local() as spark:
        factorise(*warm_up_arguments(matrix, d))
        result, seconds, load_s = factorise(matrix, "pairs", d)
        quality = evaluate(np.array(result.left()), result.values, truth)
    return Measurement([seconds], {**quality, "load s": load_s})


def row_matrix(data: str, truth: str, d: int) -> Measurement:
    """Measure RowMatrix.computeSVD of Spark MLlib without U, with rows cached in the JVM."""
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
        load_s = clock()
        clock = stopwatch()
        result = mat.computeSVD(d, computeU=False)
        return result, clock(), load_s

    matrix = sp.load_npz(data)
    with local(partitions=2 * CORES) as spark:
        factorise(*warm_up_arguments(matrix, d))
        result, seconds, load_s = factorise(matrix, "pairs", d)
        # the matrix is symmetric: right and left vectors are equal up to sign
        quality = evaluate(result.V.toArray(), result.s.toArray(), truth)
    return Measurement([seconds], {**quality, "load s": load_s})


def warm_up_arguments(matrix: sp.csr_matrix, d: int) -> tuple[sp.csr_matrix, str, int]:
    """Return a corner of the matrix, a name and a small rank: a warm-up of the JVM and numba before the measurement."""
    n = min(400, matrix.shape[0] // 2)
    return matrix[:n, :n].tocsr(), "warm", min(8, d // 2)


def sklearn(data: str, truth: str, d: int, settings: dict[str, Any]) -> Measurement:
    """Measure scikit-learn's randomized_svd on all cores."""
    from sklearn.utils.extmath import randomized_svd

    matrix = sp.load_npz(data)
    clock = stopwatch()
    u, s, _ = randomized_svd(matrix, d, random_state=1, **settings)
    return Measurement([clock()], {**evaluate(u, s, truth), "load s": 0.0})


def svds(data: str, truth: str, d: int) -> Measurement:
    """Measure SciPy's ARPACK in float32, like the other peers."""
    from scipy.sparse.linalg import svds as arpack

    matrix = sp.load_npz(data)
    clock = stopwatch()
    u, s, _ = arpack(matrix, d, random_state=1)
    seconds = clock()
    order = np.argsort(-s)
    return Measurement([seconds], {**evaluate(u[:, order], s[order], truth), "load s": 0.0})


def evaluate(u: np.ndarray, s: np.ndarray, truth: str) -> dict[str, float]:
    """Return the largest relative errors of sigma (first half, all) and the largest angle of the leading subspaces."""
    exact = np.load(truth)
    half, quarter = len(s) // 2, len(s) // 4
    error = np.abs(s / exact["s"][: len(s)] - 1)
    # the sine, from the part outside the exact subspace; arccos would round small angles to 0
    approximate_basis = np.linalg.qr(u[:, :quarter].astype(np.float64))[0]
    exact_basis = exact["u"][:, :quarter]
    sine = np.linalg.norm(approximate_basis - exact_basis @ (exact_basis.T @ approximate_basis), 2)
    return {
        f"sigma error, first {half}, %": 100 * float(error[:half].max()),
        f"all {len(s)}, %": 100 * float(error.max()),
        f"angle, first {quarter}, degrees": float(np.degrees(np.arcsin(min(1.0, sine)))),
    }


def exact(matrix: sp.csr_matrix, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sigma and left vectors of a symmetric matrix in float64."""
    from scipy.sparse.linalg import eigsh

    values, vectors = eigsh(matrix.astype(np.float64), k=d + d // 8, which="LM", v0=np.ones(matrix.shape[0]))
    order = np.argsort(-np.abs(values))[:d]
    return np.abs(values[order]), vectors[:, order]


def write_playlist_pmi(data: str, home: str, out: str, playlists: int | None) -> Measurement:
    """Compute the PMI of a week of configs/mpd.yaml from the playlists; write it as a matrix to `out`."""
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
    return Measurement([clock()])


def case(matrix: sp.csr_matrix, about: str, d: int, runs: int, slow_runs: int, folder: str) -> dict[str, Any]:
    """Return the case of one symmetric matrix, with every peer."""
    files = {"data": f"{folder}/pairs.npz", "truth": f"{folder}/truth.npz"}
    sp.save_npz(files["data"], matrix)
    s, u = exact(matrix, d)
    np.savez(files["truth"], s=s, u=u)
    arguments = {**files, "d": d}
    same_settings = {"n_oversamples": OVERSAMPLING, "n_iter": POWER_ITERATIONS}
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
                {**arguments, "settings": same_settings},
                runs,
                f"randomized_svd, oversampling {OVERSAMPLING}, {POWER_ITERATIONS} power iterations",
            ),
            Peer("scikit-learn, its defaults", sklearn, {**arguments, "settings": {}}, runs, "randomized_svd"),
            Peer("SciPy svds", svds, arguments, slow_runs, "ARPACK"),
            Peer("RowMatrix", row_matrix, arguments, slow_runs, "computeSVD without U, ARPACK in Java"),
        ]
    )
    n = matrix.shape[0]
    return {
        "case": f"{about}, {n} x {n}, rank {d}",
        "about": f"Positive PMI of {about}, symmetric, {matrix.nnz} entries; errors against ARPACK in float64. Both "
        "Spark peers factorise a corner of the matrix before the measurement.",
        "peers": peers,
        "ratios": harness.ratios(peers, "overture"),
    }


def promises(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the targets of one matrix."""
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
    """Measure a synthetic matrix and, with --data, the matrix of real playlists."""
    arguments = harness.parse_arguments(
        "svd", __doc__ or "", data="folder of real playlists: also measure their PMI (configs/mpd.yaml)"
    )
    n_items, n_collections, d = (1_200, 2_000, 16) if arguments.quick else (20_000, 30_000, 128)
    runs, slow_runs = (1, 1) if arguments.quick else (3, 2)
    from spark_peers import scratch

    with scratch() as folder:
        matrix = synthetic.pairs(n_items, n_collections)
        cases = [case(matrix, f"{n_collections} made-up collections", d, runs, slow_runs, folder)]
        if arguments.data:
            n_playlists = QUICK_PLAYLISTS if arguments.quick else None
            data_arguments = {"home": f"{folder}/lake", "out": f"{folder}/real.npz", "playlists": n_playlists}
            harness.log("svd: the PMI of the playlists ...")
            harness.run_in_process(
                Peer("playlists", write_playlist_pmi, {"data": str(arguments.data), **data_arguments})
            )
            about = f"the playlists of {arguments.data.name}"
            cases.append(case(sp.load_npz(data_arguments["out"]), about, d, runs, slow_runs, folder))
    headline = f"speed-up over RowMatrix.computeSVD, rank {d}", cases[0]["ratios"]["RowMatrix"]
    harness.write_result(arguments, cases, [promise for case in cases for promise in promises(case)], headline)


if __name__ == "__main__":
    main()
