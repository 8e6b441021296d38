"""Prometheus metrics of the block list."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from serving.block.watcher import BlockWatcher


class BlockMetrics:
    """Sizes and problems of the block list, by source."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.entries = Gauge(
            "overture_block_entries",
            "Entries of the block list, by source",
            ["source"],
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.problems = Gauge(
            "overture_block_problems",
            "Bad lines of the block list, plus 1 if the source cannot be read",
            ["source"],
            registry=registry,
            multiprocess_mode="livemax",
        )

    def update(self, blocks: BlockWatcher) -> None:
        """Record the state of all sources."""
        for source, (n_entries, n_bad) in blocks.counts.items():
            self.entries.labels(source).set(n_entries)
            self.problems.labels(source).set(n_bad + (source in blocks.unavailable))
