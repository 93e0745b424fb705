"""From Kafka records to accepted scans and rejected ones: pure, a chunk at a time.

Nearly all scans are plain text and are read by a fast reader (reading.py); the schema judges the rest.
Single scans that are not plain are given to it as one JSON text: between two records stands a number drawn
at random for this process. A malformed record could swallow its neighbours (an open array in an ignored
field) but cannot forge the number, so a chunk whose numbers do not all stand where they belong is parsed
record by record.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Annotated, Any, Final, Literal, cast

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from schemas.codes import ALPHABET, CODE_PATTERN, MAX_LENGTH, MIN_LENGTH, is_code
from schemas.events import FUTURE_TOLERANCE_MS, MAX_SCANS_PER_RECORD, SCAN, RejectReason, Scan, untimely
from schemas.json_text import constant_problem, has_constant
from schemas.problems import first_problem
from schemas.times import MAX_MS
from stream_processors.reading import (
    NotReadError,
    Row,
    elements_of,
    is_plain,
    read_array,
    read_one,
    row_of,
    well_formed,
)
from stream_processors.records import Headers, Record, Records

_SPACE: Final = b" \t\r\n"
_DETAIL_LIMIT: Final = 500  # characters: a header must not grow with the input

_SEPARATOR: Final[int] = secrets.randbits(62) | 1 << 61
_CODE: Final = re.compile(CODE_PATTERN)
_ARRAY: Final[TypeAdapter[list[Scan]]] = TypeAdapter(
    Annotated[list[Scan], Field(min_length=1, max_length=MAX_SCANS_PER_RECORD)]
)
_JOINED: Final[TypeAdapter[list[Any]]] = TypeAdapter(
    list[Annotated[Scan | Literal[_SEPARATOR], Field(union_mode="left_to_right")]]  # type: ignore[valid-type]
)
_BETWEEN: Final = b",%d," % _SEPARATOR


@dataclass(frozen=True, slots=True)
class Rejected:
    """What goes to `scans.rejected`: the original bytes of the record, or of one element of its array."""

    value: bytes | None
    reason: RejectReason
    detail: str
    partition: int
    offset: int
    index: int
    arrival: int
    attempts: int


@dataclass(slots=True)
class Accepted:
    """Accepted scans by column, an element a scan. Times in ms; `places`: of the record that each stood in,
    among those that were judged; `indexes`: in its array."""

    scan_ids: list[str]
    persons: list[str]
    venues: list[str]
    scanned_at: NDArray[np.int64]
    kinds: list[str]
    sources: list[str]
    parties: list[int]
    arrivals: list[int]
    places: list[int]
    indexes: list[int]

    def __len__(self) -> int:
        return len(self.scan_ids)


@dataclass(slots=True)
class Validated:
    """The verdicts on a chunk."""

    scans: Accepted
    rejected: list[Rejected]


def header_int(headers: Headers, name: str) -> int | None:
    """The number in a header of a replay, up to 15 digits; none when it is absent or no such number."""
    for key, value in headers:
        if key == name and value is not None and re.fullmatch(rb"[0-9]{1,15}", value):
            return int(value)
    return None


# only the places of the elements are wanted: a number of 5,000 digits must not fail its neighbours
_DECODER: Final = json.JSONDecoder(
    parse_int=lambda _: 0, parse_float=lambda _: 0.0, parse_constant=lambda _: None
)


def _elements(text: str) -> list[str]:
    """The text of each element of a JSON array. Raises ValueError or RecursionError if it is not one."""
    found: list[str] = []
    space = " \t\r\n"
    end = len(text)

    def skip(at: int) -> int:
        while at < end and text[at] in space:
            at += 1
        return at

    at = skip(0)
    if text[at : at + 1] != "[":
        raise ValueError("not an array")
    at = skip(at + 1)
    if text[at : at + 1] != "]":
        while True:
            _, stop = _DECODER.raw_decode(text, at)
            found.append(text[at:stop])
            at = skip(stop)
            if text[at : at + 1] != ",":
                break
            at = skip(at + 1)
    if text[at : at + 1] != "]" or skip(at + 1) != end:
        raise ValueError("the array does not end where it should")
    return found


def _explain(error: ValidationError) -> tuple[RejectReason, str]:
    text = first_problem(error)[:_DETAIL_LIMIT]
    # a problem of the whole has no place: not JSON, or no object
    return (
        "invalid" if error.errors(include_input=False, include_url=False)[0]["loc"] else "malformed"
    ), text


def _one(raw: bytes) -> Scan | tuple[RejectReason, str]:
    problem = constant_problem(raw)
    if problem is not None:
        return "malformed", problem[:_DETAIL_LIMIT]
    try:
        return SCAN.validate_json(raw)
    except ValidationError as error:
        return _explain(error)


class _Chunk:
    """State of one call: where verdicts are put."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.rows: list[Row] = []
        self.places: list[int] = []
        self.indexes: list[int] = []
        self.rejected: list[Rejected] = []

    def accept(self, place: int, index: int, row: Row) -> None:
        self.rows.append(row)
        self.places.append(place)
        self.indexes.append(index)

    def accept_all(self, place: int, rows: Sequence[Row]) -> None:
        self.rows += rows
        self.places += [place] * len(rows)
        self.indexes += range(len(rows))

    def reject(self, place: int, index: int, raw: bytes | None, reason: RejectReason, detail: str) -> None:
        record = self.records.at(place)
        arrival = header_int(record.headers, "arrival")
        self.rejected.append(
            Rejected(
                raw,
                reason,
                detail,
                record.partition,
                record.offset,
                index,
                max(0, record.timestamp) if arrival is None else arrival,
                (header_int(record.headers, "attempts") or 0) + 1,
            )
        )

    def judge(self, place: int, index: int, raw: bytes | None) -> None:
        """By the schema."""
        verdict = _one(raw or b"")
        if isinstance(verdict, tuple):
            self.reject(place, index, raw, *verdict)
        else:
            self.accept(place, index, row_of(verdict))

    def array(self, place: int, value: bytes) -> None:
        objects = value.count(b"{")
        if value.count(b"[") == 1 and is_plain(value, objects):
            try:
                rows = read_array(value)
            except NotReadError:
                pass
            else:
                if len(rows) == objects and well_formed(rows) is None:
                    self.accept_all(place, rows)
                    return
            found = elements_of(value)
            if found is not None and self._plain_array(place, found):
                return
        elif not has_constant(value):
            try:
                self.accept_all(place, [row_of(scan) for scan in _ARRAY.validate_json(value)])
                return
            except ValidationError:
                pass
        self._array_by_element(place, value)

    def _plain_array(self, place: int, elements: Sequence[bytes]) -> bool:
        """Judge each by itself; false, and nothing done, when one is no JSON: then the array is none."""
        if not 1 <= len(elements) <= MAX_SCANS_PER_RECORD:
            return False
        verdicts = [_read(element) for element in elements]
        if any(isinstance(verdict, tuple) and verdict[0] == "malformed" for verdict in verdicts):
            return False
        for index, (element, verdict) in enumerate(zip(elements, verdicts, strict=True)):
            if isinstance(verdict, tuple):
                self.reject(place, index, element, *verdict)
            else:
                self.accept(place, index, verdict)
        return True

    def _array_by_element(self, place: int, value: bytes) -> None:
        try:
            elements = _elements(value.decode())
        except (ValueError, RecursionError) as error:
            self.reject(place, 0, value, "malformed", str(error)[:_DETAIL_LIMIT])
            return
        if not 1 <= len(elements) <= MAX_SCANS_PER_RECORD:
            detail = f"an array has 1 to {MAX_SCANS_PER_RECORD} scans, not {len(elements)}"
            self.reject(place, 0, value, "malformed", detail)
            return
        for index, element in enumerate(elements):
            self.judge(place, index, element.encode())


