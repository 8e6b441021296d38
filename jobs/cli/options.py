"""Options that commands share, how a job is run, and the last line of the output."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import load

WeekOption = Annotated[str, typer.Option("--week", help="Logical week: a Monday, YYYY-MM-DD.")]
BacktestOption = Annotated[
    bool,
    typer.Option(
        "--backtest",
        help="Evaluate on the cohort that registered in the week after the as-of time (the paper's protocol).",
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file; default OVERTURE_CONFIG, else configs/demo.yaml.")
]
EngineOption = Annotated[str, typer.Option("--engine", help="Engine: cold_start or skip.")]
SpaceOption = Annotated[str, typer.Option("--space", help="Space: tt_svd or ut_als.")]


def run_job(
    module: str, week: str, config: Path | None, backtest: bool = False, engine: str = "cold_start", **arguments: Any
) -> None:
    """Import one job, run it for one week, and print its report as the last line."""
    context = Context.for_engine(load(config), Week.parse(week, backtest=backtest), engine)
    print_json(import_module(f"jobs.{module}").run(context, **arguments))


def run_tracked(module: str, week: str, config: Path | None, backtest: bool, space: str | None = None) -> None:
    """Run a job inside a child run in MLflow, and print its report as the last line."""
    from jobs.release import weekly_run

    context = Context(load(config), Week.parse(week, backtest=backtest))
    job = import_module(f"jobs.{module}")
    print_json(weekly_run.tracked(context, module.split(".")[1], space, job.run))


def print_json(report: dict[str, Any]) -> None:
    """Print the report as one line of JSON: the machine-readable part of the output."""
    sys.stdout.flush()
    typer.echo(json.dumps(report, sort_keys=True, default=str))
