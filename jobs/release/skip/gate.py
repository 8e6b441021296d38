"""Judges a release of the skip engine: data, parity, AUC against a plain rate and the champion, calibration, latency.

Input   the bundle, the champion's bundle, skip_features of the judging plays, what training said of them
Plays   of a week its test split, the newest ones; of a day's update that day: nothing of the release learned from them

Challenger and champion are opened as the service would open them, and answer about the same plays, each with its own
cleaning, members and mix. What was known before each play comes from the feature table, point in time: the release's
own state reaches beyond these plays. Whatever the champion has learned from does not judge it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.errors import CheckFailed
from jobs.platform.files import file_digest
from jobs.release import pointer, rules
from jobs.release.rules import FAIL, PASS, SKIP, Line
from jobs.release.skip import bundle
from jobs.skip import artifacts, dataset
from models.skip.data.cleaning import Cleaning
from models.skip.data.play_history import Log
from models.skip.data.plays import Plays
from models.skip.ensemble.ensemble import logit
from models.skip.evaluation.metrics import (
    auc,
    auc_difference,
    auc_interval,
    bootstrap_difference,
    brier,
    calibration_error,
)
from serving.skip import answers
from serving.skip.release import MEMBERS, NETWORK, SkipRelease
from serving.skip.schema import SkipRequest

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.settings.skip import GateSettings

REQUIRED = ("plays",)
RATE = "user_rate"  # the listener's listened share so far: what a release must be better than
WARM_UP, N_TIMED = 20, 200


@dataclass(frozen=True, eq=False)
class Judged:
    """What a release says of the judging plays: chances of each member (N, M), and of all together (N,)."""

    members_NM: NDArray[np.float64]
    listen_N: NDArray[np.float64]


def check(folder: Path) -> None:
    """Open a bundle as the service would."""
    SkipRelease(folder)


def judge(context: Context, folder: Path, champion: pointer.Pointer | None) -> list[Line]:
    """All lines about a release."""
    release, gate = SkipRelease(folder), context.settings.skip.gate
    plays = judges(context, release)
    ours = judged(context, release, plays)
    heard_N, user_N = plays.labels(), plays.user_N
    rate_N = np.asarray(plays.numbers((RATE,))[:, 0], np.float64)
    lines = [rules.data_checks(release.document("quality"), REQUIRED)]
    if context.week.daily:
        lines += updated(context, release, champion, plays, ours)
    else:
        lines += parity(context, release, ours)
    lines.append(over_rate(heard_N, ours.listen_N, rate_N, user_N, gate.margin_over_rate))
    lines.append(champion_line(context, release, champion, plays, ours))
    lines += calibrated(heard_N, ours.listen_N, rate_N, gate)
    lines.append(flow_floor(plays, ours.listen_N, gate))
    lines.append(latency(release, user_N, gate))
    return lines


def judges(context: Context, release: SkipRelease) -> Plays:
    """The labelled plays that judge, as they are in the table, in order of time.

    Raises:
        CheckFailed: too few of them, or all of one class.
    """
    gate, since = context.settings.skip.gate, release.learned_until
    first = f"{datetime.fromtimestamp(since, UTC):%Y-%m-%d}"
    names = tuple(dict.fromkeys((*release.names, RATE)))
    plays = None
    if first < bundle.before(context):
        found, _ = dataset.read_rows(context, names, "past", first, bundle.before(context))
        plays = found.rows(slice(int(np.searchsorted(found.ts_N, since)), None))
    n = 0 if plays is None else len(plays)
    if plays is None or n < gate.min_plays:
        raise CheckFailed(
            f"skip gate: {n} labelled plays from {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M} on to judge with, "
            f"skip.gate.min_plays asks for {gate.min_plays}; a week needs skip.split.kind: global, a day its own plays"
        )
    if len(np.unique(plays.labels())) < 2:
        raise CheckFailed(f"skip gate: all {n} judging plays are of one class; no AUC can be told")
    return plays


def judged(context: Context, release: SkipRelease, plays: Plays) -> Judged:
    """What a release says of plays, each seen as it would have been before it began."""
    cleaned = seen(release, plays)
    log = history(context, release.cleaning) if release.looks_back else Log.empty()
    members_NM = np.stack([member.predict(cleaned, log) for member in release.members], axis=1)
    return Judged(members_NM, release.calibration(release.mix(logit(members_NM))))


def seen(release: SkipRelease, plays: Plays) -> Plays:
    """Plays as the release's members want them; the given ones stay as they are."""
    return release.cleaned(replace(plays, numbers_NF=plays.numbers_NF.copy()))


