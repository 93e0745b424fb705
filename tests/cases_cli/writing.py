"""Write records as other programs would."""

from __future__ import annotations

from confluent_kafka import Producer

from schemas import topics
from schemas.events import Exposure
from schemas.settings import Settings
from schemas.topics import Topic


def write(
    settings: Settings, topic: Topic, records: list[tuple[str, bytes | None]], transaction: str = ""
) -> Producer:
    config = {"bootstrap.servers": settings.kafka, "partitioner": topics.PARTITIONER, "linger.ms": 0}
    if transaction:
        config["transactional.id"] = settings.topic_prefix + transaction
    producer = Producer(config)
    if transaction:
        producer.init_transactions(30)
        producer.begin_transaction()
    for key, value in records:
        producer.produce(settings.topic(topic), value, key.encode())
    assert producer.flush(30) == 0
    return producer


def as_record(alert: Exposure) -> tuple[str, bytes]:
    return alert.exposure_id, alert.model_dump_json().encode()
