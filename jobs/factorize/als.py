"""UT-ALS: the joint space of users and tracks by implicit ALS, on any Spark cluster.

Input   user_track, warm_users, catalog     Output  track_vectors, user_vectors, partition week=<week>, space=ut_als
Grain   one row a track_idx; one row a user_idx

Ratings are packed once into blocks of users (`blocks.py`), and one Spark job holds the workers (`crew.py`). In an
iteration
    users    each block solves its users against the shared item factors, keeps them in its own file, and leaves the
             sum (N, d) that starts the item side and its Gram matrix (d, d)
    items    ranges of tracks add up what the blocks left for them, and take a conjugate gradient step
    spread   each block passes over its rows once more and leaves the next sum; `items` and `spread` alternate
so a user's factors never leave the block's file, and the driver sees Gram matrices and losses only. A call reads files
of earlier steps and writes files of its own: what a lost worker had in hand is done again and gives the same. Sums are
float32 in the order of the blocks: another number of blocks moves the loss by less than 1e-4 of itself and cosines of
vectors by less than 1e-3.

Items start from the matrix's own main directions and a seed, so weeks can be run in any order with the same result.
With `als.warm_start` they start from last week's vectors where a track has one: fewer iterations, but a week then
depends on the one before it. Track vectors are the factors as they are (their length says how popular a track is);
users are scaled to unit length, and a warm user without any affinity has a zero vector.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F

from blockfactor import als_kernels, csr_blocks
from blockfactor.csr_blocks import Block, Matrix
from blockfactor.worker_pool import Crew, crew, one_thread
from contracts.errors import BadArgument, CheckFailed, OvertureError
from jobs.platform.list_columns import to_list_column
from jobs.platform.progress import log_line
from jobs.platform.temp_dirs import temp_dir

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.platform.context import Context
    from jobs.settings.matrix import AlsSettings

SPACE = "ut_als"
ROWS_A_BATCH = 4096
GROWTH = 1e-3  # of the loss: more than rounding can do


@dataclass(frozen=True)
class Plan:
    """What every task is told: where the ratings are, and the numbers of the model."""

    ratings: Matrix
    d: int
    alpha: float
    regularisation: float
    exponent: float
    steps: int
    round: int = 0
    tick: int = 0

    def file(self, name: str) -> str:
        """A file of the run's folder."""
        return f"{self.ratings.folder}/{name}.npy"

    def users(self, block: Block, at: int) -> str:
        """The users' factors of a block after round `at`."""
        return self.file(f"x-{block.index:05d}-{at % 2}")

    def state(self, name: str, ahead: int = 0) -> str:
        """The items' y, r or p now (or one step `ahead`): two files take turns, no task reads what it writes."""
        return self.file(f"{name}{(self.tick + ahead) % 2}")

    def sums(self, block: Block) -> str:
        """What a block leaves for the items: (N, d)."""
        return self.file(f"sum-{block.index:05d}")


@dataclass(frozen=True)
class Fit:
    """Where the factors are after training, and how the loss went."""

    plan: Plan
    losses: tuple[float, ...]
    seconds: tuple[float, ...]

    def items(self) -> np.ndarray:
        """Item factors (N, d) float32, memory-mapped."""
        return csr_blocks.load(self.plan.state("y"))

    def users(self, block: Block) -> np.ndarray:
        """User factors (rows of the block, d) float32, memory-mapped."""
        return csr_blocks.load(self.plan.users(block, self.plan.round))


