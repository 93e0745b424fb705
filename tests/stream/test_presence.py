"""Presence: the binding rules by example and by property."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from stream_processors.presence import (
    IN,
    OUT,
    VOID,
    Mark,
    Overlap,
    cut,
    intersect,
    linger,
    merge,
    overlap_on,
    presences,
)

T = 27_000_000  # some minute
DAY = (T + 420) // 1440
MIDNIGHT = DAY * 1440 - 420  # the first minute of DAY

marks = st.lists(
    st.tuples(st.integers(T, T + 4 * 1440), st.sampled_from([IN, OUT, OUT, IN, IN, VOID])), max_size=30
)
dwells = st.integers(1, 720)


def test_a_lone_in_lasts_the_dwell() -> None:
    assert presences([(T, IN)], 60) == [(T, T + 60)]


def test_an_in_within_the_dwell_carries_on() -> None:
    assert presences([(T, IN), (T + 60, IN)], 60) == [(T, T + 120)]


def test_an_in_after_the_dwell_is_another_presence() -> None:
    assert presences([(T, IN), (T + 61, IN)], 60) == [(T, T + 60), (T + 61, T + 121)]


def test_an_out_ends_the_presence_even_long_after_the_dwell() -> None:
    assert presences([(T, IN), (T + 720, OUT)], 60) == [(T, T + 720)]


def test_an_out_beyond_reach_is_a_visit_of_its_own() -> None:
    assert presences([(T, IN), (T + 721, OUT)], 60) == [(T, T + 60), (T + 661, T + 721)]


def test_an_out_alone_was_there_for_the_dwell_before() -> None:
    assert presences([(T, OUT)], 45) == [(T - 45, T)]


def test_an_out_after_an_out_within_reach_says_nothing() -> None:
    assert presences([(T, OUT), (T + 720, OUT)], 45) == [(T - 45, T)]
    assert presences([(T, OUT), (T + 721, OUT)], 45) == [(T - 45, T), (T + 676, T + 721)]


def test_an_out_in_the_minute_of_an_in_says_nothing() -> None:
    assert presences([(T, IN), (T, OUT)], 60) == [(T, T + 60)]


def test_a_void_cancels_its_minute() -> None:
    assert presences([(T, IN), (T, VOID), (T + 5, IN)], 60) == [(T + 5, T + 65)]
    assert presences([(T, IN), (T + 10, OUT), (T + 10, VOID)], 60) == [(T, T + 60)]
    assert presences([(T, VOID)], 60) == []


def minutes(intervals: list[tuple[int, int]]) -> set[int]:
    return {minute for start, end in intervals for minute in range(start, end)}


@given(marks, dwells, st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(some: list[Mark], dwell: int, random: object) -> None:
    again = some + some[: len(some) // 2]
    random.shuffle(again)  # type: ignore[attr-defined]
    assert presences(again, dwell) == presences(some, dwell)


@given(marks, dwells)
def test_presences_are_merged_and_in_order(some: list[Mark], dwell: int) -> None:
    found = presences(some, dwell)
    assert all(start < end for start, end in found)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(found))


@given(marks, dwells, st.integers(T, T + 4 * 1440))
def test_only_marks_within_720_minutes_decide_a_minute(some: list[Mark], dwell: int, minute: int) -> None:
    near = [mark for mark in some if abs(mark[0] - minute) <= 720]
    # an `out` whose previous mark is out of sight may look like the first: that reaches back only, so
    # compare as the rule says, at the minute itself
    whole = minute in minutes(presences(some, dwell))
    wider = [mark for mark in some if abs(mark[0] - minute) <= 1440]
    assert whole == (minute in minutes(presences(wider, dwell)))
    if whole:
        assert near


def literal_presence(some: list[Mark], dwell: int) -> set[int]:
    """The rules once more, minute by minute, written another way."""
    voided = {minute for minute, kind in some if kind == VOID}
    ins = {minute for minute, kind in some if kind == IN} - voided
    outs = {minute for minute, kind in some if kind == OUT} - voided - ins
    times = sorted(ins | outs)
    there: set[int] = set()
    for minute in ins:
        later = min((t for t in times if t > minute), default=None)
        stop = minute + dwell
        if later is not None and (
            (later in ins and later - minute <= dwell) or (later in outs and later - minute <= 720)
        ):
            stop = later
        there |= set(range(minute, stop))
    for minute in outs:
        earlier = max((t for t in times if t < minute), default=None)
        if earlier is None or minute - earlier > 720:
            there |= set(range(minute - dwell, minute))
    return there


@given(marks, dwells)
def test_against_a_literal_reading(some: list[Mark], dwell: int) -> None:
    assert minutes(presences(some, dwell)) == literal_presence(some, dwell)


spans = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 50)), max_size=8).map(
    lambda pairs: [(start, start + length) for start, length in pairs]
)


@given(spans, spans, st.integers(0, 200), st.integers(0, 200))
def test_interval_arithmetic_is_that_of_sets(
    left: list[tuple[int, int]], right: list[tuple[int, int]], a: int, b: int
) -> None:
    assert minutes(merge(left)) == minutes(left)
    assert minutes(intersect(merge(left), merge(right))) == minutes(left) & minutes(right)
    assert minutes(cut(left, min(a, b), max(a, b))) == minutes(left) & set(range(min(a, b), max(a, b)))
    assert minutes(linger(left, 7)) == {minute + extra for minute in minutes(left) for extra in range(8)}


def test_a_day_counts_its_own_minutes_but_the_whole_overlap() -> None:
    night = [(MIDNIGHT - 5, MIDNIGHT + 10)]
    assert overlap_on(DAY - 1, night, 15) == Overlap(MIDNIGHT - 5, MIDNIGHT, 5)
    assert overlap_on(DAY, night, 15) == Overlap(MIDNIGHT, MIDNIGHT + 10, 10)
    assert overlap_on(DAY, night, 16) is None
    assert overlap_on(DAY + 1, night, 1) is None


def test_short_overlaps_of_a_day_add_up() -> None:
    two = [(MIDNIGHT + 10, MIDNIGHT + 14), (MIDNIGHT + 100, MIDNIGHT + 106)]
    assert overlap_on(DAY, two, 10) == Overlap(MIDNIGHT + 10, MIDNIGHT + 106, 10)
    assert overlap_on(DAY, two, 11) is None
