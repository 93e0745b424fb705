"""What the archive sink counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The counters of one sink."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.registry: Final = CollectorRegistry()
        self._newest_received = 0
        self.rows: Final = Counter(
            "truyvet_archive_rows",
            "Rows inserted, by table; of visits: marks",
            ["table"],
            registry=self.registry,
        )
        self.broken: Final = Counter(
            "truyvet_archive_broken",
            "Records or elements that could not be a row and went to the table rejected",
            registry=self.registry,
        )
        self.flush_rows: Final = Histogram(
            "truyvet_archive_flush_marks",
            "Marks a flush",
            buckets=(0, 100, 1_000, 10_000, 50_000, 100_000, 200_000),
            registry=self.registry,
        )
        self.flush_seconds: Final = Histogram(
            "truyvet_archive_flush_seconds",
            "Time of a flush: inserts, waits for ClickHouse and commit",
            buckets=(0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600),
            registry=self.registry,
        )
        self.retries: Final = Counter(
            "truyvet_archive_retries", "Inserts repeated: ClickHouse away or slow", registry=self.registry
        )
        self.waiting: Final = Gauge(
            "truyvet_archive_waiting",
            "1 while the sink waits for ClickHouse, or looks for the rows that it refuses",
            registry=self.registry,
        )
        self.waiting_seconds: Final = Counter(
            "truyvet_archive_waiting_seconds",
            "Seconds from a failed insert to the one that went in",
            registry=self.registry,
        )
        self.bisections: Final = Counter(
            "truyvet_archive_bisections",
            "Blocks that ClickHouse refused and that were halved until the rows were found",
            registry=self.registry,
        )
        self.dead_lettered: Final = Counter(
            "truyvet_archive_dead_lettered",
            "Rows that ClickHouse refused and that went to the topic archive.rejected, by table",
            ["table"],
            registry=self.registry,
        )
        self.lost: Final = Counter(
            "truyvet_archive_lost_records",
            "Offsets that Kafka deleted before they were archived, by topic: it was behind for too long",
            ["topic"],
            registry=self.registry,
        )
        self.lag: Final = Gauge(
            "truyvet_archive_lag_records",
            "Records not yet archived, by topic",
            ["topic"],
            registry=self.registry,
        )
        self.progress: Final = Gauge(
            "truyvet_progress_timestamp_seconds", "When offsets were last committed", registry=self.registry
        )
        freshness = Gauge(
            "truyvet_archive_freshness_seconds",
            "Age of the newest mark in the archive, by its time of receipt; NaN: none since the start",
            registry=self.registry,
        )
        freshness.set_function(
            lambda: (clock_ms() - self._newest_received) / 1000 if self._newest_received else float("nan")
        )

    def archived(self, newest_received: int) -> None:
        """Marks up to this time of receipt (ms) are in the archive."""
        self._newest_received = max(self._newest_received, newest_received)
