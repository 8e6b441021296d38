"""Train the network from first-day inputs to the vectors of warm users, and export it.

Input   features (train, validation, test), user_vectors, warm_users
Output  work/<week>/<space>/: network.onnx and PyTorch's predictions for the cohort (jobs/cold_start/onnx_export.py);
        with gate.method blend or ranked_candidates also the blend (jobs/cold_start/blend_artifacts.py), and with
        ranked_candidates the ranker (jobs/cold_start/ranker_artifacts.py)
Source  paper 3.2.3; recipes in models/cold_start/network.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

from contracts.errors import CheckFailed
from jobs.cold_start import blend_artifacts, ranker_artifacts
from jobs.cold_start.methods import log_learning, method_factory
from jobs.cold_start.onnx_export import to_onnx, write_network
from jobs.cold_start.training_data import first_days, load
from jobs.platform import figures
from jobs.platform.context import Context
from jobs.settings.base import Space
from jobs.tracking.tracker import Tracker
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.ranked_candidates import RankedCandidates
from models.cold_start.methods.registry import MethodFactory
from models.cold_start.network import NetworkRecipe, fit, predict


def run(context: Context, space: Space) -> dict[str, Any]:
    """Train, export and store; return the report for Airflow."""
    settings = context.settings.network
    with Tracker.task(context, "train", space) as run:
        x, y = training_set(context, space)
        rng = np.random.default_rng(context.seed(f"holdout/{space}"))
        is_holdout = rng.random(len(x)) < settings.holdout_share
        validation = (x[is_holdout], y[is_holdout]) if is_holdout.sum() > 1 else None
        curves: list[dict[str, float]] = []

        def on_epoch(epoch: int, loss: float, held_out: float | None) -> None:
            curves.append({"train_loss": loss} | ({} if held_out is None else {"held_out_loss": held_out}))

        recipe = NetworkRecipe(**settings.model_dump(exclude={"holdout_share"}))
        seed = context.seed(f"network/{space}")
        net = fit(x[~is_holdout], y[~is_holdout], recipe, seed, on_epoch=on_epoch, validation=validation)
        cohort = [load(context, space, split) for split in ("validation", "test")]
        ids, inputs = (np.concatenate(parts) for parts in zip(*cohort, strict=True))
        onnx = to_onnx(net)
        facts = {
            "recipe": settings.model_dump(mode="json"),
            "seed": seed,
            "users": int((~is_holdout).sum()),
            **curves[-1],
        }
        folder = write_network(context, space, onnx, ids, predict(net, inputs), facts)
        run.log_params({**settings.model_dump(), "users": int((~is_holdout).sum()), "inputs": x.shape[1]})
        run.log_batch((name, value, epoch) for epoch, row in enumerate(curves) for name, value in row.items())
        run.log_dataset("features", week=context.week.name, space=space, split="train")
        run.log_figure(figures.loss_curve(curves), "loss_curve.png")
        run.log_onnx(onnx, f"{space}_network")
        if context.settings.gate.blended(space):
            train_blend(context, space, run)
        return {"rows": len(x), "path": str(folder), **curves[-1], **run.links}


def train_blend(context: Context, space: Space, run: Tracker) -> None:
    """Train and store the blend, and the ranker over it if gate.method names it."""
    losses: list[tuple[str, float, int]] = []
    factory = method_factory(context, space, lambda name, epoch, loss: losses.append((f"{name}.loss", loss, epoch)))
    blend = factory.blend
    user_ids, _ = load(context, space, "validation")
    facts = {"seed": factory.inputs.seed, "loss": losses[-1][1], "epochs": len(losses)}
    days = first_days(context, "validation", user_ids)
    run.log_onnx(
        blend_artifacts.write_blend(context, space, blend, factory.autoencoder, user_ids, days, facts), f"{space}_blend"
    )
    if context.settings.gate.ranked(space):
        train_ranker(context, space, run, factory, days)
    log_learning(run, losses, factory.inputs.seed)


def train_ranker(context: Context, space: Space, run: Tracker, factory: MethodFactory, days: FirstDays) -> None:
    """Store a ranker over the week's first stage: one of an earlier week that is kept, else a new one."""
    kept = ranker_artifacts.kept_ranker(context, space)
    ranker, trained_in = kept or (factory.ranker, context.week.name)
    method = RankedCandidates(factory.candidate_stage, ranker.relevance)
    facts = {"recipe": ranker_artifacts.recipe(context.settings), "seed": factory.inputs.seed, "trained_in": trained_in}
    trees = ranker_artifacts.write_ranker(context, space, method, ranker, days, facts)
    run.log_metrics({f"ranker.gain.{name}": gain for name, gain in ranker.gains().items()})
    run.log_params({"ranker_trained_in": trained_in})
    run.log_onnx(trees, f"{space}_ranker")


def training_set(context: Context, space: Space) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of warm users who have both, paired by user id, never by position."""
    week = context.week.name
    ids, x = load(context, space, "train")
    warm = context.lake.read("warm_users", week=week)
    index_of = dict(zip(warm.column("user_id").to_pylist(), warm.column("user_idx").to_pylist(), strict=True))
    rows = np.array([index_of.get(i, -1) for i in ids.tolist()])
    if not len(ids) or (rows < 0).any():
        raise CheckFailed(f"features: {int((rows < 0).sum())} of {len(ids)} training users are not warm in week {week}")
    y = context.lake.matrix("user_vectors", week=week, space=space)[rows]
    known = np.abs(y).sum(1) > 0
    return x[known], y[known]
