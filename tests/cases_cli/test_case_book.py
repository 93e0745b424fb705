"""Which version of a case stands, and how the next one is made: pure."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.cases import CaseBook, CaseError, make_case, new_case_id, revised, standing
from producers.compacted import Record
from schemas.events import Case

PERSON = "0123456789abcdef"
START, END = 1_612_400_000_000, 1_612_769_400_000


def a_case(case_id: str = "c1", version: int = 1, **more: Any) -> Case:
    fields = {"person": PERSON, "infectious_from": START, "infectious_to": END, "status": "confirmed"}
    return make_case(case_id=case_id, version=version, **(fields | more))


def record(case: Case, offset: int = 0, key: str | None = None) -> Record:
    return Record((key or case.case_id).encode(), case.to_json(), 0, offset, 0)


@given(st.permutations(range(1, 6)), st.lists(st.integers(1, 5)))
def test_the_highest_version_stands_whatever_the_order(order: list[int], again: list[int]) -> None:
    records = [
        record(a_case(version=version, linger=version), at) for at, version in enumerate(order + again)
    ]
    book = standing(records)
    assert book.cases == {"c1": a_case(version=5, linger=5)}
    assert book.problems == []


def test_of_an_equal_version_the_first_counts() -> None:
    book = standing([record(a_case(linger=1), 0), record(a_case(linger=2), 1), record(a_case(linger=1), 2)])
    assert book.cases["c1"].linger == 1
    assert book.problems == ["partition 0, offset 1: c1 version 1 was another case before"]


def test_what_does_not_count_is_told() -> None:
    good = record(a_case())
    records = [
        good,
        Record(b"c1", None, 2, 7, 0),
        Record(b"c2", b"{", 0, 1, 0),
        record(a_case("c3"), 2, key="other"),
        record(a_case(version=2, person="f" * 16), 3),
    ]
    book = standing(records)
    assert book.cases == {"c1": a_case()}
    assert [problem.split(":")[0] for problem in book.problems] == [
        "partition 2, offset 7",
        "partition 0, offset 1",
        "partition 0, offset 2",
        "partition 0, offset 3",
    ]
    assert "withdrawn, not deleted" in book.problems[0]
    assert f"is about {PERSON}, not {'f' * 16}" in book.problems[3]


def test_an_unknown_case() -> None:
    with pytest.raises(CaseError, match="there is no case c9: see `truyvet cases list`"):
        CaseBook().get("c9")


def test_a_revision_raises_the_version_and_keeps_the_rest() -> None:
    before = a_case(version=3, linger=30)
    after = revised(before, {"infectious_to": END - 1})
    assert after == a_case(version=4, linger=30, infectious_to=END - 1)
    assert revised(after, {"status": "withdrawn"}).status == "withdrawn"


def test_a_place_is_revised_by_its_own_names() -> None:
    fields: dict[str, Any] = {"venue": "M54HV62T", "from": START, "to": END}
    place = make_case(case_id="p1", version=1, status="confirmed", **fields)
    assert revised(place, {"from": START + 60_000}).start == START + 60_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"infectious_to": START}, "infectious_from < infectious_to must hold"),
        ({"linger": 721}, "linger: "),
        ({"linger": 0}, "says exactly that already"),
        ({"person": "f" * 16}, "person cannot change: withdraw c1 and make a new case"),
        ({"case_id": "c2"}, "case_id cannot change"),
        ({"from": START}, "either person"),
    ],
)
def test_revisions_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CaseError, match=message):
        revised(a_case(), changes)


def test_the_last_version_has_no_next() -> None:
    with pytest.raises(CaseError, match="version: "):
        revised(a_case(version=1_000_000), {"linger": 5})


def test_new_ids_are_free_and_valid() -> None:
    first = new_case_id("2021-02-08", (), random.Random(1).choice)
    assert first.startswith("2021-02-08-") and len(first) == 16
    other = new_case_id("2021-02-08", {first}, random.Random(1).choice)
    assert other != first
    assert a_case(first).case_id == first
