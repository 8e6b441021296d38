"""Implicit-feedback matrix factorisation by alternating least squares (ALS) on Spark.

Problem  Each user u has affinities r_ui > 0 to some items i. Find vectors x_u and y_i of length d that minimise
             sum over all (u, i) of c_ui (p_ui - x_u . y_i)^2 + sum of ridge_u |x_u|^2 + sum of ridge_i |y_i|^2
         where p = 1 and c = 1 + alpha * r for an observed pair, and p = 0 and c = 1 for every other pair.
Method   With the item vectors fixed, the loss is quadratic in each user's vector, and the reverse. An iteration takes a
         few conjugate gradient steps for all users, then for all items, each from the previous solution. The
         unobserved pairs enter through the Gram matrix of the fixed side, so an iteration costs one pass over the
         observed entries per step.
Source   Hu, Koren, Volinsky 2008, Collaborative Filtering for Implicit Feedback Datasets, ICDM; conjugate gradients
         after Takacs, Pilaszy, Tikk 2011, RecSys. `als_kernels.py` contains the formulas and lists the differences.

Distribution: the ratings are packed into blocks of users (`csr_blocks.py`), and one Spark job runs the workers
(`worker_pool.py`). In an iteration
    solve_users           each block updates its users against the shared item factors, stores them in its own file, and
                          writes the sum (N, d) from which the item side starts; it returns its Gram matrix (d, d)
    start_item_residuals  each range of items adds up the sums of all blocks
    multiply_ratings      each block passes over its rows once more and writes the next sum
    step_items            each range of items takes one conjugate gradient step; repeats with `multiply_ratings`
User factors stay in the file of their block, and the driver receives Gram matrices and losses only. A call reads files
of earlier steps and writes files of its own, so a repeated call gives the same result. Sums are float32 in the order of
the blocks: another number of blocks changes the loss by less than 1e-4 (relative) and cosines of vectors by less than
1e-3.

The item factors start from the main directions of the matrix and a seed, or from given factors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from blockfactor import als_kernels, csr_blocks
from blockfactor.arrays import DoubleMatrix, FloatMatrix, LongVector
from blockfactor.csr_blocks import Block, BlockMatrix
from blockfactor.errors import ConvergenceError, InvalidParameterError
from blockfactor.worker_pool import WorkerPool, worker_pool

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MAX_LOSS_INCREASE = 1e-3  # relative to the loss; rounding errors are smaller


@dataclass(frozen=True)
class AlsParameters:
    """Parameters of `train`, validated on construction.

    Attributes:
        d: Number of factors, the length of each vector.
        iterations: Maximum number of iterations.
        cg_steps: Conjugate gradient steps per side and iteration.
        alpha: Weight of an affinity; confidence is 1 + alpha * affinity.
        regularisation: Ridge of each user and item.
        frequency_exponent: Multiplies the ridge by (number of entries)^exponent, from 0 (equal for all) to 1.
        tolerance: Training stops when the loss falls by a smaller share.

    Raises:
        InvalidParameterError: A value is out of range.
    """

    d: int = 256
    iterations: int = 15
    cg_steps: int = 3
    alpha: float = 10.0
    regularisation: float = 20.0
    frequency_exponent: float = 0.0
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("d", "iterations", "cg_steps"):
            if getattr(self, name) < 1:
                raise InvalidParameterError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("alpha", "regularisation"):
            if not 0 < getattr(self, name) < np.inf:
                raise InvalidParameterError(f"{name}: must be finite and above 0, got {getattr(self, name)}")
        if not 0 <= self.frequency_exponent <= 1:
            raise InvalidParameterError(f"frequency_exponent: must be from 0 to 1, got {self.frequency_exponent}")
        if not self.tolerance >= 0:
            raise InvalidParameterError(f"tolerance: must be at least 0, got {self.tolerance}")


@dataclass(frozen=True)
class TrainingPlan:
    """The parameters and file names that every call receives.

    Attributes:
        ratings: Users by items.
        parameters: Parameters of the run.
        iteration: Number of the current iteration, from 1; 0 before the first.
        n_item_steps: Conjugate gradient steps of the items so far, over all iterations.
    """

    ratings: BlockMatrix
    parameters: AlsParameters
    iteration: int = 0
    n_item_steps: int = 0

    def file(self, name: str) -> str:
        """Return the path of a file in the folder of the ratings."""
        return f"{self.ratings.folder}/{name}.npy"

    def user_file(self, block: Block, iteration: int) -> str:
        """Return the path of a block's user factors after an iteration; iterations alternate between two files."""
        return self.file(f"x-{block.index:05d}-{iteration % 2}")

    def item_file(self, name: str, ahead: int = 0) -> str:
        """Return the path of the items' factors (y), residuals (r) or directions (p).

        Steps alternate between two files, so that no call reads a file that it writes.

        Args:
            name: y, r or p.
            ahead: 0 for the current step, 1 for the next.
        """
        return self.file(f"{name}{(self.n_item_steps + ahead) % 2}")

    def sum_file(self, block: Block) -> str:
        """Return the path of the sum (N, d) that a block writes for the items."""
        return self.file(f"sum-{block.index:05d}")


