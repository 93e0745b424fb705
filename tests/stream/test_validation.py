"""Verdicts on scans: each by itself, whatever stands beside it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codes import check_character
from stream_processors.records import Record, Records
from stream_processors.validation import Validated, validate

CODE = "CDEF" + check_character("CDEF")
CLOSED = "HJKM" + check_character("HJKM")
UNKNOWN = "PRTV" + check_character("PRTV")
NOW = 1_700_000_000_000
DAY = 86_400_000


def closed_at(codes: Sequence[str]) -> Mapping[str, int | None]:
    known = {CODE: None, CLOSED: NOW - 1000}
    return {code: known[code] for code in codes if code in known}


def scan(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "scan_id": str(uuid.UUID(int=7)),
        "person": "0123456789abcdef",
        "venue": CODE,
        "scanned_at": NOW,
    }
    return {key: value for key, value in (base | changes).items() if value is not ...}


def judge(
    *values: bytes | None, timestamp: int = NOW, headers: list[tuple[str, bytes]] | None = None
) -> Validated:
    records = [Record(value, offset, timestamp, headers or ()) for offset, value in enumerate(values)]
    return validate(Records.of(records), closed_at, 30 * DAY)


def dumps(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "malformed"),
        (None, "malformed"),
        (b"{", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"7", "malformed"),
        (b"[]", "malformed"),
        (b'"text"', "malformed"),
        (dumps(scan())[:-1] + b',"x":NaN}', "malformed"),
        (dumps(scan())[:-1] + b',"x":[-Infinity]}', "malformed"),
        (b"[" * 100_000, "malformed"),
        (dumps([scan()] * 1001), "malformed"),
        (dumps(scan(person=...)), "invalid"),
        (dumps(scan(person="0123456789ABCDEF")), "invalid"),
        (dumps(scan(scanned_at=str(NOW))), "invalid"),
        (dumps(scan(scanned_at=float(NOW))), "invalid"),
        (dumps(scan(scanned_at=True)), "invalid"),
        (dumps(scan(scanned_at=-1)), "invalid"),
        (dumps(scan(scanned_at=10**30)), "invalid"),
        (dumps(scan(scan_id="no")), "invalid"),
        (dumps(scan(party=0)), "invalid"),
        (dumps(scan(party=51)), "invalid"),
        (dumps(scan(kind="IN")), "invalid"),
        (dumps(scan(gateway="x" * 65)), "invalid"),
        (dumps(scan(venue="cdef")), "invalid"),
        (dumps(scan(venue="CDEFC" if CODE != "CDEFC" else "CDEFD")), "invalid"),
        (dumps(scan(venue=UNKNOWN)), "unknown_venue"),
        (dumps(scan(venue=CLOSED)), "unknown_venue"),
        (dumps(scan(scanned_at=NOW - 30 * DAY - 1)), "too_old"),
        (dumps(scan(scanned_at=NOW + 300_001)), "in_future"),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason_and_bytes(value: bytes | None, reason: str) -> None:
    result = judge(dumps(scan()), value, dumps(scan()))
    assert len(result.scans) == 2
    assert [(bad.reason, bad.value, bad.offset, bad.index) for bad in result.rejected] == [
        (reason, value, 1, 0)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"scanned_at": NOW - 30 * DAY},
        {"scanned_at": NOW + 300_000},
        {"venue": CLOSED, "scanned_at": NOW - 1001},
        {"kind": "void", "source": "manual", "party": 50, "gateway": "x" * 64},
        {"unknown": [1, {"x": None}]},
        {"gateway": "NaN", "Infinity": 1},
    ],
)
def test_what_is_just_right_is_accepted(changes: dict[str, object]) -> None:
    result = judge(dumps(scan(**changes)))
    assert not result.rejected
    assert len(result.scans) == 1


def test_one_bad_scan_of_an_array_is_rejected_alone_with_its_own_bytes() -> None:
    bad = b'{ "scan_id" : 5,  "n": ' + b"9" * 5000 + b" }"
    value = b" [ " + dumps(scan()) + b" , " + bad + b",7," + dumps(scan(venue=UNKNOWN)) + b"]\n"
    result = judge(value)
    assert len(result.scans) == 1
    assert [(item.index, item.reason, item.value) for item in result.rejected] == [
        (1, "malformed", bad),
        (2, "malformed", b"7"),
        (3, "unknown_venue", dumps(scan(venue=UNKNOWN))),
    ]


def test_what_is_no_json_in_an_array_harms_only_its_own_element() -> None:
    """pydantic's parser takes NaN in an ignored field; finding a neighbour's bytes must not fail on it."""
    odd = dumps(scan())[:-1] + b',"x":NaN}'
    result = judge(b"[" + dumps(scan()) + b"," + odd + b"," + dumps(scan(venue=UNKNOWN)) + b"]")
    assert len(result.scans) == 1
    assert [(bad.index, bad.reason, bad.value) for bad in result.rejected] == [
        (1, "malformed", odd),
        (2, "unknown_venue", dumps(scan(venue=UNKNOWN))),
    ]


def test_arrival_is_received_at_then_the_header_then_the_timestamp() -> None:
    old = dumps(scan(scanned_at=NOW - 31 * DAY))
    assert judge(old).rejected[0].reason == "too_old"
    assert judge(old, headers=[("arrival", str(NOW - DAY).encode())]).scans.arrivals == [NOW - DAY]
    own = dumps(scan(scanned_at=NOW - 31 * DAY, received_at=NOW - 2 * DAY))
    assert judge(own, headers=[("arrival", str(NOW).encode())]).scans.arrivals == [NOW - 2 * DAY]


def test_headers_without_a_value_are_passed_over() -> None:
    records = [Record(b"{", 0, NOW, [("arrival", None), ("attempts", None)])]
    rejected = validate(Records.of(records), closed_at, 30 * DAY).rejected
    assert [(bad.arrival, bad.attempts) for bad in rejected] == [(NOW, 1)]


def test_a_replay_counts_its_attempts() -> None:
    first = judge(b"{")
    assert first.rejected[0].attempts == 1
    again = judge(b"{", headers=[("attempts", b"1")])
    assert again.rejected[0].attempts == 2


def test_malformed_neighbours_cannot_swallow_a_scan() -> None:
    """Records that are broken alone but join to valid JSON, with an innocent one between them."""
    head = dumps(scan())[:-1] + b',"x":[1'
    tail = b"1]}"
    filler = dumps(scan()) + b"," + dumps(scan())
    innocent = dumps(scan(person="f" * 16))
    result = judge(head, innocent, tail, filler, filler)
    assert result.scans.persons == ["f" * 16]
    assert sorted(bad.offset for bad in result.rejected) == [0, 2, 3, 4]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
maybe_scans = st.builds(
    lambda keep, field, junk: dumps(scan(**({} if keep else {field: junk}))),
    st.booleans(),
    st.sampled_from(["scan_id", "person", "venue", "scanned_at", "kind", "party", "extra"]),
    json_values,
)
values = st.one_of(
    maybe_scans,
    st.binary(max_size=40),
    json_values.map(dumps),
    st.lists(maybe_scans, max_size=4).map(lambda parts: b"[" + b",".join(parts) + b"]"),
)


@given(st.lists(values, max_size=8))
def test_a_record_is_judged_the_same_alone_and_in_company(some: list[bytes]) -> None:
    together = judge(*some)
    apart = [judge(value) for value in some]

    def columns(found: Validated) -> list[tuple[object, ...]]:
        scans = found.scans
        return list(
            zip(
                scans.scan_ids,
                scans.persons,
                scans.venues,
                scans.scanned_at.tolist(),
                scans.kinds,
                scans.sources,
                scans.parties,
                scans.arrivals,
                scans.indexes,
                strict=True,
            )
        )

    assert sorted(columns(together)) == sorted(one for part in apart for one in columns(part))
    assert sorted(
        (bad.offset, bad.index, bad.reason, bad.value or b"") for bad in together.rejected
    ) == sorted(
        (offset, bad.index, bad.reason, bad.value or b"")
        for offset, part in enumerate(apart)
        for bad in part.rejected
    )
