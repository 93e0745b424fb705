"""Scans to Kafka: packed in records, acknowledged one by one.

A record holds up to 1,000 scans; a scan waits at most the linger for company. What is not yet acknowledged
is bounded: when the bound is reached a caller waits, or is told that the queue is full. So a broker that is
away costs time, never memory and never a scan that was said to be in.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.events import MAX_SCANS_PER_RECORD
from schemas.kafka import connect, durable

LINGER_S: Final = 0.02
# A record must stay below the client's 1,000,000 bytes and the topic's 1 MiB, headers and all.
MAX_RECORD_BYTES: Final = 900_000
# What the client still holds when we end is given up after this: the process must not hang on a dead broker.
_GIVE_UP_S: Final = 5.0


class QueueFullError(RuntimeError):
    """More scans wait for Kafka than may: try again later, nothing of this call was taken."""


class ClosedError(RuntimeError):
    """The publisher is closed: nothing of this call was taken."""


class NotDeliveredError(RuntimeError):
    """Kafka did not acknowledge; the scan may be in or not, so it must be sent again with the same id."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Scans so far: acknowledged, failed, and waiting."""

    delivered: int
    failed: int
    waiting: int


@dataclass(slots=True)
class _Parcel:
    """Scans of one caller; resolved when the last of its records is."""

    left: int
    future: Future[None]


@dataclass(slots=True)
class _Batch:
    """What goes into one record. `size` bytes."""

    scans: list[tuple[bytes, _Parcel]] = field(default_factory=list)
    size: int = 0


def _resolve(future: Future[None], problem: NotDeliveredError | None) -> None:
    """Answer a caller once; one that has given up (a cancelled request) is let be."""
    try:
        if problem is None:
            future.set_result(None)
        else:
            future.set_exception(problem)
    except InvalidStateError:
        pass


