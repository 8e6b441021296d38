"""Commands that open, check, close and monitor a week."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.options import BacktestOption, ConfigOption, EngineOption, WeekOption, print_json, week_context

commands = typer.Typer()


@commands.command(rich_help_panel="2. A week")
def begin(
    week: WeekOption, engine: EngineOption = "cold_start", config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Open the week's parent run in MLflow. The runs of the later tasks are its children."""
    context = week_context(week, config, backtest, engine)
    from jobs.release import weekly_run

    print_json(weekly_run.begin(context))


@commands.command(rich_help_panel="2. A week")
def check(
    tables: Annotated[list[str], typer.Argument(help="Tables to check, such as users tracks events playlists.")],
    week: WeekOption,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
    backtest: BacktestOption = False,
) -> None:
    """Check tables against their contracts with Great Expectations. Exit code 3 if a check fails.

    The results are written as JSON and as one HTML page, and are logged to MLflow.
    """
    context = week_context(week, config, backtest, engine)
    from jobs.quality import check as job

    print_json(job.run(context, tables=tables))


@commands.command(rich_help_panel="2. A week")
def complete(
    week: WeekOption,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
    backtest: BacktestOption = False,
    failed: Annotated[bool, typer.Option("--failed", help="End the parent run as failed.")] = False,
) -> None:
    """End the week's parent run in MLflow with its summary. This is the last command of a week."""
    context = week_context(week, config, backtest, engine)
    from jobs.release import weekly_run

    print_json(weekly_run.complete(context, failed))
