"""What another method would have been worth in a running experiment, without showing it: from an arm that explores.

Input   exposures, exposure_contexts and outcomes of the plan's days; the releases that answered
Output  a run in MLflow: IPS and SNIPS with intervals, and what they rest on (models/evaluation/off_policy.py)
Policy  one method over the same release: its list is made again by the service's own code from the signals that the log
        kept, and compared with what was shown, place by place
Refuses exit 3 where outcomes, a propensity or a context are missing, the method would have shown tracks that the arm
        never shows (outside its pool), the propensities do not fit the lists, or too few listeners carry the weight
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc

from contracts.errors import BadArgument, CheckFailed
from jobs.experiments.analyse import RATES, plan_of, without_outcome
from jobs.experiments.exposures import Displays
from jobs.experiments.ingest import KINDS
from jobs.platform.context import Context
from jobs.platform.tables import make_table, wide_console
from jobs.release import pointer
from jobs.settings.experiments import ExperimentSettings
from jobs.tracking.tracker import Tracker
from models.evaluation.experiments import compute_rate
from models.evaluation.off_policy import OffPolicy, estimate_value
from serving.experiment.assignment import as_arm
from serving.recommend import recommender
from serving.release.bundle import open_release
from serving.release.loaded import Ready
from serving.release.pointer import Pointer
from serving.schema import Listener, ListOptions
from serving.settings import Arm

BATCH = 256
LEVELS = {"tracks": "songs", "artists": "artists", "albums": "albums", "playlists": "playlists"}
HEARD = {"streams": "streamed", "skips": "skipped", "bans": "banned"}
CHOSEN = {"favourites": "favorite", "searches": "search"}


def run(context: Context, name: str, arm_name: str, policy: str) -> dict[str, Any]:
    """Estimate both rates of a method from one arm's log.

    Raises:
        BadArgument: no such experiment, arm or method.
        CheckFailed: the log cannot carry an estimate; says why.
    """
    plan, kept = plan_of(context, name)
    arm = next((one for one in plan.arms if one.name == arm_name), None)
    if arm is None:
        raise BadArgument(f"--arm: experiment {name} has no arm {arm_name}: {', '.join(a.name for a in plan.arms)}")
    tags = {
        "task": "ab-estimate",
        "ab_experiment": name,
        "plan_digest": kept["digest"],
        "arm": arm_name,
        "policy": policy,
    }
    with Tracker.standalone_run(context, plan.mlflow_experiment, f"estimate {policy} from {arm_name}", tags) as tracked:
        shown = weighed(context, plan, arm, policy)
        found = {kind: judged(plan, shown, kind) for kind in KINDS}
        own = {kind: logged(shown, kind) for kind in KINDS}
        report = {
            "experiment": name,
            "arm": arm_name,
            "policy": policy,
            "digest": kept["digest"],
            "estimates": {kind: asdict(one) for kind, one in found.items()},
            "logged": own,
        }
        for kind, one in found.items():
            numbers = {"ips": one.ips.value, "snips": one.snips.value, "effective_users": one.effective_users}
            tracked.log_metrics({f"{kind}.{key}": value for key, value in numbers.items()})
        tracked.log_json(report, "estimate.json")
        _print(plan, arm_name, policy, found, own)
        return {**report, **tracked.links}


def judged(plan: ExperimentSettings, shown: pd.DataFrame, kind: str) -> OffPolicy:
    """The estimate of one rate.

    Raises:
        CheckFailed: too few listeners carry it, or the propensities do not fit the lists.
    """
    who, came, propensity, target = (shown[name].to_numpy() for name in ("user_id", kind, "propensity", "target"))
    try:
        found = estimate_value(who, came, propensity, target, clip=plan.max_weight)
    except ValueError as error:
        raise CheckFailed(f"{kind}: {error}") from None
    if found.effective_users < plan.min_effective_users:
        raise CheckFailed(
            f"{kind}: the estimate would rest on {found.effective_users:.0f} effective listeners of {found.users}, the "
            f"plan asks for {plan.min_effective_users}: explore more, or longer"
        )
    if not found.mean_weight.low <= 1 <= found.mean_weight.high:
        raise CheckFailed(
            f"{kind}: weights have mean {found.mean_weight.value:.3f} ({found.mean_weight.low:.3f} to "
            f"{found.mean_weight.high:.3f}), which must be 1: the propensities do not fit the lists"
        )
    return found


def logged(shown: pd.DataFrame, kind: str) -> dict[str, float]:
    """The rate that the arm itself had, with its standard error."""
    by_user = shown.groupby("user_id").agg(displays=("position", "size"), hits=(kind, "sum"))
    found = compute_rate(by_user["displays"].to_numpy(), by_user["hits"].to_numpy())
    return {"rate": found.value, "error": found.error}


def weighed(context: Context, plan: ExperimentSettings, arm: Arm, policy: str) -> pd.DataFrame:
    """The arm's displays with a column `target`: whether the policy would have shown this track at this place.

    Raises:
        CheckFailed: as the module says.
    """
    parts: list[pd.DataFrame] = []
    opened: dict[str, Ready] = {}
    outside = 0
    displays = Displays(context.lake, plan)
    for day, shown in displays.by_day(arm.name):
        if shown["propensity"].isna().any():
            raise CheckFailed(f"exposures of {day}: {int(shown['propensity'].isna().sum())} have no propensity")
        if not context.lake.exists("exposure_contexts", day=day):
            raise CheckFailed(
                f"exposure_contexts of {day} are missing: the service writes them where service.exposure_signals is on"
            )
        known = context.lake.read("exposure_contexts", day=day)
        known = known.filter(pc.is_in(known["request_id"], pc.cast(shown["request_id"].unique(), "string")))
        rows = {row["request_id"]: row for row in known.to_pylist()}
        requests = shown.sort_values("position").groupby("request_id", sort=False)
        size, release = requests["track_id"].size(), requests["release"].first()
        if lost := len(size) - len(rows):
            raise CheckFailed(f"exposures of {day}: {lost} answers have no context")
        shown["target"] = 0.0
        wanted: dict[str, list[int]] = {}
        for name in release.unique():
            ready = opened.setdefault(name, _open(context.home, name))
            mine = [request for request in size.index if release[request] == name]
            lists, unshown = remade(ready, arm, policy, [(rows[request], int(size[request])) for request in mine])
            wanted |= zip(mine, lists, strict=True)
            outside += unshown
        at = zip(shown["request_id"], shown["position"], shown["track_id"], strict=True)
        shown["target"] = [float(wanted[request][place - 1] == track) for request, place, track in at]
        parts.append(shown)
    if not parts:
        raise CheckFailed(f"experiment {plan.name}: arm {arm.name} has no exposures; run `overture ab-ingest` first")
    if displays.untold:
        raise CheckFailed(without_outcome(displays.untold))
    found = pd.concat(parts, ignore_index=True)
    if outside:
        raise CheckFailed(
            f"{policy} would have shown tracks at {outside} of {len(found)} places that arm {arm.name} never shows "
            "there: nothing can be said of them; explore.methods of the arm must name it"
        )
    return found


def _open(home: Path, name: str) -> Ready:
    return Ready(open_release(pointer.releases(home) / name), Pointer(name, None, 0, ""))


def remade(
    ready: Ready, arm: Arm, policy: str, requests: list[tuple[dict[str, Any], int]]
) -> tuple[list[list[int]], int]:
    """For each (context, length of the list): the policy's track ids, and at how many places the arm shows none of it.

    Raises:
        BadArgument: the release does not hold the policy.
    """
    lists: list[list[int]] = [[] for _ in requests]
    outside = 0
    groups: dict[tuple[Any, ...], list[int]] = {}
    for at, (row, k) in enumerate(requests):
        groups.setdefault((k, tuple(row["leave_out"]), row["leave_out_first_day"]), []).append(at)
    for (k, leave_out, streamed), members in groups.items():
        asked = ListOptions(k=k, exclude=list(leave_out), leave_out_first_day=streamed)
        for start in range(0, len(members), BATCH):
            some = members[start : start + BATCH]
            people = [listener_of(requests[at][0]) for at in some]
            wanted = _lists(ready, people, asked.model_copy(update={"method": policy}))
            own = _lists(ready, people, as_arm(ready, arm.method, asked))
            others = [
                _lists(ready, people, as_arm(ready, m, asked)) for m in (arm.explore.methods if arm.explore else ())
            ]
            for b, at in enumerate(some):
                lists[at] = wanted[b]
                pool = {track for one in (own, *others) for track in one[b]}  # each may stand at any place
                outside += sum(
                    track not in pool if arm.explore else track != mine
                    for track, mine in zip(wanted[b], own[b], strict=True)
                )
    return lists, outside


def _lists(ready: Ready, people: list[Listener], asked: ListOptions) -> list[list[int]]:
    return [ready.release.track_ids[one["tracks"]].tolist() for one in recommender.recommend(ready, people, asked)]


def listener_of(row: dict[str, Any]) -> Listener:
    """A row of exposure_contexts as the service takes it; artists and albums that were left out are again."""
    said: dict[str, Any] = {"country": row["country"], "age": row["age"]}
    said["onboarding"] = {"artists": row["onboarding_like_artists"]}
    for word, prefix in HEARD.items():
        said[word] = {level: row[f"{prefix}_{name}"] or None for level, name in LEVELS.items() if level != "playlists"}
        said[word]["tracks"] = said[word]["tracks"] or []
    for word, prefix in CHOSEN.items():
        said[word] = {level: row[f"{prefix}_{name}"] for level, name in LEVELS.items()}
    return Listener.model_validate(said)


def _print(
    plan: ExperimentSettings, arm: str, policy: str, found: dict[str, OffPolicy], own: dict[str, dict[str, float]]
) -> None:
    heads = ("rate", f"{arm}, %", "IPS, %", "SNIPS, %", "effective listeners", "matched", "weight cut")
    title = f"Experiment {plan.name}: {policy}, estimated from arm {arm}; 95 % intervals over listeners"
    table = make_table(title, *heads, right=heads[1:])
    for kind, one in found.items():
        ips, snips = (f"{100 * e.value:.2f} ({100 * e.low:.2f}-{100 * e.high:.2f})" for e in (one.ips, one.snips))
        table.add_row(
            RATES[kind],
            f"{100 * own[kind]['rate']:.2f}",
            ips,
            snips,
            f"{one.effective_users:,.0f} of {one.users:,}",
            f"{one.matched:,} of {one.displays:,}",
            f"{one.clipped_weight:.1%}",
        )
    wide_console().print(table)