def _read(raw: bytes) -> Row | tuple[RejectReason, str]:
    """The verdict on a plain object."""
    try:
        row = read_one(raw)
    except NotReadError:
        pass
    else:
        if well_formed([row]) is None:
            return row
    verdict = _one(raw)
    return verdict if isinstance(verdict, tuple) else row_of(verdict)


def _parse(records: Records) -> _Chunk:
    chunk = _Chunk(records)
    if _all_plain_singles(chunk):
        return chunk
    singles: list[int] = []
    for place, value in enumerate(records.values):
        if value is None:
            chunk.reject(place, 0, None, "malformed", "a record without a value")
        elif value[:1] == b"{":
            if is_plain(value, 1) and b"[" not in value:
                try:
                    row = read_one(value)
                except NotReadError:
                    pass
                else:
                    if well_formed([row]) is None:
                        chunk.accept(place, 0, row)
                        continue
            singles.append(place)
        elif value.lstrip(_SPACE)[:1] == b"[":
            chunk.array(place, value)
        else:
            chunk.judge(place, 0, value)
    if singles:
        _parse_singles(chunk, singles)
    return chunk


def _all_plain_singles(chunk: _Chunk) -> bool:
    """The usual chunk of single scans: looked at as a whole, read one by one, so no record can reach into
    another. False, and nothing done, when anything is unusual."""
    values = [value or b"" for value in chunk.records.values]
    text = b"".join(values)
    if b"[" in text or not is_plain(text, len(values)):
        return False
    try:
        rows = list(map(read_one, values))
    except NotReadError:
        return False
    if well_formed(rows) is not None:
        return False
    chunk.rows = rows
    chunk.places = list(range(len(rows)))
    chunk.indexes = [0] * len(rows)
    return True


