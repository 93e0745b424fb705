"""Presence and overlap: by example, against the oracle, and against the processors' own implementation."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookups import presence
from lookups.presence import Spans, archived_rows, live_marks, presences, telling
from stream_processors import presence as processors
from tests.lookups import oracle

T = 27_000_000  # some minute, 00:00 UTC
KINDS = {"in": processors.IN, "out": processors.OUT, "void": processors.VOID}

marks = st.lists(
    st.tuples(st.integers(T, T + 3 * 1440), st.sampled_from(["in", "in", "out", "out", "void"])), max_size=25
)
# near the limits of the rules, where a mistake of one minute shows
steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 59, 60, 61, 719, 720, 721, 1440]), st.sampled_from(["in", "out", "void"])
    ),
    max_size=12,
)
dwells = st.one_of(st.sampled_from([1, 60, 720]), st.integers(1, 720))


def packed(some: list[tuple[int, str]], venue: int = 0, person: int = 7) -> list[tuple[int, ...]]:
    """One row a mark, as a flush that has not merged yet."""
    return [
        (
            *(venue, minute // 60, person),
            *(1 << minute % 60 if kind == wanted else 0 for wanted in ("in", "out", "void")),
        )
        for minute, kind in some
    ]


def there(rows: Iterable[tuple[int, ...]], dwell: int) -> Spans:
    return presences(live_marks(archived_rows(rows)), np.array([dwell, 720 - dwell + 1]))


def pairs(found: Spans) -> list[tuple[int, int]]:
    return list(zip(found.start.tolist(), found.end.tolist(), strict=True))


def spans(some: list[tuple[int, str]], dwell: int) -> list[tuple[int, int]]:
    return pairs(there(packed(some), dwell))


def stepped(some: list[tuple[int, str]]) -> list[tuple[int, str]]:
    minute, found = T, []
    for step, kind in some:
        minute += step
        found.append((minute, kind))
    return found


@pytest.mark.parametrize(
    ("some", "expected"),
    [
        ([], []),
        ([(0, "in")], [(0, 60)]),
        ([(0, "in"), (30, "in")], [(0, 90)]),
        ([(0, "in"), (60, "in")], [(0, 120)]),
        ([(0, "in"), (61, "in")], [(0, 60), (61, 121)]),
        ([(0, "in"), (10, "out")], [(0, 10)]),
        ([(0, "in"), (720, "out")], [(0, 720)]),
        ([(0, "in"), (721, "out")], [(0, 60), (661, 721)]),
        ([(0, "out")], [(-60, 0)]),
        ([(0, "out"), (720, "out")], [(-60, 0)]),
        ([(0, "out"), (600, "out"), (1200, "out")], [(-60, 0)]),
        ([(0, "out"), (721, "out")], [(-60, 0), (661, 721)]),
        ([(0, "in"), (0, "out")], [(0, 60)]),
        ([(0, "in"), (0, "out"), (0, "void")], []),
        ([(0, "in"), (20, "out"), (20, "void")], [(0, 60)]),
        ([(0, "in"), (20, "in"), (20, "void"), (40, "out")], [(0, 40)]),
    ],
)
def test_the_rules_by_example(some: list[tuple[int, str]], expected: list[tuple[int, int]]) -> None:
    shifted = [(T + minute, kind) for minute, kind in some]
    assert spans(shifted, 60) == [(T + a, T + b) for a, b in expected]


@given(st.one_of(marks, steps.map(stepped)), dwells)
def test_presence_is_that_of_the_oracle_and_of_the_processors(
    some: list[tuple[int, str]], dwell: int
) -> None:
    found = spans(some, dwell)
    assert found == oracle.runs(oracle.present(some, dwell))
    assert found == processors.presences([(minute, KINDS[kind]) for minute, kind in some], dwell)


@given(marks, dwells, st.randoms(use_true_random=False))
def test_order_duplicates_and_splitting_change_nothing(
    some: list[tuple[int, str]], dwell: int, chance: random.Random
) -> None:
    rows = packed(some)
    shuffled = rows + [row for row in rows if chance.random() < 0.5]
    chance.shuffle(shuffled)
    assert pairs(there(shuffled, dwell)) == spans(some, dwell)


@given(marks, dwells, st.integers(-1440, 4 * 1440), st.integers(1, 2000))
def test_marks_beyond_720_minutes_say_nothing_about_a_window(
    some: list[tuple[int, str]], dwell: int, since: int, length: int
) -> None:
    start, end = T + since, T + since + length
    near = [mark for mark in some if start - 720 <= mark[0] <= end - 1 + 720]
    assert pairs(there(packed(near), dwell).clip(start, end)) == pairs(
        there(packed(some), dwell).clip(start, end)
    )


wanted = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.integers(-100, 1600), st.integers(1, 300)), min_size=1, max_size=3
)


@given(st.randoms(use_true_random=False), st.one_of(st.just(30), dwells), wanted)
def test_marks_that_say_nothing_about_some_places_may_be_missing(
    chance: random.Random, dwell: int, asked: list[tuple[int, int, int]]
) -> None:
    rows = []
    for person in range(200):  # of few marks, so that one far away from a place decides about a stay
        some = [
            (T + chance.randrange(1500), chance.choice(["in", "in", "out", "void"]))
            for _ in range(chance.randint(1, 4))
        ]
        rows += packed(some, person & 1, 40 + person)
    venue, since, length = (np.array(column, np.int64) for column in zip(*asked, strict=True))
    places = Spans(venue, np.zeros(len(venue), np.uint64), T + since, T + since + length)
    stays = np.array([dwell, 720 - dwell + 1])
    every = archived_rows(rows)
    told = presences(live_marks(telling(every, places, stays)), stays)
    known = presences(live_marks(every), stays)
    for place in range(len(asked)):
        found, expected = (
            spans.take(spans.venue == venue[place]).clip(places.start[place], places.end[place])
            for spans in (told, known)
        )
        assert by_person(found) == by_person(expected)


def by_person(found: Spans) -> list[tuple[int, tuple[int, int]]]:
    return sorted(zip(found.person.tolist(), pairs(found), strict=True))


def test_of_a_days_crowd_those_around_a_place_are_left() -> None:
    rows = [row for person in range(480) for row in packed([(T + person, "in")], person=40 + person)]
    rows += packed([(T, "in"), (T + 300, "out")], person=1000)
    place = Spans(np.array([0]), np.array([0], np.uint64), np.array([T + 240]), np.array([T + 250]))
    left = telling(archived_rows(rows), place, np.array([60]))
    assert 1000 in left.person.tolist()
    assert len(left.person) < 200


@given(marks, dwells, st.sampled_from([0, 1, 30, 720]))
def test_a_place_stays_infectious_for_so_long(some: list[tuple[int, str]], dwell: int, linger: int) -> None:
    minutes = oracle.present(some, dwell)
    longer = {minute + more for minute in minutes for more in range(linger + 1)}
    assert pairs(there(packed(some), dwell).infectious(linger)) == oracle.runs(longer)


worlds = st.dictionaries(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from([3, 4, 2**64 - 1])),
    st.one_of(marks, steps.map(stepped)),
)


@given(worlds, dwells, st.sampled_from([0, 1, 30, 720]), st.randoms(use_true_random=False))
def test_many_persons_and_venues_at_once_do_not_touch_each_other(
    world: dict[tuple[int, int], list[tuple[int, str]]], dwell: int, linger: int, chance: random.Random
) -> None:
    rows = [row for (venue, person), some in world.items() for row in packed(some, venue, person)]
    chance.shuffle(rows)
    found = there(rows, dwell).infectious(linger)
    told: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for venue, person, span in zip(found.venue.tolist(), found.person.tolist(), pairs(found), strict=True):
        told.setdefault((venue, person), []).append(span)
    stays = [dwell, 720 - dwell + 1]
    expected = {}
    for key, some in world.items():
        minutes = oracle.present(some, stays[key[0]])
        if minutes:
            expected[key] = oracle.runs({minute + more for minute in minutes for more in range(linger + 1)})
    assert told == expected


def test_two_persons_that_look_alike_to_the_sort_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [(0, 400_000 + hour, who, 1 << who, 0, 0) for hour in range(4) for who in (1, 2, 3)]
    expected = presences(live_marks(archived_rows(table)), np.array([30]))
    monkeypatch.setattr(presence, "_MIX", np.uint64(0))  # everybody looks alike
    found = presences(live_marks(archived_rows(table)), np.array([30]))
    assert len(found) == 12
    order, usual = np.lexsort((found.start, found.person)), np.lexsort((expected.start, expected.person))
    assert found.take(order).start.tolist() == expected.take(usual).start.tolist()
    assert found.take(order).person.tolist() == expected.take(usual).person.tolist()


@given(worlds, st.integers(1, 12), st.randoms(use_true_random=False))
def test_however_few_bits_tell_persons_apart(
    world: dict[tuple[int, int], list[tuple[int, str]]], bits: int, chance: random.Random
) -> None:
    rows = [row for (venue, person), some in world.items() for row in packed(some, venue, person)]
    rows += [row for person in range(20) for row in packed([(T, "in"), (T + 90, "void")], person & 1, person)]
    chance.shuffle(rows)
    expected = live_marks(archived_rows(rows))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(presence, "_KEY_BITS", 18 + bits)  # up to 17 of the time, 1 of the venue
        patched.setattr(presence, "_SPARE_BITS", -64)
        found = live_marks(archived_rows(rows))
    assert by_group(found) == by_group(expected)


def by_group(marks: presence.Marks) -> list[list[tuple[int, ...]]]:
    """Of each number of a venue and person its marks in their order; the groups sorted."""
    columns = zip(marks.venue, marks.person, marks.at, marks.is_out, strict=True)
    found: dict[int, list[tuple[int, ...]]] = {}
    for group, mark in zip(marks.group.tolist(), columns, strict=True):
        found.setdefault(group, []).append(tuple(map(int, mark)))
    assert list(found) == sorted(found)
    return sorted(found.values())
