"""Options that several commands share, the context of a command, and the last line of its output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.errors import BadArgument
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.base import SPACES, Space
from jobs.settings.settings import load

WeekOption = Annotated[str, typer.Option("--week", help="Logical week: a Monday, YYYY-MM-DD.")]
BacktestOption = Annotated[
    bool,
    typer.Option(
        "--backtest",
        help="Evaluate on the listeners who registered in the week after as_of (the paper's protocol). Results are "
        "written beside those of the week and are never promoted.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file (YAML). Default: OVERTURE_CONFIG, else configs/demo.yaml."),
]
EngineOption = Annotated[str, typer.Option("--engine", help="Engine of the release: cold_start or skip.")]
SpaceOption = Annotated[
    str, typer.Option("--space", help="Joint space of users and tracks: tt_svd or ut_als. It must be factorized first.")
]


def week_context(week: str, config: Path | None, backtest: bool = False, engine: str = "cold_start") -> Context:
    """Return the context of a weekly command.

    Args:
        week: Name of the week, a Monday.
        config: Settings file, or None for the default.
        backtest: Use the backtest of the week.
        engine: `cold_start` or `skip`.
    """
    return Context.for_engine(load(config), Week.parse(week, backtest=backtest), engine)


def settings_context(config: Path | None) -> Context:
    """Return the context of a command without a week: its week is the one of the settings."""
    settings = load(config)
    return Context(settings, Week.parse(settings.week))


def parse_space(space: str) -> Space:
    """Return the space of that name.

    Raises:
        BadArgument: There is no space of that name.
    """
    if space not in SPACES:
        raise BadArgument(f"--space: unknown space '{space}'; choose {' or '.join(SPACES)}")
    return space


def print_json(report: Mapping[str, Any]) -> None:
    """Print a report as one line of JSON, the last line of stdout."""
    sys.stdout.flush()
    typer.echo(json.dumps(report, sort_keys=True, default=str))
