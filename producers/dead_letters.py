"""Rejected records as they lie in the `*.rejected` topics: read, found by place, judged for a replay."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, get_args

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from producers.compacted import (
    METADATA_SECONDS,
    PASSING,
    SILENCE_SECONDS,
    away,
    end_of,
    partitions_of,
    quiet_consumer,
)
from schemas import topics
from schemas.events import REJECT_REASONS, ArchiveRejectReason, CaseRejectReason
from schemas.kafka import headers_of
from schemas.settings import Settings
from schemas.topics import Topic

_SUFFIX: Final = ".rejected"
# by the short name that commands take
TOPICS: Final[Mapping[str, Topic]] = {
    name.removesuffix(_SUFFIX): topic for name, topic in topics.TOPICS.items() if name.endswith(_SUFFIX)
}
REASONS: Final = tuple(
    dict.fromkeys((*REJECT_REASONS, *get_args(CaseRejectReason), *get_args(ArchiveRejectReason)))
)

# What no replay cures, and what to do instead: the record itself says what may never be.
_INCURABLE: Final = {
    "erased": "the person was erased by order, and the scan with them",
    "tombstone": "a case is never deleted: withdraw it (truyvet cases withdraw)",
    "conflict": "its version was another case before: publish a higher one (truyvet cases update)",
    "subject_changed": "another person or venue is a new case: give it an id of its own",
}
_NOT_A_VISIT: Final = (
    "its topic already holds it and may hold a newer version: correct the archive, then publish it there anew"
)


class NoSuchRecordError(LookupError):
    """There is no record at the place; the message says what may have happened."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One rejected record. `timestamp` (when it was put aside) and `arrival` ms; `source`, where it came
    from, as TOPIC/PARTITION/OFFSET[index]; `headers`, those of the dead letter, the last of each name."""

    topic: Topic
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]

    @property
    def place(self) -> str:
        """TOPIC/PARTITION/OFFSET, without the installation's prefix: how commands name it."""
        return f"{self.topic.name}/{self.partition}/{self.offset}"

    def text(self, header: str) -> str:
        """A header as text; empty when it is absent."""
        return self.headers.get(header, b"").decode("utf-8", "replace")

    @property
    def reason(self) -> str:
        """Why it was refused; `unknown` when somebody else wrote it without a reason."""
        return self.text("reason") or "unknown"

    @property
    def attempts(self) -> int:
        """How often it has been refused."""
        text = self.text("attempts")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 17 else 1

    @property
    def source(self) -> str:
        """Where the refused record stood, with the element of its array."""
        place = "/".join(self.text(f"source-{part}") or "?" for part in ("topic", "partition", "offset"))
        return f"{place}[{self.text('source-index') or '?'}]"

    def replay_headers(self) -> list[tuple[str, bytes]]:
        """What a replay says of itself: judged by its first arrival, and how often it was refused so far."""
        arrival = self.headers.get("arrival") or str(self.timestamp).encode()
        return [("arrival", arrival), ("attempts", str(self.attempts).encode())]


@dataclass(frozen=True, slots=True)
class Resend:
    """What a replay writes: to `topic`, the record as it first was."""

    topic: Topic
    key: bytes | None
    value: bytes | None


def incurable(settings: Settings, letter: DeadLetter) -> str | None:
    """Why no replay can cure a dead letter, and what to do instead; none when one may."""
    if letter.reason in _INCURABLE:
        return _INCURABLE[letter.reason]
    if "cut" in letter.headers:
        return f"only its beginning is kept, of {letter.text('cut')} bytes: its sender must send it in parts"
    if letter.topic is topics.CASES_REJECTED and letter.value is None:
        return _INCURABLE["tombstone"]
    if letter.topic in {topics.SCANS_REJECTED, topics.CASES_REJECTED}:
        return None
    is_visit = letter.text("source-topic") == settings.topic(topics.VISITS) and letter.value is not None
    return None if is_visit else _NOT_A_VISIT


