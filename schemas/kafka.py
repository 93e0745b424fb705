"""How we write to Kafka, what confluent-kafka gives where it needs care, whether anybody listens there."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from operator import methodcaller
from typing import Any, Final
from urllib.parse import urlsplit

from confluent_kafka import KafkaException, Producer

from schemas.settings import Settings, where_to_look
from schemas.topics import PARTITIONER

_REFUSED_SECONDS: Final = 1.5
_CONNECT_SECONDS: Final = 1.0
_DEFAULT_PORT: Final = 9092  # librdkafka's, of a server named without one
# What says at once that nobody is there. Silence does not: a slow server is silent too.
_NOBODY: Final = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})

# Not a plain call: where a header's name is no UTF-8, the client (2.16) returns a list with holes and leaves
# its error pending, to be raised by whatever comes next. A call from C raises it at once.
_ASK: Final = methodcaller("headers")


# A connection takes milliseconds. Past this whoever begins goes on without one: what becomes of its records
# says whether Kafka is away.
_CONNECTED_S: Final = 2.0


# For whoever passes on what came in, such as a rejected record of many blanks: brokers bound a compressed
# batch, the client a value before it.
LARGE_VALUES: Final = {"message.max.bytes": 100_000_000}


def durable(address: str, timeout_s: float) -> dict[str, Any]:
    """Settings of every producer of ours: a record that is acknowledged is on all replicas in sync, once; one
    key has one partition, whoever writes it. Delivery gives up after `timeout_s`."""
    return {
        "bootstrap.servers": address,
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
        "partitioner": PARTITIONER,
        "delivery.timeout.ms": int(timeout_s * 1000),
    }


def connect(producer: Producer, topics: Iterable[str]) -> None:
    """Let a new producer know the topics that it will write to.

    A record that an idempotent client is given before it has a connection waits for 500 ms: it asks for its
    number at once, finds no broker, and asks again after that. After one answer about topics 6 of 80 clients
    waited all the same, after two none.
    """
    names = list(topics)
    with suppress(KafkaException):
        for topic in names + names:
            producer.list_topics(topic, timeout=_CONNECTED_S)


def durable_producer(
    address: str, topics: Iterable[str], timeout_s: float, more: Mapping[str, Any] | None = None
) -> Producer:
    """A connected producer with `durable` settings, and `more`. Blocks for milliseconds, or for up to two
    seconds a topic when nobody answers."""
    producer = Producer(durable(address, timeout_s) | dict(more or {}))
    connect(producer, topics)
    return producer


def headers_of(message: Any) -> list[tuple[str, bytes | None]]:
    """The headers of a message; none when a name is no UTF-8, which no role of ours writes.

    Kafka allows any bytes there: one stranger's record must not end a reader.
    """
    try:
        return list(_ASK(message) or ())
    except (SystemError, UnicodeDecodeError):
        return []


_reached: Final[set[str]] = set()


def nobody_listens(address: str) -> bool:
    """Whether every server of host:port[,host:port] refuses connections, for a second or two.

    The client itself would go on trying for as long as its caller waits, and then not say why. A server that
    only is slow is never told so: whoever takes a connection, or leaves it unanswered, is to be asked. Nor is
    one that this process has reached before: it restarts, and is waited for.
    """
    if address in _reached:
        return False
    servers = [server.strip() for server in address.split(",") if server.strip()]
    deadline = time.monotonic() + _REFUSED_SECONDS
    while servers:
        if not all(map(_refuses, servers)):
            _reached.add(address)
            return False
        if time.monotonic() > deadline:
            return True
        time.sleep(0.2)
    return False


def _refuses(server: str) -> bool:
    try:
        parts = urlsplit(f"//{server}")
        place = parts.hostname or "", parts.port or _DEFAULT_PORT
    except ValueError:
        return False  # the client says what it thinks of it
    try:
        socket.create_connection(place, _CONNECT_SECONDS, all_errors=True).close()
    except socket.gaierror as error:
        return error.errno == socket.EAI_NONAME
    except ExceptionGroup as group:  # one for each address that the name has
        return all(isinstance(each, OSError) and each.errno in _NOBODY for each in group.exceptions)
    except OSError:
        return False
    return False


def kafka_away(settings: Settings, why: str = "") -> str:
    """In a line: Kafka does not answer, where, and what to do about it."""
    reason = f" ({why})" if why else ""
    advice = where_to_look("TRUYVET_KAFKA", settings.kafka)
    return f"Kafka does not answer at {settings.kafka_address}{reason}: {advice}"
