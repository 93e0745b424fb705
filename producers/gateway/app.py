"""The gateway's HTTP surface."""

from __future__ import annotations

import asyncio
import hashlib
import operator
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import uuid_utils
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from fastapi import FastAPI, Request, Response, Security, status
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import APIKeyHeader
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Receive, Scope, Send

from producers.gateway.described import ABOUT, ANSWERS, PROBES, body_schema
from producers.gateway.page import page
from producers.gateway.posting import BodyError, Posted, Posting, read_posting
from producers.gateway.together import Together
from producers.publisher import ClosedError, NotDeliveredError, Publisher, QueueFullError
from schemas import topics
from schemas.settings import Settings

PATH: Final = "/v1/scans"
RETRY_AFTER_S: Final = 5
# A readiness probe must answer before its caller gives up on it.
READY_TIMEOUT_S: Final = 2.0
# A device that stops in mid-body must not hold a connection and its memory for ever.
BODY_TIMEOUT_S: Final = 20.0
# Of a header that is told back.
_MOST_TOLD: Final = 40

Headers = Sequence[tuple[bytes, bytes]]

# As ingest calls them.
_VERDICTS: Final = ("accepted", "malformed", "invalid", "too_old", "in_future")

_KEY: Final = APIKeyHeader(
    name="X-Api-Key", auto_error=False, description="The key of the device (TRUYVET_GATEWAY_KEYS)"
)


