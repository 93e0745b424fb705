"""The gateway's HTTP surface."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Annotated, Final

import uuid_utils
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from fastapi import FastAPI, Request, Response, Security, status
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect

from producers.gateway.described import ANSWERS, PROBES, PostAnswer, ScanResult, body_schema
from producers.gateway.posting import BodyError, Posted, Posting, read_posting
from producers.publisher import ClosedError, NotDeliveredError, Publisher, QueueFullError
from schemas import topics
from schemas.settings import Settings

RETRY_AFTER_S: Final = 5
# A readiness probe must answer before its caller gives up on it.
READY_TIMEOUT_S: Final = 2.0
# A device that stops in mid-body must not hold a connection and its memory for ever.
BODY_TIMEOUT_S: Final = 20.0

_KEY: Final = APIKeyHeader(name="X-Api-Key", auto_error=False, description="One key a gateway device")


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


async def _read_body(request: Request, limit: int) -> bytes:
    """The body, never more than `limit` of it in memory, whatever Content-Length says. Raises BodyError."""
    too_large = BodyError(413, f"a body has at most {limit} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > limit):
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise BodyError(408, f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s: post again") from None
    except ClientDisconnect:  # nobody hears the answer; it is counted
        raise BodyError(400, "the body ended early: post again") from None
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
        except BodyError as error:
            return _error(error.status, str(error))
        if posting.scans:
            began = time.perf_counter()
            try:
                await publisher.publish(posting.scans)
            except (QueueFullError, NotDeliveredError, ClosedError):
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
        responses=ANSWERS,
        openapi_extra=body_schema(),
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

    return app
