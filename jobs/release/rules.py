"""The gate's rules: numbers in, one line each out. But for opening the champion nothing is read or written here.

A line passes, fails, or is `skip`ped where there is too little to judge. Only the comparison with the champion can be
`grey`: a proven loss small enough for a person to accept. Intervals are 95 % paired bootstraps over listeners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from models.evaluation.metrics import paired_bootstrap
from serving.release.pointer import Pointer, releases

PASS, GREY, FAIL, SKIP = "pass", "grey", "fail", "skip"
REQUIRED = ("users", "tracks", "events", "playlists")
AGAINST = "against champion"
Opened = TypeVar("Opened")


@dataclass(frozen=True)
class Line:
    """One rule's verdict: what was measured, the bound, and a reason for people."""

    rule: str
    measured: float | None
    bound: float | None
    verdict: str
    why: str


def verdict(lines: Sequence[Line]) -> str:
    """Fail when any line fails, else grey when one is grey, else pass; no lines at all fail."""
    said = {line.verdict for line in lines}
    if FAIL in said or not said:
        return FAIL
    return GREY if GREY in said else PASS


def data_checks(results: Mapping[str, Mapping[str, Any]], required: Sequence[str] = REQUIRED) -> Line:
    """Every table's checks passed, and the source tables were checked at all. measured: tables that failed."""
    missing = [table for table in required if table not in results]
    failed = sorted(table for table, result in results.items() if not result["success"])
    warned = sorted(table for table, result in results.items() if result["warned"])
    why = f"checked: {', '.join(sorted(results))}" + (f"; warnings in {', '.join(warned)}" if warned else "")
    if missing:
        why = f"not checked: {', '.join(missing)}; run `overture check {' '.join(missing)}`"
    if failed:
        why = f"failed: {', '.join(failed)}"
    return Line("data checks", len(failed) + len(missing), 0, FAIL if failed or missing else PASS, why)


def parity(space: str, difference: float, bound: float) -> Line:
    """The bundle's ONNX network, fed by the bundle's own inputs, against the model's own predictions."""
    fine = difference <= bound
    why = "largest difference of ONNX from the model" + ("" if fine else ": export or inputs differ from training")
    return Line(f"onnx parity {space}", difference, bound, PASS if fine else FAIL, why)


def over_popularity(ours_B: np.ndarray, popularity_B: np.ndarray, margin: float, n: int = 1_000, seed: int = 0) -> Line:
    """Lower bound of the gain over Popularity, relative to Popularity's mean, must reach the margin."""
    rule = "better than popularity"
    if not len(ours_B):
        return Line(rule, None, margin, FAIL, "the cohort is empty")
    mean, low, _ = paired_bootstrap(ours_B, popularity_B, n, seed)
    base = float(popularity_B.mean())
    gain = low / base if base else float(low > 0)
    why = f"{_number(ours_B.mean())} against {_number(base)}, gain {_signed(mean)}, at least {_signed(low)}"
    return Line(rule, gain, margin, PASS if low > 0 and gain >= margin else FAIL, why)


def against_champion(
    ours_B: np.ndarray, champion_B: np.ndarray, grey_zone: float, max_loss: float, n: int = 1_000, seed: int = 0
) -> Line:
    """Not worse than the champion on the same listeners; measured: relative change of the mean.

    A loss is proven when the whole interval is below zero. Proven and within the grey zone: a person decides.
    A loss of more than `max_loss` fails even where the cohort is too small to prove it.
    """
    if not len(ours_B):
        return Line(AGAINST, None, -grey_zone, FAIL, "the cohort is empty")
    mean, low, high = paired_bootstrap(ours_B, champion_B, n, seed)
    base = float(champion_B.mean())
    change = mean / base if base else float(mean > 0)
    said = f"{_number(ours_B.mean())} against {_number(base)}, change {_signed(low)} to {_signed(high)}"
    return judged_change(change, low, high, grey_zone, max_loss, said, f"{len(ours_B)} listeners")


def judged_change(
    change: float, low: float, high: float, grey_zone: float, max_loss: float, said: str, whom: str
) -> Line:
    """The line about a change against the champion whose interval is low to high; `whom`: who it was measured on."""
    if high < 0 and change >= -grey_zone:
        return Line(AGAINST, change, -grey_zone, GREY, f"{said}: a small, proven loss; a person decides")
    if high < 0:
        return Line(AGAINST, change, -grey_zone, FAIL, f"{said}: a proven loss")
    if change < -max_loss:
        return Line(AGAINST, change, -max_loss, FAIL, f"{said}: not proven on {whom}, but too large")
    return Line(AGAINST, change, -grey_zone, PASS, said if low <= 0 else f"{said}: better")


def champion_of(
    context: Context, release: str, champion: Pointer | None, opened: Callable[[Path], Opened]
) -> Opened | Line:
    """The champion to compare a release with, as `opened` gives it; or the line that says why there is none."""
    if champion is None:
        return Line(AGAINST, None, None, PASS, "first release: there is no champion yet")
    if champion.release == release:
        return Line(AGAINST, 0.0, None, PASS, "same release as the champion")
    if champion.week[:10] > str(context.week):
        why = f"the champion is of the later week {champion.week}: it has seen the days that judge; it is kept"
        return Line(AGAINST, None, None, SKIP, why)
    try:
        return opened(releases(context.release_home) / champion.release)
    except CheckFailed as error:
        return Line(AGAINST, None, None, FAIL, f"the champion cannot be opened: {error}")


def slice_floor(name: str, ours_B: np.ndarray, popularity_B: np.ndarray, floor: float, min_users: int) -> Line:
    """A slice of the cohort keeps at least this share of what Popularity is worth there."""
    rule = f"slice {name}"
    if len(ours_B) < min_users:
        return Line(rule, None, floor, SKIP, f"{len(ours_B)} listeners, fewer than {min_users}: not judged")
    base = float(popularity_B.mean())
    share = float(ours_B.mean()) / base if base else float("inf")
    why = f"{_number(ours_B.mean())} against Popularity's {_number(base)}, {len(ours_B)} listeners"
    return Line(rule, share if np.isfinite(share) else None, floor, PASS if share >= floor else FAIL, why)


def popularity_share(recommended_BK: np.ndarray, n_tracks: int, bound: float) -> Line:
    """Share of recommended places that go to the most popular 1 % of the catalogue (track_idx is popularity rank)."""
    head = max(1, n_tracks // 100)
    share = float((recommended_BK < head).mean()) if recommended_BK.size else 1.0
    distinct = len(np.unique(recommended_BK))
    why = f"places taken by the {head} most popular tracks; {distinct} of {n_tracks} tracks recommended"
    return Line("popularity bias", share, bound, PASS if share <= bound else FAIL, why)


def latency(p99_ms: float, bound_ms: float) -> Line:
    """99th percentile of one answer, milliseconds."""
    why = "one listener, from the input row to the list"
    return Line("latency p99 ms", p99_ms, bound_ms, PASS if p99_ms <= bound_ms else FAIL, why)


def _number(value: float) -> str:
    return f"{float(value):.4f}"


def _signed(value: float) -> str:
    return f"{float(value):+.4f}"
