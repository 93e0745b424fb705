"""The archive role against real Kafka and the real engine: nothing lost, nothing twice."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from clickhouse_driver import Client
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from deploy.local import engines as local
from deploy.local.roles import metrics_port
from schemas import topics
from schemas.codes import check_character
from schemas.events import exposure_id, exposure_version
from schemas.settings import Settings
from schemas.topics import PARTITIONER, Topic
from sinks import rows
from sinks.archive import run
from sinks.connection import connect

pytestmark = pytest.mark.engines

PERSON = "fedcba9876543210"
CODE = "CDEFHK" + check_character("CDEFHK")
NOW_HOUR = int(time.time()) // 3600
PATIENCE = 60.0


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


def visit(
    person: int, minute: int = 5, kind: str = "in", hour: int = NOW_HOUR, **more: Any
) -> dict[str, Any]:
    return {
        "scan_id": "0190a1b2-0000-7000-8000-000000000001",
        "person": f"{person:016x}",
        "venue": "CDEFHK",
        "hour": hour,
        "minute": minute,
        "kind": kind,
        "source": "person",
        "party": 1,
        "received_at": clock_ms(),
        **more,
    }


def producer(settings: Settings, **more: object) -> Producer:
    return Producer(
        {
            "bootstrap.servers": settings.kafka_address,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "partitioner": PARTITIONER,
            **more,
        }
    )


def publish(settings: Settings, topic: Topic, *values: bytes | None, **more: Any) -> None:
    kafka = producer(settings)
    for value in values:
        kafka.produce(settings.topic(topic), value, **more)
    assert kafka.flush(30) == 0


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not after {seconds} s: {what}"
        time.sleep(0.1)


def _places(settings: Settings, consumer: Consumer) -> list[TopicPartition]:
    there = consumer.list_topics(timeout=10).topics
    names = [settings.topic(topic) for topic in rows.TOPICS]
    return [TopicPartition(name, number) for name in names for number in there[name].partitions]


def group_of(settings: Settings) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": settings.kafka_address,
            "group.id": settings.group("archive"),
            "enable.auto.commit": False,
        }
    )


@retry(retry=retry_if_exception_type(KafkaException), stop=stop_after_delay(PATIENCE), wait=wait_fixed(0.5))
def lag(settings: Settings) -> int:
    """Records (and markers of transactions) after the committed offsets. Topics and coordinator are new."""
    with closing(group_of(settings)) as consumer:
        behind = 0
        for place in consumer.committed(_places(settings, consumer), timeout=10):
            _, end = consumer.get_watermark_offsets(place, timeout=10)
            behind += end - max(0, place.offset)
        return behind


def rewind(settings: Settings) -> None:
    with closing(group_of(settings)) as consumer:
        places = _places(settings, consumer)
        consumer.commit(
            offsets=[TopicPartition(it.topic, it.partition, 0) for it in places], asynchronous=False
        )


@contextmanager
def sink(settings: Settings) -> Iterator[int]:
    """The role in a thread, ended as by SIGTERM; gives its metrics port."""
    stop, port = threading.Event(), metrics_port(settings, "archive")
    thread = threading.Thread(target=run, args=(settings, clock_ms, port, stop))
    thread.start()
    try:
        yield port
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    raise AssertionError(f"{name} is not there")


def archive(settings: Settings) -> dict[str, Any]:
    """What the archive says, merged as readers merge it."""
    client = connect(settings.clickhouse_url)
    masks = "groupBitOr(ins), groupBitOr(outs), groupBitOr(voids), max(party), groupBitOr(sources)"
    found: dict[str, Any] = {}
    for table in ("visits", "visits_by_person"):
        query = f"SELECT venue, hour, person, {masks} FROM {table} GROUP BY venue, hour, person"
        found[table] = sorted(client.execute(query))
    for table in ("venues", "cases", "exposures", "venue_warnings", "rejected"):
        found[table] = sorted(map(repr, client.execute(f"SELECT * FROM {table} FINAL")))
    client.disconnect()
    return found


def exposure(minutes: int, status: str, evidence: int) -> bytes:
    return orjson.dumps(
        {
            "exposure_id": exposure_id("c-1", PERSON, "CDEFHK", "2026-11-20"),
            "case_id": "c-1",
            "person": PERSON,
            "venue": "CDEFHK",
            "sector": "trade",
            "department": "so-cong-thuong",
            "date": "2026-11-20",
            "first": 1,
            "last": 2,
            "minutes": minutes,
            "status": status,
            "case_version": 1,
            "evidence": evidence,
            "version": exposure_version(1, evidence),
        }
    )


def publish_all(settings: Settings) -> None:
    publish(
        settings,
        topics.VISITS,
        orjson.dumps([visit(1), visit(1, 7, "out"), visit(1, 7, "void", source="event", party=4), visit(2)]),
        orjson.dumps([visit(2, 9), visit(3, minute=77)]),
        b"{not json",
    )
    venue = {
        "code": CODE,
        "sector": "trade",
        "district": "hue",
        "department": "so-cong-thuong",
        "dwell": 60,
    }
    for name in ("Chợ", "Chợ Đông Ba"):
        publish(settings, topics.VENUES, orjson.dumps(venue | {"name": name}), key=CODE)
    case = {"case_id": "c-1", "version": 1, "status": "confirmed", "person": PERSON}
    window = {"infectious_from": 1, "infectious_to": 2}
    publish(settings, topics.CASES, orjson.dumps(case | window), b"{}", None, key="c-1")
    warning = {"case_id": "c-1", "venue": "CDEFHK", "department": "so-cong-thuong", "date": "2026-11-20"}
    rest = {"presences": [[1, 2], [5, 9]], "contacts": 1, "status": "exposed", "version": 3}
    publish(settings, topics.VENUE_WARNINGS, orjson.dumps(warning | rest), key="c-1")
    headers = {"reason": b"invalid", "detail": b"why", "source-topic": b"scans", "source-partition": b"1"}
    headers |= {"source-offset": b"9", "source-index": b"2", "arrival": b"%d" % clock_ms(), "attempts": b"1"}
    publish(settings, topics.SCANS_REJECTED, b"\xff\xfe", headers=headers)
    publish(settings, topics.CASES_REJECTED, b"{}", headers=headers | {"source-topic": b"cases"})
    transactions = producer(settings, **{"transactional.id": settings.topic_prefix + "test"})
    transactions.init_transactions(30)
    for value, keep in ((exposure(5, "exposed", 2), True), (exposure(99, "exposed", 9), False)):
        transactions.begin_transaction()
        transactions.produce(settings.topic(topics.EXPOSURES), value, key="e-1")
        transactions.flush(10)
        if keep:
            transactions.commit_transaction(30)
        else:
            transactions.abort_transaction(30)


def test_everything_that_is_kept_and_a_replay_changes_nothing(settings: Settings) -> None:
    publish_all(settings)
    with sink(settings) as port:
        until(lambda: lag(settings) == 0, "the archive has everything")
        found = archive(settings)
        assert found["visits"] == [
            ("CDEFHK", NOW_HOUR, 1, 1 << 5, 1 << 7, 1 << 7, 4, 9),
            ("CDEFHK", NOW_HOUR, 2, 1 << 5 | 1 << 9, 0, 0, 1, 1),
        ]
        assert found["visits_by_person"] == found["visits"]
        assert len(found["venues"]) == 1
        assert "Chợ Đông Ba" in found["venues"][0]
        assert len(found["cases"]) == len(found["venue_warnings"]) == 1
        assert "[(1, 2), (5, 9)]" in found["venue_warnings"][0]
        assert len(found["exposures"]) == 1
        assert ", 5, 'exposed', 1, 2, " in found["exposures"][0]  # the aborted one never happened
        client = connect(settings.clickhouse_url)
        columns = "reason, source_index, source_topic"
        reasons = f"SELECT {columns} FROM rejected ORDER BY {columns}"
        visits = settings.topic(topics.VISITS)
        assert client.execute(reasons) == [
            ("invalid", 2, "cases"),
            ("invalid", 2, "scans"),
            ("malformed", 0, visits),
            ("malformed", 1, visits),
        ]
        client.disconnect()
        assert metric(port, 'truyvet_archive_rows_total{table="visits"}') == 5
        assert metric(port, "truyvet_archive_broken_total") == 2
        assert 0 <= metric(port, "truyvet_archive_freshness_seconds") < PATIENCE
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            assert answer.status == 200
    rewind(settings)
    publish(settings, topics.VISITS, orjson.dumps([visit(2, 9), visit(1, 7, "out")]))
    publish(settings, topics.EXPOSURES, exposure(5, "exposed", 2), exposure(7, "exposed", 1), key="e-1")
    with sink(settings):
        until(lambda: lag(settings) == 0, "everything is read again")
    assert archive(settings) == found
    publish(settings, topics.EXPOSURES, exposure(5, "withdrawn", 3), key="e-1")
    with sink(settings):
        until(lambda: lag(settings) == 0, "the withdrawal is in")
    assert "withdrawn" in archive(settings)["exposures"][0]


def role(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        "TRUYVET_KAFKA": settings.kafka,
        "TRUYVET_CLICKHOUSE": settings.clickhouse,
        "TRUYVET_TOPIC_PREFIX": settings.topic_prefix,
        "TRUYVET_METRICS_PORT": str(local.free_base((0, 66))),
    }
    command = [sys.executable, "-c", "import truyvet; truyvet.main()", "run", "archive"]
    with log.open("ab") as out:
        return subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=out)


def test_killed_and_ended_in_mid_stream_loses_nothing(settings: Settings, tmp_path: Path) -> None:
    persons = range(1, 40_001)
    done = threading.Event()

    def stream() -> None:
        kafka = producer(settings)
        for start in range(0, len(persons), 100):
            chunk = [visit(person, person % 60) for person in persons[start : start + 100]]
            kafka.produce(settings.topic(topics.VISITS), orjson.dumps(chunk))
            kafka.poll(0.02)
        assert kafka.flush(30) == 0
        done.set()

    first = role(settings, tmp_path / "1.log")
    started = [first]
    client = connect(settings.clickhouse_url)

    def archived() -> int:
        try:
            return int(client.execute("SELECT uniqExact(person) FROM visits")[0][0])
        except Exception:  # the first role has not made the tables yet
            return 0

    try:
        streaming = threading.Thread(target=stream)
        streaming.start()
        until(lambda: archived() > 0, "the first sink is at work")
        started.append(role(settings, tmp_path / "2.log"))  # a second one joins: partitions move
        time.sleep(3)
        first.kill()
        started.append(role(settings, tmp_path / "3.log"))
        time.sleep(3)
        started[1].send_signal(signal.SIGTERM)
        assert started[1].wait(10) == 0
        streaming.join(PATIENCE)
        assert done.is_set()
        until(lambda: archived() == len(persons), "every mark is in the archive")
        until(lambda: lag(settings) == 0, "and its offset is committed")
    finally:
        for process in started:
            process.kill()
            process.wait(10)
    assert archive(settings)["visits"] == [
        ("CDEFHK", NOW_HOUR, person, 1 << person % 60, 0, 0, 1, 1) for person in persons
    ]
    client.disconnect()


class Engine:
    """A ClickHouse engine that a test may kill, stop and start again."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = local.free_ports(1)
        self._launch = local.clickhouse(folder / "data", self.port)
        self._log = (folder / "engine.log").open("ab")
        self.start()

    def start(self) -> None:
        self.process = local.start(self._launch, self._log)
        assert local.wait_until(self._launch.answers, PATIENCE, lambda: None) is None

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path)
    yield engine
    engine.end()


