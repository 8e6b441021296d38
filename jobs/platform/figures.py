"""Figures of a week's results. Each function returns a matplotlib figure and saves nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from models.arrays import AnyVector, FloatMatrix, IntMatrix

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

matplotlib.use("Agg")

METRICS = ("precision", "recall", "ndcg")
OURS, THEIRS, SOFT = "#2a6f97", "#e09f3e", "#8d99ae"
INK = "#1b1d22"
MAX_MAP_NAMES = 9  # segment names in the legend of a map


def _canvas(title: str, width: float = 7.0, height: float = 4.2) -> tuple[Figure, Axes]:
    """Return a new figure with one plot, outside pyplot's global state. Sizes are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def loss_curve(curves: Sequence[Mapping[str, float]]) -> Figure:
    """Return a line chart of losses by epoch.

    Args:
        curves: One mapping per epoch, name of the loss -> value. A name may be missing in some epochs.
    """
    figure, axes = _canvas("Loss by epoch")
    for name in sorted({name for row in curves for name in row}):
        points = [(epoch, row[name]) for epoch, row in enumerate(curves) if name in row]
        axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), marker="." if len(points) < 20 else "")
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean squared error")
    if curves and all(value > 0 for row in curves for value in row.values()):
        axes.set_yscale("log")
    if curves:
        axes.legend(frameon=False)
    return figure


def metric_bars(rows: pd.DataFrame, space: str) -> Figure:
    """Return a bar chart of the methods' metrics with 95 % intervals, for the longest evaluated list.

    Args:
        rows: Columns method, metric, k, value, low and high.
        space: Name of the space, for the title.
    """
    k = int(rows["k"].max()) if len(rows) else 0
    figure, axes = _canvas(f"{space}: test cohort, @{k}", width=8.0)
    records: list[dict[Any, Any]] = rows.to_dict("records")
    shown = {(row["method"], row["metric"]): row for row in records if row["k"] == k}
    methods = list(dict.fromkeys(method for method, _ in shown))
    for place, method in enumerate(methods):
        bars = [(at, shown[method, metric]) for at, metric in enumerate(METRICS) if (method, metric) in shown]
        value = np.array([row["value"] for _, row in bars])
        low, high = (np.array([row[end] for _, row in bars]) for end in ("low", "high"))
        width = 0.8 / len(methods)
        x = np.array([at for at, _ in bars]) + (place - (len(methods) - 1) / 2) * width
        error = np.maximum(np.stack([value - low, high - value]), 0)
        axes.bar(x, 100 * value, width, yerr=100 * error, capsize=2, label=method.replace("_", " "))
    axes.set_xticks(range(len(METRICS)), METRICS)
    axes.set_ylabel("%")
    if methods:
        figure.legend(loc="outside lower center", ncols=min(len(methods), 4), frameon=False)
    return figure


def segment_sizes(sizes: AnyVector) -> Figure:
    """Return a bar chart of the segments' sizes, largest first.

    Args:
        sizes: Number of members of each segment, (K,).
    """
    ordered = np.sort(np.asarray(sizes))[::-1]
    figure, axes = _canvas(f"{len(ordered)} segments")
    axes.bar(np.arange(len(ordered)), ordered, width=1.0)
    if len(ordered):
        median = float(np.median(ordered))
        axes.axhline(median, color="black", lw=0.8, ls="--", label=f"median {median:.0f}")
        axes.legend(frameon=False)
    axes.set_xlabel("segment, by size")
    axes.set_ylabel("warm users")
    return figure


