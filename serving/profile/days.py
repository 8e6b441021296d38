"""The day of each listener: events are added once, removed, forgotten and merged, on any store of profiles.

Order      what is appended to the event log is flushed before the store is written, and the store before the answer.
           After a crash in between, the client repeats its request: the event is in the log twice, with one event id,
           and counts once (the ingestion too takes one event per id)
Idempotent an event id of a listener counts once; one that was removed stays removed
Marks      `forgotten` and `merged` concern the events up to their time, also those that arrive later. They are read
           again after each write: an event that another process forgot or merged in between is treated again
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from contracts.errors import BadArgument, NotFound
from serving.profile.event_log import EventLog
from serving.profile.interface import EVENT, FORGOTTEN, MARKS, MERGED, REMOVED, Fields, ProfileStore
from serving.profile.lines import forgetting, from_iso, iso, merged_field, merging, owner_of, removal, time_of

MAX_FIELDS = 3_000  # events of one listener; as many signals as a request may contain
MAX_MERGES = 8
Status = Literal["accepted", "repeated", "refused"]
Record = dict[str, Any]


@dataclass(frozen=True)
class NewEvent:
    """An event that passed validation.

    Attributes:
        user_id: External id of the listener.
        event_id: The client's id of the event.
        ts_us: Time of the event, in microseconds since 1970.
        record: The event as the log contains it.
    """

    user_id: str
    event_id: str
    ts_us: int
    record: Record


@dataclass(frozen=True)
class Outcome:
    """What became of an event; `code` and `message` are the reason for a refusal."""

    status: Status
    code: str | None = None
    message: str | None = None


ACCEPTED, REPEATED = Outcome("accepted"), Outcome("repeated")
IS_FORGOTTEN = Outcome("refused", "forgotten", "the listener's day was forgotten after the time of this event")
IS_FULL = Outcome("refused", "full", f"the profile of the listener has {MAX_FIELDS} entries, the most that it may have")


class Days:
    """Changes and reads profiles. Changes of one process are made by one thread at a time."""

    def __init__(self, store: ProfileStore, log: EventLog, now: Callable[[], float] = time.time) -> None:
        """Set the store, the event log and the clock (seconds since 1970)."""
        self.store, self.log, self.now = store, log, now

    def add(self, events: Sequence[NewEvent]) -> list[Outcome]:
        """Add events; each is in the log and in the store when this returns.

        Raises:
            StoreUnavailable, ProfileUnavailable: Store or log cannot be written; no event is acknowledged.
        """
        with self.store.exclusive():
            return self._add(events)

    def _add(self, events: Sequence[NewEvent]) -> list[Outcome]:
        outcome_of, accepted = self._decide(events)
        if not accepted:
            return [outcome_of[n] for n in range(len(events))]
        lines = {n: orjson.dumps(events[n].record | {"user_id": owner}) for n, owner in accepted.items()}
        self.log.append(events=list(lines.values()))
        fields: dict[str, dict[str, bytes]] = {}
        for n, owner in accepted.items():
            fields.setdefault(owner, {})[EVENT + events[n].event_id] = lines[n]
        self.store.write(fields)
        marks = self.store.marks(fields)
        late = {n: owner for n, owner in accepted.items() if _mark_after(marks[owner], events[n].ts_us)}
        if late:
            self.log.append(changes=[removal(owner, events[n].event_id, self._now_us()) for n, owner in late.items()])
            for n, owner in late.items():
                self.store.drop(owner, [EVENT + events[n].event_id])
            again = [
                NewEvent(owner, events[n].event_id, events[n].ts_us, events[n].record) for n, owner in late.items()
            ]
            outcome_of |= zip(late, self._add(again), strict=True)
        return [outcome_of[n] for n in range(len(events))]

    def _decide(self, events: Sequence[NewEvent]) -> tuple[dict[int, Outcome], dict[int, str]]:
        """Return the outcome of each event by position, and the listener to whom each accepted event belongs."""
        outcome_of: dict[int, Outcome] = {}
        accepted: dict[int, str] = {}
        taken: set[tuple[str, str]] = set()
        n_new: dict[str, int] = {}
        left = {n: event.user_id for n, event in enumerate(events)}
        for _ in range(MAX_MERGES + 1):
            wanted: dict[str, list[str]] = {}
            for n, owner in left.items():
                names = wanted.setdefault(owner, list(MARKS))
                names += (EVENT + events[n].event_id, REMOVED + events[n].event_id)
            known = self.store.read_some(wanted) if wanted else {}
            moved: dict[int, str] = {}
            for n, owner in left.items():
                event, (fields, n_fields) = events[n], known[owner]
                mark = _mark_after(fields, event.ts_us)
                if mark == MERGED:
                    moved[n] = owner_of(fields[MERGED])
                elif mark == FORGOTTEN:
                    outcome_of[n] = IS_FORGOTTEN
                elif (
                    (owner, event.event_id) in taken
                    or EVENT + event.event_id in fields
                    or REMOVED + event.event_id in fields
                ):
                    outcome_of[n] = REPEATED
                elif n_fields + n_new.get(owner, 0) >= MAX_FIELDS:
                    outcome_of[n] = IS_FULL
                else:
                    taken.add((owner, event.event_id))
                    n_new[owner] = n_new.get(owner, 0) + 1
                    outcome_of[n], accepted[n] = ACCEPTED, owner
            left = moved
            if not left:
                break
        return outcome_of | dict.fromkeys(left, IS_FORGOTTEN), accepted

    def events(self, user_id: str) -> list[Record]:
        """Return the events of a listener's day in the order of time and id."""
        return events_of(self.store.read(user_id))

    def undo(self, user_id: str, event_id: str) -> int:
        """Remove an event; return 1, or 0 if it had been removed before.

        Raises:
            NotFound: The listener's day does not contain the event.
            StoreUnavailable, ProfileUnavailable: Store or log cannot be written.
        """
        event, removed = EVENT + event_id, REMOVED + event_id
        with self.store.exclusive():
            fields = self.store.read_some({user_id: (event, removed)})[user_id][0]
            if not fields:
                raise NotFound("the listener's day does not contain this event")
            if removed not in fields:
                self.log.append(changes=[removal(user_id, event_id, self._now_us())])
                self.store.write({user_id: {removed: b"1"}})
            self.store.drop(user_id, [event])
            return int(removed not in fields)

    def forget(self, user_id: str) -> int:
        """Remove all events of a listener up to now; return their number.

        Raises:
            StoreUnavailable, ProfileUnavailable: Store or log cannot be written.
        """
        with self.store.exclusive():
            now_us = self._now_us()
            before = self.store.read(user_id)
            self._log_removals(user_id, before, forgetting(user_id, now_us), now_us)
            self.store.write({user_id: {FORGOTTEN: str(now_us).encode()}})
            late = self._written_since(user_id, before)
            if late:
                self._log_removals(user_id, late, None, now_us)
            self.store.drop(user_id, [name for name in before | late if name not in MARKS])
            return len(events_of(before)) + len(events_of(late))

    def merge(self, user_id: str, into: str) -> int:
        """Move the events of a listener up to now to another listener, in the order of their ids; return their number.

        An event that the other listener has, or has removed, is not moved. A repeated merge moves nothing.

        Raises:
            BadArgument: The ids are equal, or the other listener was merged into a third one.
            StoreUnavailable, ProfileUnavailable: Store or log cannot be written.
        """
        if user_id == into:
            raise BadArgument("into: is the listener's own id")
        with self.store.exclusive():
            if MERGED in self.store.marks([into])[into]:
                raise BadArgument("into: this listener was merged into another one; name that one")
            now_us = self._now_us()
            before = self.store.read(user_id)
            n_moved = self._copy(user_id, into, before, merging(user_id, into, now_us), now_us)
            self.store.write({user_id: {MERGED: merged_field(into, now_us)}})
            late = self._written_since(user_id, before)
            if late:
                n_moved += self._copy(user_id, into, late, None, now_us)
            self.store.drop(user_id, [name for name in before | late if name not in MARKS])
            return n_moved

    def _copy(self, user_id: str, into: str, fields: Fields, mark: bytes | None, now_us: int) -> int:
        """Copy events to another listener, in log and store, and log their removal from this one."""
        moved = {record["event_id"]: record for record in events_of(fields)}
        names = [prefix + event_id for event_id in moved for prefix in (EVENT, REMOVED)]
        known = self.store.read_some({into: names})[into][0] if names else {}
        copies = {
            EVENT + event_id: orjson.dumps(moved[event_id] | {"user_id": into, "received_at": iso(now_us)})
            for event_id in sorted(moved)
            if EVENT + event_id not in known and REMOVED + event_id not in known
        }
        removals = [removal(user_id, event_id, now_us) for event_id in sorted(moved)]
        self.log.append(list(copies.values()), [*removals, *([mark] if mark else [])])
        if copies:
            self.store.write({into: copies})
        return len(copies)

    def _log_removals(self, user_id: str, fields: Fields, mark: bytes | None, now_us: int) -> None:
        ids = sorted(name.removeprefix(EVENT) for name in fields if name.startswith(EVENT))
        self.log.append(changes=[*(removal(user_id, i, now_us) for i in ids), *([mark] if mark else [])])

    def _written_since(self, user_id: str, before: Fields) -> Fields:
        """Return the fields that another process has added since `before` was read, without marks."""
        return {name: v for name, v in self.store.read(user_id).items() if name not in before and name not in MARKS}

    def _now_us(self) -> int:
        return int(self.now() * 1e6)

    def close(self) -> None:
        """Close store and log."""
        self.store.close()
        self.log.close()


def events_of(fields: Mapping[str, bytes]) -> list[Record]:
    """Return the events of a profile that count, in the order of time and id."""
    until = max(time_of(fields.get(name)) for name in MARKS)
    records: list[Record] = [
        orjson.loads(line)
        for name, line in fields.items()
        if name.startswith(EVENT) and REMOVED + name.removeprefix(EVENT) not in fields
    ]
    return sorted(
        (record for record in records if from_iso(record["ts"]) > until), key=lambda r: (r["ts"], r["event_id"])
    )


def facts_of(events: Sequence[Record]) -> Record:
    """Return country, age and registered_at: for each the value of the latest event that contains one."""
    facts: Record = {"country": None, "age": None, "registered_at": None}
    for event in events:  # in the order of time and id
        facts |= {name: event[name] for name in facts if event[name] is not None}
    return facts


def _mark_after(fields: Mapping[str, bytes], ts_us: int) -> str | None:
    """Return the first of the marks whose time is not before `ts_us`, if there is one."""
    marks = sorted((time_of(fields[name]), name) for name in MARKS if name in fields)
    return next((name for at, name in marks if at >= ts_us), None)
