"""What is there after a run: read with plain clients, parsed by the documented layout."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson
import redis
from clickhouse_driver import Client
from confluent_kafka import Consumer, KafkaError, TopicPartition

from schemas import topics
from schemas.settings import Settings
from schemas.topics import Topic
from tests.chaos.scenario import Mark

# A topic of a run is read in seconds; past this the broker is taken for stuck.
_READ_S: Final = 120.0
_KEYS_A_CALL: Final = 2_000

Row = dict[str, Any]
Headers = dict[str, str]


class Entry(NamedTuple):
    """A record of a topic, in its order within its partition."""

    key: bytes
    value: bytes | None
    headers: Headers


@dataclass
class Found:
    """What a run left behind."""

    acknowledged: set[str] = field(default_factory=set)  # scan_ids that the gateway said were in
    answers_wrong: list[str] = field(default_factory=list)  # what it answered otherwise than it must
    archive: set[Mark] = field(default_factory=set)
    archive_by_person: set[Mark] = field(default_factory=set)
    buckets: set[Mark] = field(default_factory=set)
    rejected: list[Entry] = field(default_factory=list)
    rejected_rows: list[tuple[bytes, str]] = field(default_factory=list)  # value, reason
    exposures: list[Entry] = field(default_factory=list)
    exposure_rows: list[Row] = field(default_factory=list)
    warnings: list[Entry] = field(default_factory=list)
    warning_rows: list[Row] = field(default_factory=list)
    cases_rejected: list[Entry] = field(default_factory=list)
    case_rows: dict[str, tuple[int, str]] = field(default_factory=dict)


def read(settings: Settings) -> Found:
    """Read it all; nothing may be writing any more."""
    found = Found(
        buckets=_buckets(settings.redis_url),
        rejected=read_topic(settings, topics.SCANS_REJECTED),
        exposures=read_topic(settings, topics.EXPOSURES),
        warnings=read_topic(settings, topics.VENUE_WARNINGS),
        cases_rejected=read_topic(settings, topics.CASES_REJECTED),
    )
    client = Client.from_url(settings.clickhouse_url)
    try:
        found.archive = _archived(client, "visits")
        found.archive_by_person = _archived(client, "visits_by_person")
        found.exposure_rows = _rows(
            client,
            "SELECT case_id, person, venue, toString(date) AS day, status, first, last, minutes,"
            " case_version, version, sector, department FROM exposures FINAL",
        )
        found.warning_rows = _rows(
            client,
            "SELECT case_id, venue, toString(date) AS day, department, presences, contacts, status, version"
            " FROM venue_warnings FINAL",
        )
        found.case_rows = {
            str(case_id): (int(version), str(status))
            for case_id, version, status in client.execute(
                "SELECT case_id, version, status FROM cases_current"
            )
        }
        found.rejected_rows = [
            (bytes.fromhex(value), str(reason))
            for value, reason in client.execute(
                "SELECT hex(value), reason FROM rejected FINAL WHERE source_topic = %(topic)s",
                {"topic": settings.topic(topics.SCANS)},
            )
        ]
    finally:
        client.disconnect()
    return found


def read_topic(settings: Settings, topic: Topic) -> list[Entry]:
    """Everything that stands on a topic, committed; in order within a partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_address,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    name = settings.topic(topic)
    found: list[Entry] = []
    deadline = time.monotonic() + _READ_S
    try:
        left = len(consumer.list_topics(name, timeout=30).topics[name].partitions)
        consumer.assign([TopicPartition(name, number, 0) for number in range(left)])
        while left and time.monotonic() < deadline:
            for message in consumer.consume(5000, 0.2):
                error = message.error()
                if error is None:
                    found.append(_entry(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    left -= 1
    finally:
        consumer.close()
    if left:
        raise RuntimeError(f"{name} could not be read to its end within {_READ_S:.0f} s")
    return found


def _entry(message: Any) -> Entry:
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in message.headers() or ()}
    return Entry(message.key() or b"", message.value(), headers)


def _buckets(url: str) -> set[Mark]:
    """`b:{shard}:venue:hour`: groups of 13 bytes a mark: person (8), kind and minute in one, then a tag.
    `d:{shard}:venue:hour` and a character: such a group, if it is large."""
    found: set[Mark] = set()
    with redis.Redis.from_url(url) as client:
        keys = list(client.scan_iter("[bd]:*", count=5000))
        for start in range(0, len(keys), _KEYS_A_CALL):
            part = keys[start : start + _KEYS_A_CALL]
            pipeline = client.pipeline(transaction=False)
            for key in part:
                pipeline.hgetall(key)
            for key, fields in zip(part, pipeline.execute(), strict=True):
                family, _, venue, hour = key.decode().split(":")
                hour = hour[:-1] if family == "d" else hour
                entries = b"".join(fields.values())
                for at in range(0, len(entries), 13):
                    kind, minute = divmod(entries[at + 8], 64)
                    found.add(Mark(entries[at : at + 8].hex(), venue, int(hour) * 60 + minute, kind))
    return found


def _archived(client: Client, table: str) -> set[Mark]:
    """Rows merge by OR; bit m of a mask is a mark of minute m in the hour."""
    found: set[Mark] = set()
    statement = (
        "SELECT venue, hour, lower(leftPad(hex(person), 16, '0')), groupBitOr(ins), groupBitOr(outs),"
        f" groupBitOr(voids) FROM {table} GROUP BY venue, hour, person"
    )
    for venue, hour, person, *masks in client.execute_iter(statement):
        for kind, mask in enumerate(masks):
            rest = mask
            while rest:
                bit = rest & -rest
                found.add(Mark(person, venue, hour * 60 + bit.bit_length() - 1, kind))
                rest ^= bit
    return found


def _rows(client: Client, statement: str) -> list[Row]:
    rows, columns = client.execute(statement, with_column_types=True)
    names = [name for name, _ in columns]
    return [dict(zip(names, row, strict=True)) for row in rows]


def json_of(entry: Entry) -> Row:
    """The record's object."""
    value: Row = orjson.loads(entry.value or b"null")
    return value
