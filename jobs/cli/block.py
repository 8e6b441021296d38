"""`overture block`: edit and list what the service recommends to nobody."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contracts.errors import BadArgument
from jobs.cli.options import ConfigOption, print_json, settings_context
from jobs.settings.settings import home, load

if TYPE_CHECKING:
    from serving.block.entries import BlockEntry, Key

commands = typer.Typer(
    help="Block tracks, artists and albums: the service leaves them out of every list within seconds, without a new "
    "release. The list is in the store if `store.kind` is a server, else in OVERTURE_HOME/block_list.jsonl."
)

KindArgument = Annotated[
    str, typer.Argument(help="track, artist or album. Not needed with --file.", show_default=False)
]
IdsArgument = Annotated[
    list[str] | None, typer.Argument(help="External ids, as the source has them.", show_default=False)
]
CountryOption = Annotated[
    list[str] | None, typer.Option("--country", help="Only in this country (ISO 3166-1 alpha-2). Can be repeated.")
]


def file_entries(file: Path) -> list[BlockEntry]:
    """Return the entries of a file of JSON lines.

    Raises:
        BadArgument: the file cannot be read, or a line is not an entry; nothing is changed.
    """
    from dataclasses import replace

    from serving.block.entries import now, parse

    entries, bad, at = [], [], now()
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise BadArgument(f"--file: {file} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = parse(line)
        except ValueError as error:
            bad.append(f"{file}:{number}: {error}")
            continue
        entries.append(entry if entry.at else replace(entry, at=at))
    if bad:
        more = f"; and {len(bad) - 3} more bad lines" if len(bad) > 3 else ""
        raise BadArgument(f"--file: nothing was changed; {'; '.join(bad[:3])}{more}")
    if not entries:
        raise BadArgument(f"--file: {file} contains no entry")
    return entries


def given_entries(
    kind: str, ids: list[str] | None, countries: list[str] | None, reason: str, file: Path | None
) -> list[BlockEntry]:
    """Return the entries of the arguments, or of the file.

    Raises:
        BadArgument: both or neither are given, or one is invalid.
    """
    from serving.block.entries import make_entry

    if file is not None:
        if kind or ids or countries or reason:
            raise BadArgument("--file: its lines contain kinds, ids, countries and reasons; give no others")
        return file_entries(file)
    if not kind or not ids:
        raise BadArgument("give a kind (track, artist or album) and one or more ids, or --file FILE")
    return [make_entry(kind, one, countries or (), reason) for one in ids]


@commands.command("add")
def add(
    kind: KindArgument = "",
    ids: IdsArgument = None,
    country: CountryOption = None,
    reason: Annotated[str, typer.Option("--reason", help="A note for operators; it is not shown to listeners.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", help="JSON lines with kind, id, and optionally countries, reason, at.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Block tracks, artists or albums. What is blocked already stays blocked; ids need not exist yet."""
    settings = load(config)
    from serving.block.entries import added
    from serving.block.sources import edited_source

    entries = given_entries(kind, ids, country, reason, file)
    keys = list(dict.fromkeys(entry.key for entry in entries))
    with closing(edited_source(settings.store, home())) as source:
        n_added = source.edit(keys, lambda existing: added(existing, entries))
    print_json({"source": source.name, "added": n_added, "unchanged": len(keys) - n_added})


@commands.command("remove")
def remove(
    kind: KindArgument = "",
    ids: IdsArgument = None,
    country: CountryOption = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="JSON lines with kind and id; other fields are ignored.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed; change nothing.")] = False,
    config: ConfigOption = None,
) -> None:
    """Remove entries from the block list, or with --country only some of their countries."""
    settings = load(config)
    from serving.block.entries import make_entry, removed
    from serving.block.sources import block_file, edited_source

    countries = frozenset(make_entry("track", "-", country or ()).countries)
    keys = list(dict.fromkeys(entry.key for entry in given_entries(kind, ids, None, "", file)))
    listed: set[Key] = set()
    lines: list[str] = []

    def change(existing: Mapping[Key, BlockEntry]) -> Mapping[Key, BlockEntry | None]:
        listed.update(existing)
        changes = removed(existing, keys, countries)
        if not dry_run:
            return changes
        lines.extend(existing[key].line().decode().rstrip() for key in changes)
        return {}

    with closing(edited_source(settings.store, home())) as source:
        n_removed = source.edit(keys, change)
    for line in lines:
        typer.echo(line)
    unlisted = [key for key in keys if key not in listed]
    if unlisted:
        unavailable = block_file(home(), "unavailable").entries()
        for key in unlisted[:20]:
            why = "the catalogue does not offer it (`overture block refresh`)" if key in unavailable else "not listed"
            typer.secho(f"overture: {' '.join(key)} is not in {source.name}: {why}", err=True)
    name = "would_remove" if dry_run else "removed"
    print_json({"source": source.name, name: n_removed or len(lines), "not_listed": len(unlisted)})


@commands.command("list")
def show(config: ConfigOption = None) -> None:
    """Print the entries of all sources as JSON lines, then their numbers."""
    settings = load(config)
    import json

    from serving.block.sources import read_sources

    counts = {}
    for source in read_sources(settings.store, home()):
        with closing(source):
            entries = source.entries()
        counts[source.name] = len(entries)
        for entry in entries.values():
            typer.echo(json.dumps(entry.as_dict() | {"source": source.name}, ensure_ascii=False))
    print_json({"entries": counts})


@commands.command("refresh")
def refresh(config: ConfigOption = None) -> None:
    """Block the tracks that the newest catalogue no longer offers (`tracks.available` is false), and unblock others.

    `ingest_daily` runs it after the ingestion.
    """
    context = settings_context(config)
    from jobs.release import unavailable_tracks

    print_json(unavailable_tracks.run(context))