@dataclass(frozen=True)
class AlsResult:
    """Result of `train`. The factors are read from the folder of the ratings, which must still exist.

    Attributes:
        plan: Plan at the end of training.
        losses: Total loss after each iteration.
        iteration_s: Duration of each iteration in seconds.
    """

    plan: TrainingPlan
    losses: tuple[float, ...]
    iteration_s: tuple[float, ...]

    def item_factors(self) -> FloatMatrix:
        """Return the item factors (N, d), memory-mapped."""
        return csr_blocks.load_array(self.plan.item_file("y"))

    def user_factors(self, block: Block) -> FloatMatrix:
        """Return the user factors (rows of the block, d), memory-mapped; users without entries have zeros."""
        return csr_blocks.load_array(self.plan.user_file(block, self.plan.iteration))


def train(
    spark: SparkSession,
    ratings: BlockMatrix,
    parameters: AlsParameters,
    start: FloatMatrix | int,
    on_iteration: Callable[[int, float, float], None] = lambda iteration, loss, duration_s: None,
) -> AlsResult:
    """Train user and item factors on packed ratings.

    Stops early when the loss falls by less than `parameters.tolerance` of its value.

    Args:
        spark: A session whose executors can read and write the folder of `ratings`.
        ratings: Users by items, packed with `positive=True`.
        parameters: Sizes and weights.
        start: Initial item factors (N, d), or the seed of a start from the main directions of the matrix.
        on_iteration: Called after each iteration with its number from 1, the total loss, and its duration in seconds.

    Raises:
        InvalidParameterError: `d` is larger than the number of users or items.
        ConvergenceError: The loss is not finite, or increased.
        WorkerPoolError: Spark lost all workers.
    """
    smaller = min(ratings.n_rows, ratings.n_columns)
    if parameters.d > smaller:
        raise InvalidParameterError(
            f"d: {parameters.d} factors of a matrix of {ratings.n_rows} users by {ratings.n_columns} items; "
            f"allowed are 1 to {smaller}"
        )
    plan = TrainingPlan(ratings, parameters)
    n_items = ratings.n_columns
    for name in ("y0", "y1", "p0", "p1", "r0", "r1"):
        csr_blocks.create_matrix_file(plan.file(name), n_items, parameters.d)
    for block in ratings.blocks:
        csr_blocks.create_matrix_file(plan.sum_file(block), n_items, parameters.d)
    item_ranges = csr_blocks.row_ranges(n_items, len(ratings.blocks))
    losses: list[float] = []
    iteration_s: list[float] = []
    with worker_pool(spark, len(ratings.blocks)) as workers:
        n_entries = sum(workers.map(partial(count_item_entries, plan), ratings.blocks), np.zeros(n_items, np.int64))
        ridge_N = als_kernels.ridges(n_entries, parameters.regularisation, parameters.frequency_exponent)
        csr_blocks.save_array(plan.file("ridge"), ridge_N)
        if isinstance(start, int):
            gram, penalty = _start_from_main_directions(workers, plan, item_ranges, start)
        else:
            csr_blocks.write_rows(plan.item_file("y"), 0, start)
            gram, penalty = als_kernels.gram(start), als_kernels.ridge_penalty(start, ridge_N)
        for iteration in range(1, parameters.iterations + 1):
            started = time.perf_counter()
            plan = replace(plan, iteration=iteration)
            csr_blocks.save_array(plan.file("gram-y"), gram.astype(np.float32))
            user_results = workers.map(partial(solve_users, plan), ratings.blocks)
            loss = sum(part for part, _ in user_results) + penalty
            csr_blocks.save_array(plan.file("gram-x"), _sum(part for _, part in user_results).astype(np.float32))
            workers.map(partial(start_item_residuals, plan), item_ranges)
            for _ in range(parameters.cg_steps):
                workers.map(partial(multiply_ratings, plan), ratings.blocks)
                item_results = workers.map(partial(step_items, plan), item_ranges)
                loss -= sum(decrease for decrease, _, _ in item_results)
                plan = replace(plan, n_item_steps=plan.n_item_steps + 1)
            gram, penalty = _sum(part for _, part, _ in item_results), sum(part for _, _, part in item_results)
            losses.append(loss)
            iteration_s.append(time.perf_counter() - started)
            on_iteration(iteration, loss, iteration_s[-1])
            if not np.isfinite(loss):
                raise ConvergenceError(f"the loss of iteration {iteration} is {loss}; check the affinities and alpha")
            decrease = losses[-2] - loss if iteration > 1 else np.inf
            if decrease < -MAX_LOSS_INCREASE * abs(loss):
                raise ConvergenceError(
                    f"the loss increased from {losses[-2]:.6g} to {loss:.6g} in iteration {iteration}"
                )
            if iteration > 1 and decrease < parameters.tolerance * abs(losses[-2]):
                break
    return AlsResult(plan, tuple(losses), tuple(iteration_s))


