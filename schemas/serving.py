"""Where a process without an HTTP server of its own answers: /metrics and /healthz, on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""


def serve(registry: CollectorRegistry, port: int, trouble: Callable[[], str | None]) -> Callable[[], None]:
    """Answer /metrics and /healthz in a thread; returns what ends it.

    /healthz is 200 as long as `trouble` returns None, else 503 with its words; `trouble` is called in
    another thread. Raises OSError when the port is taken.
    """
    report: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]] = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/healthz":
            return report(environ, start)
        words = trouble()
        start(
            "503 Service Unavailable" if words else "200 OK", [("Content-Type", "text/plain; charset=utf-8")]
        )
        return [(words or "ok").encode() + b"\n"]

    server = make_server("127.0.0.1", port, app, _Server, _Quiet)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()

    def end() -> None:
        server.shutdown()
        server.server_close()

    return end
