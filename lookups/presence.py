"""Presence of one person at one venue, in time: pure functions over the archive's minute masks.

Binding rules: docs/DESIGN.md, "Meaning of the data". Minutes since the Unix epoch, half-open intervals.
Whether somebody is present at a minute depends only on marks within 720 minutes on either side: so a question
about a window reads `MARGIN_HOURS` more on both sides, and `clip`s the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

LONGEST_STAY: Final = 720  # minutes between a check-in and the check-out that can belong to it
MARGIN_HOURS: Final = LONGEST_STAY // 60

Span = tuple[int, int]


class HourMarks(NamedTuple):
    """A person's marks at a venue in one hour: bit m of a mask is minute m of that hour."""

    hour: int
    ins: int
    outs: int
    voids: int


def live_marks(hours: Iterable[HourMarks]) -> list[tuple[int, bool]]:
    """(minute, whether it is an `out`) of every mark that counts, in order.

    `hours`: in any order; an hour may come several times, as the parts of an archive that has not merged.
    A void cancels the `in` and `out` of its minute; an `out` in the minute of an `in` says nothing.
    """
    merged: dict[int, HourMarks] = {}
    for each in hours:
        known = merged.get(each.hour)
        merged[each.hour] = (
            each
            if known is None
            else HourMarks(each.hour, known.ins | each.ins, known.outs | each.outs, known.voids | each.voids)
        )
    marks = []
    for hour in sorted(merged):
        _, ins, outs, voids = merged[hour]
        outs &= ~(voids | ins)
        left = (ins & ~voids) | outs
        while left:
            bit = left & -left
            marks.append((hour * 60 + bit.bit_length() - 1, bool(outs & bit)))
            left ^= bit
    return marks


def presences(marks: Sequence[tuple[int, bool]], dwell: int) -> list[Span]:
    """When the person was there: disjoint spans in order, from live marks in order; `dwell` in minutes."""
    spans: list[Span] = []
    for at, (minute, is_out) in enumerate(marks):
        if is_out:
            if at and minute - marks[at - 1][0] <= LONGEST_STAY:
                continue  # it ended the stay of the `in` before it, or says nothing after an `out`
            start, end = minute - dwell, minute
        else:
            start, end = minute, minute + dwell
            if at + 1 < len(marks):
                after, then_out = marks[at + 1]
                if after - minute <= (LONGEST_STAY if then_out else dwell):
                    end = after
        # starts never go back: an `out` with a span of its own is more than a dwell after the mark before it
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return spans


def clip(spans: Iterable[Span], start: int, end: int) -> list[Span]:
    """What of the spans lies in [start, end)."""
    return [(max(a, start), min(b, end)) for a, b in spans if a < end and b > start]


def infectious(spans: Iterable[Span], linger: int) -> list[Span]:
    """Disjoint spans in order, each `linger` minutes longer, joined where they then overlap or touch."""
    found: list[Span] = []
    for start, end in spans:
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], end + linger)
        else:
            found.append((start, end + linger))
    return found
