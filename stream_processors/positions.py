"""What the consumer groups of the processors have acknowledged, asked from outside the groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

# A coordinator that moves, or loads its offsets after a restart, answers within seconds; past this the
# worker ends with words instead of hanging before its first chunk.
_PATIENCE_S: Final = 60.0
_CALL_S: Final = 10.0


def position_name(topic: str, partition: int) -> str:
    """How a partition is called where positions are written down."""
    return f"{topic}/{partition}"


def committed_offsets(kafka: str, groups: Mapping[str, str]) -> dict[str, int]:
    """By `position_name`, the next offset of every partition that its group has committed.

    `groups`: consumer group → its topic. Raises RuntimeError when Kafka does not tell, or a topic is
    missing. An admin client's own question crashes the process (librdkafka 2.16), so a consumer asks that
    never joins.
    """
    found: dict[str, int] = {}
    for group, topic in groups.items():
        for place in _patiently(kafka, group, topic):
            if place.error is not None:
                raise RuntimeError(f"offsets of {group} on {topic}: {place.error}")
            if place.offset >= 0:
                found[position_name(topic, place.partition)] = place.offset
    return found


def _passing(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and bool(
        error.args[0].retriable()
        or error.args[0].code()
        in {
            KafkaError._TIMED_OUT,
            KafkaError._TRANSPORT,
            KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
            KafkaError.COORDINATOR_NOT_AVAILABLE,
            KafkaError.NOT_COORDINATOR,
        }
    )


def _patiently(kafka: str, group: str, topic: str) -> list[TopicPartition]:
    patience = Retrying(
        retry=retry_if_exception(_passing),
        wait=wait_fixed(0.5),
        stop=stop_after_delay(_PATIENCE_S),
        reraise=True,
    )
    try:
        return patience(_ask, kafka, group, topic)
    except KafkaException as error:
        raise RuntimeError(f"Kafka does not tell the offsets of {group}: {error.args[0].str()}") from error


def _ask(kafka: str, group: str, topic: str) -> list[TopicPartition]:
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False, "log_level": 0}
    )
    try:
        metadata = consumer.list_topics(topic, timeout=_CALL_S).topics[topic]
        if metadata.error is not None:
            raise RuntimeError(f"topic {topic}: {metadata.error}; run: truyvet topics apply")
        places = [TopicPartition(topic, partition) for partition in sorted(metadata.partitions)]
        return consumer.committed(places, timeout=_CALL_S)
    finally:
        consumer.close()