def resend(letter: DeadLetter) -> Resend:
    """What a replay of a dead letter writes, if it is not incurable."""
    if letter.topic is topics.SCANS_REJECTED:
        return Resend(topics.SCANS, None, letter.value)
    if letter.topic is topics.CASES_REJECTED:
        return Resend(topics.CASES, letter.key, letter.value)
    return Resend(topics.VISITS, None, b"[" + (letter.value or b"") + b"]")


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of a partition: [begin, end)."""

    begin: int
    end: int


class Reader:
    """The dead letters of one topic that are there when this is made; what comes later is not read.

    `since` ms: only what was put aside from then on. Raises KafkaAwayError, TopicMissingError.
    """

    def __init__(self, settings: Settings, topic: Topic, since: int | None = None) -> None:
        self._settings = settings
        self._topic = topic
        self._name = settings.topic(topic)
        self._since = since
        with closing(quiet_consumer(settings)) as consumer:
            places = [
                TopicPartition(self._name, number) for number in partitions_of(consumer, settings, topic)
            ]
            self._spans = {each.partition: self._span(consumer, each) for each in places}

    def _span(self, consumer: Consumer, place: TopicPartition) -> Span:
        end = end_of(consumer, self._settings, place)
        try:
            begin, _ = consumer.get_watermark_offsets(place, timeout=METADATA_SECONDS)
            if self._since is not None:
                asked = TopicPartition(self._name, place.partition, self._since)
                (found,) = consumer.offsets_for_times([asked], timeout=METADATA_SECONDS)
                begin = found.offset if found.offset >= 0 else end
        except KafkaException as error:
            raise away(self._settings, error.args[0].str()) from None
        return Span(begin, end)

    def __len__(self) -> int:
        """How many offsets there are to read: an upper bound of the records."""
        return sum(max(0, span.end - span.begin) for span in self._spans.values())

    def __iter__(self) -> Iterator[DeadLetter]:
        """Each dead letter, partition by partition in order. Raises KafkaAwayError."""
        waiting = {number: span for number, span in self._spans.items() if span.begin < span.end}
        for partition, message in _read(self._settings, self._name, waiting):
            letter = _letter(self._topic, partition, message)
            if self._since is None or letter.timestamp >= self._since:
                yield letter


def find(settings: Settings, topic: Topic, partition: int, offset: int) -> DeadLetter:
    """The dead letter at a place. Raises NoSuchRecordError, KafkaAwayError, TopicMissingError."""
    there = Reader(settings, topic)._spans
    span = there.get(partition)
    if span is None:
        raise NoSuchRecordError(f"{topic.name} has partitions 0 to {len(there) - 1}, not {partition}")
    if span.begin <= offset < span.end:
        wanted = {partition: Span(offset, offset + 1)}
        for _, message in _read(settings, settings.topic(topic), wanted):
            return _letter(topic, partition, message)
    held = f"it holds {span.begin} to {span.end - 1}" if span.begin < span.end else "it is empty"
    raise NoSuchRecordError(
        f"there is no record at {topic.name}/{partition}/{offset}: {held}; "
        f"a rejected record is kept {topic.retention_days} days"
    )


def of_source(settings: Settings, topic: Topic, source: str) -> Iterator[DeadLetter]:
    """The dead letters of a topic that came from a place, TOPIC/PARTITION/OFFSET with or without [index].

    Reads them all. Raises KafkaAwayError, TopicMissingError.
    """
    bare = source.removeprefix(settings.topic_prefix)
    for letter in Reader(settings, topic):
        came = letter.source.removeprefix(settings.topic_prefix)
        if bare in {came, came.partition("[")[0]}:
            yield letter


def _read(settings: Settings, name: str, spans: Mapping[int, Span]) -> Iterator[tuple[int, Message]]:
    waiting = dict(spans)
    if not waiting:
        return
    # an offset that has aged out meanwhile: from the oldest that is there
    consumer = quiet_consumer(settings, **{"fetch.wait.max.ms": 10, "auto.offset.reset": "earliest"})
    try:
        consumer.assign([TopicPartition(name, number, span.begin) for number, span in waiting.items()])
        last_heard = time.monotonic()
        while waiting:
            messages = consumer.consume(500, 0.2)
            if messages:
                last_heard = time.monotonic()
            elif time.monotonic() - last_heard > SILENCE_SECONDS:
                raise away(settings, f"{name} stays silent")
            for message in messages:
                partition, offset, error = message.partition(), message.offset(), message.error()
                if error is not None and error.code() not in PASSING | {KafkaError._PARTITION_EOF}:
                    raise away(settings, error.str())
                if partition not in waiting or offset is None:
                    continue
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        del waiting[partition]  # the last offsets may be markers, with no record
                    continue
                end = waiting[partition].end
                if offset + 1 >= end:
                    del waiting[partition]
                if offset < end:
                    yield partition, message
    finally:
        consumer.close()


def _letter(topic: Topic, partition: int, message: Message) -> DeadLetter:
    offset = message.offset()
    assert offset is not None  # only an error has none
    return DeadLetter(
        topic, partition, offset, message.timestamp()[1], _bytes(message.key()), _bytes(message.value()),
        _headers(message),
    )  # fmt: skip


def _bytes(value: Any) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _headers(message: Message) -> dict[str, bytes]:
    return {name: _bytes(value) or b"" for name, value in headers_of(message)}
