"""Figures of skip models: each function takes numbers and returns a matplotlib figure; nothing is saved.

The blend is drawn in a strong colour, the best of the other models in colours of their own and the rest in grey, so
that a dozen lines stay readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jobs.platform.figures import OURS, SOFT, THEIRS

INK = "#1b1d22"
SHOWN = 4  # models with a colour of their own, beside the blend
COLOURS = (THEIRS, "#6a4c93", "#1b6e43", "#c1121f")


def style_axes(axes: Axes, title: str, x: str, y: str, grid: str = "both") -> None:
    """Set the title and the labels of both axes, a light grid and no frame."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def integer_x_axis(axes: Axes, last: int) -> None:
    """Show the whole numbers from 1 to `last` on the x axis; a single 1 is centred."""
    axes.set_xlim(*((0.5, 1.5) if last == 1 else (1 - 0.03 * last, last * 1.03)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))


def display_name(name: str) -> str:
    """Return the name of a model or slice as text of a figure."""
    return name.replace("_", " ").replace("=", ": ")


def losses(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draw log loss by epoch (or round of trees): name -> values. Fewer than 30 epochs are marked with dots."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(curves.items(), (OURS, THEIRS), strict=True):
        axes.plot(range(1, len(values) + 1), values, color=colour, marker="o" if len(values) < 30 else "", label=name)
    best = int(np.argmin(curves["validation"])) + 1
    if len(curves["validation"]) > 1:
        axes.axvline(best, color=SOFT, ls="--", lw=1, label=f"saved: {best}")
    style_axes(axes, "Loss over epochs", "epoch (round, for trees)", "log loss")
    integer_x_axis(axes, len(curves["validation"]))
    axes.legend(frameon=False)
    return figure


def all_losses(models: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the validation loss of every model with more than one epoch, one panel with its own scale per model."""
    shown = {name: values for name, values in models.items() if len(values) > 1}
    columns = 4
    rows = max(-(-len(shown) // columns), 1)
    figure = Figure(figsize=(11.0, 2.4 * rows + 0.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes, (name, values) in zip(panels, shown.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values, color=OURS)
        axes.plot(int(np.argmin(values)) + 1, min(values), "o", color=THEIRS)
        style_axes(axes, display_name(name), "", "")
        integer_x_axis(axes, len(values))
    figure.suptitle("Validation log loss by epoch (rounds for trees); the dot marks the saved epoch", fontsize=11)
    return figure


def curves(models: Mapping[str, Mapping[str, Any]], share: float) -> Figure:
    """Draw ROC and precision-recall curves.

    Args:
        models: by name {auc, roc, pr} of models/skip/evaluation/metrics.py.
        share: share of all plays that was listened to.
    """
    figure = Figure(figsize=(11.5, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, style in line_styles({name: curve["auc"] for name, curve in models.items()}).items():
        curve = models[name]
        label = f"{display_name(name)}  {curve['auc']:.3f}"
        left.plot(curve["roc"]["false_positive_rate"], curve["roc"]["true_positive_rate"], label=label, **style)
        right.plot(curve["pr"]["recall"], curve["pr"]["precision"], **style)
    left.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":")
    right.axhline(share, color=INK, lw=0.8, ls=":")
    right.annotate(f"all plays: {share:.2f}", (0.02, share), (0, 4), textcoords="offset points", fontsize=8)
    right.set_ylim(min(0.5, share - 0.05), 1.005)
    style_axes(left, "ROC, test plays", "false positive rate", "true positive rate")
    style_axes(right, "Precision and recall, test plays", "recall", "precision")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, title="test AUC")
    return figure


def line_styles(auc: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return the line style of each model: the blend first, then by AUC; only the best have a colour of their own."""
    order = sorted(auc, key=lambda name: (name != "blend", -auc[name]))
    styles: dict[str, dict[str, Any]] = {"blend": {"color": OURS, "lw": 2.6, "zorder": 4}}
    single_models = [name for name in order if name != "blend"]
    for name, colour in zip(single_models, COLOURS, strict=False):
        styles[name] = {"color": colour, "lw": 1.3, "zorder": 3}
    return {name: styles.get(name, {"color": "0.75", "lw": 0.9, "zorder": 2}) for name in order}


def reliability(curves_: Mapping[str, Sequence[Mapping[str, float]]], notes: Mapping[str, str]) -> Figure:
    """Draw reliability curves: predicted probability against the observed share.

    Args:
        curves_: by name the rows of metrics.reliability.
        notes: by name a text for the legend.
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    low = min(min(row["predicted"], row["observed"]) for rows in curves_.values() for row in rows)
    axes.plot([low, 1], [low, 1], color=INK, lw=0.8, ls=":")
    for (name, rows), colour in zip(curves_.items(), (OURS, THEIRS, "#6a4c93"), strict=False):
        predicted, happened, n = (np.array([row[key] for row in rows]) for key in ("predicted", "observed", "plays"))
        half = 1.96 * np.sqrt(np.maximum(happened * (1 - happened), 1e-9) / n)
        label = f"{display_name(name)}: {notes[name]}"
        axes.errorbar(predicted, happened, half, color=colour, marker="o", ms=4, lw=1.4, elinewidth=0.8, label=label)
    style_axes(axes, "Reliability, groups of equally many plays", "predicted probability", "share listened to")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def confusion(name: str, at: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw confusion matrices of one model: title -> metrics.Decisions as a mapping; shades are shares of each row."""
    figure = Figure(figsize=(4.2 * len(at), 4.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(at)))
    for axes, (title, decisions) in zip(panels, at.items(), strict=True):
        table = np.array(
            [
                [decisions["true_positives"], decisions["false_negatives"]],
                [decisions["false_positives"], decisions["true_negatives"]],
            ]
        )
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row in range(2):
            for column in range(2):
                axes.text(
                    column,
                    row,
                    f"{table[row, column]:,}\n{100 * share[row, column]:.0f} %",
                    ha="center",
                    va="center",
                    color="white" if share[row, column] > 0.55 else INK,
                )
        axes.set_xticks((0, 1), ("predicted listen", "predicted skip"))
        axes.set_yticks((0, 1), ("listened", "skipped"))
        axes.set_title(f"{title}\nF1 {decisions['f1']:.3f}, accuracy {decisions['accuracy']:.3f}", fontsize=10)
        axes.tick_params(length=0)
    figure.suptitle(f"{display_name(name)}, test plays", fontsize=11)
    return figure


def forest(rows: Sequence[Mapping[str, Any]], title: str, mark: Mapping[str, float] | None = None) -> Figure:
    """Draw AUC with 95 % intervals, one line per row.

    Args:
        rows: {name, value, low, high, n}, from top to bottom.
        title: title of the figure.
        mark: values of vertical lines, by name.
    """
    figure = Figure(figsize=(8.4, 0.32 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(reversed(rows)):
        strong = row["name"] in ("blend", "all")
        reach = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        axes.errorbar(row["value"], at, xerr=reach, fmt="o", color=OURS if strong else SOFT, capsize=3, ms=6)
        axes.annotate(
            f"{row['value']:.3f}",
            (1.01, at),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    for (name, value), style in zip((mark or {}).items(), ("--", ":"), strict=False):
        axes.axvline(value, color=INK, lw=0.8, ls=style, label=name)
    axes.axvline(0.5, color=INK, lw=0.8, ls="-.", label="random")
    names = [f"{display_name(row['name'])}  ({row['n']:,})" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.tick_params(axis="y", length=0)
    style_axes(axes, title, "ROC AUC, 95 % interval over users", "", "x")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def importance(falls: Mapping[str, float], name: str, n: int = 20) -> Figure:
    """Draw the n largest falls of AUC when a column is shuffled; columns without effect are omitted."""
    top = [(column, fall) for column, fall in falls.items() if fall][:n][::-1]
    figure = Figure(figsize=(7.6, 0.27 * len(top) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(top)), [fall for _, fall in top], color=[OURS if fall > 0 else SOFT for _, fall in top])
    axes.set_yticks(range(len(top)), [display_name(column) for column, _ in top], fontsize=8)
    axes.tick_params(axis="y", length=0)
    style_axes(axes, f"{display_name(name)}: permutation importance", "fall of test AUC when shuffled", "", "x")
    return figure


def learning(points: Sequence[Mapping[str, float]], name: str) -> Figure:
    """Draw training and validation AUC by the number of training plays: points {plays, train, validation}."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    plays = [point["plays"] for point in points]
    for part, colour in (("train", SOFT), ("validation", OURS)):
        axes.plot(plays, [point[part] for point in points], marker="o", color=colour, label=part)
    axes.set_xscale("log", base=2)
    axes.set_xticks(plays, [f"{n:,.0f}" for n in plays])
    axes.minorticks_off()
    style_axes(axes, f"{display_name(name)}: AUC by the newest training plays", "training plays", "ROC AUC")
    axes.legend(frameon=False)
    return figure


def weights(weight: Mapping[str, float], candidate_auc: Mapping[str, float], blend_auc: float) -> Figure:
    """Draw the weights of a blend, and the validation AUC of each candidate beside that of the blend.

    Args:
        weight: weight of each member, by name.
        candidate_auc: validation AUC of each candidate, by name.
        blend_auc: validation AUC of the blend.
    """
    figure = Figure(figsize=(9.6, 0.4 * len(candidate_auc) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = sorted(candidate_auc, key=candidate_auc.__getitem__)
    left.barh(range(len(names)), [weight.get(name, 0.0) for name in names], color=OURS, height=0.6)
    left.set_yticks(range(len(names)), [display_name(name) for name in names])
    right.scatter(
        [candidate_auc[name] for name in names],
        range(len(names)),
        color=[OURS if name in weight else SOFT for name in names],
    )
    right.axvline(blend_auc, color=THEIRS, lw=1.4, label=f"blend {blend_auc:.4f}")
    for at, name in enumerate(names):
        right.annotate(
            f"{candidate_auc[name]:.4f}",
            (candidate_auc[name], at),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    right.margins(x=0.15, y=0.15)
    right.xaxis.set_major_locator(MaxNLocator(nbins=5))
    style_axes(left, "Weights of log odds", "", "", "x")
    style_axes(right, "Validation AUC of each candidate (grey: excluded)", "", "", "x")
    right.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def trials(name: str, values: Sequence[tuple[int, float | None]], settings_auc: float | None) -> Figure:
    """Draw AUC by trial of a recipe search, with the best so far as a line.

    Args:
        name: name of the model.
        values: number and AUC of each trial; AUC is None for a pruned trial.
        settings_auc: AUC of the recipe in the settings, drawn as a dashed line.
    """
    figure = Figure(figsize=(7.6, 4.0), layout="constrained")
    axes = figure.subplots()
    completed, auc = zip(*((number, value) for number, value in values if value is not None), strict=True)
    pruned = [number for number, value in values if value is None]
    axes.scatter(completed, auc, color=OURS, s=18, label="trial")
    axes.step(completed, np.maximum.accumulate(auc), where="post", color=THEIRS, label="best")
    if pruned:
        axes.scatter(pruned, [min(auc)] * len(pruned), marker="x", s=18, color=SOFT, label="pruned")
    if settings_auc is not None:
        axes.axhline(settings_auc, color=INK, lw=0.8, ls="--", label="recipe of the settings")
    style_axes(axes, f"{display_name(name)}: trials of recipes", "trial", "AUC, mean of folds and validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


CELLS = ("honest, by time", "honest, at random", "leaky, by time", "leaky, at random")


def leakage(rows: Sequence[Mapping[str, Any]], published: Mapping[str, float]) -> Figure:
    """Draw the AUC of each model in the four CELLS, with the published AUC: rows {model, <cell>: value}."""
    figure = Figure(figsize=(9.0, 0.42 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    marks = (("o", OURS), ("s", SOFT), ("^", "#c1121f"), ("v", "#6a4c93"))
    for at, row in enumerate(reversed(rows)):
        values = [row[cell] for cell in CELLS]
        axes.plot([min(values), max(values)], [at, at], color="0.85", lw=2, zorder=1)
        for cell, (marker, colour) in zip(CELLS, marks, strict=True):
            axes.scatter(row[cell], at, marker=marker, color=colour, s=42, label=cell if not at else None, zorder=3)
    known = [(published[row["model"]], at) for at, row in enumerate(reversed(rows)) if row["model"] in published]
    if known:
        x, y = zip(*known, strict=True)
        axes.scatter(x, y, marker="D", s=60, facecolor="none", edgecolor=INK, zorder=4, label="published")
    axes.axvline(0.5, color=INK, lw=0.8, ls=":")
    axes.set_yticks(range(len(rows)), [display_name(row["model"]) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="y", length=0)
    style_axes(axes, "Test AUC by features and split", "ROC AUC", "", "x")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure
