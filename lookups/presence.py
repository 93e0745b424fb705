"""Presence, in time, of many persons at many venues at once: pure functions over arrays of marks.

Binding rules: docs/DESIGN.md, "Meaning of the data". Minutes since the Unix epoch, half-open intervals.
Whether somebody is present at a minute depends only on marks within 720 minutes on either side: so a question
about a window reads `MARGIN_HOURS` more on both sides, and `clip`s the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LONGEST_STAY: Final = 720  # minutes between a check-in and the check-out that can belong to it
MARGIN_HOURS: Final = LONGEST_STAY // 60
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
# Of the marks of one minute the lowest decides: a void cancels the others, beside an `in` an `out` says
# nothing.
VOID: Final = 0
IN: Final = 1
OUT: Final = 2
SEVERAL: Final = 3  # of a row of the archive that is not one mark: no kind of a mark
VENUE_BITS: Final = 32  # of a mark's number; the venue comes above them
PER_HOUR: Final = 60 << 2  # by so much the number of a mark grows with the hour
_STEP_BITS: Final = 5  # of a mark's number: steps of 8 minutes
# A table of every venue and step is made up to this size, or to 16 times the marks: for a year of all venues
# of a country it would take gigabytes.
_CELLS: Final = 1 << 20
_DIGIT: Final = 16  # bits: numpy sorts whole numbers of so many by radix
# Marks are sorted by so many bits if these leave a person some more than the number of marks has: then hardly
# one in 250 shares them with somebody else, and to put those in order takes less than another digit does.
_KEY_BITS: Final = 3 * _DIGIT
_SPARE_BITS: Final = 8

Numbers = NDArray[np.int64]
Persons = NDArray[np.uint64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Archived:
    """Marks as the archive has them, equally long arrays, in any order, some perhaps several times.

    `mark`: number of the venue << 32 | minutes after `base` << 2 | `VOID`, `IN` or `OUT`. The venue's number
    is the asker's. One number a mark, because a question about a crowd costs as much as it moves of memory.
    """

    base: int
    mark: Numbers
    person: Persons

    def take(self, chosen: Flags | Numbers) -> Archived:
        """Some of them."""
        chosen = numbers_of(chosen)
        return Archived(self.base, self.mark[chosen], self.person[chosen])


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
        if not isinstance(chosen, slice):
            chosen = numbers_of(chosen)
        return Spans(self.venue[chosen], self.person[chosen], self.start[chosen], self.end[chosen])

    def clip(self, start: Numbers | int, end: Numbers | int) -> Spans:
        """What lies in [start, end); each span may have limits of its own."""
        cut = Spans(self.venue, self.person, np.maximum(self.start, start), np.minimum(self.end, end))
        return cut.take(cut.start < cut.end)

    def lasting(self, least: int) -> Spans:
        """Those of whoever is at the venue for so many minutes in all: nobody else shares so many with
        anybody there."""
        if least <= 1:
            return self
        group = groups(self.venue, self.person)
        return self.take((np.bincount(group, self.end - self.start) >= least)[group])

    def infectious(self, linger: int) -> Spans:
        """Each `linger` minutes longer, joined where they then overlap or touch."""
        late = Spans(self.venue, self.person, self.start, self.end + linger)
        apart = np.ones(len(late), np.bool_)
        apart[1:] = changes(late.venue, late.person) | (late.start[1:] > late.end[:-1])
        return _joined(late, apart)


def ordered(*columns: NDArray[np.integer]) -> Numbers:
    """The order of rows by these columns, the first one most important; none is negative.

    Digit by digit, the last one first: half the time of numpy's argsort of one column, a third of lexsort's.
    """
    order: Numbers | None = None
    for column in reversed(columns):
        for low in range(0, int(column.max(initial=0)).bit_length(), _DIGIT):
            digit = (column >> low).astype(np.uint16)
            if order is None:
                order = np.argsort(digit, kind="stable")
            else:
                order = order[np.argsort(digit[order], kind="stable")]
    return np.arange(len(columns[0])) if order is None else order


def ranks(values: NDArray[np.integer]) -> Numbers:
    """Small numbers in the order of the values, the same for the same value."""
    _, rank = np.unique(values, return_inverse=True)
    return np.asarray(rank, np.int64)


def numbers_of(chosen: Flags | Numbers) -> Numbers:
    """Of flags the numbers of those that are set: to take rows by them is five times as fast."""
    return np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64, copy=False)


def changes(*columns: NDArray[np.integer]) -> Flags:
    """Of each row but the first: whether it differs from the one before."""
    found: Flags = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        found |= column[1:] != column[:-1]
    return found


def groups(*columns: NDArray[np.integer]) -> Numbers:
    """Of each row a number that grows where it differs from the one before, from 0 on."""
    found = np.zeros(len(columns[0]), np.int64)
    np.cumsum(changes(*columns), out=found[1:])
    return found


def telling(archived: Archived, places: Spans, dwell: Numbers) -> Archived:
    """What says anything about who was at these places, and little else; `dwell`: as of `presences`.

    Who was there without a check-out checked in at most the dwell time before. So further away only those
    count who checked out from the start of a place to 720 minutes after its end: of them all that the venue
    has. Most of a venue's day around a place is of others.
    """
    venue, time = archived.mark >> VENUE_BITS, archived.mark & ((1 << VENUE_BITS) - 1)
    step = time >> _STEP_BITS
    shape = len(dwell), int(step.max(initial=0)) + 2
    if shape[0] * shape[1] > max(_CELLS, 16 * len(step)):
        return archived
    cell = venue * shape[1] + step
    since, start, last, late = (
        ((minute - archived.base) << 2) >> _STEP_BITS
        for minute in (
            places.start - dwell[places.venue] + 1,
            places.start,
            places.end - 1,
            places.end - 1 + LONGEST_STAY,
        )
    )
    near = _inside(shape, places.venue, since, last)[cell]
    leaving = np.flatnonzero(((time & 3) == OUT) & _inside(shape, places.venue, start, late)[cell])
    # Who leaves is looked up by some bits of venue and person: a few others that share them stay as well.
    bits = max(len(cell).bit_length() + 1, 8)
    look = ((archived.person ^ venue.astype(np.uint64)) * _MIX) >> np.uint64(64 - bits)
    leaves = np.zeros(1 << bits, np.bool_)
    leaves[look[leaving]] = True
    return archived.take(near | leaves[look])


def _inside(shape: tuple[int, int], venue: Numbers, first: Numbers, last: Numbers) -> Flags:
    """Of each venue and step, one row after the other, whether one of [first, last] has it."""
    change = np.zeros(shape, np.int32)
    most = shape[1] - 1
    np.add.at(change, (venue, np.clip(first, 0, most)), 1)
    np.add.at(change, (venue, np.clip(last + 1, 0, most)), -1)
    inside: Flags = np.cumsum(change, axis=1, out=change).ravel() > 0
    return inside


def live_marks(archived: Archived) -> Marks:
    """A void cancels the `in` and `out` of its minute; an `out` in the minute of an `in` says nothing."""
    order, times, apart = _grouped(archived)
    decides = (times & 3) != VOID
    decides[1:] &= changes(times >> 2) | apart[1:]
    chosen = np.flatnonzero(decides)
    order, times = order[chosen], times[chosen]
    group = np.cumsum(apart, dtype=np.int64)[chosen]
    venue = archived.mark[order] >> VENUE_BITS
    return Marks(venue, archived.person[order], group, archived.base + (times >> 2), (times & 3) == OUT)


def _grouped(archived: Archived) -> tuple[Numbers, Numbers, Flags]:
    """An order in which the marks of a venue and person are next to each other, by time; in that order their
    time and kind, and whether each is the first of its venue and person.

    Sorted by the venue and some of the person's bits, as many as are likely to tell a venue's persons apart:
    of 50,000 marks it takes half the time of finding the persons' ranks first. Persons who share them are
    put in order afterwards.
    """
    time = archived.mark & ((1 << VENUE_BITS) - 1)
    venue = archived.mark >> VENUE_BITS
    time_bits, venue_bits = int(time.max(initial=3)).bit_length(), int(venue.max(initial=0)).bit_length()
    room = _KEY_BITS - venue_bits - time_bits
    if room < len(time).bit_length() + _SPARE_BITS:
        room = 63 - venue_bits - time_bits
    # odd, so no person is lost in it, and it moves what tells pseudonyms apart into the upper bits
    mixed = ((archived.person * _MIX) >> np.uint64(63 - room) >> np.uint64(1)).astype(np.int64)
    keys = (venue << (room + time_bits)) | (mixed << time_bits) | time
    latest = (1 << time_bits) - 1
    order = ordered(keys)
    keys, person = keys[order], archived.person[order]
    alike = ~changes(keys >> time_bits)
    apart = np.ones(len(keys), np.bool_)
    apart[1:] = changes(person) | ~alike
    if len(clashes := np.flatnonzero(apart[1:] & alike)):
        shared = keys[clashes] >> time_bits
        lows = np.unique(np.searchsorted(keys, shared << time_bits))
        highs = np.unique(np.searchsorted(keys, (shared << time_bits) | latest, side="right"))
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
            within = np.lexsort((keys[low:high], person[low:high]))
            order[low:high] = order[low:high][within]
            keys[low:high] = keys[low:high][within]
            apart[low + 1 : high] = changes(person[low:high][within])
    return order, keys & latest, apart


def presences(marks: Marks, dwell: Numbers) -> Spans:
    """When the persons were there; `dwell`: minutes, by the number of the venue."""
    if not len(marks.at):
        return Spans(marks.venue, marks.person, marks.at, marks.at)
    stay = dwell[marks.venue]
    gap = np.full(len(marks.at) + 1, 1 << 40, np.int64)  # to the mark before: none
    np.copyto(gap[1:-1], np.diff(marks.at), where=~changes(marks.group))
    before, after = gap[:-1], gap[1:]
    then_out = np.append(marks.is_out[1:], False)
    # an `out` soon after another mark ended the stay of an `in` before it, or says nothing after an `out`
    opens = ~marks.is_out | (before > LONGEST_STAY)
    goes_on = after <= np.where(then_out, LONGEST_STAY, stay)
    start = np.where(marks.is_out, marks.at - stay, marks.at)
    end = marks.at + np.where(marks.is_out, 0, np.where(goes_on, after, stay))
    opening = np.flatnonzero(opens)
    single = Spans(marks.venue, marks.person, start, end).take(opening)
    apart = np.ones(len(single), np.bool_)
    # starts and ends never go back: neighbours tell which are one
    apart[1:] = changes(marks.group[opening]) | (single.start[1:] > single.end[:-1])
    return _joined(single, apart)


def _joined(spans: Spans, apart: Flags) -> Spans:
    """`apart`: a span that begins one; the others go on with the one before."""
    starts = np.flatnonzero(apart)
    lasts = np.append(starts[1:], len(spans))[: len(starts)] - 1
    return Spans(spans.venue[starts], spans.person[starts], spans.start[starts], spans.end[lasts])


def archived_rows(table: Iterable[Sequence[int]]) -> Archived:
    """(venue, hour, person, ins, outs, voids), …: bit m of a mask is minute m of that hour."""
    columns: list[Any] = list(zip(*table, strict=True)) or [()] * 6
    venue, hour = (np.array(column, np.int64) for column in columns[:2])
    person, *masks = (np.array(column, np.uint64) for column in columns[2:])
    first = int(hour.min(initial=1 << 40))
    return masked(first, (venue << VENUE_BITS) + (hour - first) * PER_HOUR, person, masks)


def masked(first: int, places: Numbers, person: Persons, masks: Iterable[Persons]) -> Archived:
    """A mark for each bit of the masks of hours: ins, outs, voids.

    `places`: a mark of the hour's first minute without a kind.
    """
    marks, persons = [places[:0]], [person[:0]]
    for kind, mask in zip((IN, OUT, VOID), masks, strict=True):
        active = np.flatnonzero(mask)
        left = mask[active]
        while len(active):
            below = left - np.uint64(1)
            bit = np.bitwise_count(left ^ below).astype(np.int64) - 1
            marks.append(places[active] + (bit << 2) + kind)
            persons.append(person[active])
            left &= below
            more = left != 0
            active, left = active[more], left[more]
    return Archived(first * 60, np.concatenate(marks), np.concatenate(persons))
