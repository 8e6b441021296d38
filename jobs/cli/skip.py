"""Commands of the skip engine: features, models, ensemble, evaluation, submission, daily update."""

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

skip = typer.Typer(help="Skip prediction: will the listener play the track for more than 30 seconds?")


@skip.command("features")
def skip_features(
    start: Annotated[str, typer.Option("--from", help="First day, YYYY-MM-DD; default: first day of the log.")] = "",
    end: Annotated[str, typer.Option("--to", help="Last day; default: last day of the log.")] = "",
    day: Annotated[str, typer.Option("--day", help="Add this day only, on top of the state of the day before.")] = "",
    leaky: Annotated[
        bool, typer.Option("--leaky", help="Also build leaky features, which use the future, as a separate variant.")
    ] = False,
    week: Annotated[
        str, typer.Option("--week", help="Only days before this Monday, in its MLflow run; default: all days.")
    ] = "",
    config: ConfigOption = None,
) -> None:
    """Build the point-in-time features of each play. Days can be added without reading earlier ones."""
    from jobs.release import weekly_run
    from jobs.skip import build_features as job

    if day and (start or end):
        raise BadArgument("--day: cannot be combined with --from and --to")
    settings = load(config)
    context = Context.for_engine(settings, Week.parse(week or settings.week), "skip")
    if week and not (day or end or leaky):
        end = str(context.week.monday - timedelta(days=1))
    first, last = (day or start) or None, (day or end) or None
    name = "skip_features_leaky" if leaky else "skip_features"
    print_json(weekly_run.tracked(context, name, None, lambda one: job.run(one, first, last, leaky=leaky)))


ModelOption = Annotated[str, typer.Option("--model", help="Name of the model, such as boosted_trees; see skip.models.")]


@skip.command("train")
def train(model: ModelOption, week: WeekOption, config: ConfigOption = None) -> None:
    """Train one model on the plays before the week's Monday; a candidate also on its folds."""
    run_job("skip.train", week, config, engine="skip", model=model)


@skip.command("blend")
def blend(week: WeekOption, config: ConfigOption = None) -> None:
    """Select the trained candidates that improve the ensemble, weight and calibrate them."""
    run_job("skip.blend", week, config, engine="skip")


@skip.command("tune")
def tune(
    model: ModelOption,
    week: WeekOption,
    trials: Annotated[
        int, typer.Option("--trials", help="Number of trials in all, earlier ones included; 0: settings.")
    ] = 0,
    minutes: Annotated[float, typer.Option("--minutes", help="Minutes of this call; 0: settings.")] = 0.0,
    config: ConfigOption = None,
) -> None:
    """Search for a better recipe; a second call continues. The reported `yaml` goes into the settings."""
    run_job("skip.tune", week, config, engine="skip", model=model, trials=trials, minutes=minutes)


@skip.command("evaluate")
def evaluate(week: WeekOption, config: ConfigOption = None) -> None:
    """Evaluate every trained model and the ensemble: AUC with intervals, decisions, slices; write table and figures."""
    run_job("skip.evaluate", week, config, engine="skip")


@skip.command("leakage")
def leakage(week: WeekOption, config: ConfigOption = None) -> None:
    """Compare each model with honest and with leaky features, split by time and at random."""
    run_job("skip.leakage", week, config, engine="skip")


@skip.command("submit")
def submit(
    data: Annotated[Path, typer.Option("--data", help="Folder with test.csv, whose rows are predicted.")],
    out: Annotated[Path, typer.Option("--out", help="File to write: sample_id,is_listened.")],
    week: WeekOption,
    config: ConfigOption = None,
) -> None:
    """Write the competition's file: the listening probability of each row of test.csv, from the week's ensemble."""
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
