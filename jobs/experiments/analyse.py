"""The verdict of an A/B test, or why there is none: Figure 7 of the paper, for one's own listeners.

Input   a registered plan; exposures and outcomes of its days        Output  experiments/<name>.verdict.json, MLflow
Rates   display-to-stream and display-to-favourite: displays that were streamed (favoured) within the planned hours, out
        of all displays, by arm; errors over listeners, relative to the control (models/evaluation/experiments.py)
Refuses exit 3, and tells no rate, where the plan came after the first display, days are missing, the app told nothing
        of one, an arm has fewer listeners than planned, listeners came to the arms in other shares than planned
        (chi-squared), or one was shown another arm than the hash says. To look before the end and stop when it looks
        good is what this prevents
Differs the paper displays playlists in carousels; here a display is a track at a place of a list. Like the paper, every
        display counts, whatever its place
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from contracts.errors import CheckFailed
from jobs.experiments.exposures import Counted, count, misplaced
from jobs.experiments.ingest import KINDS
from jobs.platform import figures, files
from jobs.platform.context import Context
from jobs.platform.tables import make_table, wide_console
from jobs.settings.experiments import ExperimentSettings
from jobs.tracking.tracker import Tracker
from models.evaluation.experiments import Rate, adjust_holm, compute_lift, compute_rate, sample_ratio_p_value
from serving.experiment import assignment

if TYPE_CHECKING:
    from rich.table import Table

RATES = {"stream": "display-to-stream", "favorite": "display-to-favourite"}


def plan_of(context: Context, name: str) -> tuple[ExperimentSettings, dict[str, Any]]:
    """The registered plan of this name, and what was kept with it.

    Raises:
        BadArgument: there is none.
        CheckFailed: it was changed afterwards.
    """
    kept = assignment.read(context.home, name)
    return ExperimentSettings.from_plan(kept["plan"]), kept


def run(context: Context, name: str) -> dict[str, Any]:
    """Judge the experiment; print it for people, keep it in MLflow.

    Raises:
        CheckFailed: there can be no verdict; names every reason.
    """
    plan, kept = plan_of(context, name)
    counted = count(context.lake, plan)
    tags = {"task": "ab-test", "ab_experiment": name, "plan_digest": kept["digest"]}
    with Tracker.standalone_run(context, plan.mlflow_experiment, f"test {name}", tags) as tracked:
        people = {arm.name: int((counted.users["arm"] == arm.name).sum()) for arm in plan.arms}
        tracked.log_params({"plan": kept["plan"], "registered_at": kept["registered_at"]})
        tracked.log_metrics({f"users.{arm}": n for arm, n in people.items()})
        facts = {
            "experiment": name,
            "digest": kept["digest"],
            "registered_at": kept["registered_at"],
            "users": people,
            "users_per_arm": kept["users_per_arm"],
            "requests": counted.requests,
            "stood_in": counted.stood_in,
            "unused_outcomes": counted.unused,
            "sample_ratio_p": sample_ratio_p_value(list(people.values()), [arm.share for arm in plan.arms]),
        }
        reasons = refusals(plan, kept, counted, people, float(facts["sample_ratio_p"]))
        if reasons:
            tracked.log_json({**facts, "refused": reasons}, "verdict.json")
            _print(people_table(plan, people, kept["users_per_arm"]))
            raise CheckFailed(f"experiment {name}: no verdict\n" + "\n".join(f"  {reason}" for reason in reasons))
        arms = compare(plan, counted)
        found = {**facts, "arms": arms, "verdicts": verdicts(plan, arms)}
        for arm, said in arms.items():
            for kind in KINDS:
                numbers = {f"{kind}.{key}.{arm}": value for key, value in said[kind].items() if value is not None}
                tracked.log_metrics(numbers)
        tracked.set_tags({f"verdict.{arm}": said for arm, said in found["verdicts"].items()})
        figure = figures.relative_rates(arms, plan.control, plan.alpha)
        tracked.log_figure(figure, "relative_rates.png")
        tracked.log_json(found, "verdict.json")
        path = context.home / "experiments" / f"{name}.verdict.json"
        files.replace(path, files.canonical(found) + b"\n")
        picture = path.with_suffix(".png")
        figure.savefig(picture, dpi=120)
        _print(rates_table(plan, found))
        return {**found, "path": str(path), "picture": str(picture), **tracked.links}


def refusals(
    plan: ExperimentSettings, kept: dict[str, Any], counted: Counted, people: dict[str, int], ratio_p: float
) -> list[str]:
    """Why there can be no verdict; empty where there can."""
    found = []
    registered = datetime.fromisoformat(kept["registered_at"])
    if counted.first is not None and counted.first <= registered:
        found.append(f"the plan was registered at {registered:%F %T}, after the first display at {counted.first:%F %T}")
    if counted.missing:
        found.append(f"planned days without a display: {some(counted.missing)}; the test is not over")
    if counted.untold:
        found.append(f"{without_outcome(counted.untold)}: their rates would be too low")
    short = [f"{arm} {n}" for arm, n in people.items() if n < kept["users_per_arm"]]
    if short:
        found.append(f"the plan needs {kept['users_per_arm']} listeners in each arm; there are {', '.join(short)}")
    if ratio_p < plan.sample_ratio_alpha:
        shares = ", ".join(f"{arm.name} {people[arm.name]} (share {arm.share:g})" for arm in plan.arms)
        found.append(f"listeners did not come by the planned shares (p = {ratio_p:.1e}): {shares}; some got lost")
    if wrong := misplaced(counted.users, plan):
        found.append(f"{wrong} listeners were shown another arm than their own")
    return found


def some(days: list[str]) -> str:
    """The first few of many days."""
    more = f" and {len(days) - 3} more" if len(days) > 3 else ""
    return ", ".join(days[:3]) + more


def without_outcome(days: list[str]) -> str:
    """What is wrong with days that were shown lists and told nothing."""
    return f"days with displays and without an outcome: {some(days)}; run `overture ab-ingest` over the app's log"


def compare(plan: ExperimentSettings, counted: Counted) -> dict[str, dict[str, Any]]:
    """Rates by arm, relative to the control; p-values are those of Holm among the arms."""
    arms: dict[str, dict[str, Any]] = {arm.name: {} for arm in plan.arms}
    for kind in KINDS:
        rates: dict[str, Rate] = {}
        for name in arms:
            mine = counted.users[counted.users["arm"] == name]
            rates[name] = compute_rate(mine["displays"].to_numpy(), mine[kind].to_numpy())
        lifts = {name: compute_lift(found, rates[plan.control], plan.alpha) for name, found in rates.items()}
        known = {n: one.p_value for n, one in lifts.items() if n != plan.control and one.p_value is not None}
        adjusted = adjust_holm(known)
        for name, found in rates.items():
            one = lifts[name]
            arms[name][kind] = {
                "rate": found.value,
                "error": found.error,
                "displays": found.displays,
                "design_effect": found.design_effect,
                **(
                    {"ratio": 1.0}
                    if name == plan.control
                    else {"ratio": one.ratio, "low": one.low, "high": one.high, "p_value": adjusted.get(name)}
                ),
            }
            arms[name]["users"] = found.users
            arms[name]["displays_per_user"] = found.displays / found.users
    return arms


def verdicts(plan: ExperimentSettings, arms: dict[str, dict[str, Any]]) -> dict[str, str]:
    """better, worse, or no difference shown: of each arm but the control, by the planned metric alone."""
    said = {}
    for name, found in arms.items():
        if name != plan.control:
            one = found[plan.metric]
            sure = one["p_value"] is not None and one["p_value"] <= plan.alpha
            said[name] = "no difference shown" if not sure else "better" if one["ratio"] > 1 else "worse"
    return said


def people_table(plan: ExperimentSettings, people: dict[str, int], needed: int) -> Table:
    """Listeners by arm: all that is told while there is no verdict."""
    numbers = ("share", "listeners", "planned")
    table = make_table(f"Experiment {plan.name}: listeners", "arm", "method", *numbers, right=numbers)
    for arm in plan.arms:
        table.add_row(arm.name, arm.method, f"{arm.share:g}", f"{people[arm.name]:,}", f"{needed:,}")
    return table


def rates_table(plan: ExperimentSettings, found: dict[str, Any]) -> Table:
    """Rates, and what they are relative to the control's."""
    title = (
        f"Experiment {plan.name}: {plan.first_day} to {plan.last_day}; displays streamed and favoured, relative to "
        f"{plan.control} with {100 * (1 - plan.alpha):g} % interval, p after Holm"
    )
    columns = ("streamed, %", "relative", "p", "favoured, %", "relative ", "p ")
    heads = ("arm", "listeners", *columns, "verdict")
    table = make_table(title, *heads, right=heads[1:-1])
    for arm, said in found["arms"].items():
        cells = []
        for kind in RATES:
            one = said[kind]
            control = arm == plan.control or one["ratio"] is None
            spread = "" if control else f"{one['ratio']:.3f} ({one['low']:.3f}-{one['high']:.3f})"
            cells += [f"{100 * one['rate']:.2f}", spread, "" if control else f"{one['p_value']:.2g}"]
        table.add_row(arm, f"{said['users']:,}", *cells, found["verdicts"].get(arm, "control"))
    return table


def _print(table: Table) -> None:
    wide_console().print(table)
