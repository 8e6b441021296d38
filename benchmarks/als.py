"""Implicit ALS on Spark against Spark MLlib's ALS and the library `implicit`: seconds an iteration, loss, recall@50."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

import harness
import synthetic
from harness import Measurement, Peer, stopwatch

ALPHA = 10.0
ONE_RIDGE, BY_FREQUENCY = (20.0, 0.0), (0.2, 1.0)  # (regularisation, exponent) of the losses of the two peers
K = 50
N_EVALUATED_USERS = 4_000


def overture(data: str, held_out: str, d: int, iterations: int, ridge: tuple[float, float]) -> Measurement:
    """Measure this project on local Spark."""
    from pathlib import Path

    from blockfactor import csr_blocks
    from blockfactor.als import AlsParameters, train
    from spark_peers import CORES, entries, local, scratch

    matrix = sp.load_npz(data)
    parameters = AlsParameters(
        d=d, iterations=iterations, alpha=ALPHA, regularisation=ridge[0], frequency_exponent=ridge[1], tolerance=0
    )
    with scratch() as folder, local() as spark:
        frame = entries(spark, matrix, str(folder))
        clock = stopwatch()
        packed = csr_blocks.pack(frame, "ratings", matrix.shape, CORES, Path(folder), positive=True)
        load_s = clock()
        fit = train(spark, packed, parameters, 1)
        total_s = clock()
        users = np.vstack([fit.user_factors(block) for block in packed.blocks])
        quality = evaluate(matrix, held_out, users, np.array(fit.item_factors()), ridge)
    return Measurement(
        list(fit.iteration_s[1:]),
        {**quality, "first iteration s": fit.iteration_s[0], "load s": load_s, "load and fit s": total_s},
    )


def mllib(data: str, held_out: str, d: int, iterations: int, ridge: tuple[float, float]) -> Measurement:
    """Measure Spark MLlib's ALS; the end of each iteration is read from the status store of Spark's jobs."""
    from pyspark.ml.recommendation import ALS

    from spark_peers import CORES, entries, local, scratch

    matrix = sp.load_npz(data)
    with scratch() as folder, local(partitions=2 * CORES) as spark:
        clock = stopwatch()
        frame = entries(spark, matrix, str(folder)).repartition(2 * CORES).cache()
        frame.count()
        load_s = clock()
        als = ALS(
            rank=d,
            maxIter=iterations,
            regParam=ridge[0],
            implicitPrefs=True,
            alpha=ALPHA,
            userCol="row",
            itemCol="column",
            ratingCol="value",
            seed=1,
            numUserBlocks=2 * CORES,
            numItemBlocks=2 * CORES,
        )
        model = als.fit(frame)
        total_s = clock()
        seconds = iteration_seconds(spark, iterations)
        factors = []
        for factor_table, n in ((model.userFactors, matrix.shape[0]), (model.itemFactors, matrix.shape[1])):
            arrow_table = factor_table.toArrow()
            rows = np.zeros((n, d), np.float32)  # a user without entries has no factors
            rows[arrow_table.column("id").to_numpy()] = np.vstack(
                arrow_table.column("features").to_numpy(zero_copy_only=False)
            )
            factors.append(rows)
    quality = evaluate(matrix, held_out, factors[0], factors[1], ridge)
    return Measurement(
        seconds[1:], {**quality, "first iteration s": seconds[0], "load s": load_s, "load and fit s": total_s}
    )


def iteration_seconds(spark: Any, iterations: int) -> list[float]:
    """Return the seconds of each iteration of the only ALS.fit of this session.

    Before each half iteration, ALS adds up the Gram matrix of the current factors in a job named aggregate, which makes
    Spark compute these factors. The first such job ends with the random start, every second job after it ends with an
    iteration, and the last iteration ends with the job that counts the users' factors.

    Raises:
        RuntimeError: the number of Gram jobs is not twice the number of iterations.
    """
    store = spark.sparkContext._jsc.sc().statusStore()
    jobs = store.jobsList(None)
    by_id = sorted(
        (jobs.apply(i).jobId(), jobs.apply(i).name(), jobs.apply(i).completionTime().get().getTime() / 1000)
        for i in range(jobs.size())
    )
    grams = [n for n, (_, name, _) in enumerate(by_id) if name.startswith("aggregate")]
    if len(grams) != 2 * iterations:
        raise RuntimeError(f"MLlib's ALS ran {len(grams)} Gram jobs in {iterations} iterations; expected two in each")
    ends = [by_id[n][2] for n in grams[::2]] + [by_id[grams[-1] + 1][2]]
    return np.diff(ends).tolist()  # type: ignore[no-any-return]


def implicit(data: str, held_out: str, d: int, iterations: int, ridge: tuple[float, float]) -> Measurement:
    """Measure the single-machine library `implicit`: conjugate gradients, as many threads as Spark has cores."""
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    from spark_peers import CORES

    threadpool_limits(1, "blas")  # recommended by the library, which has its own threads

    matrix = sp.load_npz(data)
    weighted = matrix.copy()
    weighted.data = 1 + ALPHA * weighted.data  # confidence, equal to this project's 1 + alpha * affinity
    model = AlternatingLeastSquares(d, ridge[0], 1.0, iterations=iterations, num_threads=CORES, random_state=1)
    seconds: list[float] = []
    clock = stopwatch()
    model.fit(weighted, show_progress=False, callback=lambda _n, elapsed_s, *_: seconds.append(elapsed_s))
    total_s = clock()
    quality = evaluate(matrix, held_out, model.user_factors, model.item_factors, ridge)
    return Measurement(
        seconds[1:], {**quality, "first iteration s": seconds[0], "load s": 0.0, "load and fit s": total_s}
    )


def evaluate(
    matrix: sp.csr_matrix, held_out: str, users: np.ndarray, items: np.ndarray, ridge: tuple[float, float]
) -> dict[str, float]:
    """Return the loss by its definition, and recall@50 of the held-out entries of N_EVALUATED_USERS users."""
    from blockfactor import als_kernels

    ratings = als_kernels.Ratings(matrix.indptr.astype(np.int64), matrix.indices, matrix.data)
    truth = sp.load_npz(held_out)
    users_with_truth = np.flatnonzero(np.diff(truth.indptr))[:N_EVALUATED_USERS]
    recalls = []
    for user in users_with_truth:
        scores = items @ users[user]
        scores[matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]]] = -np.inf
        top_items = np.argpartition(-scores, K)[:K]
        held_out_items = truth.indices[truth.indptr[user] : truth.indptr[user + 1]]
        recalls.append(np.isin(held_out_items, top_items).mean())
    return {"loss": als_kernels.loss(ratings, users, items, ALPHA, *ridge), f"recall@{K}": float(np.mean(recalls))}


def split(matrix: sp.csr_matrix, share: float = 0.05) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return two random parts of the entries, for training and for evaluation; the second has about `share` of them."""
    coo = matrix.tocoo()
    is_held_out = np.random.default_rng(3).random(len(coo.data)) < share
    return tuple(  # type: ignore[return-value]
        sp.csr_matrix((coo.data[mask], (coo.row[mask], coo.col[mask])), shape=matrix.shape)
        for mask in (~is_held_out, is_held_out)
    )


