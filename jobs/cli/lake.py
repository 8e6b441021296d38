"""`overture lake`: inspect and maintain the tables of the lake."""

from __future__ import annotations

from typing import Annotated

import typer

import contracts
from contracts.errors import BadArgument, CheckFailed
from jobs.cli.options import ConfigOption, print_json, settings_context
from jobs.platform.week import Week

commands = typer.Typer(help="Inspect and maintain the tables of the lake. Run `ingest` first.")
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")]
Tables = Annotated[str, typer.Argument(help="Name of a table. Default: all tables in the lake.")]


@commands.command("digest")
def digest(
    table: Tables = "",
    week: Annotated[
        str,
        typer.Option("--week", help="Only partitions of this week, and days before it. Add -backtest for a backtest."),
    ] = "",
    config: ConfigOption = None,
) -> None:
    """Print the SHA-256 digest of each table: its rows, sorted by grain, with the columns of the contract.

    Part files and the order of rows do not change the digest, so equal digests mean equal data. On one machine, with
    equal settings, spark.partitions and number of threads, a repeated run gives equal digests.
    """
    from jobs.platform import table_digest  # imports Arrow, which other commands do not need

    _check_name(table)
    backtest = week.endswith("-backtest")
    name = Week.parse(week.removesuffix("-backtest"), backtest=backtest).name if week else ""
    context = settings_context(config)
    tables = [table] if table else contracts.names()
    results = [result for item in tables if (result := table_digest.digest_table(context.lake, item, name)) is not None]
    if table and not results:
        raise CheckFailed(f"{table}: the lake has no partition of this table{f' for week {week}' if week else ''}")
    for result in results:
        typer.echo(f"{result.sha256}  {result.table}  {result.partitions} partitions  {result.rows} rows")
    print_json({"digests": {result.table: result.sha256 for result in results}})


@commands.command("tables")
def tables(config: ConfigOption = None) -> None:
    """List the tables: newest version, partitions, files, bytes, rows and time of the newest commit."""
    from jobs.platform import lake_maintenance
    from jobs.platform.tables import make_table, wide_console

    lake = settings_context(config).lake
    summaries = lake_maintenance.summaries(lake)
    numbers = ("version", "partitions", "files", "MB", "rows")
    grid = make_table(f"Lake {lake.root}", "table", *numbers, "written (UTC)", right=numbers)
    for t in summaries:
        cells = (f"{n:,}" for n in (t.version, t.partitions, t.files))
        grid.add_row(t.table, *cells, f"{t.n_bytes / 1e6:,.1f}", f"{t.rows:,}", f"{t.written_at:%Y-%m-%d %H:%M}")
    wide_console().print(grid)
    print_json({"lake": lake.root, "tables": {t.table: {"version": t.version, "rows": t.rows} for t in summaries}})


@commands.command("history")
def history(
    table: Annotated[str, typer.Argument(help="Name of the table.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Number of commits, newest first.")] = 20,
    config: ConfigOption = None,
) -> None:
    """Show the commits of a table: version, time, partition and the report of the job that wrote it.

    Any engine that reads Delta Lake can read an older version, until `lake vacuum` removes its files.
    """
    from jobs.platform import lake_maintenance
    from jobs.platform.tables import make_table, wide_console

    _check_name(table)
    entries = lake_maintenance.history(settings_context(config).lake, table, limit)
    grid = make_table(
        f"History of {table}", "version", "time (UTC)", "operation", "partition", "report", right=("version",)
    )
    for entry in entries:
        report = ", ".join(f"{key}: {value}" for key, value in entry["report"].items())
        grid.add_row(str(entry["version"]), entry["at"], entry["operation"], entry["partition"], report[:200])
    wide_console().print(grid)
    print_json({"table": table, "commits": entries})


@commands.command("vacuum")
def vacuum(
    table: Tables = "",
    keep_days: Annotated[
        float,
        typer.Option(
            "--keep-days", min=1, help="Versions of the last N days stay readable. Running jobs need at least one day."
        ),
    ] = 7,
    dry_run: DryRun = False,
    config: ConfigOption = None,
) -> None:
    """Remove files that no recent version of a table needs, and files of writes that failed.

    Rows of the newest version are never removed.
    """
    from jobs.platform import lake_maintenance

    _check_name(table)
    lake = settings_context(config).lake
    names = [table] if table else [t.table for t in lake_maintenance.summaries(lake)]
    removed = {name: lake_maintenance.vacuum(lake, name, keep_days, dry_run) for name in names}
    for name, (n_files, n_bytes) in removed.items():
        typer.echo(f"{name}: {n_files} files, {n_bytes / 1e6:,.1f} MB {'would be' if dry_run else 'were'} removed")
    totals = {"files": sum(n for n, _ in removed.values()), "bytes": sum(b for _, b in removed.values())}
    print_json({"dry_run": dry_run, **totals})


@commands.command("compact")
def compact(table: Tables = "", dry_run: DryRun = False, config: ConfigOption = None) -> None:
    """Join the small files of each partition into one. The rows and their version do not change.

    The old files are removed by `lake vacuum`.
    """
    from jobs.platform import lake_maintenance

    _check_name(table)
    lake = settings_context(config).lake
    names = [table] if table else [t.table for t in lake_maintenance.summaries(lake)]
    joined = {name: lake_maintenance.compact(lake, name, dry_run) for name in names}
    for name, partitions in joined.items():
        n = sum(partitions.values())
        typer.echo(f"{name}: {n} files {'would become' if dry_run else 'became'} {len(partitions)}")
    print_json({"dry_run": dry_run, "partitions": {name: len(partitions) for name, partitions in joined.items()}})


@commands.command("migrate")
def migrate(dry_run: DryRun = False, config: ConfigOption = None) -> None:
    """Turn a lake that a version of Overture before Delta Lake wrote into Delta tables.

    A run that was interrupted can be repeated. Each partition's old files are removed after its new ones are committed.
    """
    from jobs.platform import lake_maintenance

    context = settings_context(config)
    rows = lake_maintenance.migrate(context.lake.root, dry_run)
    for table, n in rows.items():
        typer.echo(f"{table}: {n} rows {'would be' if dry_run else 'were'} migrated")
    print_json({"dry_run": dry_run, "rows": rows})


def _check_name(table: str) -> None:
    if table and table not in contracts.names():
        raise BadArgument(f"table: '{table}' has no contract; known tables: {', '.join(contracts.names())}")
