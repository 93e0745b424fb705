"""The roles that run as Faust workers, wired from settings: ingest, cases, matcher."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from redis.exceptions import RedisError

from schemas import topics
from schemas.serving import serve
from schemas.settings import Settings
from stream_processors import worker
from stream_processors.cases import CaseRecord, Cases, CaseTopics
from stream_processors.chunks import Fetching
from stream_processors.erasing import read_erased, restore
from stream_processors.gathering import Gathering
from stream_processors.guard import READY
from stream_processors.ingest import Ingest, IngestTopics
from stream_processors.layout import Layout
from stream_processors.matcher import Matcher, MatcherTopics
from stream_processors.metrics import Metrics
from stream_processors.outputs import DurableProducer, TransactionalProducer
from stream_processors.poison import PoisonAlarm, PoisonGuard
from stream_processors.positions import committed_offsets, position_name
from stream_processors.records import Records
from stream_processors.servers import StoreLostError, connect
from stream_processors.store import Store
from stream_processors.touches import read_touches
from stream_processors.venues import VenueTable

log: Final = logging.getLogger(__name__)

# Pieces of ingest that are under way at once: two trips to Redis of three each, and as many that are parsed
# or written meanwhile. Chunks beyond them wait to be gathered into the next one. A fetch brings up to 16;
# with places for 24, none waited a sixth of the time (docs/DESIGN.md).
_INGEST_PIECES: Final = 10
_INGEST_CHUNKS: Final = 40


# Of 20,000 scans a second a fetch would bring each time what one gateway just sent. What a chunk costs by
# itself (broker, scripts, visits, whoever reads those) is shared by the scans of these milliseconds instead:
# a piece of 400 takes 21 us of the worker's CPU a scan, one of 1,600 takes 11 (5,000 venues).
# A late scan's alert waits for that piece as well, so the waiting is short while a worker has time to spare.
# When few come, a scan waits for nobody (benchmarks/calm.py).
_INGEST_FETCHING: Final = Fetching(wait_ms=20)
_INGEST_BUSY: Final = Fetching(wait_ms=30, min_bytes=256 * 1024)
_INGEST_PRESSED: Final = Fetching(wait_ms=60, min_bytes=256 * 1024)


# Chunks that the matcher takes at once: those of a partition that wait for its turn are done as one.
_MATCHER_CHUNKS: Final = 64


# How often a worker looks how the store stands, and how soon a failed rebuild is tried again.
_LOOK_S: Final = 1.0
_REBUILD_AGAIN_S: Final = 10.0


# Puts back what Redis lost. Blocks; raises when it cannot, and is then tried again.
Rebuild = Callable[[Settings], None]


def group_topics(settings: Settings) -> dict[str, str]:
    """Consumer group → topic of the roles that keep their state in Redis."""
    names = {"ingest": topics.SCANS, "cases": topics.CASES, "matcher": topics.TOUCHED}
    return {settings.group(role): settings.topic(topic) for role, topic in names.items()}


def transactional_id(settings: Settings, partition: int) -> str:
    """Whose producer is the owner of a partition of `touched`."""
    return f"{settings.topic(topics.TOUCHED)}-{partition}"


class _StoreRole(worker.Role):
    """What the three roles share: the store, and the register of venues."""

    def __init__(
        self,
        settings: Settings,
        clock_ms: Callable[[], int],
        metrics: Metrics,
        rebuild: Rebuild,
    ) -> None:
        self._settings = settings
        self._clock_ms = clock_ms
        self._metrics = metrics
        self._rebuild = rebuild
        self._whole = asyncio.Event()
        self._closing = AsyncExitStack()

    async def start(self) -> None:
        settings = self._settings
        committed = await asyncio.to_thread(committed_offsets, settings.kafka_address, group_topics(settings))
        layout = Layout(settings.redis_shards, settings.retention_days)
        self._store = Store(connect(settings.redis_url), layout, self._clock_ms, self._on_full)
        self._closing.push_async_callback(self._store.close)
        state = await self._store.open(committed)
        self._metrics.degraded.set(state.status != READY)
        if state.status == READY:
            self._whole.set()
        else:
            log.critical("matching is degraded (%s): cases and matching wait for a rebuild", state.reason)
        self._venues = VenueTable(
            settings.kafka_address, settings.topic(topics.VENUES), on_moved=self._on_moved
        )
        self._closing.push_async_callback(asyncio.to_thread, self._venues.stop)
        await asyncio.to_thread(self._venues.start)
        watch = asyncio.get_running_loop().create_task(self._follow(state.epoch))
        self._closing.callback(watch.cancel)  # else it would look at a closed connection

    async def _producer_to(self, *written: topics.Topic) -> DurableProducer:
        """A producer to these topics, closed with the role."""
        names = [self._settings.topic(topic) for topic in written]
        producer = await asyncio.to_thread(DurableProducer, self._settings.kafka_address, names)
        self._closing.push_async_callback(asyncio.to_thread, producer.close)
        return producer

    async def stop(self) -> None:
        await self._closing.aclose()

    async def committing(self, offsets: Mapping[int, int]) -> None:
        await self._store.record_positions(
            {position_name(self.topic, partition): offset for partition, offset in offsets.items()}
        )

    def _on_moved(self, partition: int, offset: int, code: str) -> None:
        """A venue is new, or has another parent; called in the thread that follows the register."""

    def _on_full(self, full: bool) -> None:
        self._metrics.waiting.labels("redis_full").set(full)

    async def _follow(self, epoch: str) -> None:
        """Notice a lost store, also without work at hand, and one that is whole again."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                state = await self._store.guard.state()
                if state.epoch != epoch:
                    raise StoreLostError("Redis lost what it held; another worker noticed it")
            except StoreLostError as error:
                self.fail(error)
                return
            except RedisError as error:
                log.warning("cannot see how Redis stands: %s", error)
                continue
            if state.status == READY and not self._whole.is_set():
                log.warning("Redis is whole again: matching goes on")
                self._metrics.degraded.set(0)
                self._metrics.waiting.labels("rebuild").set(0)
                self._whole.set()

    async def _until_whole(self) -> None:
        """Wait until nothing is missing in the store."""
        if not self._whole.is_set():
            self._metrics.waiting.labels("rebuild").set(1)
            await self._whole.wait()


