"""Erase a person: from Redis and the archive, with exposures withdrawn, and so that nothing brings it back.

The order is what makes it exact while everything runs. Each step waits for what was under way before it:
1. the entry stands on the topic `erased`, then in Redis: no mark of the person is added any more;
2. ingest acknowledges all scans that were there by then: what it had accepted before is in bucket and index,
   and on `visits`;
3. no entry is added to the person's index any more; its marks are taken out of every bucket that it names;
4. the matcher looks again at every case of those venues: without the marks, the exposures are withdrawn. What
   it computed from the marks before comes before that, as all of a venue comes one after another;
5. the archive takes in all that was written until now; then its rows are removed, and it is looked whether
   they are.
A run that ends between two steps is repeated whole; every step may be done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from clickhouse_driver import Client
from clickhouse_driver.errors import Error as ClickHouseError
from confluent_kafka import KafkaException, Message, TopicPartition
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from producers.cases import CaseError, publish_case, read_cases, revised
from producers.compacted import (
    KafkaAwayError,
    TopicMissingError,
    end_of,
    partitions_of,
    quiet_consumer,
    read_to_end,
)
from schemas import topics
from schemas.erasure import HOUR_MS, Erased
from schemas.events import FUTURE_TOLERANCE_MS, Case, Exposure
from schemas.kafka import durable_producer
from schemas.settings import Settings
from schemas.topics import DAY_MS, SCANS_REJECTED, Topic
from sinks.connection import connect as connect_archive
from stream_processors.guard import READY
from stream_processors.layout import Layout
from stream_processors.positions import committed_offsets, position_name
from stream_processors.servers import StoreLostError, connect
from stream_processors.store import Store
from stream_processors.touches import Touch, touched_records

# A role that is down or hangs must not hold the command for ever; a busy one needs seconds.
PATIENCE_S: Final = 120.0
_LOOK_S: Final = 0.2
_DELIVERY_S: Final = 30
# Writing the largest log of commands anew; past it the order goes on, and says what is left to do.
_REWRITE_S: Final = 60.0

Tell = Callable[[str], None]


class ErasureError(RuntimeError):
    """The erasure is not complete; the message says why. It may be repeated at any time."""


async def write_log_anew(redis: Redis, tell: Tell) -> None:
    """Have a Redis write its log of commands without what was erased. One that is being written when it
    is asked does not count, and makes Redis refuse: it holds what there was when it was begun."""
    patience = AsyncRetrying(
        retry=retry_if_exception_type(ResponseError),
        wait=wait_fixed(_LOOK_S),
        stop=stop_after_delay(_REWRITE_S),
        reraise=True,
    )
    try:
        async for attempt in patience:
            with attempt:
                await redis.bgrewriteaof()
    except RedisError as error:
        tell(f"the log of commands of a Redis may still hold erased marks ({error}): run BGREWRITEAOF there")


class StandingCaseError(ErasureError):
    """The person is the subject of a case that stands."""


@dataclass(slots=True)
class Erasure:
    """What was found and done. `standing`: exposures that could not be withdrawn, as their marks have expired
    and only their case decides."""

    person: str
    before: int
    marks: int = 0
    archived: int = 0
    rejected: int = 0
    withdrawn: int = 0
    cases: list[str] = field(default_factory=list)
    standing: list[str] = field(default_factory=list)


def last_before(now_ms: int) -> int:
    """The first full hour after now that no device's clock has reached: scans from before are erased."""
    return ((now_ms + FUTURE_TOLERANCE_MS) // HOUR_MS + 1) * HOUR_MS


def erased_until(settings: Settings, before: int) -> int:
    """When no scan from before is accepted anyway: a dead letter is replayed with its first arrival."""
    days = settings.retention_days + SCANS_REJECTED.retention_days + 5
    return before + days * DAY_MS


def erase(
    settings: Settings,
    person: str,
    order: str,
    by: str,
    *,
    withdraw_case: bool = False,
    dry_run: bool = False,
    clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    tell: Tell = lambda _: None,
) -> Erasure:
    """Erase a person. Blocks until it is done everywhere. Raises ErasureError, StandingCaseError."""
    work = _Erasing(settings, person, clock_ms, tell)
    try:
        return asyncio.run(work.run(order, by, withdraw_case, dry_run))
    except (KafkaAwayError, TopicMissingError, CaseError, StoreLostError, RuntimeError) as error:
        raise error if isinstance(error, ErasureError) else ErasureError(str(error)) from error
    except RedisError as error:
        raise ErasureError(f"Redis: {error}; is it up, and TRUYVET_REDIS right?") from error
    except KafkaException as error:
        raise ErasureError(f"Kafka: {error.args[0].str()}") from error
    except (ClickHouseError, OSError, EOFError) as error:
        words = str(error).splitlines()[0] if str(error) else repr(error)
        raise ErasureError(f"the archive: {words}") from error


class _Erasing:
    def __init__(self, settings: Settings, person: str, clock_ms: Callable[[], int], tell: Tell) -> None:
        self._settings = settings
        self._person = person
        self._clock_ms = clock_ms
        self._tell = tell
        self._servers = connect(settings.redis_url)
        layout = Layout(settings.redis_shards, settings.retention_days)
        self._store = Store(connect(settings.redis_url), layout, clock_ms, lambda _: None)
        # a mutation of a large archive takes minutes, and is waited for
        self._archive: Client = connect_archive(
            settings.clickhouse_url
            + ("&" if "?" in settings.clickhouse_url else "?")
            + "send_receive_timeout=3600"
        )

    async def run(self, order: str, by: str, withdraw_case: bool, dry_run: bool) -> Erasure:
        try:
            await self._open()
            now = self._clock_ms()
            done = Erasure(self._person, last_before(now))
            done.cases = self._own_cases(withdraw_case or dry_run)
            if dry_run:
                await self._look(done)
                return done
            await self._withdraw_cases(done.cases)
            until = erased_until(self._settings, done.before)
            entry = Erased(person=self._person, order=order, before=done.before, until=until, at=now, by=by)
            await self._steps(entry, done)
            return done
        finally:
            await self._store.close()
            await self._servers.aclose()
            self._archive.disconnect()

    async def _open(self) -> None:
        settings = self._settings
        groups = {
            settings.group(role): settings.topic(topic)
            for role, topic in (
                ("ingest", topics.SCANS),
                ("cases", topics.CASES),
                ("matcher", topics.TOUCHED),
            )
        }
        state = await self._store.open(
            await asyncio.to_thread(committed_offsets, settings.kafka_address, groups)
        )
        if state.status != READY:
            raise ErasureError(
                "Redis is being rebuilt: erase when truyvet buckets status says that it is whole"
            )

    # --- what there is ------------------------------------------------------------------------

    def _own_cases(self, allowed: bool) -> list[str]:
        book = read_cases(self._settings)
        own = [
            case.case_id
            for case in book.cases.values()
            if case.person == self._person and case.status == "confirmed"
        ]
        if own and not allowed:
            raise StandingCaseError(
                f"this person is the subject of {', '.join(own)}, which stands: who was exposed there would"
                " lose what it rests on. If the authority agrees, --withdraw-case withdraws it first"
            )
        return own

    async def _look(self, done: Erasure) -> None:
        """Count only."""
        last_hour = done.before // HOUR_MS - 1
        places = await self._store.index_of(self._person, last_hour)
        for hour, venue in places:
            marks = await self._store.marks(venue, range(hour, hour + 1), [self._person])
            done.marks += len(marks.get(self._person, ()))
        done.archived = self._archived(last_hour)
        done.rejected = self._count("rejected", "position(value, %(text)s) > 0", last_hour)
        done.withdrawn = len(self._exposed())

    def _exposed(self) -> dict[tuple[str, str, str], Exposure]:
        """The exposures of the person that stand, by case, venue and date."""
        found: dict[tuple[str, str, str], Exposure] = {}
        for record in read_to_end(self._settings, topics.EXPOSURES):
            if record.value is None or self._person.encode() not in record.value:
                continue
            with contextlib.suppress(ValidationError):
                exposure = Exposure.model_validate_json(record.value)
                if exposure.person == self._person:
                    found[exposure.case_id, exposure.venue, exposure.date] = exposure
        return {key: exposure for key, exposure in found.items() if exposure.status == "exposed"}

    # --- the steps ----------------------------------------------------------------------------

    async def _withdraw_cases(self, case_ids: Iterable[str]) -> None:
        for case_id in case_ids:
            case = read_cases(self._settings).get(case_id)
            publish_case(self._settings, revised(case, {"status": "withdrawn"}))
            self._tell(f"case {case_id} is withdrawn")
        await self._passed("cases", topics.CASES, self._ends(topics.CASES))

    async def _steps(self, entry: Erased, done: Erasure) -> None:
        person, store, last_hour = self._person, self._store, entry.last_hour
        until_s, now = entry.until // 1000, self._clock_ms()
        self._publish([(topics.ERASED, person.encode(), entry.model_dump_json().encode())])
        await store.refuse_marks(person, last_hour, until_s, now)  # (1)
        self._tell("no mark of this person is taken any more")
        await self._passed("ingest", topics.SCANS, self._ends(topics.SCANS))  # (2)
        await store.refuse_index(person, last_hour, until_s, now)  # (3)
        exposed = self._exposed()
        places = set(await store.index_of(person, last_hour)) | self._archived_places(last_hour)
        done.marks = await store.erase_marks(person, places)
        await store.index_of(person, last_hour, remove=True)
        for redis in await self._servers.all():
            await write_log_anew(redis, self._tell)
        self._tell(f"{done.marks} marks are out of Redis")
        ends = self._publish(  # (4)
            [
                (topics.TOUCHED, out.key, out.value)
                for out in touched_records("", await self._touches({venue for _, venue in places}, exposed))
            ]
        )
        await self._passed("matcher", topics.TOUCHED, ends)
        left = self._exposed()
        done.withdrawn = len(exposed.keys() - left.keys())
        done.standing = ["|".join(key) for key in sorted(left)]
        self._tell(f"{done.withdrawn} exposures are withdrawn")
        for topic in (topics.VISITS, topics.EXPOSURES, topics.SCANS_REJECTED):  # (5)
            await self._passed("archive", topic, self._ends(topic))
        await asyncio.to_thread(self._erase_archive, done, last_hour, left)
        await self._check(places, last_hour)

    async def _touches(
        self, venues: Iterable[str], exposed: Mapping[tuple[str, str, str], Exposure]
    ) -> list[Touch]:
        """Every case that a venue of the person is flagged with, and those of the person's exposures."""
        found: dict[tuple[str, str], Case] = {}
        for venue in venues:
            for case in await self._store.flagged(venue):
                found[venue, case.case_id] = case
        for case_id, venue, _ in exposed:
            standing, _, _ = await self._store.add_case_venues(case_id, [])
            if standing is not None:
                found.setdefault((venue, case_id), standing)
        return [Touch(venue, case, persons=None) for (venue, _), case in found.items()]

    # --- Kafka --------------------------------------------------------------------------------

    def _publish(self, records: list[tuple[Topic, bytes | None, bytes | None]]) -> dict[int, int]:
        """Write them; by partition (of the last topic), the offset after the last."""
        after: dict[int, int] = {}
        problems: list[str] = []

        def delivered(error: object, message: Message) -> None:
            if error is not None:
                problems.append(str(error))
            partition, offset = message.partition(), message.offset()
            if partition is not None and offset is not None:
                after[partition] = max(after.get(partition, 0), offset + 1)

        names = {self._settings.topic(topic) for topic, _, _ in records}
        producer = durable_producer(self._settings.kafka_address, names, _DELIVERY_S, {"log_level": 0})
        for topic, key, value in records:
            producer.produce(self._settings.topic(topic), value, key, on_delivery=delivered)
        if producer.flush(_DELIVERY_S + 5) or problems:
            raise ErasureError(f"Kafka did not take a record: {problems[0] if problems else 'no answer'}")
        return after

    def _ends(self, topic: Topic) -> dict[int, int]:
        consumer, name = quiet_consumer(self._settings), self._settings.topic(topic)
        try:
            return {
                partition: end_of(consumer, self._settings, TopicPartition(name, partition))
                for partition in partitions_of(consumer, self._settings, topic)
            }
        finally:
            consumer.close()

    async def _passed(self, role: str, topic: Topic, ends: Mapping[int, int]) -> None:
        """Wait until a role has acknowledged everything before `ends`."""
        settings, name = self._settings, self._settings.topic(topic)
        groups = {settings.group(role): name}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            done = await asyncio.to_thread(committed_offsets, settings.kafka_address, groups)
            behind = {
                partition: end
                for partition, end in ends.items()
                if end > 0 and done.get(position_name(name, partition), 0) < end
            }
            if not behind:
                return
            if time.monotonic() > deadline:
                raise ErasureError(
                    f"{role} does not get past what stood on {name} ({len(behind)} partitions): is it up?"
                    " (truyvet status). What is done so far stays done; run the command again"
                )
            await asyncio.sleep(_LOOK_S)

    # --- the archive --------------------------------------------------------------------------

    def _given(self, last_hour: int) -> dict[str, object]:
        return {"person": int(self._person, 16), "text": self._person, "last": last_hour}

    def _count(self, table: str, where: str, last_hour: int) -> int:
        # tables and conditions are constants of this module
        sql = f"SELECT count() FROM {table} WHERE {where}"  # noqa: S608
        ((count,),) = self._archive.execute(sql, self._given(last_hour))
        return int(count)

    def _archived(self, last_hour: int) -> int:
        return sum(
            self._count(table, "person = %(person)s AND hour <= %(last)s", last_hour)
            for table in ("visits", "visits_by_person")
        )

    def _archived_places(self, last_hour: int) -> set[tuple[int, str]]:
        oldest = max(self._store.layout.oldest_hour(self._clock_ms()), 0)
        return set(
            self._archive.execute(
                "SELECT DISTINCT hour, toString(venue) FROM visits_by_person"
                " WHERE person = %(person)s AND hour BETWEEN %(oldest)s AND %(last)s",
                self._given(last_hour) | {"oldest": oldest},
            )
        )

    def _erase_archive(
        self, done: Erasure, last_hour: int, left: Mapping[tuple[str, str, str], Exposure]
    ) -> None:
        """Rewritten parts, not only rows that are marked as gone: mutations, waited for."""
        client, given = self._archive, self._given(last_hour)
        done.archived = self._archived(last_hour)
        done.rejected = self._count("rejected", "position(value, %(text)s) > 0", last_hour)
        wait = "SETTINGS mutations_sync = 2"
        for table in ("visits", "visits_by_person"):
            client.execute(
                f"ALTER TABLE {table} DELETE WHERE person = %(person)s AND hour <= %(last)s {wait}", given
            )
        # a partition of its own for `left`: what still stands there must still be told
        client.execute(
            "ALTER TABLE exposures DELETE WHERE person = %(person)s"
            f" AND NOT has(%(left)s, (case_id, toString(venue), toString(date))) {wait}",
            given | {"left": [*left, ("", "", "")]},
        )
        client.execute(f"ALTER TABLE rejected DELETE WHERE position(value, %(text)s) > 0 {wait}", given)

    async def _check(self, places: Iterable[tuple[int, str]], last_hour: int) -> None:
        """Whether it really is gone. Raises ErasureError."""
        if await self._store.index_of(self._person, last_hour):
            raise ErasureError("the index of the person is not empty: run the command again")
        if await self._store.erase_marks(self._person, places):
            raise ErasureError("marks came back while they were erased: run the command again")
        if rows := self._archived(last_hour):
            raise ErasureError(f"{rows} rows are still in the archive: run the command again")