def segment_map(centroids_KD: FloatMatrix, sizes: AnyVector, names: Sequence[str]) -> Figure:
    """Return a map of the segments: their centroids on the first two principal components.

    The area of a point is proportional to the segment's size. Segments of the same name have the same colour. The names
    with the most members are in the legend; segments of other names are grey.

    Args:
        centroids_KD: Centroid of each segment.
        sizes: Number of members of each segment, (K,).
        names: Name of each segment; empty: unnamed.
    """
    centred = np.asarray(centroids_KD, np.float64) - np.average(centroids_KD, axis=0, weights=sizes)
    _, spread, axes_2D = np.linalg.svd(centred * np.sqrt(sizes)[:, None], full_matrices=False)
    x_K2 = centred @ axes_2D[:2].T
    signal_contributions = spread[:2] ** 2 / max(float(np.square(spread).sum()), 1e-30)
    figure, axes = _canvas(f"{len(sizes)} segments", width=8.0, height=5.6)
    members: dict[str, int] = {}
    for name, size in zip(names, sizes, strict=True):
        members[name] = members.get(name, 0) + int(size)
    largest = [name for name in sorted(members, key=lambda name: (-members[name], name)) if name][:MAX_MAP_NAMES]
    area = 600 * np.asarray(sizes) / max(int(np.max(sizes)), 1) * min(1.0, 60 / len(sizes)) + 6
    for place, shown in enumerate([*largest, ""]):
        is_shown = np.array([name == shown if shown else name not in largest for name in names])
        if is_shown.any():
            x, y = x_K2[is_shown].T
            colour = f"C{place}" if shown else "0.75"
            axes.scatter(x, y, s=area[is_shown], c=colour, alpha=0.65, lw=0.3, ec="white", label=shown or "other")
    axes.set_xlabel(f"first component, {100 * signal_contributions[0]:.0f} % of the spread between segments")
    axes.set_ylabel(f"second, {100 * signal_contributions[1]:.0f} %" if len(signal_contributions) > 1 else "")
    legend = figure.legend(loc="outside right upper", frameon=False, title="most typical")
    for handle in legend.legend_handles:
        handle.set_sizes([40])  # type: ignore[union-attr]
    return figure


def popularity_ranks(recommended: Mapping[str, IntMatrix], n_tracks: int) -> Figure:
    """Return one curve per method: the share of recommended places that the x most popular tracks take.

    Args:
        recommended: Method -> recommended track_idx, (B, k). track_idx is the popularity rank.
        n_tracks: Number of tracks in the catalogue.
    """
    figure, axes = _canvas("Popularity rank of recommended tracks")
    for method, tracks_BK in recommended.items():
        counts = np.bincount(np.asarray(tracks_BK).ravel(), minlength=n_tracks)
        share = np.cumsum(counts) / max(int(counts.sum()), 1)
        axes.plot(np.arange(1, len(share) + 1), 100 * share, label=method.replace("_", " "))
    axes.set_xscale("log")
    axes.set_xlabel("the x most popular tracks")
    axes.set_ylabel("% of recommended places")
    axes.set_ylim(0, 101)
    if recommended:
        axes.legend(frameon=False)
    return figure


