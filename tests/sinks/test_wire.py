"""The archive while the wire to ClickHouse is cut or the server stands still, and while Kafka is not kind."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from deploy.local.roles import metrics_port
from schemas import topics
from schemas.kafka import headers_of
from schemas.settings import Settings
from sinks import archive as role
from sinks import connection, migrate
from sinks.aside import Aside
from sinks.blocks import Inserter
from sinks.metrics import Metrics
from sinks.patience import Patience
from sinks.rows import COLUMNS, Record, Source
from tests.sinks.test_archive import (
    Engine,
    archive,
    clock_ms,
    engine,
    group_of,
    lag,
    metric,
    publish,
    publish_all,
    sink,
    until,
    visit,
)
from tests.sinks.test_refusals import constrained
from tests.stream.harness import Installation

__all__ = ["engine"]
pytestmark = pytest.mark.engines

_MARKS = 20_000


class Wire:
    """A way to a server. `cut_after`: so many bytes up, then both sides are cut; `mute_after`: so many, then
    the next end of an answer is swallowed and the wire cut, so that the insert is done and nobody knows."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_after = self.mute_after = 0
        self._passed = 0
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def expect(self, trouble: str) -> None:
        """`cut` or `mute`, in or after a block of more than 50,000 bytes."""
        self._passed = 0
        self.cut_after, self.mute_after = (50_000, 0) if trouble == "cut" else (0, 50_000)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port), 5)
                far.settimeout(None)
                for pump in (self._up, self._down):
                    threading.Thread(target=pump, args=(near, far), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while packet := near.recv(65_536):
                self._passed += len(packet)
                if self.cut_after and self._passed > self.cut_after:
                    self.cut_after = 0
                    self._cut(near, far)
                    return
                far.sendall(packet)
        self._end(near, far)

    def _down(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while packet := far.recv(65_536):
                # EndOfStream, the last byte of the answer to an insert, is 5
                if self.mute_after and self._passed > self.mute_after and packet.endswith(b"\x05"):
                    self.mute_after = 0
                    self._cut(near, far)
                    return
                near.sendall(packet)
        self._end(near, far)

    def _cut(self, *ends: socket.socket) -> None:
        self.cuts += 1
        self._end(*ends)

    def _end(self, *ends: socket.socket) -> None:
        for each in ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_wire_that_is_cut_in_mid_insert_or_before_the_answer(settings: Settings) -> None:
    port = int(settings.clickhouse.rsplit(":", 1)[1].split("/")[0])
    with closing(Wire(port)) as wire:
        through = settings.model_copy(
            update={"clickhouse": settings.clickhouse.replace(f":{port}/", f":{wire.port}/")}
        )
        with sink(through) as metrics:
            publish(through, topics.VISITS, orjson.dumps([visit(1)]))
            until(lambda: lag(through) == 0, "the first is in")
            for round_, trouble in enumerate(("cut", "mute"), start=1):
                wire.expect(trouble)
                persons = range(round_ * _MARKS, (round_ + 1) * _MARKS)
                chunks = [persons[start : start + 500] for start in range(0, _MARKS, 500)]
                publish(
                    through, topics.VISITS, *(orjson.dumps([visit(it) for it in chunk]) for chunk in chunks)
                )
                until(lambda: lag(through) == 0, f"all is in in spite of {trouble}")
                assert wire.cuts == round_, "it was cut"
            assert metric(metrics, "truyvet_archive_retries_total") >= 2
            assert metric(metrics, "truyvet_archive_waiting_seconds_total") > 0
    found = archive(settings)["visits"]
    assert [row[2] for row in found] == [1, *range(_MARKS, 3 * _MARKS)]
    assert all(row[3:] == (1 << 5, 0, 0, 1, 1) for row in found)


def test_a_server_that_stands_still_past_the_time_out(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 1)
    own = settings.model_copy(update={"clickhouse": f"clickhouse://default@127.0.0.1:{engine.port}/default"})
    with sink(own) as port:
        publish(own, topics.VISITS, orjson.dumps([visit(1)]))
        until(lambda: lag(own) == 0, "the first is in")
        engine.process.send_signal(signal.SIGSTOP)
        publish(own, topics.VISITS, *(orjson.dumps([visit(person)]) for person in range(2, 30)))
        # each try is given up after 1 s, and the next connection falls silent too
        until(lambda: metric(port, "truyvet_archive_retries_total") >= 2, "it tries again and again")
        assert lag(own) == 28
        engine.process.send_signal(signal.SIGCONT)
        until(lambda: lag(own) == 0, "all is in")
        assert metric(port, "truyvet_archive_waiting") == 0
    found = archive(own)["visits"]
    assert [(row[2], row[3]) for row in found] == [(person, 1 << 5) for person in range(1, 30)]


def test_a_long_search_keeps_the_place_in_the_group(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual, attempt = role.consumer_config, Inserter.attempt
    short = {"max.poll.interval.ms": 6_000, "session.timeout.ms": 6_000, "heartbeat.interval.ms": 1_000}
    monkeypatch.setattr(role, "consumer_config", lambda own: usual(own) | short)
    monkeypatch.setattr(role, "_LONGEST_SILENCE_S", 1.0)
    _make_tables(settings)

    def slow(*args: object, **more: object) -> object:
        time.sleep(0.25)  # as on a server that is busy
        return attempt(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Inserter, "attempt", slow)
    with constrained(settings, "visits", "person % 2 = 0"):
        publish(settings, topics.VISITS, orjson.dumps([visit(person) for person in range(16)]))
        began = time.monotonic()
        with sink(settings):
            until(lambda: lag(settings) == 0, "the search has ended")
        assert time.monotonic() - began > 7, "longer than the group waits for a member that does not poll"
    assert "not committed" not in caplog.text
    assert len(Installation(settings, settings.data).read(topics.ARCHIVE_REJECTED)) == 8


def test_nothing_is_committed_before_kafka_has_the_refused_rows(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    _make_tables(settings)
    with constrained(settings, "visits", "person != 7"):
        _limit(settings, 100)  # bytes: Kafka refuses every dead letter
        publish(settings, topics.VISITS, orjson.dumps([visit(7), visit(8)]))
        with pytest.raises(SystemExit):
            role.run(settings, clock_ms, metrics_port(settings, "archive"), threading.Event())
        assert "could not put 1 refused rows aside" in caplog.text
        assert "truyvet topics apply" in caplog.text
        assert lag(settings) == 1
        _limit(settings, topics.ARCHIVE_REJECTED.max_message_bytes)
        with sink(settings):
            until(lambda: lag(settings) == 0, "now Kafka takes it")
    (letter,) = Installation(settings, settings.data).read(topics.ARCHIVE_REJECTED)
    assert orjson.loads(letter.value() or b"")["person"] == f"{7:016x}"


def _limit(settings: Settings, most: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(most), incremental_operation=AlterConfigOpType.SET)
    name = settings.topic(topics.ARCHIVE_REJECTED)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": settings.kafka_address})
    for future in client.incremental_alter_configs([resource]).values():
        future.result(10)


def test_a_value_that_kafka_would_never_take_is_cut(settings: Settings) -> None:
    value = b"x" * (topics.MOST_KEPT_BYTES + 1)
    source = Source(topics.SCANS_REJECTED, Record("scans.rejected", 0, 1, 2, value, ()), 0, value)
    Aside(settings).put([(source, ValueError("why"))])
    (letter,) = Installation(settings, settings.data).read(topics.ARCHIVE_REJECTED)
    assert letter.value() == value[:65_536]
    assert dict(headers_of(letter))["cut"] == b"%d" % len(value)


def test_what_kafka_deleted_unread_is_told(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    name = settings.topic(topics.VISITS)
    publish(settings, topics.VISITS, *(orjson.dumps([visit(it)]) for it in range(1, 12)), partition=0)
    with closing(group_of(settings)) as group:
        group.commit(offsets=[TopicPartition(name, 0, 1)], asynchronous=False)
    client = AdminClient({"bootstrap.servers": settings.kafka_address})
    for future in client.delete_records([TopicPartition(name, 0, 6)]).values():
        future.result(10)
    with caplog.at_level(logging.CRITICAL), sink(settings) as port:
        until(lambda: lag(settings) == 0, "it goes on")
        assert metric(port, f'truyvet_archive_lost_records_total{{topic="{name}"}}') == 5
    assert f"Kafka deleted 5 records of {name}/0 (offsets 1 to 5)" in caplog.text
    assert [row[2] for row in archive(settings)["visits"]] == [*range(7, 12)]
    with closing(group_of(settings)) as group:
        assert group.committed([TopicPartition(name, 0)], timeout=10)[0].offset == 11


def test_every_table_takes_a_row_of_its_own_once_more(settings: Settings) -> None:
    """It is how the sink knows that a table takes rows at all."""
    publish_all(settings)
    with sink(settings):
        until(lambda: lag(settings) == 0, "each table has rows")
    before = archive(settings)
    with _inserter(settings) as inserter:
        for table in COLUMNS:
            assert inserter.takes_again(table, 0), table
            assert not inserter.takes_again(table, 1_000), "it has not so many"
    assert archive(settings) == before
    with constrained(settings, "visits", "person = 0"), _inserter(settings) as inserter:
        assert not inserter.takes_again("visits", 0)


def _make_tables(settings: Settings) -> None:
    client = connection.connect(settings.clickhouse_url)
    migrate.migrate(client, clock_ms)
    client.disconnect()


@contextmanager
def _inserter(settings: Settings) -> Iterator[Inserter]:
    counters = Metrics(clock_ms)
    client = connection.connect(settings.clickhouse_url)
    patience = Patience(threading.Event(), counters, lambda *_: None)
    try:
        yield Inserter(client, patience, counters, lambda _: None, lambda: None)
    finally:
        client.disconnect()