class IngestRole(_StoreRole):
    """scans → marks, visits, touched, scans.rejected."""

    name = "ingest"
    limit = _INGEST_CHUNKS
    fetching = _INGEST_FETCHING
    busy = _INGEST_BUSY
    pressed = _INGEST_PRESSED

    def __init__(
        self,
        settings: Settings,
        clock_ms: Callable[[], int],
        metrics: Metrics,
        rebuild: Rebuild,
    ) -> None:
        super().__init__(settings, clock_ms, metrics, rebuild)
        self.topic = settings.topic(topics.SCANS)

    async def start(self) -> None:
        await super().start()
        settings = self._settings
        self._ingest = Ingest(
            store=self._store,
            venues=self._venues,
            producer=await self._producer_to(topics.VISITS, topics.TOUCHED, topics.SCANS_REJECTED),
            topics=IngestTopics(
                scans=self.topic,
                visits=settings.topic(topics.VISITS),
                touched=settings.topic(topics.TOUCHED),
                rejected=settings.topic(topics.SCANS_REJECTED),
            ),
            retention_days=settings.retention_days,
            clock_ms=self._clock_ms,
            metrics=self._metrics,
            poison=PoisonAlarm(PoisonGuard(settings.poison_share, time.monotonic), self._metrics),
        )
        self._gathering = Gathering(self._ingest.process, _INGEST_PIECES)
        # before the first scan: a Redis that was lost knows nobody who was erased
        erased = await asyncio.to_thread(read_erased, settings.kafka_address, settings.topic(topics.ERASED))
        await restore(self._store, erased, self._clock_ms())

    async def process(
        self,
        partition: int,  # noqa: ARG002 (a record knows its own)
        records: Records,
        stale: Callable[[], bool],
    ) -> None:
        await self._gathering.process(records, stale)


