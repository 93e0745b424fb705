"""Read a compacted topic from its beginning to its end, as a command does that wants to know what stands."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from schemas.settings import Settings
from schemas.topics import Topic

# A broker that is there answers for its metadata in milliseconds: past this it is taken for away.
METADATA_SECONDS: Final = 10.0
# No record and no end for so long: a partition has no leader, or the network is gone. A command must then
# say so instead of hanging.
SILENCE_SECONDS: Final = 30.0

_QUIET: Final = logging.getLogger("truyvet.kafka-client")
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


class KafkaAwayError(ConnectionError):
    """No broker answers, or one stopped answering; the message says where and what to do."""


class TopicMissingError(LookupError):
    """The topic has not been made yet; the message says how."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it lies in the topic. `timestamp` ms."""

    key: bytes | None
    value: bytes | None
    partition: int
    offset: int
    timestamp: int


def quiet_consumer(settings: Settings, **more: Any) -> Consumer:
    """A committed-only consumer that belongs to no group, and prints nothing of its own to the terminal."""
    config = {
        "bootstrap.servers": settings.kafka_address,
        "group.id": settings.group("readers"),  # the client asks for one; nothing is ever committed
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 100,
        "error_cb": lambda _: None,  # the caller notices by its own limits, and says it in words
    }
    return Consumer(config | more, logger=_QUIET)


def away(settings: Settings, why: str) -> KafkaAwayError:
    """The error for a broker that does not answer."""
    return KafkaAwayError(
        f"Kafka does not answer at {settings.kafka_address} ({why}): start it with `truyvet up`, "
        "or set TRUYVET_KAFKA to where it is"
    )


def partitions_of(consumer: Consumer, settings: Settings, topic: Topic) -> list[int]:
    """The partitions of a topic. Raises KafkaAwayError, TopicMissingError."""
    name = settings.topic(topic)
    try:
        found = consumer.list_topics(name, timeout=METADATA_SECONDS).topics[name]
    except KafkaException as error:
        raise away(settings, error.args[0].str()) from None
    if found.error is not None:
        raise TopicMissingError(
            f"the topic {name} is not there ({found.error.str()}): make it with `truyvet topics apply`"
        )
    return sorted(found.partitions)


def read_to_end(
    settings: Settings, topic: Topic, silence_seconds: float = SILENCE_SECONDS
) -> Iterator[Record]:
    """Every record that the topic holds now, partition by partition in order, tombstones too.

    Raises KafkaAwayError, TopicMissingError.
    """
    consumer = quiet_consumer(settings)
    try:
        waiting = set(partitions_of(consumer, settings, topic))
        name = settings.topic(topic)
        consumer.assign([TopicPartition(name, partition, OFFSET_BEGINNING) for partition in waiting])
        last_heard = time.monotonic()
        while waiting:
            message = consumer.poll(0.2)
            if message is None:
                if time.monotonic() - last_heard > silence_seconds:
                    raise away(settings, f"{name} stays silent")
                continue
            last_heard = time.monotonic()
            error = message.error()
            partition, offset = message.partition(), message.offset()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    waiting.discard(partition if partition is not None else -1)
                    continue
                raise away(settings, error.str())
            if partition is None or offset is None:
                raise AssertionError("a record without its place")
            yield Record(message.key(), message.value(), partition, offset, message.timestamp()[1])
    finally:
        consumer.close()