def _start_from_main_directions(
    workers: WorkerPool, plan: TrainingPlan, item_ranges: list[tuple[int, int]], seed: int
) -> tuple[DoubleMatrix, float]:
    """Write item factors from the main directions of the matrix; returns their Gram matrix and ridge penalty."""
    n_items = plan.ratings.n_columns
    csr_blocks.save_array(plan.file("noise"), als_kernels.noise(n_items, plan.parameters.d, seed))
    workers.map(partial(project_noise, plan), plan.ratings.blocks)
    whitening = als_kernels.whitening(_sum(workers.map(partial(gram_of_sums, plan), item_ranges)), n_items)
    results = workers.map(partial(write_item_start, plan, whitening), item_ranges)
    return _sum(part for part, _ in results), sum(part for _, part in results)


def _sum(parts: Iterable[DoubleMatrix]) -> DoubleMatrix:
    total: DoubleMatrix = np.sum(list(parts), axis=0)
    return total


# -- calls: each receives the plan and a block of users or a range of items; arrays are exchanged in files -------------


def count_item_entries(plan: TrainingPlan, block: Block) -> LongVector:
    """Return the number of users of a block that have each item, shape (N,)."""
    return np.bincount(plan.ratings.csr(block)[1], minlength=plan.ratings.n_columns)


def project_noise(plan: TrainingPlan, block: Block) -> None:
    """Write a block's part of the items' start."""
    offsets, items, _ = plan.ratings.csr(block)
    noise = csr_blocks.load_array(plan.file("noise"))
    out = np.zeros(noise.shape, np.float32)
    als_kernels.project(offsets, items, noise, out)
    csr_blocks.write_rows(plan.sum_file(block), 0, out)


def gram_of_sums(plan: TrainingPlan, item_range: tuple[int, int]) -> DoubleMatrix:
    """Return the Gram matrix (d, d) of the blocks' sums for a range of items."""
    return als_kernels.gram(_sum_of_blocks(plan, *item_range))


def write_item_start(
    plan: TrainingPlan, whitening: FloatMatrix, item_range: tuple[int, int]
) -> tuple[DoubleMatrix, float]:
    """Write the start of a range of items; returns its Gram matrix and ridge penalty."""
    start, stop = item_range
    y = _sum_of_blocks(plan, start, stop) @ whitening
    csr_blocks.write_rows(plan.item_file("y"), start, y)
    return als_kernels.gram(y), als_kernels.ridge_penalty(y, csr_blocks.load_array(plan.file("ridge"))[start:stop])


