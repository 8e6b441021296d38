"""The skip engine's commands: data, features, models, releases."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, WeekOption, print_json, run_job
from jobs.platform.context import Context
from jobs.platform.week import Week, parse_day
from jobs.settings.settings import load

skip = typer.Typer(help="Will a listener skip the track? Data, features and models of the skip engine.")


@skip.command("features")
def skip_features(
    start: Annotated[str, typer.Option("--from", help="First day, YYYY-MM-DD; default: the log's first.")] = "",
    end: Annotated[str, typer.Option("--to", help="Last day; default: the log's last.")] = "",
    day: Annotated[str, typer.Option("--day", help="This day alone, on top of the state of the day before.")] = "",
    leaky: Annotated[
        bool, typer.Option("--leaky", help="Repeat the report's mistake: features that know the future, put apart.")
    ] = False,
    week: Annotated[
        str, typer.Option("--week", help="Only days before this Monday, in its MLflow run; default: all days.")
    ] = "",
    config: ConfigOption = None,
) -> None:
    """What was known of each play before it began, from the table plays; days are added without the past."""
    from jobs.release import weekly_run
    from jobs.skip import build_features as job

    if day and (start or end):
        raise BadArgument("--day: stands for --from and --to; give one or the other")
    settings = load(config)
    context = Context.for_engine(settings, Week.parse(week or settings.week), "skip")
    if week and not (day or end or leaky):
        end = str(context.week.monday - timedelta(days=1))
    first, last = (day or start) or None, (day or end) or None
    name = "skip_features_leaky" if leaky else "skip_features"
    print_json(weekly_run.tracked(context, name, None, lambda one: job.run(one, first, last, leaky=leaky)))


ModelOption = Annotated[str, typer.Option("--model", help="Its name, such as boosted_trees; skip.models has them all.")]


@skip.command("train")
def train(model: ModelOption, week: WeekOption, config: ConfigOption = None) -> None:
    """Fit one model on plays before the week's Monday; a candidate of the blend learns its folds as well."""
    run_job("skip.train", week, config, engine="skip", model=model)


@skip.command("blend")
def blend(week: WeekOption, config: ConfigOption = None) -> None:
    """Join the trained candidates, each only if it helps, and calibrate what they say together."""
    run_job("skip.blend", week, config, engine="skip")


@skip.command("tune")
def tune(
    model: ModelOption,
    week: WeekOption,
    trials: Annotated[int, typer.Option("--trials", help="Trials in all, earlier ones included; 0: settings.")] = 0,
    minutes: Annotated[float, typer.Option("--minutes", help="Of this call; 0: settings.")] = 0.0,
    config: ConfigOption = None,
) -> None:
    """Search a better recipe by folds and validation; a second call goes on. The `yaml` is for the settings."""
    run_job("skip.tune", week, config, engine="skip", model=model, trials=trials, minutes=minutes)


@skip.command("evaluate")
def evaluate(week: WeekOption, config: ConfigOption = None) -> None:
    """Judge every trained model and the blend: AUC with intervals, decisions, slices; the table and the pictures."""
    run_job("skip.evaluate", week, config, engine="skip")


@skip.command("leakage")
def leakage(week: WeekOption, config: ConfigOption = None) -> None:
    """Each model with honest and leaky features, split by time and at random: where high numbers come from."""
    run_job("skip.leakage", week, config, engine="skip")


@skip.command("submit")
def submit(
    data: Annotated[Path, typer.Option("--data", help="Folder of test.csv, whose rows are answered.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write: sample_id,is_listened.")],
    week: WeekOption,
    config: ConfigOption = None,
) -> None:
    """Answer the competition's rows by the week's blend: the chance of a listen of each, checked, in one file."""
    run_job("release.skip.submission", week, config, engine="skip", data=data, out=out)


@skip.command("update")
def update(
    day: Annotated[str, typer.Option("--day", help="Day of plays (UTC), YYYY-MM-DD.")], config: ConfigOption = None
) -> None:
    """A day on top of the champion: features, memory, what its members learn on; through the gate, then promoted.

    Members, mix and calibration learn from plays before the day, each only where it helps. Whatever fails, the champion
    stays.
    """
    settings, when = load(config), parse_day(day)
    print_json(import_module("jobs.release.skip.daily_update").run(settings, when))
