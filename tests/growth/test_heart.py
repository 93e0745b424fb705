"""/healthz of the stream roles tells a loop that stands."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

from prometheus_client import CollectorRegistry, Counter

from deploy.local.engines import free_ports
from schemas.serving import serve
from stream_processors.worker import Heart


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_loop_that_stands_is_not_healthy() -> None:
    now = 100.0
    heart = Heart(lambda: now)
    registry = CollectorRegistry()
    Counter("things", "Things", registry=registry).inc(3)
    (port,) = free_ports(1)
    end = serve(registry, port, heart.trouble)
    try:
        now += 29
        assert get(port, "/healthz") == (200, "ok\n")
        now += 60
        assert get(port, "/healthz") == (503, "the worker hangs: its loop has stood for 89 s\n")
        assert "things_total 3.0" in get(port, "/metrics")[1]  # whoever looks sees more than "hangs"

        async def beat_once() -> None:
            beating = asyncio.create_task(heart.beat())
            await asyncio.sleep(0)
            beating.cancel()

        asyncio.run(beat_once())
        assert get(port, "/healthz")[0] == 200
    finally:
        end()
