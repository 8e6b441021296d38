"""Explains one model: permutation importance of its columns, its learning curve, and some predictions with reasons.

Input   work/<week>/<skip.evaluation.explained_model>/model, the labelled plays
Output  importance, learning curve and reasons in the MLflow run of the evaluation
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

EXAMPLES = 6  # predictions explained by a sentence, from the lowest to the highest probability


def run(context: Context, task: Tracker, labelled: LabelledPlays) -> list[str]:
    """Log importance, learning curve and reasons.

    Args:
        context: week, settings and seeds.
        task: the MLflow run of the evaluation.
        labelled: the labelled plays, with the numbers that the explained model needs.

    Returns:
        One sentence for each of the explained predictions.
    """
    settings = context.settings.skip.evaluation
    name = settings.explained_model
    model = artifacts.load_model(context, name)
    test = labelled.of_split(splits.TEST)
    newest = test.rows(slice(max(len(test) - settings.importance_plays, 0), None))
    with train.as_failed_check(name):
        auc_falls = permutation_importance.permutation_importance(
            model.predict_proba, newest, settings.importance_draws, context.seed("importance")
        )
        points = learning_curve(context, labelled, name)
    task.log_figure(figures.importance(auc_falls, name), "importance.png")
    task.log_table([{"column": column, "fall_of_auc": fall} for column, fall in auc_falls.items()], "importance.json")
    task.log_figure(figures.learning(points, name), "learning_curve.png")
    proba_N = model.predict_proba(newest)
    order_N = np.argsort(proba_N, kind="stable")
    places = np.unique(order_N[np.linspace(0, len(order_N) - 1, EXAMPLES).astype(int)])
    examples = newest.rows(places)
    reason_lists = reasons.reasons(model, examples)  # type: ignore[arg-type]  # only models with contributions may be named
    lines = [reasons.sentence(why, float(p)) for why, p in zip(reason_lists, proba_N[places], strict=True)]
    shown = zip(examples.user_N.tolist(), examples.track_N.tolist(), examples.labels().tolist(), lines, strict=True)
    task.log_table(
        [dict(zip(("user", "track", "listened", "reason"), row, strict=True)) for row in shown], "reasons.json"
    )
    task.set_tags({"reasons": lines[-1]})
    return lines


def learning_curve(context: Context, labelled: LabelledPlays, name: str) -> list[dict[str, Any]]:
    """Return the training and validation AUC of models fitted on the newest training plays, by number of plays.

    Each number of plays is twice the one before; the last is skip.evaluation.learning_plays or all of them.
    """
    settings = context.settings.skip.evaluation
    training, valid = labelled.of_split(splits.TRAIN), labelled.of_split(splits.VALIDATION)
    max_plays = min(len(training), settings.learning_plays)
    make_model, points = train.model_factory(context), []
    for step in reversed(range(settings.learning_steps)):
        part = training.rows(slice(len(training) - (max_plays >> step), None))
        model = make_model(name)
        model.fit(part, valid, context.seed(f"skip/{name}"))
        points.append(
            {
                "plays": len(part),
                "train": metrics.auc(part.labels(), model.predict_proba(part)),
                "validation": metrics.auc(valid.labels(), model.predict_proba(valid)),
            }
        )
    return points
