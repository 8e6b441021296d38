"""`overture release`: bundle, evaluate, promote, publish, roll back and remove releases."""

from __future__ import annotations

from typing import Annotated

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, EngineOption, WeekOption, print_json, settings_context, week_context
from jobs.settings.settings import load

commands = typer.Typer(
    help="Manage releases. A week runs `bundle`, `gate`, `promote` and `publish` in this order. "
    "Evaluate the week's models first."
)


@commands.command("bundle")
def bundle(week: WeekOption, engine: EngineOption = "cold_start", config: ConfigOption = None) -> None:
    """Build the week's release, and register it in MLflow as challenger."""
    context = week_context(week, config, engine=engine)
    from jobs.release import bundle as job

    print_json(job.run(context))


@commands.command("gate")
def gate(week: WeekOption, engine: EngineOption = "cold_start", config: ConfigOption = None) -> None:
    """Compare the challenger with the champion. Exit code 3 if the gate rejects it."""
    context = week_context(week, config, engine=engine)
    from jobs.release import gate as job

    print_json(job.run(context))


@commands.command("promote")
def promote(
    week: Annotated[str, typer.Option("--week", help="Week of the release. Not needed with --release.")] = "",
    digest: Annotated[str, typer.Option("--release", help="Digest of a release. Default: the week's release.")] = "",
    approved: Annotated[
        bool, typer.Option("--approved", help="A person has approved a release whose verdict is in the grey zone.")
    ] = False,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Make a release the champion. If two calls run at once, one wins; after a crash the old champion is served."""
    if not week and not digest:
        raise BadArgument("release promote: name the week (--week) or the release (--release)")
    context = week_context(week or load(config).week, config, engine=engine)
    from jobs.release import promote as job

    print_json(job.run(context, release=digest or None, approved=approved))


@commands.command("keys")
def keys(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Replace the private key. The earlier public keys stay valid.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Create the key pair that signs releases, unless there is one. Services need the file *.pub."""
    context = settings_context(config)
    from jobs.release import signing as job

    print_json(job.create_keys(job.signing_key(context), rotate))


@commands.command("sign")
def sign(
    digest: Annotated[
        str, typer.Option("--release", help="Digest of a release. Default: the champion and the previous champion.")
    ] = "",
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Sign releases again: those of earlier versions, or after `keys --rotate`. `promote` signs by itself."""
    context = week_context(load(config).week, config, engine=engine)
    from jobs.release import promote, signing

    print_json(signing.run(context, promote.resolve_release(context, digest) if digest else None))


@commands.command("publish")
def publish(
    week: WeekOption,
    store: Annotated[str, typer.Option("--store", help="memory, redis or cassandra. Default: settings.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be written. Write nothing.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write the champion's rows of known listeners to the store. Run `promote` first."""
    context = week_context(week, config)
    from jobs.release import publish as job

    print_json(job.run(context, store=store or None, dry_run=dry_run))


@commands.command("publish-missing")
def publish_missing(config: ConfigOption = None) -> None:
    """Publish the champion again if the store lacks rows of it, as after a loss of its data. Else do nothing."""
    context = settings_context(config)
    from jobs.release import publish_missing as job

    print_json(job.run(context))


@commands.command("rollback")
def rollback(
    to: Annotated[str, typer.Option("--to", help="Digest of a former champion. Default: the previous one.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would change. Change nothing.")] = False,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Make the previous champion the champion again."""
    context = week_context(load(config).week, config, engine=engine)
    from jobs.release import rollback as job

    print_json(job.run(context, to=to or None, dry_run=dry_run))


@commands.command("prune")
def prune(
    keep: Annotated[int, typer.Option("--keep", min=1, help="Number of newest releases to keep.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be removed. Remove nothing.")] = False,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
) -> None:
    """Remove old releases, except the champion, its predecessor, and those that the store or an experiment needs."""
    context = week_context(load(config).week, config, engine=engine)
    from jobs.release import prune as job

    print_json(job.run(context, keep=keep, dry_run=dry_run))
