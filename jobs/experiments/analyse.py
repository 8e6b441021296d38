"""Analysis of an A/B test: rates by arm, relative to the control (as in Figure 7 of the paper).

Input   a registered plan; exposures and outcomes of its days        Output  experiments/<name>.verdict.json, MLflow
Rates   display-to-stream and display-to-favourite: displays that were streamed (favourited) within the planned hours,
        divided by all displays, by arm. Standard errors by the delta method over listeners; p-values by Holm
        (models/evaluation/experiments.py)
Refusal exit code 3, without any rate, if the plan was registered after the first display, a planned day has no display
        or no outcome, an arm has fewer listeners than planned, the sample ratio does not match the planned shares
        (chi-squared), or a listener was shown an arm other than the assigned one. This prevents stopping a test early
        because an interim result looks good
Differs the paper displays playlists in carousels; here a display is a track at a position of a list. As in the paper,
        every display counts, whatever its position
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from contracts.errors import CheckFailed
from jobs.experiments.exposures import ExperimentCounts, count_displays, n_misassigned
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
    """Return the registered plan of this name, and its registration record.

    Raises:
        BadArgument: No plan of this name is registered.
        CheckFailed: The plan was changed after its registration.
    """
    registration = assignment.read_plan(context.home, name)
    return ExperimentSettings.from_plan(registration["plan"]), registration


def run(context: Context, name: str) -> dict[str, Any]:
    """Analyse the experiment, print the result, and log it to MLflow.

    Raises:
        CheckFailed: The data do not allow a conclusion. The message lists every reason.
    """
    plan, registration = plan_of(context, name)
    counted = count_displays(context.lake, plan)
    tags = {"task": "ab-test", "ab_experiment": name, "plan_digest": registration["digest"]}
    with Tracker.standalone_run(context, plan.mlflow_experiment, f"test {name}", tags) as run:
        n_users = {arm.name: int((counted.users["arm"] == arm.name).sum()) for arm in plan.arms}
        run.log_params({"plan": registration["plan"], "registered_at": registration["registered_at"]})
        run.log_metrics({f"users.{arm}": n for arm, n in n_users.items()})
        facts = {
            "experiment": name,
            "digest": registration["digest"],
            "registered_at": registration["registered_at"],
            "users": n_users,
            "users_per_arm": registration["users_per_arm"],
            "requests": counted.requests,
            "fallback_displays": counted.fallback_displays,
            "unmatched_outcomes": counted.unmatched,
            "sample_ratio_p": sample_ratio_p_value(list(n_users.values()), [arm.share for arm in plan.arms]),
        }
        reasons = reasons_against(plan, registration, counted, n_users, float(facts["sample_ratio_p"]))
        if reasons:
            run.log_json({**facts, "reasons": reasons}, "verdict.json")
            _print(listeners_table(plan, n_users, registration["users_per_arm"]))
            raise CheckFailed(
                f"experiment {name}: no conclusion is possible\n" + "\n".join(f"  {reason}" for reason in reasons)
            )
        arms = compare(plan, counted)
        result = {**facts, "arms": arms, "verdicts": verdicts(plan, arms)}
        for arm, values in arms.items():
            for kind in KINDS:
                numbers = {f"{kind}.{key}.{arm}": value for key, value in values[kind].items() if value is not None}
                run.log_metrics(numbers)
        run.set_tags({f"verdict.{arm}": verdict for arm, verdict in result["verdicts"].items()})
        figure = figures.relative_rates(arms, plan.control, plan.alpha)
        run.log_figure(figure, "relative_rates.png")
        run.log_json(result, "verdict.json")
        path = context.home / "experiments" / f"{name}.verdict.json"
        files.replace(path, files.canonical(result) + b"\n")
        picture = path.with_suffix(".png")
        figure.savefig(picture, dpi=120)
        _print(rates_table(plan, result))
        return {**result, "path": str(path), "picture": str(picture), **run.links}


def reasons_against(
    plan: ExperimentSettings,
    registration: dict[str, Any],
    counted: ExperimentCounts,
    n_users: dict[str, int],
    ratio_p: float,
) -> list[str]:
    """Return the reasons why the data do not allow a conclusion.

    Args:
        plan: The registered plan.
        registration: The registration record.
        counted: Displays and outcomes by listener.
        n_users: Arm -> number of listeners.
        ratio_p: p-value of the sample ratio test.
    """
    reasons = []
    registered = datetime.fromisoformat(registration["registered_at"])
    if counted.first is not None and counted.first <= registered:
        reasons.append(
            f"the plan was registered at {registered:%F %T}, after the first display at {counted.first:%F %T}"
        )
    if counted.missing:
        reasons.append(f"planned days without a display: {shorten(counted.missing)}; the test is not over")
    if counted.without_outcome:
        reasons.append(f"{missing_outcomes(counted.without_outcome)}: their rates would be too low")
    short = [f"{arm} {n}" for arm, n in n_users.items() if n < registration["users_per_arm"]]
    if short:
        reasons.append(
            f"the plan requires {registration['users_per_arm']} listeners in each arm; there are {', '.join(short)}"
        )
    if ratio_p < plan.sample_ratio_alpha:
        shares = ", ".join(f"{arm.name} {n_users[arm.name]} (share {arm.share:g})" for arm in plan.arms)
        reasons.append(f"sample ratio mismatch: listeners differ from the planned shares (p = {ratio_p:.1e}): {shares}")
    if n_wrong := n_misassigned(counted.users, plan):
        reasons.append(f"{n_wrong} listeners were shown an arm other than the assigned one")
    return reasons


def shorten(days: list[str]) -> str:
    """Return the first three days, and the number of the rest."""
    more = f" and {len(days) - 3} more" if len(days) > 3 else ""
    return ", ".join(days[:3]) + more


def missing_outcomes(days: list[str]) -> str:
    """Return the message about days with displays and without outcomes."""
    return f"days with displays and without an outcome: {shorten(days)}; run `overture ab-ingest` on the app's log"


def compare(plan: ExperimentSettings, counted: ExperimentCounts) -> dict[str, dict[str, Any]]:
    """Return rates by arm, relative to the control. p-values are adjusted by Holm over the arms."""
    arms: dict[str, dict[str, Any]] = {arm.name: {} for arm in plan.arms}
    for kind in KINDS:
        rates: dict[str, Rate] = {}
        for name in arms:
            rows = counted.users[counted.users["arm"] == name]
            rates[name] = compute_rate(rows["displays"].to_numpy(), rows[kind].to_numpy())
        lifts = {name: compute_lift(rate, rates[plan.control], plan.alpha) for name, rate in rates.items()}
        p_values = {n: lift.p_value for n, lift in lifts.items() if n != plan.control and lift.p_value is not None}
        adjusted = adjust_holm(p_values)
        for name, rate in rates.items():
            lift = lifts[name]
            arms[name][kind] = {
                "rate": rate.value,
                "error": rate.error,
                "displays": rate.displays,
                "design_effect": rate.design_effect,
                **(
                    {"ratio": 1.0}
                    if name == plan.control
                    else {"ratio": lift.ratio, "low": lift.low, "high": lift.high, "p_value": adjusted.get(name)}
                ),
            }
            arms[name]["users"] = rate.users
            arms[name]["displays_per_user"] = rate.displays / rate.users
    return arms


def verdicts(plan: ExperimentSettings, arms: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return `better`, `worse` or `no difference shown` for each arm but the control, by the planned metric."""
    result = {}
    for name, values in arms.items():
        if name != plan.control:
            lift = values[plan.metric]
            is_significant = lift["p_value"] is not None and lift["p_value"] <= plan.alpha
            result[name] = "no difference shown" if not is_significant else "better" if lift["ratio"] > 1 else "worse"
    return result


