"""Single records that once ended a worker for good, or may: each is got over, and told."""

from __future__ import annotations

import random
from pathlib import Path

import orjson
import pytest
import redis
from clickhouse_driver import Client
from confluent_kafka import Message, Producer
from typer.testing import CliRunner

from deploy.cli import rejected
from deploy.local.memory import environment_of
from deploy.rebuild import rebuild
from producers.cases import read_cases
from schemas import topics
from schemas.events import Case
from schemas.kafka import headers_of
from schemas.settings import Settings
from tests.bad_input.strange import RawName, Strange, write_batch
from tests.stream.harness import HOUR, MINUTE, installed, now_ms, person

STRANGE = [(RawName(b"\xff\xfe"), b"1"), ("arrival", None)]


def texts(message: Message) -> dict[str, str]:
    return {name: (value or b"").decode() for name, value in headers_of(message)}


@pytest.mark.engines
def test_header_names_that_are_no_text(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition with one stood for ever: the clients raise, at every start again."""

    def put(topic: topics.Topic, records: list[Strange]) -> int:
        return write_batch(settings.kafka_address, settings.topic(topic), records)

    with installed(settings, tmp_path, "ingest", "cases", "matcher", "archive") as here:
        venue, at = here.venue(), now_ms() - HOUR
        scans = [
            {"scan_id": f"00000000-0000-4000-8000-{n:012}", "person": person(n), "venue": venue}
            | {"scanned_at": at + n * MINUTE}
            for n in range(6)
        ]
        good = [Strange(orjson.dumps(scan), now_ms(), headers=[("x", b"y")]) for scan in scans]
        odd = [Strange(orjson.dumps(scan), now_ms(), headers=STRANGE) for scan in scans]
        bad = Strange(b"{", now_ms(), headers=STRANGE)
        untimed = Strange(orjson.dumps(scans[0]), -1)
        batch = [good[0], bad, odd[1], good[2], bad, odd[3]]
        for topic in topics.TOPICS.values():
            if topic not in {topics.SCANS, topics.CASES, topics.TOUCHED}:
                put(topic, [Strange(b"{}", now_ms(), b"k", STRANGE)])
        first = put(topics.SCANS, batch)
        put(topics.SCANS, [good[4], odd[5], untimed])
        window = {"infectious_from": at, "infectious_to": at + HOUR}
        case = Case.model_validate(
            {"case_id": "k", "version": 1, "status": "confirmed", "person": person(0)} | window
        )
        in_cases = [Strange(b"{", now_ms(), b"b", STRANGE), Strange(case.to_json(), now_ms(), b"k", STRANGE)]
        put(topics.CASES, in_cases)
        here.settle(["ingest", "cases", "matcher", "archive"])

        visits = {visit["person"] for record in here.values(topics.VISITS) for visit in record}
        assert visits == {scan["person"] for scan in scans}
        refused = [texts(message) for message in here.read(topics.SCANS_REJECTED) if headers_of(message)]
        assert {(each["reason"], each["source-offset"]) for each in refused} == {
            ("malformed", str(first + 1)),
            ("malformed", str(first + 4)),
            ("in_future", str(first + 8)),
        }
        assert {each["arrival"] for each in refused if each["reason"] == "in_future"} == {"0"}
        reasons = [texts(m)["reason"] for m in here.read(topics.CASES_REJECTED) if headers_of(m)]
        assert reasons == ["malformed"]
        exposed = {exposure.get("person") for exposure in here.values(topics.EXPOSURES)}
        assert exposed - {None} == {person(number) for number in range(1, 6)}
        for name, value in environment_of(settings).items():
            monkeypatch.setenv(name, value)
        for call in (["list"], ["replay"], ["show", "cases.rejected/0/0"]):
            result = CliRunner().invoke(rejected.commands, call)
            assert result.exit_code == 0, result.output


@pytest.mark.engines
def test_values_that_were_compressed_better_than_we_can(settings: Settings, tmp_path: Path) -> None:
    """They come in below the topic's bound and would not get out again: the worker died of each, for ever."""
    made = random.Random(1)
    values = [
        bytes(made.choices(b"01", k=5_000_000)),
        b"[" + bytes(made.choices(b"01,", k=3_000_000)) + b"]",
        b"x" * 10_000_000,
        b"x" * 60_000_000,
        made.randbytes(1_040_000),
    ]
    problems: list[object] = []
    sender = Producer(
        {
            "bootstrap.servers": settings.kafka_address,
            "compression.type": "zstd",
            "compression.level": 12,
            "message.max.bytes": 100_000_000,
        }
    )
    with installed(settings, tmp_path, "ingest", "cases", "archive") as here:
        venue = here.venue()
        for value in values:
            for topic in (topics.SCANS, topics.CASES):
                sender.produce(
                    settings.topic(topic),
                    value,
                    value[:900_000] if value[:1] == b"0" else b"k",
                    partition=0,
                    on_delivery=lambda error, _: problems.append(error) if error else None,
                )
        assert sender.flush(60) == 0
        assert problems == []
        here.scan(person(1), venue, now_ms())
        here.settle(["ingest", "cases", "archive"])
        for topic in (topics.SCANS_REJECTED, topics.CASES_REJECTED):
            found = sorted(here.read(topic), key=lambda message: int(texts(message)["source-offset"]))
            assert [message.value() for message in found] == [
                value if len(value) <= topics.MOST_KEPT_BYTES else value[:65_536] for value in values
            ]
            assert [texts(message).get("cut") for message in found] == [None, None, None, "60000000", None]
            assert all(len(message.key() or b"") <= 1_024 for message in found)
        assert len(here.values(topics.VISITS)) == 1
        client = Client.from_url(settings.clickhouse_url)
        stored = client.execute("SELECT length(value) FROM rejected")
        client.disconnect()
        assert sorted(size for (size,) in stored) == sorted(
            2 * [len(value) if len(value) <= topics.MOST_KEPT_BYTES else 65_536 for value in values]
        )


@pytest.mark.engines
def test_a_rebuild_does_not_take_what_was_refused(settings: Settings, tmp_path: Path) -> None:
    """A case under another's key stands nowhere; after a rebuild from the topic it would have stood."""
    at = now_ms()
    window = {"infectious_from": at - HOUR, "infectious_to": at}
    with installed(settings, tmp_path, "cases", "archive") as here:
        for name, key, extra in (("good", "good", ""), ("stray", "other", ""), ("odd", "odd", ',"x":NaN}')):
            case = Case.model_validate(
                {"case_id": name, "version": 1, "status": "confirmed", "person": person(1)} | window
            )
            value = case.to_json()
            here.send(topics.CASES, value[:-1] + extra.encode() if extra else value, key)
        here.settle(["cases", "archive"])
        assert len(here.read(topics.CASES_REJECTED)) == 2
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as store:
        kept = {key.rpartition(":")[2] for key in store.scan_iter("k:*")}
        store.flushdb()
        assert rebuild(settings)
        assert {key.rpartition(":")[2] for key in store.scan_iter("k:*")} == kept == {"good"}
    assert set(read_cases(settings).cases) == {"good"}
