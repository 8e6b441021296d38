"""The `overture` command. Each task of a pipeline runs one of its commands, which can be pasted into a shell.

Exit codes: 0 done; 2 wrong arguments or settings; 3 a contract, a check or the gate failed (do not retry); 1 anything
else
(a retry may help). The last line of stdout is one JSON object.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from contracts.errors import BadArgument, OvertureError
from jobs.cli.experiments import experiments
from jobs.cli.lake import lake
from jobs.cli.options import (
    BacktestOption,
    ConfigOption,
    EngineOption,
    SpaceOption,
    WeekOption,
    print_json,
    run_job,
    run_tracked,
)
from jobs.cli.release import release
from jobs.cli.skip import skip
from jobs.platform.context import Context
from jobs.platform.week import Week, parse_day
from jobs.settings.base import SPACES, Space
from jobs.settings.settings import home, load

app = typer.Typer(
    help="Weekly models for a music service: recommendations for new listeners, and skip prediction. "
    "A week runs ingest, check, matrix, factorize, segments, features, train, evaluate, release. "
    "Exit codes: 0 done; 2 wrong arguments or settings; 3 a contract, a data check or the gate failed; 1 anything else.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
matrix = typer.Typer(help="Build the user-track matrix, the track pairs and the first days from events.")
factorize = typer.Typer(help="Factorise a matrix into a joint space of users and tracks.")
for group, name in ((matrix, "matrix"), (factorize, "factorize"), (release, "release"), (skip, "skip"), (lake, "lake")):
    app.add_typer(group, name=name, no_args_is_help=True)
app.add_typer(experiments)


def known_space(space: str) -> str:
    """Return the space, or raise BadArgument."""
    if space not in SPACES:
        raise BadArgument(f"--space: '{space}' is not a space; choose {' or '.join(SPACES)}")
    return space


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="simulate, mpd, lastfm_1k, deezer or dsg17.")],
    data: Annotated[Path | None, typer.Option("--data", help="Folder in the dataset's public format.")] = None,
    config: ConfigOption = None,
) -> None:
    """Read a source into the raw tables: users, tracks, events and playlists (deezer: arrays; dsg17: plays).

    The command can be repeated: it replaces what the source wrote before.
    """
    settings = load(config)
    if source not in ("simulate", "mpd", "lastfm_1k", "deezer", "dsg17"):
        raise BadArgument(f"source: '{source}' is not a source; choose simulate, mpd, lastfm_1k, deezer or dsg17")
    if source != "simulate" and (data is None or not data.is_dir()):
        raise BadArgument(f"--data: {source} needs the folder of its files, got {data}")
    context = Context(settings, Week.parse(settings.week))
    print_json(import_module(f"jobs.ingest.{source}.adapter").run(context, data))


@app.command("make-deezer")
def make_deezer(
    out: Annotated[Path, typer.Option("--out", help="Folder for the eight files.")],
    users: Annotated[int, typer.Option("--users", help="Listeners: 70 % warm, 20 % validation, 10 % test.")] = 100_000,
    tracks: Annotated[int, typer.Option("--tracks", help="Songs.")] = 50_000,
    seed: Annotated[int, typer.Option("--seed", help="Random seed; the same sizes and seed give the same values.")] = 7,
    encoding: Annotated[
        str, typer.Option("--encoding", help="How vectors are stored: as arrays (array) or as text (json).")
    ] = "array",
    space: Annotated[str, typer.Option("--space", help="Write the feature files of one space; default: of both.")] = "",
) -> None:
    """Write synthetic files in the format of the paper's public dataset, of any size."""
    from jobs.ingest.deezer import generate as deezer_make

    spaces = (cast(Space, known_space(space)),) if space else SPACES
    made = deezer_make.Made(users, tracks, seed, cast(Literal["array", "json"], encoding), spaces)
    print_json(deezer_make.run(out, made))


@app.command("make-dsg17")
def make_dsg17(
    out: Annotated[Path, typer.Option("--out", help="Folder for train.csv and test.csv.")],
    rows: Annotated[
        int, typer.Option("--rows", help="Number of labelled rows; users and tracks grow with it.")
    ] = 7_558_834,
    seed: Annotated[int, typer.Option("--seed", help="Random seed; the same rows and seed give the same bytes.")] = 7,
) -> None:
    """Write synthetic files in the format of the DSG17 tables, of any size."""
    from jobs.ingest.dsg17 import generate as dsg17_make

    print_json(dsg17_make.run(out, rows, seed))