def main() -> None:
    """Compare the peers at every rank."""
    arguments = harness.parse_arguments("als", __doc__ or "")
    size = (2_000, 1_000, 60_000) if arguments.quick else (60_000, 30_000, 2_950_000)
    ranks = (16,) if arguments.quick else (64, 128, 256)
    iterations, runs = 3, (1 if arguments.quick else 3)
    from spark_peers import scratch

    cases, promises, speed = [], [], {}
    with scratch() as folder:
        train, truth = split(synthetic.ratings(*size))
        files = {"data": f"{folder}/learn.npz", "held_out": f"{folder}/truth.npz"}
        for file, matrix in zip(files.values(), (train, truth), strict=True):
            sp.save_npz(file, matrix)
        for d in ranks:
            slow_runs = min(runs, 2 if d < 256 else 1)
            for against, run, ridge, n in (
                ("implicit", implicit, ONE_RIDGE, runs),
                ("MLlib", mllib, BY_FREQUENCY, slow_runs),
            ):
                peer_arguments = {**files, "d": d, "iterations": iterations, "ridge": ridge}
                harness.log(f"als: rank {d} against {against}")
                peers = harness.compare(
                    [Peer("overture", overture, peer_arguments, runs), Peer(against, run, peer_arguments, n)]
                )
                ridge_text = (
                    "one ridge for all" if ridge == ONE_RIDGE else "ridge proportional to the number of entries"
                )
                cases.append(
                    {
                        "case": f"rank {d}, against {against}",
                        "about": f"{train.shape[0]} users x {train.shape[1]} tracks, {train.nnz} entries, "
                        f"alpha {ALPHA:g}, {ridge_text}, lambda {ridge[0]:g}; "
                        f"loss and recall after {iterations} iterations.",
                        "timed": "s an iteration",
                        "peers": peers,
                        "ratios": harness.ratios(peers, "overture"),
                    }
                )
                ratio = speed[d, against] = peers[against]["seconds"]["median"] / peers["overture"]["seconds"]["median"]
                loss = peers["overture"]["quality"]["loss"] / peers[against]["quality"]["loss"]
                promises.append(harness.promise(f"loss over {against}'s, rank {d}", 1.0, loss, at_most=True))
                if against == "MLlib" and d in (128, 256):
                    promises.append(harness.promise(f"times MLlib's speed, rank {d}", 20 if d == 128 else 40, ratio))
                if against == "implicit":
                    promises.append(harness.promise(f"times implicit's seconds, rank {d}", 2, 1 / ratio, at_most=True))
    main_rank = 128 if 128 in ranks else ranks[0]
    headline = (f"speed-up over MLlib, an iteration at rank {main_rank}", speed[main_rank, "MLlib"])
    harness.write_result(arguments, cases, promises, headline)


if __name__ == "__main__":
    main()
