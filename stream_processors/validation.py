"""From Kafka records to accepted scans and rejected ones: pure, a chunk at a time.

The fast path parses all single-scan records of a chunk as one JSON text. Between two records stands a
number drawn at random for this process: a malformed record could swallow its neighbours (an open array in
an ignored field) but cannot forge the number, so a chunk whose numbers do not all stand where they belong
is parsed record by record. Arrays are parsed one record at a time; there a call is cheap per scan.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, TypeAlias, cast

from pydantic import Field, TypeAdapter, ValidationError

from schemas.codes import is_code
from schemas.events import MAX_SCANS_PER_RECORD, SCAN, RejectReason, Scan
from schemas.json_text import constant_problem, has_constant
from schemas.problems import first_problem

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]

FUTURE_TOLERANCE_MS: Final = 5 * 60_000
_SPACE: Final = b" \t\r\n"
_DETAIL_LIMIT: Final = 500  # characters: a header must not grow with the input

_SEPARATOR: Final[int] = secrets.randbits(62) | 1 << 61
_ARRAY: Final[TypeAdapter[list[Scan]]] = TypeAdapter(
    Annotated[list[Scan], Field(min_length=1, max_length=MAX_SCANS_PER_RECORD)]
)
_JOINED: Final[TypeAdapter[list[Any]]] = TypeAdapter(
    list[Annotated[Scan | Literal[_SEPARATOR], Field(union_mode="left_to_right")]]  # type: ignore[valid-type]
)
_BETWEEN: Final = b",%d," % _SEPARATOR


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record, as far as validation needs it. `timestamp` ms."""

    value: bytes | None
    offset: int
    timestamp: int
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """What goes to `scans.rejected`: the original bytes of the record, or of one element of its array."""

    value: bytes | None
    reason: RejectReason
    detail: str
    offset: int
    index: int
    arrival: int
    attempts: int


