"""The fast reader of visits: never another answer than the schema's."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.events import VISITS
from sinks.marks import BITS, SOURCE_BITS, marks_of
from stream_processors.ingest import _Visit, _write

LAST = 1_193_046
VISIT: dict[str, Any] = {
    "scan_id": "0190a1b2-0000-7000-8000-000000000001",
    "person": "fedcba9876543210",
    "venue": "CDEFHK",
    "hour": 447_000,
    "minute": 59,
    "kind": "in",
    "source": "venue",
    "party": 3,
    "received_at": 1_612_340_000_000,
}
# each field with values inside, at and beyond its bounds
visits = st.builds(
    lambda **changes: VISIT | changes,
    person=st.sampled_from(["fedcba9876543210", "0" * 16, "F" * 16, "0" * 15, "0" * 17]),
    venue=st.sampled_from(["CDEFHK", "CDEF", "CDE", "C" * 12, "C" * 13, "cdef", "ACDE"]),
    hour=st.one_of(st.integers(-1, LAST + 2), st.sampled_from([0, 10**7, 10**20, 1.0, True, "5"])),
    minute=st.one_of(st.integers(-1, 61), st.sampled_from([5.0, False, None])),
    kind=st.sampled_from(["in", "out", "void", "In", ""]),
    source=st.sampled_from([*SOURCE_BITS, "other"]),
    party=st.one_of(st.integers(-1, 52), st.sampled_from([100, 1.0])),
    received_at=st.sampled_from([0, 1, 1_612_340_000_000, 253_402_300_799_999, 253_402_300_800_000, -1]),
)


def compared(*values: bytes) -> bool:
    """Whether they were read; what was read is what the schema says."""
    found = marks_of(values, LAST)
    if found is None:
        return False
    each = [VISITS.validate_json(value) for value in values]
    assert found.counts == [len(visits) for visits in each]
    said = [visit for visits in each for visit in visits]
    assert all(visit["hour"] <= LAST for visit in said)
    rows = list(zip(*found.columns, strict=True))
    assert rows == [
        (
            *(visit["venue"], visit["hour"], int(visit["person"], 16)),
            *(BITS[visit["minute"]] if visit["kind"] == kind else 0 for kind in ("in", "out", "void")),
            *(visit["party"], SOURCE_BITS[visit["source"]]),
        )
        for visit in said
    ]
    assert found.newest == max(visit["received_at"] for visit in said)
    return True


@given(st.lists(visits, max_size=4))
def test_what_is_read_is_what_the_schema_reads(some: list[dict[str, Any]]) -> None:
    try:
        value = orjson.dumps(some)
    except TypeError:  # more digits than it writes
        return
    compared(value)


@given(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3))
def test_a_record_that_is_damaged_anywhere_is_not_read_as_another(at: int, cut: int, put: bytes) -> None:
    whole = orjson.dumps([VISIT, VISIT | {"kind": "out", "minute": 0}])
    value = whole[:at] + put + whole[at + cut :]
    try:
        VISITS.validate_json(value)
    except ValidationError:
        assert marks_of([value], LAST) is None
        assert marks_of([whole, value, whole], LAST) is None
    else:
        compared(value)
        compared(whole, value, whole)


@given(st.lists(st.lists(visits, max_size=2), min_size=1, max_size=3), st.data())
def test_records_are_read_together_and_never_across_their_bounds(
    some: list[list[dict[str, Any]]], data: st.DataObject
) -> None:
    try:
        values = [orjson.dumps(each) for each in some]
    except TypeError:
        return
    together = compared(*values)
    assert together == all(map(compared, values))
    text = b"".join(values)
    cut = data.draw(st.integers(1, len(text) - 1))
    if together and text[:cut] not in {b"".join(values[:number]) for number in range(len(values))}:
        assert marks_of([text[:cut], text[cut:]], LAST) is None


def test_every_field_that_is_good_is_read_at_its_bounds() -> None:
    for minute in range(60):
        for party in (1, 9, 10, 11, 20, 49, 50):
            for kind in ("in", "out", "void"):
                assert compared(orjson.dumps([VISIT | {"minute": minute, "party": party, "kind": kind}]))
    assert compared(orjson.dumps([VISIT | {"hour": LAST}]))
    assert not compared(orjson.dumps([VISIT | {"hour": LAST + 1}]))


def test_ingest_writes_what_is_read() -> None:
    """Another order of its fields would still be right, and slow."""
    assert compared(_write([_Visit(**VISIT), _Visit(**VISIT | {"kind": "void"})]))
