"""The block list in force: read from all its sources, and swapped in as one object.

A thread asks every source for its version each `poll_s` seconds, and reads those that changed. A source that is
unavailable keeps the entries that were read last; so does a store whose list has disappeared, as after the loss of its
data. A file that was removed has no entries. Bad lines are named; the other lines apply.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from contracts.errors import OvertureError
from serving.block.entries import EMPTY, BlockList, Collector
from serving.block.sources import BlockFile, BlockSource
from serving.release.files import digest
from serving.release.watcher import Event, ignore_event

LOST = "the list in the store is gone; the entries that were read last apply. Add them again with `overture block add`"


class _State:
    """What was read from a source, and its problem."""

    def __init__(self, source: BlockSource) -> None:
        self.source = source
        self.version: str | None = None  # None: not read yet
        self.part = Collector(source.name)
        self.problem: str | None = None


class BlockWatcher:
    """Keeps the block list of all sources."""

    def __init__(
        self,
        sources: Sequence[BlockSource],
        poll_s: float,
        event: Event = ignore_event,
        prepare: Callable[[BlockList], None] = lambda _: None,
    ) -> None:
        """Prepare to follow the sources.

        Args:
            sources: the sources, in any order.
            poll_s: interval between two looks at the sources, in seconds.
            event: `event(name, **facts)` is called when the list changes (`block list`) and when a source has a problem
                (`block list problem`).
            prepare: is called with a new list before it is in force, to compute what requests need of it.
        """
        self.poll_s, self.event, self.prepare = poll_s, event, prepare
        self.current: BlockList = EMPTY
        self._states = [_State(source) for source in sources]
        self.counts = self._counts()  # numbers of entries in force and of bad lines, by source
        self._refreshing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def notes(self) -> dict[str, str]:
        """Problems by source: why it could not be read, and its bad lines."""
        notes = {}
        for state in self._states:
            parts = [state.problem] if state.problem else []
            if state.part.n_bad:
                shown = "; ".join(state.part.bad_lines[:3])
                more = state.part.n_bad - min(3, len(state.part.bad_lines))
                parts.append(f"{shown}{f'; and {more} more bad lines' if more else ''}")
            if parts:
                notes[f"block list, {state.source.name}"] = "; ".join(parts)
        return notes

    @property
    def unavailable(self) -> frozenset[str]:
        """Names of the sources that could not be read."""
        return frozenset(state.source.name for state in self._states if state.problem)

    def refresh(self) -> None:
        """Look at all sources once; never raises for what they contain."""
        with self._refreshing:
            if any([self._poll(state) for state in self._states]):
                version = digest("\n".join(f"{s.source.name} {s.version}" for s in self._states).encode())[:12]
                block_list = BlockList.merge(version, [state.part for state in self._states])
                try:
                    self.prepare(block_list)
                except Exception as error:  # it is computed again, and fails again, in the request that needs it
                    self.event("block list problem", source="prepare", why=f"{type(error).__name__}: {error}")
                self.current, self.counts = block_list, self._counts()
                self.event("block list", version=version, entries=block_list.n_entries)

    def _counts(self) -> dict[str, tuple[int, int]]:
        return {state.source.name: (state.part.n_entries, state.part.n_bad) for state in self._states}

    def _poll(self, state: _State) -> bool:
        """Read a source if it has changed; return whether it was read."""
        try:
            version = state.source.version()
            if version == state.version:
                self._problem(state, None)
                return False
            if not version and state.version and not isinstance(state.source, BlockFile):
                self._problem(state, LOST)
                return False
            part = Collector(state.source.name)
            state.source.read(part)
        except Exception as error:  # a source can fail in any way; the list must stay in force
            self._problem(state, str(error) if isinstance(error, OvertureError) else _reason(error))
            return False
        if not version and state.version:
            self.event(
                "block list problem", source=state.source.name, why="the file was removed: it blocks nothing now"
            )
        state.version, state.part = version, part
        self._problem(state, None)
        if part.n_bad:
            self.event("block list problem", source=state.source.name, n_bad_lines=part.n_bad, bad_lines=part.bad_lines)
        return True

    def _problem(self, state: _State, problem: str | None) -> None:
        if problem is not None and problem != state.problem:
            self.event("block list problem", source=state.source.name, why=problem)
        state.problem = problem

    def start(self) -> None:
        """Read all sources, then follow them in a thread."""
        self.refresh()
        self._thread = threading.Thread(target=self._watch, name="block list", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(self.poll_s):
            self.refresh()

    def stop(self) -> None:
        """End the thread, and close the sources."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        for state in self._states:
            state.source.close()


def _reason(error: Exception) -> str:
    """Return the reason without paths of this machine, because anyone may read it."""
    return f"it cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
