"""Evaluates a cold-start release: data, parity, lists compared with Popularity, champion and anchor, slices, latency.

Input   the week's bundle, those of the champion and of the anchor, first_day and cohort (test), work/<week>/<space>/,
        gate_listeners of the weeks before
Output  gate_listeners of the week

All releases are opened as the service opens them and recommend to the same test listeners; settings were chosen on the
others. Each computes the input vectors with its own entities and catalogue.

Rivals  a champion or anchor is compared on the tracks of both catalogues. A champion that is older has not learned from
        the last days of the ground truth, in which the challenger has seen other listeners. So both are compared on the
        days before the champion's as-of time, if MIN_SHARED_DAYS of them remain. The anchor is compared on all days
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import CheckFailed
from jobs.cold_start import blend_artifacts, onnx_export, ranker_artifacts
from jobs.cold_start.evaluate import slices
from jobs.platform.context import Context
from jobs.platform.week import TRUTH_DAYS, Week
from jobs.release import pointer, rules
from jobs.release.registry import Anchor
from jobs.release.rules import FAIL, PASS, SKIP, GateLine
from models.arrays import BoolVector, DoubleVector, FloatMatrix, IdVector, IntMatrix
from models.cold_start.input_vector import FirstDays
from models.cold_start.list_rules import ListRules
from models.cold_start.methods import FullPers, Method
from models.cold_start.methods.ruled import ruled_lists
from models.cold_start.ragged import Ragged
from models.cold_start.top_k import normalise
from models.cold_start.track_index import recall
from models.evaluation.metrics import artist_share, score
from serving.block.sources import read_sources
from serving.block.tracks import blocked_tracks
from serving.block.watcher import BlockWatcher
from serving.release.bundle import Release, open_release
from serving.release.loaded import LoadedRelease, identity

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MIN_SHARED_DAYS = 14  # of the ground truth, before the champion's as-of time
LONGER = 4  # times k tracks are asked for where tracks of one catalogue alone are left out
NO_INTERACTIONS = "interactions=none"
N_WARM_UP, N_TIMED = 50, 500
N_INDEX_LISTENERS = 1_000  # at most, whose exact lists are computed


@dataclass(frozen=True)
class EvaluationCohort:
    """The B listeners that a release is evaluated on.

    Attributes:
        user_ids: (B,) int64.
        days: their first-day signals.
        truth: the tracks that they listened to afterwards, as track_idx of this week.
        truth_day: the UTC day of the first stream of each of these tracks, in days since 1970-01-01.
        track_ids: (N,) int64, the catalogue of this week by track_idx.
    """

    user_ids: IdVector
    days: FirstDays
    truth: Ragged
    truth_day: Ragged
    track_ids: IdVector


def check_loads(folder: Path) -> None:
    """Open a bundle as the service opens it.

    Raises:
        CheckFailed: it is damaged, or of another format.
    """
    open_release(folder)


def evaluate(context: Context, folder: Path, champion: pointer.Pointer | None, anchor: Anchor | None) -> list[GateLine]:
    """Return all lines of the gate for a release.

    Args:
        context: week, lake and settings.
        folder: the bundle of the release.
        champion: the release in service, if there is one.
        anchor: the anchor, if there is one.

    Raises:
        CheckFailed: the cohort is empty or incomplete, or the catalogue is too small.
    """
    release = open_release(folder)
    gate, cohort = context.settings.gate, read_cohort(context)
    n_boot, seed = context.settings.evaluation.n_bootstrap, context.seed("gate")
    lines = [rules.data_checks(release.document("quality"))]
    lines += [parity_line(context, release, space, cohort) for space in release.spaces]
    if gate.blended(gate.space):
        lines.append(blend_parity_line(context, release))
    if gate.ranked(gate.space):
        lines.append(ranker_parity_line(context, release))
    list_rules = context.settings.rules.rules()
    ours_BK, ruled_BK = recommend(release, gate.space, gate.method, cohort, gate.k, list_rules)
    popular_BK, _ = recommend(release, gate.space, "popularity", cohort, gate.k, list_rules)
    ours_B, popular_B = (score(rec_BK, cohort.truth, gate.k)[gate.metric] for rec_BK in (ours_BK, popular_BK))
    lines.append(rules.better_than_popularity(ours_B, popular_B, gate.margin_over_popularity, n_boot, seed))
    lines.append(champion_line(context, release, champion, cohort))
    lines.append(anchor_line(context, release, anchor, cohort))
    masks = {name: mask_B for name, mask_B in slices(cohort.days).items() if name != "all"}
    of_slices = with_earlier_weeks(context, slice_values(context, release, cohort, masks, ours_B, popular_B))
    lines += rules.slice_lines(of_slices, gate.slice_min_users, gate.required_slices)
    if release.spaces[gate.space].track_index is not None:
        lines.append(track_index_line(context, release, cohort))
    lines.append(rules_line(context, release, cohort, ours_BK, ruled_BK))
    lines.append(rules.popularity_share(ours_BK, len(cohort.track_ids), gate.max_popularity_share))
    first_listener = cohort.days.rows(0, 1)
    method = release.spaces[gate.space].method(gate.method)
    lines.append(
        rules.latency(
            lambda: p99_ms(method, release.inputs(gate.space, first_listener), first_listener, gate.k),
            gate.max_latency_ms,
            "one listener, from the input vector to the list",
        )
    )
    context.lake.drop("gate_listeners", week=context.week.name)  # of an earlier evaluation
    if rules.overall_verdict(lines) != FAIL:
        write_listeners(context, release, cohort, masks, ours_B, popular_B)
    return lines


def read_cohort(context: Context) -> EvaluationCohort:
    """Return the test listeners of the week's cohort.

    Raises:
        CheckFailed: the cohort is empty, a user has no truth, or the catalogue is smaller than a list.
    """
    week, lake = context.week.name, context.lake
    table = lake.read("first_day", week=week, split="test")
    cohort = lake.read("cohort", week=week)
    catalog = lake.read("catalog", week=week).sort_by("track_idx")
    if not table.num_rows:
        raise CheckFailed(f"first_day: week {week} has no test listeners; a release cannot be evaluated without them")
    if catalog.num_rows < context.settings.gate.k:
        raise CheckFailed(f"gate.k: is {context.settings.gate.k}, but the catalogue has only {catalog.num_rows} tracks")
    user_ids = table["user_id"].to_numpy()
    cohort_ids = cohort["user_id"].to_numpy()
    order = np.argsort(cohort_ids)
    place = np.minimum(np.searchsorted(cohort_ids[order], user_ids), max(len(cohort_ids) - 1, 0))
    if not len(cohort_ids) or (cohort_ids[order][place] != user_ids).any():
        raise CheckFailed(f"cohort: week {week} lacks the truth of users in first_day; run `overture matrix first-day`")
    if cohort["truth_day"].null_count:
        raise CheckFailed(
            f"cohort: week {week} was written by an older version, without truth_day; run `overture matrix first-day`"
        )
    truth, truth_day = (
        Ragged.from_arrow(cohort[name], f"cohort.{name}").take(order[place]) for name in ("truth", "truth_day")
    )
    return EvaluationCohort(user_ids, FirstDays.from_arrow(table), truth, truth_day, catalog["track_id"].to_numpy())


def recommend(
    release: Release, space: str, method: str, cohort: EvaluationCohort, k: int, list_rules: ListRules
) -> tuple[IntMatrix, IntMatrix]:
    """Return the lists of a release for the cohort without and with the rules of lists, in track_idx of this week.

    Args:
        release: challenger or champion.
        space: space of the input vectors.
        method: name of the method.
        cohort: the listeners.
        k: length of the lists.
        list_rules: the rules; without them, heard tracks are still left out where the rules leave them out.

    Returns:
        Two (B, k) of track_idx; a track that is not in this week's catalogue has an index beyond it.
    """
    opened, facts = release.spaces[space], release.track_facts
    unit_ND = normalise(opened.array("track_vectors")) if list_rules.diversity else opened.array("track_vectors")
    inputs_BF = release.inputs(space, cohort.days)
    both = ruled_lists(opened.method(method), inputs_BF, k, cohort.days, release.track_ids, facts, list_rules, unit_ND)
    order = np.argsort(cohort.track_ids)
    sorted_ids = cohort.track_ids[order]
    place = np.minimum(np.searchsorted(sorted_ids, release.track_ids), len(sorted_ids) - 1)
    beyond = len(sorted_ids) + np.arange(len(release.track_ids) + k)  # the last k: places without a track
    week_idx_N = np.where(sorted_ids[place] == release.track_ids, order[place], beyond[: len(place)])
    week_idx = np.concatenate([week_idx_N, beyond[len(place) :]])
    without_BK, with_BK = (week_idx[lists_BK] for lists_BK in both)
    return without_BK, with_BK


def rules_line(
    context: Context, release: Release, cohort: EvaluationCohort, ours_BK: IntMatrix, ruled_BK: IntMatrix
) -> GateLine:
    """Return what the rules of lists cost in the metric and gain in distinct artists."""
    gate, catalog = context.settings.gate, context.lake.read("catalog", week=context.week.name).sort_by("track_idx")
    artist_N = catalog["artist_id"].to_numpy()
    (before, artists_before), (after, artists_after) = (
        (
            float(score(lists_BK, cohort.truth, gate.k)[gate.metric].mean()),
            gate.k * float(artist_share(lists_BK, artist_N).mean()),
        )
        for lists_BK in (ours_BK, ruled_BK)
    )
    return rules.cost_of_rules(before, after, artists_before, artists_after)


def track_index_line(context: Context, release: Release, cohort: EvaluationCohort) -> GateLine:
    """Compare the lists of the approximate index with exact ones, under the rules and the block list in force."""
    gate, list_rules = context.settings.gate, context.settings.rules.rules()
    space = release.spaces[gate.space]
    chosen = np.random.default_rng(context.seed("track index recall")).permutation(len(cohort.days))[:N_INDEX_LISTENERS]
    days = cohort.days.take(np.sort(chosen))
    vectors_BD = space.predict(release.inputs(gate.space, days))
    watcher = BlockWatcher(read_sources(context.settings.store, context.home), poll_s=1.0)
    watcher.refresh()
    loaded = LoadedRelease(release, pointer.Pointer(release.folder.name, None, 0, ""))
    available_N = release.track_facts.available_N.copy()
    available_N[list(blocked_tracks(loaded, watcher.current, None))] = False
    facts, tracks_ND = replace(release.track_facts, available_N=available_N), space.array("track_vectors")
    unit_ND = normalise(tracks_ND) if list_rules.diversity else tracks_ND
    approximate_BK, exact_BK = (
        ruled_lists(method, vectors_BD, gate.k, days, release.track_ids, facts, list_rules, unit_ND)[1]
        for method in (space.method("full_pers", identity), FullPers(identity, tracks_ND, space.layout["similarity"]))
    )
    exact_BK = np.where(exact_BK < len(facts), exact_BK, -1)
    bound = context.settings.track_index.min_recall
    return rules.track_index_recall(recall(approximate_BK, exact_BK), bound, len(days), gate.k)


def slice_values(
    context: Context,
    release: Release,
    cohort: EvaluationCohort,
    masks: dict[str, BoolVector],
    ours_B: DoubleVector,
    popularity_B: DoubleVector,
) -> dict[str, rules.SliceValues]:
    """Return the metric of the release and of Popularity by slice.

    Where too few test listeners have no interaction, that slice consists of all test listeners with the interactions of
    their first day removed: the lists then depend on country and age alone.
    """
    gate = context.settings.gate
    values = {
        name: rules.SliceValues(ours_B[mask_B], popularity_B[mask_B]) for name, mask_B in masks.items() if mask_B.any()
    }
    if len(values[NO_INTERACTIONS].ours_B if NO_INTERACTIONS in values else ()) < gate.slice_min_users:
        bare = replace(cohort, days=FirstDays(cohort.days.country, cohort.days.age, {}))
        ours_B, popularity_B = (
            score(recommend(release, gate.space, method, bare, gate.k, context.settings.rules.rules())[0],
                  cohort.truth, gate.k)[gate.metric]
            for method in (gate.method, "popularity")
        )  # fmt: skip
        values[NO_INTERACTIONS] = rules.SliceValues(
            ours_B, popularity_B, "listeners, the interactions of their first day removed"
        )
    return values


def write_listeners(
    context: Context,
    release: Release,
    cohort: EvaluationCohort,
    masks: dict[str, BoolVector],
    ours_B: DoubleVector,
    popularity_B: DoubleVector,
) -> None:
    """Write what was measured for each listener, for the slices of later weeks."""
    table = pa.table(
        {
            "user_id": cohort.user_ids,
            "release": pa.repeat(release.folder.name, len(cohort.user_ids)),
            "measure": pa.repeat(measure(context), len(cohort.user_ids)),
            "value": ours_B,
            "popularity": popularity_B,
            "slices": [[name for name, mask_B in masks.items() if mask_B[b]] for b in range(len(cohort.user_ids))],
        },
        schema=arrow_schema(contracts.load("gate_listeners")),
    )
    context.lake.write("gate_listeners", table, report={"release": release.folder.name}, week=context.week.name)


def measure(context: Context) -> str:
    """Return the metric and the length of the lists, as text."""
    return f"{context.settings.gate.metric}@{context.settings.gate.k}"


def with_earlier_weeks(context: Context, values: dict[str, rules.SliceValues]) -> dict[str, rules.SliceValues]:
    """Return the slices, those with too few listeners together with the listeners of the weeks before.

    Weeks are added until a slice has enough, the latest first, at most gate.pooled_weeks. The values of a listener are
    those of the release of the listener's own week: this week's release was trained on what the listener did since
    then, so it cannot be evaluated on it. Releases that failed are not among them, as nobody was served by them.
    Listeners whose interactions were removed are not mixed with others.
    """
    gate, lake, pooled = context.settings.gate, context.lake, dict(values)
    for n in range(1, gate.pooled_weeks + 1):
        week = Week(context.week.monday - timedelta(weeks=n), context.week.backtest).name
        small = [
            name
            for name, of_slice in pooled.items()
            if len(of_slice.ours_B) < gate.slice_min_users and name != NO_INTERACTIONS
        ]
        if not small or not lake.exists("gate_listeners", week=week):
            continue
        table = lake.read("gate_listeners", week=week)
        table = table.filter(pc.equal(table["measure"], measure(context)))
        slices_of_row = [set(names) for names in table["slices"].to_pylist()]
        for name in small:
            is_member = np.array([name in names for names in slices_of_row], bool)
            if is_member.any():
                pooled[name] = rules.SliceValues(
                    np.concatenate([pooled[name].ours_B, table["value"].to_numpy()[is_member]]),
                    np.concatenate([pooled[name].popularity_B, table["popularity"].to_numpy()[is_member]]),
                    f"listeners, {len(values[name].ours_B)} of them of this week, the others of up to {n} weeks "
                    "before, with the releases of those weeks",
                )
    return pooled


def champion_line(
    context: Context, release: Release, champion: pointer.Pointer | None, cohort: EvaluationCohort
) -> GateLine:
    """Compare with the champion; the line explains it where there is no comparison."""
    rule = rules.CHAMPION_RULE
    if champion is None:
        return GateLine(rule, None, None, PASS, "first release: there is no champion yet")
    opened = rules.open_rival(context, rule, release.folder.name, champion.release, open_release)
    if isinstance(opened, GateLine):
        return opened
    age_days = (context.week.as_of - Week.from_name(opened.week).as_of).days
    shared = TRUTH_DAYS - age_days if TRUTH_DAYS - age_days >= MIN_SHARED_DAYS else None
    return rival_line(context, rule, release, opened, cohort, shared if age_days else None)


def anchor_line(context: Context, release: Release, anchor: Anchor | None, cohort: EvaluationCohort) -> GateLine:
    """Compare with the anchor; an anchor that nobody has confirmed for long makes a line that passes `grey`."""
    rule, gate = rules.ANCHOR_RULE, context.settings.gate
    if anchor is None:
        return GateLine(rule, None, None, SKIP, "not applicable: there is no anchor; the first promotion sets it")
    opened = rules.open_rival(context, rule, release.folder.name, anchor.release, open_release)
    line = opened if isinstance(opened, GateLine) else rival_line(context, rule, release, opened, cohort, None)
    return rules.confirmed(line, context.week, anchor.since, gate.anchor_weeks)


def rival_line(
    context: Context, rule: str, release: Release, rival: Release, cohort: EvaluationCohort, n_days: int | None
) -> GateLine:
    """Compare a release with a rival, on the tracks of both catalogues.

    Args:
        context: week and settings.
        rule: name of the line.
        release: the challenger.
        rival: the champion or the anchor.
        cohort: the listeners.
        n_days: the ground truth ends before the rival's as-of time, after this number of days for the listeners who
            registered last; None: all days.
    """
    gate, list_rules = context.settings.gate, context.settings.rules.rules()
    shared_N = np.isin(cohort.track_ids, release.track_ids) & np.isin(cohort.track_ids, rival.track_ids)
    counts = shared_N[cohort.truth.ids]
    age_weeks = (context.week.as_of - Week.from_name(rival.week).as_of).days // 7
    about = f"release {rival.folder.name[:12]} of week {rival.week}, {age_weeks} week{'s' * (age_weeks != 1)} older"
    if n_days is not None:
        end = (Week.from_name(rival.week).as_of - EPOCH).days
        counts &= cohort.truth_day.ids < end
        about += f", compared on days 1 to {n_days} or more"
    truth = cohort.truth.keep(counts)
    has_truth_B = truth.lengths > 0
    listeners = replace(cohort, days=cohort.days.take(has_truth_B), user_ids=cohort.user_ids[has_truth_B])
    if not has_truth_B.any():
        return rules.not_worse_than(rule, np.empty(0), np.empty(0), gate.delta, about)
    ours_B, rival_B = (
        score(
            shared_tracks(recommend(one, space, method, listeners, LONGER * gate.k, list_rules)[0], shared_N, gate.k),
            truth.take(has_truth_B),
            gate.k,
        )[gate.metric]
        for one, (space, method) in ((release, (gate.space, gate.method)), (rival, rival.space_and_method))
    )
    return rules.not_worse_than(rule, ours_B, rival_B, gate.delta, about)


def shared_tracks(lists_BL: IntMatrix, shared_N: BoolVector, k: int) -> IntMatrix:
    """Return the first k tracks of each list that are shared, (B, k); an index beyond N is a place without a track.

    Args:
        lists_BL: track_idx, best first; indices of N and above are no tracks.
        shared_N: which tracks may be in the lists.
        k: length of the lists, at most L.
    """
    n = len(shared_N)
    dropped_BL = ~np.append(shared_N, False)[np.minimum(lists_BL, n)]
    order_BL = np.argsort(dropped_BL, axis=1, kind="stable")[:, :k]
    taken_BK = np.take_along_axis(lists_BL, order_BL, axis=1)
    beyond_K = n + lists_BL.shape[1] + np.arange(k, dtype=lists_BL.dtype)
    return np.where(np.take_along_axis(dropped_BL, order_BL, axis=1), beyond_K, taken_BK)


def parity_line(context: Context, release: Release, space: str, cohort: EvaluationCohort) -> GateLine:
    """Compare the predictions of PyTorch that training stored with those of the bundle, from first-day signals."""
    stored, tolerance = onnx_export.read_network(context, space), context.settings.gate.parity_tolerance
    order = np.argsort(stored.user_ids)
    place = np.minimum(np.searchsorted(stored.user_ids[order], cohort.user_ids), max(len(order) - 1, 0))
    if not len(order) or (stored.user_ids[order][place] != cohort.user_ids).any():
        why = "training stored no predictions for some listeners of the cohort"
        return GateLine(f"onnx parity {space}", None, tolerance, FAIL, why)
    onnx_BD = release.spaces[space].predict(release.inputs(space, cohort.days))
    return rules.onnx_parity(space, float(np.abs(onnx_BD - stored.vectors[order[place]]).max()), tolerance)


def blend_parity_line(context: Context, release: Release) -> GateLine:
    """Compare the scores of the blend with PyTorch, stored for some listeners by training, with those of the bundle."""
    gate, week = context.settings.gate, context.week.name
    user_ids, stored_BN = blend_artifacts.read_cohort_scores(blend_artifacts.blend_folder(context, gate.space))
    table = pa.concat_tables(context.lake.read("first_day", week=week, split=name) for name in ("validation", "test"))
    cohort_ids = table["user_id"].to_numpy()
    order = np.argsort(cohort_ids)
    place = np.minimum(np.searchsorted(cohort_ids[order], user_ids), len(order) - 1)
    if not len(user_ids) or (cohort_ids[order][place] != user_ids).any():
        return GateLine(
            "onnx parity blend",
            None,
            gate.parity_tolerance,
            FAIL,
            "training stored scores of listeners outside the cohort",
        )
    opened = release.spaces[gate.space]
    onnx_BN = blend_artifacts.read(opened.folder / "blend", opened.catalogue).scores(
        FirstDays.from_arrow(table.take(order[place]))
    )
    return rules.onnx_parity("blend", float(np.abs(onnx_BN - stored_BN).max()), gate.parity_tolerance)


def ranker_parity_line(context: Context, release: Release) -> GateLine:
    """Compare the trees of the bundle with the LightGBM model of training."""
    gate = context.settings.gate
    trained = ranker_artifacts.ranker_folder(context, gate.space)
    difference = ranker_artifacts.parity(trained, release.spaces[gate.space].folder / "ranker" / "trees.onnx")
    return rules.onnx_parity("ranker", difference, gate.parity_tolerance)


def p99_ms(method: Method, x_1F: FloatMatrix, day: FirstDays, k: int) -> float:
    """Return the 99th percentile of the time to recommend to one listener, in milliseconds."""
    times_s = []
    for n in range(N_WARM_UP + N_TIMED):
        start = time.perf_counter()
        method.recommend(x_1F, k, day)
        if n >= N_WARM_UP:
            times_s.append(time.perf_counter() - start)
    return float(np.quantile(times_s, 0.99) * 1000)