def published_comparison(
    ours: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]
) -> Figure:
    """Return Table 1 of the paper as a chart: this run's metrics as bars, the published ones as marks.

    Args:
        ours: Method -> metric -> {mean, spread}, in %.
        theirs: The published metrics, in the same form.
        titles: Method -> title.
    """
    figure = Figure(figsize=(10.0, 0.55 * max(len(ours), 2) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    names = list(ours)[::-1]
    for axes, metric in zip(panels, METRICS, strict=True):
        means, spreads = ([ours[name][metric][part] for name in names] for part in ("mean", "spread"))
        axes.barh(range(len(names)), means, xerr=spreads, color=OURS, height=0.6, ecolor=INK, label="this run")
        marks = [(theirs[name][metric]["mean"], at) for at, name in enumerate(names) if name in theirs]
        if marks:
            x, y = zip(*marks, strict=True)
            axes.scatter(x, y, marker="D", s=34, color=THEIRS, edgecolor="white", zorder=3, label="published")
        axes.set_title({"ndcg": "NDCG"}.get(metric, metric.capitalize()) + "@50, %", loc="left", fontsize=11)
        axes.set_yticks(range(len(names)), [titles[name] for name in names])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def precision_by_count(views: Mapping[str, Sequence[Mapping[str, Any]]], mean: float) -> Figure:
    """Return Figure 4 of the paper: precision by the number of first-day signals, one panel per kind of signal.

    Args:
        views: Kind of signal -> rows {class, users, value, low, high}, with values as shares.
        mean: Mean precision of all listeners, in %.
    """
    figure = Figure(figsize=(10.0, 3.6), layout="constrained")
    for axes, (name, rows) in zip(
        np.atleast_1d(figure.subplots(1, len(views), sharey=True)), views.items(), strict=True
    ):
        at = np.arange(len(rows))
        value, low, high = (100 * np.array([row[part] for row in rows]) for part in ("value", "low", "high"))
        axes.axhline(mean, color=SOFT, lw=1, ls="--", label="all listeners")
        axes.errorbar(
            at, value, np.maximum(np.stack([value - low, high - value]), 0), color=OURS, marker="o", capsize=3
        )
        axes.set_xticks(at, [f"{row['class']}\n{row['users']}" for row in rows], fontsize=8)
        axes.set_title(f"by {name} on the first day", loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    figure.axes[0].set_ylabel("Precision@50, %")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("number of signals, and below it the number of listeners", fontsize=9)
    return figure


def rank_shares(views: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Return Figure 5 of the paper: distribution of the popularity ranks of recommended tracks, one line per method.

    Args:
        views: Title of the method -> {bin: width of a bin in ranks, share: share of each bin, median: median rank}.
    """
    figure, axes = _canvas("Popularity rank of recommended tracks", width=10.0, height=3.8)
    for colour, (title, view) in zip((SOFT, THEIRS, OURS, "#6a4c93", "#1b6e43"), views.items(), strict=False):
        share, width = 100 * np.array(view["share"]), view["bin"]
        edges = np.arange(len(share) + 1) * width
        axes.stairs(share, edges, color=colour, lw=2, label=f"{title}: median rank {view['median']:,.0f}")
        axes.stairs(share, edges, color=colour, alpha=0.12, fill=True)
    axes.set_xlabel("popularity rank, 0 = most popular")
    axes.set_ylabel("% of recommended places")
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(0)
    axes.legend(frameon=False)
    return figure


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG element for an HTML page. The same figure gives the same text in every run."""
    from io import StringIO

    with matplotlib.rc_context({"svg.hashsalt": "overture"}):
        buffer = StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def relative_rates(arms: Mapping[str, Mapping[str, Any]], control: str, alpha: float) -> Figure:
    """Return Figure 7 of the paper: display-to-stream and display-to-favourite rates of each arm over the control's.

    Args:
        arms: Name -> {users, stream and favorite: {rate, ratio, low, high, p_value}}.
        control: Name of the control, whose rate is 1.
        alpha: Significance level; the bars have 1 - alpha intervals.
    """
    titles = {"stream": "Relative display-to-stream", "favorite": "Relative display-to-favourite"}
    names = [control, *(name for name in arms if name != control)]
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    for axes, (kind, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for at, name in enumerate(names):
            lift = arms[name][kind]
            if lift["ratio"] is None:
                axes.text(at, 0.04, "no ratio", ha="center", color=SOFT, rotation=90)
                continue
            is_significant = name != control and lift["p_value"] <= alpha
            axes.bar(
                at, lift["ratio"], 0.62, color=SOFT if not is_significant else OURS if lift["ratio"] > 1 else THEIRS
            )
            top = lift.get("high") or lift["ratio"]
            if name != control:
                reach = [[lift["ratio"] - lift["low"]], [lift["high"] - lift["ratio"]]]
                axes.errorbar(at, lift["ratio"], reach, color=INK, capsize=4, lw=1.2)
            axes.annotate(
                f"{lift['ratio']:.2f}",
                (at, top),
                (0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=10,
                bbox={"boxstyle": "square,pad=0.15", "color": "white"},
            )
        axes.axhline(1, color=INK, lw=0.8, ls="--")
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xticks(
            range(len(names)),
            [f"{name.replace('_', ' ')}\n{100 * arms[name][kind]['rate']:.2f} %" for name in names],
            fontsize=9,
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        axes.margins(y=0.12)
    users = sum(arms[name]["users"] for name in names)
    figure.supxlabel(
        f"{users:,} listeners; {control.replace('_', ' ')} = 1; whiskers: {100 * (1 - alpha):g} % intervals over "
        f"listeners; blue: better, orange: worse at the {100 * alpha:g} % level (Holm), grey: not significant",
        fontsize=9,
    )
    return figure
