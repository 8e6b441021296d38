"""`overture lake`: inspect the tables."""

from __future__ import annotations

from typing import Annotated

import typer

import contracts
from contracts.errors import BadArgument, CheckFailed
from jobs.cli.options import ConfigOption, print_json
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import load

lake = typer.Typer(help="Inspect the tables of the lake.")


@lake.command("digest")
def lake_digest(
    table: Annotated[str, typer.Argument(help="One table; default: every table in the lake.")] = "",
    week: Annotated[
        str,
        typer.Option(
            "--week", help="Only this week's partitions (add -backtest for a backtest) and the days before it."
        ),
    ] = "",
    config: ConfigOption = None,
) -> None:
    """Print the SHA-256 of each table's rows, sorted by grain, contract columns only.

    Part files and the order of rows do not matter, so equal digests mean equal data. On one machine, with the same
    settings, spark.partitions and number of threads, a run again gives the same digests.
    """
    from jobs.platform import table_digest  # imports Arrow, which other commands do not need

    if table and table not in contracts.names():
        raise BadArgument(f"table: '{table}' has no contract; known tables: {', '.join(contracts.names())}")
    backtest = week.endswith("-backtest")
    name = Week.parse(week.removesuffix("-backtest"), backtest=backtest).name if week else ""
    settings = load(config)
    context = Context(settings, Week.parse(settings.week))
    tables = [table] if table else contracts.names()
    results = [result for each in tables if (result := table_digest.digest_table(context.lake, each, name)) is not None]
    if table and not results:
        raise CheckFailed(f"{table}: the lake has no partition of it{f' for week {week}' if week else ''}")
    for result in results:
        typer.echo(f"{result.sha256}  {result.table}  {result.partitions} partitions  {result.rows} rows")
    print_json({"digests": {result.table: result.sha256 for result in results}})
