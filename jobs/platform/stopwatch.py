"""Durations of a job's steps, and log lines that show that a long job is running."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from jobs.platform.progress import LOG_INTERVAL_S, log_line


@dataclass
class Stopwatch:
    """Durations of a job's steps.

    Attributes:
        label: What every log line begins with.
        laps: Seconds by step, in the order in which the steps ended.
        began: Start of the job, in seconds of `time.monotonic()`.
    """

    label: str
    laps: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def lap(self, name: str) -> None:
        """Record the time since the previous lap as the duration of step `name`, and log that the step has ended."""
        self.laps[name] = round(time.monotonic() - self.began - sum(self.laps.values()), 3)
        self.log(f"{name.removesuffix('_s')} done")

    def log(self, text: str) -> None:
        """Log a line with the job's duration and peak memory so far."""
        seconds = time.monotonic() - self.began
        log_line(f"{self.label}: {text} ({seconds:.0f} s, {self.peak_mib} MiB at most)")

    @property
    def peak_mib(self) -> int:
        """Peak memory of this process so far, in MiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@contextmanager
def stopwatch(label: str) -> Iterator[Stopwatch]:
    """Yield a stopwatch that logs a line every minute while the block runs."""
    watch, is_over = Stopwatch(label), threading.Event()

    def log_every_minute() -> None:
        while not is_over.wait(LOG_INTERVAL_S):
            watch.log("running")

    thread = threading.Thread(target=log_every_minute, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        is_over.set()
        thread.join()