def history(context: Context, cleaning: Cleaning) -> Log:
    """What session models look back at: all plays; of each, those strictly earlier count."""
    return bundle.log_of(context, cleaning)


def parity(context: Context, release: SkipRelease, ours: Judged) -> list[Line]:
    """The bundle's ONNX members against what training said of the test plays."""
    bound, lines = context.settings.skip.gate.parity_tolerance, []
    for m, member in enumerate(release.members):
        said = artifacts.read_scores(context, member.name).test
        if len(said.proba_N) != len(ours.listen_N):
            why = f"training spoke of {len(said.proba_N)} test plays, {len(ours.listen_N)} judge"
            lines.append(Line(f"onnx parity {member.name}", None, bound, FAIL, why))
            continue
        lines.append(rules.parity(member.name, float(np.abs(said.proba_N - ours.members_NM[:, m]).max()), bound))
    return lines


def updated(
    context: Context, release: SkipRelease, champion: pointer.Pointer | None, plays: Plays, ours: Judged
) -> list[Line]:
    """An update's members: of the release that it came from, whose own gate has measured them, or ones that learned on.

    The latter are compared with the models that the update kept, on the plays that judge.
    """
    came_from, rule = str(release.provenance.get("updates")), "update of the champion"
    if champion is None or champion.release not in (came_from, release.name):
        now = "there is none" if champion is None else f"the champion is {champion.release[:12]}"
        return [Line(rule, None, None, FAIL, f"it was made from {came_from[:12]}, {now}; run the update again")]
    theirs, lines = pointer.releases(context.release_home) / came_from, []
    bound, log = context.settings.skip.gate.parity_tolerance, history(context, release.cleaning)
    for m, (member, told) in enumerate(zip(release.members, release.told["members"], strict=True)):
        file = Path(MEMBERS) / member.name / NETWORK
        if (theirs / file).is_file() and file_digest(theirs / file) == file_digest(release.folder / file):
            why = "the network that it came from, byte for byte"
            lines.append(Line(f"onnx parity {member.name}", 0.0, bound, PASS, why))
            continue
        model = artifacts.load_referenced_model(context, member.name, told["state"], log)
        said_N = model.predict_proba(seen(release, plays))
        lines.append(rules.parity(member.name, float(np.abs(said_N - ours.members_NM[:, m]).max()), bound))
    return lines


def over_rate(
    heard_N: NDArray[np.int8],
    ours_N: NDArray[np.float64],
    rate_N: NDArray[np.float64],
    user_N: NDArray[np.int64],
    margin: float,
) -> Line:
    """AUC above that of the listener's listened share so far; measured: the lower bound of the gain."""
    gain = auc_difference(heard_N, ours_N, rate_N, user_N)
    said = f"AUC {auc(heard_N, ours_N):.4f} against {auc(heard_N, rate_N):.4f} of the listener's share so far"
    why = f"{said}, {len(heard_N)} plays"
    return Line("better than a plain rate", gain.low, margin, PASS if gain.low >= margin else FAIL, why)


