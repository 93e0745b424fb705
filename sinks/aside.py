"""Rows that ClickHouse refuses, put aside in the topic `archive.rejected`; durable when `put` returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.events import REJECT_HEADERS
from schemas.kafka import LARGE_VALUES, durable_producer
from schemas.settings import Settings
from schemas.topics import ARCHIVE_REJECTED, MOST_KEPT_BYTES
from sinks.connection import first_line
from sinks.patience import ArchiveError
from sinks.rows import Source

# Longer than a broker takes to come back; then the role ends, and the rows are read and refused once more.
_DELIVERY_S: Final = 60.0
_DETAIL_LIMIT: Final = 500  # characters: a detail must not grow with the input
# What is kept of a value that is too large to be kept whole, as the other dead letters do it (header `cut`).
_SHOWN_BYTES: Final = 65_536


class Aside:
    """Writes refused rows. The producer is made at the first of them: most sinks never need one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.topic(ARCHIVE_REJECTED)
        self._producer: Producer | None = None

    def put(self, refused: Sequence[tuple[Source, Exception]]) -> None:
        """Write them; return when Kafka has all of them. Raises ArchiveError when it does not take one."""
        problems: list[str] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                problems.append(error.str())

        producer = self._connected()
        for source, error in refused:
            value, headers = source.value, _headers(source, error)
            if len(value) > MOST_KEPT_BYTES:  # Kafka would never take it, and the sink never go on
                headers.append(("cut", str(len(value)).encode()))
                value = value[:_SHOWN_BYTES]
            while True:
                try:
                    producer.produce(self._topic, value, headers=headers, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
                except KafkaException as problem:  # larger than any record may be
                    problems.append(problem.args[0].str())
                    break
        left = producer.flush(_DELIVERY_S + 5)
        if problems or left:
            raise ArchiveError(
                f"could not put {len(refused)} refused rows aside in {self._topic}:"
                f" {problems[0] if problems else 'Kafka does not answer'}: nothing is committed, the next"
                " start reads them again; truyvet topics apply corrects the topic"
            )

    def _connected(self) -> Producer:
        if self._producer is None:
            self._producer = durable_producer(
                self._settings.kafka_address,
                [self._topic],
                _DELIVERY_S,
                LARGE_VALUES,
            )
        return self._producer


def _headers(source: Source, error: Exception) -> Any:
    """As those of the other dead letters; an earlier refusal of the record counts."""
    record = source.record
    known = {
        name: value if isinstance(value, bytes) else (value or "").encode() for name, value in record.headers
    }

    def number(name: str, otherwise: int) -> int:
        found = known.get(name, b"")
        return int(found) if found.isdigit() and len(found) < 16 else otherwise

    texts = (
        "refused",
        first_line(error)[:_DETAIL_LIMIT],
        record.topic,
        str(record.partition),
        str(record.offset),
        str(source.index),
        str(number("arrival", record.timestamp)),
        str(number("attempts", 0) + 1),
    )
    return [(name, text.encode("utf-8", "replace")) for name, text in zip(REJECT_HEADERS, texts, strict=True)]