def listeners_table(plan: ExperimentSettings, n_users: dict[str, int], n_required: int) -> Table:
    """Return the table of listeners by arm, which is shown when no conclusion is possible."""
    numbers = ("share", "listeners", "planned")
    table = make_table(f"Experiment {plan.name}: listeners", "arm", "method", *numbers, right=numbers)
    for arm in plan.arms:
        table.add_row(arm.name, arm.method, f"{arm.share:g}", f"{n_users[arm.name]:,}", f"{n_required:,}")
    return table


def rates_table(plan: ExperimentSettings, result: dict[str, Any]) -> Table:
    """Return the table of rates, absolute and relative to the control."""
    title = (
        f"Experiment {plan.name}: {plan.first_day} to {plan.last_day}; streamed and favourited displays, relative to "
        f"{plan.control} with {100 * (1 - plan.alpha):g} % interval, p adjusted by Holm"
    )
    columns = ("streamed, %", "relative", "p", "favourited, %", "relative ", "p ")
    heads = ("arm", "listeners", *columns, "verdict")
    table = make_table(title, *heads, right=heads[1:-1])
    for arm, values in result["arms"].items():
        cells = []
        for kind in RATES:
            rate = values[kind]
            control = arm == plan.control or rate["ratio"] is None
            interval = "" if control else f"{rate['ratio']:.3f} ({rate['low']:.3f}-{rate['high']:.3f})"
            cells += [f"{100 * rate['rate']:.2f}", interval, "" if control else f"{rate['p_value']:.2g}"]
        table.add_row(arm, f"{values['users']:,}", *cells, result["verdicts"].get(arm, "control"))
    return table


def _print(table: Table) -> None:
    wide_console().print(table)
