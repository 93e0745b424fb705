"""The chain of the audit, pure: whatever is done to its rows is found, and the row is named."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookups.audit import Entry, copy_of, next_row, parse_anchor, verify
from schemas.audit import AuditRow, hash_of

ROWS = 8


def chain(count: int = ROWS) -> list[AuditRow]:
    rows: list[AuditRow] = []
    for number in range(count):
        arguments = {"person": f"{number:016x}", "from": number}
        entry = Entry(f"{number:032x}", number, "linh@a", "tracer", "k-1", "asked", "person", arguments)
        rows.append(next_row(rows[-1] if rows else None, entry))
    return rows


def values(rows: list[AuditRow]) -> list[tuple[int, bytes | None]]:
    return [(offset, row.model_dump_json().encode()) for offset, row in enumerate(rows)]


def copies(rows: list[AuditRow]) -> dict[int, list[tuple[Any, ...]]]:
    return {row.seq: [copy_of(row)] for row in rows}


def told(records: list[tuple[int, bytes | None]], **more: Any) -> list[int]:
    return [problem.seq for problem in verify(records, more.pop("copies", {}), **more).problems]


def test_a_whole_chain_is_whole() -> None:
    rows = chain()
    found = verify(values(rows), copies(rows), [(3, rows[2].hash)])
    assert (found.problems, found.uncopied, found.rows) == ([], [], ROWS)
    assert found.head == (ROWS, rows[-1].hash)
    assert verify([], {}).problems == []


FIELDS = {
    "at": 10**6,
    "who": "x@y",
    "role": "analyst",
    "purpose": "k-2",
    "step": "answered",
    "question": "venue",
    "arguments": {},
    "rows": 5,
    "of": 1,
    "entry": "0",
}


@given(st.integers(0, ROWS - 1), st.sampled_from(sorted(FIELDS)))
def test_any_changed_field_is_found_and_the_row_named(at: int, field: str) -> None:
    rows = chain()
    records = values(rows)
    fields = orjson.loads(records[at][1] or b"")
    fields[field] = FIELDS[field]
    records[at] = (at, orjson.dumps(fields))
    assert told(records) == [at + 1]


def test_a_field_that_this_version_does_not_know_is_covered_too() -> None:
    records = values(chain())
    records[2] = (2, orjson.dumps(orjson.loads(records[2][1] or b"") | {"note": "later"}))
    assert told(records) == [3]


@given(st.integers(0, ROWS - 2))
def test_a_change_with_a_fitting_hash_breaks_the_link_behind_it(at: int) -> None:
    rows = chain()
    fields = rows[at].model_dump() | {"who": "nobody@nowhere"}
    changed = AuditRow.model_validate(fields | {"hash": hash_of(fields)})
    forged = [*rows[:at], changed, *rows[at + 1 :]]
    assert told(values(forged)) == [at + 2]
    assert at + 1 in told(values(forged), copies=copies(rows))


@given(st.integers(0, ROWS - 2))
def test_a_removed_row_is_named(at: int) -> None:
    rows = chain()
    assert told(values(rows[:at] + rows[at + 1 :])) == [at + 1]


@given(st.permutations(range(ROWS)))
def test_another_order_is_found(order: list[int]) -> None:
    rows = chain()
    assert bool(told(values([rows[at] for at in order]))) == (order != list(range(ROWS)))


def test_a_row_put_in_twice_or_no_row_at_all_is_found() -> None:
    records = values(chain())
    assert told([*records, (9, records[3][1])]) == [4]
    assert told([*records[:3], (99, b"{}"), *records[3:]])[0] == 4
    assert told([*records, (99, None)]) == [ROWS + 1]


@given(st.integers(0, ROWS - 1))
def test_a_cut_end_is_found_by_the_copy_and_by_an_anchor(left: int) -> None:
    rows = chain()
    cut = values(rows[:left])
    assert told(cut) == []  # by itself it is a sound chain
    assert told(cut, copies=copies(rows)) == list(range(left + 1, ROWS + 1))
    assert told(cut, anchors=[(ROWS, rows[-1].hash)]) == [ROWS]


@given(st.integers(0, ROWS - 1))
def test_a_chain_written_anew_is_found_by_an_anchor(at: int) -> None:
    rows = chain()
    forged = rows[:at]
    for row in rows[at:]:
        entry = Entry(row.entry, row.at, "else@a", row.role, "k-9", row.step, row.question, row.arguments)
        forged.append(next_row(forged[-1] if forged else None, entry))
    assert told(values(forged), copies=copies(forged)) == []
    assert told(values(forged), anchors=[(ROWS, rows[-1].hash)]) == [ROWS]
    assert told(values(forged), copies=copies(rows)) == list(range(at + 1, ROWS + 1))


def test_an_anchor_is_read_or_refused() -> None:
    assert parse_anchor(" 12:" + "AB" * 32) == (12, "ab" * 32)
    with pytest.raises(ValueError, match="SEQ:HASH"):
        parse_anchor("12")
