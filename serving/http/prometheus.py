"""Prometheus metrics: requests, lists, fallbacks, and the release in service.

With several workers the values of all are combined through files in PROMETHEUS_MULTIPROC_DIR (serving/main.py). Each
worker locks a file there until it ends, however it ends. Before the values are combined, the gauges of workers that
ended are removed; their counters and histograms stay, because totals must not decrease.
"""

from __future__ import annotations

import fcntl
import math
import os
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.bodies import CarouselBody, KnownRecommendationBody, RecommendationBody
from serving.release.loaded import LoadedRelease

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def lock_worker_file() -> TextIO | None:
    """Return this worker's locked file, to be kept open while the process runs; None with one worker."""
    if FOLDER not in os.environ:
        return None
    path = Path(os.environ[FOLDER]) / f"worker_{os.getpid()}.lock"
    file = path.with_suffix(".new").open("w")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.rename(file.name, path)  # a file of this name that is not locked belongs to a worker that ended
    return file


def remove_dead_workers() -> None:
    """Remove the gauges of workers that ended: those whose file is no longer locked."""
    for path in Path(os.environ[FOLDER]).glob("worker_*.lock"):
        try:
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mark_process_dead(int(path.stem.removeprefix("worker_")))
                path.unlink()
        except (BlockingIOError, FileNotFoundError):  # it runs, or another worker has removed it
            continue


class Metrics:
    """The metrics of one process. Labels have few values and name no listener."""

    def __init__(self) -> None:
        self._worker_file = lock_worker_file()
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"registry": self.registry}
        latest = {**named, "multiprocess_mode": "livemax"}
        self.requests = Counter("overture_requests", "Requests by route and status", ["route", "status"], **named)
        self.seconds = Histogram("overture_request_seconds", "Time to answer", ["route"], buckets=SECONDS, **named)
        self.answers = Counter(
            "overture_answers", "Lists by method and source of the vector", ["method", "vector_source"], **named
        )
        self.degraded = Counter("overture_degraded_answers", "Responses made by a fallback", ["fallback"], **named)
        self.unknown = Counter("overture_unknown_ids", "Ids in requests that the release does not contain", **named)
        self.swaps = Counter("overture_release_swaps", "Releases put into service", **named)
        self.refused = Counter("overture_release_refused", "Promoted releases that were refused", **named)
        self.unavailable = Counter(
            "overture_release_source_errors", "Times that the champion's pointer could not be read", **named
        )
        self.serving = Gauge("overture_release", "1 for the release in service", ["release", "week"], **latest)
        self.as_of = Gauge(
            "overture_release_as_of_seconds",
            "As-of time of the release in service; time() minus this is its age",
            **latest,
        )
        self.revision = Gauge("overture_release_revision", "Revision of the champion's pointer", **latest)
        self.drift = Gauge(
            "overture_input_drift",
            "Population stability index of listeners against the training data; above 0.25: drifted",
            ["feature"],
            **latest,
        )
        self.drift_listeners = Gauge(
            "overture_input_drift_listeners", "Listeners that the stability index is computed from", **latest
        )
        self.store_answers = Gauge(
            "overture_store_answers",
            "0 if the last read of the store of known listeners failed, else 1",
            **named,
            multiprocess_mode="livemin",
        )
        self.store_answers.set(1)
        self.reads = Counter("overture_store_reads", "Reads of known listeners, by result", ["result"], **named)
        self._by_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}  # cache of labelled metrics
        self._previous: tuple[str, str] | None = None
        self._ready: LoadedRelease | None = None
        self._drift_features: set[str] = set()

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        at = (route, status)
        if at not in self._by_route:
            self._by_route[at] = self.requests.labels(route, str(status)), self.seconds.labels(route)
        count, took = self._by_route[at]
        count.inc()
        took.observe(seconds)

    def count_list(self, method: str, body: RecommendationBody | KnownRecommendationBody | CarouselBody) -> None:
        """Count a list by its method, its vector source and its fallback."""
        self.answers.labels(method, body["vector_source"]).inc()
        if body["degraded"]:
            self.degraded.labels(body["degraded"]["fallback"]).inc()

    def count_unknown(self, unknown: dict[str, list[str]]) -> None:
        """Count the ids of a request that the release does not contain."""
        if unknown:
            self.unknown.inc(sum(len(ids) for ids in unknown.values()))

    def count_store_read(self, result: str) -> None:
        """Count a read of the store: found, unknown, unpublished (no row of that release) or away."""
        self.reads.labels(result).inc()
        self.store_answers.set(result != "unavailable")

    def release(self, loaded: LoadedRelease) -> None:
        """Record that another release is in service."""
        if self._previous:
            self.serving.labels(*self._previous).set(0)
        self._previous = (loaded.name[:12], loaded.week)
        self.serving.labels(*self._previous).set(1)
        self.as_of.set(datetime.fromisoformat(loaded.release.provenance["as_of"]).timestamp())
        self.revision.set(loaded.pointer.revision)
        self.swaps.inc()
        self._ready = loaded
        for feature in tuple(self._drift_features):  # features of the previous release: not measured for this one yet
            self.drift.labels(feature).set(math.nan)
        loaded.watch.set_callback(self._set_drift)

    def _set_drift(self, indices: dict[str, float]) -> None:
        for feature, index in indices.items():
            if feature == "listeners":
                self.drift_listeners.set(index)
            else:
                self.drift.labels(feature).set(index)
                self._drift_features.add(feature)

    def page(self) -> bytes:
        """Return the metrics of this process, or of all workers, in the text format of Prometheus."""
        if self._ready is not None:
            self._ready.watch.refresh()
        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        remove_dead_workers()
        all_workers = CollectorRegistry()
        MultiProcessCollector(all_workers)
        return generate_latest(all_workers)
