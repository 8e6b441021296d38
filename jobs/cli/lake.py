"""`overture lake`: inspect the tables of the lake."""

from __future__ import annotations

from typing import Annotated

import typer

import contracts
from contracts.errors import BadArgument, CheckFailed
from jobs.cli.options import ConfigOption, print_json, settings_context
from jobs.platform.week import Week

commands = typer.Typer(help="Inspect the tables of the lake. Run `ingest` first.")


@commands.command("digest")
def digest(
    table: Annotated[str, typer.Argument(help="Name of a table. Default: all tables in the lake.")] = "",
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

    if table and table not in contracts.names():
        raise BadArgument(f"table: '{table}' has no contract; known tables: {', '.join(contracts.names())}")
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
