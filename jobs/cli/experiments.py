"""Commands of A/B tests: plan, ingest logs, analyse, estimate other methods, simulate."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, print_json
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import load
from serving.settings import ArmMethod

experiments = typer.Typer()


@experiments.command("ab-plan")
def ab_plan(config: ConfigOption = None) -> None:
    """Register the experiment of the settings before its first day: arms, hypothesis, number of listeners, days."""
    run_experiment("plan", config)


@experiments.command("ab-ingest")
def ab_ingest(
    data: Annotated[Path, typer.Option("--data", help="Folder of exposures-<day>*.jsonl and outcomes-<day>*.jsonl.")],
    config: ConfigOption = None,
) -> None:
    """Read the service's exposure log and the application's outcomes into the lake. Bad lines are counted by reason."""
    run_experiment("ingest", config, folder=data)


@experiments.command("ab-test")
def ab_test(
    experiment: Annotated[str, typer.Option("--experiment", help="Default: the experiment of the settings.")] = "",
    config: ConfigOption = None,
) -> None:
    """Analyse a registered experiment over its planned days. Exit code 3 if no valid conclusion is possible."""
    run_experiment("analyse", config, name=experiment or load(config).experiment.name)


@experiments.command("ab-estimate")
def ab_estimate(
    policy: Annotated[
        str, typer.Option("--policy", help="semi_pers, full_pers, blend, popularity or country_age_mean.")
    ],
    arm: Annotated[str, typer.Option("--arm", help="Arm whose log is used; it must explore.")],
    experiment: Annotated[str, typer.Option("--experiment", help="Default: the experiment of the settings.")] = "",
    config: ConfigOption = None,
) -> None:
    """Estimate the rate of a method from an exploring arm's log (IPS, SNIPS). Exit code 3 if that is not possible."""
    if policy not in get_args(ArmMethod):
        raise BadArgument(
            f"--policy: '{policy}' is not a method of the service; choose {', '.join(get_args(ArmMethod))}"
        )
    run_experiment("off_policy", config, name=experiment or load(config).experiment.name, arm_name=arm, policy=policy)


@experiments.command("ab-simulate")
def ab_simulate(
    listeners: Annotated[
        int, typer.Option("--listeners", min=100, help="Approximate number of new listeners.")
    ] = 8_000,
    length: Annotated[
        int, typer.Option("--length", min=1, max=200, help="Number of tracks that a list displays.")
    ] = 12,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 1,
    config: ConfigOption = None,
) -> None:
    """Run the experiment of the settings on simulated new listeners, served by the champion."""
    run_experiment("simulate", config, listeners=listeners, length=length, seed=seed)


def run_experiment(module: str, config: Path | None, **arguments: Any) -> None:
    """Run one job of jobs/experiments/, which belongs to no week, and print its report as the last line."""
    settings = load(config)
    print_json(
        import_module(f"jobs.experiments.{module}").run(Context(settings, Week.parse(settings.week)), **arguments)
    )
