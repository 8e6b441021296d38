"""Commands that operate the released engines: serve, anchor, status, cold-users, realised, monitor."""

from __future__ import annotations

from typing import Annotated

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, EngineOption, WeekOption, print_json, settings_context, week_context
from jobs.platform.context import Context
from jobs.platform.week import Week, parse_day
from jobs.settings.settings import home, load

commands = typer.Typer()
PANEL = "5. Releases and operations"


@commands.command(rich_help_panel=PANEL)
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on. Default: settings.")] = "",
    port: Annotated[int, typer.Option("--port", help="Port to listen on. Default: settings.")] = -1,
    workers: Annotated[int, typer.Option("--workers", help="Number of processes. Default: settings.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Start the HTTP service. It serves the champion and loads each new champion. The web page is at /."""
    from pydantic import ValidationError

    from serving import main as service

    all_settings = load(config)
    settings = all_settings.service
    options = {
        "host": host or settings.host,
        "port": settings.port if port == -1 else port,
        "workers": workers or settings.workers,
    }
    try:
        settings = type(settings).model_validate({**dict(settings), **options})
    except ValidationError as error:
        problems = "; ".join(f"--{e['loc'][0]}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise BadArgument(f"serve: {problems}") from None
    service.serve(settings, home(), all_settings.store, all_settings.profile)
    print_json({"served": f"{settings.host}:{settings.port}"})


@commands.command(rich_help_panel=PANEL)
def anchor(
    to: Annotated[str, typer.Option("--to", help="Digest of a release that becomes the anchor.")] = "",
    confirm: Annotated[bool, typer.Option("--confirm", help="The present anchor is still the right one.")] = False,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Show, move or confirm the anchor: the release that the gate lets no later one fall below by more than delta."""
    if to and confirm:
        raise BadArgument("anchor: --to moves the anchor, --confirm keeps it; give one of them")
    context = week_context(load(config).week, config, engine=engine)
    from jobs.release import anchor as job
    from jobs.release.promote import resolve_release

    print_json(job.run(context, resolve_release(context, to) if to else None, confirm))


@commands.command(rich_help_panel=PANEL)
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show the champion of each engine: week, metrics, the gate's verdict by rule, data checks, versions."""
    from jobs.cli.status import build_report, render

    report = build_report(settings_context(config))
    if as_json:
        print_json(report)
    else:
        render(report)


@commands.command("cold-users", rich_help_panel=PANEL)
def cold_users(
    day: Annotated[str, typer.Option("--day", help="Day of registration (UTC), YYYY-MM-DD.")],
    config: ConfigOption = None,
) -> None:
    """Compute vector, segment and list of the listeners who registered on a day, and publish them to the store.

    Needs a champion: run `overture release promote` first.
    """
    registered = parse_day(day)
    context = Context(load(config), Week.containing(registered))
    from jobs.release import place_new_users

    print_json(place_new_users.run(context, registered))


@commands.command(rich_help_panel=PANEL)
def realised(
    day: Annotated[str, typer.Option("--day", help="Last day of events to use (UTC), YYYY-MM-DD.")],
    config: ConfigOption = None,
) -> None:
    """Compare recommended lists with what the new listeners streamed in the 3, 7 and 30 days after their first day.

    The lists are those that `overture cold-users` recorded. The result is by release and slice, beside Popularity. It
    evaluates for each horizon the new listeners of the last seven days whose horizon has ended.
    """
    last = parse_day(day)
    context = Context(load(config), Week.containing(last))
    from jobs.monitor import realised as job

    print_json(job.run(context, last))


@commands.command(rich_help_panel=PANEL)
def monitor(week: WeekOption, config: ConfigOption = None) -> None:
    """Compare the new listeners of the seven days before the week with the champion's training data (drift, PSI)."""
    context = week_context(week, config)
    from jobs.monitor import drift

    print_json(drift.run(context))
