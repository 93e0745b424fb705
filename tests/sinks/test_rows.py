"""From records to rows: pure."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import topics
from schemas.topics import Topic
from sinks.rows import COLUMNS, Record, Rows

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


def record(topic: Topic, value: bytes | None, **more: Any) -> Record:
    return Record(topic.name, 2, 7, 1_612_345_678_901, value, **more)


def rows_of(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    return {
        table: [dict(zip(COLUMNS[table], cells, strict=True)) for cells in zip(*columns, strict=True)]
        for table, columns in rows.tables()
    }


def one(topic: Topic, value: bytes | None, **more: Any) -> dict[str, list[dict[str, Any]]]:
    rows = Rows()
    rows.add(topic, record(topic, value, **more))
    return rows_of(rows)


def test_a_visit_becomes_a_mask() -> None:
    rows = Rows()
    kinds = [VISIT, VISIT | {"kind": "out", "minute": 0}, VISIT | {"kind": "void", "source": "event"}]
    rows.add(topics.VISITS, record(topics.VISITS, orjson.dumps(kinds)))
    assert (rows.marks, rows.newest_received) == (3, 1_612_340_000_000)
    first, second, third = rows_of(rows)["visits"]
    assert first == {
        "venue": "CDEFHK",
        "hour": 447_000,
        "person": 0xFEDC_BA98_7654_3210,
        "ins": 1 << 59,
        "outs": 0,
        "voids": 0,
        "party": 3,
        "sources": 2,
    }
    assert (second["ins"], second["outs"]) == (0, 1)
    assert (third["voids"], third["sources"]) == (1 << 59, 8)


def test_one_bad_element_is_refused_alone() -> None:
    bad = VISIT | {"minute": "5"}
    late = VISIT | {"hour": 10**30}
    found = one(
        topics.VISITS, json.dumps([VISIT, bad, VISIT | {"minute": 1}, VISIT | {"hour": 2_000_000}]).encode()
    )
    assert [row["ins"] for row in found["visits"]] == [1 << 59, 2]
    places = [
        (r["source_topic"], r["source_partition"], r["source_offset"], r["source_index"], r["reason"])
        for r in found["rejected"]
    ]
    assert places[0] == ("visits", 2, 7, 1, "malformed")
    assert orjson.loads(found["rejected"][0]["value"]) == bad
    assert "minute" in found["rejected"][0]["detail"]
    assert orjson.loads(found["rejected"][1]["value"])["hour"] == 2_000_000
    found = one(topics.VISITS, json.dumps([late, VISIT]).encode())
    assert json.loads(found["rejected"][0]["value"]) == late
    assert len(found["visits"]) == 1


@given(
    st.one_of(
        st.none(),
        st.binary(max_size=40).filter(lambda it: b"[" not in it),
        st.just(orjson.dumps(VISIT)),
        st.just(b"[null]"),
    )
)
def test_what_is_no_array_of_visits_is_kept_as_it_came(value: bytes | None) -> None:
    found = one(topics.VISITS, value)
    kept = b"null" if value == b"[null]" else value or b""
    assert [row["value"] for row in found["rejected"]] == [kept]
    assert "visits" not in found


def test_rejected_keeps_bytes_and_source() -> None:
    headers = [
        ("reason", b"unknown_venue"),
        ("detail", "không có".encode()),
        ("source-topic", b"scans"),
        ("source-partition", b"3"),
        ("source-offset", b"123456"),
        ("source-index", b"17"),
        ("arrival", b"1612340000000"),
        ("attempts", b"2"),
    ]
    (row,) = one(topics.SCANS_REJECTED, b"\xff\x00{", headers=headers)["rejected"]
    assert row == {
        "source_topic": "scans",
        "source_partition": 3,
        "source_offset": 123456,
        "source_index": 17,
        "reason": "unknown_venue",
        "detail": "không có",
        "arrival": 1_612_340_000_000,
        "attempts": 2,
        "value": b"\xff\x00{",
    }


HEADERS = ["reason", "source-topic", "source-partition", "source-offset", "arrival", "attempts"]
header_values = st.one_of(st.binary(max_size=25), st.none(), st.just(b"9" * 18), st.text(max_size=5))


@given(st.lists(st.tuples(st.sampled_from(HEADERS), header_values), max_size=8))
def test_no_header_makes_a_row_that_the_archive_refuses(
    headers: list[tuple[str, bytes | str | None]],
) -> None:
    (row,) = one(topics.SCANS_REJECTED, b"x", headers=headers)["rejected"]
    for name in ("source_partition", "source_index", "attempts"):
        assert 0 <= row[name] < 2**32
    for name in ("source_offset", "arrival"):
        assert 0 <= row[name] < 2**64
    assert row["reason"]


def test_a_broken_case_is_left_to_the_cases_role() -> None:
    assert one(topics.CASES, b"{}") == {}
    assert one(topics.CASES, None) == {}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"date": "2021-02-30"}, "not a day"),
        ({"date": "9999-01-01"}, "between"),
        ({"version": 2**64}, "larger"),
        ({"minutes": 2**40}, "larger"),
        ({"person": "x"}, "person"),
    ],
)
def test_an_exposure_that_cannot_be_stored_is_seen(change: dict[str, Any], told: str) -> None:
    exposure = {
        "exposure_id": "0" * 32,
        "case_id": "c-1",
        "person": "0" * 16,
        "venue": "CDEFHK",
        "sector": "trade",
        "department": "so-cong-thuong",
        "date": "2021-02-08",
        "first": 1,
        "last": 2,
        "minutes": 1,
        "status": "exposed",
        "case_version": 1,
        "evidence": 2,
        "version": 2**32 + 2,
    }
    assert one(topics.EXPOSURES, orjson.dumps(exposure))["exposures"][0]["version"] == 2**32 + 2
    found = one(topics.EXPOSURES, json.dumps(exposure | change).encode())
    assert told in found["rejected"][0]["detail"]
    assert "exposures" not in found
