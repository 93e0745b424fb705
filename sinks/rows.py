"""From Kafka records to rows of the archive: pure, a record at a time, columns as the driver wants them.

What cannot be a row becomes a row of `rejected` with reason `malformed`, so that it is seen and not lost;
the good elements of an array with a bad one are kept. Every row can be traced to the element of the record
that it came from: only the place where a record's rows begin is noted, and looked up when somebody asks.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from schemas.events import VISITS, Case, Exposure, Venue, VenueWarning, Visit
from schemas.topics import (
    ARCHIVE_REJECTED,
    CASES,
    CASES_REJECTED,
    EXPOSURES,
    SCANS_REJECTED,
    VENUE_WARNINGS,
    VENUES,
    Topic,
)
from schemas.topics import VISITS as VISITS_TOPIC
from sinks.marks import BITS, SOURCE_BITS, marks_of

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "visits": ("venue", "hour", "person", "ins", "outs", "voids", "party", "sources"),
    "venues": (
        *("code", "name", "sector", "district", "department", "parent", "dwell", "capacity"),
        *("opens", "closes", "lat", "lon", "closed_at", "recorded_at"),
    ),
    "cases": (
        *("case_id", "version", "topic", "partition", "offset", "status", "person", "venue"),
        *("window_start", "window_end", "min_overlap", "linger", "recorded_at"),
    ),
    "exposures": (
        *("case_id", "person", "venue", "date", "sector", "department", "first", "last", "minutes"),
        *("status", "case_version", "evidence", "version"),
    ),
    "venue_warnings": (
        *("case_id", "venue", "date", "department", "presences", "contacts", "status", "version"),
    ),
    "rejected": (
        *("source_topic", "source_partition", "source_offset", "source_index", "reason", "detail"),
        *("arrival", "attempts", "value"),
    ),
}

_VISIT: Final[TypeAdapter[Visit]] = TypeAdapter(Visit)
_MAX_HOUR: Final = (2**32 - 1) // 3600  # the last hour whose partition ClickHouse can name (year 2106)
_MAX_UINT32: Final = 2**32 - 1
# Date32 of ClickHouse
_FIRST_DATE: Final = date(1970, 1, 1)
_LAST_DATE: Final = date(2299, 12, 31)
_NUMBER = re.compile(rb"[0-9]{1,18}")
# Visits are read together from so many bytes on: reading costs some 0.3 ms, however few they are.
_READ_BYTES: Final = 1024 * 1024
_DETAIL_LIMIT: Final = 500  # characters: a detail must not grow with the input

Headers = Sequence[tuple[str, bytes | str | None]]


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record; `timestamp` in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    headers: Headers = ()


class BrokenRecordError(ValueError):
    """A record, or one element of it, that cannot be a row."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a row came from: `index`, the element of the record's array (0: a single object), `value`, the
    element as JSON, or the record's original bytes when it is no array."""

    topic: Topic
    record: Record
    index: int
    value: bytes


@dataclass(frozen=True, slots=True)
class _Refused:
    """An element that cannot be a row."""

    index: int
    value: bytes
    error: Exception


