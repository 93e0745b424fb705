"""Presence and overlap: pure functions over one person's marks at one venue.

Binding rules: docs/DESIGN.md, "Meaning of the data". Minutes since the Unix epoch, half-open intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from schemas.times import MINUTES_PER_DAY, day_start

IN: Final = 0
OUT: Final = 1
VOID: Final = 2

Mark: TypeAlias = tuple[int, int]  # (minute, kind)
Interval: TypeAlias = tuple[int, int]  # [start, end) in minutes

# The longest that an `out` ends a presence begun by an `in`: a night from 14:00 to 12:00 has a mark
# within it or is covered by the dwell of lodging, so longer gaps are two visits.
REACH: Final = 720


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """The same minutes as disjoint intervals in order; overlapping and touching ones become one."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _effective(marks: Iterable[Mark]) -> list[tuple[int, bool]]:
    """(minute, is it an `in`) in order, after voids; an `out` beside an `in` of its minute says nothing."""
    kinds: dict[int, int] = {}
    for minute, kind in marks:
        kinds[minute] = kinds.get(minute, 0) | 1 << kind
    return [(minute, bool(bits & 1)) for minute, bits in sorted(kinds.items()) if not bits >> VOID]


def presences(marks: Iterable[Mark], dwell: int) -> list[Interval]:
    """When the person was there, merged. The order and number of repetitions of `marks` do not matter."""
    events = _effective(marks)
    found: list[Interval] = []
    for position, (minute, is_in) in enumerate(events):
        if is_in:
            end = minute + dwell
            if position + 1 < len(events):
                following, next_is_in = events[position + 1]
                if following - minute <= (dwell if next_is_in else REACH):
                    end = following
            found.append((minute, end))
        elif position == 0 or minute - events[position - 1][0] > REACH:
            found.append((minute - dwell, minute))
    return merge(found)


def cut(intervals: Iterable[Interval], start: int, end: int) -> list[Interval]:
    """What of the intervals lies in [start, end)."""
    return [(max(a, start), min(b, end)) for a, b in intervals if max(a, start) < min(b, end)]


def linger(intervals: Iterable[Interval], minutes: int) -> list[Interval]:
    """Each end moved later by `minutes`, then merged: how long the place stayed infectious."""
    return merge((start, end + minutes) for start, end in intervals)


def intersect(left: Sequence[Interval], right: Sequence[Interval]) -> list[Interval]:
    """Minutes in both; both sides disjoint and in order, as `merge` gives them."""
    found: list[Interval] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start = max(left[i][0], right[j][0])
        end = min(left[i][1], right[j][1])
        if start < end:
            found.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return found


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one local date has of a case's overlap with a contact: minutes of the epoch, and their sum."""

    first: int
    last: int
    minutes: int


def overlap_on(day: int, overlaps: Sequence[Interval], min_overlap: int) -> Overlap | None:
    """The exposure of a local day (days since the epoch), or none.

    It stands when the day holds at least one minute of overlap, and either the day's sum or one whole
    overlap that meets the day (not split at midnight) reaches `min_overlap`.
    """
    start = day_start(day)
    end = start + MINUTES_PER_DAY
    here = [(a, b) for a, b in overlaps if a < end and b > start]
    if not here:
        return None
    parts = cut(here, start, end)
    total = sum(b - a for a, b in parts)
    if total < min_overlap and all(b - a < min_overlap for a, b in here):
        return None
    return Overlap(parts[0][0], parts[-1][1], total)
