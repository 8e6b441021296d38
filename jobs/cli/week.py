"""Commands that wait for the input of a week or a day, and that open, check and close a week."""

from __future__ import annotations

from typing import Annotated

import typer

from contracts.errors import BadArgument
from jobs.cli.options import BacktestOption, ConfigOption, EngineOption, WeekOption, print_json, week_context
from jobs.platform.context import Context
from jobs.platform.week import Week, parse_day
from jobs.settings.settings import load

commands = typer.Typer()


@commands.command(rich_help_panel="2. A week")
def ready(
    week: Annotated[str, typer.Option("--week", help="All days that the week reads: a Monday, YYYY-MM-DD.")] = "",
    day: Annotated[str, typer.Option("--day", help="This day only (UTC), YYYY-MM-DD.")] = "",
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
    backtest: BacktestOption = False,
    files: Annotated[
        bool,
        typer.Option("--files", help="With --day: check the files of the day in `source.data` instead of the lake."),
    ] = False,
) -> None:
    """Check that the days of events (skip engine: plays) are in the lake and not half-empty. Pipelines begin with it.

    Exit code 4 while the missing days are awaited, `source.deadline_h` hours after the end of each; then exit code 3.
    """
    if bool(week) == bool(day):
        raise BadArgument("ready: give either --week or --day")
    if day and backtest:
        raise BadArgument("ready: --backtest needs --week")
    if week and files:
        raise BadArgument("ready: --files needs --day")
    settings = load(config)
    if files:
        from jobs.ingest import day_files

        report, error = day_files.ready(settings.source, parse_day(day))
        print_json(report)
        if error:
            raise error
        return
    if week:
        logical_week = Week.parse(week, backtest=backtest)
        first, last = logical_week.event_days(settings.matrix.window_days)
    else:
        first = last = parse_day(day)
        logical_week = Week.after_day(last)
    context = Context.for_engine(settings, logical_week, engine)
    from jobs.quality import completeness

    report, error = completeness.ready(context, "plays" if context.engine == "skip" else "events", first, last)
    print_json(report)
    if error:
        raise error


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