class Publisher:
    """Publishes encoded scans (JSON objects as bytes). Thread-safe; `close` it, or use it in a `with`.

    `max_waiting`: how many scans may wait for their acknowledgement (150 bytes each, so 200,000 are 30 MB);
    `max_waiting_bytes`: the same in bytes, for scans that carry much that nobody asked for.
    `delivery_timeout_s`: after this without an acknowledgement a scan counts as failed: longer than a
    broker's restart, short enough for a gateway's client to still be there.
    """

    def __init__(
        self,
        kafka: str,
        topic: str,
        *,
        linger_s: float = LINGER_S,
        max_waiting: int = 200_000,
        max_waiting_bytes: int = 64 * 1024 * 1024,
        delivery_timeout_s: float = 30.0,
        settings: dict[str, Any] | None = None,
        make_client: Callable[[dict[str, Any]], Producer] = Producer,
    ) -> None:
        self._topic = topic
        self._linger_s = linger_s
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._make_client = make_client
        self._config = (
            durable(kafka, delivery_timeout_s)
            | {"linger.ms": 2, "log_level": 2}  # the scans have waited already
            | (settings or {})
        )
        self._producer = make_client(self._config)
        self._changed = threading.Condition()
        self._open = _Batch()
        self._open_since = 0.0
        self._ready: deque[_Batch] = deque()
        self._waiting = self._waiting_bytes = self._delivered = self._failed = 0
        self._first_error: str | None = None
        self._running = True
        self._sender = threading.Thread(target=self._send_loop, name="publisher", daemon=True)
        self._sender.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counts(self) -> Counts:
        """How many scans were acknowledged, failed, and wait."""
        with self._changed:
            return Counts(self._delivered, self._failed, self._waiting)

    @property
    def running(self) -> bool:
        """Whether it takes scans: not closed, and its thread lives."""
        return self._running

    @property
    def first_error(self) -> str | None:
        """What Kafka said of the first scan that failed."""
        return self._first_error

    def submit(self, scans: Sequence[bytes], timeout_s: float | None = 0.0) -> Future[None]:
        """Take scans; the future is done when all of them are acknowledged, or has NotDeliveredError.

        When too many wait, wait `timeout_s` for room (none: as long as it takes), then raise QueueFullError.
        Raises ClosedError when the publisher is closed.
        """
        future: Future[None] = Future()
        if not scans:
            future.set_result(None)
            return future
        parcel = _Parcel(len(scans), future)
        with self._changed:
            self._make_room(len(scans), sum(map(len, scans)), timeout_s)
            for scan in scans:
                full = self._open.size + len(scan) + 1 > MAX_RECORD_BYTES
                if full or len(self._open.scans) >= MAX_SCANS_PER_RECORD:
                    self._seal()
                if not self._open.scans:
                    self._open_since = time.monotonic()
                self._open.scans.append((scan, parcel))
                self._open.size += len(scan) + 1
            if len(self._open.scans) >= MAX_SCANS_PER_RECORD:
                self._seal()
            self._changed.notify_all()
        return future

    def publish_many(self, scans: Sequence[bytes]) -> None:
        """Take scans, waiting for room as long as it takes; `flush` says what became of them."""
        self.submit(scans, timeout_s=None)

    async def publish(self, scans: Sequence[bytes]) -> None:
        """Take scans and return once all are acknowledged.

        Raises QueueFullError, NotDeliveredError, ClosedError.
        """
        await asyncio.wrap_future(self.submit(scans))

    def publish_record(self, value: bytes) -> None:
        """One record as it is, whatever it holds (what a faulty device sends); counted as one scan."""
        with self._changed:
            self._make_room(1, len(value), None)
            self._seal()
            self._ready.append(_Batch([(value, _Parcel(1, Future()))], len(value)))
            self._changed.notify_all()

    def flush(self, timeout_s: float = 60.0) -> Counts:
        """Send everything and wait for the answers; what still waits after the time-out is in the counts."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._seal()
            self._changed.notify_all()
            while self._waiting and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, 0.5))
        return self.counts

    def close(self, timeout_s: float = 60.0) -> Counts:
        """Flush and end; a later call is refused. What is not acknowledged by then has failed: every future
        is answered."""
        self.flush(timeout_s)
        with self._changed:
            self._running = False
            self._changed.notify_all()
        self._sender.join()
        return self.counts

    # --- under the lock -----------------------------------------------------------------------

    def _make_room(self, scans: int, size: int, timeout_s: float | None) -> None:
        """Wait for room and take it. Raises QueueFullError, ClosedError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._running:
            # a call larger than a bound is taken when nothing else waits
            if not self._waiting or (
                self._waiting + scans <= self._max_waiting
                and self._waiting_bytes + size <= self._max_waiting_bytes
            ):
                self._waiting += scans
                self._waiting_bytes += size
                return
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise QueueFullError(
                    f"{self._waiting} scans ({self._waiting_bytes} bytes) wait for Kafka, at most"
                    f" {self._max_waiting} ({self._max_waiting_bytes} bytes) may"
                )
            self._changed.wait(left)
        raise ClosedError("the publisher is closed")

    def _seal(self) -> None:
        if self._open.scans:
            self._ready.append(self._open)
            self._open = _Batch()

    # --- the sending thread -------------------------------------------------------------------

    def _send_loop(self) -> None:
        try:
            connect(self._producer, [self._topic])  # the first scan does not wait for it
            while (batch := self._next()) is not None:
                if batch.scans:
                    self._produce(batch)
                    self._producer.poll(0)
                else:
                    self._producer.poll(min(self._linger_s, 0.01))
        finally:  # also on a fault of ours: callers must hear of it, not wait for a thread that is gone
            self._give_up()

    def _next(self) -> _Batch | None:
        """The next record; an empty one when there is none yet; none at the end."""
        with self._changed:
            if not self._running:
                return None
            if not self._ready and self._open.scans and time.monotonic() - self._open_since >= self._linger_s:
                self._seal()
            if self._ready:
                return self._ready.popleft()
            if not self._waiting:
                self._changed.wait(0.1)
            return _Batch()

    def _produce(self, batch: _Batch) -> None:
        scans = batch.scans
        value = scans[0][0] if len(scans) == 1 else b"[" + b",".join([scan for scan, _ in scans]) + b"]"
        settle = self._settler(batch)
        while True:
            try:
                self._producer.produce(self._topic, value, on_delivery=settle)
                return
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as error:
                problem = error.args[0]
                if problem.code() == KafkaError._FATAL:
                    self._renew()
                settle(problem, None)
                return

    def _renew(self) -> None:
        """A client in a fatal state refuses everything for ever: its scans have failed, a new one goes on."""
        self._producer.purge()
        self._producer.flush(_GIVE_UP_S)
        self._producer = self._make_client(self._config)

    def _give_up(self) -> None:
        """Whatever is left at the end has failed, and its callers hear of it."""
        with self._changed:
            self._running = False
            self._seal()
            left = list(self._ready)
            self._ready.clear()
            self._changed.notify_all()
        closed = KafkaError(KafkaError._PURGE_QUEUE, "the publisher was closed before Kafka answered")
        for batch in left:
            self._settler(batch)(closed, None)
        self._producer.purge()
        self._producer.flush(_GIVE_UP_S)

    def _settler(self, batch: _Batch) -> Callable[[Any, Any], None]:
        def settle(error: Any, _: Any) -> None:
            count = len(batch.scans)
            done: list[Future[None]] = []
            with self._changed:
                self._waiting -= count
                self._waiting_bytes -= sum(len(scan) for scan, _ in batch.scans)
                if error is None:
                    self._delivered += count
                else:
                    self._failed += count
                    self._first_error = self._first_error or error.str()
                for _, parcel in batch.scans:
                    parcel.left -= 1
                    if parcel.left == 0 and error is None:
                        done.append(parcel.future)
                self._changed.notify_all()
            # outside the lock: a caller's callback may publish again
            for future in done:
                _resolve(future, None)
            if error is not None:
                problem = NotDeliveredError(f"Kafka did not take the scans: {error.str()}")
                for parcel in {id(parcel): parcel for _, parcel in batch.scans}.values():
                    _resolve(parcel.future, problem)

        return settle
