"""Who was erased: read from the compacted topic, put into a store that may have lost it.

The topic is what lasts; Redis holds a copy of it, because there the refusal is one step with the mark: no
scan that a worker read before can slip in after. So the copy is put back before the first scan and before a
rebuild.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from pydantic import ValidationError

from schemas.erasure import Erased
from stream_processors.store import Store

log: Final = logging.getLogger(__name__)

# A worker must end with words, instead of hanging before its first scan, when the topic cannot be read.
_PATIENCE_S: Final = 30.0


def read_erased(kafka: str, topic: str) -> list[Erased]:
    """The newest entry of every person on the topic. Raises RuntimeError."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": topic,  # the client asks for one; nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    found: dict[str, Erased] = {}
    try:
        metadata = consumer.list_topics(topic, timeout=_PATIENCE_S).topics[topic]
        if metadata.error is not None:
            raise RuntimeError(f"topic {topic}: {metadata.error}; run: truyvet topics apply")
        left = set(metadata.partitions)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        deadline = time.monotonic() + _PATIENCE_S
        while left:
            if time.monotonic() > deadline:
                raise RuntimeError(f"could not read topic {topic} to its end in {_PATIENCE_S:.0f} s")
            for message in consumer.consume(500, 0.1):
                error, partition = message.error(), message.partition()
                if error is None:
                    _take(found, message.value())
                elif error.code() == KafkaError._PARTITION_EOF and partition is not None:
                    left.discard(partition)
    except KafkaException as error:
        raise RuntimeError(f"Kafka does not answer for {topic}: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return list(found.values())


def _take(found: dict[str, Erased], value: bytes | None) -> None:
    if value is None:  # an entry whose time was over
        return
    try:
        entry = Erased.model_validate_json(value)
    except ValidationError as wrong:
        log.error("ignored an entry of the topic erased: %s", wrong.errors(include_input=False)[0]["msg"])
        return
    known = found.get(entry.person)
    if known is None or entry.before >= known.before:
        found[entry.person] = entry


async def restore(store: Store, entries: Iterable[Erased], now_ms: int) -> int:
    """Have the store refuse them all; how many that are."""
    count = 0
    for entry in entries:
        if entry.until > now_ms:
            await store.refuse_marks(entry.person, entry.last_hour, entry.until // 1000, now_ms)
            await store.refuse_index(entry.person, entry.last_hour, entry.until // 1000, now_ms)
            count += 1
    return count
