"""The rules of the gate: each takes metrics and returns one line with a verdict.

Verdicts are `pass`, `fail`, `skip` (not evaluated, because there is too little data) and `grey`. Only the comparison
with the champion can be `grey`: a significant loss that is small enough for an operator to accept. Intervals are 95 %
paired bootstraps over listeners. Nothing is read or written here, except that `open_champion` opens a bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.release.destination import release_folder
from models.arrays import AnyMatrix, AnyVector
from models.evaluation.metrics import paired_bootstrap
from serving.release.pointer import Pointer

PASS, GREY, FAIL, SKIP = "pass", "grey", "fail", "skip"
REQUIRED_TABLES = ("users", "tracks", "events", "playlists")
CHAMPION_RULE = "against champion"
LATENCY_TRIES = 3
Opened = TypeVar("Opened")


@dataclass(frozen=True)
class GateLine:
    """The verdict of one rule.

    Attributes:
        rule: name of the rule; also the name of its metric in MLflow.
        measured: the measured value; None where the rule was not evaluated.
        bound: the value that it is compared with.
        verdict: pass, grey, fail or skip.
        why: explanation of the numbers.
    """

    rule: str
    measured: float | None
    bound: float | None
    verdict: str
    why: str


def overall_verdict(lines: Sequence[GateLine]) -> str:
    """Return fail if any line fails or there are none, otherwise grey if any line is grey, otherwise pass."""
    verdicts = {line.verdict for line in lines}
    if FAIL in verdicts or not verdicts:
        return FAIL
    return GREY if GREY in verdicts else PASS


def data_checks(results: Mapping[str, Mapping[str, Any]], required: Sequence[str] = REQUIRED_TABLES) -> GateLine:
    """Check that the data checks of every table passed, and that the required tables were checked.

    Args:
        results: quality.json of the release: by table {success, failed, warned}.
        required: tables whose checks must have run.

    Returns:
        The line; measured is the number of tables that failed or were not checked.
    """
    missing = [table for table in required if table not in results]
    failed = sorted(table for table, result in results.items() if not result["success"])
    warned = sorted(table for table, result in results.items() if result["warned"])
    why = f"checked: {', '.join(sorted(results))}" + (f"; warnings in {', '.join(warned)}" if warned else "")
    if missing:
        why = f"not checked: {', '.join(missing)}; run `overture check {' '.join(missing)}`"
    if failed:
        why = f"failed: {', '.join(failed)}"
    return GateLine("data checks", len(failed) + len(missing), 0, FAIL if failed or missing else PASS, why)


def onnx_parity(space: str, difference: float, bound: float) -> GateLine:
    """Check the ONNX network of a bundle against the predictions of the trained model.

    Args:
        space: name of the space, or of the member, for the rule's name.
        difference: largest absolute difference.
        bound: largest allowed difference (gate.parity_tolerance).
    """
    passed = difference <= bound
    why = "largest difference between ONNX and the model" + (
        "" if passed else ": export or inputs differ from training"
    )
    return GateLine(f"onnx parity {space}", difference, bound, PASS if passed else FAIL, why)


def better_than_popularity(
    ours_B: AnyVector, popularity_B: AnyVector, margin: float, n: int = 1_000, seed: int = 0
) -> GateLine:
    """Check that the gain over Popularity is significant and reaches the margin.

    Args:
        ours_B: metric of the release, by listener.
        popularity_B: metric of Popularity for the same listeners.
        margin: smallest allowed lower bound of the gain, relative to the mean of Popularity.
        n: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    rule = "better than popularity"
    if not len(ours_B):
        return GateLine(rule, None, margin, FAIL, "the cohort is empty")
    mean, low, _ = paired_bootstrap(ours_B, popularity_B, n, seed)
    base = float(popularity_B.mean())
    gain = low / base if base else float(low > 0)
    why = f"{_number(ours_B.mean())}, Popularity {_number(base)}, gain {_signed(mean)}, lower bound {_signed(low)}"
    return GateLine(rule, gain, margin, PASS if low > 0 and gain >= margin else FAIL, why)


