"""What features of the future feign: every model with honest and with leaky features, split by time and at random.

Input   skip_features, variants past and leaky, days before as_of
Output  work/<week>/leakage.json; a run with the table and its picture; the table on stderr
Source  the report's 0.79 to 0.82 (NCF, NeuMF, GraphSAGE) against its 0.49 to 0.58, section 5

The four columns judge the same models on the same plays; only what a play is said to have known, and which plays are
held back, differ. The leaky variant counts whole tables, the play's own label among them (jobs/skip/build_features.py).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import CheckFailed
from jobs.platform.stopwatch import stopwatch
from jobs.skip import artifacts, figures, train
from jobs.skip.dataset import LabelledPlays
from jobs.tracking.tracker import Tracker
from models.skip.data import splits
from models.skip.estimators.base import replace
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
HIGH = min(PUBLISHED[name] for name in ("ncf", "neumf", "graphsage"))
WAYS = {cell: (cell.split(",")[0], cell.split(" ")[-1]) for cell in figures.CELLS}
VARIANTS, KINDS = {"honest": "past", "leaky": "leaky"}, {"time": "global", "random": "random"}


def run(context: Context) -> dict[str, Any]:
    """Fit every model four times; the table and what it says."""
    settings = context.settings.skip
    names: tuple[str, ...] = settings.leakage.models
    new = train.model_factory(context)
    for name in names:
        new(name)
    with Tracker.task(context, "leakage") as task, stopwatch("skip leakage") as watch:
        found: dict[str, dict[str, Any]] = {name: {"model": name} for name in names}
        judged_on: dict[str, str] = {}
        alone = 0.0
        for cell, (features, split) in WAYS.items():
            plays = thinned(context, names, VARIANTS[features], KINDS[split])
            digest = artifacts.digest_of(plays)
            if judged_on.setdefault(split, digest) != digest:
                raise CheckFailed(
                    "leakage: variants past and leaky hold other plays; run `overture skip features` and "
                    "`overture skip features --leaky` on the same table of plays"
                )
            if cell == figures.CELLS[0]:
                alone = only_ones(plays)
            for name in names:
                with train.as_failed_check(f"{name}, {cell}"):
                    model, _ = train.fit_model(plays, new(name), context.seed(f"skip/{name}"))
                    test = train.score_model(plays, model).test
                    reached = metrics.auc_interval(test.listened_N, test.proba_N, test.user_N)
                found[name] |= {cell: reached.value, f"{cell}, low": reached.low, f"{cell}, high": reached.high}
                watch.log(f"{name}, {cell}: {reached.value:.4f}")
        rows = [{**row, "published": PUBLISHED.get(name)} for name, row in found.items()]
        said = sentence(rows, alone)
        watch.log(f"done\n{table(rows)}\n{said}")
        report = {"rows": rows, "sentence": said, "plays": judged_on, "only_ones": alone, "commit": context.commit}
        path = context.work / "leakage.json"
        replace(path, json.dumps(report, indent=1, sort_keys=True).encode())
        task.log_params({"models": ", ".join(names), "max_plays": settings.leakage.max_plays})
        task.log_metrics({f"{row['model']}.{cell.replace(', ', '.')}": row[cell] for row in rows for cell in WAYS})
        task.log_table(rows, "leakage.json")
        task.log_figure(figures.leakage(rows, PUBLISHED), "leakage.png")
        task.set_tags({"sentence": said})
        return {"path": str(path), "rows": len(rows), "sentence": said, **task.links}


def thinned(context: Context, models: tuple[str, ...], variant: str, kind: str) -> LabelledPlays:
    """The labelled plays of one variant and split; where there are more than `most`, those of users drawn whole."""
    settings = context.settings.skip
    split = settings.split.model_copy(update={"kind": kind})
    found = train.read_plays(context, models, variant=variant, split=split)
    n, most = len(found.plays), settings.leakage.max_plays
    if n <= most:
        return found
    users = np.unique(found.plays.user_N)
    rng = np.random.default_rng(context.seed("leakage"))
    drawn = rng.permutation(users)[: max(int(len(users) * most / n), 1)]
    mine = np.isin(found.plays.user_N, drawn)
    sizes = [int((found.split_N[mine] == code).sum()) for code in (splits.TRAIN, splits.VALIDATION, splits.TEST)]
    if not all(sizes):
        raise CheckFailed(
            f"leakage: {len(drawn)} users drawn leave a part without plays: {sizes}; raise leakage.max_plays"
        )
    return LabelledPlays(found.plays.rows(mine), found.split_N[mine], found.cleaning)


def only_ones(found: LabelledPlays) -> float:
    """Share of test plays whose track is in no other play: there a count over the whole table is the label itself."""
    _, code_N, n_T = np.unique(found.plays.track_N, return_inverse=True, return_counts=True)
    return float((n_T[code_N[found.split_N == splits.TEST]] == 1).mean())


def sentence(rows: list[dict[str, Any]], alone: float) -> str:
    """Where high numbers come from, computed from the rows: medians over models, and which ways reach the published.

    `alone`: of only_ones().
    """
    cells = {cell: np.asarray([row[cell] for row in rows]) for cell in figures.CELLS}
    honest_M = cells["honest, by time"]
    moved = {cell: float(np.median(values_M - honest_M)) for cell, values_M in cells.items()}
    reach = [
        f"{cell} ({int((cells[cell] >= HIGH).sum())} of {len(rows)})" for cell in cells if cells[cell].max() >= HIGH
    ]
    top = max(((cell, row) for cell in cells for row in rows), key=lambda pair: float(pair[1][pair[0]]))
    told = (
        f"models reach the published {HIGH:.2f} {'; '.join(reach)}"
        if reach
        else f"no way reaches the published {HIGH:.2f}"
    )
    return (
        f"Honest and by time the best of {len(rows)} models has {honest_M.max():.3f}. Splitting at random moves AUC by "
        f"{moved['honest, at random']:+.3f} (median of the models), features that know the future by "
        f"{moved['leaky, by time']:+.3f}, both by {moved['leaky, at random']:+.3f}; {told}, the highest being "
        f"{top[1]['model']}, {top[0]}, with {top[1][top[0]]:.3f}. {100 * alone:.0f} % of the test plays by time are "
        "their track's only one: a count over the whole table then is the label itself."
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    lines = [f"{'':20}" + "".join(f"{cell:>20}" for cell in (*figures.CELLS, "published"))]
    for row in rows:
        cells = "".join(f"{row[cell]:>20.4f}" for cell in figures.CELLS)
        lines.append(f"{row['model']:20}{cells}" + (f"{row['published']:>20.4f}" if row["published"] else ""))
    return "\n".join(lines)
