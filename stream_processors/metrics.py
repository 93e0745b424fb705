"""What the processors count. Names follow Prometheus' conventions; one registry a process."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The counters of one worker."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self.scans: Final = Counter(
            "truyvet_scans",
            "Scans by verdict: accepted, redelivered, duplicate, or the reason of a rejection",
            ["verdict"],
            registry=self.registry,
        )
        self.chunk_scans: Final = Histogram(
            "truyvet_chunk_scans",
            "Scans a chunk",
            buckets=(1, 10, 100, 500, 1_000, 2_000, 5_000),
            registry=self.registry,
        )
        self.chunk_seconds: Final = Histogram(
            "truyvet_chunk_seconds",
            "Time from taking a chunk to its acknowledgement",
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30),
            registry=self.registry,
        )
        self.touched: Final = Counter("truyvet_touched", "Events for the matcher", registry=self.registry)
        self.cases: Final = Counter(
            "truyvet_cases", "Case records by verdict", ["verdict"], registry=self.registry
        )
        self.exposures: Final = Counter(
            "truyvet_exposures", "Exposures published, by status", ["status"], registry=self.registry
        )
        self.warnings: Final = Counter(
            "truyvet_venue_warnings", "Venue warnings published", registry=self.registry
        )
        self.match_retries: Final = Counter(
            "truyvet_match_retries",
            "Matches begun again because another owner was at work",
            registry=self.registry,
        )
        self.progress: Final = Gauge(
            "truyvet_progress_timestamp_seconds",
            "When this worker last acknowledged a chunk",
            registry=self.registry,
        )
        self.poison_alarm: Final = Gauge(
            "truyvet_poison_alarm",
            "1 while more of the last minute's scans are rejected than TRUYVET_POISON_SHARE",
            registry=self.registry,
        )
        self.degraded: Final = Gauge(
            "truyvet_matching_degraded",
            "1 while Redis is not whole: cases and matching wait for it to be rebuilt",
            registry=self.registry,
        )
        self.waiting: Final = Gauge(
            "truyvet_waiting",
            "1 while this worker waits for something outside of it: redis_full, rebuild",
            ["on"],
            registry=self.registry,
        )
