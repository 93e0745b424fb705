"""Read a compacted topic from its beginning to its end, as a command does that wants to know what stands."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from schemas.kafka import kafka_away, nobody_listens
from schemas.settings import Settings
from schemas.topics import Topic

# A broker that is there answers for its metadata in milliseconds: past this it is taken for away.
METADATA_SECONDS: Final = 10.0
# No record and no end for so long: a partition has no leader, or the network is gone. A command must then
# say so instead of hanging.
SILENCE_SECONDS: Final = 30.0

# What passes by itself: a leader being elected, a broker restarting, a topic made a moment ago.
PASSING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._ALL_BROKERS_DOWN,
    }
)

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
    return KafkaAwayError(kafka_away(settings, why))


def check_somebody_listens(settings: Settings) -> None:
    """Raises KafkaAwayError soon where the client would try for long; see nobody_listens."""
    if nobody_listens(settings.kafka_address):
        raise KafkaAwayError(kafka_away(settings))


def partitions_of(consumer: Consumer, settings: Settings, topic: Topic) -> list[int]:
    """The partitions of a topic. Raises KafkaAwayError, TopicMissingError."""
    check_somebody_listens(settings)
    name = settings.topic(topic)
    try:
        found = consumer.list_topics(name, timeout=METADATA_SECONDS).topics[name]
    except KafkaException as error:
        raise away(settings, error.args[0].str()) from None
    if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise TopicMissingError(f"the topic {name} is not there: make it with `truyvet topics apply`")
    if found.error is not None:
        raise away(settings, found.error.str())
    return sorted(found.partitions)


def end_of(consumer: Consumer, settings: Settings, place: TopicPartition) -> int:
    """The offset that the next record of a partition will have. Raises KafkaAwayError."""

    def passing(error: BaseException) -> bool:
        return isinstance(error, KafkaException) and error.args[0].code() in PASSING

    patience = Retrying(
        retry=retry_if_exception(passing),
        wait=wait_fixed(0.2),
        stop=stop_after_delay(METADATA_SECONDS),
        reraise=True,
    )
    try:
        _, end = patience(consumer.get_watermark_offsets, place, timeout=METADATA_SECONDS)
    except KafkaException as error:
        raise away(settings, error.args[0].str()) from None
    return int(end)


def read_to_end(
    settings: Settings,
    topic: Topic,
    silence_seconds: float = SILENCE_SECONDS,
    begin: Mapping[int, int] | None = None,
) -> Iterator[Record]:
    """Every record that the topic holds now, partition by partition in order, tombstones too.

    `begin`: by partition, the offset to begin with instead of the oldest.
    Raises KafkaAwayError, TopicMissingError.
    """
    # at the end of a partition the broker holds an answer back for so long, hoping for more
    # an offset to begin with that has aged out: from the oldest that is there, not from the end
    consumer = quiet_consumer(settings, **{"fetch.wait.max.ms": 10, "auto.offset.reset": "earliest"})
    offsets = begin or {}
    try:
        waiting = set(partitions_of(consumer, settings, topic))
        name = settings.topic(topic)
        consumer.assign(
            [TopicPartition(name, number, offsets.get(number, OFFSET_BEGINNING)) for number in waiting]
        )
        last_heard = time.monotonic()
        while waiting:
            message = consumer.poll(0.2)
            if time.monotonic() - last_heard > silence_seconds:
                raise away(settings, f"{name} stays silent")
            if message is None:
                continue
            partition, offset = message.partition(), message.offset()
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF and partition is not None:
                    waiting.discard(partition)
                elif error.code() not in PASSING:
                    raise away(settings, error.str())
                continue
            last_heard = time.monotonic()
            assert partition is not None and offset is not None  # only an error has none
            yield Record(message.key(), message.value(), partition, offset, message.timestamp()[1])
    finally:
        consumer.close()
