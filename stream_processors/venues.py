"""The processors' copy of the register of venues, kept from the compacted topic `venues`."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Set
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from pydantic import ValidationError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from schemas.events import Venue

log: Final = logging.getLogger(__name__)

_PASSING: Final = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._NOENT,  # so far the client knows no leader
    }
)


class Register:
    """Venues by code; `put` is all that changes it. Threads may share it: one puts, others ask.

    `changes` counts what was put.
    """

    def __init__(self, venues: Iterable[Venue] = ()) -> None:
        self.changes = 0
        self._tree = threading.Lock()  # of the children: they are walked while others are put
        self._venues: dict[str, Venue] = {}
        self._children: dict[str, set[str]] = {}
        # what is asked of every scan's venue, by itself: through the record it takes more memory accesses
        self._closed_at: dict[str, int | None] = {}
        self._inside: set[str] = set()
        # by parent, it and those above it, as asked for since the last change: another dict from then on, so
        # that whoever walks up meanwhile writes what may be old into one that nobody reads any more
        self._above: dict[str, list[str]] = {}
        for venue in venues:
            self.put(venue)

    def __contains__(self, code: str) -> bool:
        return code in self._venues

    def __len__(self) -> int:
        return len(self._venues)

    def get(self, code: str) -> Venue | None:
        """The venue, or none."""
        return self._venues.get(code)

    def put(self, venue: Venue) -> bool:
        """Add or replace a venue. False when that would change its dwell, which is never allowed:
        exposures already decided would no longer hold."""
        with self._tree:
            old = self._venues.get(venue.code)
            if old is not None:
                if old.dwell != venue.dwell:
                    return False
                if old.parent is not None:
                    self._children.get(old.parent, set()).discard(venue.code)
            # before the venue is known: who reads meanwhile, in another thread, must not miss its parent
            if venue.parent is not None:
                self._inside.add(venue.code)
                self._children.setdefault(venue.parent, set()).add(venue.code)
            self._venues[venue.code] = venue
            self._closed_at[venue.code] = venue.closed_at
            if venue.parent is None:
                self._inside.discard(venue.code)
            self._above = {}
            self.changes += 1
            return True

    def ancestors(self, code: str) -> list[str]:
        """Parents upwards, nearest first; a cycle ends it."""
        found: list[str] = []
        venue = self._venues.get(code)
        while venue is not None and venue.parent is not None and venue.parent not in (code, *found):
            found.append(venue.parent)
            venue = self._venues.get(venue.parent)
        return found

    def ancestors_of(self, codes: Set[str]) -> dict[str, list[str]]:
        """The ancestors of those that have any."""
        known = self._above
        found = {}
        for code in codes & self._inside:
            venue = self._venues.get(code)
            if venue is None or (parent := venue.parent) is None:  # another thread is putting it
                continue
            above = known.get(parent)
            if above is None:
                above = known[parent] = [parent, *self.ancestors(parent)]
            found[code] = self.ancestors(code) if code in above else above
        return {code: above for code, above in found.items() if above}

    def descendants(self, code: str) -> set[str]:
        """All venues below, without the venue itself."""
        found: set[str] = set()
        waiting = [code]
        with self._tree:
            while waiting:
                for child in self._children.get(waiting.pop(), ()):
                    if child != code and child not in found:
                        found.add(child)
                        waiting.append(child)
        return found

    def closed_at(self, codes: Iterable[str]) -> dict[str, int | None]:
        """For each known code, when it closed (ms) or none."""
        known = self._closed_at
        return {code: known[code] for code in codes if code in known}


def _passing(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and bool(
        error.args[0].retriable() or error.args[0].code() in _PASSING
    )


# A broker that is there answers for its metadata in milliseconds; one that is not is asked again.
_METADATA_S: Final = 2.0

# A venue is new, or below another one than before: partition and offset of the record, and its code.
Moved = Callable[[int, int, str], None]


class VenueTable:
    """A register that follows the topic in a thread. `on_moved` hears of the tree's changes, in any thread.

    `catch_up` reads to the topic's end of that moment: a venue whose import was acknowledged before a scan
    was posted is never unknown. It blocks: call it in a thread of its own.
    """

    def __init__(
        self, kafka: str, topic: str, timeout_s: float = 30.0, on_moved: Moved = lambda *_: None
    ) -> None:
        self.register = Register()
        self._on_moved = on_moved
        self._begun = 0  # looks to the end, numbered
        self._ended = 0  # the last of them that ended well
        self._looking = asyncio.Lock()
        self._topic = topic
        self._timeout_s = timeout_s
        self._lock = threading.Lock()  # of the consumer: one thread at a time polls it
        self._stop = threading.Event()
        self._next: dict[int, int] = {}
        # asks for the ends: the consumer's own query waits while another thread polls it
        self._admin = AdminClient({"bootstrap.servers": kafka})
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": f"{topic}-readers",  # the client asks for one; nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 100,
                # the end is told: it may lie behind the last record, where compaction or a transaction left
                # nothing to read
                "enable.partition.eof": True,
            }
        )
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name="venues", daemon=True)

    def start(self) -> None:
        """Read the whole register, then follow it. Raises RuntimeError when that takes too long."""
        partitions = self._partitions()
        self._consumer.assign([TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in partitions])
        self._next = dict.fromkeys(partitions, 0)
        self.catch_up()
        log.info("loaded %d venues", len(self.register))
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the consumer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        with self._lock:
            self._consumer.close()

    def catch_up(self) -> None:
        """Read to the end that the topic has now. Raises RuntimeError when that takes too long."""
        deadline = time.monotonic() + self._timeout_s
        ends = self._ends()
        while any(self._next[partition] < end for partition, end in ends.items()):
            if self._broken is not None:
                raise RuntimeError(f"the register of venues is not followed any more: {self._broken!r}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"could not read topic {self._topic} to its end in {self._timeout_s} s")
            self._poll(0.05)

    def _ends(self) -> dict[int, int]:
        asked = {TopicPartition(self._topic, partition): OffsetSpec.latest() for partition in self._next}  # type: ignore[no-untyped-call]
        patience = Retrying(
            retry=retry_if_exception(_passing),
            wait=wait_fixed(0.2),
            stop=stop_after_delay(self._timeout_s),
            reraise=True,
        )

        def ask() -> dict[int, int]:
            try:
                answers = self._admin.list_offsets(asked, request_timeout=self._timeout_s)
                return {partition.partition: answer.result().offset for partition, answer in answers.items()}
            except KafkaException:
                # After a broker's crash its leaders have a new epoch. This client (librdkafka 2.16) keeps the
                # old one, however often that is refused, until it is asked for the topic.
                self._admin.list_topics(self._topic, timeout=_METADATA_S)
                raise

        try:
            return patience(ask)
        except KafkaException as error:
            words = error.args[0].str()
            raise RuntimeError(f"Kafka does not tell the end of {self._topic}: {words}") from error

    async def look(self, seen: int) -> bool:
        """Look at the end of the topic; whether the register changed since it had `seen` changes.

        Who asks has judged by the register before: the thread that follows the topic may have put what was
        missed in between, and then this look itself finds nothing new.
        """
        await self.fresh()
        return self.register.changes != seen

    async def fresh(self) -> None:
        """The register as of now, or later; those who ask at the same time share a look at the topic."""
        before = self._begun
        async with self._looking:
            if self._ended > before:  # begun after we asked
                return
            self._begun += 1
            await asyncio.to_thread(self.catch_up)
            self._ended = self._begun

    async def get(self, code: str) -> Venue | None:
        """The venue, looked for at the end of the topic if need be."""
        if code not in self.register:
            await self.fresh()
        return self.register.get(code)

    async def descendants(self, code: str) -> set[str]:
        """All venues below, of those registered by now."""
        await self.fresh()
        return self.register.descendants(code)

    def _partitions(self) -> list[int]:
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=self._timeout_s).topics[self._topic]
        except KafkaException as error:
            raise RuntimeError(f"Kafka does not answer: {error}") from error
        if metadata.error is not None:
            raise RuntimeError(f"topic {self._topic}: {metadata.error}; run: truyvet topics apply")
        return sorted(metadata.partitions)

    def _follow(self) -> None:
        try:
            while not self._stop.is_set():
                self._poll(0.2)
        except Exception as error:
            # a worker that goes on with an old register would refuse scans of new venues: the next look at
            # the topic raises, which ends it
            log.critical("the register of venues is not followed any more: %r", error)
            self._broken = error

    def _poll(self, timeout_s: float) -> None:
        with self._lock:
            messages = self._consumer.consume(500, timeout_s)
            for message in messages:
                self._apply(message)

    def _apply(self, message: Message) -> None:
        partition, offset, error = message.partition(), message.offset(), message.error()
        if partition is None or offset is None or (error and error.code() != KafkaError._PARTITION_EOF):
            return  # the client goes on by itself; `catch_up` gives up when that takes too long
        if error is None:
            self._put(message, partition, offset)
        # last: another thread that looks at how far this one has come finds the venue in the register
        self._next[partition] = max(self._next[partition], offset if error else offset + 1)

    def _put(self, message: Message, partition: int, offset: int) -> None:
        value = message.value()
        if value is None:
            # A venue is closed, not deleted: scans of the past still need its dwell.
            log.warning("ignored a tombstone for venue %r", message.key())
            return
        try:
            venue = Venue.model_validate_json(value)
        except ValidationError as wrong:
            problem = wrong.errors(include_input=False, include_url=False)[0]
            log.error("ignored venue at offset %s: %s %s", offset, problem["loc"], problem["msg"])
            return
        before = self.register.get(venue.code)
        if not self.register.put(venue):
            log.error("ignored venue %s: its dwell was set before and never changes", venue.code)
        elif before is None or before.parent != venue.parent:
            self._on_moved(partition, offset, venue.code)
