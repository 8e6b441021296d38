"""Register an A/B test before it starts: arms, hypothesis, sample size, days.

Reads    section `experiment` of the settings      Writes  experiments/<name>.json under OVERTURE_HOME, a run in MLflow
Once     a registered plan never changes: registering it again keeps its first date; another plan needs another name
Digest   SHA-256 of the plan in canonical JSON; the service and the analysis reject a plan with another digest
Looks    one: the analysis covers exactly the planned days, after the last of them
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


def users_per_arm(plan: ExperimentSettings) -> int:
    """Return the number of listeners per arm.

    alpha is divided by the number of comparisons with the control (Bonferroni), which is never less strict than Holm.
    """
    return required_users(
        plan.baseline_rate,
        plan.min_effect,
        plan.alpha / (len(plan.arms) - 1),
        plan.power,
        plan.displays_per_user,
        plan.design_effect,
    )


def run(context: Context) -> dict[str, Any]:
    """Register the plan of the settings now."""
    return register(context, datetime.now(UTC))


def register(context: Context, at: datetime, simulated: bool = False) -> dict[str, Any]:
    """Register the plan of the settings.

    Args:
        context: Context with the settings.
        at: Time of the registration.
        simulated: The plan belongs to a simulation, whose calendar is not the real one.

    Raises:
        BadArgument: Another plan has this name, or the first day has begun.
    """
    plan = context.settings.experiment
    content = plan.model_dump(mode="json")
    path = assignment.plan_path(context.home, plan.name)
    digest = files.digest(files.canonical(content))
    users = users_per_arm(plan)
    report = {"experiment": plan.name, "digest": digest, "users_per_arm": users, "path": str(path)}
    if path.exists():
        existing = assignment.read_plan(context.home, plan.name)
        if existing["digest"] != digest:
            raise BadArgument(
                f"experiment {plan.name}: another plan of this name was registered on "
                f"{existing['registered_at'][:10]}; a registered plan does not change: choose another name"
            )
        return report | {"registered_at": existing["registered_at"], "already_registered": True}
    if f"{at:%Y-%m-%d}" >= plan.first_day:
        raise BadArgument(
            f"experiment {plan.name}: its first day {plan.first_day} has begun on {at:%Y-%m-%d}; a plan must be "
            "registered before it: move experiment.first_day and last_day"
        )
    tags = {"task": "ab-plan", "ab_experiment": plan.name, "plan_digest": digest}
    with Tracker.standalone_run(context, plan.mlflow_experiment, f"plan {plan.name}", tags) as run:
        run.log_params({"plan": content})
        run.log_metrics({"users_per_arm": users})
        registration = {
            "plan": content,
            "digest": digest,
            "registered_at": at.isoformat(),
            "users_per_arm": users,
            "simulated": simulated,
        }
        run.log_json(registration, "plan.json")
        files.replace(path, files.canonical(registration) + b"\n")
        return report | {"registered_at": at.isoformat(), "already_registered": False, **run.links}
