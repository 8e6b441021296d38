"""`overture skip`: data, features, models and daily updates of the skip engine."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, WeekOption, print_json, week_context
from jobs.platform.context import Context
from jobs.platform.week import Week, parse_day
from jobs.settings.settings import load

commands = typer.Typer(
    help="Skip prediction: will the listener play the track for more than 30 seconds? Order: `overture ingest dsg17`, "
    "then `features`, `train` for each model, `blend`, `evaluate`, and `overture release ... --engine skip`."
)
ModelOption = Annotated[
    str, typer.Option("--model", help="Name of a model, such as boosted_trees. Setting skip.models lists them.")
]


@commands.command("features")
def features(
    start: Annotated[
        str, typer.Option("--from", help="First day, YYYY-MM-DD. Default: the first day of the plays.")
    ] = "",
    end: Annotated[str, typer.Option("--to", help="Last day. Default: the last day of the plays.")] = "",
    day: Annotated[
        str, typer.Option("--day", help="Build this day only, from the counter state of the previous day.")
    ] = "",
    leaky: Annotated[
        bool,
        typer.Option(
            "--leaky",
            help="Build features that contain the future, as in the report whose error `leakage` measures. They are "
            "stored in a separate table.",
        ),
    ] = False,
    week: Annotated[
        str, typer.Option("--week", help="Build only days before this Monday, in its MLflow run. Default: all days.")
    ] = "",
    config: ConfigOption = None,
) -> None:
    """Build the features of each play from earlier plays only. New days are added without reading the old ones."""
    from jobs.release import weekly_run
    from jobs.skip import build_features as job

    if day and (start or end):
        raise BadArgument("--day: cannot be combined with --from or --to")
    settings = load(config)
    context = Context.for_engine(settings, Week.parse(week or settings.week), "skip")
    if week and not (day or end or leaky):
        end = str(context.week.monday - timedelta(days=1))
    first, last = (day or start) or None, (day or end) or None
    name = "skip_features_leaky" if leaky else "skip_features"
    print_json(weekly_run.run_tracked(context, name, None, lambda run: job.run(run, first, last, leaky=leaky)))


@commands.command("train")
def train(model: ModelOption, week: WeekOption, config: ConfigOption = None) -> None:
    """Fit one model on plays before the week. A candidate of the blend is also fitted on each fold."""
    context = week_context(week, config, engine="skip")
    from jobs.skip import train as job

    print_json(job.run(context, model=model))


@commands.command("blend")
def blend(week: WeekOption, config: ConfigOption = None) -> None:
    """Combine the trained candidates that improve the blend, and calibrate the combined probability."""
    context = week_context(week, config, engine="skip")
    from jobs.skip import blend as job

    print_json(job.run(context))


@commands.command("tune")
def tune(
    model: ModelOption,
    week: WeekOption,
    trials: Annotated[
        int, typer.Option("--trials", help="Total number of trials, earlier calls included. 0: settings.")
    ] = 0,
    minutes: Annotated[float, typer.Option("--minutes", help="Time limit of this call in minutes. 0: settings.")] = 0.0,
    config: ConfigOption = None,
) -> None:
    """Search for a better recipe of a model on folds and validation. A second call continues the search.

    Copy the field `yaml` of the report into the settings.
    """
    context = week_context(week, config, engine="skip")
    from jobs.skip import tune as job

    print_json(job.run(context, model=model, trials=trials, minutes=minutes))


@commands.command("evaluate")
def evaluate(week: WeekOption, config: ConfigOption = None) -> None:
    """Evaluate every trained model and the blend: AUC with intervals, decisions, slices, table and figures."""
    context = week_context(week, config, engine="skip")
    from jobs.skip import evaluate as job

    print_json(job.run(context))


@commands.command("leakage")
def leakage(week: WeekOption, config: ConfigOption = None) -> None:
    """Measure how much leaky features and a random split raise the AUC of each model."""
    context = week_context(week, config, engine="skip")
    from jobs.skip import leakage as job

    print_json(job.run(context))


@commands.command("submit")
def submit(
    data: Annotated[Path, typer.Option("--data", help="Folder with test.csv, the rows to predict.")],
    out: Annotated[Path, typer.Option("--out", help="File to write, with columns sample_id and is_listened.")],
    week: WeekOption,
    config: ConfigOption = None,
) -> None:
    """Predict the competition's rows with the week's blend, and write the submission file."""
    context = week_context(week, config, engine="skip")
    from jobs.release.skip import submission

    print_json(submission.run(context, data=data, out=out))


@commands.command("update")
def update(
    day: Annotated[str, typer.Option("--day", help="Day of plays (UTC), YYYY-MM-DD.")], config: ConfigOption = None
) -> None:
    """Update the champion with one day of plays: features, counter state, incremental training, gate, promotion.

    Members, ensemble weights and calibration are fitted on plays before the day, each only if it improves the result.
    If a step fails, the champion does not change.
    """
    settings, plays_day = load(config), parse_day(day)
    from jobs.release.skip import daily_update

    print_json(daily_update.run(settings, plays_day))
