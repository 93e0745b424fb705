"""The protocol's messages, at every revision from 54429 to 54459.

Source: ClickHouse, src/Core/Protocol.h, src/Core/ProtocolDefines.h, src/Server/TCPHandler.cpp.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from deploy.local.clickhouse.blocks import Block
from deploy.local.clickhouse.errors import CANNOT_PARSE_DATA, NOT_IMPLEMENTED, ProtocolError, ServerError
from deploy.local.clickhouse.wire import Bytes, Source, compressed, text, varint

# The newest revision spoken: the one that added query parameters. Later ones add nothing that is used here.
REVISION = 54459
OLDEST_REVISION = 54429  # settings as strings; clients of 2019 and older are refused
_INTERSERVER_SECRET = 54441
_OPENTELEMETRY = 54442
_DISTRIBUTED_DEPTH = 54448
_START_TIME = 54449
_PARALLEL_REPLICAS = 54453
PROFILE_EVENTS_IN_INSERT = 54456
ADDENDUM = 54458
_PARAMETERS = 54459

_NAME = 1 << 16  # bytes of a name, a setting, a user
_HTTP_FIRST_BYTES = {ord("G"): "GET", ord("P"): "POST"}
_COMPLETE = 2
_CUSTOM = 2
_IMPORTANT = 1
_I32 = struct.Struct("<i")


class FromClient(IntEnum):
    """Packets that clients send."""

    HELLO = 0
    QUERY = 1
    DATA = 2
    CANCEL = 3
    PING = 4


class ToClient(IntEnum):
    """Packets that the server sends."""

    HELLO = 0
    DATA = 1
    EXCEPTION = 2
    PROGRESS = 3
    PONG = 4
    END_OF_STREAM = 5
    PROFILE_INFO = 6
    TOTALS = 7
    PROFILE_EVENTS = 14


PONG = varint(ToClient.PONG)
END_OF_STREAM = varint(ToClient.END_OF_STREAM)


@dataclass(frozen=True, slots=True)
class Hello:
    """How a client introduces itself. `revision` is the lower of its own and ours."""

    client: str
    revision: int
    database: str
    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of one query. An unknown one fails the query only if it is `important`."""

    name: str
    value: str
    important: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A Query packet. `parameters` are texts as in a TSV field, one for each `{name:Type}`."""

    id: str
    text: str
    settings: tuple[Setting, ...]
    parameters: dict[str, str]
    compression: bool


def read_hello(source: Source) -> Hello:
    """The first packet of a connection. Raises ProtocolError when the other side speaks something else."""
    kind = source.varint()
    if kind in _HTTP_FIRST_BYTES:
        raise ProtocolError(
            NOT_IMPLEMENTED, "This port speaks ClickHouse's native protocol, not HTTP: use a native client"
        )
    if kind != FromClient.HELLO:
        raise ProtocolError(CANNOT_PARSE_DATA, f"Unexpected packet {kind}, Hello was expected")
    client = source.text(_NAME)
    source.varint(), source.varint()  # the client's version: its revision says what it can do
    revision = source.varint()
    database, user, password = source.text(_NAME), source.text(_NAME), source.text(_NAME)
    source.forget()
    if revision < OLDEST_REVISION:
        raise ProtocolError(
            NOT_IMPLEMENTED, f"{client} speaks revision {revision}, at least {OLDEST_REVISION} is needed"
        )
    return Hello(client, min(revision, REVISION), database, user or "default", password)


def read_addendum(source: Source, revision: int) -> None:
    """What newer clients add after the server's Hello: a quota key, not used here."""
    if revision >= ADDENDUM:
        source.text(_NAME)


def read_query(source: Source, revision: int, max_text: int) -> Query:
    """A Query packet after its type."""
    query_id = source.text(_NAME)
    _skip_client_info(source, revision)
    settings = tuple(_settings(source))
    if revision >= _INTERSERVER_SECRET:
        source.text(_NAME)
    stage, compression = source.varint(), source.varint()
    query = source.text(max_text)
    parameters = {}
    if revision >= _PARAMETERS:
        parameters = {entry.name: unquoted(entry.value) for entry in _settings(source)}
    source.forget()
    if stage != _COMPLETE:
        raise ServerError(
            NOT_IMPLEMENTED, "Only complete queries are answered, no stages of distributed ones"
        )
    return Query(query_id, query, settings, parameters, bool(compression))


def _skip_client_info(source: Source, revision: int) -> None:
    if not source.byte():
        return
    for _ in range(3):  # initial user, query id, address
        source.text(_NAME)
    if revision >= _START_TIME:
        source.skip(8)
    if source.byte() != 1:
        raise ProtocolError(NOT_IMPLEMENTED, "Queries of an interface other than TCP are not taken")
    for _ in range(3):  # os user, host, client name
        source.text(_NAME)
    for _ in range(3):  # version, revision
        source.varint()
    source.text(_NAME)  # quota key
    if revision >= _DISTRIBUTED_DEPTH:
        source.varint()
    source.varint()  # version patch
    if revision >= _OPENTELEMETRY and source.byte():
        source.skip(24)
        source.text(_NAME)
        source.skip(1)
    if revision >= _PARALLEL_REPLICAS:
        for _ in range(3):
            source.varint()


def _settings(source: Source) -> list[Setting]:
    settings = []
    while name := source.text(_NAME):
        flags = source.varint()
        settings.append(Setting(name, source.text(1 << 24), bool(flags & _IMPORTANT)))
    return settings


_UNESCAPED = {"b": "\b", "f": "\f", "r": "\r", "n": "\n", "t": "\t", "0": "\0", "a": "\a", "v": "\v"}


def unquoted(value: str) -> str:
    """A parameter's text out of the quoted literal that clients send ('it\\'s' → it's)."""
    if len(value) < 2 or not (value[0] == value[-1] == "'"):
        return value
    parts = iter(value[1:-1].split("\\"))
    plain = [next(parts)]
    for part in parts:
        if part:
            plain += (_UNESCAPED.get(part[0], part[0]), part[1:])
        else:  # an escaped backslash: the next part is as it stands
            plain += ("\\", next(parts, ""))
    return "".join(plain)


def server_hello(version: tuple[int, int, int], timezone: str, display: str) -> bytes:
    """The answer to Hello; revision 54429 already has every field of it."""
    major, minor, patch = version
    return b"".join(
        (
            varint(ToClient.HELLO),
            text("ClickHouse"),
            *(varint(number) for number in (major, minor, REVISION)),
            text(timezone),
            text(display),
            varint(patch),
        )
    )


def data(block: Block, revision: int, compression: bool, kind: ToClient = ToClient.DATA) -> list[Bytes]:
    """A Data packet, or another one that carries a block, in pieces."""
    body = block.packet(revision)
    return [varint(kind) + b"\x00", *((compressed(b"".join(body)),) if compression else body)]


def exception(error: ServerError) -> bytes:
    """An Exception packet."""
    name_and_message = text("DB::Exception") + text(error.message)
    return varint(ToClient.EXCEPTION) + _I32.pack(error.code) + name_and_message + text("") + b"\x00"


def progress(rows: int, size: int, written_rows: int = 0, written_bytes: int = 0) -> bytes:
    """A Progress packet: what was read or written since the one before."""
    return b"".join(varint(n) for n in (ToClient.PROGRESS, rows, size, 0, written_rows, written_bytes))


def profile_info(rows: int, blocks: int, size: int) -> bytes:
    """A ProfileInfo packet about the whole result."""
    return b"".join(varint(n) for n in (ToClient.PROFILE_INFO, rows, blocks, size)) + b"\x00\x00\x00"
