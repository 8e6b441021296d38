"""`overture ingest` and the commands that write synthetic datasets."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, parse_space, print_json, settings_context
from jobs.ingest.tables.days import Selection
from jobs.settings.base import SPACES

if TYPE_CHECKING:
    from jobs.platform.context import Context

SOURCES = {
    "tables": "jobs.ingest.tables.adapter",
    "simulate": "jobs.ingest.simulate.adapter",
    "mpd": "jobs.ingest.mpd.adapter",
    "lastfm_1k": "jobs.ingest.lastfm_1k.adapter",
    "listenbrainz": "jobs.ingest.listenbrainz.adapter",
    "deezer": "jobs.ingest.deezer.adapter",
    "dsg17": "jobs.ingest.dsg17.adapter",
    "yambda": "jobs.ingest.yambda.adapter",
}
"""Name of a source -> module of its adapter, which has a function `run(context, data)`."""

commands = typer.Typer()


@commands.command(rich_help_panel="1. Data")
def ingest(
    source: Annotated[str, typer.Argument(help=f"Name of the source: {', '.join(SOURCES)}.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder with the files of the dataset. Default: `source.data`. Not needed for `simulate`."
        ),
    ] = None,
    config: ConfigOption = None,
    day: Annotated[str, typer.Option("--day", help="tables: ingest the files of this day only, YYYY-MM-DD.")] = "",
    first: Annotated[str, typer.Option("--from", help="tables: first day to ingest, YYYY-MM-DD.")] = "",
    last: Annotated[str, typer.Option("--to", help="tables: last day to ingest, included, YYYY-MM-DD.")] = "",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="tables: check the mapping on a sample and print what would be written; writes nothing."
        ),
    ] = False,
) -> None:
    """Read a dataset into the tables of the lake. This is the first command of all.

    `tables` reads your own data by the mapping in the settings; `overture init` writes one to start from. `simulate`,
    `mpd`, `lastfm_1k` and `listenbrainz` write users, tracks, events and playlists. `deezer` writes arrays for
    `overture paper`. `dsg17` writes plays for `overture skip`. `yambda` writes all five tables. A repeated call
    replaces what it wrote before.
    """
    context = settings_context(config)
    if source not in SOURCES:
        raise BadArgument(f"source: unknown source '{source}'; choose {', '.join(SOURCES)}")
    selection, kind = Selection.parse(day, first, last), context.settings.source.kind
    if source == "tables" and kind != "tables":
        raise BadArgument(
            "source.kind: `ingest tables` needs a settings file with source.kind: tables (--config); source "
            f"{kind} is loaded at once, by `overture ingest {kind}`"
        )
    if data is None and context.settings.source.data:
        data = Path(context.settings.source.data)
    if source != "simulate" and (data is None or not data.is_dir()):
        raise BadArgument(f"--data: {source} needs the folder of its files (or setting source.data), got {data}")
    if source == "tables":
        print_json(_ingest_tables(context, cast(Path, data), selection, dry_run))
        return
    if day or first or last or dry_run:
        raise BadArgument(f"--day, --from, --to and --dry-run are for the source tables, not for {source}")
    print_json(import_module(SOURCES[source]).run(context, data))


def _ingest_tables(context: Context, data: Path, selection: Selection, dry_run: bool) -> dict[str, Any]:
    if dry_run:
        from jobs.ingest.tables.dry_run import dry_run as check_sample

        return check_sample(context, data, selection)
    from jobs.ingest.tables.adapter import run

    return run(context, data, selection)


@commands.command("init", rich_help_panel="1. Data")
def init(
    data: Annotated[Path, typer.Option("--data", help="Folder with your files.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Settings file to write. Default: DATA/overture.yaml.")
    ] = None,
) -> None:
    """Look at your files and write a commented settings file with a mapping to start from.

    Formats, days and columns are guessed from names and from the first rows. Check the file, then run
    `overture ingest tables --dry-run`.
    """
    from jobs.ingest.tables.guess import write_settings

    print_json(write_settings(data, out or data / "overture.yaml"))


@commands.command("make-tables", rich_help_panel="1. Data")
def make_tables(
    out: Annotated[Path, typer.Option("--out", help="New folder for the files and overture.yaml.")],
    users: Annotated[int, typer.Option("--users", min=1, help="Number of listeners.")] = 10_000,
    tracks: Annotated[int, typer.Option("--tracks", min=1, help="Number of tracks.")] = 4_000,
    playlists: Annotated[int, typer.Option("--playlists", min=1, help="Number of playlists.")] = 4_000,
    first: Annotated[str, typer.Option("--from", help="First day with events, YYYY-MM-DD.")] = "2026-06-29",
    last: Annotated[str, typer.Option("--to", help="Last day with events, included, YYYY-MM-DD.")] = "2026-11-22",
    seed: Annotated[int, typer.Option("--seed", help="Random seed. Equal options give equal files.")] = 7,
) -> None:
    """Write the files of a made-up service with UUIDs, and the settings file that maps them to the tables."""
    from jobs.ingest.tables import generate

    print_json(generate.run(out, generate.TablesOptions(users, tracks, playlists, first, last, seed)))


@commands.command("make-deezer", rich_help_panel="1. Data")
def make_deezer(
    out: Annotated[Path, typer.Option("--out", help="Folder for the eight files.")],
    users: Annotated[
        int, typer.Option("--users", help="Number of listeners: 70 % warm, 20 % validation, 10 % test.")
    ] = 100_000,
    tracks: Annotated[int, typer.Option("--tracks", help="Number of tracks.")] = 50_000,
    seed: Annotated[int, typer.Option("--seed", help="Random seed. Equal sizes and seed give equal values.")] = 7,
    encoding: Annotated[
        str, typer.Option("--encoding", help="Store vectors as arrays (array) or as text (json).")
    ] = "array",
    space: Annotated[
        str, typer.Option("--space", help="Write the feature files of one space only. Default: both spaces.")
    ] = "",
) -> None:
    """Write synthetic files in the format of the paper's public dataset, of any size."""
    from jobs.ingest.deezer import generate

    spaces = (parse_space(space),) if space else SPACES
    dataset = generate.GeneratorOptions(users, tracks, seed, cast(Literal["array", "json"], encoding), spaces)
    print_json(generate.run(out, dataset))


