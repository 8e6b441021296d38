"""Evaluate methods on the validation and the test cohort, by slice, with bootstrap intervals.

The weekly run evaluates `evaluation.methods`, a backtest all methods but the peers. Methods of
models/cold_start/methods/registry.py that learn are trained here.

Input   features, cohort, first_day, track_vectors, segments, catalog, work/<week>/<space>/network.onnx; to train
        baselines also warm_users, user_vectors, user_track
Output  evaluation, partition week=<week> space=<space>
Grain   one row per method, split, slice, metric and k
Rules   `value` and its interval: lists as methods make them, which comparisons with the literature require (heard
        tracks are left out if `rules.heard` requires it). `with_rules`: lists under all rules, as they are served
Source  paper 4.1; metrics in models/evaluation/metrics.py. The network is evaluated as it is
        served: through onnxruntime
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from contracts.errors import CheckFailed
from jobs.cold_start.methods import build_methods
from jobs.cold_start.track_facts import track_facts
from jobs.cold_start.training_data import catalogue, first_days, load
from jobs.platform import figures
from jobs.platform.context import Context
from jobs.settings.base import Space
from jobs.tracking.tracker import Tracker
from models.arrays import IdVector, IntMatrix
from models.cold_start.input_vector import AGE_CLASSES, FirstDays, age_classes
from models.cold_start.list_rules import TrackFacts
from models.cold_start.methods.ruled import ruled_lists
from models.cold_start.ragged import Ragged
from models.cold_start.top_k import normalise
from models.evaluation.metrics import artist_share, bootstrap, score

METRICS = ("precision", "recall", "ndcg", "artists")
MAX_COUNTRIES = 5


@dataclass(frozen=True)
class Cohort:
    """One split of the cohort: ids (B,), inputs (B, F), truth of B rows, slices by name (B,) bool, first days."""

    split: str
    user_id: np.ndarray
    x_BF: np.ndarray
    truth: Ragged
    slices: dict[str, np.ndarray]
    days: FirstDays


@dataclass(frozen=True)
class Lists:
    """Lists of one method, (B, k): without rules, and under all rules; see models/cold_start/methods/ruled.py."""

    without_BK: IntMatrix
    ruled_BK: IntMatrix


def run(context: Context, space: Space) -> dict[str, Any]:
    """Recommend, score and write; return the report for Airflow."""
    settings = context.settings.evaluation
    with Tracker.task(context, "evaluate", space) as run:
        facts = track_facts(context)
        rows: list[dict[str, Any]] = []
        recommended: dict[str, np.ndarray] = {}
        for cohort, method, lists in evaluated_lists(context, space, facts, run):
            rows += evaluation_rows(context, method, cohort, lists, facts.artist_N)
            if cohort.split == "test":
                recommended[method] = lists.without_BK
        frame = pd.DataFrame(rows)
        written = context.lake.write(
            "evaluation",
            pa.Table.from_pandas(frame.astype({"k": "int32", "n_users": "int32"}), preserve_index=False),
            report={"methods": list(recommended), "commit": context.commit},
            week=context.week.name,
            space=space,
        )
        log(context, run, space, rows, recommended)
        return {"rows": written.rows, "path": written.path, **headline(rows, max(settings.k)), **run.links}


def evaluated_lists(
    context: Context, space: Space, facts: TrackFacts, run: Tracker
) -> Iterator[tuple[Cohort, str, Lists]]:
    """Build the methods of the settings, and yield the cohort, the name and the lists of each, by split."""
    methods = build_methods(context, space, run)
    longest, rules = max(context.settings.evaluation.k), context.settings.rules.rules()
    track_ids = catalogue(context).track_id_N
    unit_ND = normalise(context.lake.matrix("track_vectors", week=context.week.name, space=space))
    for split in ("validation", "test"):
        cohort = read_cohort(context, space, split)
        for method in methods:
            lists = ruled_lists(method, cohort.x_BF, longest, cohort.days, track_ids, facts, rules, unit_ND)
            yield cohort, method.name, Lists(*lists)


def read_cohort(context: Context, space: Space, split: str) -> Cohort:
    """Return inputs, truth and slices of one split, joined by user id."""
    lake, week = context.lake, context.week.name
    user_id, x_BF = load(context, space, split)
    if not len(user_id):
        raise CheckFailed(
            f"cohort: week {week} has no {split} users; nobody registered in "
            f"[{context.week.cohort_start:%Y-%m-%d}, {context.week.cohort_end:%Y-%m-%d}) streamed "
            f"{context.settings.matrix.min_truth_tracks} catalogue tracks in the month after"
        )
    table = lake.read("cohort", week=week)
    place = {user: row for row, user in enumerate(table.column("user_id").to_pylist())}
    truth = table.column("truth").combine_chunks().take(pa.array([place[u] for u in user_id.tolist()]))
    ragged = Ragged(truth.offsets.to_numpy().astype(np.int64), truth.flatten().to_numpy().astype(np.int64))
    days = first_days(context, split, user_id)
    return Cohort(split, user_id, x_BF, ragged, slices(days), days)


def slices(days: FirstDays) -> dict[str, np.ndarray]:
    """Return the slices: all, with and without first-day interactions, the largest countries, age classes."""
    without_interactions = days.without_interactions()
    slice_masks: dict[str, np.ndarray] = {
        "all": np.ones(len(days.age), bool),
        "interactions=none": without_interactions,
        "interactions=some": ~without_interactions,
    }
    country = pd.Series(days.country, dtype=object)
    for name in country.value_counts().index[:MAX_COUNTRIES]:
        slice_masks[f"country={name}"] = (country == name).to_numpy()
    slice_masks["country=unknown"] = country.isna().to_numpy()
    classes = age_classes(days.age)
    for index, name in enumerate(AGE_CLASSES):
        slice_masks[f"age={name}"] = classes == index
    slice_masks["age=unknown"] = classes < 0
    return slice_masks


def evaluation_rows(
    context: Context, method: str, cohort: Cohort, lists: Lists, artist_N: IdVector
) -> list[dict[str, Any]]:
    """Return the rows of the evaluation table for one method on one split.

    Args:
        context: settings and seed.
        method: name of the method.
        cohort: the listeners.
        lists: the method's lists.
        artist_N: main artists of the tracks, by track_idx.
    """
    settings, rows = context.settings.evaluation, []
    for k in settings.k:
        values, ruled = (
            score(lists_BK[:, :k], cohort.truth, k) | {"artists": artist_share(lists_BK[:, :k], artist_N)}
            for lists_BK in (lists.without_BK, lists.ruled_BK)
        )
        for name, chosen in cohort.slices.items():
            if chosen.sum() < settings.min_slice_users and name != "all":
                continue
            for metric in METRICS:
                of_slice = values[metric][chosen]
                low, high = bootstrap(of_slice, settings.n_bootstrap, context.seed(f"bootstrap/{cohort.split}"))
                rows.append(
                    {
                        "method": method,
                        "split": cohort.split,
                        "slice": name,
                        "metric": metric,
                        "k": k,
                        "n_users": int(chosen.sum()),
                        "value": float(of_slice.mean()),
                        "with_rules": float(ruled[metric][chosen].mean()),
                        "low": low,
                        "high": high,
                    }
                )
    return rows


def headline(rows: list[dict[str, Any]], k: int) -> dict[str, float]:
    """Return the NDCG of each method on the whole test cohort, for the last line of stdout."""
    return {
        f"{row['method']}_ndcg": round(row["value"], 4)
        for row in rows
        if (row["split"], row["slice"], row["metric"], row["k"]) == ("test", "all", "ndcg", k)
    }


def log(
    context: Context, run: Tracker, space: Space, rows: list[dict[str, Any]], recommended: dict[str, np.ndarray]
) -> None:
    """Log every metric and the figures to MLflow."""
    whole = [row for row in rows if row["slice"] == "all"]
    run.log_metrics({f"{r['split']}.{r['method']}.{r['metric']}_at_{r['k']}": r["value"] for r in whole})
    run.log_table(rows, "evaluation.json")
    run.log_dataset("cohort", use="evaluation", week=context.week.name)
    test = pd.DataFrame([row for row in whole if row["split"] == "test"])
    run.log_figure(figures.metric_bars(test, space), "metric_bars.png")
    n_tracks = context.lake.rows("catalog", week=context.week.name)
    run.log_figure(figures.popularity_ranks(recommended, n_tracks), "popularity_ranks.png")
