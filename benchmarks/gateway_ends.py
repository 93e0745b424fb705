"""The two ends of benchmarks/gateway.py, each a process: the server with its no-op endpoints, and the load.

serve: the gateway as `truyvet run gateway` runs it, with two endpoints more, which do nothing: /noop, as one
writes it with FastAPI (the body is read, the answer is empty), and /bare, below FastAPI.
load PORT PATH SCANS SECONDS CONNECTIONS RATE: posts prepared requests over connections that are kept open, as
fast as they are answered (RATE 0) or so many a second; prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid
from collections import deque
from typing import Any, Final

import orjson
import uvloop
from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from benchmarks.running import percentile
from producers.gateway.server import serve
from schemas.codes import new_code
from schemas.settings import load_settings

KEY: Final = "benchmark"
_PREPARED_SCANS: Final = 20_000


async def _bare(_: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _with_noops(app: FastAPI) -> Any:
    @app.post("/noop", status_code=202)
    async def noop(request: Request) -> Response:
        await request.body()
        return Response(status_code=202)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (_bare if scope.get("path") == "/bare" else app)(scope, receive, send)

    return either


def _requests(path: str, scans: int) -> list[bytes]:
    chance = random.Random(7)
    venues = [new_code((), choose=chance.choice) for _ in range(900)]
    now = time.time_ns() // 1_000_000
    made = []
    for _ in range(max(20, _PREPARED_SCANS // scans)):
        body = [
            {
                "scan_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
                "person": f"{chance.randrange(350_000):016x}",
                "venue": chance.choice(venues),
                "scanned_at": now - chance.randrange(3_600_000),
                "kind": "in",
            }
            for _ in range(scans)
        ]
        content = orjson.dumps(body[0] if scans == 1 else body)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: gateway\r\nX-Api-Key: {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        made.append(head.encode() + content)
    return made


class _Load:
    """All connections together. `rate` requests a second; 0: the next as soon as one is answered.

    At a rate, a latency counts from when the request was due, so that a server that stalls cannot hide it.
    """

    def __init__(self, requests: list[bytes], rate: float) -> None:
        self.requests = requests
        self.rate = rate
        self.sent = 0
        self.idle: deque[_Connection] = deque()
        self.late: deque[float] = deque()
        self.latencies: list[float] = []
        self.refused = 0
        self.running = True

    def take(self, connection: _Connection) -> None:
        """A connection is free."""
        if not self.running:
            return
        if not self.rate:
            connection.post(time.perf_counter())
        elif self.late:
            connection.post(self.late.popleft())
        else:
            self.idle.append(connection)

    async def pace(self) -> None:
        """Send what is due."""
        began, due = time.perf_counter(), 0
        while self.running:
            until = int((time.perf_counter() - began) * self.rate)
            for number in range(due, until):
                at = began + number / self.rate
                if self.idle:
                    self.idle.popleft().post(at)
                else:
                    self.late.append(at)
            due = until
            await asyncio.sleep(0.001)


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self.load = load
        self.began = 0.0
        self.missing = 0
        self.head = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.load.take(self)

    def post(self, due: float) -> None:
        self.began = due
        self.load.sent += 1
        self.transport.write(self.load.requests[self.load.sent % len(self.load.requests)])

    def data_received(self, data: bytes) -> None:
        if self.missing:
            self.missing -= len(data)
        else:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self.head.startswith(b"HTTP/1.1 202"):
                self.load.refused += 1
            at = self.head.lower().index(b"content-length:") + 15
            length = int(self.head[at : self.head.index(b"\r", at)])
            self.missing = length - (len(self.head) - end - 4)
            self.head = b""
        if not self.missing:
            self.load.latencies.append(time.perf_counter() - self.began)
            self.load.take(self)


async def _run(
    port: int, requests: list[bytes], seconds: float, connections: int, rate: float
) -> dict[str, float]:
    load = _Load(requests, rate)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port)
    pacing = asyncio.create_task(load.pace()) if rate else None
    await asyncio.sleep(min(1.0, seconds / 4))  # warm
    load.latencies.clear()
    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    found, lasted = load.latencies, time.perf_counter() - began
    spent = time.process_time() - cpu
    load.running = False
    if pacing is not None:
        pacing.cancel()
    if load.refused or not found:
        raise SystemExit(f"{load.refused} of {load.sent} requests were not answered with 202")
    return {
        "sent": load.sent,
        "requests_per_second": len(found) / lasted,
        "p50_ms": 1000 * percentile(found, 0.5),
        "p99_ms": 1000 * percentile(found, 0.99),
        "client_cpu": spent / lasted,
    }


def main(argv: list[str]) -> None:
    """See the module."""
    if argv[0] == "serve":
        serve(load_settings(), extend=_with_noops)
        return
    port, path, scans, seconds, connections, rate = argv[1:]
    requests = _requests(path, int(scans))
    figures = _run(int(port), requests, float(seconds), int(connections), float(rate))
    print(json.dumps(uvloop.run(figures)))


if __name__ == "__main__":
    main(sys.argv[1:])