class Rows:
    """Rows that wait for a flush, by table and column.

    Records of visits wait until there are enough of them to be read at once. `size`: bytes of the records.
    """

    def __init__(self) -> None:
        self._columns: dict[str, list[list[Any]]] = {
            table: [[] for _ in names] for table, names in COLUMNS.items()
        }
        # by table: (first row, topic, record, element) of each record that made rows
        self._spans: dict[str, list[tuple[int, Topic, Record, int]]] = {table: [] for table in COLUMNS}
        self._waiting: list[Record] = []  # visits that were not read yet
        self._waiting_size = 0
        self._waiting_marks = 0
        self.size = 0
        self._newest_received = 0
        self._broken = 0

    @property
    def marks(self) -> int:
        """Rows of visits; of those that wait, what looks like one."""
        return len(self._columns["visits"][0]) + self._waiting_marks

    @property
    def newest_received(self) -> int:
        """When the newest of the marks was received, ms; 0 for none."""
        self._read_visits()
        return self._newest_received

    @property
    def broken(self) -> int:
        """How many rows were refused here."""
        self._read_visits()
        return self._broken

    def tables(self) -> Iterator[tuple[str, list[list[Any]]]]:
        """(table, its columns) of every table that has rows."""
        self._read_visits()
        for table, columns in self._columns.items():
            if columns[0]:
                yield table, columns

    def add(self, topic: Topic, record: Record) -> None:
        """Take in one record of a topic. Never raises for what a record holds."""
        self.size += len(record.value or b"")
        if topic is VISITS_TOPIC:
            value = record.value or b""
            self._waiting.append(record)
            self._waiting_size += len(value)
            self._waiting_marks += value.count(b"{")
            if self._waiting_size >= _READ_BYTES:
                self._read_visits()
            return
        table, row_of = _ROWS[topic.name]
        try:
            row = row_of(record)
        except (ValidationError, BrokenRecordError) as error:
            if topic is not CASES:  # the cases role refuses it too, with its reason, into cases.rejected
                self._refuse(topic, record, _Refused(0, record.value or b"", error))
        else:
            self._append(table, row, topic, record, 0)

    def source(self, table: str, row: int) -> Source:
        """Where a row of a table came from. Slow: for the rare row that is asked about."""
        self._read_visits()
        spans = self._spans[table]
        start, topic, record, index = spans[bisect_right(spans, row, key=lambda span: span[0]) - 1]
        if table == "visits":
            visits, indexes, _ = _visits_of(record)
            # not orjson: a time of receipt may have more digits than it writes
            element = json.dumps(visits[row - start], ensure_ascii=False).encode()
            return Source(topic, record, indexes[row - start], element)
        if table == "rejected":
            return Source(topic, record, index, self._columns[table][-1][row])
        return Source(topic, record, index, record.value or b"")

    def _append(self, table: str, row: Sequence[Any], topic: Topic, record: Record, index: int) -> None:
        columns = self._columns[table]
        self._spans[table].append((len(columns[0]), topic, record, index))
        for column, cell in zip(columns, row, strict=True):
            column.append(cell)

    def _refuse(self, topic: Topic, record: Record, it: _Refused) -> None:
        self._broken += 1
        row = (record.topic, record.partition, record.offset, it.index, "malformed", _words(it.error))
        self._append("rejected", (*row, record.timestamp, 1, it.value), topic, record, it.index)

    def _read_visits(self) -> None:
        """Make rows of the visits that wait: together, or one record after another when one of them is not
        written as ingest writes."""
        records, self._waiting, self._waiting_size, self._waiting_marks = self._waiting, [], 0, 0
        if records and not self._add_marks(records):
            for record in records:
                if not self._add_marks([record]):
                    self._add_visits(record)

    def _add_marks(self, records: Sequence[Record]) -> bool:
        marks = marks_of([record.value or b"" for record in records], _MAX_HOUR)
        if marks is None:
            return False
        columns, spans = self._columns["visits"], self._spans["visits"]
        row = len(columns[0])
        for record, count in zip(records, marks.counts, strict=True):
            spans.append((row, VISITS_TOPIC, record, 0))
            row += count
        for column, cells in zip(columns, marks.columns, strict=True):
            column.extend(cells)
        self._newest_received = max(self._newest_received, marks.newest)
        return True

    def _add_visits(self, record: Record) -> None:
        """By the schema, element by element."""
        visits, _, refused = _visits_of(record)
        for each in refused:
            self._refuse(VISITS_TOPIC, record, each)
        if not visits:
            return
        venues, hours, persons, ins, outs, voids, parties, sources = self._columns["visits"]
        self._spans["visits"].append((len(venues), VISITS_TOPIC, record, 0))
        venues += [visit["venue"] for visit in visits]
        hours += [visit["hour"] for visit in visits]
        persons += [int(visit["person"], 16) for visit in visits]
        ins += [BITS[visit["minute"]] if visit["kind"] == "in" else 0 for visit in visits]
        outs += [BITS[visit["minute"]] if visit["kind"] == "out" else 0 for visit in visits]
        voids += [BITS[visit["minute"]] if visit["kind"] == "void" else 0 for visit in visits]
        parties += [visit["party"] for visit in visits]
        sources += [SOURCE_BITS[visit["source"]] for visit in visits]
        self._newest_received = max(self._newest_received, *[visit["received_at"] for visit in visits])


def _visits_of(record: Record) -> tuple[list[Visit], Sequence[int], list[_Refused]]:
    """The visits of a record that can be rows, the index of each in its array, and the other elements."""
    refused: list[_Refused] = []
    try:
        visits = VISITS.validate_json(record.value or b"")
        indexes: Sequence[int] = range(len(visits))
    except ValidationError as error:
        visits, indexes = _sound(record, error, refused)
    if any(visit["hour"] > _MAX_HOUR for visit in visits):
        late = BrokenRecordError(f"hour: later than {_MAX_HOUR}, which the archive cannot store")
        kept = []
        for index, visit in zip(indexes, visits, strict=True):
            if visit["hour"] > _MAX_HOUR:
                # the hour may have any number of digits, which orjson does not write
                refused.append(_Refused(index, json.dumps(visit).encode(), late))
            else:
                kept.append((index, visit))
        visits, indexes = [visit for _, visit in kept], [index for index, _ in kept]
    return visits, indexes, refused


