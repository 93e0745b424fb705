"""Records that Kafka takes and our clients never write: header names that are no UTF-8, no timestamp."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

from aiokafka import AIOKafkaProducer
from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy


class RawName(str):
    """A header's name that goes out as these bytes."""

    raw: bytes

    def __new__(cls, raw: bytes) -> RawName:
        made = super().__new__(cls, "raw")
        made.raw = raw
        return made

    def encode(self, *_: Any) -> bytes:
        return self.raw


@dataclass(frozen=True, slots=True)
class Strange:
    """One record. `timestamp` ms, -1 for none."""

    value: bytes | None
    timestamp: int
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


def write_batch(kafka: str, topic: str, records: Iterable[Strange], partition: int = 0) -> int:
    """Write records as one batch, acknowledged; returns the offset of the first."""

    async def write() -> int:
        producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
        await producer.start()
        try:
            batch = producer.create_batch()
            for each in records:
                kept = batch.append(
                    key=each.key, value=each.value, timestamp=each.timestamp, headers=list(each.headers)
                )
                assert kept is not None, "the batch is full"
            sent = await producer.send_batch(batch, topic, partition=partition)
            return int((await sent).offset)
        finally:
            await producer.stop()

    # the builder in Python encodes names by their own method; the compiled one asks for plain text
    with mock.patch.object(message_accumulator, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy):
        return asyncio.run(write())
