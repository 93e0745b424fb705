"""Listening, limits, and an orderly end."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress

from deploy.local.clickhouse import packets
from deploy.local.clickhouse.connection import Connection, Limits, Service
from deploy.local.clickhouse.engine import Engine
from deploy.local.clickhouse.errors import TOO_MANY_SIMULTANEOUS_QUERIES, ServerError

log = logging.getLogger(__name__)

_BACKLOG = 128
_LOOK_EVERY = 0.1  # seconds; a cancelled query runs at most this much longer


class Watcher:
    """Stops statements whose client has sent Cancel or has gone; looks only at those that take longer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: set[Connection] = set()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._look, name="watcher", daemon=True)
        self._thread.start()

    def begin(self, connection: Connection) -> None:
        """From now on the connection runs a statement."""
        with self._changed:
            self._running.add(connection)
            if len(self._running) == 1:
                self._changed.notify()

    def end(self, connection: Connection) -> None:
        """It no longer does. After this nothing of this connection is stopped."""
        with self._changed:
            self._running.discard(connection)

    def kill_all(self) -> None:
        """Stop every running statement."""
        with self._changed:
            for connection in self._running:
                self._stop_statement(connection)

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _look(self) -> None:
        while True:
            with self._changed:
                while not self._running and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
            time.sleep(_LOOK_EVERY)
            with self._changed:
                for connection in self._running:
                    # Again at each look: the engine may not have begun the query when it was first asked.
                    if connection.cancelled or connection.leaves():
                        self._stop_statement(connection)

    def _stop_statement(self, connection: Connection) -> None:
        connection.cancelled = True
        try:
            self._engine.kill(connection.mark)
        except RuntimeError:
            log.exception("a statement could not be stopped")


class Server:
    """The TCP server. `start` listens, `stop` ends it within `grace` seconds; both return at once done."""

    def __init__(self, engine: Engine, limits: Limits, password: str = "") -> None:
        self._limits = limits
        self._watcher = Watcher(engine)
        turns = threading.BoundedSemaphore(limits.queries)
        self._service = Service(engine, limits, turns, self._watcher, password)
        self._connections: dict[Connection, threading.Thread] = {}
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    def start(self, host: str, port: int) -> int:
        """Listen and accept clients on a thread. Port 0: a free one. Returns the port.

        Raises OSError when the address cannot be taken.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._listener,), name="acceptor", daemon=True
        )
        self._acceptor.start()
        return int(self._listener.getsockname()[1])

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed by stop
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that vanished while idle
            with self._lock:
                full = len(self._connections) >= self._limits.connections
            if full:
                self._refuse(client)
                continue
            connection = Connection(client, self._service)
            thread = threading.Thread(target=self._serve, args=(connection,), name="client", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            connection.serve()
        finally:
            with self._lock:
                del self._connections[connection]

    def _refuse(self, client: socket.socket) -> None:
        log.warning("a client was refused: %d are connected", self._limits.connections)
        error = ServerError(
            TOO_MANY_SIMULTANEOUS_QUERIES, f"Too many connections. Maximum: {self._limits.connections}"
        )
        with client, suppress(OSError):
            client.settimeout(1.0)  # so that one client cannot keep the others from being accepted
            client.sendall(packets.exception(error))

    def stop(self, grace: float) -> None:
        """Take no more clients, let running statements finish for `grace` seconds, then stop them."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            self._listener.close()
        if self._acceptor is not None:
            self._acceptor.join()
        with self._lock:
            open_now = dict(self._connections)
        for connection in open_now:
            connection.finish()
        if not self._joined(open_now, grace):
            log.warning("statements still run after %.0f s: they are stopped", grace)
            self._watcher.kill_all()
            for connection in open_now:
                with suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)
            self._joined(open_now, 5.0)  # a statement that the engine cannot stop must not keep the process
        self._watcher.stop()

    @staticmethod
    def _joined(threads: dict[Connection, threading.Thread], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        for thread in threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads.values())
