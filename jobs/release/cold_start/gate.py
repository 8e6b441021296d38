"""Judges a release of the cold-start engine: data, parity, lists against Popularity and the champion, slices, latency.

Input   the week's bundle, the champion's bundle, first_day and cohort (validation and test), work/<week>/<space>/

Challenger and champion are opened as the service would open them and answer for the same listeners: each makes the
inputs with its own entities and catalogue. A champion's track that is no longer in the catalogue counts as a miss.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from contracts.errors import CheckFailed
from jobs.cold_start import blend_artifacts, onnx_export
from jobs.cold_start.evaluate import slices
from jobs.platform.context import Context
from jobs.release import pointer, rules
from jobs.release.rules import FAIL, Line
from models.cold_start.input_vector import FirstDays, Ragged
from models.cold_start.methods import Method, recommend_lists
from models.evaluation.metrics import score
from serving.release.bundle import Release, open_release

SPLITS = ("validation", "test")
WARM_UP, N_TIMED = 50, 500


@dataclass(frozen=True)
class Judges:
    """The cohort that judges: ids (B,), first days and truth (track_idx of this week) of the same B listeners."""

    user_ids: np.ndarray
    days: FirstDays
    truth: Ragged
    track_ids: np.ndarray


def check(folder: Path) -> None:
    """Open a bundle as the service would."""
    open_release(folder)


def judge(context: Context, folder: Path, champion: pointer.Pointer | None) -> list[Line]:
    """All lines about a release."""
    release = open_release(folder)
    gate, judges = context.settings.gate, read_judges(context)
    n_boot, seed = context.settings.evaluation.n_bootstrap, context.seed("gate")
    lines = [rules.data_checks(release.document("quality"))]
    lines += [parity(context, release, space, judges) for space in release.spaces]
    if gate.method == "blend":
        lines.append(blend_parity(context, release, judges))
    leave_out = context.settings.evaluation.leave_out_first_day
    ours_BK = recommend(release, gate.space, gate.method, judges, gate.k, leave_out)
    popular_BK = recommend(release, gate.space, "popularity", judges, gate.k, leave_out)
    ours_B, popular_B = (score(rec_BK, judges.truth, gate.k)[gate.metric] for rec_BK in (ours_BK, popular_BK))
    lines.append(rules.over_popularity(ours_B, popular_B, gate.margin_over_popularity, n_boot, seed))
    lines.append(champion_line(context, release, champion, judges, ours_B))
    lines += [
        rules.slice_floor(name, ours_B[who], popular_B[who], gate.slice_min_ratio, gate.slice_min_users)
        for name, who in slices(judges.days).items()
        if name != "all" and who.any()
    ]
    lines.append(rules.popularity_share(ours_BK, len(judges.track_ids), gate.max_popularity_share))
    one = judges.days.rows(0, 1)
    method = release.spaces[gate.space].method(gate.method)
    lines.append(rules.latency(p99_ms(method, release.inputs(gate.space, one), one, gate.k), gate.latency_ms))
    return lines


def read_judges(context: Context) -> Judges:
    """The whole cohort of the week: validation and test, in this order.

    Raises:
        CheckFailed: the cohort is empty, a user has no truth, or the catalogue is smaller than a list.
    """
    week, lake = context.week.name, context.lake
    table = pa.concat_tables([lake.read("first_day", week=week, split=split) for split in SPLITS])
    cohort = lake.read("cohort", week=week)
    catalog = lake.read("catalog", week=week).sort_by("track_idx")
    if not table.num_rows:
        raise CheckFailed(f"first_day: week {week} has an empty cohort; there is nobody to judge a release with")
    if catalog.num_rows < context.settings.gate.k:
        raise CheckFailed(f"gate.k: {context.settings.gate.k} places, but the catalogue has {catalog.num_rows} tracks")
    user_ids = table["user_id"].to_numpy()
    known = cohort["user_id"].to_numpy()
    order = np.argsort(known)
    place = np.minimum(np.searchsorted(known[order], user_ids), max(len(known) - 1, 0))
    if not len(known) or (known[order][place] != user_ids).any():
        raise CheckFailed(f"cohort: week {week} lacks the truth of users in first_day; run `overture matrix first-day`")
    truth = Ragged.from_arrow(cohort["truth"], "cohort.truth").take(order[place])
    return Judges(user_ids, FirstDays.from_arrow(table), truth, catalog["track_id"].to_numpy())


def recommend(
    release: Release, space: str, method: str, judges: Judges, k: int, leave_out_first_day: bool = False
) -> np.ndarray:
    """What a release answers, (B, k) in this week's track_idx; a track that left the catalogue gets one beyond it."""
    opened = release.spaces[space]
    taken_BN = opened.catalogue.streamed_tracks(judges.days) if leave_out_first_day else None
    theirs_BK = recommend_lists(opened.method(method), release.inputs(space, judges.days), k, judges.days, taken_BN)
    order = np.argsort(judges.track_ids)
    now = judges.track_ids[order]
    place = np.minimum(np.searchsorted(now, release.track_ids), len(now) - 1)
    gone = len(now) + np.arange(len(release.track_ids))
    ours_N = np.where(now[place] == release.track_ids, order[place], gone)
    translated: np.ndarray = ours_N[theirs_BK]
    return translated


