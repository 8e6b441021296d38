"""Implicit ALS on Spark against Spark MLlib's ALS and the library `implicit`: seconds an iteration, loss, recall@50."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

import harness
import made_up
from harness import Answer, Peer, stopwatch

ALPHA = 10.0
ONE_RIDGE, BY_FREQUENCY = (20.0, 0.0), (0.2, 1.0)  # (regularisation, exponent): the two losses the peers minimise
K = 50
JUDGED = 4_000


def overture(data: str, held_out: str, d: int, iterations: int, ridge: tuple[float, float]) -> Answer:
    """This project on local Spark."""
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
        loading = clock()
        fit = train(spark, packed, parameters, 1)
        whole = clock()
        users = np.vstack([fit.user_factors(block) for block in packed.blocks])
        quality = judge(matrix, held_out, users, np.array(fit.item_factors()), ridge)
    return Answer(
        list(fit.iteration_s[1:]),
        {**quality, "first iteration s": fit.iteration_s[0], "load s": loading, "load and fit s": whole},
    )


def mllib(data: str, held_out: str, d: int, iterations: int, ridge: tuple[float, float]) -> Answer:
    """Spark MLlib's ALS; where an iteration ends is read from Spark's own record of its jobs."""
    from pyspark.ml.recommendation import ALS

    from spark_peers import CORES, entries, local, scratch

    matrix = sp.load_npz(data)
    with scratch() as folder, local(partitions=2 * CORES) as spark:
        clock = stopwatch()
        frame = entries(spark, matrix, str(folder)).repartition(2 * CORES).cache()
        frame.count()
        loading = clock()
        learner = ALS(
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
        model = learner.fit(frame)
        whole = clock()
        seconds = iteration_seconds(spark, iterations)
        factors = []
        for found, n in ((model.userFactors, matrix.shape[0]), (model.itemFactors, matrix.shape[1])):
            table = found.toArrow()
            rows = np.zeros((n, d), np.float32)  # who has no entry has no factors
            rows[table.column("id").to_numpy()] = np.vstack(table.column("features").to_numpy(zero_copy_only=False))
            factors.append(rows)
    quality = judge(matrix, held_out, factors[0], factors[1], ridge)
    return Answer(seconds[1:], {**quality, "first iteration s": seconds[0], "load s": loading, "load and fit s": whole})


def iteration_seconds(spark: Any, iterations: int) -> list[float]:
    """Seconds of each iteration of the one ALS.fit of this session.

    Before each half iteration ALS adds up the Gram matrix of the factors it has (a job named aggregate), which makes
    Spark compute them: the first such job ends with the random start, every second one after it with an iteration,
    and the last iteration with the job that counts the users' factors.
    """
    store = spark.sparkContext._jsc.sc().statusStore()
    jobs = store.jobsList(None)
    found = sorted(
        (jobs.apply(i).jobId(), jobs.apply(i).name(), jobs.apply(i).completionTime().get().getTime() / 1000)
        for i in range(jobs.size())
    )
    grams = [n for n, (_, name, _) in enumerate(found) if name.startswith("aggregate")]
    if len(grams) != 2 * iterations:
        raise RuntimeError(f"MLlib's ALS ran {len(grams)} Gram jobs in {iterations} iterations; expected two in each")
    ends = [found[n][2] for n in grams[::2]] + [found[grams[-1] + 1][2]]
    return np.diff(ends).tolist()  # type: ignore[no-any-return]


def implicit(data: str, held_out: str, d: int, iterations: int, ridge: tuple[float, float]) -> Answer:
    """The single-machine library, conjugate gradients, as many threads as Spark has cores."""
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    from spark_peers import CORES

    threadpool_limits(1, "blas")  # the library asks for it: its own threads share the work

    matrix = sp.load_npz(data)
    weighted = matrix.copy()
    weighted.data = 1 + ALPHA * weighted.data  # the library's confidence; ours is 1 + alpha * affinity
    learner = AlternatingLeastSquares(d, ridge[0], 1.0, iterations=iterations, num_threads=CORES, random_state=1)
    seconds: list[float] = []
    clock = stopwatch()
    learner.fit(weighted, show_progress=False, callback=lambda _n, took, *_: seconds.append(took))
    whole = clock()
    quality = judge(matrix, held_out, learner.user_factors, learner.item_factors, ridge)
    return Answer(seconds[1:], {**quality, "first iteration s": seconds[0], "load s": 0.0, "load and fit s": whole})


def judge(
    matrix: sp.csr_matrix, held_out: str, users: np.ndarray, items: np.ndarray, ridge: tuple[float, float]
) -> dict[str, float]:
    """Loss by definition, and recall@50 of the entries held out for some users."""
    from blockfactor import als_kernels

    ratings = als_kernels.Ratings(matrix.indptr.astype(np.int64), matrix.indices, matrix.data)
    truth = sp.load_npz(held_out)
    some = np.flatnonzero(np.diff(truth.indptr))[:JUDGED]
    found = []
    for user in some:
        scores = items @ users[user]
        scores[matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]]] = -np.inf
        best = np.argpartition(-scores, K)[:K]
        right = truth.indices[truth.indptr[user] : truth.indptr[user + 1]]
        found.append(np.isin(right, best).mean())
    return {"loss": als_kernels.loss(ratings, users, items, ALPHA, *ridge), f"recall@{K}": float(np.mean(found))}


def split(matrix: sp.csr_matrix, share: float = 0.05) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Learn from one, judge by the other."""
    coo = matrix.tocoo()
    out = np.random.default_rng(3).random(len(coo.data)) < share
    return tuple(  # type: ignore[return-value]
        sp.csr_matrix((coo.data[kept], (coo.row[kept], coo.col[kept])), shape=matrix.shape) for kept in (~out, out)
    )


def main() -> None:
    """Every rank, every peer."""
    chosen = harness.options("als", __doc__ or "")
    size = (2_000, 1_000, 60_000) if chosen.quick else (60_000, 30_000, 2_950_000)
    ranks = (16,) if chosen.quick else (64, 128, 256)
    iterations, runs = 3, (1 if chosen.quick else 3)
    from spark_peers import scratch

    cases, promises, speed = [], [], {}
    with scratch() as folder:
        learn, truth = split(made_up.ratings(*size))
        files = {"data": f"{folder}/learn.npz", "held_out": f"{folder}/truth.npz"}
        for file, matrix in zip(files.values(), (learn, truth), strict=True):
            sp.save_npz(file, matrix)
        for d in ranks:
            slow = min(runs, 2 if d < 256 else 1)
            for against, run, ridge, n in (
                ("implicit", implicit, ONE_RIDGE, runs),
                ("MLlib", mllib, BY_FREQUENCY, slow),
            ):
                arguments = {**files, "d": d, "iterations": iterations, "ridge": ridge}
                harness.say(f"als: rank {d} against {against}")
                peers = harness.compare([Peer("overture", overture, arguments, runs), Peer(against, run, arguments, n)])
                grows = "one ridge for all" if ridge == ONE_RIDGE else "ridge proportional to the number of entries"
                cases.append(
                    {
                        "case": f"rank {d}, against {against}",
                        "about": f"{learn.shape[0]} users x {learn.shape[1]} tracks, {learn.nnz} entries, "
                        f"alpha {ALPHA:g}, {grows}, lambda {ridge[0]:g}; "
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
    harness.finish(chosen, cases, promises, headline)


if __name__ == "__main__":
    main()
