"""The roles that run as Faust workers, wired from settings: ingest, cases, matcher."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from prometheus_client import start_http_server

from schemas import topics
from schemas.settings import Settings
from stream_processors import worker
from stream_processors.cases import CaseRecord, Cases, CaseTopics
from stream_processors.ingest import Ingest, IngestTopics
from stream_processors.layout import Layout
from stream_processors.matcher import Matcher, MatcherTopics
from stream_processors.metrics import Metrics
from stream_processors.outputs import DurableProducer, TransactionalProducer
from stream_processors.store import Store, connect
from stream_processors.touches import read_touches
from stream_processors.validation import Record
from stream_processors.venues import VenueTable

log: Final = logging.getLogger(__name__)

# Chunks of ingest that are under way at once: while one waits for Redis or Kafka, the next is parsed.
_INGEST_CHUNKS: Final = 4


# Partitions of the matcher that are decided at once; each has its own transactions.
_MATCHER_CHUNKS: Final = 8


class _StoreRole(worker.Role):
    """What the three roles share: the store, the register of venues, a producer."""

    def __init__(self, settings: Settings, clock_ms: Callable[[], int], metrics: Metrics) -> None:
        self._settings = settings
        self._clock_ms = clock_ms
        self._metrics = metrics

    async def start(self) -> None:
        settings = self._settings
        layout = Layout(settings.redis_shards, settings.retention_days)
        self._store = Store(connect(settings.redis_url), layout)
        await self._store.load()
        self._venues = VenueTable(settings.kafka_address, settings.topic(topics.VENUES))
        await asyncio.to_thread(self._venues.start)
        self._producer = DurableProducer(settings.kafka_address)

    async def stop(self) -> None:
        await asyncio.to_thread(self._producer.close)
        await asyncio.to_thread(self._venues.stop)
        await self._store.close()


class IngestRole(_StoreRole):
    """scans → marks, visits, touched, scans.rejected."""

    name = "ingest"
    limit = _INGEST_CHUNKS

    def __init__(self, settings: Settings, clock_ms: Callable[[], int], metrics: Metrics) -> None:
        super().__init__(settings, clock_ms, metrics)
        self.topic = settings.topic(topics.SCANS)

    async def start(self) -> None:
        await super().start()
        settings = self._settings
        self._ingest = Ingest(
            store=self._store,
            venues=self._venues,
            producer=self._producer,
            topics=IngestTopics(
                scans=self.topic,
                visits=settings.topic(topics.VISITS),
                touched=settings.topic(topics.TOUCHED),
                rejected=settings.topic(topics.SCANS_REJECTED),
            ),
            retention_days=settings.retention_days,
            clock_ms=self._clock_ms,
            metrics=self._metrics,
        )

    async def process(self, partition: int, records: Sequence[Any]) -> None:
        await self._ingest.process(
            partition,
            [Record(record.value, record.offset, record.timestamp, record.headers) for record in records],
        )


class CasesRole(_StoreRole):
    """cases → what stands, touched, cases.rejected."""

    name = "cases"

    def __init__(self, settings: Settings, clock_ms: Callable[[], int], metrics: Metrics) -> None:
        super().__init__(settings, clock_ms, metrics)
        self.topic = settings.topic(topics.CASES)

    async def start(self) -> None:
        await super().start()
        settings = self._settings
        self._cases = Cases(
            store=self._store,
            venues=self._venues,
            producer=self._producer,
            topics=CaseTopics(
                cases=self.topic,
                touched=settings.topic(topics.TOUCHED),
                rejected=settings.topic(topics.CASES_REJECTED),
            ),
            clock_ms=self._clock_ms,
            metrics=self._metrics,
        )

    async def process(self, partition: int, records: Sequence[Any]) -> None:
        await self._cases.process(
            [
                CaseRecord(record.key, record.value, partition, record.offset, record.timestamp)
                for record in records
            ]
        )


class MatcherRole(_StoreRole):
    """touched → exposures, venue-warnings."""

    name = "matcher"
    limit = _MATCHER_CHUNKS

    def __init__(self, settings: Settings, clock_ms: Callable[[], int], metrics: Metrics) -> None:
        super().__init__(settings, clock_ms, metrics)
        self.topic = settings.topic(topics.TOUCHED)

    def _producer_for(self, partition: int) -> TransactionalProducer:
        return TransactionalProducer(self._settings.kafka_address, f"{self.topic}-{partition}")

    async def start(self) -> None:
        await super().start()
        settings = self._settings
        self._matcher = Matcher(
            store=self._store,
            venues=self._venues,
            producer_for=self._producer_for,
            topics=MatcherTopics(
                touched=self.topic,
                exposures=settings.topic(topics.EXPOSURES),
                warnings=settings.topic(topics.VENUE_WARNINGS),
            ),
            clock_ms=self._clock_ms,
            metrics=self._metrics,
        )

    async def assigned(self, partitions: set[int]) -> None:
        await asyncio.gather(*(self._matcher.take_over(partition) for partition in partitions))

    def revoked(self, partitions: set[int]) -> None:
        for partition in partitions:
            self._matcher.let_go(partition)

    async def process(self, partition: int, records: Sequence[Any]) -> None:
        touches = [touch for record in records for touch in read_touches(record.value)]
        await self._matcher.process(partition, touches)


ROLES: Final = {role.name: role for role in (IngestRole, CasesRole, MatcherRole)}


def run_role(
    name: str, settings: Settings, clock_ms: Callable[[], int], worker_index: int, metrics_port: int
) -> None:
    """Run a role until SIGTERM; a crash ends the process with exit code 1. Does not return."""
    metrics = Metrics()
    start_http_server(metrics_port, addr="127.0.0.1", registry=metrics.registry)
    role = ROLES[name](settings, clock_ms, metrics)
    worker.run(worker.build_app(settings, role, metrics, worker_index))
