"""The `overture` command: one weekly task = one command that can be pasted into a shell.

Exit codes: 0 done; 2 bad arguments or settings; 3 a contract, a check or the gate said no (do not retry);
1 anything else (a retry may help). The last line of stdout is one JSON object.
"""

from __future__ import annotations

import json
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from jobs.context import Context
from jobs.errors import BadArgument, OvertureError
from jobs.settings import SPACES, Space, home, load
from jobs.weeks import Week

app = typer.Typer(
    help="Weekly cold-start models for a music service: learn, judge, release.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
matrix = typer.Typer(help="From events to the user-track matrix, the track pairs and the first days.")
factorize = typer.Typer(help="Learn a joint space of users and tracks.")
release = typer.Typer(help="Bundle, judge, promote, publish and roll back.")
skip = typer.Typer(help="Will a listener skip the track? Data and features of the skip engine.")
for group, name in ((matrix, "matrix"), (factorize, "factorize"), (release, "release"), (skip, "skip")):
    app.add_typer(group, name=name, no_args_is_help=True)

WeekOption = Annotated[str, typer.Option("--week", help="Logical week: a Monday, YYYY-MM-DD.")]
BacktestOption = Annotated[
    bool, typer.Option("--backtest", help="Judge on the cohort registered in the week after as_of (paper's protocol).")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file; default OVERTURE_CONFIG, else configs/demo.yaml.")
]
SpaceOption = Annotated[str, typer.Option("--space", help="tt_svd or ut_als.")]


def run_job(module: str, week: str, config: Path | None, backtest: bool = False, **arguments: Any) -> None:
    """Import one job, run it about one week, and print its report as the last line."""
    context = Context(load(config), Week.parse(week, backtest=backtest))
    print_json(import_module(f"jobs.{module}").run(context, **arguments))


def run_tracked(module: str, week: str, config: Path | None, backtest: bool, space: str | None = None) -> None:
    """The same for a job that leaves its child run in MLflow to us."""
    from jobs import weekly

    context = Context(load(config), Week.parse(week, backtest=backtest))
    job = import_module(f"jobs.{module}")
    print_json(weekly.tracked(context, module.split(".")[1], space, job.run))


def print_json(report: dict[str, Any]) -> None:
    """The machine's part of the output: one line of JSON."""
    sys.stdout.flush()
    typer.echo(json.dumps(report, sort_keys=True, default=str))


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
    print_json(import_module(f"jobs.ingest.{source}").run(context, data))


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
    from jobs.ingest import deezer_make

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
    from jobs.ingest import dsg17_make

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
    from jobs.cold_start import paper as job

    settings = load(config)
    given = {"recipe": recipe, "similarity": similarity, "segments": segments, "epochs": epochs}
    settings = settings.model_copy(update={"paper": job.chosen(settings.paper, given)})
    if not data.is_dir():
        raise BadArgument(f"--data: no such folder {data}")
    names = [name.strip() for name in methods.split(",") if name.strip()]
    context = Context(settings, Week.parse(settings.week))
    print_json(job.run(context, data, cast(Space, known_space(space)), out=out, names=names))


@app.command()
def begin(week: WeekOption, config: ConfigOption = None, backtest: BacktestOption = False) -> None:
    """Open the week's parent run in MLflow."""
    from jobs import weekly

    print_json(weekly.begin(Context(load(config), Week.parse(week, backtest=backtest))))


@app.command()
def complete(
    week: WeekOption,
    config: ConfigOption = None,
    backtest: BacktestOption = False,
    failed: Annotated[bool, typer.Option("--failed", help="Close it as failed.")] = False,
) -> None:
    """Close the week's parent run in MLflow with its summary."""
    from jobs import weekly

    print_json(weekly.complete(Context(load(config), Week.parse(week, backtest=backtest)), failed))


@app.command()
def check(
    tables: Annotated[list[str], typer.Argument(help="Tables to check, such as users tracks events playlists.")],
    week: WeekOption,
    config: ConfigOption = None,
    backtest: BacktestOption = False,
) -> None:
    """Run Great Expectations on tables; exit 3 when one fails, before anything downstream sees it."""
    run_job("quality", week, config, backtest, tables=tables)


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
    """Train the network from first-day inputs to warm users' vectors; export it to ONNX."""
    run_job("cold_start.train", week, config, backtest, space=known_space(space))


@app.command()
def evaluate(
    week: WeekOption, space: SpaceOption, config: ConfigOption = None, backtest: BacktestOption = False
) -> None:
    """Judge every method on the validation and test cohorts, by slice, with intervals."""
    run_job("cold_start.evaluate", week, config, backtest, space=known_space(space))


@release.command("bundle")
def release_bundle(week: WeekOption, config: ConfigOption = None) -> None:
    """Build the week's release and register it as challenger."""
    run_job("release.bundle", week, config)


@release.command("gate")
def release_gate(week: WeekOption, config: ConfigOption = None) -> None:
    """Judge the challenger; exit 3 when it fails."""
    run_job("release.gate", week, config)


@release.command("promote")
def release_promote(
    week: Annotated[str, typer.Option("--week", help="The week whose release it is; not needed with --release.")] = "",
    digest: Annotated[str, typer.Option("--release", help="Digest of a bundle; default: the week's own.")] = "",
    approved: Annotated[bool, typer.Option("--approved", help="A person accepted a verdict in the grey zone.")] = False,
    config: ConfigOption = None,
) -> None:
    """Make a release the champion; one of two at once wins, a crash leaves the old one serving."""
    if not week and not digest:
        raise BadArgument("release promote: name the week (--week) or the release (--release)")
    run_job("release.promote", week or load(config).week, config, release=digest or None, approved=approved)


@release.command("publish")
def release_publish(week: WeekOption, config: ConfigOption = None) -> None:
    """Open the champion as the service would and record it as published."""
    run_job("release.publish", week, config)


@release.command("rollback")
def release_rollback(
    to: Annotated[str, typer.Option("--to", help="Digest of a former champion; default: the previous one.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, change nothing.")] = False,
    config: ConfigOption = None,
) -> None:
    """Return to the previous champion."""
    settings = load(config)
    context = Context(settings, Week.parse(settings.week))
    print_json(import_module("jobs.release.rollback").run(context, to=to or None, dry_run=dry_run))


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

    settings = load(config).service
    given = {"host": host or settings.host, "port": settings.port if port == -1 else port}
    given |= {"workers": workers or settings.workers}
    try:
        settings = type(settings).model_validate({**dict(settings), **given})
    except ValidationError as error:
        wrong = "; ".join(f"--{one['loc'][0]}: {one['msg']} (got {one['input']!r})" for one in error.errors())
        raise BadArgument(f"serve: {wrong}") from None
    service.serve(settings, home())
    print_json({"served": f"{settings.host}:{settings.port}"})


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


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    config: ConfigOption = None,
) -> None:
    """Champion, week, metrics, the gate's verdict line by line, versions."""
    from jobs import status as found

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
