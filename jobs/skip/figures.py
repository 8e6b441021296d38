"""Pictures of skip models for people: each function takes numbers and gives a matplotlib figure; nothing is saved.

Models are drawn as the blend (strong), those in it or the best of them (clear) and the others (grey), so that a dozen
lines stay readable.
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


def plain(axes: Axes, title: str, x: str, y: str, grid: str = "both") -> None:
    """Title, names of both axes, a light grid and no frame."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def whole(axes: Axes, last: int) -> None:
    """Whole numbers from 1 on the x axis; a lone 1 in the middle."""
    axes.set_xlim(*((0.5, 1.5) if last == 1 else (1 - 0.03 * last, last * 1.03)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))


def words(name: str) -> str:
    """A model's or slice's name for people."""
    return name.replace("_", " ").replace("=", ": ")


def losses(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Log loss by epoch (or round of trees): name -> values; a dot where there is one epoch only."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(curves.items(), (OURS, THEIRS), strict=True):
        axes.plot(range(1, len(values) + 1), values, color=colour, marker="o" if len(values) < 30 else "", label=name)
    best = int(np.argmin(curves["validation"])) + 1
    if len(curves["validation"]) > 1:
        axes.axvline(best, color=SOFT, ls="--", lw=1, label=f"kept: {best}")
    plain(axes, "Loss over epochs", "epoch (round, for trees)", "log loss")
    whole(axes, len(curves["validation"]))
    axes.legend(frameon=False)
    return figure


def all_losses(models: Mapping[str, Sequence[float]]) -> Figure:
    """Validation loss of every model that has epochs, a small panel each with a scale of its own."""
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
        plain(axes, words(name), "", "")
        whole(axes, len(values))
    figure.suptitle("Validation log loss by epoch (rounds for trees); the dot is the one that is kept", fontsize=11)
    return figure


def curves(models: Mapping[str, Mapping[str, Any]], share: float) -> Figure:
    """ROC and PR curves: model -> {auc, roc, pr} of models/skip/evaluation/metrics.py; `share` of plays was listened to."""
    figure = Figure(figsize=(11.5, 5.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, style in styles({name: found["auc"] for name, found in models.items()}).items():
        found = models[name]
        label = f"{words(name)}  {found['auc']:.3f}"
        left.plot(found["roc"]["false_positive_rate"], found["roc"]["true_positive_rate"], label=label, **style)
        right.plot(found["pr"]["recall"], found["pr"]["precision"], **style)
    left.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":")
    right.axhline(share, color=INK, lw=0.8, ls=":")
    right.annotate(f"all plays: {share:.2f}", (0.02, share), (0, 4), textcoords="offset points", fontsize=8)
    right.set_ylim(min(0.5, share - 0.05), 1.005)
    plain(left, "ROC, test plays", "skipped plays taken for listened", "listened plays found")
    plain(right, "Precision and recall, test plays", "recall", "precision")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8, title="test AUC")
    return figure


def styles(auc: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """How each model is drawn, best first: the blend strong, the best of the others in colour, the rest grey."""
    order = sorted(auc, key=lambda name: (name != "blend", -auc[name]))
    drawn = {"blend": {"color": OURS, "lw": 2.6, "zorder": 4}}
    others = [name for name in order if name != "blend"]
    for name, colour in zip(others, COLOURS, strict=False):
        drawn[name] = {"color": colour, "lw": 1.3, "zorder": 3}
    return {name: drawn.get(name, {"color": "0.75", "lw": 0.9, "zorder": 2}) for name in order}


def reliability(curves_: Mapping[str, Sequence[Mapping[str, float]]], notes: Mapping[str, str]) -> Figure:
    """What was said beside what happened: name -> rows of metrics.reliability; `notes` stand in the legend."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    low = min(min(row["said"], row["happened"]) for rows in curves_.values() for row in rows)
    axes.plot([low, 1], [low, 1], color=INK, lw=0.8, ls=":")
    for (name, rows), colour in zip(curves_.items(), (OURS, THEIRS, "#6a4c93"), strict=False):
        said, happened, n = (np.array([row[key] for row in rows]) for key in ("said", "happened", "plays"))
        half = 1.96 * np.sqrt(np.maximum(happened * (1 - happened), 1e-9) / n)
        label = f"{words(name)}: {notes[name]}"
        axes.errorbar(said, happened, half, color=colour, marker="o", ms=4, lw=1.4, elinewidth=0.8, label=label)
    plain(axes, "Probabilities against what happened, groups of equally many plays", "said", "listened to")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def confusion(name: str, at: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Confusion matrices of one model: title -> metrics.Decisions as a mapping; shades are shares of each row."""
    figure = Figure(figsize=(4.2 * len(at), 4.0), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(at)))
    for axes, (title, found) in zip(panels, at.items(), strict=True):
        table = np.array(
            [[found["true_positives"], found["false_negatives"]], [found["false_positives"], found["true_negatives"]]]
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
        axes.set_xticks((0, 1), ("said: listen", "said: skip"))
        axes.set_yticks((0, 1), ("listened", "skipped"))
        axes.set_title(f"{title}\nF1 {found['f1']:.3f}, accuracy {found['accuracy']:.3f}", fontsize=10)
        axes.tick_params(length=0)
    figure.suptitle(f"{words(name)}, test plays", fontsize=11)
    return figure


def forest(rows: Sequence[Mapping[str, Any]], title: str, mark: Mapping[str, float] | None = None) -> Figure:
    """AUC with 95 % intervals, a line a row {name, value, low, high, n}; `mark`: vertical lines by name."""
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
    axes.axvline(0.5, color=INK, lw=0.8, ls="-.", label="chance")
    names = [f"{words(row['name'])}  ({row['n']:,})" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.tick_params(axis="y", length=0)
    plain(axes, title, "ROC AUC, 95 % interval over users", "", "x")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def importance(falls: Mapping[str, float], name: str, n: int = 20) -> Figure:
    """How much AUC falls when a column is shuffled, the n largest; a column that makes no difference is left out."""
    top = [(column, fall) for column, fall in falls.items() if fall][:n][::-1]
    figure = Figure(figsize=(7.6, 0.27 * len(top) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(top)), [fall for _, fall in top], color=[OURS if fall > 0 else SOFT for _, fall in top])
    axes.set_yticks(range(len(top)), [words(column) for column, _ in top], fontsize=8)
    axes.tick_params(axis="y", length=0)
    plain(axes, f"{words(name)}: what it leans on", "fall of test AUC when shuffled", "", "x")
    return figure


def learning(points: Sequence[Mapping[str, float]], name: str) -> Figure:
    """Training and validation AUC by training plays: {plays, train, validation}."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    plays = [point["plays"] for point in points]
    for part, colour in (("train", SOFT), ("validation", OURS)):
        axes.plot(plays, [point[part] for point in points], marker="o", color=colour, label=part)
    axes.set_xscale("log", base=2)
    axes.set_xticks(plays, [f"{n:,.0f}" for n in plays])
    axes.minorticks_off()
    plain(axes, f"{words(name)}: AUC by the newest training plays", "training plays", "ROC AUC")
    axes.legend(frameon=False)
    return figure


def weights(of: Mapping[str, float], alone: Mapping[str, float], together: float) -> Figure:
    """A blend's weights, and each candidate's AUC alone on validation beside the blend's."""
    figure = Figure(figsize=(9.6, 0.4 * len(alone) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = sorted(alone, key=alone.__getitem__)
    left.barh(range(len(names)), [of.get(name, 0.0) for name in names], color=OURS, height=0.6)
    left.set_yticks(range(len(names)), [words(name) for name in names])
    right.scatter([alone[name] for name in names], range(len(names)), color=[OURS if n in of else SOFT for n in names])
    right.axvline(together, color=THEIRS, lw=1.4, label=f"blend {together:.4f}")
    for at, name in enumerate(names):
        right.annotate(
            f"{alone[name]:.4f}", (alone[name], at), (0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    right.margins(x=0.15, y=0.15)
    right.xaxis.set_major_locator(MaxNLocator(nbins=5))
    plain(left, "Weights of log odds", "", "", "x")
    plain(right, "Validation AUC alone (grey: left out)", "", "", "x")
    right.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def trials(name: str, values: Sequence[tuple[int, float | None]], given: float | None) -> Figure:
    """AUC by trial (None: given up early), the best so far a line, that of the settings' recipe dashed."""
    figure = Figure(figsize=(7.6, 4.0), layout="constrained")
    axes = figure.subplots()
    done, reached = zip(*((number, value) for number, value in values if value is not None), strict=True)
    early = [number for number, value in values if value is None]
    axes.scatter(done, reached, color=OURS, s=18, label="trial")
    axes.step(done, np.maximum.accumulate(reached), where="post", color=THEIRS, label="best")
    if early:
        axes.scatter(early, [min(reached)] * len(early), marker="x", s=18, color=SOFT, label="given up early")
    if given is not None:
        axes.axhline(given, color=INK, lw=0.8, ls="--", label="recipe of the settings")
    plain(axes, f"{words(name)}: trials of recipes", "trial", "AUC, mean of folds and validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


CELLS = ("honest, by time", "honest, at random", "leaky, by time", "leaky, at random")


def leakage(rows: Sequence[Mapping[str, Any]], published: Mapping[str, float]) -> Figure:
    """AUC of each model in the four ways of CELLS, with the published numbers: rows {model, <cell>: value}."""
    figure = Figure(figsize=(9.0, 0.42 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    drawn = (("o", OURS), ("s", SOFT), ("^", "#c1121f"), ("v", "#6a4c93"))
    for at, row in enumerate(reversed(rows)):
        values = [row[cell] for cell in CELLS]
        axes.plot([min(values), max(values)], [at, at], color="0.85", lw=2, zorder=1)
        for cell, (marker, colour) in zip(CELLS, drawn, strict=True):
            axes.scatter(row[cell], at, marker=marker, color=colour, s=42, label=cell if not at else None, zorder=3)
    known = [(published[row["model"]], at) for at, row in enumerate(reversed(rows)) if row["model"] in published]
    if known:
        x, y = zip(*known, strict=True)
        axes.scatter(x, y, marker="D", s=60, facecolor="none", edgecolor=INK, zorder=4, label="published")
    axes.axvline(0.5, color=INK, lw=0.8, ls=":")
    axes.set_yticks(range(len(rows)), [words(row["model"]) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="y", length=0)
    plain(axes, "Test AUC by features and split", "ROC AUC", "", "x")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure
