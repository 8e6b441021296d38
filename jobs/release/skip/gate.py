"""Evaluates a skip release: data checks, ONNX parity, AUC against a baseline and the champion, calibration, latency.

Input   the bundle, the champion's bundle, skip_features of the evaluation plays, the test scores of training
Plays   of a week its test split, the newest plays; of a daily update the plays of that day. No part of the evaluated
        ensemble was trained on them

A weekly release serves members that were trained on all labelled plays, also on the test split. The gate of a week
therefore evaluates the ensemble of the time split (`evaluated/` in the bundle): same recipes, stopping points, weights
and calibration, trained on the earlier plays. It is compared with the champion's ensemble of its own time split, on
plays that neither was trained on. A daily update is evaluated, and compared with the champion, as it is served.

Challenger and champion are opened as the service opens them, and predict the same plays, each with its own cleaning,
members and weights. The features of each play come from the feature table (point-in-time), because the release's own
state already contains these plays.
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
from jobs.release.destination import release_folder
from jobs.release.registry import Anchor
from jobs.release.rules import FAIL, PASS, SKIP, GateLine
from jobs.release.skip.bundle import read_blend_plays
from jobs.release.skip.snapshot import end_day, read_play_log
from jobs.skip import artifacts, dataset
from models.arrays import DoubleMatrix, DoubleVector, IdVector
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
from serving.skip.release import MEMBERS, NETWORK, Ensemble, SkipRelease
from serving.skip.schema import SkipRequest, TrackReference

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.settings.skip import GateSettings

REQUIRED_TABLES = ("plays",)  # their data checks must have passed
BASELINE = "user_rate"  # the share of the user's earlier plays that was listened to: the baseline of the gate
UNSEEN_RULE = "unseen listeners"
N_WARM_UP, N_TIMED = 20, 200


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a release for N evaluation plays.

    Attributes:
        members_NM: probabilities of each member.
        listen_N: probabilities of the ensemble.
    """

    members_NM: DoubleMatrix
    listen_N: DoubleVector


def check_loads(folder: Path) -> None:
    """Open a bundle as the service opens it.

    Raises:
        CheckFailed: it is damaged, or of another format.
    """
    SkipRelease(folder)


def evaluate(context: Context, folder: Path, champion: pointer.Pointer | None, anchor: Anchor | None) -> list[GateLine]:
    """Return all lines of the gate for a release.

    Args:
        context: week (or day), lake and settings.
        folder: the bundle of the release.
        champion: the release in service, if there is one.
        anchor: the anchor, if there is one.

    Raises:
        CheckFailed: there are too few evaluation plays, or they are all of one class.
    """
    release, gate = SkipRelease(folder), context.settings.skip.gate
    evaluated = evaluated_ensemble(context, release)
    plays = evaluation_plays(context, evaluated)
    ours = predict(context, evaluated, plays)
    labels_N, user_N = plays.labels(), plays.user_N
    baseline_N = np.asarray(plays.numbers((BASELINE,))[:, 0], np.float64)
    lines = [rules.data_checks(release.document("quality"), REQUIRED_TABLES)]
    if context.week.daily:
        lines += update_parity_lines(context, release, champion, plays, ours)
    else:
        lines += parity_lines(context, release, plays, ours)
        lines.append(unseen_listeners_line(context, ours))
    lines.append(baseline_line(labels_N, ours.listen_N, baseline_N, user_N, gate.margin_over_rate, trained(context)))
    lines += rival_lines(context, release, champion, anchor, plays, ours)
    lines += calibration_lines(labels_N, ours.listen_N, baseline_N, gate)
    lines.append(flow_line(plays, ours.listen_N, gate))
    lines.append(latency_line(release, user_N, gate))
    return lines


def evaluated_ensemble(context: Context, release: SkipRelease) -> Ensemble:
    """Return what the gate evaluates: of a week the ensemble of the time split, of a daily update the served one."""
    return release if context.week.daily else release.evaluated


def trained(context: Context) -> str:
    """Return which models the gate's numbers are about, as text."""
    return "" if context.week.daily else "; models of the time split, the served ones are trained again on all plays"


def evaluation_plays(context: Context, release: Ensemble) -> Plays:
    """Return the labelled plays that no part of the ensemble was trained on, uncleaned, in time order.

    Raises:
        CheckFailed: there are fewer than skip.gate.min_plays, or they are all of one class.
    """
    gate, learned_until = context.settings.skip.gate, release.learned_until
    first = f"{datetime.fromtimestamp(learned_until, UTC):%Y-%m-%d}"
    names = tuple(dict.fromkeys((*release.names, BASELINE)))
    plays = None
    if first < end_day(context):
        rows, _ = dataset.read_rows(context, names, "past", first, end_day(context))
        plays = rows.rows(slice(int(np.searchsorted(rows.ts_N, learned_until)), None))
    n = 0 if plays is None else len(plays)
    if plays is None or n < gate.min_plays:
        raise CheckFailed(
            f"skip gate: {n} labelled plays from {datetime.fromtimestamp(learned_until, UTC):%Y-%m-%d %H:%M} on, fewer "
            f"than skip.gate.min_plays = {gate.min_plays}; a week needs skip.split.kind: global, a daily update the "
            "plays of its day"
        )
    if len(np.unique(plays.labels())) < 2:
        raise CheckFailed(f"skip gate: all {n} evaluation plays are of one class; AUC needs plays of both classes")
    return plays


def predict(context: Context, release: Ensemble, plays: Plays) -> Predictions:
    """Return the predictions of an ensemble for plays, each from what was known before the play began."""
    cleaned = clean(release, plays)
    log = read_play_log(context, release.cleaning) if release.reads_history else Log.empty()
    members_NM = np.stack([member.predict(cleaned, log) for member in release.members], axis=1)
    return Predictions(members_NM, release.calibration(release.mix(logit(members_NM))))


def clean(release: Ensemble, plays: Plays) -> Plays:
    """Return a copy of plays, cleaned as the members expect."""
    return release.cleaned(replace(plays, numbers_NF=plays.numbers_NF.copy()))


def parity_lines(context: Context, release: SkipRelease, plays: Plays, ours: Predictions) -> list[GateLine]:
    """Compare the ONNX members of a weekly bundle with the trained models.

    The served members are compared with their saved models on the evaluation plays, those of the time split with the
    test scores of training.
    """
    tolerance, lines = context.settings.skip.gate.parity_tolerance, []
    served, cleaned = predict(context, release, plays), clean(release, plays)
    log = read_play_log(context, release.cleaning)
    for m, (member, entry) in enumerate(zip(release.members, release.description["members"], strict=True)):
        model = artifacts.load_referenced_model(context, member.name, entry["state"], log)
        difference = float(np.abs(model.predict_proba(cleaned) - served.members_NM[:, m]).max())
        lines.append(rules.onnx_parity(member.name, difference, tolerance))
    for m, member in enumerate(release.evaluated.members):
        scores = artifacts.read_scores(context, member.name).test
        if len(scores.proba_N) != len(ours.listen_N):
            why = f"training scored {len(scores.proba_N)} test plays, there are {len(ours.listen_N)} evaluation plays"
            lines.append(GateLine(f"onnx parity {member.name} (time split)", None, tolerance, FAIL, why))
            continue
        difference = float(np.abs(scores.proba_N - ours.members_NM[:, m]).max())
        lines.append(rules.onnx_parity(f"{member.name} (time split)", difference, tolerance))
    return lines


def update_parity_lines(
    context: Context, release: SkipRelease, champion: pointer.Pointer | None, plays: Plays, ours: Predictions
) -> list[GateLine]:
    """Compare the ONNX members of a daily update with their saved models.

    An unchanged network passes, because the gate of the base release compared it. A fine-tuned member is compared with
    the saved model on the evaluation plays.
    """
    base_release, rule = str(release.provenance.get("base_release")), "update of the champion"
    if champion is None or champion.release not in (base_release, release.name):
        now = "there is no champion" if champion is None else f"the champion is {champion.release[:12]}"
        why = f"the update started from {base_release[:12]}, but {now}; run the update again"
        return [GateLine(rule, None, None, FAIL, why)]
    base_folder, lines = release_folder(context, base_release), []
    tolerance, log = context.settings.skip.gate.parity_tolerance, read_play_log(context, release.cleaning)
    for m, (member, entry) in enumerate(zip(release.members, release.description["members"], strict=True)):
        file = Path(MEMBERS) / member.name / NETWORK
        if (base_folder / file).is_file() and file_digest(base_folder / file) == file_digest(release.folder / file):
            why = "the same network file as in the base release"
            lines.append(GateLine(f"onnx parity {member.name}", 0.0, tolerance, PASS, why))
            continue
        model = artifacts.load_referenced_model(context, member.name, entry["state"], log)
        proba_N = model.predict_proba(clean(release, plays))
        lines.append(rules.onnx_parity(member.name, float(np.abs(proba_N - ours.members_NM[:, m]).max()), tolerance))
    return lines


def baseline_line(
    labels_N: NDArray[np.int8],
    ours_N: DoubleVector,
    baseline_N: DoubleVector,
    user_N: IdVector,
    margin: float,
    trained: str = "",
) -> GateLine:
    """Compare AUC with the baseline, the user's own rate; the lower bound of the gain must reach the margin.

    Args:
        labels_N: labels of the evaluation plays.
        ours_N: probabilities of the ensemble.
        baseline_N: the user's rate before each play.
        user_N: users.
        margin: skip.gate.margin_over_rate.
        trained: which models were evaluated, as text that follows the numbers.
    """
    gain = auc_difference(labels_N, ours_N, baseline_N, user_N)
    why = (
        f"AUC {auc(labels_N, ours_N):.4f}, the user's listened share so far {auc(labels_N, baseline_N):.4f}; "
        f"{len(labels_N)} plays{trained}"
    )
    return GateLine("better than user rate", gain.low, margin, PASS if gain.low >= margin else FAIL, why)


def unseen_listeners_line(context: Context, ours: Predictions) -> GateLine:
    """Compare AUC with LightGBM on the raw columns of the plays, for listeners without a training play."""
    labelled, plays = read_blend_plays(context)
    baseline = artifacts.read_baseline(context, plays).test
    if len(baseline.proba_N) != len(ours.listen_N):
        why = f"the baseline scored {len(baseline.proba_N)} plays, there are {len(ours.listen_N)} evaluation plays"
        return GateLine(UNSEEN_RULE, None, 0.0, FAIL, why)
    unseen_N = labelled.of_unseen_listeners()[baseline.place_N]
    part = baseline.listened_N[unseen_N], ours.listen_N[unseen_N], baseline.proba_N[unseen_N], baseline.user_N[unseen_N]
    return gain_line(*part, context.settings.skip.gate, context.seed("gate"))


def gain_line(
    labels_N: NDArray[np.int8],
    ours_N: DoubleVector,
    baseline_N: DoubleVector,
    user_N: IdVector,
    gate: GateSettings,
    seed: int,
) -> GateLine:
    """Return the line about the gain in AUC over raw columns, which must not be below 0.

    An interval that contains 0 decides nothing: the listeners are too few. The interval resamples listeners.

    Args:
        labels_N: labels of the plays of unseen listeners.
        ours_N: probabilities of the ensemble.
        baseline_N: probabilities of LightGBM on the raw columns.
        user_N: listeners.
        gate: skip.gate.
        seed: seed of the bootstrap.
    """
    n_rarer = min(int((labels_N == label).sum()) for label in (0, 1))
    if n_rarer < gate.slice_min_plays:
        why = f"not evaluated: {n_rarer} plays of the rarer class, fewer than {gate.slice_min_plays}"
        return GateLine(UNSEEN_RULE, None, 0.0, SKIP, why)
    gain = bootstrap_difference(labels_N, ours_N, baseline_N, user_N, gate.n_bootstrap, seed)
    why = (
        f"AUC {auc(labels_N, ours_N):.4f}, LightGBM on the raw columns {auc(labels_N, baseline_N):.4f}, gain "
        f"{gain.low:+.4f} to {gain.high:+.4f}; {len(labels_N)} plays of {len(np.unique(user_N))} listeners"
    )
    verdict = PASS if gain.low > 0 else FAIL if gain.high < 0 else SKIP
    return GateLine(UNSEEN_RULE, gain.low, 0.0, verdict, why)


def rival_lines(
    context: Context,
    release: SkipRelease,
    champion: pointer.Pointer | None,
    anchor: Anchor | None,
    plays: Plays,
    ours: Predictions,
) -> list[GateLine]:
    """Compare AUC with the champion and with the anchor; a line explains it where there is no comparison."""
    gate = context.settings.skip.gate
    if champion is None:
        to_champion = GateLine(rules.CHAMPION_RULE, None, None, PASS, "first release: there is no champion yet")
    else:
        to_champion = rival_line(context, rules.CHAMPION_RULE, release, champion.release, plays, ours)
    if anchor is None:
        why = "not applicable: there is no anchor; the first promotion sets it"
        return [to_champion, GateLine(rules.ANCHOR_RULE, None, None, SKIP, why)]
    to_anchor = rival_line(context, rules.ANCHOR_RULE, release, anchor.release, plays, ours)
    return [to_champion, rules.confirmed(to_anchor, context.week, anchor.since, gate.anchor_weeks)]


def rival_line(
    context: Context, rule: str, release: SkipRelease, rival: str, plays: Plays, ours: Predictions
) -> GateLine:
    """Compare AUC with a rival on plays that neither was trained on; the interval resamples users.

    In the gate of a week, both are ensembles of their time splits.
    """
    gate = context.settings.skip.gate
    rival_release = rules.open_rival(context, rule, release.folder.name, rival, SkipRelease)
    if isinstance(rival_release, GateLine):
        return rival_release
    opened = evaluated_ensemble(context, rival_release)
    missing = [name for name in opened.names if name not in plays.names]
    if missing:
        why = f"the rival reads {', '.join(missing)}, which the feature table does not have any more"
        return GateLine(rule, None, None, SKIP, why)
    unseen = slice(int(np.searchsorted(plays.ts_N, opened.learned_until)), None)
    newest = plays.rows(unseen)
    if len(newest) < gate.min_plays or len(np.unique(newest.labels())) < 2:
        why = f"not evaluated: {len(newest)} plays that the rival was not trained on, fewer than {gate.min_plays}"
        return GateLine(rule, None, -gate.delta, SKIP, why)
    ours_N, rival_N = ours.listen_N[unseen], predict(context, opened, newest).listen_N
    labels_N = newest.labels()
    change = bootstrap_difference(labels_N, ours_N, rival_N, newest.user_N, gate.n_bootstrap, context.seed("gate"))
    comparison = f"AUC {auc(labels_N, ours_N):.4f}, release {rival[:12]} {auc(labels_N, rival_N):.4f}"
    return rules.non_inferiority(
        rule, change.value, change.low, change.high, gate.delta, comparison, f"{len(newest)} plays"
    )


def calibration_lines(
    labels_N: NDArray[np.int8], ours_N: DoubleVector, baseline_N: DoubleVector, gate: GateSettings
) -> list[GateLine]:
    """Check the calibration: Brier score not above the baseline's, calibration error not above its bound."""
    ours, baseline, error = brier(labels_N, ours_N), brier(labels_N, baseline_N), calibration_error(labels_N, ours_N)
    return [
        GateLine("brier", ours, baseline, PASS if ours <= baseline else FAIL, "Brier score; bound: the user's rate"),
        GateLine(
            "calibration error",
            error,
            gate.max_calibration_error,
            PASS if error <= gate.max_calibration_error else FAIL,
            "mean difference of predicted and observed share in ten groups of plays",
        ),
    ]


def flow_line(plays: Plays, ours_N: DoubleVector, gate: GateSettings) -> GateLine:
    """Check AUC on plays that the recommender chose (Flow), the plays whose order the service can change."""
    flow_N, labels_N = plays.is_flow_N, plays.labels()
    n_rarer = min(int((labels_N[flow_N] == label).sum()) for label in (0, 1))
    if n_rarer < gate.slice_min_plays:
        why = f"not evaluated: {n_rarer} Flow plays of the rarer class, fewer than {gate.slice_min_plays}"
        return GateLine("slice flow", None, gate.flow_min_auc, SKIP, why)
    flow_auc = auc_interval(labels_N[flow_N], ours_N[flow_N], plays.user_N[flow_N])
    why = f"AUC on {int(flow_N.sum())} Flow plays, {flow_auc.low:.4f} to {flow_auc.high:.4f}"
    passed = flow_auc.value >= gate.flow_min_auc
    return GateLine("slice flow", flow_auc.value, gate.flow_min_auc, PASS if passed else FAIL, why)


def latency_line(release: SkipRelease, user_N: IdVector, gate: GateSettings) -> GateLine:
    """Check the 99th percentile of the time for one request with a list of tracks."""
    n = min(gate.latency_tracks, len(release.state.tracks["track_id"]))
    what = f"one request with {n} tracks, without HTTP"
    return rules.latency(lambda: p99_ms(release, user_N, n), gate.latency_ms, what)


def p99_ms(release: SkipRelease, user_N: IdVector, n: int) -> float:
    """Return the 99th percentile of the time for one request with n tracks, in milliseconds."""
    track_ids = release.state.tracks["track_id"]
    rng = np.random.default_rng(0)
    at, times_s = datetime.fromtimestamp(release.state_until, UTC), []
    for turn in range(N_WARM_UP + N_TIMED):
        tracks = rng.choice(track_ids, n, replace=False).tolist()
        ids = answers.RequestIds(int(user_N[turn % len(user_N)]), tracks, [])
        request = SkipRequest(
            user_id=str(ids.user), at=at, tracks=[TrackReference(track_id=str(track)) for track in tracks]
        )
        start = time.perf_counter()
        answers.skips_response(release, request, ids)
        if turn >= N_WARM_UP:
            times_s.append(time.perf_counter() - start)
    return float(np.quantile(times_s, 0.99) * 1000)
