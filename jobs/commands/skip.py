"""The skip engine's commands: data, features, models, releases."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.commands.options import ConfigOption, print_json
from jobs.context import Context
from jobs.errors import BadArgument
from jobs.settings import load
from jobs.weeks import Week

skip = typer.Typer(help="Will a listener skip the track? Data, features and models of the skip engine.")


@skip.command("features")
def skip_features(
    start: Annotated[str, typer.Option("--from", help="First day, YYYY-MM-DD; default: the log's first.")] = "",
    end: Annotated[str, typer.Option("--to", help="Last day; default: the log's last.")] = "",
    day: Annotated[str, typer.Option("--day", help="This day alone, on top of the state of the day before.")] = "",
    leaky: Annotated[
        bool, typer.Option("--leaky", help="Repeat the report's mistake: features that know the future, put apart.")
    ] = False,
    week: Annotated[str, typer.Option("--week", help="Whose MLflow run this belongs to; default: settings.")] = "",
    config: ConfigOption = None,
) -> None:
    """What was known of each play before it began, from the table plays; days are added without the past."""
    from jobs import weekly
    from jobs.skip import features as job

    if day and (start or end):
        raise BadArgument("--day: stands for --from and --to; give one or the other")
    settings = load(config)
    context = Context(settings, Week.parse(week or settings.week))
    first, last = (day or start) or None, (day or end) or None
    name = "skip_features_leaky" if leaky else "skip_features"
    print_json(weekly.tracked(context, name, None, lambda one: job.run(one, first, last, leaky=leaky)))
