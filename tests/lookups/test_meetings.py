"""Who met whom, pair by pair, also when not all pairs are in memory at once."""

from __future__ import annotations

from typing import Any
from unittest import mock

import hypothesis
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lookups import meetings
from lookups.meetings import NEVER, Met, Reached, contacts, first_of_each, meeting, nobody, together
from lookups.presence import Spans, ordered
from tests.lookups import oracle

T = 27_000_000
LARGE = 2**64 - 1
stays = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from([5, 6, LARGE]), st.integers(T, T + 3000), st.integers(1, 1500)
    ),
    max_size=25,
)

# near the limit: often only the sum of several is enough, and often just enough
short_stays = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([5, 6, LARGE]),
        st.integers(0, 30).map(lambda number: T + 30 * number),
        st.sampled_from([20, 30, 60]),
    ),
    max_size=12,
)


def spans_of(some: list[tuple[int, int, int, int]]) -> Spans:
    """(venue, person, start, minutes), …: in the order that presences are in."""
    some = sorted(some)
    columns = list(zip(*some, strict=True)) or [()] * 4
    venue, start, minutes = (np.array(columns[at], np.int64) for at in (0, 2, 3))
    return Spans(venue, np.array(columns[1], np.uint64), start, start + minutes)


def rows(spans: Spans) -> list[Any]:
    columns = (spans.venue, spans.person, spans.start, spans.end)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(stays, stays, st.lists(st.integers(1, 400), min_size=1), st.sampled_from([1, 3, 2_000_000]))
def test_every_pair_that_meets_for_long_enough_is_found_once(
    some: list[tuple[int, int, int, int]],
    others: list[tuple[int, int, int, int]],
    least: list[int],
    at_once: int,
) -> None:
    spans, places = spans_of(some), spans_of(others)
    wanted = np.resize(least, len(some))  # minutes, each presence its own
    expected = sorted(
        (number, other, max(a, c), min(b, d))
        for number, (venue, _, a, b) in enumerate(rows(spans))
        for other, (where, _, c, d) in enumerate(rows(places))
        if venue == where and min(b, d) - max(a, c) >= wanted[number]
    )
    with mock.patch.object(meetings, "_PAIRS", at_once):
        found = [
            row
            for pairs in meeting(spans, places, wanted)
            for row in zip(
                *(getattr(pairs, name).tolist() for name in ("span", "place", "start", "end")), strict=True
            )
        ]
    assert sorted(found) == expected


@hypothesis.settings(max_examples=300)
@hypothesis.example([(0, 5, T, 30), (0, 5, T + 60, 30)], [(0, 6, T, 120)], 60, 2_000_000)
@hypothesis.example([(0, 5, T, 120)], [(0, 6, T, 30), (0, 6, T + 60, 30)], 60, 2_000_000)
@given(
    stays | short_stays, stays | short_stays, st.sampled_from([1, 60, 240]), st.sampled_from([1, 2_000_000])
)
def test_contacts_are_those_of_minutes(
    some: list[tuple[int, int, int, int]],
    others: list[tuple[int, int, int, int]],
    min_overlap: int,
    at_once: int,
) -> None:
    spans, places = disjoint(some), disjoint(others)
    expected = {
        (source, person, venue, day, *times)
        for (venue, person), own in minutes_of(spans).items()
        for (where, source), infectious in minutes_of(places).items()
        if venue == where and person != source
        for day, times in oracle.days(own & infectious, min_overlap).items()
    }
    with mock.patch.object(meetings, "_PAIRS", at_once):
        met = together([nobody(), *contacts(spans, places, min_overlap)])
    names = ("source", "person", "venue", "day", "minutes", "first", "last")
    found = list(zip(*(getattr(met, name).tolist() for name in names), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected
    lasting = contacts(spans.lasting(min_overlap), places.lasting(min_overlap), min_overlap)
    assert sorted(met_rows(together([nobody(), *lasting]))) == sorted(found)
    firsts: dict[int, Any] = {}
    for row in sorted(expected, key=lambda row: (row[5], -row[4], row[0], row[2])):
        firsts.setdefault(row[1], row)
    first = first_of_each(met)
    assert list(zip(*(getattr(first, name).tolist() for name in names), strict=True)) == [
        firsts[person] for person in sorted(firsts)
    ]


def disjoint(some: list[tuple[int, int, int, int]]) -> Spans:
    """The same minutes as presences have them."""
    return spans_of(
        [
            (venue, person, start, end - start)
            for (venue, person), minutes in minutes_of(spans_of(some)).items()
            for start, end in oracle.runs(minutes)
        ]
    )


def minutes_of(spans: Spans) -> dict[tuple[int, int], set[int]]:
    found: dict[tuple[int, int], set[int]] = {}
    for venue, person, start, end in rows(spans):
        found.setdefault((venue, person), set()).update(range(start, end))
    return found


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**40), st.integers(0, 2**40)), max_size=20))
def test_order_of_columns_that_fit_into_one_number_and_that_do_not(some: list[tuple[int, int, int]]) -> None:
    columns = [np.array(column, np.int64) for column in zip(*some, strict=True)] or [
        np.zeros(0, np.int64)
    ] * 3
    assert [some[at] for at in ordered(*columns).tolist()] == sorted(some)