def _sound(
    record: Record, error: ValidationError, refused: list[_Refused]
) -> tuple[list[Visit], Sequence[int]]:
    """The good elements of an array with bad ones; the bad ones are refused, each with its place."""
    try:
        elements = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        elements = None
    if not isinstance(elements, list):
        refused.append(_Refused(0, record.value or b"", error))
        return [], ()
    visits, indexes = [], []
    for index, element in enumerate(elements):
        try:
            visits.append(_VISIT.validate_python(element))
            indexes.append(index)
        except ValidationError as problem:
            refused.append(_Refused(index, orjson.dumps(element), problem))
    return visits, indexes


def _words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        return f"{place}: {problem['msg']}".removeprefix(": ")[:_DETAIL_LIMIT]
    return str(error)[:_DETAIL_LIMIT]


def _date(name: str) -> date:
    try:
        day = date.fromisoformat(name)
    except ValueError:
        raise BrokenRecordError(f"date: {name!r} is not a day of the calendar") from None
    if not _FIRST_DATE <= day <= _LAST_DATE:
        raise BrokenRecordError(f"date: {name} is not between {_FIRST_DATE} and {_LAST_DATE}")
    return day


def _venue_row(record: Record) -> tuple[Any, ...]:
    venue = Venue.model_validate_json(record.value or b"")
    if venue.capacity is not None and venue.capacity > _MAX_UINT32:
        raise BrokenRecordError(f"capacity: more than {_MAX_UINT32}")
    where = (venue.code, venue.name, venue.sector, venue.district, venue.department, venue.parent or "")
    opening = (venue.dwell, venue.capacity, venue.opens or "", venue.closes or "")
    return (*where, *opening, venue.lat, venue.lon, venue.closed_at, record.timestamp)


def _case_row(record: Record) -> tuple[Any, ...]:
    case = Case.model_validate_json(record.value or b"")
    place = (case.case_id, case.version, record.topic, record.partition, record.offset)
    subject = (None if case.person is None else int(case.person, 16), case.venue or "")
    window = (case.start, case.end, case.min_overlap, case.linger)
    return (*place, case.status, *subject, *window, record.timestamp)


def _exposure_row(record: Record) -> tuple[Any, ...]:
    it = Exposure.model_validate_json(record.value or b"")
    if it.minutes > _MAX_UINT32 or it.evidence > _MAX_UINT32 or it.version >= 2**64:
        raise BrokenRecordError("minutes, evidence or version: larger than the archive can store")
    key = (it.case_id, int(it.person, 16), it.venue, _date(it.date))
    about = (it.sector, it.department, it.first, it.last, it.minutes)
    return (*key, *about, it.status, it.case_version, it.evidence, it.version)


def _warning_row(record: Record) -> tuple[Any, ...]:
    it = VenueWarning.model_validate_json(record.value or b"")
    if it.contacts > _MAX_UINT32 or it.version >= 2**64:
        raise BrokenRecordError("contacts or version: larger than the archive can store")
    key = (it.case_id, it.venue, _date(it.date), it.department)
    return (*key, it.presences, it.contacts, it.status, it.version)


def _rejected_row(record: Record) -> tuple[Any, ...]:
    """Of a dead-letter record. Headers that are missing fall back to the record's own place."""
    texts = {
        name: value.encode() if isinstance(value, str) else value or b"" for name, value in record.headers
    }

    def number(name: str, otherwise: int, most: int = _MAX_UINT32) -> int:
        found = texts.get(name, b"")
        return min(int(found), most) if _NUMBER.fullmatch(found) else otherwise

    if {"source-topic", "source-partition", "source-offset"} <= texts.keys():
        source = texts["source-topic"].decode("utf-8", "replace")
        place = (number("source-partition", 0), number("source-offset", 0, 2**63), number("source-index", 0))
    else:
        source, place = record.topic, (record.partition, record.offset, 0)
    reason = texts.get("reason", b"").decode("utf-8", "replace") or "malformed"
    detail = texts.get("detail", b"").decode("utf-8", "replace")
    arrival = number("arrival", record.timestamp, 2**63)
    return (source, *place, reason, detail, arrival, number("attempts", 1), record.value or b"")


_ROWS: Final[dict[str, tuple[str, Callable[[Record], tuple[Any, ...]]]]] = {
    VENUES.name: ("venues", _venue_row),
    CASES.name: ("cases", _case_row),
    EXPOSURES.name: ("exposures", _exposure_row),
    VENUE_WARNINGS.name: ("venue_warnings", _warning_row),
    SCANS_REJECTED.name: ("rejected", _rejected_row),
    CASES_REJECTED.name: ("rejected", _rejected_row),
    ARCHIVE_REJECTED.name: ("rejected", _rejected_row),
}
TOPICS: Final = (
    *(VISITS_TOPIC, VENUES, CASES, EXPOSURES, VENUE_WARNINGS),
    *(SCANS_REJECTED, CASES_REJECTED, ARCHIVE_REJECTED),
)
