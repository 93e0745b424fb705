"""The gateway's HTTP surface."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Annotated, Any, Final

import uuid_utils
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from fastapi import FastAPI, Request, Response, Security, status
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field

from producers.gateway.posting import BodyError, Posted, Posting, read_posting
from producers.publisher import NotDeliveredError, Publisher, QueueFullError
from schemas import topics
from schemas.events import SCAN
from schemas.settings import Settings

RETRY_AFTER_S: Final = 5
# A readiness probe must answer before its caller gives up on it.
READY_TIMEOUT_S: Final = 2.0

_KEY: Final = APIKeyHeader(name="X-Api-Key", auto_error=False, description="One key a gateway device")


class ScanResult(BaseModel):
    """What became of one scan of the request."""

    index: int = Field(description="Place in the posted array; 0 for a single scan")
    scan_id: str | None
    accepted: bool
    field: str | None = Field(default=None, description="The field that is wrong")
    error: str | None = None


class PostAnswer(BaseModel):
    """What became of a request's scans; `results` in the order of the request."""

    accepted: int
    refused: int
    results: list[ScanResult]


class ErrorAnswer(BaseModel):
    """Why a whole request was not taken."""

    error: str


_EXAMPLE: Final = {
    "scan_id": "01936d2e-8c5a-7b3e-9f10-2a4b6c8d0e1f",
    "person": "00c0ffee00c0ffee",
    "venue": "CDEFC8",
    "scanned_at": 1795395000000,
    "kind": "in",
}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": PostAnswer, "description": "All scans are in: Kafka has acknowledged them"},
    207: {"model": PostAnswer, "description": "Some scans are bad; the good ones are in"},
    400: {"model": ErrorAnswer, "description": "The body is not JSON"},
    401: {"model": ErrorAnswer, "description": "No key of a known device"},
    413: {"model": ErrorAnswer, "description": "Too many scans or bytes"},
    422: {"model": PostAnswer | ErrorAnswer, "description": "No scan is good"},
    503: {
        "model": ErrorAnswer,
        "description": "Kafka is away or the queue is full: post the same scans again, same scan_ids",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}},
    },
}


def _body_schema() -> dict[str, Any]:
    scan = SCAN.json_schema()
    properties = scan["properties"] | {
        "identity": {
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "description": "Instead of person: the gateway turns it into the pseudonym, and forgets it",
        }
    }
    for name in ("received_at", "gateway"):
        properties.pop(name)  # the gateway's own
    one = {"type": "object", "title": "Scan", "properties": properties, "required": ["venue", "scanned_at"]}
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": 1000}
    content = {"application/json": {"schema": {"anyOf": [one, many]}, "example": _EXAMPLE}}
    return {"requestBody": {"required": True, "content": content}}


class _Metrics:
    def __init__(self, publisher: Publisher) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "truyvet_gateway_requests", "Requests by status", ["status"], registry=self.registry
        )
        self.scans = Counter(
            "truyvet_gateway_scans", "Scans accepted and refused", ["verdict"], registry=self.registry
        )
        self.seconds = Histogram(
            "truyvet_gateway_publish_seconds",
            "From a request's scans to Kafka's acknowledgement",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
            registry=self.registry,
        )
        waiting = Gauge("truyvet_gateway_waiting_scans", "Scans not yet acknowledged", registry=self.registry)
        waiting.set_function(lambda: publisher.counts.waiting)


class _TooLargeError(Exception):
    pass


async def _read_body(request: Request, limit: int) -> bytes:
    """The body, never more than `limit` of it in memory, whatever Content-Length says."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _TooLargeError
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _TooLargeError
        parts.append(part)
    return b"".join(parts)


def _answer(posting: Posting) -> tuple[int, PostAnswer]:
    results = [ScanResult(index=index, scan_id=scan_id, accepted=True) for index, scan_id in posting.accepted]
    results += [
        ScanResult(
            index=problem.index,
            scan_id=problem.scan_id,
            accepted=False,
            field=problem.field or None,
            error=problem.message,
        )
        for problem in posting.problems
    ]
    results.sort(key=lambda result: result.index)
    code = 202 if not posting.problems else 207 if posting.accepted else 422
    return code, PostAnswer(accepted=len(posting.accepted), refused=len(posting.problems), results=results)


def _error(code: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, code, headers)


def create_app(settings: Settings, publisher: Publisher, clock_ms: Callable[[], int]) -> FastAPI:
    """The application; the publisher is the caller's to close."""
    app = FastAPI(
        title="Truy vết gateway",
        version="1",
        description="Post scans; an answer of 2xx comes only after Kafka has acknowledged them.",
    )
    metrics = _Metrics(publisher)
    devices = {device: key.get_secret_value().encode() for device, key in settings.gateway_keys.items()}
    key = settings.identity_key
    identity_key = bytes.fromhex(key.get_secret_value()) if key is not None else None
    admin = AdminClient({"bootstrap.servers": settings.kafka_address, "log_level": 0})

    def device_of(given: str | None) -> str | None:
        found = None
        for device, secret in devices.items():  # every key is compared: the time tells nothing
            if given is not None and hmac.compare_digest(secret, given.encode("utf-8", "replace")):
                found = device
        return found

    async def post(request: Request, given: str | None) -> Response:
        device = device_of(given)
        if device is None:
            return _error(401, "X-Api-Key is missing or of no known device (TRUYVET_GATEWAY_KEYS)")
        try:
            body = await _read_body(request, settings.gateway_max_body)
            posted = Posted(device, clock_ms(), identity_key, lambda: str(uuid_utils.uuid7()))
            posting = read_posting(body, posted)
        except _TooLargeError:
            return _error(413, f"a body has at most {settings.gateway_max_body} bytes")
        except BodyError as error:
            return _error(error.status, str(error))
        if posting.scans:
            began = time.perf_counter()
            try:
                await publisher.publish(posting.scans)
            except (QueueFullError, NotDeliveredError):
                retry = {"Retry-After": str(RETRY_AFTER_S)}
                return _error(503, "Kafka is away or too much waits: post the same scans again", retry)
            metrics.seconds.observe(time.perf_counter() - began)
        metrics.scans.labels("accepted").inc(len(posting.accepted))
        metrics.scans.labels("refused").inc(len(posting.problems))
        code, answer = _answer(posting)
        return JSONResponse(answer.model_dump(exclude_none=True), code)

    @app.post(
        "/v1/scans",
        status_code=status.HTTP_202_ACCEPTED,
        responses=_ANSWERS,
        openapi_extra=_body_schema(),
        summary="Post one scan or up to 1,000",
    )
    async def scans(
        request: Request,
        given: Annotated[str | None, Security(_KEY)] = None,
    ) -> Response:
        """Every scan is judged by itself; post again with the same scan_ids when in doubt."""
        response = await post(request, given)
        metrics.requests.labels(str(response.status_code)).inc()
        return response

    @app.get("/healthz", summary="Does the process live?")
    async def healthz() -> dict[str, str]:
        """It does when it answers."""
        return {"status": "ok"}

    @app.get("/readyz", summary="Can it take scans?", responses={503: {"model": ErrorAnswer}})
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

    return app
