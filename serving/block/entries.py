"""Entries of the block list, their lines, and the parsed list.

A line is one JSON object: {"kind": "track" | "artist" | "album", "id": "<external id>"}, and optionally "countries",
"reason" and "at". Without countries, an entry applies everywhere. Ids are those of the source, as text or as a number.
An id that no release contains is valid and has no effect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import orjson

from contracts.demographics import COUNTRIES_TEXT, is_country
from contracts.errors import BadArgument

BlockKind = Literal["track", "artist", "album"]
KINDS: tuple[BlockKind, ...] = get_args(BlockKind)
Key = tuple[str, str]  # kind and external id
MAX_ID_LENGTH = 1_000
MAX_REASON_LENGTH = 500
MAX_NAMED = 20  # number of bad lines that are named; the others are counted
FIELDS = frozenset({"kind", "id", "countries", "reason", "at"})
EVERYWHERE: frozenset[str] = frozenset()
_YIELD_LINES = 500  # number of parsed lines after which other threads may run


@dataclass(frozen=True, slots=True)
class BlockEntry:
    """One blocked track, artist or album.

    Attributes:
        kind: track, artist or album.
        id: external id.
        countries: codes of the countries where it is blocked; empty: everywhere.
        reason: a note for operators; it is not shown to listeners.
        at: time of the entry, ISO 8601.
    """

    kind: BlockKind
    id: str
    countries: frozenset[str] = EVERYWHERE
    reason: str = ""
    at: str = ""

    @property
    def key(self) -> Key:
        """Kind and id, which identify an entry."""
        return self.kind, self.id

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as its line contains it."""
        line: dict[str, Any] = {"kind": self.kind, "id": self.id}
        if self.countries:
            line["countries"] = sorted(self.countries)
        return line | {name: value for name, value in (("reason", self.reason), ("at", self.at)) if value}

    def line(self) -> bytes:
        """Return the line of the entry, with its line break."""
        return orjson.dumps(self.as_dict()) + b"\n"


Change = Callable[[Mapping[Key, BlockEntry]], Mapping[Key, BlockEntry | None]]
"""Given existing entries, returns the changed ones; None removes an entry."""


def now() -> str:
    """Return the current time as `at` contains it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def make_entry(
    kind: str, external_id: str, countries: Iterable[str] = (), reason: str = "", at: str = ""
) -> BlockEntry:
    """Return a checked entry; `at` is now if it is empty.

    Raises:
        BadArgument: a field is invalid; the message names it.
    """
    entry: dict[str, Any] = {"kind": kind, "id": external_id, "countries": list(countries), "reason": reason}
    try:
        return entry_of(entry | {"at": at or now()})
    except ValueError as error:
        raise BadArgument(f"block list: {error}") from None


def key_fields(entry: Any) -> tuple[str, str, Sequence[str]]:
    """Return kind, id and countries of a parsed line.

    Raises:
        ValueError: the line is not an entry; the message names the field.
    """
    if type(entry) is not dict:
        raise ValueError("not a JSON object")
    kind, external_id, countries = entry.get("kind"), entry.get("id"), entry.get("countries", ())
    if kind not in KINDS:
        raise ValueError(f"kind: {shown(kind)} is not track, artist or album")
    if type(external_id) is int and external_id >= 0:
        external_id = str(external_id)
    if type(external_id) is not str or not 0 < len(external_id) <= MAX_ID_LENGTH:
        raise ValueError(f"id: {shown(external_id)} is not a text of 1 to {MAX_ID_LENGTH} characters")
    if countries:
        if type(countries) is not list:
            raise ValueError(f"countries: {shown(countries)} is not a list of country codes")
        for country in countries:
            if type(country) is not str or not is_country(country):
                raise ValueError(f"countries: {shown(country)} is not a country code ({COUNTRIES_TEXT})")
    elif countries is not None and type(countries) is not list and countries != ():
        raise ValueError(f"countries: {shown(countries)} is not a list of country codes")
    if not entry.keys() <= FIELDS:
        raise ValueError(f"unknown field {shown(min(map(str, entry.keys() - FIELDS)))}")
    return kind, external_id, countries or ()


def entry_of(entry: Any) -> BlockEntry:
    """Return the entry of a parsed line.

    Raises:
        ValueError: the line is not an entry; the message names the field.
    """
    kind, external_id, countries = key_fields(entry)
    reason, at = entry.get("reason") or "", entry.get("at") or ""
    if type(reason) is not str or len(reason) > MAX_REASON_LENGTH:
        raise ValueError(f"reason: not a text of at most {MAX_REASON_LENGTH} characters")
    if type(at) is not str:
        raise ValueError("at: not a time as text")
    if at:
        try:
            datetime.fromisoformat(at)
        except ValueError:
            raise ValueError(f"at: {shown(at)} is not a time (ISO 8601)") from None
    return BlockEntry(kind, external_id, frozenset(countries), reason, at)  # type: ignore[arg-type]  # checked


def shown(value: Any) -> str:
    """Return a value for an error message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse(line: bytes) -> BlockEntry:
    """Return the entry of a line.

    Raises:
        ValueError: the line is not an entry.
    """
    return entry_of(load_line(line))


