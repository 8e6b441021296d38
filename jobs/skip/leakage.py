"""Measures target leakage: every model with honest and with leaky features, split by time and at random.

Input   skip_features, variants past and leaky, days before as_of
Output  work/<week>/leakage.json; an MLflow run with the table and its figure; the table on stderr
Source  section 5 of the DSG17 report: 0.79 to 0.82 for NCF, NeuMF and GraphSAGE, 0.49 to 0.58 for the other models

The four cells evaluate the same models on the same plays. They differ only in the features and in the split. The leaky
variant counts over the whole table, including the label of the play itself (jobs/skip/build_features.py).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.platform.stopwatch import stopwatch
from jobs.skip import artifacts, figures, train
from jobs.skip.dataset import LabelledPlays
from jobs.tracking.tracker import Tracker
from models.skip.data import splits
from models.skip.evaluation import metrics

if TYPE_CHECKING:
    from jobs.platform.context import Context

PUBLISHED = {
    "content_based": 0.5274,
    "collaborative": 0.5383,
    "truncated_svd": 0.5383,
    "pmf": 0.4850,
    "rbm": 0.5187,
    "fm": 0.58,
    "ncf": 0.79,
    "neumf": 0.80,
    "graphsage": 0.82,
}
PUBLISHED_HIGH = min(PUBLISHED[name] for name in ("ncf", "neumf", "graphsage"))
CELLS = {cell: (cell.split(",")[0], cell.split(" ")[-1]) for cell in figures.CELLS}
VARIANTS, KINDS = {"honest": "past", "leaky": "leaky"}, {"time": "global", "random": "random"}


def run(context: Context) -> dict[str, Any]:
    """Fit every model in four ways and log the table of test AUC.

    Returns:
        The report for Airflow, with a sentence that summarises the table.

    Raises:
        CheckFailed: features are missing, or the two variants were built from different plays.
    """
    settings = context.settings.skip
    names: tuple[str, ...] = settings.leakage.models
    make_model = train.model_factory(context)
    for name in names:
        make_model(name)  # an invalid name or recipe is refused before anything is read
    with Tracker.task(context, "leakage") as task, stopwatch("skip leakage") as watch:
        rows_by_model: dict[str, dict[str, Any]] = {name: {"model": name} for name in names}
        digests: dict[str, str] = {}
        single_play_share = 0.0
        for cell, (features, split) in CELLS.items():
            labelled = sample_users(context, names, VARIANTS[features], KINDS[split])
            digest = artifacts.digest_of(labelled)
            if digests.setdefault(split, digest) != digest:
                raise CheckFailed(
                    "leakage: variants past and leaky contain different plays; run `overture skip features` and "
                    "`overture skip features --leaky` on the same table of plays"
                )
            if cell == figures.CELLS[0]:
                single_play_share = share_of_single_plays(labelled)
            for name in names:
                with train.as_failed_check(f"{name}, {cell}"):
                    model, _ = train.fit_model(labelled, make_model(name), context.seed(f"skip/{name}"))
                    test = train.score_model(labelled, model).test
                    auc = metrics.auc_interval(test.listened_N, test.proba_N, test.user_N)
                rows_by_model[name] |= {cell: auc.value, f"{cell}, low": auc.low, f"{cell}, high": auc.high}
                watch.log(f"{name}, {cell}: {auc.value:.4f}")
        rows = [{**row, "published": PUBLISHED.get(name)} for name, row in rows_by_model.items()]
        sentence = summary_sentence(rows, single_play_share)
        watch.log(f"done\n{text_table(rows)}\n{sentence}")
        report = {
            "rows": rows,
            "sentence": sentence,
            "plays": digests,
            "single_play_share": single_play_share,
            "commit": context.commit,
        }
        path = context.work / "leakage.json"
        files.replace(path, json.dumps(report, indent=1, sort_keys=True).encode())
        task.log_params({"models": ", ".join(names), "max_plays": settings.leakage.max_plays})
        task.log_metrics({f"{row['model']}.{cell.replace(', ', '.')}": row[cell] for row in rows for cell in CELLS})
        task.log_table(rows, "leakage.json")
        task.log_figure(figures.leakage(rows, PUBLISHED), "leakage.png")
        task.set_tags({"sentence": sentence})
        return {"path": str(path), "rows": len(rows), "sentence": sentence, **task.links}


def sample_users(context: Context, models: tuple[str, ...], variant: str, kind: str) -> LabelledPlays:
    """Return the labelled plays of one variant and split, of a sample of users if there are too many.

    Args:
        context: lake, settings and seeds; skip.leakage.max_plays is the largest number of plays.
        models: names of the models whose numbers are read.
        variant: partition of skip_features, `past` or `leaky`.
        kind: kind of split, as skip.split.kind.

    Raises:
        CheckFailed: the sampled users leave a split without plays.
    """
    settings = context.settings.skip
    split = settings.split.model_copy(update={"kind": kind})
    labelled = train.read_plays(context, models, variant=variant, split=split)
    n, max_plays = len(labelled.plays), settings.leakage.max_plays
    if n <= max_plays:
        return labelled
    users = np.unique(labelled.plays.user_N)
    rng = np.random.default_rng(context.seed("leakage"))
    sampled = rng.permutation(users)[: max(int(len(users) * max_plays / n), 1)]
    in_sample_N = np.isin(labelled.plays.user_N, sampled)
    sizes = [
        int((labelled.split_N[in_sample_N] == code).sum()) for code in (splits.TRAIN, splits.VALIDATION, splits.TEST)
    ]
    if not all(sizes):
        raise CheckFailed(
            f"leakage: a sample of {len(sampled)} users leaves a split without plays: {sizes}; "
            "raise skip.leakage.max_plays"
        )
    return LabelledPlays(labelled.plays.rows(in_sample_N), labelled.split_N[in_sample_N], labelled.cleaning)


def share_of_single_plays(labelled: LabelledPlays) -> float:
    """Return the share of test plays whose track has no other play.

    For these a count over the whole table is the label itself.
    """
    _, code_N, n_T = np.unique(labelled.plays.track_N, return_inverse=True, return_counts=True)
    return float((n_T[code_N[labelled.split_N == splits.TEST]] == 1).mean())


def summary_sentence(rows: list[dict[str, Any]], single_play_share: float) -> str:
    """Return a text that states which features and split lead to high AUC.

    Args:
        rows: the table, one row per model.
        single_play_share: result of `share_of_single_plays`.
    """
    cells = {cell: np.asarray([row[cell] for row in rows]) for cell in figures.CELLS}
    honest_M = cells["honest, by time"]
    change = {cell: float(np.median(values_M - honest_M)) for cell, values_M in cells.items()}
    reaching = [
        f"{cell} ({int((cells[cell] >= PUBLISHED_HIGH).sum())} of {len(rows)})"
        for cell in cells
        if cells[cell].max() >= PUBLISHED_HIGH
    ]
    top = max(((cell, row) for cell in cells for row in rows), key=lambda pair: float(pair[1][pair[0]]))
    reached = (
        f"The published {PUBLISHED_HIGH:.2f} is reached with features and split {'; '.join(reaching)} of the models"
        if reaching
        else f"No features and split reach the published {PUBLISHED_HIGH:.2f}"
    )
    return (
        f"With honest features split by time, the best of {len(rows)} models has AUC {honest_M.max():.3f}. "
        f"A random split changes AUC by {change['honest, at random']:+.3f} (median of the models), leaky features by "
        f"{change['leaky, by time']:+.3f}, both by {change['leaky, at random']:+.3f}. {reached}; the highest is "
        f"{top[1]['model']}, {top[0]}, with {top[1][top[0]]:.3f}. {100 * single_play_share:.0f} % of the test "
        "plays by time are the only play of their track: a count over the whole table is then the label itself."
    )


def text_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as aligned text."""
    lines = [f"{'':20}" + "".join(f"{cell:>20}" for cell in (*figures.CELLS, "published"))]
    for row in rows:
        cells = "".join(f"{row[cell]:>20.4f}" for cell in figures.CELLS)
        lines.append(f"{row['model']:20}{cells}" + (f"{row['published']:>20.4f}" if row["published"] else ""))
    return "\n".join(lines)
