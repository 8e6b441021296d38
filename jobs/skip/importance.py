"""Why one model says what it says: what it leans on, what more plays would give, and one prediction in words.

Input   work/<week>/<skip.evaluation.explained_model>/model, the labelled plays
Output  importance, learning curve and reasons in the evaluation's run
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.skip import artifacts, figures, train
from models.skip.data import splits
from models.skip.evaluation import metrics, permutation_importance
from models.skip.ranking import reasons

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.skip.dataset import LabelledPlays
    from jobs.tracking.tracker import Tracker

EXAMPLES = 6  # predictions told in words, from the least to the most likely


def run(context: Context, task: Tracker, found: LabelledPlays) -> list[str]:
    """Log all three; the sentences."""
    settings = context.settings.skip.evaluation
    name = settings.explained_model
    model = artifacts.load_model(context, name)
    test = found.of_split(splits.TEST)
    newest = test.rows(slice(max(len(test) - settings.importance_plays, 0), None))
    with train.as_failed_check(name):
        falls = permutation_importance.permutation_importance(
            model.predict_proba, newest, settings.importance_draws, context.seed("importance")
        )
        points = learning(context, found, name)
    task.log_figure(figures.importance(falls, name), "importance.png")
    task.log_table([{"column": column, "fall_of_auc": fall} for column, fall in falls.items()], "importance.json")
    task.log_figure(figures.learning(points, name), "learning_curve.png")
    proba_N = model.predict_proba(newest)
    order_N = np.argsort(proba_N, kind="stable")
    places = np.unique(order_N[np.linspace(0, len(order_N) - 1, EXAMPLES).astype(int)])
    some = newest.rows(places)
    told = reasons.reasons(model, some)  # type: ignore[arg-type]  # only models with contributions may be named
    lines = [reasons.sentence(why, float(p)) for why, p in zip(told, proba_N[places], strict=True)]
    shown = zip(some.user_N.tolist(), some.track_N.tolist(), some.labels().tolist(), lines, strict=True)
    task.log_table(
        [dict(zip(("user", "track", "listened", "said"), row, strict=True)) for row in shown], "reasons.json"
    )
    task.set_tags({"reasons": lines[-1]})
    return lines


def learning(context: Context, found: LabelledPlays, name: str) -> list[dict[str, Any]]:
    """AUC on the plays learned from and on validation, by the newest training plays, each size twice the one before."""
    settings = context.settings.skip.evaluation
    learn, valid = found.of_split(splits.TRAIN), found.of_split(splits.VALIDATION)
    most = min(len(learn), settings.learning_plays)
    new, points = train.model_factory(context), []
    for step in reversed(range(settings.learning_steps)):
        part = learn.rows(slice(len(learn) - (most >> step), None))
        model = new(name)
        model.fit(part, valid, context.seed(f"skip/{name}"))
        points.append(
            {
                "plays": len(part),
                "train": metrics.auc(part.labels(), model.predict_proba(part)),
                "validation": metrics.auc(valid.labels(), model.predict_proba(valid)),
            }
        )
    return points