def load_line(line: bytes) -> Any:
    """Return the JSON of a line.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return orjson.loads(line)
    except ValueError:
        raise ValueError("not JSON in UTF-8") from None


def united(existing: BlockEntry | None, added: BlockEntry) -> BlockEntry:
    """Return the entry that blocks what either of them blocks; the existing one if it does already."""
    if existing is None:
        return added
    if not existing.countries or (added.countries and added.countries <= existing.countries):
        return existing
    return replace(added, countries=existing.countries | added.countries if added.countries else EVERYWHERE)


def added(existing: Mapping[Key, BlockEntry], entries: Iterable[BlockEntry]) -> dict[Key, BlockEntry | None]:
    """Return the changes that add entries: what was blocked stays blocked."""
    changes: dict[Key, BlockEntry | None] = {}
    for entry in entries:
        before = changes.get(entry.key) or existing.get(entry.key)
        after = united(before, entry)
        if after is not before:
            changes[entry.key] = after
    return changes


def removed(
    existing: Mapping[Key, BlockEntry], keys: Iterable[Key], countries: AbstractSet[str]
) -> dict[Key, BlockEntry | None]:
    """Return the changes that remove entries, or only some countries of them. Keys without an entry are ignored.

    Raises:
        BadArgument: countries are to be removed from an entry that applies everywhere.
    """
    changes: dict[Key, BlockEntry | None] = {}
    for key in keys:
        before = existing.get(key)
        if before is None:
            continue
        if not countries:
            changes[key] = None
        elif not before.countries:
            raise BadArgument(
                f"{' '.join(key)} is blocked everywhere; to unblock it in {', '.join(sorted(countries))}, remove it "
                "and add it with the countries where it stays blocked"
            )
        elif left := before.countries - countries:
            if left != before.countries:
                changes[key] = replace(before, countries=left)
        else:
            changes[key] = None
    return changes


class Collector:
    """Collects parsed entries as sets of ids by country and kind, and names bad lines."""

    def __init__(self, source: str) -> None:
        """Collect the entries of a source with this name."""
        self.source = source
        self.ids: dict[str, dict[str, set[str]]] = {}  # country, or "" for everywhere -> kind -> external ids
        self.n_entries, self.n_bad = 0, 0
        self.bad_lines: list[str] = []
        self._everywhere: dict[str, set[str]] = self._of_country("")

    def _of_country(self, country: str) -> dict[str, set[str]]:
        return self.ids.setdefault(country, {kind: set() for kind in KINDS})

    def add(self, kind: str, external_id: str, countries: Iterable[str]) -> None:
        """Add an entry."""
        if countries:
            for country in countries:
                self._of_country(country)[kind].add(external_id)
        else:
            self._everywhere[kind].add(external_id)
        self.n_entries += 1

    def add_lines(self, lines: Iterable[bytes]) -> None:
        """Add the entries of lines; a bad one is named with its number. Blank lines are ignored."""
        for number, line in enumerate(lines, 1):
            if number % _YIELD_LINES == 0:
                time.sleep(0)  # requests are answered while a long list is read
            if line.isspace():
                continue
            try:
                self.add(*key_fields(load_line(line)))
            except ValueError as error:
                self.refuse(f"{self.source}:{number}", str(error))

    def refuse(self, place: str, why: str) -> None:
        """Record a bad line."""
        self.n_bad += 1
        if len(self.bad_lines) < MAX_NAMED:
            self.bad_lines.append(f"{place}: {why}")


@dataclass(frozen=True, eq=False)
class BlockList:
    """The parsed list. It does not change; another version is another object.

    Attributes:
        version: text that identifies the content of all sources.
        ids: external ids by country ("" for everywhere) and kind.
        n_entries: number of entries.
        cache: what was computed from this list for a release (tracks.py).
    """

    version: str = ""
    ids: Mapping[str, Mapping[str, AbstractSet[str]]] = field(default_factory=dict)
    n_entries: int = 0
    cache: WeakKeyDictionary[Any, dict[Any, Any]] = field(default_factory=WeakKeyDictionary)

    def sets(self, kind: str, country: str | None) -> list[AbstractSet[str]]:
        """Return the sets of ids of a kind that are blocked in a country; None: those blocked everywhere."""
        places = ("",) if country is None else ("", country)
        return [ids for place in places if (ids := self.ids.get(place, {}).get(kind))]

    @classmethod
    def merge(cls, version: str, parts: Sequence[Collector]) -> BlockList:
        """Return the list that blocks what any of the parts blocks."""
        ids: dict[str, dict[str, AbstractSet[str]]] = {}
        for part in parts:
            for country, by_kind in part.ids.items():
                merged = ids.setdefault(country, {})
                for kind, blocked in by_kind.items():
                    if blocked:
                        merged[kind] = merged[kind] | blocked if kind in merged else blocked
        kept = {country: by_kind for country, by_kind in ids.items() if by_kind}
        return cls(version, kept, sum(part.n_entries for part in parts))


EMPTY = BlockList()
