"""Long jobs of the skip engine say that they live: a line a lap and a line a minute; and how long laps took."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from jobs.platform.progress import say

EVERY_S = 60.0


@dataclass
class Watch:
    """Seconds by lap, in the order they were finished."""

    label: str
    laps: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def lap(self, name: str) -> None:
        """The time since the last lap was for this."""
        self.laps[name] = round(time.monotonic() - self.began - sum(self.laps.values()), 3)
        self.say(f"{name.removesuffix('_s')} done")

    def say(self, text: str) -> None:
        """A line, with the time and the memory that it took so far."""
        seconds = time.monotonic() - self.began
        say(f"{self.label}: {text} ({seconds:.0f} s, {self.peak_mib} MiB at most)")

    @property
    def peak_mib(self) -> int:
        """The most memory that this process has held so far."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@contextmanager
def watched(label: str) -> Iterator[Watch]:
    """A watch that says every minute that the job goes on."""
    watch, done = Watch(label), threading.Event()

    def tell() -> None:
        while not done.wait(EVERY_S):
            watch.say("at work")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield watch
    finally:
        done.set()
        teller.join()