def _parse_singles(chunk: _Chunk, singles: Sequence[int]) -> None:
    values = [chunk.records.values[place] or b"" for place in singles]
    joined = b"[" + _BETWEEN.join(values) + b"]"
    try:
        parsed = [] if has_constant(joined) else _JOINED.validate_json(joined)
    except ValidationError:
        parsed = []
    count = len(singles)
    separators = parsed[1::2]
    if len(parsed) == 2 * count - 1 and separators.count(_SEPARATOR) == count - 1:
        chunk.rows += map(row_of, parsed[::2])
        chunk.places += singles
        chunk.indexes += [0] * count
        return
    for place, value in zip(singles, values, strict=True):
        chunk.judge(place, 0, value)


def _arrivals(chunk: _Chunk) -> list[int]:
    """`received_at`, else the record's `arrival` header (a replay), else its timestamp."""
    records, places = chunk.records, chunk.places
    told = [max(0, timestamp) for timestamp in records.timestamps]  # -1: it has none
    if records.headers is not None:
        for place, headers in enumerate(records.headers):
            if headers and (arrival := header_int(headers, "arrival")) is not None:
                told[place] = arrival
    return [
        told[place] if row.received_at is UNSET else row.received_at
        for row, place in zip(chunk.rows, places, strict=True)
    ]


def validate(
    records: Records,
    closed_at: Callable[[Sequence[str]], Mapping[str, int | None]],
    retention_ms: int,
) -> Validated:
    """Judge every scan of a chunk by itself.

    `closed_at` answers, for venue codes, when each known one closed (ms or none): unknown codes are absent.
    Arrival is `received_at`, else the record's `arrival` header (a replay), else its timestamp: so a replay
    gives the same verdict.
    """
    chunk = _parse(records)
    rows = chunk.rows
    venues = [row.venue for row in rows]
    codes = list(set(venues))
    known = closed_at(codes)
    arrivals = _arrivals(chunk)
    scanned = np.array([row.scanned_at for row in rows], np.int64)
    arrived = np.array(arrivals, np.int64)
    # schemas.events.untimely, for all at once
    good = (arrived - retention_ms <= scanned) & (scanned <= arrived + FUTURE_TOLERANCE_MS)
    if len(known) < len(codes) or set(known.values()) != {None}:  # hardly ever
        until = {code: MAX_MS + 1 if closed is None else closed for code, closed in known.items()}
        good &= scanned < np.array([until.get(code, -1) for code in venues], np.int64)
    if not good.all():
        elements: dict[tuple[int, int], Sequence[bytes]] = {}
        for at in np.flatnonzero(~good).tolist():
            place, index = chunk.places[at], chunk.indexes[at]
            record = records.at(place)
            reason, detail = _why(rows[at], known, arrivals[at], retention_ms)
            raw = _raw_of(record, index, elements)
            attempts = (header_int(record.headers, "attempts") or 0) + 1
            source = record.partition, record.offset, index
            chunk.rejected.append(Rejected(raw, reason, detail, *source, arrivals[at], attempts))
        kept = good.tolist()
        rows, venues = list(compress(rows, kept)), list(compress(venues, kept))
        arrivals = list(compress(arrivals, kept))
        chunk.places = list(compress(chunk.places, kept))
        chunk.indexes = list(compress(chunk.indexes, kept))
        scanned = scanned[good]
    return Validated(
        Accepted(
            [row.scan_id for row in rows],
            [row.person for row in rows],
            venues,
            scanned,
            [row.kind for row in rows],
            [row.source for row in rows],
            [row.party for row in rows],
            arrivals,
            chunk.places,
            chunk.indexes,
        ),
        chunk.rejected,
    )


def _why(
    row: Row, known: Mapping[str, int | None], arrival: int, retention_ms: int
) -> tuple[RejectReason, str]:
    code = row.venue
    if code not in known:
        if _CODE.fullmatch(code) is None:
            return "invalid", f"venue: {code} is not {MIN_LENGTH} to {MAX_LENGTH} of {ALPHABET}"
        if not is_code(code):
            return "invalid", f"venue: {code} has a wrong check character"
        return "unknown_venue", f"venue {code} is not registered"
    closed = known[code]
    if closed is not None and row.scanned_at >= closed:
        return "unknown_venue", f"venue {code} is closed since {closed}"
    if untimely(row.scanned_at, arrival, retention_ms) == "too_old":
        return "too_old", f"scanned {arrival - row.scanned_at} ms before it arrived"
    return "in_future", f"scanned {row.scanned_at - arrival} ms after it arrived"


def _raw_of(record: Record, index: int, elements: dict[tuple[int, int], Sequence[bytes]]) -> bytes:
    """The original bytes of a scan that parsed: the record's, or those of its element of the array."""
    value = cast(bytes, record.value)  # it parsed
    if value.lstrip(_SPACE)[:1] != b"[":
        return value
    place = record.partition, record.offset
    if place not in elements:  # an array is taken apart once, however many of it are rejected
        elements[place] = elements_of(value) or [element.encode() for element in _elements(value.decode())]
    return elements[place][index]
