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
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaException, Producer

from schemas.events import MAX_SCANS_PER_RECORD
from schemas.topics import PARTITIONER

LINGER_S: Final = 0.02
# A record must stay below the topic's 1 MiB, headers and all.
_MAX_RECORD_BYTES: Final = 900_000


class QueueFullError(RuntimeError):
    """More scans wait for Kafka than may: try again later, nothing of this call was taken."""


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


class Publisher:
    """Publishes encoded scans (JSON objects as bytes). Thread-safe; `close` it, or use it in a `with`.

    `max_waiting`: how many scans may wait for their acknowledgement (150 bytes each, so 200,000 are 30 MB).
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
        delivery_timeout_s: float = 30.0,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self._topic = topic
        self._linger_s = linger_s
        self._max_waiting = max_waiting
        self._producer = Producer(
            {
                "bootstrap.servers": kafka,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "partitioner": PARTITIONER,
                "linger.ms": 2,  # the scans have waited already
                "delivery.timeout.ms": int(delivery_timeout_s * 1000),
                "log_level": 2,
            }
            | (settings or {})
        )
        self._changed = threading.Condition()
        self._open: list[tuple[bytes, _Parcel]] = []
        self._open_bytes = 0
        self._open_since = 0.0
        self._ready: deque[list[tuple[bytes, _Parcel]]] = deque()
        self._waiting = self._delivered = self._failed = 0
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
    def first_error(self) -> str | None:
        """What Kafka said of the first scan that failed."""
        return self._first_error

    def submit(self, scans: Sequence[bytes], timeout_s: float | None = 0.0) -> Future[None]:
        """Take scans; the future is done when all of them are acknowledged, or has NotDeliveredError.

        When too many wait, wait `timeout_s` for room (none: as long as it takes), then raise QueueFullError.
        """
        if not self._running:
            raise RuntimeError("the publisher is closed")
        future: Future[None] = Future()
        if not scans:
            future.set_result(None)
            return future
        parcel = _Parcel(len(scans), future)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            # a call larger than the bound is taken when nothing else waits
            while self._waiting and self._waiting + len(scans) > self._max_waiting:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise QueueFullError(
                        f"{self._waiting} scans wait for Kafka, at most {self._max_waiting} may"
                    )
                self._changed.wait(left)
            self._waiting += len(scans)
            for scan in scans:
                if not self._open:
                    self._open_since = time.monotonic()
                self._open.append((scan, parcel))
                self._open_bytes += len(scan) + 1
                if len(self._open) >= MAX_SCANS_PER_RECORD or self._open_bytes >= _MAX_RECORD_BYTES:
                    self._seal()
            self._changed.notify_all()
        return future

    def publish_many(self, scans: Sequence[bytes]) -> None:
        """Take scans, waiting for room as long as it takes; `flush` says what became of them."""
        self.submit(scans, timeout_s=None)

    async def publish(self, scans: Sequence[bytes]) -> None:
        """Take scans and return once all are acknowledged. Raises QueueFullError, NotDeliveredError."""
        await asyncio.wrap_future(self.submit(scans))

    def publish_record(self, value: bytes) -> None:
        """One record as it is, whatever it holds (what a faulty device sends); counted as one scan."""
        with self._changed:
            while self._waiting >= self._max_waiting:
                self._changed.wait()
            self._seal()
            self._waiting += 1
            self._ready.append([(value, _Parcel(1, Future()))])
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
        """Flush and end; a later call is refused."""
        counts = self.flush(timeout_s)
        with self._changed:
            self._running = False
            self._changed.notify_all()
        self._sender.join(5.0)
        return counts

    # --- the sending thread -------------------------------------------------------------------

    def _seal(self) -> None:
        if self._open:
            self._ready.append(self._open)
            self._open, self._open_bytes = [], 0

    def _send_loop(self) -> None:
        while True:
            with self._changed:
                if not self._ready and self._open:
                    age = time.monotonic() - self._open_since
                    if age >= self._linger_s:
                        self._seal()
                batch = self._ready.popleft() if self._ready else None
                if batch is None:
                    if not self._running and not self._open:
                        break
                    if not self._waiting:
                        self._changed.wait(0.1)
            if batch is not None:
                self._produce(batch)
                self._producer.poll(0)
            else:
                self._producer.poll(min(self._linger_s, 0.01))
        self._producer.flush(1.0)

    def _produce(self, batch: list[tuple[bytes, _Parcel]]) -> None:
        value = batch[0][0] if len(batch) == 1 else b"[" + b",".join([scan for scan, _ in batch]) + b"]"
        settle = self._settler(batch)
        while True:
            try:
                self._producer.produce(self._topic, value, on_delivery=settle)
                return
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as error:  # too large, or a fatal state of the client
                settle(error.args[0], None)
                return

    def _settler(self, batch: list[tuple[bytes, _Parcel]]) -> Callable[[Any, Any], None]:
        def settle(error: Any, _: Any) -> None:
            done: list[Future[None]] = []
            with self._changed:
                self._waiting -= len(batch)
                if error is None:
                    self._delivered += len(batch)
                else:
                    self._failed += len(batch)
                    self._first_error = self._first_error or error.str()
                for _, parcel in batch:
                    parcel.left -= 1
                    if parcel.left == 0 and error is None:
                        done.append(parcel.future)
                self._changed.notify_all()
            # outside the lock: a caller's callback may publish again
            for future in done:
                if not future.done():
                    future.set_result(None)
            if error is not None:
                problem = NotDeliveredError(f"Kafka did not take the scans: {error.str()}")
                for parcel in {id(parcel): parcel for _, parcel in batch}.values():
                    if not parcel.future.done():
                        parcel.future.set_exception(problem)

        return settle
