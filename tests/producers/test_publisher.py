"""The publisher on real Kafka: delivery of every scan, packing, back-pressure, a broker that is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from deploy.local import engines as local
from deploy.local.engines import free_ports
from deploy.local.topics import TopicAdmin
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


def test_what_waits_is_bounded_in_bytes_too() -> None:
    publisher = Publisher(f"127.0.0.1:{free_ports(1)[0]}", "scans", max_waiting_bytes=1000)
    large = publisher.submit([b"x" * 5000])  # alone, a call larger than the bound is taken
    with pytest.raises(QueueFullError, match="5000 bytes"):
        publisher.submit([b"x"])
    publisher.close(0)
    assert isinstance(large.exception(0), NotDeliveredError)


def test_large_scans_do_not_make_a_record_that_kafka_refuses(settings: Settings) -> None:
    large = [orjson.dumps({"scan_id": str(number), "x": "x" * 600_000}) for number in range(4)]
    with Publisher(settings.kafka_address, settings.topic(topics.SCANS)) as publisher:
        publisher.submit([*scans(2, 10), *large, *scans(2, 20)]).result(20)
        too_large = publisher.submit([b"x" * 2_000_000])
        assert isinstance(too_large.exception(20), NotDeliveredError)
        publisher.submit(scans(1, 30)).result(20)
    ids, _ = read(settings, 9)
    assert sorted(ids, key=int) == ["0", "1", "2", "3", "10", "11", "20", "21", "30"]


def test_close_answers_every_caller_and_takes_no_more() -> None:
    publisher = Publisher(f"127.0.0.1:{free_ports(1)[0]}", "scans", max_waiting=2)
    waiting = publisher.submit(scans(2))
    refused: list[BaseException] = []

    def blocked() -> None:
        try:
            publisher.publish_many(scans(1))
        except RuntimeError as error:
            refused.append(error)

    thread = threading.Thread(target=blocked, daemon=True)
    thread.start()
    counts = publisher.close(0.5)
    thread.join(10)
    assert (counts.delivered, counts.failed, counts.waiting) == (0, 2, 0)
    assert isinstance(waiting.exception(0), NotDeliveredError)
    assert len(refused) == 1
    assert not publisher.running


def test_a_caller_that_gave_up_harms_nobody(settings: Settings) -> None:
    with Publisher(settings.kafka_address, settings.topic(topics.SCANS)) as publisher:
        gone: list[Future[None]] = [publisher.submit(scans(1, number)) for number in range(50)]
        assert all(future.cancel() for future in gone)
        publisher.submit(scans(1, 50)).result(20)
        assert publisher.running
    assert len(read(settings, 51)[0]) == 51


def test_a_client_in_a_fatal_state_is_replaced(settings: Settings) -> None:
    made: list[Producer] = []

    class Broken(Producer):
        """The real client, but what a lost sequence leaves behind: every call is refused."""

        def produce(self, *_: Any, **__: Any) -> None:
            raise KafkaException(KafkaError(KafkaError._FATAL, "sequence lost"))

    def make(config: dict[str, Any]) -> Producer:
        kind: Callable[[dict[str, Any]], Producer] = Producer if made else Broken
        made.append(kind(config))
        return made[-1]

    with Publisher(settings.kafka_address, settings.topic(topics.SCANS), make_client=make) as publisher:
        assert isinstance(publisher.submit(scans(1)).exception(20), NotDeliveredError)
        publisher.submit(scans(1)).result(20)
    assert len(made) == 2
    assert read(settings, 1)[0] == ["0"]


def test_a_broker_killed_in_mid_stream_gets_every_scan_once(tmp_path: Path) -> None:
    port, controller = free_ports(2)
    launch = local.kafka(tmp_path / "kafka", port, controller)
    own = Settings(kafka=f"127.0.0.1:{port}")
    with (tmp_path / "log").open("ab") as log:
        process = local.start(launch, log)
        try:
            assert local.wait_until(launch.answers, 30) is None
            TopicAdmin(own).apply()
            with Publisher(own.kafka_address, topics.SCANS.name, delivery_timeout_s=120) as publisher:
                futures = []
                for number in range(300):
                    futures.append(publisher.submit(scans(10, 10 * number), timeout_s=10))
                    if number == 150:
                        process.kill()
                        process.wait(10)
                    time.sleep(0.002)
                assert not futures[-1].done()
                process = local.start(launch, log)
                for future in futures:
                    future.result(120)
            ids, _ = read(own, 3000)
        finally:
            local.end(process)
    assert sorted(ids, key=int) == [str(number) for number in range(3000)]