def track_index_recall(recall: float, bound: float, n_listeners: int, k: int) -> GateLine:
    """Check the approximate index of a large catalogue against exact lists.

    Args:
        recall: mean share of the exact list that the index finds, with bans and the block list applied.
        bound: smallest allowed share (track_index.min_recall).
        n_listeners: listeners of the comparison.
        k: length of the lists.
    """
    why = (
        f"share of the exact first {k} tracks that the index finds, without banned and blocked; {n_listeners} listeners"
    )
    return GateLine("track index recall", recall, bound, PASS if recall >= bound else FAIL, why)


def cost_of_rules(before: float, after: float, artists_before: float, artists_after: float) -> GateLine:
    """Report what the rules of lists change. They are a decision of the service, so the line always passes.

    Args:
        before: mean metric of the method's own lists.
        after: mean metric of the lists under the rules, as they are served.
        artists_before: mean number of distinct artists in the method's own lists.
        artists_after: mean number of distinct artists in the lists under the rules.

    Returns:
        The line; measured is the relative change of the metric.
    """
    change = (after - before) / before if before else 0.0
    why = (
        f"{_number(after)} with the rules of lists, {_number(before)} without; {artists_after:.1f} distinct artists, "
        f"{artists_before:.1f} without"
    )
    return GateLine("rules of lists", change, None, PASS, why)


def not_worse_than_champion(
    ours_B: AnyVector, champion_B: AnyVector, grey_zone: float, max_loss: float, n: int = 1_000, seed: int = 0
) -> GateLine:
    """Check non-inferiority: the release is not worse than the champion for the same listeners.

    Args:
        ours_B: metric of the release, by listener.
        champion_B: metric of the champion for the same listeners.
        grey_zone: largest relative loss that an operator may accept.
        max_loss: relative loss that fails even if it is not significant.
        n: number of bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        The line; measured is the relative change of the mean.
    """
    if not len(ours_B):
        return GateLine(CHAMPION_RULE, None, -grey_zone, FAIL, "the cohort is empty")
    mean, low, high = paired_bootstrap(ours_B, champion_B, n, seed)
    base = float(champion_B.mean())
    change = mean / base if base else float(mean > 0)
    comparison = f"{_number(ours_B.mean())}, champion {_number(base)}, change {_signed(low)} to {_signed(high)}"
    return change_line(change, low, high, grey_zone, max_loss, comparison, f"{len(ours_B)} listeners")


def change_line(
    change: float, low: float, high: float, grey_zone: float, max_loss: float, comparison: str, sample: str
) -> GateLine:
    """Return the line about a change against the champion.

    A loss is significant if the whole interval is below zero. A significant loss within the grey zone is `grey`. A loss
    of more than `max_loss` fails even if the sample is too small for significance.

    Args:
        change: the measured change.
        low: lower bound of its interval.
        high: upper bound of its interval.
        grey_zone: largest loss that an operator may accept.
        max_loss: loss that fails even if it is not significant.
        comparison: both values and the interval, as text.
        sample: size of the sample, as text, such as "120 listeners".
    """
    if high < 0 and change >= -grey_zone:
        return GateLine(
            CHAMPION_RULE, change, -grey_zone, GREY, f"{comparison}: a small, significant loss; approval needed"
        )
    if high < 0:
        return GateLine(CHAMPION_RULE, change, -grey_zone, FAIL, f"{comparison}: a significant loss")
    if change < -max_loss:
        return GateLine(
            CHAMPION_RULE,
            change,
            -max_loss,
            FAIL,
            f"{comparison}: a loss above gate.max_loss, although not significant on {sample}",
        )
    return GateLine(
        CHAMPION_RULE, change, -grey_zone, PASS, comparison if low <= 0 else f"{comparison}: significantly better"
    )


