"""Prometheus metrics of the skip engine: its release, the release's age, and fallbacks."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.skip.release import SkipRelease


class SkipMetrics:
    """The skip engine's metrics of one process, in the service's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        named: dict[str, Any] = {"registry": registry}
        latest = {**named, "multiprocess_mode": "livemax"}
        self.serving = Gauge("overture_skip_release", "1 for the skip engine's release", ["release", "week"], **latest)
        self.until = Gauge(
            "overture_skip_release_as_of_seconds",
            "End of the plays that the skip engine's release contains; time() minus this is its age",
            **latest,
        )
        self.revision = Gauge("overture_skip_release_revision", "Revision of the skip champion's pointer", **latest)
        self.refused = Counter("overture_skip_release_refused", "Promoted skip releases that were refused", **named)
        self.unavailable = Counter(
            "overture_skip_release_source_errors", "Times that the skip champion's pointer could not be read", **named
        )
        self.degraded = Counter(
            "overture_skip_degraded_answers", "Responses of the skip routes made by a fallback", ["fallback"], **named
        )
        self._before: tuple[str, str] | None = None

    def release(self, now: SkipRelease) -> None:
        """Record that another release is in service."""
        if self._before:
            self.serving.labels(*self._before).set(0)
        self._before = (now.name[:12], now.week)
        self.serving.labels(*self._before).set(1)
        self.until.set(now.state_until)
        if now.pointer is not None:
            self.revision.set(now.pointer.revision)

    def count_fallback(self, to: str) -> None:
        """Count a fallback."""
        self.degraded.labels(to).inc()
