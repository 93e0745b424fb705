"""Lag and freshness from committed offsets, on a real broker."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from deploy.local import engines as local
from deploy.local.lag import Lag, LagUnknownError, consumer_lag, freshness, lag_and_age
from deploy.local.roles import ARCHIVE, GATEWAY, INGEST, MATCHER
from deploy.local.topics import TopicAdmin
from schemas import topics
from schemas.settings import Settings
from schemas.topics import Topic


def write(settings: Settings, topic: Topic, ages: dict[int, list[float]], now: float) -> None:
    """Records of the given ages in seconds, by partition."""
    producer = Producer({"bootstrap.servers": settings.kafka_address, "acks": "all"})
    for partition, each in ages.items():
        for age in each:
            stamp = round((now - age) * 1000)
            producer.produce(settings.topic(topic), b"x", partition=partition, timestamp=stamp)
    assert producer.flush(10) == 0


def commit(settings: Settings, role: str, topic: Topic, offsets: dict[int, int]) -> None:
    consumer = Consumer({"bootstrap.servers": settings.kafka_address, "group.id": settings.group(role)})
    places = [TopicPartition(settings.topic(topic), number, offset) for number, offset in offsets.items()]
    _commit_patiently(consumer, places)
    consumer.close()


@retry(retry=retry_if_exception_type(KafkaException), wait=wait_fixed(0.2), stop=stop_after_delay(20))
def _commit_patiently(consumer: Consumer, places: list[TopicPartition]) -> None:
    """A broker that has just started refuses commits while it still loads its groups."""
    consumer.commit(offsets=places, asynchronous=False)


def keep(settings: Settings, topic: Topic, retention_ms: int) -> None:
    """Set retention.ms of a topic, and wait until the broker shows it."""
    entry = ConfigEntry("retention.ms", str(retention_ms), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, settings.topic(topic), incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": settings.kafka_address})
    for future in client.incremental_alter_configs([resource]).values():
        future.result(10)
    deadline = time.monotonic() + 10
    while TopicAdmin(settings).found({resource.name})[resource.name].config["retention.ms"] != entry.value:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def delete_before(settings: Settings, topic: Topic, offset: int) -> None:
    """What retention does, at once: partition 0 begins at this offset."""
    client = AdminClient({"bootstrap.servers": settings.kafka_address})
    for future in client.delete_records([TopicPartition(settings.topic(topic), 0, offset)]).values():
        future.result(10)


@pytest.mark.engines
def test_lag_counts_from_the_commit_or_from_the_beginning(settings: Settings) -> None:
    now = time.time()
    write(settings, topics.SCANS, {0: [1] * 5, 1: [1] * 3, 3: [1]}, now)
    commit(settings, "ingest", topics.SCANS, {0: 2, 1: 3})
    found = {(each.role, each.topic): each for each in consumer_lag(settings)}
    scans = found["ingest", settings.topic(topics.SCANS)]
    assert (scans.records, scans.partitions, scans.uncommitted) == (3 + 0 + 1, 4, 1)
    assert found["matcher", settings.topic(topics.TOUCHED)].records == 0
    assert {role for role, _ in found} == {"ingest", "cases", "matcher", "archive"}
    assert consumer_lag(settings, (GATEWAY,)) == []
    assert {each.role for each in consumer_lag(settings, (INGEST, MATCHER))} == {"ingest", "matcher"}


@pytest.mark.engines
def test_hours_until_what_waits_ages_out(settings: Settings) -> None:
    now = time.time()
    write(settings, topics.VISITS, {0: [7200, 3600, 60], 2: [5400]}, now)
    write(settings, topics.VENUES, {0: [90 * 86_400]}, now)

    def hours(topic: Topic, role: str = "archive") -> float | None:
        found = {(each.role, each.topic): each for each in lag_and_age(settings, now)}
        return found[role, settings.topic(topic)].hours_to_age_out

    assert hours(topics.VISITS) == 7 * 24 - 2
    assert hours(topics.VENUES) is None  # compacted: never
    assert hours(topics.SCANS, "ingest") == 7 * 24  # nothing waits: what comes now has all the time
    commit(settings, ARCHIVE.name, topics.VISITS, {0: 2})
    assert hours(topics.VISITS) == 7 * 24 - 1.5
    commit(settings, ARCHIVE.name, topics.VISITS, {0: 3, 2: 1})
    assert hours(topics.VISITS) == 7 * 24


@pytest.mark.engines
def test_what_ages_out_soon_is_late_and_what_kafka_deleted_unread_is_lost(settings: Settings) -> None:
    now = time.time()
    write(settings, topics.VISITS, {0: [7 * 86_400 - 3600, 60, 30]}, now)
    commit(settings, ARCHIVE.name, topics.VISITS, {0: 0})

    def visits() -> Lag:
        name = settings.topic(topics.VISITS)
        (found,) = [each for each in lag_and_age(settings, now) if each.topic == name]
        return found

    assert (visits().hours_to_age_out, visits().retention) == (1.0, "late")
    keep(settings, topics.VISITS, 10 * 86_400_000)  # as the operator may
    assert (visits().hours_to_age_out, visits().retention) == (73.0, "kept")
    keep(settings, topics.VISITS, -1)
    assert (visits().hours_to_age_out, visits().retention) == (None, "kept")
    keep(settings, topics.VISITS, 7 * 86_400_000)
    delete_before(settings, topics.VISITS, 2)
    assert (visits().records, visits().deleted_unread, visits().retention) == (1, 2, "lost")
    commit(settings, ARCHIVE.name, topics.VISITS, {0: 3})
    assert (visits().records, visits().deleted_unread, visits().retention) == (0, 0, "kept")


@pytest.mark.engines
def test_freshness_is_of_the_records_on_either_side_of_the_commit(settings: Settings) -> None:
    assert freshness(settings).newest_archived is None
    assert freshness(settings).oldest_waiting is None
    now = time.time()
    write(settings, topics.VISITS, {0: [50, 40, 30], 2: [60, 20]}, now)
    fresh = freshness(settings, now)
    assert fresh.newest_archived is None
    assert fresh.oldest_waiting == pytest.approx(60, abs=0.01)
    commit(settings, ARCHIVE.name, topics.VISITS, {0: 2, 2: 1})
    fresh = freshness(settings, now)
    assert fresh.newest_archived == pytest.approx(40, abs=0.01)
    assert fresh.oldest_waiting == pytest.approx(30, abs=0.01)
    commit(settings, ARCHIVE.name, topics.VISITS, {0: 3, 2: 2})
    fresh = freshness(settings, now)
    assert fresh.newest_archived == pytest.approx(20, abs=0.01)
    assert fresh.oldest_waiting is None


def test_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.lag.PATIENCE", 1.0)
    (port,) = local.free_ports(1)
    with pytest.raises(LagUnknownError, match=f"127.0.0.1:{port} does not tell offsets"):
        consumer_lag(Settings(kafka=f"127.0.0.1:{port}"))
    with pytest.raises(LagUnknownError, match="does not tell offsets"):
        freshness(Settings(kafka=f"127.0.0.1:{port}"))
