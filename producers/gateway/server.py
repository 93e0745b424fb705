"""Run the gateway."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI

from producers.gateway.app import create_app
from producers.publisher import Publisher
from schemas import topics
from schemas.settings import Settings

# Requests under way at SIGTERM get this long to hear from Kafka; then they are cut, and their clients retry.
GRACE_S = 10

_LINGER_S = 0.002  # requests have waited for company already: producers/gateway/together.py
_CALL_WRONG = 2  # exit code: a setting is wrong

_log = logging.getLogger(__name__)


def _listen(settings: Settings) -> socket.socket:
    """The port, taken before anything else is started. Raises OSError (EADDRINUSE) when another has it."""
    host, port = settings.gateway_host, settings.gateway_port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        _log.error("cannot listen on %s:%d (%s): set TRUYVET_GATEWAY_HOST and _PORT", host, port, error)
        sys.exit(_CALL_WRONG)


def serve(settings: Settings, extend: Callable[[FastAPI], Any] = lambda app: app) -> None:
    """Serve until SIGTERM. `extend`: what is served instead of the app, such as the same with one endpoint
    more. Raises OSError (EADDRINUSE) when another process has the port.
    """
    listener = _listen(settings)
    if not settings.gateway_keys:
        _log.warning("no device has a key (TRUYVET_GATEWAY_KEYS): every post will be refused with 401")
    # uvicorn raises the signal again once it has stopped: it must not end us before the publisher is closed
    signal.signal(signal.SIGTERM, lambda *_: None)
    name = settings.topic(topics.SCANS)
    with Publisher(settings.kafka_address, name, linger_s=_LINGER_S) as publisher:
        app = create_app(settings, publisher, lambda: time.time_ns() // 1_000_000)
        config = uvicorn.Config(
            extend(app),
            timeout_graceful_shutdown=GRACE_S,
            proxy_headers=False,  # who posted is told by the key, not by an address
            access_log=False,  # a device's address and time are somebody's movements
            log_level="info",
        )
        with suppress(KeyboardInterrupt):  # it has drained by then, as after SIGTERM
            uvicorn.Server(config).run(sockets=[listener])
