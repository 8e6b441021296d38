"""`overture ingest` and the commands that write synthetic datasets."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, parse_space, print_json, settings_context
from jobs.settings.base import SPACES

SOURCES = {
    "simulate": "jobs.ingest.simulate.adapter",
    "mpd": "jobs.ingest.mpd.adapter",
    "lastfm_1k": "jobs.ingest.lastfm_1k.adapter",
    "deezer": "jobs.ingest.deezer.adapter",
    "dsg17": "jobs.ingest.dsg17.adapter",
}
"""Name of a source -> module of its adapter, which has a function `run(context, data)`."""

commands = typer.Typer()


@commands.command(rich_help_panel="1. Data")
def ingest(
    source: Annotated[str, typer.Argument(help=f"Name of the source: {', '.join(SOURCES)}.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder with the files of the dataset. Not needed for `simulate`.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Read a dataset into the tables of the lake. This is the first command of all.

    `simulate`, `mpd` and `lastfm_1k` write users, tracks, events and playlists. `deezer` writes arrays for
    `overture paper`. `dsg17` writes plays for `overture skip`. A repeated call replaces what it wrote before.
    """
    context = settings_context(config)
    if source not in SOURCES:
        raise BadArgument(f"source: unknown source '{source}'; choose {', '.join(SOURCES)}")
    if source != "simulate" and (data is None or not data.is_dir()):
        raise BadArgument(f"--data: {source} needs the folder of its files, got {data}")
    print_json(import_module(SOURCES[source]).run(context, data))


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