def champion_line(
    context: Context, release: Release, champion: pointer.Pointer | None, judges: Judges, ours_B: np.ndarray
) -> Line:
    """The comparison with the champion, or why there is none."""
    gate = context.settings.gate
    theirs = rules.champion_of(context, release.folder.name, champion, open_release)
    if isinstance(theirs, Line):
        return theirs
    leave_out = context.settings.evaluation.leave_out_first_day
    champion_BK = recommend(theirs, *theirs.answers, judges, gate.k, leave_out)
    champion_B = score(champion_BK, judges.truth, gate.k)[gate.metric]
    return rules.against_champion(
        ours_B, champion_B, gate.grey_zone, gate.max_loss, context.settings.evaluation.n_bootstrap, context.seed("gate")
    )


def parity(context: Context, release: Release, space: str, judges: Judges) -> Line:
    """PyTorch's predictions that training kept, against what the bundle answers from first-day signals."""
    kept, bound = onnx_export.kept(context, space), context.settings.gate.parity_tolerance
    order = np.argsort(kept.user_ids)
    place = np.minimum(np.searchsorted(kept.user_ids[order], judges.user_ids), max(len(order) - 1, 0))
    if not len(order) or (kept.user_ids[order][place] != judges.user_ids).any():
        return Line(f"onnx parity {space}", None, bound, FAIL, "training kept no predictions for some of the cohort")
    found_BD = release.spaces[space].predict(release.inputs(space, judges.days))
    return rules.parity(space, float(np.abs(found_BD - kept.vectors[order[place]]).max()), bound)


def blend_parity(context: Context, release: Release, judges: Judges) -> Line:
    """The blend's scores with PyTorch, which training kept for some listeners, against the bundle's."""
    gate = context.settings.gate
    user_ids, wanted_BN = blend_artifacts.compared(blend_artifacts.kept(context, gate.space))
    order = np.argsort(judges.user_ids)
    place = np.minimum(np.searchsorted(judges.user_ids[order], user_ids), len(order) - 1)
    if not len(user_ids) or (judges.user_ids[order][place] != user_ids).any():
        return Line(
            "onnx parity blend", None, gate.parity_tolerance, FAIL, "training kept scores of listeners who do not judge"
        )
    opened = release.spaces[gate.space]
    found_BN = blend_artifacts.read(opened.folder / "blend", opened.catalogue).scores(judges.days.take(order[place]))
    return rules.parity("blend", float(np.abs(found_BN - wanted_BN).max()), gate.parity_tolerance)


def p99_ms(method: Method, x_1F: np.ndarray, day: FirstDays, k: int) -> float:
    """99th percentile of the time in which one listener is answered."""
    times = []
    for n in range(WARM_UP + N_TIMED):
        start = time.perf_counter()
        method.recommend(x_1F, k, day)
        if n >= WARM_UP:
            times.append(time.perf_counter() - start)
    return float(np.quantile(times, 0.99) * 1000)
