"""The `overture` command: one weekly task = one command that can be pasted into a shell.

Exit codes: 0 done; 2 bad arguments or settings; 3 a contract, a check or the gate said no (do not retry);
1 anything else (a retry may help). The last line of stdout is one JSON object.
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
    help="Models for a music service, learned weekly: a listener's first day, and the skips after it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
matrix = typer.Typer(help="From events to the user-track matrix, the track pairs and the first days.")
factorize = typer.Typer(help="Learn a joint space of users and tracks.")
for group, name in ((matrix, "matrix"), (factorize, "factorize"), (release, "release"), (skip, "skip"), (lake, "lake")):
    app.add_typer(group, name=name, no_args_is_help=True)
app.add_typer(experiments)


def known_space(space: str) -> str:
    """Refuse an unknown space by name."""
    if space not in SPACES:
        raise BadArgument(f"--space: '{space}' is no space; choose {' or '.join(SPACES)}")
    return space


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="simulate, mpd, lastfm_1k, deezer or dsg17.")],
    data: Annotated[Path | None, typer.Option("--data", help="Folder in the dataset's public format.")] = None,
    config: ConfigOption = None,
) -> None:
    """Read one real format: into users, tracks, events and playlists; deezer, into arrays; dsg17, into plays.

    Safe to run again.
    """
    settings = load(config)
    if source not in ("simulate", "mpd", "lastfm_1k", "deezer", "dsg17"):
        raise BadArgument(f"source: '{source}' is no adapter; choose simulate, mpd, lastfm_1k, deezer or dsg17")
    if source != "simulate" and (data is None or not data.is_dir()):
        raise BadArgument(f"--data: {source} needs the folder of its files, got {data}")
    context = Context(settings, Week.parse(settings.week))
    print_json(import_module(f"jobs.ingest.{source}.adapter").run(context, data))


@app.command("make-deezer")
def make_deezer(
    out: Annotated[Path, typer.Option("--out", help="Folder for the eight files.")],
    users: Annotated[int, typer.Option("--users", help="Listeners: 70 % warm, 20 % validation, 10 % test.")] = 100_000,
    tracks: Annotated[int, typer.Option("--tracks", help="Songs.")] = 50_000,
    seed: Annotated[int, typer.Option("--seed", help="Same sizes and seed, same values.")] = 7,
    encoding: Annotated[
        str, typer.Option("--encoding", help="Vectors as real arrays (array) or text (json).")
    ] = "array",
    space: Annotated[str, typer.Option("--space", help="Feature files of one space; default: of both.")] = "",
) -> None:
    """Write made-up files in the form of the paper's public dataset, of any size."""
    from jobs.ingest.deezer import generate as deezer_make

    spaces = (cast(Space, known_space(space)),) if space else SPACES
    made = deezer_make.Made(users, tracks, seed, cast(Literal["array", "json"], encoding), spaces)
    print_json(deezer_make.run(out, made))


@app.command("make-dsg17")
def make_dsg17(
    out: Annotated[Path, typer.Option("--out", help="Folder for train.csv and test.csv.")],
    rows: Annotated[int, typer.Option("--rows", help="Labelled rows; users and tracks grow with them.")] = 7_558_834,
    seed: Annotated[int, typer.Option("--seed", help="Same rows and seed, same bytes.")] = 7,
) -> None:
    """Write made-up files in the form of the DSG17 tables, of any size."""
    from jobs.ingest.dsg17 import generate as dsg17_make

    print_json(dsg17_make.run(out, rows, seed))


@app.command()
def paper(
    data: Annotated[Path, typer.Option("--data", help="Folder of the eight published files.")],
    space: SpaceOption = "tt_svd",
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the page; default below OVERTURE_HOME.")] = None,
    methods: Annotated[str, typer.Option("--methods", help="Names with commas; default: all there are.")] = "",
    recipe: Annotated[str, typer.Option("--recipe", help="Of the network: paper or code.")] = "",
    similarity: Annotated[str, typer.Option("--similarity", help="Of fully personalised lists: dot or cosine.")] = "",
    segments: Annotated[int, typer.Option("--segments", help="Number of segments; default: settings.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", help="Of the network; default: as the recipe says.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Repeat the paper's experiment on its public files: tables, figures and one page beside the published numbers."""
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
    failed: Annotated[bool, typer.Option("--failed", help="Close it as failed.")] = False,
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
    """Run Great Expectations on tables; exit 3 when one fails, before anything downstream sees it."""
    run_job("quality.check", week, config, backtest, engine, tables=tables)


@matrix.command("catalog")
def matrix_catalog(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Choose the warm users and the catalogue."""
    run_tracked("matrix.catalog", week, config, backtest)


@matrix.command("user-track")
def matrix_user_track(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Affinity of each warm user for each catalogue track."""
    run_tracked("matrix.user_track", week, config, backtest)


@matrix.command("track-pairs")
def matrix_track_pairs(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Co-occurrence and positive PMI of tracks in collections."""
    run_tracked("matrix.track_pairs", week, config, backtest)


@matrix.command("first-day")
def matrix_first_day(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """First-day signals of warm users and cohort, and the cohort's ground truth."""
    run_tracked("matrix.first_day", week, config, backtest)


@factorize.command("als")
def factorize_als(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """UT-ALS: implicit alternating least squares on the user-track matrix."""
    run_tracked("factorize.als", week, config, backtest, "ut_als")


@factorize.command("svd")
def factorize_svd(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """TT-SVD: randomised SVD of the track-track matrix."""
    run_tracked("factorize.svd", week, config, backtest, "tt_svd")


@app.command()
def segments(
    week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Cluster warm users; rank tracks and write a card for each segment."""
    run_job("cold_start.segments", week, config, backtest, space=known_space(space))


@app.command()
def features(
    week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Vectors of artists, albums, playlists and demographics; the network's input vectors."""
    run_job("cold_start.features", week, config, backtest, space=known_space(space))


@app.command()
def train(week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Train the network from first-day inputs to warm users' vectors, and the blend where a release answers with it."""
    run_job("cold_start.train", week, config, backtest, space=known_space(space))


@app.command()
def evaluate(
    week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Judge every method on the validation and test cohorts, by slice, with intervals."""
    run_job("cold_start.evaluate", week, config, backtest, space=known_space(space))


@app.command("cold-users")
def cold_users(
    day: Annotated[str, typer.Option("--day", help="Day of registration (UTC), YYYY-MM-DD.")],
    config: ConfigOption = None,
) -> None:
    """Place those who registered on a day by the champion, and publish them: vector, segment, list."""
    born = parse_day(day)
    context = Context(load(config), Week.containing(born))
    print_json(import_module("jobs.release.place_new_users").run(context, born))


@app.command()
def monitor(week: WeekOption, config: ConfigOption = None) -> None:
    """Compare the newcomers of the seven days before a Monday with those that the champion learned from: drift."""
    run_job("monitor.drift", week, config)


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on; default: settings.")] = "",
    port: Annotated[int, typer.Option("--port", help="Port; default: settings.")] = -1,
    workers: Annotated[int, typer.Option("--workers", help="Processes; default: settings.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Answer over HTTP from the champion, and follow it; the page for people is at /."""
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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    config: ConfigOption = None,
) -> None:
    """Champion, week, metrics, the gate's verdict line by line, versions."""
    from jobs.cli import status as found

    settings = load(config)
    data = found.data(Context(settings, Week.parse(settings.week)))
    if as_json:
        print_json(data)
    else:
        found.render(data)


def main() -> None:
    """Run a command and turn what went wrong into one clear line and the right exit code."""
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
