"""What the archive sink counts, and where it answers: /metrics and /healthz."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Metrics:
    """The counters of one sink."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.registry: Final = CollectorRegistry()
        self._newest_received = 0
        self.rows: Final = Counter(
            "truyvet_archive_rows",
            "Rows inserted, by table; of visits: marks",
            ["table"],
            registry=self.registry,
        )
        self.broken: Final = Counter(
            "truyvet_archive_broken",
            "Records or elements that could not be a row and went to the table rejected",
            registry=self.registry,
        )
        self.flush_rows: Final = Histogram(
            "truyvet_archive_flush_marks",
            "Marks a flush",
            buckets=(0, 100, 1_000, 10_000, 50_000, 100_000, 200_000),
            registry=self.registry,
        )
        self.flush_seconds: Final = Histogram(
            "truyvet_archive_flush_seconds",
            "Time of a flush: inserts, waits for ClickHouse and commit",
            buckets=(0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600),
            registry=self.registry,
        )
        self.retries: Final = Counter(
            "truyvet_archive_retries", "Inserts repeated: ClickHouse away or slow", registry=self.registry
        )
        self.waiting: Final = Gauge(
            "truyvet_archive_waiting", "1 while the sink waits for ClickHouse", registry=self.registry
        )
        self.lag: Final = Gauge(
            "truyvet_archive_lag_records",
            "Records not yet archived, by topic",
            ["topic"],
            registry=self.registry,
        )
        self.progress: Final = Gauge(
            "truyvet_progress_timestamp_seconds", "When offsets were last committed", registry=self.registry
        )
        freshness = Gauge(
            "truyvet_archive_freshness_seconds",
            "Age of the newest mark in the archive, by its time of receipt; NaN: none since the start",
            registry=self.registry,
        )
        freshness.set_function(
            lambda: (clock_ms() - self._newest_received) / 1000 if self._newest_received else float("nan")
        )

    def archived(self, newest_received: int) -> None:
        """Marks up to this time of receipt (ms) are in the archive."""
        self._newest_received = max(self._newest_received, newest_received)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""


def serve(metrics: Metrics, port: int, trouble: Callable[[], str | None]) -> Callable[[], None]:
    """Answer /metrics and /healthz on loopback, in a thread; returns what ends it.

    /healthz is 200 as long as `trouble` returns None, else 503 with its words. Raises OSError when the port
    is taken.
    """
    report: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]] = make_wsgi_app(metrics.registry)

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