def train(
    spark: SparkSession,
    ratings: Matrix,
    settings: AlsSettings,
    start: np.ndarray | int,
    on_round: Callable[[int, float, float], None] = lambda number, loss, seconds: None,
) -> Fit:
    """Learn the factors from packed ratings; stops early when the loss falls by less than `tolerance` of itself.

    Args:
        spark: any session whose executors see the folder of `ratings`.
        ratings: users by tracks, affinities finite and above 0.
        settings: sizes and weights.
        start: where the items start (N, d), or the seed from which they find it themselves.
        on_round: called with the number of the iteration from 1, the whole loss after it, and its seconds.

    Raises:
        BadArgument: d is larger than the matrix.
        OvertureError: the loss is no number, or grew; or Spark lost all workers.
    """
    smaller = min(ratings.n_rows, ratings.n_columns)
    if settings.d > smaller:
        raise BadArgument(
            f"als.d: {settings.d} factors of a matrix of {ratings.n_rows} users by {ratings.n_columns} tracks; "
            f"allowed are 1 to {smaller}"
        )
    plan = Plan(
        ratings, settings.d, settings.alpha, settings.regularisation, settings.frequency_exponent, settings.cg_steps
    )
    n_items = ratings.n_columns
    for name in ("y0", "y1", "p0", "p1", "r0", "r1"):
        csr_blocks.make_rows(plan.file(name), n_items, plan.d)
    for block in ratings.blocks:
        csr_blocks.make_rows(plan.sums(block), n_items, plan.d)
    parts = csr_blocks.spans(n_items, len(ratings.blocks))
    losses: list[float] = []
    seconds: list[float] = []
    with crew(spark, len(ratings.blocks)) as workers:
        counts = sum(workers.each(partial(count_items, plan), ratings.blocks), np.zeros(n_items, np.int64))
        ridge_N = als_kernels.ridges(counts, plan.regularisation, plan.exponent)
        csr_blocks.save(plan.file("ridge"), ridge_N)
        if isinstance(start, int):
            gram, penalty = _spectral_start(workers, plan, parts, start)
        else:
            csr_blocks.write_rows(plan.state("y"), 0, start)
            gram, penalty = als_kernels.gram(start), als_kernels.penalty(start, ridge_N)
        for number in range(1, settings.iterations + 1):
            began = time.perf_counter()
            plan = replace(plan, round=number)
            csr_blocks.save(plan.file("gram-y"), gram.astype(np.float32))
            solved = workers.each(partial(solve_users, plan), ratings.blocks)
            loss = sum(part for part, _ in solved) + penalty
            csr_blocks.save(plan.file("gram-x"), _sum(part for _, part in solved).astype(np.float32))
            workers.each(partial(open_items, plan), parts)
            for _ in range(plan.steps):
                workers.each(partial(spread, plan), ratings.blocks)
                moved = workers.each(partial(step_items, plan), parts)
                loss -= sum(gain for gain, _, _ in moved)
                plan = replace(plan, tick=plan.tick + 1)
            gram, penalty = _sum(part for _, part, _ in moved), sum(part for _, _, part in moved)
            losses.append(loss)
            seconds.append(time.perf_counter() - began)
            on_round(number, loss, seconds[-1])
            if not np.isfinite(loss):
                raise OvertureError(
                    f"als: the loss of iteration {number} is {loss}; check the affinities and als.alpha"
                )
            fell = losses[-2] - loss if number > 1 else np.inf
            if fell < -GROWTH * abs(loss):
                raise OvertureError(f"als: the loss grew from {losses[-2]:.6g} to {loss:.6g} in iteration {number}")
            if number > 1 and fell < settings.tolerance * abs(losses[-2]):
                break
    return Fit(plan, tuple(losses), tuple(seconds))


def _spectral_start(workers: Crew, plan: Plan, parts: list[tuple[int, int]], seed: int) -> tuple[np.ndarray, float]:
    """Start the items at the main directions of the binary matrix; their Gram matrix and ridge penalty."""
    csr_blocks.save(plan.file("noise"), als_kernels.noise(plan.ratings.n_columns, plan.d, seed))
    workers.each(partial(project, plan), plan.ratings.blocks)
    turn = als_kernels.whiten(_sum(workers.each(partial(gram_of_sums, plan), parts)), plan.ratings.n_columns)
    found = workers.each(partial(start_items, plan, turn), parts)
    return _sum(part for part, _ in found), sum(part for _, part in found)


def _sum(parts: Iterable[np.ndarray]) -> np.ndarray:
    total: np.ndarray = np.sum(list(parts), axis=0)
    return total


# -- calls: a plan and a block or a range of tracks in, files and small answers out ------------------------------------


def count_items(plan: Plan, block: Block) -> np.ndarray:
    """How many users of a block have each item (N,)."""
    return np.bincount(plan.ratings.csr(block)[1], minlength=plan.ratings.n_columns)


def project(plan: Plan, block: Block) -> None:
    """What a block adds to the items' start."""
    offsets, items, _ = plan.ratings.csr(block)
    noise = csr_blocks.load(plan.file("noise"))
    out = np.zeros(noise.shape, np.float32)
    als_kernels.project(offsets, items, noise, out)
    csr_blocks.write_rows(plan.sums(block), 0, out)