@commands.command("make-dsg17", rich_help_panel="1. Data")
def make_dsg17(
    out: Annotated[Path, typer.Option("--out", help="Folder for train.csv and test.csv.")],
    rows: Annotated[
        int, typer.Option("--rows", help="Number of labelled rows. Users and tracks grow with it.")
    ] = 7_558_834,
    seed: Annotated[int, typer.Option("--seed", help="Random seed. Equal rows and seed give equal bytes.")] = 7,
) -> None:
    """Write synthetic files in the format of the DSG17 competition tables, of any size."""
    from jobs.ingest.dsg17 import generate

    print_json(generate.run(out, rows, seed))


@commands.command("make-mpd", rich_help_panel="1. Data")
def make_mpd(
    out: Annotated[Path, typer.Option("--out", help="New folder for the slices.")],
    playlists: Annotated[int, typer.Option("--playlists", min=1, help="Number of playlists.")] = 4_000,
    tracks: Annotated[int, typer.Option("--tracks", min=100, help="Number of tracks.")] = 3_000,
    seed: Annotated[int, typer.Option("--seed", help="Random seed. Equal options give equal bytes.")] = 7,
) -> None:
    """Write made-up playlists in the format of the Spotify Million Playlist Dataset, of any size."""
    from jobs.ingest.mpd import generate

    print_json(generate.run(out, generate.MpdOptions(playlists, tracks, seed)))


@commands.command("make-listenbrainz", rich_help_panel="1. Data")
def make_listenbrainz(
    out: Annotated[Path, typer.Option("--out", help="New folder for listens and feedback.")],
    users: Annotated[int, typer.Option("--users", min=1, help="Number of listeners.")] = 3_000,
    tracks: Annotated[int, typer.Option("--tracks", min=100, help="Number of tracks.")] = 2_000,
    first: Annotated[str, typer.Option("--from", help="First day with events, YYYY-MM-DD.")] = "2026-06-29",
    last: Annotated[str, typer.Option("--to", help="Last day with events, included, YYYY-MM-DD.")] = "2026-11-22",
    seed: Annotated[int, typer.Option("--seed", help="Random seed. Equal options give equal files.")] = 7,
) -> None:
    """Write made-up listens and feedback in the format of the ListenBrainz dumps, of any size."""
    from jobs.ingest.listenbrainz import generate

    print_json(generate.run(out, generate.ListenBrainzOptions(users, tracks, first, last, seed)))


@commands.command("make-yambda", rich_help_panel="1. Data")
def make_yambda(
    out: Annotated[Path, typer.Option("--out", help="New folder for the files of the dataset.")],
    users: Annotated[int, typer.Option("--users", min=1, help="Number of listeners.")] = 10_000,
    tracks: Annotated[int, typer.Option("--tracks", min=1, help="Number of tracks.")] = 4_000,
    seed: Annotated[int, typer.Option("--seed", help="Random seed. Equal options give equal rows.")] = 7,
) -> None:
    """Write made-up files in the format of the Yambda dataset, of any size."""
    from jobs.ingest.yambda import generate

    print_json(generate.run(out, users, tracks, seed))