def solve_users(plan: TrainingPlan, block: Block) -> tuple[float, DoubleMatrix]:
    """Update the user factors of one block; returns the block's part of the loss and its Gram matrix (d, d)."""
    parameters = plan.parameters
    offsets, items, affinities = plan.ratings.csr(block)
    if plan.iteration == 1:
        x = np.zeros((block.stop - block.start, parameters.d), np.float32)
    else:
        x = np.array(csr_blocks.load_array(plan.user_file(block, plan.iteration - 1)))
    y, gram = csr_blocks.load_array(plan.item_file("y")), csr_blocks.load_array(plan.file("gram-y"))
    ridge = als_kernels.ridges(np.diff(offsets), parameters.regularisation, parameters.frequency_exponent)
    out = np.zeros(y.shape, np.float32)
    alpha = np.float32(parameters.alpha)
    loss = als_kernels.solve_users(offsets, items, affinities, x, y, gram, ridge, alpha, parameters.cg_steps, out)
    csr_blocks.save_array(plan.user_file(block, plan.iteration), x)
    csr_blocks.write_rows(plan.sum_file(block), 0, out)
    return loss, als_kernels.gram(x)


def start_item_residuals(plan: TrainingPlan, item_range: tuple[int, int]) -> None:
    """Write the first residual of a range of items, which is also the first direction."""
    start, stop = item_range
    y = csr_blocks.load_array(plan.item_file("y"))[start:stop]
    residual = _sum_of_blocks(plan, start, stop) - _times_gram_and_ridge(plan, start, stop, y)
    for name in ("r", "p"):
        csr_blocks.write_rows(plan.item_file(name), start, residual)


def multiply_ratings(plan: TrainingPlan, block: Block) -> None:
    """Write a block's part of the product of the items' system matrix with their directions."""
    offsets, items, affinities = plan.ratings.csr(block)
    x = csr_blocks.load_array(plan.user_file(block, plan.iteration))
    p = csr_blocks.load_array(plan.item_file("p"))
    out = np.zeros(p.shape, np.float32)
    als_kernels.multiply_ratings(offsets, items, affinities, x, p, np.float32(plan.parameters.alpha), out)
    csr_blocks.write_rows(plan.sum_file(block), 0, out)


def step_items(plan: TrainingPlan, item_range: tuple[int, int]) -> tuple[float, DoubleMatrix, float]:
    """Take one conjugate gradient step for a range of items.

    Returns:
        The decrease of the loss, the new Gram matrix (d, d) of the range and its ridge penalty.
    """
    start, stop = item_range
    y, r, p = (np.array(csr_blocks.load_array(plan.item_file(name))[start:stop]) for name in ("y", "r", "p"))
    q = _sum_of_blocks(plan, start, stop) + _times_gram_and_ridge(plan, start, stop, p)
    decrease = als_kernels.step_items(y, r, p, q)
    for name, rows in (("y", y), ("r", r), ("p", p)):
        csr_blocks.write_rows(plan.item_file(name, 1), start, rows)
    ridge = csr_blocks.load_array(plan.file("ridge"))[start:stop]
    return decrease, als_kernels.gram(y), als_kernels.ridge_penalty(y, ridge)


def _times_gram_and_ridge(plan: TrainingPlan, start: int, stop: int, rows: FloatMatrix) -> FloatMatrix:
    """Return rows of a range of items times the users' Gram matrix, plus their ridge times the rows."""
    out: FloatMatrix = rows @ csr_blocks.load_array(plan.file("gram-x"))
    out += csr_blocks.load_array(plan.file("ridge"))[start:stop, None] * rows
    return out


def _sum_of_blocks(plan: TrainingPlan, start: int, stop: int) -> FloatMatrix:
    """Return the sum of all blocks' sum files for a range of items, in the order of the blocks."""
    total = np.zeros((stop - start, plan.parameters.d), np.float32)
    for block in plan.ratings.blocks:
        total += csr_blocks.load_array(plan.sum_file(block))[start:stop]
    return total