def gram_of_sums(plan: Plan, part: tuple[int, int]) -> np.ndarray:
    """Gram matrix (d, d) of what the blocks left for a range of tracks."""
    return als_kernels.gram(_added(plan, *part))


def start_items(plan: Plan, turn: np.ndarray, part: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Write the start of a range of tracks: its Gram matrix and ridge penalty."""
    start, stop = part
    y = _added(plan, start, stop) @ turn
    csr_blocks.write_rows(plan.state("y"), start, y)
    return als_kernels.gram(y), als_kernels.penalty(y, csr_blocks.load(plan.file("ridge"))[start:stop])


def solve_users(plan: Plan, block: Block) -> tuple[float, np.ndarray]:
    """The users' side of one block: their part of the loss and their Gram matrix."""
    offsets, items, affinities = plan.ratings.csr(block)
    if plan.round == 1:
        x = np.zeros((block.stop - block.start, plan.d), np.float32)
    else:
        x = np.array(csr_blocks.load(plan.users(block, plan.round - 1)))
    y, gram = csr_blocks.load(plan.state("y")), csr_blocks.load(plan.file("gram-y"))
    ridge = als_kernels.ridges(np.diff(offsets), plan.regularisation, plan.exponent)
    out = np.zeros(y.shape, np.float32)
    loss = als_kernels.solve_users(
        offsets, items, affinities, x, y, gram, ridge, np.float32(plan.alpha), plan.steps, out
    )
    csr_blocks.save(plan.users(block, plan.round), x)
    csr_blocks.write_rows(plan.sums(block), 0, out)
    return loss, als_kernels.gram(x)


def open_items(plan: Plan, part: tuple[int, int]) -> None:
    """The first residual of a range of tracks, which is also the first direction."""
    start, stop = part
    y = csr_blocks.load(plan.state("y"))[start:stop]
    residual = _added(plan, start, stop) - _ridged(plan, start, stop, y)
    for name in ("r", "p"):
        csr_blocks.write_rows(plan.state(name), start, residual)


def spread(plan: Plan, block: Block) -> None:
    """One pass over a block's ratings for the items' direction."""
    offsets, items, affinities = plan.ratings.csr(block)
    x, p = csr_blocks.load(plan.users(block, plan.round)), csr_blocks.load(plan.state("p"))
    out = np.zeros(p.shape, np.float32)
    als_kernels.spread(offsets, items, affinities, x, p, np.float32(plan.alpha), out)
    csr_blocks.write_rows(plan.sums(block), 0, out)


def step_items(plan: Plan, part: tuple[int, int]) -> tuple[float, np.ndarray, float]:
    """One conjugate gradient step of a range of tracks: the fall of the loss, the new Gram matrix and ridge penalty."""
    start, stop = part
    y, r, p = (np.array(csr_blocks.load(plan.state(name))[start:stop]) for name in ("y", "r", "p"))
    q = _added(plan, start, stop) + _ridged(plan, start, stop, p)
    gain = als_kernels.step_items(y, r, p, q)
    for name, rows in (("y", y), ("r", r), ("p", p)):
        csr_blocks.write_rows(plan.state(name, 1), start, rows)
    return gain, als_kernels.gram(y), als_kernels.penalty(y, csr_blocks.load(plan.file("ridge"))[start:stop])


def _ridged(plan: Plan, start: int, stop: int, rows: np.ndarray) -> np.ndarray:
    """Rows of a range of tracks times the Gram matrix of the users, plus their ridge."""
    out: np.ndarray = rows @ csr_blocks.load(plan.file("gram-x"))
    out += csr_blocks.load(plan.file("ridge"))[start:stop, None] * rows
    return out


def _added(plan: Plan, start: int, stop: int) -> np.ndarray:
    """What all blocks left for a range of tracks, in the order of the blocks."""
    total = np.zeros((stop - start, plan.d), np.float32)
    for block in plan.ratings.blocks:
        total += csr_blocks.load(plan.sums(block))[start:stop]
    return total


# -- the job ----------------------------------------------------------------------------------------------------------


def user_rows(spark: SparkSession, matrix: Matrix, vectors: Callable[[Block], np.ndarray]) -> DataFrame:
    """(user_idx, vector) of every row of the matrix, made by the executors from what `vectors` finds for a block."""
    found = {block.index: block for block in matrix.blocks}

    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        one_thread()
        for batch in batches:
            for index in batch.column("id").to_pylist():
                block = found[index]
                values = vectors(block)
                for a in range(0, len(values), ROWS_A_BATCH):
                    part = values[a : a + ROWS_A_BATCH]
                    idx = pa.array(np.arange(block.start + a, block.start + a + len(part), dtype=np.int32))
                    yield pa.RecordBatch.from_arrays([idx, to_list_column(part)], ["user_idx", "vector"])

    n = len(matrix.blocks)
    return spark.range(0, n, 1, n).mapInArrow(rows, "user_idx int, vector array<float>")


def first_items(context: Context) -> np.ndarray | int:
    """Last week's vectors of the tracks (N, d) where a warm start is asked for and possible; else the week's seed."""
    lake, settings, last = context.lake, context.settings.als, context.week.previous.name
    if not settings.warm_start:
        return context.seed("als")
    if not lake.exists("track_vectors", week=last, space=SPACE):
        log_line(f"als  no warm start: track_vectors week={last} space={SPACE} is not in the lake")
        return context.seed("als")
    vectors = lake.matrix("track_vectors", week=last, space=SPACE)
    if vectors.shape[1] != settings.d:
        log_line(f"als  no warm start: week {last} has {vectors.shape[1]} factors, als.d is {settings.d}")
        return context.seed("als")
    now, before = (
        lake.read("catalog", columns=["track_idx", "track_id"], week=week).sort_by("track_idx").column("track_id")
        for week in (context.week.name, last)
    )
    found = pc.index_in(now, before).fill_null(-1).to_numpy()
    start = np.zeros((len(now), settings.d), np.float32)  # a new track is found in the first iteration
    start[found >= 0] = vectors[found[found >= 0]]
    log_line(f"als  {(found >= 0).sum()} of {len(now)} tracks start from week {last}")
    return start


def _unit_users(fit: Fit, block: Block) -> np.ndarray:
    return csr_blocks.unit_rows(fit.users(block))


def run(context: Context) -> dict[str, object]:
    """Learn the space and write both tables."""
    lake, week, settings, spark = context.lake, context.week.name, context.settings, context.spark
    shape = (lake.rows("warm_users", week=week), lake.rows("catalog", week=week))
    entries = lake.spark(spark, "user_track", week=week).select(
        F.col("user_idx").alias("row"), F.col("track_idx").alias("column"), F.col("affinity").alias("value")
    )
    with temp_dir(context, f"{SPACE}-{context.week.name}") as folder:
        ratings = csr_blocks.pack(entries, "user_track", shape, settings.spark.partitions, folder, positive=True)
        if not ratings.n_entries:
            raise CheckFailed(f"user_track: week={week} has no row; run `overture matrix user-track` first")
        total = settings.als.iterations

        def tell(number: int, loss: float, seconds: float) -> None:
            log_line(f"als {number}/{total}  loss {loss:.6g}  {seconds:.2f} s")

        start = first_items(context)
        fit = train(spark, ratings, settings.als, start, tell)
        report = {
            "rows_in": ratings.n_entries,
            "loss": list(fit.losses),
            "settings": settings.als.model_dump(),
            "seed": context.seed("als"),
            "started_from": "seed" if isinstance(start, int) else context.week.previous.name,
            "commit": context.commit,
        }
        items = np.array(fit.items())
        tracks = pa.table({"track_idx": np.arange(len(items), dtype=np.int32), "vector": to_list_column(items)})
        track_vectors = lake.write("track_vectors", tracks, report=report, week=week, space=SPACE)
        users = user_rows(spark, ratings, partial(_unit_users, fit))
        user_vectors = lake.write("user_vectors", users, report=report, week=week, space=SPACE)
    return {
        "rows": {"track_vectors": track_vectors.rows, "user_vectors": user_vectors.rows},
        "paths": {"track_vectors": track_vectors.path, "user_vectors": user_vectors.path},
        "loss": list(fit.losses),
        "iteration_s": list(fit.seconds),
        "entries": ratings.n_entries,
        "iterations": len(fit.losses),
    }