class _Metrics:
    def __init__(self, publisher: Publisher) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "truyvet_gateway_requests", "Requests by status", ["status"], registry=self.registry
        )
        scans = Counter("truyvet_gateway_scans", "Scans by verdict", ["verdict"], registry=self.registry)
        self.scans = {verdict: scans.labels(verdict) for verdict in _VERDICTS}
        self.seconds = Histogram(
            "truyvet_gateway_publish_seconds",
            "From a request's scans to Kafka's acknowledgement",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
            registry=self.registry,
        )
        waiting = Gauge("truyvet_gateway_waiting_scans", "Scans not yet acknowledged", registry=self.registry)
        waiting.set_function(lambda: publisher.counts.waiting)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Status, JSON and headers of their own."""

    code: int
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()


def _new_scan_id() -> str:
    return str(uuid_utils.uuid7())


async def _read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The body, never more than `limit` of it in memory, whatever Content-Length says. Raises BodyError."""
    too_large = BodyError(413, f"a body has at most {limit} bytes")
    length = _header(headers, b"content-length") or b""
    if length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise too_large
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":  # nobody hears the answer; it is counted
                    raise BodyError(400, "the body ended early: post again")
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        raise BodyError(408, f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s: post again") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _header(headers: Headers, name: bytes) -> bytes | None:
    """The first header of a name in small letters."""
    for known, value in headers:
        if known == name:
            return value
    return None


def _encoding(headers: Headers) -> str | None:
    """What the body is encoded with, such as gzip; None when it comes as it is."""
    named = (_header(headers, b"content-encoding") or b"").decode("latin-1").strip()
    return None if named.lower() in {"", "identity"} else named


def _answer(posting: Posting) -> _Answer:
    """As PostAnswer describes it."""
    results: list[dict[str, Any]] = [
        {"index": index, "scan_id": scan_id, "accepted": True} for index, scan_id in posting.accepted
    ]
    for problem in posting.problems:
        about = {
            "scan_id": problem.scan_id,
            "accepted": False,
            "reason": problem.reason,
            "field": problem.field or None,
        }
        told = {name: value for name, value in about.items() if value is not None}
        results.append({"index": problem.index, **told, "error": problem.message})
    if posting.problems:
        results.sort(key=operator.itemgetter("index"))
    code = 202 if not posting.problems else 207 if posting.accepted else 422
    counts = {"accepted": len(posting.accepted), "refused": len(posting.problems)}
    return _Answer(code, orjson.dumps({**counts, "results": results}))


def _refusal(code: int, message: str, *headers: tuple[bytes, bytes]) -> _Answer:
    return _Answer(code, orjson.dumps({"error": message}), headers)


def _error(code: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, code, headers)


class _Gateway(FastAPI):
    """The application, with a short cut to the one route that is asked thousands of times a second.

    FastAPI's way to a handler costs more than all that the handler does. `post` answers (headers, receive).
    """

    post_scans: Callable[[Headers, Receive], Awaitable[_Answer]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            return
        answer = await self.post_scans(scope["headers"], receive)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer.body)).encode()),
            *answer.headers,
        ]
        await send({"type": "http.response.start", "status": answer.code, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


def _device_finder(settings: Settings) -> Callable[[bytes | None], str | None]:
    """From what stands in X-Api-Key to the device; none: no known key.

    Found by a hash of the key: as fast with ten thousand devices as with one, and the time that it takes
    tells nothing about any key.
    """

    def hashed(key: bytes) -> bytes:
        return hashlib.sha256(key).digest()

    devices = {
        hashed(key.get_secret_value().encode()): device for device, key in settings.gateway_keys.items()
    }

    def device_of(given: bytes | None) -> str | None:
        # a header is Latin-1, by HTTP
        return devices.get(hashed(given.decode("latin-1").encode())) if given else None

    return device_of


def create_app(settings: Settings, publisher: Publisher, clock_ms: Callable[[], int]) -> FastAPI:
    """The application; the publisher is the caller's to close."""
    app = _Gateway(
        title="Truy vết gateway",
        version="1",
        description=ABOUT,
        docs_url=None,  # FastAPI's pages load their scripts from the internet
        redoc_url=None,
    )
    metrics = _Metrics(publisher)
    key = settings.identity_key
    identity_key = bytes.fromhex(key.get_secret_value()) if key is not None else None
    admin = AdminClient({"bootstrap.servers": settings.kafka_address, "log_level": 0})
    device_of = _device_finder(settings)
    together = Together(publisher)
    retention_ms = settings.retention_days * topics.DAY_MS

    async def judge(headers: Headers, receive: Receive) -> _Answer:
        device = device_of(_header(headers, b"x-api-key"))
        if device is None:
            return _refusal(401, "X-Api-Key is missing or of no known device (TRUYVET_GATEWAY_KEYS)")
        if (encoding := _encoding(headers)) is not None:
            said = f"Content-Encoding is {encoding[:_MOST_TOLD]}: post the body uncompressed"
            return _refusal(415, said, (b"accept-encoding", b"identity"))
        try:
            body = await _read_body(headers, receive, settings.gateway_max_body)
            posting = read_posting(body, Posted(device, clock_ms(), identity_key, _new_scan_id, retention_ms))
        except BodyError as error:
            return _refusal(error.status, str(error))
        if posting.scans:
            began = time.perf_counter()
            try:
                await together.publish(posting.scans)
            except (QueueFullError, NotDeliveredError, ClosedError):
                retry = (b"retry-after", str(RETRY_AFTER_S).encode())
                return _refusal(503, "Kafka is away or too much waits: post the same scans again", retry)
            metrics.seconds.observe(time.perf_counter() - began)
        metrics.scans["accepted"].inc(len(posting.accepted))
        for problem in posting.problems:
            metrics.scans[problem.reason].inc()
        return _answer(posting)

    async def post(headers: Headers, receive: Receive) -> _Answer:
        answer = await judge(headers, receive)
        metrics.requests.labels(str(answer.code)).inc()
        return answer

    app.post_scans = post

    @app.post(
        PATH,
        status_code=status.HTTP_202_ACCEPTED,
        responses=ANSWERS,
        openapi_extra=body_schema(clock_ms()),
        summary="Post one scan or up to 1,000",
        dependencies=[Security(_KEY)],
    )
    async def scans(request: Request) -> Response:
        """Every scan is judged by itself; post again with the same scan_ids when in doubt."""
        # by another path to the same route (a prefix of a proxy); else the short cut has answered
        answer = await post(request.scope["headers"], request.receive)
        known = {name.decode(): value.decode() for name, value in answer.headers}
        return Response(answer.body, answer.code, known, "application/json")

    @app.get("/healthz", summary="Does the process live?", responses=PROBES)
    async def healthz() -> Response:
        """It does when it answers and its sender works; after a 503 only a restart helps."""
        if not publisher.running:
            return _error(503, "the sender to Kafka has ended: restart the gateway")
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", summary="Can it take scans?", responses=PROBES)
    async def readyz() -> Response:
        """It can when Kafka answers and the topic is there."""
        name = settings.topic(topics.SCANS)
        try:
            found = await asyncio.to_thread(lambda: admin.list_topics(name, timeout=READY_TIMEOUT_S))
        except KafkaException as error:
            return _error(503, f"Kafka does not answer: {error.args[0].str()}")
        if (topic := found.topics.get(name)) is None or topic.error is not None:
            return _error(503, f"the topic {name} is not there: truyvet topics apply")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", include_in_schema=False)
    async def exposition() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page(app.openapi()))

    return app
