"""What was replayed is known, whatever holes filters leave."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from producers.dead_letters import DeadLetter
from producers.replaying import Memory, merged, runs
from schemas import topics
from schemas.events import Replayed

OFFSETS = st.lists(st.integers(0, 40))


def letter(offset: int, partition: int = 0) -> DeadLetter:
    return DeadLetter(topics.SCANS_REJECTED, partition, offset, 0, None, b"", {})


def covered(spans: list[tuple[int, int]]) -> set[int]:
    return {offset for begin, end in spans for offset in range(begin, end)}


@given(OFFSETS)
def test_runs_hold_exactly_the_offsets_and_do_not_touch(offsets: list[int]) -> None:
    found = runs(offsets)
    assert covered(found) == set(offsets)
    assert found == merged(found)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))))
def test_merged_runs_hold_the_same(spans: list[tuple[int, int]]) -> None:
    found = merged(spans)
    assert covered(found) == covered(spans)
    assert all(one[1] < other[0] for one, other in pairwise(found))


@given(st.lists(st.tuples(st.integers(0, 1), OFFSETS.filter(bool))))
def test_what_any_entry_holds_is_known_and_nothing_else(entries: list[tuple[int, list[int]]]) -> None:
    memory = Memory(
        Replayed(topic="scans.rejected", partition=partition, offsets=runs(offsets), counts={}, at=0, by="x")
        for partition, offsets in entries
    )
    for partition in (0, 1):
        wanted = {offset for where, offsets in entries if where == partition for offset in offsets}
        assert {offset for offset in range(41) if letter(offset, partition) in memory} == wanted
    assert letter(1) not in Memory()
