"""Run the gateway."""

from __future__ import annotations

import signal
import time

import uvicorn

from producers.gateway.app import create_app
from producers.publisher import Publisher
from schemas import topics
from schemas.settings import Settings

# Requests under way at SIGTERM get this long to hear from Kafka; then they are cut, and their clients retry.
GRACE_S = 10


def serve(settings: Settings) -> None:
    """Serve until SIGTERM. Exits with a line in the log when the port is taken."""
    # uvicorn raises the signal again once it has stopped: it must not end us before the publisher is closed
    signal.signal(signal.SIGTERM, lambda *_: None)
    with Publisher(settings.kafka_address, settings.topic(topics.SCANS)) as publisher:
        app = create_app(settings, publisher, lambda: time.time_ns() // 1_000_000)
        uvicorn.run(
            app,
            host=settings.gateway_host,
            port=settings.gateway_port,
            timeout_graceful_shutdown=GRACE_S,
            access_log=False,  # a device's address and time are somebody's movements
            log_level="info",
        )