def open_champion(
    context: Context, release: str, champion: Pointer | None, open_bundle: Callable[[Path], Opened]
) -> Opened | GateLine:
    """Return the champion to compare a release with, or the line that explains why there is no comparison.

    Args:
        context: week and folders.
        release: name of the evaluated release.
        champion: the pointer; None before the first promotion.
        open_bundle: opens the folder of a release, as the service does.
    """
    if champion is None:
        return GateLine(CHAMPION_RULE, None, None, PASS, "first release: there is no champion yet")
    if champion.release == release:
        return GateLine(CHAMPION_RULE, 0.0, None, PASS, "same release as the champion")
    if champion.week[:10] > str(context.week):
        why = f"no comparison: the champion is of the later week {champion.week}, trained on these evaluation days"
        return GateLine(CHAMPION_RULE, None, None, SKIP, why)
    try:
        return open_bundle(release_folder(context, champion.release))
    except CheckFailed as error:
        return GateLine(CHAMPION_RULE, None, None, FAIL, f"the champion cannot be opened: {error}")


def slice_ratio(name: str, ours_B: AnyVector, popularity_B: AnyVector, min_ratio: float, min_users: int) -> GateLine:
    """Check that the release reaches a minimal ratio to Popularity in one slice of the cohort.

    Args:
        name: name of the slice.
        ours_B: metric of the release, by listener of the slice.
        popularity_B: metric of Popularity for the same listeners.
        min_ratio: smallest allowed ratio of the means (gate.slice_min_ratio).
        min_users: slices with fewer listeners are not evaluated.
    """
    rule = f"slice {name}"
    if len(ours_B) < min_users:
        return GateLine(rule, None, min_ratio, SKIP, f"not evaluated: {len(ours_B)} listeners, fewer than {min_users}")
    base = float(popularity_B.mean())
    ratio = float(ours_B.mean()) / base if base else float("inf")
    why = f"{_number(ours_B.mean())}, Popularity {_number(base)}; {len(ours_B)} listeners"
    measured = ratio if np.isfinite(ratio) else None
    return GateLine(rule, measured, min_ratio, PASS if ratio >= min_ratio else FAIL, why)


def popularity_share(recommended_BK: AnyMatrix, n_tracks: int, bound: float) -> GateLine:
    """Check the popularity bias: the share of recommended places taken by the most popular 1 % of the catalogue.

    Args:
        recommended_BK: track_idx of each listener's list; track_idx is the popularity rank.
        n_tracks: size of the catalogue.
        bound: largest allowed share.
    """
    head = max(1, n_tracks // 100)
    share = float((recommended_BK < head).mean()) if recommended_BK.size else 1.0
    distinct = len(np.unique(recommended_BK))
    why = f"share of places taken by the {head} most popular tracks; {distinct} of {n_tracks} tracks recommended"
    return GateLine("popularity bias", share, bound, PASS if share <= bound else FAIL, why)


def latency(measure_p99_ms: Callable[[], float], bound_ms: float, what: str) -> GateLine:
    """Check the 99th percentile of the time for one request; one that is too long is measured again before it fails.

    Args:
        measure_p99_ms: measures it, in milliseconds. Other processes of the machine only make it longer, so the
            shortest of LATENCY_TRIES measurements counts.
        bound_ms: longest allowed time, in milliseconds.
        what: what is timed.
    """
    p99_ms, n = measure_p99_ms(), 1
    while p99_ms > bound_ms and n < LATENCY_TRIES:
        p99_ms, n = min(p99_ms, measure_p99_ms()), n + 1
    why = what if n == 1 else f"{what}; the shortest of {n} measurements"
    return GateLine("latency p99 ms", p99_ms, bound_ms, PASS if p99_ms <= bound_ms else FAIL, why)


def _number(value: float) -> str:
    return f"{float(value):.4f}"


def _signed(value: float) -> str:
    return f"{float(value):+.4f}"
