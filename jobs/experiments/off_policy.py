"""Off-policy estimate: the rates of a method that was not displayed, from the log of an arm that explores.

Input   exposures, exposure_contexts and outcomes of the plan's days; the releases that served them
Output  a run in MLflow: IPS and SNIPS with intervals, and their diagnostics (models/evaluation/off_policy.py)
Policy  one method of the same release. The service's own code computes its list again from the logged signals. The list
        is compared with the displayed list, position by position
Refusal exit code 3 if outcomes, propensities or contexts are missing, the method would have shown tracks that the arm
        never shows (outside its pool), the mean weight differs from 1, or the effective sample size is too small
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pandas as pd
import pyarrow.compute as pc

from contracts.errors import BadArgument, CheckFailed
from jobs.experiments.analyse import RATES, missing_outcomes, plan_of
from jobs.experiments.exposures import Displays
from jobs.experiments.ingest import KINDS
from jobs.platform.context import Context
from jobs.platform.tables import make_table, wide_console
from jobs.release.destination import release_folder
from jobs.settings.experiments import ExperimentSettings
from jobs.tracking.tracker import Tracker
from models.cold_start.list_rules import OFF
from models.evaluation.experiments import compute_rate
from models.evaluation.off_policy import OffPolicy, estimate_value
from serving.experiment.assignment import with_arm_method
from serving.recommend import recommender
from serving.recommend.signals import BLOCK, ON_TRACKS, OTHER_LEVELS, FirstDaySignals, ListParameters, read_options
from serving.release.bundle import open_release
from serving.release.loaded import LoadedRelease
from serving.release.pointer import Pointer
from serving.schema import ListOptions
from serving.settings import Arm

BATCH = 256


def run(context: Context, name: str, arm_name: str, policy: str) -> dict[str, Any]:
    """Estimate both rates of a method from one arm's log.

    Raises:
        BadArgument: There is no such experiment, arm or method.
        CheckFailed: The log does not allow an estimate; the message contains the reason.
    """
    plan, registration = plan_of(context, name)
    arm = next((arm for arm in plan.arms if arm.name == arm_name), None)
    if arm is None:
        raise BadArgument(f"--arm: experiment {name} has no arm {arm_name}: {', '.join(a.name for a in plan.arms)}")
    tags = {
        "task": "ab-estimate",
        "ab_experiment": name,
        "plan_digest": registration["digest"],
        "arm": arm_name,
        "policy": policy,
    }
    with Tracker.standalone_run(context, plan.mlflow_experiment, f"estimate {policy} from {arm_name}", tags) as run:
        shown = policy_targets(context, plan, arm, policy)
        estimates = {kind: estimate_rate(plan, shown, kind) for kind in KINDS}
        own_rates = {kind: logged_rate(shown, kind) for kind in KINDS}
        report = {
            "experiment": name,
            "arm": arm_name,
            "policy": policy,
            "digest": registration["digest"],
            "estimates": {kind: asdict(estimate) for kind, estimate in estimates.items()},
            "logged": own_rates,
        }
        for kind, estimate in estimates.items():
            numbers = {
                "ips": estimate.ips.value,
                "snips": estimate.snips.value,
                "effective_users": estimate.effective_users,
            }
            run.log_metrics({f"{kind}.{key}": value for key, value in numbers.items()})
        run.log_json(report, "estimate.json")
        _print(plan, arm_name, policy, estimates, own_rates)
        return {**report, **run.links}


def estimate_rate(plan: ExperimentSettings, shown: pd.DataFrame, kind: str) -> OffPolicy:
    """Return the estimate of one rate.

    Raises:
        CheckFailed: The effective sample size is too small, or the propensities do not fit the lists.
    """
    users, hits, propensity, target = (shown[name].to_numpy() for name in ("user_id", kind, "propensity", "target"))
    try:
        estimate = estimate_value(users, hits, propensity, target, clip=plan.max_weight)
    except ValueError as error:
        raise CheckFailed(f"{kind}: {error}") from None
    if estimate.effective_users < plan.min_effective_users:
        raise CheckFailed(
            f"{kind}: the effective sample size is {estimate.effective_users:.0f} of {estimate.users} listeners; the "
            f"plan requires {plan.min_effective_users}: explore more, or longer"
        )
    if not estimate.mean_weight.low <= 1 <= estimate.mean_weight.high:
        raise CheckFailed(
            f"{kind}: weights have mean {estimate.mean_weight.value:.3f} ({estimate.mean_weight.low:.3f} to "
            f"{estimate.mean_weight.high:.3f}), which must be 1: the propensities do not fit the lists"
        )
    return estimate


def logged_rate(shown: pd.DataFrame, kind: str) -> dict[str, float]:
    """Return the arm's own rate, with its standard error."""
    by_user = shown.groupby("user_id").agg(displays=("position", "size"), hits=(kind, "sum"))
    rate = compute_rate(by_user["displays"].to_numpy(), by_user["hits"].to_numpy())
    return {"rate": rate.value, "error": rate.error}


