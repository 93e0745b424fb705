"""What is fuzzed: each target takes any bytes and raises when a parser does something that it must not.

The first byte string of an input is split at FF FE into records, where a target takes several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pydantic import ValidationError

from schemas import topics
from schemas.events import Venue
from schemas.qr import parse_person, parse_venue
from sinks import rows
from stream_processors.cases import CaseRecord, read_case_record
from stream_processors.records import Record, Records
from stream_processors.validation import Validated, validate
from tests.bad_input import oracle

NOW: Final = 1_795_000_000_000
_SPLIT: Final = b"\xff\xfe"
# some codes with a check character that fits
KNOWN: Final[Mapping[str, int | None]] = {"CDEFHJKV": None, "CDEFW": NOW - 60_000, "RTVWD": None}
_LONG_NUMBER = re.compile(rb"[0-9]{4000}")


def _closed_at(codes: Sequence[str]) -> dict[str, int | None]:
    return {code: KNOWN[code] for code in codes if code in KNOWN}


def _beyond_the_oracle(value: bytes) -> bool:
    """Near the bounds of pydantic's parser: depth 200, numbers of 4,300 digits."""
    return value.count(b"[") + value.count(b"{") > 150 or _LONG_NUMBER.search(value) is not None


def _told(found: Validated) -> list[tuple[int, int, str]]:
    return sorted((each.offset, each.index, each.reason) for each in found.rejected)


def scans(data: bytes) -> None:
    """A chunk is judged as its records alone are, and as the oracle judges them."""
    values = data.split(_SPLIT)[:8]
    records = [Record(value, offset, NOW) for offset, value in enumerate(values)]
    together = validate(Records.of(records), _closed_at, oracle.RETENTION_MS)
    apart = [validate(Records.of([record]), _closed_at, oracle.RETENTION_MS) for record in records]
    assert _told(together) == sorted(line for each in apart for line in _told(each)), "a neighbour matters"

    def ids(*found: Validated) -> list[str]:
        return sorted(scan_id for each in found for scan_id in each.scans.scan_ids)

    assert ids(together) == ids(*apart), "a neighbour matters"
    for value, found in zip(values, apart, strict=True):
        if _beyond_the_oracle(value):
            continue
        verdicts = oracle.scan_verdicts(value, (), NOW, KNOWN)
        bad = {index: verdict for index, (verdict, _) in enumerate(verdicts) if verdict}
        told = {
            each.index: oracle.BAD if each.reason in {"malformed", "invalid"} else each.reason
            for each in found.rejected
        }
        assert told == bad, (value, found.rejected, bad)
        assert len(found.scans) == len(verdicts) - len(bad)
        assert all(each.value is not None and each.value in value for each in found.rejected)


def cases(data: bytes) -> None:
    """A key, FF FE, a case."""
    key, _, value = data.partition(_SPLIT)
    found = read_case_record(CaseRecord(key, value, 0, 0, NOW))
    if not _beyond_the_oracle(value):
        verdict = oracle.case_verdict(key, value)
        assert (verdict == "") == (not isinstance(found, tuple)), (key, value, found)


def venues(data: bytes) -> None:
    """A venue, or one error that is expected."""
    try:
        Venue.model_validate_json(data)
        good = True
    except ValidationError:
        good = False
    # NaN where nobody looks is let pass: no record is answered for it, and nothing depends on it
    if not _beyond_the_oracle(data) and b"NaN" not in data and b"Infinity" not in data:
        assert good == oracle.is_venue(data), data


def qr(data: bytes) -> None:
    """A scanned code: a venue, a person, or an error in words."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (parse_venue, parse_person):
        try:
            found = parse(text)
        except ValueError as error:
            assert str(error)
        else:
            assert parse(found) == found, "what is a code is one again"


def archived(data: bytes) -> None:
    """A row, or a row of what was refused: never an exception, never nothing."""
    value, _, header = data.partition(_SPLIT)
    headers = [(name, header) for name in ("reason", "attempts", "arrival", "source-offset", "source-topic")]
    for topic in rows.TOPICS:
        taken = rows.Rows()
        taken.add(topic, rows.Record(topic.name, 0, 7, NOW, value, headers))
        tables = dict(taken.tables())
        lengths = {len(column) for columns in tables.values() for column in columns}
        assert 0 not in lengths
        if topic not in {topics.CASES, topics.VISITS}:  # refused elsewhere; an array may be empty
            assert tables, (topic.name, value)


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "scans": scans,
    "cases": cases,
    "venues": venues,
    "qr": qr,
    "archived": archived,
}
