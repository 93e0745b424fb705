"""Who met whom: pure functions over presences. Minutes since the Unix epoch, half-open intervals.

A place is where and when somebody (`person`) could be met; places are `Spans` too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from lookups.presence import Flags, Numbers, Persons, Spans, changes, ordered, ranks
from schemas.times import MINUTES_PER_DAY, OFFSET_MINUTES

# Pairs that are in memory at once: of a crowd of 9,000 there are 81 million.
_PAIRS: Final = 2_000_000
NEVER: Final = 1 << 40  # later than any minute


@dataclass(frozen=True, slots=True)
class Pairs:
    """Numbers of a presence and a place that meet; [start, end) is what they have in common."""

    span: Numbers
    place: Numbers
    start: Numbers
    end: Numbers


@dataclass(frozen=True, slots=True)
class Met:
    """`source` and `person` were at a venue together on a local date (`day`: days since 1970-01-01)."""

    source: Persons
    person: Persons
    venue: Numbers
    day: Numbers
    minutes: Numbers
    first: Numbers
    last: Numbers

    def __len__(self) -> int:
        return len(self.day)

    def take(self, chosen: Flags | Numbers) -> Met:
        """Some of them."""
        return Met(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def by_time(self) -> Met:
        """In the order of first, source, person, venue."""
        return self.take(np.lexsort((self.venue, self.person, self.source, self.first)))


def nobody() -> Met:
    """No rows."""
    none, nobody_at_all = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    return Met(nobody_at_all, nobody_at_all, none, none, none, none, none)


def together(parts: list[Met]) -> Met:
    """One table of several."""
    return Met(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Met)))


def meeting(spans: Spans, places: Spans) -> Iterator[Pairs]:
    """Every presence with every place that it meets; all of a venue and person comes in one piece."""
    order = ordered(places.venue, places.start)
    places = places.take(order)
    base = int(min(places.start.min(initial=NEVER), spans.start.min(initial=NEVER)))
    longest = int((places.end - places.start).max(initial=0))
    key = (places.venue << 32) + (places.start - base)
    low = np.searchsorted(key, (spans.venue << 32) + np.maximum(spans.start - base - longest, 0))
    high = np.searchsorted(key, (spans.venue << 32) + (spans.end - base))
    count = high - low
    for piece in _pieces(spans, count):
        many = count[piece]
        own = np.repeat(np.arange(piece.start, piece.stop), many)
        other = np.arange(len(own)) + np.repeat(low[piece] - (np.cumsum(many) - many), many)
        start = np.maximum(spans.start[own], places.start[other])
        end = np.minimum(spans.end[own], places.end[other])
        real = np.flatnonzero(start < end)
        yield Pairs(own[real], order[other[real]], start[real], end[real])


def _pieces(spans: Spans, count: Numbers) -> Iterator[slice]:
    """Slices of about `_PAIRS` pairs that end where another venue or person begins."""
    if not len(count):
        return
    ends = np.append(np.flatnonzero(changes(spans.venue, spans.person)) + 1, len(count))
    total = np.cumsum(count)[ends - 1]
    start = done = 0
    while start < len(count):
        at = max(int(np.searchsorted(total, done + _PAIRS, side="right")) - 1, 0)
        if ends[at] <= start:
            at = int(np.searchsorted(ends, start, side="right"))
        yield slice(start, int(ends[at]))
        start, done = int(ends[at]), int(total[at])


def contacts(
    spans: Spans,
    places: Spans,
    min_overlap: int,
    reached: Numbers | None = None,
    since: Numbers | None = None,
) -> Iterator[Met]:
    """Who was at places, by the rule of an exposure, in pieces; nobody is a contact of themselves.

    The overlap is split at local midnight, and a date counts when its sum or one unsplit overlap that meets
    it reaches `min_overlap`. With `reached` (a minute a span) and `since` (a minute a place) only those whose
    person was reached after the place's person began: others it cannot reach sooner.
    """
    if reached is not None and since is not None:
        began = np.full(int(max(places.venue.max(initial=0), spans.venue.max(initial=0))) + 1, NEVER)
        np.minimum.at(began, places.venue, since)
        late = np.flatnonzero(
            reached > began[spans.venue]
        )  # of a crowd hardly anybody: before pairs are made
        spans, reached = spans.take(late), reached[late]
    # a number a source, and one a venue and person: their presences are next to each other
    sources, groups = ranks(places.person), np.zeros(len(spans), np.int64)
    groups[1:] = np.cumsum(changes(spans.venue, spans.person))
    for pairs in meeting(spans, places):
        source, person = places.person[pairs.place], spans.person[pairs.span]
        chosen = source != person
        if reached is not None and since is not None:
            chosen &= reached[pairs.span] > since[pairs.place]
        if not chosen.any():
            continue
        start, end = pairs.start[chosen], pairs.end[chosen]
        place, span = pairs.place[chosen], pairs.span[chosen]
        from_day = (start + OFFSET_MINUTES) // MINUTES_PER_DAY
        days = (end - 1 + OFFSET_MINUTES) // MINUTES_PER_DAY - from_day + 1
        part = np.repeat(np.arange(len(start)), days)
        day = from_day[part] + np.arange(len(part)) - np.repeat(np.cumsum(days) - days, days)
        midnight = day * MINUTES_PER_DAY - OFFSET_MINUTES
        first = np.maximum(start[part], midnight)
        last = np.minimum(end[part], midnight + MINUTES_PER_DAY)
        place, span, whole = place[part], span[part], (end - start)[part]
        order = ordered(sources[place], groups[span], day - day.min())
        place, span, day = place[order], span[order], day[order]
        apart = changes(sources[place], groups[span], day)
        starts = np.flatnonzero(np.append(True, apart))
        first, last = first[order], last[order]
        minutes = np.add.reduceat(last - first, starts)
        met = Met(
            places.person[place[starts]],
            spans.person[span[starts]],
            spans.venue[span[starts]],
            day[starts],
            minutes,
            np.minimum.reduceat(first, starts),
            np.maximum.reduceat(last, starts),
        )
        long_enough = (minutes >= min_overlap) | (np.maximum.reduceat(whole[order], starts) >= min_overlap)
        yield met.take(long_enough)


def first_of_each(met: Met) -> Met:
    """Of each person's rows the first, then the longest, then by source and venue."""
    if not len(met):
        return met
    person = ranks(met.person)
    earliest = np.full(int(person.max()) + 1, NEVER)
    np.minimum.at(earliest, person, met.first)
    met = met.take(met.first == earliest[person])
    met = met.take(np.lexsort((met.venue, met.source, -met.minutes, met.person)))
    return met.take(np.append(True, changes(met.person)))