def policy_targets(context: Context, plan: ExperimentSettings, arm: Arm, policy: str) -> pd.DataFrame:
    """Return the arm's displays with a column `target`: 1 if the policy would have shown this track at this position.

    Raises:
        CheckFailed: The log is incomplete, or the policy would have shown tracks outside the arm's pool.
    """
    parts: list[pd.DataFrame] = []
    opened: dict[str, LoadedRelease] = {}
    outside = 0
    reader = Displays(context.lake, plan)
    for day, shown in reader.by_day(arm.name):
        if shown["propensity"].isna().any():
            raise CheckFailed(f"exposures of {day}: {int(shown['propensity'].isna().sum())} have no propensity")
        if not context.lake.exists("exposure_contexts", day=day):
            raise CheckFailed(
                f"exposure_contexts of {day} are missing: the service writes them if service.exposure_signals is on"
            )
        contexts = context.lake.read("exposure_contexts", day=day)
        contexts = contexts.filter(pc.is_in(contexts["request_id"], pc.cast(shown["request_id"].unique(), "string")))
        rows = {row["request_id"]: row for row in contexts.to_pylist()}
        requests = shown.sort_values("position").groupby("request_id", sort=False)
        size, release = requests["track_id"].size(), requests["release"].first()
        if n_lost := len(size) - len(rows):
            raise CheckFailed(f"exposures of {day}: {n_lost} requests have no context")
        shown["target"] = 0.0
        policy_lists: dict[str, list[int]] = {}
        for name in release.unique():
            ready = opened.setdefault(name, _open(context, name))
            of_release = [request for request in size.index if release[request] == name]
            lists, n_outside = compute_lists(
                ready, arm, policy, [(rows[request], int(size[request])) for request in of_release]
            )
            policy_lists |= zip(of_release, lists, strict=True)
            outside += n_outside
        at = zip(shown["request_id"], shown["position"], shown["track_id"], strict=True)
        shown["target"] = [float(policy_lists[request][place - 1] == track) for request, place, track in at]
        parts.append(shown)
    if not parts:
        raise CheckFailed(f"experiment {plan.name}: arm {arm.name} has no exposures; run `overture ab-ingest` first")
    if reader.without_outcome:
        raise CheckFailed(missing_outcomes(reader.without_outcome))
    displays = pd.concat(parts, ignore_index=True)
    if outside:
        raise CheckFailed(
            f"{policy} would have shown tracks at {outside} of {len(displays)} positions that arm {arm.name} never "
            "shows there: no estimate is possible; explore.methods of the arm must include it"
        )
    return displays


def _open(context: Context, name: str) -> LoadedRelease:
    return LoadedRelease(open_release(release_folder(context, name)), Pointer(name, None, 0, ""))


