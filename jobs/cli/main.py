"""The `overture` command. Each task of a DAG is one of its commands, which also runs in a shell.

The last line of stdout is one JSON object, the report of the command. Each group of commands has its own file.
"""

from __future__ import annotations

import sys
import traceback

import typer

from contracts.errors import OvertureError
from jobs.cli import block, cold_start, experiments, ingest, lake, operations, release, skip, week

HELP = """Weekly models for music recommendation: lists for new listeners, and skip prediction.

Run `ingest` first. Then run the commands of a week: `ready`, `begin`, `check`, those of the engine in the order of
their panel, `release bundle`, `release gate`, `release promote`, `complete`. The DAGs run the same commands. `make
demo` runs a whole week on a simulated service.

The last line of stdout is one JSON object. Messages and warnings go to stderr.

Exit codes: 0 success. 1 failure that a retry may fix, such as an unavailable MLflow server. 2 invalid arguments or
settings. 3 a data check, a contract or the gate failed; a retry gives the same result. 4 the input is not complete yet
and still awaited.
"""

app = typer.Typer(
    help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode="markdown"
)
app.add_typer(ingest.commands)
app.add_typer(week.commands)
app.add_typer(cold_start.matrix, name="matrix", no_args_is_help=True, rich_help_panel=cold_start.PANEL)
app.add_typer(cold_start.factorize, name="factorize", no_args_is_help=True, rich_help_panel=cold_start.PANEL)
app.add_typer(cold_start.commands)
app.add_typer(skip.commands, name="skip", no_args_is_help=True, rich_help_panel="4. Skip prediction")
app.add_typer(release.commands, name="release", no_args_is_help=True, rich_help_panel=operations.PANEL)
app.add_typer(block.commands, name="block", no_args_is_help=True, rich_help_panel=operations.PANEL)
app.add_typer(operations.commands)
app.add_typer(lake.commands, name="lake", no_args_is_help=True, rich_help_panel=operations.PANEL)
app.add_typer(experiments.commands)


def main() -> None:
    """Run a command. An error becomes one line on stderr and the exit code of its kind."""
    try:
        app()
    except OvertureError as error:
        typer.secho(f"overture: {error}", fg=typer.colors.RED, err=True)
        sys.exit(error.exit_code)
    except SystemExit:
        raise
    except BaseException as error:
        traceback.print_exc()
        typer.secho(f"overture: {type(error).__name__}: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
