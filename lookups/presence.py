"""Presence, in time, of many persons at many venues at once: pure functions over arrays of masks.

Binding rules: docs/DESIGN.md, "Meaning of the data". Minutes since the Unix epoch, half-open intervals.
Whether somebody is present at a minute depends only on marks within 720 minutes on either side: so a question
about a window reads `MARGIN_HOURS` more on both sides, and `clip`s the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LONGEST_STAY: Final = 720  # minutes between a check-in and the check-out that can belong to it
MARGIN_HOURS: Final = LONGEST_STAY // 60
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)

Numbers = NDArray[np.int64]
Persons = NDArray[np.uint64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the archive, equally long arrays, in any order: bit m of a mask is minute m of that hour.

    `venue`: a number that the asker gave it. A key may come several times, as in parts that have not merged.
    """

    venue: Numbers
    hour: Numbers
    person: Persons
    ins: Persons
    outs: Persons
    voids: Persons

    def take(self, chosen: Flags | Numbers) -> Rows:
        """Some of them."""
        return Rows(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks that count: those of a venue and person next to each other, by time, with one number `group`."""

    venue: Numbers
    person: Persons
    group: Numbers
    at: Numbers
    is_out: Flags


@dataclass(frozen=True, slots=True)
class Spans:
    """Presences: of one person at one venue disjoint, in order, and next to each other."""

    venue: Numbers
    person: Persons
    start: Numbers
    end: Numbers

    def __len__(self) -> int:
        return len(self.start)

    def take(self, chosen: Flags | Numbers | slice) -> Spans:
        """Some of them."""
        return Spans(self.venue[chosen], self.person[chosen], self.start[chosen], self.end[chosen])

    def clip(self, start: Numbers | int, end: Numbers | int) -> Spans:
        """What lies in [start, end); each span may have limits of its own."""
        cut = Spans(self.venue, self.person, np.maximum(self.start, start), np.minimum(self.end, end))
        return cut.take(cut.start < cut.end)

    def infectious(self, linger: int) -> Spans:
        """Each `linger` minutes longer, joined where they then overlap or touch."""
        late = Spans(self.venue, self.person, self.start, self.end + linger)
        apart = np.ones(len(late), np.bool_)
        apart[1:] = changes(late.venue, late.person) | (late.start[1:] > late.end[:-1])
        return _joined(late, apart)


def ordered(*columns: NDArray[np.integer]) -> Numbers:
    """The order of rows by these columns, the first one most important; none is negative.

    One sort of one number a row when the columns fit into it: lexsort takes six times as long.
    """
    widths = [int(column.max(initial=0)).bit_length() for column in columns]
    if sum(widths) > 63:
        by_column: Numbers = np.lexsort(columns[::-1])
        return by_column
    packed = np.zeros(len(columns[0]), np.int64)
    for column, width in zip(columns, widths, strict=True):
        packed = (packed << width) | column.astype(np.int64)
    return np.argsort(packed)


def ranks(values: NDArray[np.integer]) -> Numbers:
    """Small numbers in the order of the values, the same for the same value."""
    _, rank = np.unique(values, return_inverse=True)
    return np.asarray(rank, np.int64)


def changes(*columns: NDArray[np.integer]) -> Flags:
    """Of each row but the first: whether it differs from the one before."""
    found: Flags = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        found |= column[1:] != column[:-1]
    return found


def live_marks(rows: Rows) -> Marks:
    """A void cancels the `in` and `out` of its minute; an `out` in the minute of an `in` says nothing."""
    rows = rows.take(_grouped(rows))
    first = np.ones(len(rows.hour), np.bool_)
    first[1:] = changes(rows.venue, rows.person, rows.hour)
    ins, outs, voids = rows.ins, rows.outs, rows.voids
    if not first.all():
        starts = np.flatnonzero(first)
        rows = rows.take(starts)
        ins, outs, voids = (np.bitwise_or.reduceat(mask, starts) for mask in (ins, outs, voids))
    outs = outs & ~(voids | ins)
    left = (ins & ~voids) | outs
    many = np.bitwise_count(left).astype(np.int64)
    source = np.repeat(np.arange(len(left)), many)
    group = np.zeros(len(left), np.int64)
    group[1:] = np.cumsum(changes(rows.venue, rows.person))
    at = np.empty(len(source), np.int64)
    is_out = np.empty(len(source), np.bool_)
    where = np.cumsum(many) - many
    active = np.flatnonzero(left)
    left = left[active]
    while len(active):
        bit = left & (~left + np.uint64(1))
        to = where[active]
        at[to] = rows.hour[active] * 60 + np.bitwise_count(bit - np.uint64(1))
        is_out[to] = (outs[active] & bit) != 0
        where[active] += 1
        left ^= bit
        more = left != 0
        active, left = active[more], left[more]
    return Marks(rows.venue[source], rows.person[source], group[source], at, is_out)


def _grouped(rows: Rows) -> Numbers:
    """An order in which the rows of a venue and person are next to each other, by hour.

    By a part of the person's bits, as many as there is room for in one number to be sorted: of 50,000 rows it
    takes half the time of finding the persons' ranks first. Should two persons have the same part, by ranks.
    """
    hour = rows.hour - rows.hour.min(initial=0)
    venue_bits, hour_bits = (int(column.max(initial=0)).bit_length() for column in (rows.venue, hour))
    room = 63 - venue_bits - hour_bits
    if room > 0:
        # odd, so no person is lost in it, and it moves what tells pseudonyms apart into the upper bits
        mixed = (rows.person * _MIX) >> np.uint64(64 - room)
        packed = (rows.venue << (room + hour_bits)) | (mixed.astype(np.int64) << hour_bits) | hour
        order = np.argsort(packed)
        group, person = packed[order] >> hour_bits, rows.person[order]
        if not np.any(changes(person) & ~changes(group)):
            return order
    return ordered(rows.venue, ranks(rows.person), hour)


def presences(marks: Marks, dwell: Numbers) -> Spans:
    """When the persons were there; `dwell`: minutes, by the number of the venue."""
    if not len(marks.at):
        return Spans(marks.venue, marks.person, marks.at, marks.at)
    stay = dwell[marks.venue]
    gap = np.full(len(marks.at) + 1, 1 << 40, np.int64)  # to the mark before: none
    same = ~changes(marks.group)
    gap[1:-1][same] = np.diff(marks.at)[same]
    before, after = gap[:-1], gap[1:]
    then_out = np.append(marks.is_out[1:], False)
    # an `out` soon after another mark ended the stay of an `in` before it, or says nothing after an `out`
    opens = ~marks.is_out | (before > LONGEST_STAY)
    goes_on = after <= np.where(then_out, LONGEST_STAY, stay)
    start = np.where(marks.is_out, marks.at - stay, marks.at)
    end = marks.at + np.where(marks.is_out, 0, np.where(goes_on, after, stay))
    single = Spans(marks.venue, marks.person, start, end).take(opens)
    apart = np.ones(len(single), np.bool_)
    # starts and ends never go back: neighbours tell which are one
    apart[1:] = changes(marks.group[opens]) | (single.start[1:] > single.end[:-1])
    return _joined(single, apart)


def _joined(spans: Spans, apart: Flags) -> Spans:
    """`apart`: a span that begins one; the others go on with the one before."""
    starts = np.flatnonzero(apart)
    lasts = np.append(starts[1:], len(spans))[: len(starts)] - 1
    return Spans(spans.venue[starts], spans.person[starts], spans.start[starts], spans.end[lasts])


def rows_of(table: Iterable[Sequence[int]]) -> Rows:
    """(venue, hour, person, ins, outs, voids), … as arrays."""
    columns: list[Any] = list(zip(*table, strict=True)) or [()] * 6
    venue, hour = (np.array(column, np.int64) for column in columns[:2])
    person, ins, outs, voids = (np.array(column, np.uint64) for column in columns[2:])
    return Rows(venue, hour, person, ins, outs, voids)