def compute_lists(
    ready: LoadedRelease, arm: Arm, policy: str, requests: list[tuple[dict[str, Any], int]]
) -> tuple[list[list[int]], int]:
    """Compute the policy's lists again.

    Args:
        ready: The release that served the requests.
        arm: The arm that was displayed.
        policy: The method to estimate.
        requests: (row of exposure_contexts, length of the list) of each request.

    Returns:
        The policy's track ids of each request, and the number of positions whose track the arm never shows.

    Raises:
        BadArgument: The release does not contain the policy.
    """
    lists: list[list[int]] = [[] for _ in requests]
    outside = 0
    groups: dict[tuple[Any, ...], list[int]] = {}
    for at, (row, k) in enumerate(requests):
        groups.setdefault((k, tuple(row["leave_out"]), row["leave_out_first_day"], row["options"]), []).append(at)
    for (k, leave_out, streamed, logged), members in groups.items():
        options = replace(logged_parameters(ready, logged, streamed), k=k, exclude=leave_out)
        for start in range(0, len(members), BATCH):
            batch = members[start : start + BATCH]
            listeners = [listener_of(requests[at][0]) for at in batch]
            policy_lists = _lists(ready, listeners, replace(options, method=policy))
            own = _lists(ready, listeners, with_arm_method(ready, arm.method, options))
            explored = [
                _lists(ready, listeners, with_arm_method(ready, m, options))
                for m in (arm.explore.methods if arm.explore else ())
            ]
            for b, at in enumerate(batch):
                lists[at] = policy_lists[b]
                pool = {
                    track for method_lists in (own, *explored) for track in method_lists[b]
                }  # each track of the pool can be at any position
                outside += sum(
                    track not in pool if arm.explore else track != own_track
                    for track, own_track in zip(policy_lists[b], own[b], strict=True)
                )
    return lists, outside


def logged_parameters(ready: LoadedRelease, logged: str | None, streamed: bool | None) -> ListParameters:
    """Return the options of a request from its row of exposure_contexts, without length and excluded tracks.

    Args:
        ready: The release that served the request.
        logged: Column `options`; None: the request was served without rules of lists.
        streamed: Column `leave_out_first_day`, of requests that were served without rules.
    """
    if logged is not None:
        return read_options(ready, ListOptions.model_validate_json(logged))
    heard = ready.rules.heard if streamed is None else ("leave_out" if streamed else "keep")
    return ListParameters(rules=replace(OFF, heard=heard))


def _lists(ready: LoadedRelease, listeners: list[FirstDaySignals], options: ListParameters) -> list[list[int]]:
    return [ready.release.track_ids[row["tracks"]].tolist() for row in recommender.recommend(ready, listeners, options)]


def listener_of(row: dict[str, Any]) -> FirstDaySignals:
    """Return a row of exposure_contexts as signals of the service. Empty artists and albums become absent again."""
    lists = {signal: row[name] for signal, name in BLOCK.items()}
    filled_in = [f"{word}.{level}" for word in ON_TRACKS for level in OTHER_LEVELS]
    present = {signal: ids for signal, ids in lists.items() if ids or signal not in filled_in}
    return FirstDaySignals(row["country"], row["age"], None, present)


def _print(
    plan: ExperimentSettings,
    arm: str,
    policy: str,
    estimates: dict[str, OffPolicy],
    own_rates: dict[str, dict[str, float]],
) -> None:
    heads = ("rate", f"{arm}, %", "IPS, %", "SNIPS, %", "effective sample size", "matched", "clipped weight")
    title = f"Experiment {plan.name}: {policy}, estimated from arm {arm}; 95 % intervals over listeners"
    table = make_table(title, *heads, right=heads[1:])
    for kind, estimate in estimates.items():
        ips, snips = (
            f"{100 * e.value:.2f} ({100 * e.low:.2f}-{100 * e.high:.2f})" for e in (estimate.ips, estimate.snips)
        )
        table.add_row(
            RATES[kind],
            f"{100 * own_rates[kind]['rate']:.2f}",
            ips,
            snips,
            f"{estimate.effective_users:,.0f} of {estimate.users:,}",
            f"{estimate.matched:,} of {estimate.displays:,}",
            f"{estimate.clipped_weight:.1%}",
        )
    wide_console().print(table)
