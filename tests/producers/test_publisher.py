"""The publisher on real Kafka: delivery of every scan, packing, back-pressure, a broker that is away."""

from __future__ import annotations

import threading
import time

import orjson
import pytest
from confluent_kafka import Consumer, TopicPartition

from deploy.local.engines import free_ports
from producers.publisher import NotDeliveredError, Publisher, QueueFullError
from schemas import topics
from schemas.settings import Settings

pytestmark = pytest.mark.engines


def scans(count: int, start: int = 0) -> list[bytes]:
    return [orjson.dumps({"scan_id": str(number)}) for number in range(start, start + count)]


def read(settings: Settings, expected: int) -> tuple[list[str], list[int]]:
    """The scan ids on the topic, and how many scans each record has."""
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka_address, "group.id": "x", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(settings.topic(topics.SCANS), number, 0) for number in range(4)])
    ids: list[str] = []
    sizes: list[int] = []
    deadline = time.monotonic() + 20
    while len(ids) < expected and time.monotonic() < deadline:
        for message in consumer.consume(1000, 0.2):
            found = orjson.loads(message.value() or b"")
            found = found if isinstance(found, list) else [found]
            ids += [scan["scan_id"] for scan in found]
            sizes.append(len(found))
    consumer.close()
    return ids, sizes


def test_every_scan_arrives_once_packed_up_to_a_thousand(settings: Settings) -> None:
    with Publisher(settings.kafka_address, settings.topic(topics.SCANS)) as publisher:
        futures = [publisher.submit(scans(37, 37 * call), timeout_s=10) for call in range(100)]
        for future in futures:
            future.result(20)
        counts = publisher.flush()
    assert (counts.delivered, counts.failed, counts.waiting) == (3700, 0, 0)
    ids, sizes = read(settings, 3700)
    assert sorted(ids, key=int) == [str(number) for number in range(3700)]
    assert max(sizes) <= 1000
    assert len(sizes) < 100


def test_a_lone_scan_does_not_wait_for_company(settings: Settings) -> None:
    with Publisher(settings.kafka_address, settings.topic(topics.SCANS)) as publisher:
        publisher.submit(scans(1)).result(20)  # the first one pays for the connection
        began = time.monotonic()
        publisher.submit(scans(1, 1)).result(20)
        assert time.monotonic() - began < 2  # not the flush of a full record
    assert read(settings, 2)[1] == [1, 1]


def test_a_record_that_no_parser_takes_goes_through_as_it_is(settings: Settings) -> None:
    with Publisher(settings.kafka_address, settings.topic(topics.SCANS)) as publisher:
        publisher.publish_many(scans(3))
        publisher.publish_record(orjson.dumps({"scan_id": "alone"}))
        publisher.publish_many(scans(3, 3))
    ids, sizes = read(settings, 7)
    assert sorted(sizes) == [1, 3, 3]
    assert "alone" in ids


def test_back_pressure_waits_or_says_full_and_a_broker_that_is_away_fails_each_scan() -> None:
    port = free_ports(1)[0]
    publisher = Publisher(f"127.0.0.1:{port}", "scans", max_waiting=10, delivery_timeout_s=2)
    future = publisher.submit(scans(10))
    with pytest.raises(QueueFullError):
        publisher.submit(scans(1))
    assert publisher.counts.waiting == 10
    waited = threading.Event()

    def later() -> None:
        publisher.publish_many(scans(1))
        waited.set()

    threading.Thread(target=later, daemon=True).start()
    assert not waited.wait(0.3)
    with pytest.raises(NotDeliveredError):
        future.result(20)
    assert waited.wait(10)  # room again
    counts = publisher.close(10)
    assert (counts.delivered, counts.failed, counts.waiting) == (0, 11, 0)
    assert publisher.first_error
    with pytest.raises(RuntimeError):
        publisher.submit(scans(1))
