"""Commands of releases: bundle, gate, promote, publish, roll back, prune."""

from __future__ import annotations

from typing import Annotated

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, EngineOption, WeekOption, run_job
from jobs.settings.settings import load

release = typer.Typer(help="Build, evaluate, promote, publish, roll back and prune releases.")


@release.command("bundle")
def release_bundle(week: WeekOption, engine: EngineOption = "cold_start", config: ConfigOption = None) -> None:
    """Build the week's release and register it as challenger."""
    run_job("release.bundle", week, config, engine=engine)


@release.command("gate")
def release_gate(week: WeekOption, engine: EngineOption = "cold_start", config: ConfigOption = None) -> None:
    """Evaluate the challenger by the rules of the gate. Exit code 3 if it fails."""
    run_job("release.gate", week, config, engine=engine)


@release.command("promote")
def release_promote(
    week: Annotated[str, typer.Option("--week", help="Week of the release; not needed with --release.")] = "",
    digest: Annotated[str, typer.Option("--release", help="Digest of a release; default: the week's.")] = "",
    approved: Annotated[bool, typer.Option("--approved", help="A person approved a grey verdict.")] = False,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Make a release the champion. Of two promotions at the same time, one wins."""
    if not week and not digest:
        raise BadArgument("release promote: name the week (--week) or the release (--release)")
    week = week or load(config).week
    run_job("release.promote", week, config, engine=engine, release=digest or None, approved=approved)


@release.command("publish")
def release_publish(
    week: WeekOption,
    store: Annotated[str, typer.Option("--store", help="memory, redis or cassandra; default: settings.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be written; write nothing.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write the champion's known listeners to the store, as the service reads them."""
    run_job("release.publish", week, config, store=store or None, dry_run=dry_run)


@release.command("rollback")
def release_rollback(
    to: Annotated[str, typer.Option("--to", help="Digest of a former champion; default: the previous one.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would change; change nothing.")] = False,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Return to the previous champion."""
    run_job("release.rollback", load(config).week, config, engine=engine, to=to or None, dry_run=dry_run)


@release.command("prune")
def release_prune(
    keep: Annotated[int, typer.Option("--keep", min=1, help="Number of releases to keep, the newest first.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be removed; remove nothing.")] = False,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Remove old releases, but never the champion, its predecessor, or one that the store or an experiment needs."""
    run_job("release.prune", load(config).week, config, engine=engine, keep=keep, dry_run=dry_run)
