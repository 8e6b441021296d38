"""The rules of the gate: each takes metrics and returns one line with a verdict.

Verdicts are `pass`, `fail`, `skip` (not evaluated) and `grey`: the data is too little to decide, so a person does. The
comparisons with the champion and the anchor are tests of non-inferiority: a release passes if the lower bound of the
change excludes a loss of more than delta, not if a loss is not proven. Nothing is read or written here, except that
`open_rival` opens a bundle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release.destination import release_folder
from models.arrays import AnyMatrix, AnyVector
from models.evaluation.experiments import adjust_holm
from models.evaluation.metrics import paired_bootstrap
from models.evaluation.paired import MIN_LISTENERS, PairedDifference

PASS, GREY, FAIL, SKIP = "pass", "grey", "fail", "skip"
REQUIRED_TABLES = ("users", "tracks", "events", "playlists")
CHAMPION_RULE, ANCHOR_RULE = "against champion", "against anchor"
LATENCY_TRIES = 3
ALPHA = 0.05  # error rate over all slices
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


def non_inferiority(
    rule: str, change: float, low: float, high: float, delta: float, comparison: str, sample: str
) -> GateLine:
    """Check that a release is not worse than a rival by more than delta.

    Args:
        rule: name of the line.
        change: the measured change against the rival; negative is a loss.
        low: lower 95 % bound of the change.
        high: upper 95 % bound of the change.
        delta: largest accepted loss, in the unit of `change`.
        comparison: both values, as text.
        sample: size of the sample, as text, such as "120 listeners".

    Returns:
        The line: `pass` if the lower bound is above -delta, `fail` if the upper bound is below it, otherwise `grey`.
    """
    measured = change if np.isfinite(change) else None
    bounds = f"{comparison}; change {_signed(low)} to {_signed(high)}" if np.isfinite(low) else comparison
    if low > -delta:
        return GateLine(rule, measured, -delta, PASS, bounds)
    if high < -delta:
        return GateLine(rule, measured, -delta, FAIL, f"{bounds}: worse by more than {delta:g}")
    if not change - low < delta:
        why = f"{bounds}: {sample} are too few to exclude a loss of {delta:g}; approval needed"
    else:
        why = f"{bounds}: a loss of more than {delta:g} is not excluded; approval needed"
    return GateLine(rule, measured, -delta, GREY, why)


def not_worse_than(rule: str, ours_B: AnyVector, rival_B: AnyVector, delta: float, rival: str) -> GateLine:
    """Check that a release is not worse than a rival for the same listeners.

    Args:
        rule: name of the line.
        ours_B: metric of the release, by listener.
        rival_B: metric of the rival for the same listeners.
        delta: largest accepted loss, relative to the rival's mean (gate.delta).
        rival: the rival and what was compared, as text.

    Returns:
        The line; measured is the relative change of the mean. It is `grey` below MIN_LISTENERS listeners.
    """
    if not len(ours_B):
        return GateLine(rule, None, -delta, GREY, f"{rival}: no listener to compare; approval needed")
    difference = PairedDifference.of(ours_B, rival_B)
    low, high = difference.bounds() if difference.n >= MIN_LISTENERS else (-np.inf, np.inf)
    comparison = f"{_number(difference.ours)}, {rival} {_number(difference.rival)}, {difference.n} listeners"
    return non_inferiority(rule, difference.change, low, high, delta, comparison, f"{difference.n} listeners")


def open_rival(
    context: Context, rule: str, release: str, rival: str, open_bundle: Callable[[Path], Opened]
) -> Opened | GateLine:
    """Return the release to compare with, or the line that explains why there is no comparison.

    Args:
        context: week and folders.
        rule: name of the line: CHAMPION_RULE or ANCHOR_RULE.
        release: name of the evaluated release.
        rival: name of the champion or the anchor.
        open_bundle: opens the folder of a release, as the service does.
    """
    if rival == release:
        return GateLine(rule, 0.0, None, PASS, "the same release")
    try:
        folder = release_folder(context, rival)
        week = str(json.loads((folder / "provenance.json").read_text())["week"])
        if week[:10] > str(context.week):
            why = f"no comparison: release {rival[:12]} is of the later week {week}, trained on these evaluation days"
            return GateLine(rule, None, None, SKIP, why)
        return open_bundle(folder)
    except (CheckFailed, OSError, ValueError, KeyError, TypeError) as error:
        return GateLine(rule, None, None, FAIL, f"cannot be opened: {error}")


def confirmed(line: GateLine, week: Week, since: str, anchor_weeks: int) -> GateLine:
    """Return the line about the anchor, `grey` instead of `pass` if nobody has confirmed the anchor for long.

    Args:
        line: the comparison with the anchor.
        week: the evaluated week.
        since: name of the week in which the anchor was set or confirmed.
        anchor_weeks: weeks after which a person must confirm it (gate.anchor_weeks).
    """
    n_weeks = (week.as_of - Week.from_name(since).as_of).days // 7
    if line.verdict != PASS or n_weeks < anchor_weeks:
        return line
    ask = "approval needed, or `overture anchor --confirm`"
    why = f"{line.why}; the anchor was set or confirmed {n_weeks} weeks ago: {ask}"
    return replace(line, verdict=GREY, why=why)


@dataclass(frozen=True)
class SliceValues:
    """Metric of the release and of Popularity for the listeners of one slice; `about` names the listeners."""

    ours_B: AnyVector
    popularity_B: AnyVector
    about: str = "listeners"


def slice_lines(slices: Mapping[str, SliceValues], min_users: int, required: Sequence[str]) -> list[GateLine]:
    """Check that the release is not worse than Popularity in any slice of the cohort.

    A slice fails if it is worse with the confidence of 95 % over all slices together (Holm).

    Args:
        slices: values by name of the slice.
        min_users: slices with fewer listeners are not evaluated.
        required: slices whose evaluation the release needs: with too few listeners they are `grey`, others `skip`.

    Returns:
        A line for each slice, and for each required one that has no listener; measured is the ratio of the means.
    """
    enough = {name: values for name, values in slices.items() if len(values.ours_B) >= min_users}
    differences = {name: PairedDifference.of(values.ours_B, values.popularity_B) for name, values in enough.items()}
    p_values = adjust_holm({name: difference.p_not_worse for name, difference in differences.items()})
    lines = []
    for name in [*slices, *(name for name in required if name not in slices)]:
        rule = f"slice {name}"
        if name not in differences:
            n = len(slices[name].ours_B) if name in slices else 0
            verdict = GREY if name in required else SKIP
            why = f"not evaluated: {n} listeners, fewer than {min_users}"
            lines.append(GateLine(rule, None, 1.0, verdict, why + ("; approval needed" if verdict == GREY else "")))
            continue
        difference, p_value = differences[name], p_values[name]
        ratio = 1 + difference.change
        worse = f"; worse, p = {p_value:.3g} over all slices" if p_value <= ALPHA else ""
        why = (
            f"{_number(difference.ours)}, Popularity {_number(difference.rival)}; "
            f"{difference.n} {slices[name].about}{worse}"
        )
        measured = ratio if np.isfinite(ratio) else None
        lines.append(GateLine(rule, measured, 1.0, FAIL if worse else PASS, why))
    return lines


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
