"""The gateway: every answer, on real Kafka, and never a 500."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import orjson
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from deploy.local.engines import free_ports
from deploy.local.memory import environment_of
from producers.gateway import app as app_module
from producers.gateway.app import create_app
from producers.gateway.posting import BodyError, Posted, read_posting
from producers.pseudonyms import pseudonym
from producers.publisher import Publisher
from schemas import topics
from schemas.codes import check_character
from schemas.events import SCAN
from schemas.settings import Settings
from stream_processors.records import Record, Records
from stream_processors.validation import validate
from tests.producers.test_publisher import read

CODE = "CDEFHJK" + check_character("CDEFHJK")
NOW = 1_767_000_000_000
DAY = 86_400_000
RETENTION = 30 * DAY
KEY = "a-device-key"
IDENTITY_KEY = "ab" * 32


def scan(**changes: Any) -> dict[str, Any]:
    base = {"scan_id": str(uuid.uuid4()), "person": "00c0ffee00c0ffee", "venue": CODE, "scanned_at": NOW}
    return {name: value for name, value in (base | changes).items() if value is not ...}


def posted_at(when: int) -> Posted:
    made = str(uuid.UUID(int=1))
    return Posted("gate-1", when, bytes.fromhex(IDENTITY_KEY), lambda: made, RETENTION)


def keyed(settings: Settings, **changes: Any) -> Settings:
    update = {"gateway_keys": {"gate-1": SecretStr(KEY)}, "identity_key": SecretStr(IDENTITY_KEY)}
    return settings.model_copy(update=update | changes)


@pytest.fixture
def gateway(settings: Settings) -> Iterator[tuple[FastAPI, Settings]]:
    own = keyed(settings, gateway_max_body=200_000)
    with Publisher(own.kafka_address, own.topic(topics.SCANS)) as publisher:
        yield create_app(own, publisher, lambda: NOW + 5), own


def call(app: FastAPI, body: Any, key: str | None = KEY, **more: str) -> httpx.Response:
    """Post a body: bytes, a stream of them, or what is to be JSON; `more` are headers."""

    async def go() -> httpx.Response:
        headers = ({"X-Api-Key": key} if key is not None else {}) | more
        content = body if isinstance(body, bytes | AsyncIterator) else orjson.dumps(body)
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return await client.post("/v1/scans", content=content, headers=headers)

    return asyncio.run(go())


def get(app: FastAPI, path: str) -> httpx.Response:
    async def go() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            return await client.get(path)

    return asyncio.run(go())


@pytest.mark.engines
def test_one_and_many_and_mixed(gateway: tuple[FastAPI, Settings]) -> None:
    app, settings = gateway
    one = call(app, scan(venue=f"https://truyvet.example/v/{CODE.lower()}", received_at=1, gateway="forged"))
    assert (one.status_code, one.json()["accepted"]) == (202, 1)
    named = call(app, scan(scan_id=..., person=..., identity=" 0905 123 456 "))
    made = named.json()["results"][0]["scan_id"]
    assert (named.status_code, uuid.UUID(made).version) == (202, 7)
    mixed = call(app, [scan(), scan(person="no"), scan(scanned_at="5"), 7, scan(venue="CCCC1")])
    assert mixed.status_code == 207
    results = mixed.json()["results"]
    assert [(result["index"], result.get("reason"), result.get("field")) for result in results] == [
        (0, None, None),
        (1, "invalid", "person"),
        (2, "invalid", "scanned_at"),
        (3, "malformed", None),
        (4, "invalid", "venue"),
    ]
    assert [result["accepted"] for result in results] == [True] + [False] * 4
    assert 'truyvet_gateway_scans_total{verdict="malformed"} 1.0' in get(app, "/metrics").text
    none = call(app, [scan(person="no")])
    assert (none.status_code, none.json()["refused"]) == (422, 1)
    ids, _ = read(settings, 3)
    assert made in ids
    assert len(ids) == 3


def test_what_is_added_and_what_is_not_taken() -> None:
    posted = posted_at(NOW + 5)
    body = orjson.dumps(
        scan(person=..., identity="Anh Tú", received_at=1, gateway="forged", phone="0905123456")
    )
    posting = read_posting(body, posted)
    stored = SCAN.validate_json(posting.scans[0])
    assert (stored.get("received_at"), stored.get("gateway")) == (NOW + 5, "gate-1")
    assert stored["person"] == pseudonym("  ANH TÚ", bytes.fromhex(IDENTITY_KEY))
    assert b"0905123456" not in posting.scans[0]
    assert "Tú".encode() not in posting.scans[0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"person": "00c0ffee00c0ffee", "identity": "x"}, "identity"),
        ({"person": ..., "identity": ""}, "identity"),
        ({"person": ..., "identity": "x" * 129}, "identity"),
        ({"person": ..., "identity": 5}, "identity"),
        ({"person": ...}, "person"),
        ({"party": 51}, "party"),
        ({"scan_id": 5}, "scan_id"),
        ({"kind": "leave"}, "kind"),
        ({"venue": {"code": CODE}}, "venue"),
        ({"person": ["00c0ffee00c0ffee"]}, "person"),
    ],
)
def test_a_bad_field_is_named_and_its_value_is_not(changes: dict[str, Any], field: str) -> None:
    problem = read_posting(orjson.dumps(scan(**changes)), posted_at(NOW)).problems[0]
    assert (problem.field, problem.reason) == (field, "invalid")
    without = dataclasses.replace(posted_at(NOW), identity_key=None)
    assert "TRUYVET_IDENTITY_KEY" in (
        read_posting(orjson.dumps(scan(person=..., identity="x")), without).problems[0].message
    )


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({}, "person", "person (or identity), venue, scanned_at are missing"),
        ({"identity": "x", "scanned_at": NOW}, "venue", "venue is missing"),
        ({"person": "no", "venue": CODE}, "scanned_at", "scanned_at is missing"),
    ],
)
def test_all_that_is_missing_is_named(body: dict[str, Any], field: str, message: str) -> None:
    problem = read_posting(orjson.dumps(body), posted_at(NOW)).problems[0]
    assert (problem.field, problem.message) == (field, message)


@pytest.mark.parametrize(
    ("scanned_at", "reason", "word"),
    [
        (NOW - RETENTION, None, ""),
        (NOW - RETENTION - 1, "too_old", "30 days"),
        (NOW + 5 * 60_000, None, ""),
        (NOW + 5 * 60_000 + 1, "in_future", "clock"),
        (NOW // 1000, "too_old", "are these seconds?"),
        (0, "too_old", "milliseconds"),
    ],
)
def test_a_time_that_ingest_would_refuse_is_told_and_not_published(
    scanned_at: int, reason: str | None, word: str
) -> None:
    good, bad = scan(), scan(scanned_at=scanned_at)
    posting = read_posting(orjson.dumps([bad, good]), posted_at(NOW))
    assert (1, good["scan_id"]) in posting.accepted
    assert len(posting.scans) == (2 if reason is None else 1)
    told = [(each.index, each.scan_id, each.field, each.reason) for each in posting.problems]
    assert told == ([] if reason is None else [(0, bad["scan_id"], "scanned_at", reason)])
    assert all(each.message.startswith(f"{reason}: ") and word in each.message for each in posting.problems)


@given(
    st.integers(-RETENTION - 5, 5 * 60_000 + 5)
    | st.sampled_from([edge + by for edge in (-RETENTION, 5 * 60_000) for by in (-1, 0, 1)]),
    st.integers(1, 40),
)
def test_the_gateway_and_ingest_agree_about_time(after: int, days: int) -> None:
    posted = dataclasses.replace(posted_at(NOW), retention_ms=days * DAY)
    body = orjson.dumps(scan(scanned_at=NOW + after))
    posting = read_posting(body, posted)
    told = [each.reason for each in posting.problems]
    # as another gateway would have written it to the topic
    record = Records.of([Record(body, 0, NOW)])
    verdicts = validate(record, dict.fromkeys, days * DAY).rejected
    assert told == [each.reason for each in verdicts]


@pytest.mark.engines
def test_a_time_that_cannot_be_is_refused_in_the_answer(gateway: tuple[FastAPI, Settings]) -> None:
    app, settings = gateway
    alone = call(app, scan(scanned_at=NOW // 1000))
    assert (alone.status_code, alone.json()["results"][0]["reason"]) == (422, "too_old")
    unnamed = call(app, scan(scan_id=..., scanned_at=0)).json()["results"][0]
    assert "scan_id" not in unnamed, "what is not taken is given no id"
    mixed = call(app, [scan(scanned_at=NOW + 3_600_000), scan(), scan(scanned_at=NOW - 40 * DAY)])
    assert mixed.status_code == 207
    assert [each.get("reason") for each in mixed.json()["results"]] == ["in_future", None, "too_old"]
    assert len(read(settings, 1)[0]) == 1
    said = get(app, "/metrics").text
    for verdict, count in (("accepted", 1), ("too_old", 3), ("in_future", 1)):
        assert f'truyvet_gateway_scans_total{{verdict="{verdict}"}} {count}.0' in said


@pytest.mark.parametrize("depth", [100, 250, 900, 1000])
@pytest.mark.parametrize("field", ["person", "scanned_at", "identity", "note"])
def test_deep_nesting_is_a_refusal_and_not_a_fault(field: str, depth: int) -> None:
    posted = posted_at(NOW)
    body = b'[{"%s":%s%s}]' % (field.encode(), b"[" * depth, b"]" * depth)
    assert len(read_posting(body, posted).problems) == 1


@pytest.mark.engines
def test_refusals_of_the_whole_request(gateway: tuple[FastAPI, Settings]) -> None:
    app, _ = gateway
    assert call(app, scan(), key=None).status_code == 401
    assert call(app, scan(), key="wrong").status_code == 401
    assert call(app, b"{").status_code == 400
    assert call(app, b"[" * 100_000).status_code == 400
    assert call(app, b"7").status_code == 400
    assert (call(app, []).status_code, call(app, []).json()) == (400, {"error": "the array has no scans"})
    assert call(app, [scan()] * 1001).status_code == 413
    assert call(app, b" " * 200_001).status_code == 413

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 1000

    assert call(app, chunks()).status_code == 413
    assert call(app, b"[]", **{"Content-Length": "9" * 5000}).status_code == 413


@pytest.mark.engines
def test_a_compressed_body_is_refused_before_it_is_read(gateway: tuple[FastAPI, Settings]) -> None:
    app, _ = gateway
    read_so_far: list[bytes] = []

    async def zipped() -> AsyncIterator[bytes]:
        read_so_far.append(b"\x1f\x8b")
        yield b"\x1f\x8b"

    refused = call(app, zipped(), **{"Content-Encoding": "gzip"})
    assert (refused.status_code, refused.headers["Accept-Encoding"]) == (415, "identity")
    assert read_so_far == []
    assert refused.json() == {"error": "Content-Encoding is gzip: post the body uncompressed"}
    assert call(app, [scan()], key=None, **{"Content-Encoding": "gzip"}).status_code == 401
    long = call(app, b"", **{"Content-Encoding": "gzip, " * 1000})
    assert (long.status_code, len(long.content) < 200) == (415, True)
    for none in ("identity", "Identity", ""):
        assert call(app, scan(), **{"Content-Encoding": none}).status_code == 202


@pytest.mark.engines
def test_a_body_that_stops_half_way(
    gateway: tuple[FastAPI, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = gateway
    monkeypatch.setattr(app_module, "BODY_TIMEOUT_S", 0.2)

    async def never() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.sleep(30)

    assert call(app, never()).status_code == 408


@pytest.mark.engines
def test_probes_metrics_and_openapi(gateway: tuple[FastAPI, Settings]) -> None:
    app, _ = gateway
    call(app, scan())
    assert get(app, "/healthz").json() == {"status": "ok"}
    assert get(app, "/readyz").status_code == 200
    assert 'truyvet_gateway_scans_total{verdict="accepted"} 1.0' in get(app, "/metrics").text
    described = get(app, "/openapi.json").json()["paths"]["/v1/scans"]["post"]
    assert {"202", "207", "400", "401", "408", "413", "415", "422", "503"} <= set(described["responses"])
    assert all("example" in each["content"]["application/json"] for each in described["responses"].values())
    content = described["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        jsonschema.validate(example["value"], content["schema"])
        assert call(app, example["value"]).status_code == 202
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(scan(person=...), content["schema"])


@pytest.mark.engines
def test_the_page_for_people_needs_no_internet(gateway: tuple[FastAPI, Settings]) -> None:
    app, _ = gateway
    answer = get(app, "/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = answer.text
    loaded = re.findall(r"<(?:script|link|img|iframe)|(?:src|href)=\"([^\"]*)\"|@import|url\(", text)
    assert loaded == ["openapi.json"]
    document = get(app, "/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f"{method.upper()} {path}" in text
            assert all(f"<td>{code}<td>" in text for code in operation["responses"])
    assert "Header X-Api-Key" in text
    assert "identity" in text and "scans.rejected as unknown_venue" in text
    assert get(app, "/redoc").status_code == 404


def test_a_broker_that_is_away_is_503_and_not_ready() -> None:
    settings = keyed(Settings(kafka=f"127.0.0.1:{free_ports(1)[0]}"))
    with Publisher(settings.kafka_address, "scans", delivery_timeout_s=1, max_waiting=5) as publisher:
        app = create_app(settings, publisher, lambda: NOW)
        answer = call(app, scan())
        assert (answer.status_code, int(answer.headers["Retry-After"]) > 0) == (503, True)
        assert get(app, "/readyz").status_code == 503
        publisher.submit([b"{}"] * 5)
        full = call(app, scan())
        assert full.status_code == 503
        publisher.flush(5)
        assert get(app, "/healthz").status_code == 200
        publisher.close()
        assert call(app, scan()).status_code == 503
        assert get(app, "/healthz").status_code == 503


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["scan_id", "person", "identity", "venue", "scanned_at", "kind", "source", "party"])
bodies = st.one_of(
    st.binary(max_size=60),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.lists(
        st.dictionaries(names, json_values, max_size=6).map(lambda extra: scan() | extra), max_size=4
    ).map(lambda items: json.dumps(items).encode()),
)


@pytest.mark.parametrize("body", [b"{", b"7", b'"text"', b"[]", b"null"])
def test_a_body_without_a_scan_is_refused_as_a_whole_where_ingest_says_malformed(body: bytes) -> None:
    with pytest.raises(BodyError) as error:
        read_posting(body, posted_at(NOW))
    assert error.value.status == 400
    (verdict,) = validate(Records.of([Record(body, 0, NOW)]), dict.fromkeys, RETENTION).rejected
    assert verdict.reason == "malformed"


@pytest.mark.parametrize("odd", [5, None, "text", [], [{}], True])
def test_the_gateway_and_ingest_agree_about_what_is_no_object(odd: Any) -> None:
    body = orjson.dumps([scan(), odd, {}])
    told = [(each.index, each.reason) for each in read_posting(body, posted_at(NOW)).problems]
    verdicts = validate(Records.of([Record(body, 0, NOW)]), dict.fromkeys, RETENTION).rejected
    assert told == [(each.index, each.reason) for each in verdicts] == [(1, "malformed"), (2, "invalid")]


@given(bodies)
def test_no_body_breaks_the_gateway_and_what_is_accepted_is_valid(body: bytes) -> None:
    posted = posted_at(NOW)
    try:
        posting = read_posting(body, posted)
    except BodyError as error:
        assert error.status in {400, 413}
        return
    assert len(posting.accepted) + len(posting.problems) == posting.total
    for encoded in posting.scans:
        SCAN.validate_json(encoded)


def test_pseudonyms_are_keyed_and_normalised() -> None:
    # HMAC-SHA-256, RFC 4231 test case 2: key "Jefe"
    assert pseudonym("what do ya want for nothing?", b"Jefe") == "5bdcc146bf60754e"
    assert pseudonym(" Ế ", b"k") == pseudonym("e\u0302\u0301", b"k")
    assert pseudonym("x", b"k") != pseudonym("x", b"l")


@pytest.mark.engines
def test_a_real_process_answers_drains_and_says_nothing_of_anybody(
    settings: Settings, tmp_path: Path
) -> None:
    own = keyed(settings)
    command = [sys.executable, "-m", "truyvet", "run", "gateway"]
    environment = {**os.environ, **environment_of(own)}
    log = tmp_path / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(command, env=environment, stderr=written)
    try:
        base = f"http://127.0.0.1:{own.gateway_port}"
        deadline = time.monotonic() + 30
        while True:
            try:
                assert httpx.get(f"{base}/readyz").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        now = {"scanned_at": time.time_ns() // 1_000_000}
        answer = httpx.post(
            f"{base}/v1/scans",
            json=[scan(**now), scan(person=..., identity="0905 123 456", **now)],
            headers={"X-Api-Key": KEY},
        )
        assert answer.status_code == 202
        assert len(read(own, 2)[0]) == 2
        with socket.create_connection(("127.0.0.1", own.gateway_port)) as half:
            head = f"POST /v1/scans HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Length: 100\r\n\r\n["
            half.sendall(head.encode())
            time.sleep(0.3)  # it must have begun to read before the device goes away
        second = subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False)
        assert second.returncode == 2
        assert str(own.gateway_port).encode() in second.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    said = log.read_text()
    assert "Traceback" not in said
    assert "Finished server process" in said  # the log was there
    assert "0905" not in said