def test_clickhouse_away_or_hanging_is_waited_for(
    settings: Settings, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    own = settings.model_copy(update={"clickhouse": f"clickhouse://default@127.0.0.1:{engine.port}/default"})

    def persons() -> int:
        client: Client = connect(own.clickhouse_url)
        try:
            return int(client.execute("SELECT uniqExact(person) FROM visits")[0][0])
        finally:
            client.disconnect()

    publish(own, topics.VISITS, orjson.dumps([visit(1)]))
    with sink(own) as port:
        until(lambda: lag(own) == 0, "the first mark is in")
        engine.end()
        publish(own, topics.VISITS, *(orjson.dumps([visit(person)]) for person in range(2, 50)))
        until(lambda: metric(port, "truyvet_archive_waiting") == 1, "the sink waits")
        time.sleep(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            assert answer.status == 200  # waiting is well: a restart would cure nothing
        assert lag(own) == 48
        assert "waiting for ClickHouse to insert" in caplog.text
        engine.start()
        until(lambda: lag(own) == 0, "everything is in after ClickHouse came back")
        assert metric(port, "truyvet_archive_waiting") == 0
        assert metric(port, "truyvet_archive_retries_total") >= 1
        assert persons() == 49
        engine.process.send_signal(signal.SIGSTOP)
        publish(own, topics.VISITS, orjson.dumps([visit(50)]))
        time.sleep(1.5)
        ending = time.monotonic()
    # `sink` has set stop while the insert hung
    assert time.monotonic() - ending < 10
    assert lag(own) == 1
    engine.process.send_signal(signal.SIGCONT)
    with sink(own):
        until(lambda: lag(own) == 0, "what was not committed is read again")
    assert persons() == 50


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("clickhouse://stranger:wrong@{address}/default", "correct user and password in TRUYVET_CLICKHOUSE"),
        ("clickhouse://default@{address}/nowhere", "create the database"),
    ],
)
def test_what_waiting_cannot_cure_ends_the_role_with_one_line(
    settings: Settings, caplog: pytest.LogCaptureFixture, url: str, told: str
) -> None:
    address = settings.clickhouse.split("@")[1].split("/")[0]
    own = settings.model_copy(update={"clickhouse": url.format(address=address)})
    with caplog.at_level(logging.CRITICAL), pytest.raises(SystemExit) as end:
        run(own, clock_ms, metrics_port(own, "archive"), threading.Event())
    assert end.value.code == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert told in line
    assert "\n" not in line
    with pytest.raises(urllib.error.URLError):  # its port is free again
        urllib.request.urlopen(f"http://127.0.0.1:{metrics_port(own, 'archive')}/healthz", timeout=2)


def test_a_taken_metrics_port_is_told(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", metrics_port(settings, "archive"))), pytest.raises(SystemExit):
        run(settings, clock_ms, metrics_port(settings, "archive"), threading.Event())
    assert "TRUYVET_METRICS_PORT" in caplog.text