MIDNIGHT = T + 1020


def few_stays(persons: list[int]) -> st.SearchStrategy[list[tuple[int, int, int, int]]]:
    """Of two local days, some from midnight on, and most too short for four hours together."""
    start = st.integers(T, T + 3000) | st.sampled_from([MIDNIGHT, MIDNIGHT + 60, MIDNIGHT + 1440])
    minutes = st.integers(1, 300) | st.integers(200, 1500)
    return st.lists(st.tuples(st.integers(0, 1), st.sampled_from(persons), start, minutes), max_size=5)


@hypothesis.settings(max_examples=600)
@hypothesis.example(  # too short on the first day
    [(0, LARGE, T, 30), (0, LARGE, MIDNIGHT + 60, 300)], [(0, 5, T, 2000)], {}, {}, 60, 2_000_000, True
)
@given(
    few_stays([5, 6, LARGE, LARGE]),
    few_stays([5, 6]),
    st.dictionaries(st.sampled_from([5, 6, LARGE]), st.integers(T, T + 4000)),
    st.dictionaries(st.sampled_from([5, 6, LARGE]), st.integers(T - 10, T + 3000)),
    st.sampled_from([1, 60, 240]),
    st.sampled_from([1, 2_000_000]),
    st.booleans(),
)
def test_of_a_chain_only_what_cannot_reach_anybody_sooner_is_left_out(
    some: list[tuple[int, int, int, int]],
    others: list[tuple[int, int, int, int]],
    reached: dict[int, int],
    since: dict[int, int],
    min_overlap: int,
    at_once: int,
    first_only: bool,
) -> None:
    spans, places = disjoint(some), disjoint(others)
    # a source was reached itself, and is nowhere a source before that
    since = {who: since.get(who, T - 10) for who in {row[1] for row in rows(places)}}
    reached = {who: since.get(who, reached.get(who, NEVER)) for who in (5, 6, LARGE)}
    began = np.array([since[row[1]] for row in rows(places)], np.int64)
    places = places.clip(began, NEVER)
    began = np.array([since[row[1]] for row in rows(places)], np.int64)
    known = np.array([reached[row[1]] for row in rows(spans)], np.int64)
    every = [
        row
        for row in met_rows(together([nobody(), *contacts(spans, places, min_overlap)]))
        if row[FIRST] < reached[row[1]]
    ]
    with mock.patch.object(meetings, "_PAIRS", at_once):
        pieces = list(contacts(spans, places, min_overlap, Reached(known, began, first_only)))
    found = together([nobody(), *pieces])
    sooner = [row for row in met_rows(found) if row[FIRST] < reached[row[1]]]
    if first_only:
        firsts: dict[int, Any] = {}
        for row in sorted(every, key=lambda row: (row[FIRST], -row[4], row[0], row[2])):
            firsts.setdefault(row[1], row)
        met = [row for row in met_rows(first_of_each(found)) if row[FIRST] < reached[row[1]]]
        assert met == [firsts[person] for person in sorted(firsts)]
    else:
        assert sorted(sooner) == sorted(every)


FIRST = 5


def met_rows(met: Met) -> list[Any]:
    names = ("source", "person", "venue", "day", "minutes", "first", "last")
    return list(zip(*(getattr(met, name).tolist() for name in names), strict=True))
