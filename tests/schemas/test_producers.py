"""What every producer of ours begins with. That a first record does not wait is seen in the demo's times."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, Message, Producer

from deploy.local.engines import free_ports
from schemas import topics
from schemas.kafka import connect, durable_producer
from schemas.settings import Settings


def test_what_is_acknowledged_went_where_it_should(settings: Settings) -> None:
    names = [settings.topic(topics.VISITS), settings.topic(topics.TOUCHED)]
    written: list[str | None] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        written.append(str(error) if error else message.topic())

    producer = durable_producer(settings.kafka_address, names, 10, {"linger.ms": 0})
    for name in names:
        producer.produce(name, b"{}", on_delivery=delivered)
    producer.flush(10)
    assert sorted(map(str, written)) == sorted(names)


def test_a_producer_begins_although_nobody_listens() -> None:
    (port,) = free_ports(1)
    failed: list[KafkaError | None] = []
    producer = durable_producer(f"127.0.0.1:{port}", ["visits"], 1, {"log_level": 0})
    producer.produce("visits", b"{}", on_delivery=lambda error, _: failed.append(error))
    producer.flush(10)
    assert [error is not None for error in failed] == [True]


def test_only_what_kafka_says_is_passed_over() -> None:
    class Broken(Producer):
        def list_topics(self, *_: object, **__: object) -> None:
            raise ValueError("a fault of ours")

    with pytest.raises(ValueError, match="a fault of ours"):
        connect(Broken({"log_level": 0}), ["visits"])