class CasesRole(_StoreRole):
    """cases → what stands, touched, cases.rejected."""

    name = "cases"

    def __init__(
        self,
        settings: Settings,
        clock_ms: Callable[[], int],
        metrics: Metrics,
        rebuild: Rebuild,
    ) -> None:
        super().__init__(settings, clock_ms, metrics, rebuild)
        self.topic = settings.topic(topics.CASES)
        self._moved: asyncio.Queue[tuple[int, int, str]] = asyncio.Queue()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await super().start()
        settings = self._settings
        self._cases = Cases(
            store=self._store,
            venues=self._venues,
            producer=await self._producer_to(topics.TOUCHED, topics.CASES, topics.CASES_REJECTED),
            topics=CaseTopics(
                cases=self.topic,
                touched=settings.topic(topics.TOUCHED),
                rejected=settings.topic(topics.CASES_REJECTED),
            ),
            clock_ms=self._clock_ms,
            metrics=self._metrics,
        )
        moving = self._loop.create_task(self._follow_moves())
        self._closing.callback(moving.cancel)

    def _on_moved(self, partition: int, offset: int, code: str) -> None:
        self._loop.call_soon_threadsafe(self._moved.put_nowait, (partition, offset, code))

    async def _follow_moves(self) -> None:
        """Tell the matcher of place-times that cover other venues than before.

        How far the register was followed stands in the store, behind what the matcher was told: whoever
        begins again reads the register from its beginning and goes on there.
        """
        told: dict[str, int] = {}
        try:
            while True:
                found = [await self._moved.get()]
                while not self._moved.empty():
                    found.append(self._moved.get_nowait())
                ends: dict[str, int] = {}
                codes: set[str] = set()
                for partition, offset, code in found:
                    name = position_name(self._settings.topic(topics.VENUES), partition)
                    if name not in told:
                        told[name] = await self._store.guard.position(name)
                    if offset >= told[name]:
                        codes.add(code)
                        ends[name] = max(ends.get(name, 0), offset + 1)
                if codes:
                    await self._until_whole()  # flags that are not put back yet would be missed
                    await self._cases.moved(codes)
                    await self._store.record_positions(ends)
                    told |= ends
        except Exception as error:
            self.fail(error)

    async def process(self, partition: int, records: Records, stale: Callable[[], bool]) -> None:
        # without the versions before it, an older version would pass for the highest
        await self._until_whole()
        if stale():
            return
        await self._cases.process(
            [
                CaseRecord(
                    record.key, record.value, partition, record.offset, record.timestamp, record.headers
                )
                for record in records
            ]
        )


class MatcherRole(_StoreRole):
    """touched → exposures, venue-warnings."""

    name = "matcher"
    limit = _MATCHER_CHUNKS

    def __init__(
        self,
        settings: Settings,
        clock_ms: Callable[[], int],
        metrics: Metrics,
        rebuild: Rebuild,
    ) -> None:
        super().__init__(settings, clock_ms, metrics, rebuild)
        self.topic = settings.topic(topics.TOUCHED)

    def _producer_for(self, partition: int) -> TransactionalProducer:
        written = (topics.EXPOSURES, topics.VENUE_WARNINGS, topics.TOUCHED)
        return TransactionalProducer(
            self._settings.kafka_address,
            transactional_id(self._settings, partition),
            [self._settings.topic(topic) for topic in written],
        )

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

    async def assigned(self, partitions: set[int], ours: Callable[[int], bool]) -> None:
        if not self._whole.is_set() and self._settings.rebuild == "auto":
            await self._rebuild_patiently()
        await self._until_whole()
        await asyncio.gather(
            *(self._matcher.take_over(partition, partial(ours, partition)) for partition in partitions)
        )

    async def _rebuild_patiently(self) -> None:
        """Until it is done, by us or by somebody else: the archive may be away as well."""
        while not self._whole.is_set():
            try:
                await asyncio.to_thread(self._rebuild, self._settings)
                return
            except Exception as error:
                log.error("the rebuild failed, it is tried again: %s", error)
                await asyncio.sleep(_REBUILD_AGAIN_S)

    def revoked(self, partitions: set[int]) -> None:
        for partition in partitions:
            self._matcher.let_go(partition)

    async def process(self, partition: int, records: Records, stale: Callable[[], bool]) -> None:
        await self._until_whole()  # a decision from half the marks would be wrong
        # a record without a value, of whoever else writes there, asks for nothing
        touches = [touch for value in records.values if value is not None for touch in read_touches(value)]
        await self._matcher.process(partition, touches, stale)


ROLES: Final = {role.name: role for role in (IngestRole, CasesRole, MatcherRole)}


def run_role(
    name: str,
    settings: Settings,
    clock_ms: Callable[[], int],
    worker_index: int,
    metrics_port: int,
    *,
    rebuild: Rebuild,
) -> None:
    """Run a role until SIGTERM; a crash ends the process with exit code 1. Does not return.

    `rebuild`: what the matcher does by itself when it finds Redis lost, if settings say so.
    """
    metrics = Metrics()
    heart = worker.Heart()
    serve(metrics.registry, metrics_port, heart.trouble)
    role = ROLES[name](settings, clock_ms, metrics, rebuild)
    worker.run(worker.build_app(settings, role, metrics, worker_index, heart))
