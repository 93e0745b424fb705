"""Put back what Redis lost: marks from the archive and the tail of `visits`, cases and what stands published
from their topics; then have everything matched again.

The order is what makes it exact (docs/RELIABILITY.md, "Losing Redis"):
1. every matcher is shut out, by beginning its transactional ids: what it decided before is published by now,
   or never will be;
2. whoever was erased is refused again; then marks: how far the archive has committed is read first, then the
   archive, then `visits` from there on;
3. every case at its highest version;
4. what stands published of them, from the topics themselves;
5. every case is announced for all its venues, as if it had just come in: flags are set by the matcher;
6. the store is ready, unless it was lost once more meanwhile: then again from 1.
New scans are accepted all the while, into the same buckets: each step is a merge.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeVar

from clickhouse_driver.errors import Error as ClickHouseError
from pydantic import ValidationError
from redis.exceptions import LockError, RedisError

from lookups.connection import connect as connect_archive
from lookups.marks import archived_hours, archived_marks
from producers.compacted import (
    KafkaAwayError,
    Record,
    TopicMissingError,
    partitions_of,
    quiet_consumer,
    read_to_end,
)
from schemas import topics
from schemas.events import VISITS, Case, Exposure, VenueWarning
from schemas.settings import Settings
from stream_processors.cases import CaseRecord, Cases, CaseTopics, read_case_record
from stream_processors.erasing import read_erased, restore
from stream_processors.guard import READY
from stream_processors.layout import FORMER_KEYS, KINDS, Layout
from stream_processors.matching import Decision, Key, Standing, Warned
from stream_processors.metrics import Metrics
from stream_processors.outputs import DurableProducer, PublishError, TransactionalProducer
from stream_processors.positions import committed_offsets, position_name
from stream_processors.published import standing_of, warned_of
from stream_processors.requests import MarkRow, Marks
from stream_processors.roles import group_topics, transactional_id
from stream_processors.servers import StoreLostError, connect
from stream_processors.store import Store
from stream_processors.venues import VenueTable

log: Final = logging.getLogger("truyvet.rebuild")

# step, done, total: hours of the archive, records of a topic, cases
Progress = Callable[[str, int, int], None]

_MARKS_A_CALL: Final = 20_000
_KEYS_A_LOOK: Final = 10_000
_HOURS_A_QUESTION: Final = 24  # bounds what the archive groups at once
_RECORDS_A_CALL: Final = 2_000
# One rebuild at a time; one that died frees the others after so long. It is renewed at every step.
_LOCK: Final = "rebuilding"
_LOCK_S: Final = 60.0
_LOOK_S: Final = 1.0
# A question to the archive must not end because a month is large.
_ANSWER_SECONDS: Final = 300

T = TypeVar("T")


class RebuildError(RuntimeError):
    """The rebuild cannot go on; the message says why and what to do. It can be started again at any time."""


def rebuild(
    settings: Settings,
    clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    progress: Progress = lambda *_: None,
) -> bool:
    """Rebuild a lost store; False when it was whole, or somebody else has just rebuilt it.

    Blocks. Raises RebuildError.
    """
    try:
        return asyncio.run(_Rebuild(settings, clock_ms, progress).run())
    except (KafkaAwayError, TopicMissingError, PublishError, StoreLostError, RebuildError) as error:
        raise RebuildError(str(error)) from error
    except RedisError as error:
        raise RebuildError(f"Redis: {error}; is it up, and TRUYVET_REDIS right?") from error
    except (ClickHouseError, OSError, EOFError) as error:
        first = str(error).splitlines()[0] if str(error) else repr(error)
        raise RebuildError(f"the archive does not answer ({first}): marks are rebuilt from it") from error


def declare_lost(settings: Settings, reason: str) -> None:
    """Begin a new epoch on a store that somebody knows to be wrong; every worker begins again with it."""

    async def declare() -> None:
        store = _store(settings, lambda: time.time_ns() // 1_000_000)
        try:
            await store.guard.mark_lost(reason)
        finally:
            await store.close()

    asyncio.run(declare())


def _store(settings: Settings, clock_ms: Callable[[], int]) -> Store:
    layout = Layout(settings.redis_shards, settings.retention_days)
    return Store(connect(settings.redis_url), layout, clock_ms, lambda _: None)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


class _Rebuild:
    def __init__(self, settings: Settings, clock_ms: Callable[[], int], progress: Progress) -> None:
        self._settings = settings
        self._clock_ms = clock_ms
        self._progress = progress
        self._store = _store(settings, clock_ms)
        self._servers = connect(settings.redis_url)

    async def run(self) -> bool:
        """All steps, once nobody else is at it."""
        try:
            settings = self._settings
            committed = await asyncio.to_thread(
                committed_offsets, settings.kafka_address, group_topics(settings)
            )
            state = await self._store.open(committed)
            redis = await self._servers.of(_LOCK)
            self._lock = redis.lock(_LOCK, timeout=_LOCK_S, blocking=False)
            while state.status != READY:
                if await self._lock.acquire():
                    try:
                        await self._steps(committed)
                    finally:
                        await self._release()
                    return True
                await asyncio.sleep(_LOOK_S)
                state = await self._store.guard.state()
            return False
        finally:
            await self._store.close()
            await self._servers.aclose()

    async def _release(self) -> None:
        try:
            await self._lock.release()
        except (LockError, RedisError) as error:
            log.warning("the lock of the rebuild was not released, it ends by itself: %s", error)

    async def _say(self, step: str, done: int, total: int) -> None:
        self._progress(step, done, total)
        await self._store.guard.progress(step, done, total)
        try:
            await self._lock.reacquire()
        except LockError as error:
            raise RebuildError("another rebuild took over: this one was silent for too long") from error

    async def _steps(self, committed: Mapping[str, int]) -> None:
        began = time.monotonic()
        await self._say("shutting matchers out", 0, 1)
        await asyncio.to_thread(self._shut_out)
        erased = await asyncio.to_thread(
            read_erased, self._settings.kafka_address, self._settings.topic(topics.ERASED)
        )
        await restore(self._store, erased, self._clock_ms())
        await self._drop_former()
        marks = await self._marks()
        cases = await self._cases()
        published = await self._published(cases)
        touches = await self._announce(cases)
        await self._store.finish_rebuild(committed, self._clock_ms())
        log.warning(
            "Redis is rebuilt: %d marks, %d cases, %d exposures and warnings, %d matches to do again, %.1f s",
            marks,
            len(cases),
            published,
            touches,
            time.monotonic() - began,
        )

    def _shut_out(self) -> None:
        settings = self._settings
        for partition in _partitions(settings, topics.TOUCHED):
            owner = TransactionalProducer(settings.kafka_address, transactional_id(settings, partition))
            owner.begin_ownership()

    async def _drop_former(self) -> None:
        """What an earlier layout left: it would keep persons who are erased, and twice the memory."""
        for server in await self._servers.all():
            for pattern in FORMER_KEYS:
                keys = [key async for key in server.scan_iter(pattern, count=_KEYS_A_LOOK)]
                for start in range(0, len(keys), _KEYS_A_LOOK):
                    await self._say("keys of an earlier layout", start, len(keys))
                    await server.unlink(*keys[start : start + _KEYS_A_LOOK])

    # --- marks --------------------------------------------------------------------------------

    async def _marks(self) -> int:
        settings = self._settings
        name = settings.topic(topics.VISITS)
        archived = await asyncio.to_thread(
            committed_offsets, settings.kafka_address, {settings.group("archive"): name}
        )
        oldest = max(self._store.layout.oldest_hour(self._clock_ms()), 0)
        count = 0
        client = connect_archive(settings.clickhouse_url + _limits(settings.clickhouse_url))
        try:
            hours = await asyncio.to_thread(archived_hours, client, oldest)
            for start in range(hours.start, hours.stop, _HOURS_A_QUESTION):
                part = range(start, min(start + _HOURS_A_QUESTION, hours.stop))
                await self._say("marks of the archive, hours", start - hours.start, len(hours))
                rows = (
                    MarkRow("", mark.person, mark.venue, mark.hour, mark.minute, KINDS[mark.kind])
                    for mark in archived_marks(client, part)
                )
                count += await self._add(rows)
        finally:
            client.disconnect()
        begin = {
            partition: archived[place]
            for partition in await asyncio.to_thread(_partitions, settings, topics.VISITS)
            if (place := position_name(name, partition)) in archived
        }
        records = read_to_end(settings, topics.VISITS, begin=begin)
        return count + await self._add(row for record in records for row in _rows(record, oldest))

    async def _add(self, rows: Iterable[MarkRow]) -> int:
        count = 0
        batches = _batches(rows, _MARKS_A_CALL)
        while batch := await asyncio.to_thread(next, batches, None):
            await self._store.add_scans(Marks.of(batch), [])
            count += len(batch)
        return count

    # --- cases and what stands published ------------------------------------------------------

    async def _cases(self) -> dict[str, tuple[Case, int]]:
        """Every case that has not expired, with the time (ms) that its expiry counts from."""
        found: dict[str, tuple[Case, int]] = {}
        now_s = self._clock_ms() // 1000
        await self._say("cases", 0, 1)
        for batch in await asyncio.to_thread(list, _batches(read_to_end(self._settings, topics.CASES), 100)):
            for record in batch:
                case = _case(record)
                if case is None or self._store.layout.case_expiry(case, record.timestamp) <= now_s:
                    continue
                # the processor refused a conflict or another subject when it came, and so does this
                _, standing = await self._store.set_case(case, record.timestamp)
                found[standing.case_id] = (standing, record.timestamp)
        return found

    async def _published(self, cases: dict[str, tuple[Case, int]]) -> int:
        count = 0
        for topic, model in ((topics.EXPOSURES, Exposure), (topics.VENUE_WARNINGS, VenueWarning)):
            records = _batches(read_to_end(self._settings, topic), _RECORDS_A_CALL)
            while batch := await asyncio.to_thread(next, records, None):
                await self._say(topic.name, count, 0)
                await self._put_back(cases, [_read(model, record) for record in batch])
                count += len(batch)
        return count

    async def _put_back(
        self, cases: dict[str, tuple[Case, int]], items: Iterable[Exposure | VenueWarning | None]
    ) -> None:
        found: dict[tuple[str, str], tuple[dict[Key, Standing], dict[int, Warned]]] = {}
        for item in items:
            if item is None or item.case_id not in cases:
                continue  # its case has expired: nothing can change what stands of it
            exposures, warnings = found.setdefault((item.case_id, item.venue), ({}, {}))
            if isinstance(item, Exposure):
                key, standing = standing_of(item)
                exposures[key] = standing
            else:
                day, warned = warned_of(item)
                warnings[day] = warned
        for (case_id, venue), (exposures, warnings) in found.items():
            case, since = cases[case_id]
            expire_at = self._store.layout.case_expiry(case, since)
            await self._store.restore(venue, case, Decision(exposures, warnings), expire_at)
            await self._store.add_case_venues(case_id, [venue])

    async def _announce(self, cases: dict[str, tuple[Case, int]]) -> int:
        settings = self._settings
        venues = VenueTable(settings.kafka_address, settings.topic(topics.VENUES))
        await asyncio.to_thread(venues.start)
        producer = await asyncio.to_thread(
            DurableProducer, settings.kafka_address, [settings.topic(topics.TOUCHED)]
        )
        processor = Cases(
            store=self._store,
            venues=venues,
            producer=producer,
            topics=CaseTopics(
                cases=settings.topic(topics.CASES),
                touched=settings.topic(topics.TOUCHED),
                rejected=settings.topic(topics.CASES_REJECTED),
            ),
            clock_ms=self._clock_ms,
            metrics=Metrics(),
        )
        touches = 0
        try:
            for done, (case, _) in enumerate(cases.values()):
                await self._say("matching cases again", done, len(cases))
                touches += await processor.announce(case)
        finally:
            await asyncio.to_thread(producer.close)
            await asyncio.to_thread(venues.stop)
        return touches


def _partitions(settings: Settings, topic: topics.Topic) -> list[int]:
    consumer = quiet_consumer(settings)
    try:
        return partitions_of(consumer, settings, topic)
    finally:
        consumer.close()


def _limits(url: str) -> str:
    return ("&" if "?" in url else "?") + f"max_execution_time={_ANSWER_SECONDS}"


def _rows(record: Record, oldest: int) -> list[MarkRow]:
    try:
        visits = VISITS.validate_json(record.value or b"")
    except ValidationError as error:  # the archive refuses it too, into `rejected`
        log.error("visits %d/%d is not of our making: %s", record.partition, record.offset, error)
        return []
    return [
        MarkRow(
            visit["scan_id"],
            visit["person"],
            visit["venue"],
            visit["hour"],
            visit["minute"],
            KINDS[visit["kind"]],
        )
        for visit in visits
        if visit["hour"] >= oldest
    ]


def _case(record: Record) -> Case | None:
    """The case, if the processor took the record when it came."""
    place = record.key, record.value, record.partition, record.offset, record.timestamp
    found = read_case_record(CaseRecord(*place))
    if not isinstance(found, tuple):
        return found
    if found[0] != "tombstone":
        log.error("ignored a case at offset %d, as it was refused: %s", record.offset, found[1])
    return None


def _read(model: type[Any], record: Record) -> Any:
    if record.value is None:
        return None
    try:
        return model.model_validate_json(record.value)
    except ValidationError as error:
        log.error("ignored a record at offset %d: %s", record.offset, error.errors()[0]["msg"])
        return None
