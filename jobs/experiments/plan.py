"""Registers an experiment before it begins: what will be tested, on how many listeners, on which days.

Reads    section `experiment` of the settings      Writes  experiments/<name>.json under OVERTURE_HOME, a run in MLflow
Once     a registered plan never changes: the same one again keeps its first date, another one needs another name
Digest   SHA-256 of the plan in canonical JSON; the service and the verdict refuse a plan that does not fit it
Look     one: the verdict is about exactly the planned days, once all of them are over
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from contracts.errors import BadArgument
from jobs.platform import files
from jobs.platform.context import Context
from jobs.settings.experiments import ExperimentSettings
from jobs.tracking.tracker import Tracker
from models.evaluation.experiments import required_users
from serving.experiment import assignment


def needed(plan: ExperimentSettings) -> int:
    """Listeners that each arm needs; alpha is divided by the comparisons with the control, which Holm never exceeds."""
    return required_users(
        plan.baseline_rate,
        plan.min_effect,
        plan.alpha / (len(plan.arms) - 1),
        plan.power,
        plan.displays_per_user,
        plan.design_effect,
    )


def run(context: Context) -> dict[str, Any]:
    """Register what the settings plan, now."""
    return register(context, datetime.now(UTC))


def register(context: Context, at: datetime, simulated: bool = False) -> dict[str, Any]:
    """Register the plan of the settings as of a moment; a simulation has a calendar of its own.

    Raises:
        BadArgument: another plan has this name, or the first day has begun.
    """
    plan = context.settings.experiment
    said = plan.model_dump(mode="json")
    path = assignment.registered(context.home, plan.name)
    digest = files.digest(files.canonical(said))
    users = needed(plan)
    report = {"experiment": plan.name, "digest": digest, "users_per_arm": users, "path": str(path)}
    if path.exists():
        known = assignment.read(context.home, plan.name)
        if known["digest"] != digest:
            raise BadArgument(
                f"experiment {plan.name}: another plan of this name was registered on {known['registered_at'][:10]}; "
                "a plan does not change once it is registered: give this one another name"
            )
        return report | {"registered_at": known["registered_at"], "again": True}
    if f"{at:%Y-%m-%d}" >= plan.first_day:
        raise BadArgument(
            f"experiment {plan.name}: its first day {plan.first_day} has begun on {at:%Y-%m-%d}; a plan comes before "
            "what it is about: move experiment.first_day and last_day"
        )
    tags = {"task": "ab-plan", "ab_experiment": plan.name, "plan_digest": digest}
    with Tracker.standalone_run(context, plan.mlflow_experiment, f"plan {plan.name}", tags) as tracked:
        tracked.log_params({"plan": said})
        tracked.log_metrics({"users_per_arm": users})
        kept = {
            "plan": said,
            "digest": digest,
            "registered_at": at.isoformat(),
            "users_per_arm": users,
            "simulated": simulated,
        }
        tracked.log_json(kept, "plan.json")
        files.replace(path, files.canonical(kept) + b"\n")
        return report | {"registered_at": at.isoformat(), "again": False, **tracked.links}
