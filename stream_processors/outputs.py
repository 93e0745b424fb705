"""What the processors write to Kafka: durable before it is said to be.

confluent-kafka's own thread does the sending; here are only the waiting and the errors.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException, Message, Producer

from schemas.kafka import LARGE_VALUES, connect, durable, durable_producer

Headers = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Out:
    """One record to write."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers | None = None


def _headers(record: Out) -> Any:
    # the client's stub asks for an invariant list of optional values
    return record.headers


class PublishError(RuntimeError):
    """Kafka did not take a record; the worker must end, so that its input is redelivered."""


class DurableProducer:
    """Writes records and returns once Kafka has acknowledged them all.

    `topics`: where the first records will go, or they wait (schemas/kafka.py). Beginning blocks for them.
    `linger_ms`: how long a record waits for company. Delivery gives up after `timeout_s`: longer than any
    broker restart, shorter than a person would wait before looking at a worker that does not move.
    """

    def __init__(
        self, kafka: str, topics: Iterable[str], linger_ms: int = 0, timeout_s: float = 60.0
    ) -> None:
        self._producer = durable_producer(
            kafka,
            topics,
            timeout_s,
            {
                **LARGE_VALUES,
                "linger.ms": linger_ms,
                # a full local queue must hold the worker back, not grow its memory
                "queue.buffering.max.kbytes": 65_536,
            },
        )
        self._running = True
        self._thread = threading.Thread(target=self._serve, name="deliveries", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self._running:
            self._producer.poll(0.1)

    async def send(self, records: Sequence[Out]) -> None:
        """Write the records; return when all are durable. Raises PublishError when one is not."""
        if not records:
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        left = len(records)
        lock = threading.Lock()

        def settle(error: Exception | None) -> None:
            if not done.done():
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

        def delivered(error: Any, message: Message) -> None:
            nonlocal left
            with lock:
                left -= 1
                last = left == 0
            if error is not None:
                problem = PublishError(f"{message.topic()}: {error}")
                loop.call_soon_threadsafe(settle, problem)
            elif last:
                loop.call_soon_threadsafe(settle, None)

        for record in records:
            while True:
                try:
                    self._producer.produce(
                        record.topic,
                        record.value,
                        record.key,
                        on_delivery=delivered,
                        headers=_headers(record),
                    )
                    break
                except BufferError:
                    await asyncio.sleep(0.005)
        await done

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what is left, for so long; what is not sent was not acknowledged and comes again."""
        self._producer.flush(timeout_s)
        self._running = False
        self._thread.join(1.0)


class TransactionalProducer:
    """Writes records in one transaction; whoever began last with the same id shuts the others out.

    Blocking: call it in a thread. Every failure raises PublishError and ends the worker: after a fence
    another owner is at work, and after an abort the input is redelivered. `quiet`: a command says itself,
    in one line, that Kafka is away. `topics`: where the first records will go.
    """

    def __init__(
        self, kafka: str, transactional_id: str, topics: Sequence[str] = (), quiet: bool = False
    ) -> None:
        self._id = transactional_id
        self._topics = topics
        self._producer = Producer(
            durable(kafka, timeout_s=30.0)
            | LARGE_VALUES
            | {
                "linger.ms": 0,
                "transactional.id": transactional_id,
                # a crash in mid-transaction holds committed readers back until this, at the longest
                "transaction.timeout.ms": 30_000,
            }
            | ({"log_level": 0} if quiet else {})
        )

    def begin_ownership(self, timeout_s: float = 30.0) -> None:
        """Shut out every earlier owner of this id. Raises PublishError when Kafka does not answer."""
        try:
            self._producer.init_transactions(timeout_s)
            connect(self._producer, self._topics)  # else the first transaction takes up to 0.1 s longer
        except KafkaException as error:
            raise PublishError(f"{self._id}: {error}") from error

    def send(self, records: Sequence[Out], timeout_s: float = 30.0) -> None:
        """Write all or nothing; return when it is durable and visible to committed readers."""
        try:
            self._producer.begin_transaction()
            for record in records:
                while True:
                    try:
                        self._producer.produce(
                            record.topic, record.value, record.key, headers=_headers(record)
                        )
                        break
                    except BufferError:
                        self._producer.poll(0.05)
            self._producer.commit_transaction(timeout_s)
        except KafkaException as error:
            raise PublishError(f"{self._id}: {error}") from error