def champion_line(
    context: Context, release: SkipRelease, champion: pointer.Pointer | None, plays: Plays, ours: Judged
) -> Line:
    """AUC against the champion's on plays that neither has learned from; a change in AUC, users drawn again."""
    gate = context.settings.skip.gate
    theirs = rules.champion_of(context, release.folder.name, champion, SkipRelease)
    if isinstance(theirs, Line):
        return theirs
    missing = [name for name in theirs.names if name not in plays.names]
    if missing:
        why = f"the champion reads {', '.join(missing)}, which the feature table no longer has"
        return Line(rules.AGAINST, None, None, SKIP, why)
    unseen = slice(int(np.searchsorted(plays.ts_N, theirs.learned_until)), None)
    newest = plays.rows(unseen)
    if len(newest) < gate.min_plays or len(np.unique(newest.labels())) < 2:
        why = f"{len(newest)} plays that the champion has not learned from, fewer than {gate.min_plays}: not judged"
        return Line(rules.AGAINST, None, -gate.grey_zone, SKIP, why)
    ours_N, theirs_N = ours.listen_N[unseen], judged(context, theirs, newest).listen_N
    heard_N = newest.labels()
    found = bootstrap_difference(heard_N, ours_N, theirs_N, newest.user_N, gate.n_bootstrap, context.seed("gate"))
    said = f"AUC {auc(heard_N, ours_N):.4f} against {auc(heard_N, theirs_N):.4f}, {found.low:+.4f} to {found.high:+.4f}"
    return rules.judged_change(
        found.value, found.low, found.high, gate.grey_zone, gate.max_loss, said, f"{len(newest)} plays"
    )


def calibrated(
    heard_N: NDArray[np.int8], ours_N: NDArray[np.float64], rate_N: NDArray[np.float64], gate: GateSettings
) -> list[Line]:
    """Chances that can be believed: Brier's score not above the plain rate's, said and happened close together."""
    ours, plain, gap = brier(heard_N, ours_N), brier(heard_N, rate_N), calibration_error(heard_N, ours_N)
    return [
        Line("brier", ours, plain, PASS if ours <= plain else FAIL, "mean squared gap, against the listener's share"),
        Line(
            "calibration error",
            gap,
            gate.max_calibration_error,
            PASS if gap <= gate.max_calibration_error else FAIL,
            "mean gap of said and happened in ten groups of plays",
        ),
    ]


def flow_floor(plays: Plays, ours_N: NDArray[np.float64], gate: GateSettings) -> Line:
    """AUC on plays that the recommender chose: those that an order can change."""
    flow_N, heard_N = plays.is_flow_N, plays.labels()
    least = min(int((heard_N[flow_N] == label).sum()) for label in (0, 1))
    if least < gate.slice_min_plays:
        why = f"{least} Flow plays of the rarer class, fewer than {gate.slice_min_plays}: not judged"
        return Line("slice flow", None, gate.flow_min_auc, SKIP, why)
    found = auc_interval(heard_N[flow_N], ours_N[flow_N], plays.user_N[flow_N])
    why = f"AUC on {int(flow_N.sum())} Flow plays, {found.low:.4f} to {found.high:.4f}"
    return Line("slice flow", found.value, gate.flow_min_auc, PASS if found.value >= gate.flow_min_auc else FAIL, why)


def latency(release: SkipRelease, user_N: NDArray[np.int64], gate: GateSettings) -> Line:
    """99th percentile of one answer about a list of tracks, from the request on."""
    track_ids = release.state.tracks["track_id"]
    n = min(gate.latency_tracks, len(track_ids))
    rng = np.random.default_rng(0)
    at, times = datetime.fromtimestamp(release.state_until, UTC), []
    for turn in range(WARM_UP + N_TIMED):
        asked = SkipRequest(
            user_id=int(user_N[turn % len(user_N)]), at=at, tracks=rng.choice(track_ids, n, replace=False).tolist()
        )
        start = time.perf_counter()
        answers.skips(release, asked)
        if turn >= WARM_UP:
            times.append(time.perf_counter() - start)
    p99_ms = float(np.quantile(times, 0.99) * 1000)
    why = f"one listener, {n} tracks, from the request to the chances"
    return Line("latency p99 ms", p99_ms, gate.latency_ms, PASS if p99_ms <= gate.latency_ms else FAIL, why)
