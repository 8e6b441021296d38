"""Releases: bundle, judge, promote, publish, roll back, prune."""

from __future__ import annotations

from typing import Annotated

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, EngineOption, WeekOption, run_job
from jobs.settings.settings import load

release = typer.Typer(help="Bundle, judge, promote, publish, roll back and prune.")


@release.command("bundle")
def release_bundle(week: WeekOption, engine: EngineOption = "cold_start", config: ConfigOption = None) -> None:
    """Build the week's release and register it as challenger."""
    run_job("release.bundle", week, config, engine=engine)


@release.command("gate")
def release_gate(week: WeekOption, engine: EngineOption = "cold_start", config: ConfigOption = None) -> None:
    """Judge the challenger; exit 3 when it fails."""
    run_job("release.gate", week, config, engine=engine)


@release.command("promote")
def release_promote(
    week: Annotated[str, typer.Option("--week", help="The week whose release it is; not needed with --release.")] = "",
    digest: Annotated[str, typer.Option("--release", help="Digest of a bundle; default: the week's own.")] = "",
    approved: Annotated[bool, typer.Option("--approved", help="A person accepted a verdict in the grey zone.")] = False,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Make a release the champion; one of two at once wins, a crash leaves the old one serving."""
    if not week and not digest:
        raise BadArgument("release promote: name the week (--week) or the release (--release)")
    week = week or load(config).week
    run_job("release.promote", week, config, engine=engine, release=digest or None, approved=approved)


@release.command("publish")
def release_publish(
    week: WeekOption,
    store: Annotated[str, typer.Option("--store", help="memory, redis or cassandra; default: settings.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, write nothing.")] = False,
    config: ConfigOption = None,
) -> None:
    """Open the champion as the service would, and write its known listeners to the store."""
    run_job("release.publish", week, config, store=store or None, dry_run=dry_run)


@release.command("rollback")
def release_rollback(
    to: Annotated[str, typer.Option("--to", help="Digest of a former champion; default: the previous one.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, change nothing.")] = False,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Return to the previous champion."""
    run_job("release.rollback", load(config).week, config, engine=engine, to=to or None, dry_run=dry_run)


@release.command("prune")
def release_prune(
    keep: Annotated[int, typer.Option("--keep", min=1, help="Releases to keep, those that were built last.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")] = False,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Remove old releases; never the champion, its predecessor, or what the store or an experiment needs."""
    run_job("release.prune", load(config).week, config, engine=engine, keep=keep, dry_run=dry_run)