@dataclass(slots=True)
class Validated:
    """The verdicts on a chunk: accepted scans with their arrival (ms) and where they stood, and the rest."""

    scans: list[Scan] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)
    origins: list[tuple[Record, int]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


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

    def __init__(self) -> None:
        self.scans: list[Scan] = []
        self.origins: list[tuple[Record, int]] = []
        self.raws: list[bytes | None] = []  # of an element of an array; none: the record's own value
        self.rejected: list[Rejected] = []

    def accept(self, record: Record, index: int, scan: Scan, raw: bytes | None) -> None:
        self.scans.append(scan)
        self.origins.append((record, index))
        self.raws.append(raw)

    def reject(
        self, record: Record, index: int, raw: bytes | None, reason: RejectReason, detail: str
    ) -> None:
        arrival = header_int(record.headers, "arrival")
        self.rejected.append(
            Rejected(
                raw,
                reason,
                detail,
                record.offset,
                index,
                max(0, record.timestamp) if arrival is None else arrival,
                (header_int(record.headers, "attempts") or 0) + 1,
            )
        )

    def single(self, record: Record) -> None:
        verdict = _one(record.value or b"")
        if isinstance(verdict, tuple):
            self.reject(record, 0, record.value, *verdict)
        else:
            self.accept(record, 0, verdict, None)

    def array(self, record: Record) -> None:
        value = record.value or b""
        if has_constant(value):
            self._array_by_element(record, value)
            return
        try:
            scans = _ARRAY.validate_json(value)
        except ValidationError:
            self._array_by_element(record, value)
            return
        for index, scan in enumerate(scans):
            self.accept(record, index, scan, None)

    def _array_by_element(self, record: Record, value: bytes) -> None:
        try:
            elements = _elements(value.decode())
        except (ValueError, RecursionError) as error:
            self.reject(record, 0, value, "malformed", str(error)[:_DETAIL_LIMIT])
            return
        if not 1 <= len(elements) <= MAX_SCANS_PER_RECORD:
            detail = f"an array has 1 to {MAX_SCANS_PER_RECORD} scans, not {len(elements)}"
            self.reject(record, 0, value, "malformed", detail)
            return
        for index, element in enumerate(elements):
            raw = element.encode()
            verdict = _one(raw)
            if isinstance(verdict, tuple):
                self.reject(record, index, raw, *verdict)
            else:
                self.accept(record, index, verdict, raw)


def _parse(records: Sequence[Record]) -> _Chunk:
    chunk = _Chunk()
    singles: list[Record] = []
    for record in records:
        value = record.value
        if value is None:
            chunk.reject(record, 0, None, "malformed", "a record without a value")
        elif value[:1] == b"{":
            singles.append(record)
        elif value.lstrip(_SPACE)[:1] == b"[":
            chunk.array(record)
        else:
            chunk.single(record)
    if singles:
        _parse_singles(chunk, singles)
    return chunk


def _parse_singles(chunk: _Chunk, singles: Sequence[Record]) -> None:
    joined = b"[" + _BETWEEN.join([record.value or b"" for record in singles]) + b"]"
    try:
        parsed = [] if has_constant(joined) else _JOINED.validate_json(joined)
    except ValidationError:
        parsed = []
    count = len(singles)
    separators = parsed[1::2]
    if len(parsed) == 2 * count - 1 and separators.count(_SEPARATOR) == count - 1:
        chunk.scans += parsed[::2]
        chunk.origins += [(record, 0) for record in singles]
        chunk.raws += [None] * count
        return
    for record in singles:
        chunk.single(record)


def validate(
    records: Sequence[Record],
    closed_at: Callable[[Sequence[str]], Mapping[str, int | None]],
    retention_ms: int,
) -> Validated:
    """Judge every scan of a chunk by itself.

    `closed_at` answers, for venue codes, when each known one closed (ms or none): unknown codes are absent.
    Arrival is `received_at`, else the record's `arrival` header (a replay), else its timestamp: so a replay
    gives the same verdict.
    """
    chunk = _parse(records)
    venues = closed_at(list({scan["venue"] for scan in chunk.scans}))
    result = Validated(rejected=chunk.rejected)
    scans, arrivals = result.scans, result.arrivals
    elements: dict[int, list[str]] = {}
    for position, scan in enumerate(chunk.scans):
        record, index = chunk.origins[position]
        arrival = scan.get("received_at")
        if arrival is None:
            arrival = header_int(record.headers, "arrival") if record.headers else None
            if arrival is None:
                arrival = max(0, record.timestamp)  # -1: it has none
        scanned_at = scan["scanned_at"]
        closed = venues.get(scan["venue"], -1)
        if (closed is None or scanned_at < closed) and (
            arrival - retention_ms <= scanned_at <= arrival + FUTURE_TOLERANCE_MS
        ):
            scans.append(scan)
            arrivals.append(arrival)
            result.origins.append(chunk.origins[position])
            continue
        reason, detail = _why(scan, venues, arrival, retention_ms)
        raw = chunk.raws[position] or _raw_of(record, index, elements)
        attempts = (header_int(record.headers, "attempts") or 0) + 1
        result.rejected.append(Rejected(raw, reason, detail, record.offset, index, arrival, attempts))
    return result


def _why(
    scan: Scan, venues: Mapping[str, int | None], arrival: int, retention_ms: int
) -> tuple[RejectReason, str]:
    code = scan["venue"]
    if code not in venues:
        if not is_code(code):
            return "invalid", f"venue: {code} has a wrong check character"
        return "unknown_venue", f"venue {code} is not registered"
    closed = venues[code]
    if closed is not None and scan["scanned_at"] >= closed:
        return "unknown_venue", f"venue {code} is closed since {closed}"
    if scan["scanned_at"] < arrival - retention_ms:
        return "too_old", f"scanned {arrival - scan['scanned_at']} ms before it arrived"
    return "in_future", f"scanned {scan['scanned_at'] - arrival} ms after it arrived"


def _raw_of(record: Record, index: int, elements: dict[int, list[str]]) -> bytes:
    """The original bytes of a scan that parsed: the record's, or those of its element of the array."""
    value = cast(bytes, record.value)  # it parsed
    if value.lstrip(_SPACE)[:1] != b"[":
        return value
    if record.offset not in elements:  # an array is taken apart once, however many of it are rejected
        elements[record.offset] = _elements(value.decode())
    return elements[record.offset][index].encode()
