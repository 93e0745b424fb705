"""One client: its packets in, its answers out, on a thread of its own."""

from __future__ import annotations

import hmac
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from deploy.local.clickhouse import packets
from deploy.local.clickhouse.blocks import EMPTY, Block, read_block
from deploy.local.clickhouse.engine import Engine, Session, is_cancelled
from deploy.local.clickhouse.errors import (
    AUTHENTICATION_FAILED,
    LOGICAL_ERROR,
    NO_SUCH_COLUMN_IN_TABLE,
    NUMBER_OF_COLUMNS_DOESNT_MATCH,
    TOO_LARGE_BLOCK,
    TOO_MANY_SIMULTANEOUS_QUERIES,
    UNEXPECTED_PACKET_FROM_CLIENT,
    UNKNOWN_PACKET_FROM_CLIENT,
    DisconnectedError,
    ProtocolError,
    ServerError,
)
from deploy.local.clickhouse.memory import append, memory_file
from deploy.local.clickhouse.packets import FromClient, Query, ToClient
from deploy.local.clickhouse.statements import Insert, statement_of
from deploy.local.clickhouse.wire import Bytes, Source, frames_source, socket_source

log = logging.getLogger(__name__)

# As the server's min_insert_block_size_rows: an insert up to this size becomes visible as a whole.
_WRITE_ROWS = 1_048_449
_LARGE = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What keeps memory and threads bounded. Sizes in bytes, times in seconds.

    `wait`: how long a statement waits for its turn among `queries` before it is refused (202).
    `stall`: how long a client may take over one read or write in mid-statement; without it, a client that
    hangs would hold its turn for ever (the server's send_timeout and receive_timeout).
    `write`: the rows of an INSERT are kept in memory up to this size, then written.
    """

    connections: int = 256
    queries: int = 32
    block: int = 256 << 20
    write: int = 64 << 20
    text: int = 64 << 20
    query_memory: int = 4 << 30
    wait: float = 10.0
    stall: float = 300.0


class Watch(Protocol):
    """Who looks after running statements: stops those whose client cancels or goes away."""

    def begin(self, connection: Connection) -> None:
        """From now on the connection runs a statement."""

    def end(self, connection: Connection) -> None:
        """It no longer does."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the connections of a server share: `turns` bounds the statements that run at once."""

    engine: Engine
    limits: Limits
    turns: threading.BoundedSemaphore
    watch: Watch
    password: str


class Connection:
    """One client from Hello to its end. `serve` returns when it is over; it raises nothing."""

    def __init__(self, client: socket.socket, service: Service) -> None:
        self.socket = client
        self.cancelled = False
        self.gone = False
        self._engine = service.engine
        self._limits = service.limits
        self._turns = service.turns
        self._watch = service.watch
        self._password = service.password
        self._source = socket_source(client, service.limits.block)
        self._revision = packets.REVISION
        self._compression = False
        self._frames: Source | None = None
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._busy = True  # until Hello is over
        self._closing = False

    @property
    def mark(self) -> str:
        """What the engine finds the running statement by."""
        return "" if self._session is None else self._session.mark

    def serve(self) -> None:
        """Answer the client until it leaves, breaks the protocol, or `finish` is called."""
        try:
            self.socket.settimeout(self._limits.stall)
            if self._greet():
                while self._wait_for_packet():
                    self._packet(self._source.varint())
        except DisconnectedError as reason:
            log.debug("client left: %s", reason)
        except ServerError as error:
            log.info("connection ends: %s", error.message)
            self._try_send(packets.exception(error))
        except Exception:
            log.exception("connection ends by a fault of the server")
            self._try_send(packets.exception(ServerError(LOGICAL_ERROR, "The server failed: see its log")))
        finally:
            self.socket.close()
            if self._session is not None:
                self._session.close()

    def finish(self) -> None:
        """End the connection as soon as no statement runs on it."""
        with self._lock:
            self._closing = True
            if not self._busy:
                with suppress(OSError):
                    self.socket.shutdown(socket.SHUT_RD)

    def leaves(self) -> bool:
        """Whether the client, whose statement runs, has sent Cancel or has gone. Does not wait."""
        first = bytes(self._source.data[self._source.pos : self._source.pos + 1])
        if not first:  # Cancel may have come together with the query, or later
            try:
                ready = select.poll()  # not select: it knows no descriptor above 1,023
                ready.register(self.socket, select.POLLIN)
                if not ready.poll(0):  # a socket with a time-out waits in recv, whatever the flags say
                    return False
                first = self.socket.recv(1, socket.MSG_PEEK)
            except OSError:
                first = b""
        self.gone = not first
        return self.gone or first[0] == FromClient.CANCEL

    def _greet(self) -> bool:
        hello = packets.read_hello(self._source)
        self._revision = hello.revision
        right = hmac.compare_digest(hello.password.encode(errors="replace"), self._password.encode())
        if hello.user != "default" or not right:
            raise ServerError(
                AUTHENTICATION_FAILED,
                f"{hello.user}: Authentication failed: password is incorrect, or there is no user with such "
                "name. (AUTHENTICATION_FAILED)",
            )
        self._session = self._engine.session()
        if hello.database:
            self._session.use(hello.database)
        self._send(
            packets.server_hello(self._engine.version, self._engine.timezone, self._engine.display_name)
        )
        packets.read_addendum(self._source, self._revision)
        return True

    def _wait_for_packet(self) -> bool:
        """Wait, as long as it takes, for the next packet; False when the connection is to end."""
        self._source.forget()
        with self._lock:
            if self._closing:
                return False
            self._busy = False
        self.socket.settimeout(None)
        self._source.need(1)
        self.socket.settimeout(self._limits.stall)
        with self._lock:
            self._busy = True
        return True

    def _packet(self, kind: int) -> None:
        if kind == FromClient.PING:
            self._send(packets.PONG)
        elif kind == FromClient.QUERY:
            self._statement()
        elif kind == FromClient.DATA:  # of an insert that has failed: the client had already sent it
            self._read_data()
        elif kind != FromClient.CANCEL:  # of a query that was over: nothing to do
            raise ProtocolError(UNKNOWN_PACKET_FROM_CLIENT, f"Unknown packet {kind} from client")

    def _statement(self) -> None:
        query = packets.read_query(self._source, self._revision, self._limits.text)
        self._compression = query.compression
        self._frames = frames_source(self._source, self._limits.block) if query.compression else None
        self.cancelled = self.gone = False
        started = time.monotonic()
        try:
            external = self._read_external()
            with self._turn():
                self._run(query, external)
        except ProtocolError:
            raise
        except ServerError as error:
            if is_cancelled(error) and self.gone:
                raise DisconnectedError("left during its query") from None
            if is_cancelled(error) and self.cancelled:
                self._send(packets.END_OF_STREAM)
                return
            log.debug("query failed: %s", error.message)
            self._send(packets.exception(error))
        else:
            log.debug("%.1f ms %s", (time.monotonic() - started) * 1e3, query.text[:200])

    def _run(self, query: Query, external: list[tuple[str, Block]]) -> None:
        session = self._open_session()
        statement = statement_of(query.text)
        tables = {name for name, _ in external}
        try:
            for name, block in external:
                session.add_external(name, block)
            session.apply(query.settings)  # after the tables: with readonly = 1 they could not be made
            if statement.insert is not None:
                self._insert(session, statement.insert)
                return
            rows = blocks = size = 0
            with self._watched():
                for part in session.execute(statement, query.parameters):
                    read = packets.progress(part.rows_read, part.bytes_read) if part.rows_read else b""
                    self._send(read, *packets.data(part.block, self._revision, self._compression))
                    rows += part.block.rows
                    blocks += bool(part.block.rows)
                    size += part.block.size
                    if self.cancelled:
                        break
                totals = session.totals(statement, query.parameters) if statement.totals else None
            if totals is not None:
                self._send(*packets.data(totals, self._revision, self._compression, ToClient.TOTALS))
            self._send(packets.profile_info(rows, blocks, size) + packets.END_OF_STREAM)
        finally:
            if tables:
                session.apply(())
            for name in tables:
                session.drop_external(name)

    def _insert(self, session: Session, insert: Insert) -> None:
        header = session.insert_header(insert)
        self._send(*packets.data(header, self._revision, self._compression))
        names = frozenset(column.name for column in header.columns)
        written = 0, 0
        with memory_file() as rows:
            waiting = 0
            while True:
                kind = self._source.varint()
                if kind == FromClient.CANCEL:
                    self._send(packets.END_OF_STREAM)
                    return
                if kind != FromClient.DATA:
                    raise ProtocolError(
                        UNEXPECTED_PACKET_FROM_CLIENT,
                        f"Unexpected packet {kind} from client, Data was expected",
                    )
                _, block = self._read_data()
                if not block.columns:
                    break
                if block.rows:
                    _check_columns(block, names)
                    append(rows, block.native())
                    waiting += block.rows
                if waiting >= _WRITE_ROWS or rows.tell() >= self._limits.write:
                    written = _sum(written, session.write(insert, rows))
                    rows.seek(0)
                    rows.truncate()
                    waiting = 0
                self._send_profile_events()
            if waiting:
                written = _sum(written, session.write(insert, rows))
        self._send_profile_events()
        self._send(packets.progress(0, 0, *written) + packets.END_OF_STREAM)

    def _send_profile_events(self) -> None:
        """From revision 54456 on clients wait for this after each block of an insert."""
        if self._revision >= packets.PROFILE_EVENTS_IN_INSERT:
            self._send(*packets.data(EMPTY, self._revision, False, ToClient.PROFILE_EVENTS))

    def _read_external(self) -> list[tuple[str, Block]]:
        """The tables that come beside a query; a block without columns ends them."""
        tables: list[tuple[str, Block]] = []
        size = 0
        while True:
            kind = self._source.varint()
            if kind != FromClient.DATA:
                raise ProtocolError(
                    UNEXPECTED_PACKET_FROM_CLIENT, f"Unexpected packet {kind} from client, Data was expected"
                )
            name, block = self._read_data()
            if not block.columns:
                return tables
            size += block.size
            if size > self._limits.block:
                raise ProtocolError(
                    TOO_LARGE_BLOCK, f"External tables of more than {self._limits.block} bytes"
                )
            tables.append((name or "_data", block))

    def _read_data(self) -> tuple[str, Block]:
        """A Data packet after its type: the table's name, and the block."""
        name = self._source.text(1 << 16)
        self._source.forget()
        return name, read_block(self._frames or self._source, self._revision)

    def _open_session(self) -> Session:
        assert self._session is not None
        return self._session

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(timeout=self._limits.wait):
            raise ServerError(
                TOO_MANY_SIMULTANEOUS_QUERIES,
                f"Too many simultaneous queries. Maximum: {self._limits.queries}. "
                "(TOO_MANY_SIMULTANEOUS_QUERIES)",
            )
        try:
            yield
        finally:
            self._turns.release()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watch.begin(self)
        try:
            yield
        finally:
            self._watch.end(self)

    def _send(self, *message: Bytes) -> None:
        """Small pieces together, large ones as they are: a copy of a megabyte takes up to a millisecond."""
        try:
            for large, pieces in groupby(message, lambda piece: len(piece) >= _LARGE):
                for piece in pieces if large else (b"".join(pieces),):
                    self.socket.sendall(piece)
        except OSError as error:  # a time-out too: the rest of a half-sent packet is lost
            raise DisconnectedError(str(error)) from None

    def _try_send(self, message: bytes) -> None:
        with suppress(DisconnectedError):
            self._send(message)


def _check_columns(block: Block, names: frozenset[str]) -> None:
    """chDB fills a column that is missing with defaults and drops one that it does not know."""
    sent = {column.name for column in block.columns}
    if unknown := sorted(sent - names):
        raise ServerError(
            NO_SUCH_COLUMN_IN_TABLE, f"Block has the column {unknown[0]}, which the insert does not name"
        )
    if missing := sorted(names - sent):
        raise ServerError(
            NUMBER_OF_COLUMNS_DOESNT_MATCH,
            f"Block is without the column {missing[0]} of the insert. (NUMBER_OF_COLUMNS_DOESNT_MATCH)",
        )


def _sum(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]
