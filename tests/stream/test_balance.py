"""Shares of partitions: fair whatever came before, and the fewest moves that make them so."""

from __future__ import annotations

import random

import pytest
from faust.assignor.client_assignment import CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor
from hypothesis import given
from hypothesis import strategies as st

from stream_processors.balance import shares

MEMBERS = [f"ingest-{number}" for number in range(8)]
HELD = st.dictionaries(st.sampled_from(MEMBERS), st.sets(st.integers(0, 70)), min_size=1)


@given(HELD, st.integers(0, 64))
def test_every_partition_has_one_owner_and_shares_are_equal(held: dict[str, set[int]], count: int) -> None:
    found = shares(held, range(count))
    assert set(found) == set(held)
    assert sorted(partition for share in found.values() for partition in share) == list(range(count))
    assert max(map(len, found.values())) - min(map(len, found.values())) <= 1


@given(HELD, st.integers(0, 64), st.randoms(use_true_random=False))
def test_the_order_of_members_changes_nothing(
    held: dict[str, set[int]], count: int, shuffle: random.Random
) -> None:
    shuffled = list(held.items())
    shuffle.shuffle(shuffled)
    assert shares(dict(shuffled), range(count)) == shares(held, range(count))


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 64))
def test_no_more_moves_than_shares_ask_for(before: int, after: int, count: int) -> None:
    """A group that grows or shrinks: who stays keeps its share, or all that it had."""
    had = shares(dict.fromkeys(MEMBERS[:before], ()), range(count))
    held = {member: had.get(member, []) for member in MEMBERS[:after]}
    found = shares(held, range(count))
    for member in MEMBERS[: min(before, after)]:
        kept = set(found[member]) & set(had[member])
        assert len(kept) == min(len(found[member]), len(had[member]))


def test_nobody_is_left_out() -> None:
    """The case that was seen: two workers had two each when the third came."""
    assert shares({"a": [2, 3], "b": [0, 1], "c": []}, range(4)) == {"a": [2, 3], "b": [0], "c": [1]}
    ten = {str(number): range(number * 7, number * 7 + 7) for number in range(9)} | {"9": [63]}
    assert sorted(map(len, shares(ten, range(64)).values())) == [6] * 6 + [7] * 4
    with pytest.raises(ValueError, match="nobody"):
        shares({}, range(4))


def fausts(held: dict[str, set[int]], count: int) -> list[int]:
    """Sizes of the shares by Faust's own assignor, as its settings are unless told otherwise."""
    given = {member: CopartitionedAssignment(parts, set(), {"t"}) for member, parts in held.items()}
    found = CopartitionedAssignor(["t"], given, count, replicas=1).get_assignment()
    return sorted(len(each.actives) for each in found.values())


def test_what_fausts_own_does() -> None:
    """Why there is one of our own; when this fails, Faust's may do."""
    assert fausts({"a": {2, 3}, "b": {0, 1}, "c": set()}, 4) == [0, 2, 2]
    nine = {str(number): set(range(number * 7, number * 7 + 7)) for number in range(9)}
    nine["8"].add(63)
    assert fausts(nine | {"9": set()}, 64) == [1] + [7] * 9