@app.command()
def paper(
    data: Annotated[Path, typer.Option("--data", help="Folder of the eight published files.")],
    space: SpaceOption = "tt_svd",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report; default: below OVERTURE_HOME.")
    ] = None,
    methods: Annotated[str, typer.Option("--methods", help="Names separated by commas; default: all methods.")] = "",
    recipe: Annotated[str, typer.Option("--recipe", help="Recipe of the network: paper or code.")] = "",
    similarity: Annotated[
        str, typer.Option("--similarity", help="Similarity of fully personalised lists: dot or cosine.")
    ] = "",
    segments: Annotated[int, typer.Option("--segments", help="Number of segments; default: settings.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs of the network; default: as the recipe says.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Repeat the paper's experiment on its public files, and compare with the published numbers."""
    from jobs.paper import run as job

    settings = load(config)
    given = {"recipe": recipe, "similarity": similarity, "segments": segments, "epochs": epochs}
    settings = settings.model_copy(update={"paper": job.chosen(settings.paper, given)})
    if not data.is_dir():
        raise BadArgument(f"--data: no such folder {data}")
    names = [name.strip() for name in methods.split(",") if name.strip()]
    context = Context(settings, Week.parse(settings.week))
    print_json(job.run(context, data, cast(Space, known_space(space)), out=out, names=names))


@app.command()
def begin(
    week: WeekOption, engine: EngineOption = "cold_start", config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Open the week's parent run in MLflow."""
    from jobs.release import weekly_run

    print_json(weekly_run.begin(Context.for_engine(load(config), Week.parse(week, backtest=backtest), engine)))


@app.command()
def complete(
    week: WeekOption,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
    backtest: BacktestOption = False,
    failed: Annotated[bool, typer.Option("--failed", help="Close the run as failed.")] = False,
) -> None:
    """Close the week's parent run in MLflow with its summary."""
    from jobs.release import weekly_run as weekly

    print_json(weekly.complete(Context.for_engine(load(config), Week.parse(week, backtest=backtest), engine), failed))


@app.command()
def check(
    tables: Annotated[list[str], typer.Argument(help="Tables to check, such as users tracks events playlists.")],
    week: WeekOption,
    engine: EngineOption = "cold_start",
    config: ConfigOption = None,
    backtest: BacktestOption = False,
) -> None:
    """Run the data checks (Great Expectations) of tables. Exit code 3 if one fails, before other tasks read them."""
    run_job("quality.check", week, config, backtest, engine, tables=tables)


@matrix.command("catalog")
def matrix_catalog(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Select the warm users and the catalogue."""
    run_tracked("matrix.catalog", week, config, backtest)


@matrix.command("user-track")
def matrix_user_track(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Compute the affinity of each warm user for each catalogue track."""
    run_tracked("matrix.user_track", week, config, backtest)


@matrix.command("track-pairs")
def matrix_track_pairs(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Compute co-occurrence and positive PMI of tracks in playlists and sessions."""
    run_tracked("matrix.track_pairs", week, config, backtest)


@matrix.command("first-day")
def matrix_first_day(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Collect the first-day signals of warm users and cohort, and the cohort's ground truth."""
    run_tracked("matrix.first_day", week, config, backtest)


@factorize.command("als")
def factorize_als(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Train ut_als: implicit ALS on the user-track matrix."""
    run_tracked("factorize.als", week, config, backtest, "ut_als")


@factorize.command("svd")
def factorize_svd(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Compute tt_svd: randomised SVD of the track-track matrix."""
    run_tracked("factorize.svd", week, config, backtest, "tt_svd")


@app.command()
def segments(
    week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Cluster the warm users; rank the tracks of each segment and write its card."""
    run_job("cold_start.segments", week, config, backtest, space=known_space(space))


@app.command()
def features(
    week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Compute the vectors of artists, albums, playlists and demographics, and the network's input vectors."""
    run_job("cold_start.features", week, config, backtest, space=known_space(space))


@app.command()
def train(week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Train the network from first-day inputs to vectors, and the blend if a release recommends with it."""
    run_job("cold_start.train", week, config, backtest, space=known_space(space))


@app.command()
def evaluate(
    week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Evaluate every method on the validation and test cohorts, by slice, with intervals."""
    run_job("cold_start.evaluate", week, config, backtest, space=known_space(space))


@app.command("cold-users")
def cold_users(
    day: Annotated[str, typer.Option("--day", help="Registration day (UTC), YYYY-MM-DD.")], config: ConfigOption = None
) -> None:
    """Place the users who registered on a day and publish them: vector, segment, list from the champion."""
    born = parse_day(day)
    context = Context(load(config), Week.containing(born))
    print_json(import_module("jobs.release.place_new_users").run(context, born))


@app.command()
def monitor(week: WeekOption, config: ConfigOption = None) -> None:
    """Report the drift of the new listeners of the seven days before a Monday against the champion's training data."""
    run_job("monitor.drift", week, config)


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on; default: settings.")] = "",
    port: Annotated[int, typer.Option("--port", help="Port; default: settings.")] = -1,
    workers: Annotated[int, typer.Option("--workers", help="Processes; default: settings.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Serve recommendations over HTTP from the champion, and follow new champions. The listener's page is at /."""
    from pydantic import ValidationError

    from serving import main as service

    everything = load(config)
    settings = everything.service
    given = {"host": host or settings.host, "port": settings.port if port == -1 else port}
    given |= {"workers": workers or settings.workers}
    try:
        settings = type(settings).model_validate({**dict(settings), **given})
    except ValidationError as error:
        wrong = "; ".join(f"--{one['loc'][0]}: {one['msg']} (got {one['input']!r})" for one in error.errors())
        raise BadArgument(f"serve: {wrong}") from None
    service.serve(settings, home(), everything.store)
    print_json({"served": f"{settings.host}:{settings.port}"})


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show champion, week, metrics, the gate's verdict rule by rule, and versions."""
    from jobs.cli import status as found

    settings = load(config)
    data = found.data(Context(settings, Week.parse(settings.week)))
    if as_json:
        print_json(data)
    else:
        found.render(data)


def main() -> None:
    """Run a command; print an error as one line and exit with its code."""
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
