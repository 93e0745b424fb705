"""Who met whom: pure functions over presences. Minutes since the Unix epoch, half-open intervals.

A place is where and when somebody (`person`) could be met; places are `Spans` too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from lookups.presence import Flags, Numbers, Persons, Spans, changes, groups, numbers_of, ordered, ranks
from schemas.times import MINUTES_PER_DAY, OFFSET_MINUTES

# Pairs that are in memory at once: of a crowd of 9,000 there are 81 million. So few that their columns stay
# in the processor's cache: with two million at a time a chain through a crowd takes half as long again.
_PAIRS: Final = 1 << 16
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
        chosen = numbers_of(chosen)
        return Met(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def by_time(self) -> Met:
        """In the order of first, source, person, venue."""
        return self.take(ordered(self.first, self.source, self.person, self.venue))


def nobody() -> Met:
    """No rows."""
    none, nobody_at_all = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    return Met(nobody_at_all, nobody_at_all, none, none, none, none, none)


def together(parts: list[Met]) -> Met:
    """One table of several."""
    return Met(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Met)))


def meeting(spans: Spans, places: Spans, least: Numbers | int = 1) -> Iterator[Pairs]:
    """Every presence with every place that it meets for so many minutes, at least one; each presence may have
    a number of its own. All of a venue and person comes in one piece."""
    least = np.broadcast_to(least, len(spans))
    order = ordered(places.venue, places.start)
    places = places.take(order)
    low, high = _near(spans, places, least)
    count = high - low
    for piece in _pieces(spans, count):
        many = count[piece]
        own = np.repeat(np.arange(piece.start, piece.stop), many)
        other = np.arange(len(own)) + np.repeat(low[piece] - (np.cumsum(many) - many), many)
        start = np.maximum(spans.start[own], places.start[other])
        end = np.minimum(spans.end[own], places.end[other])
        real = np.flatnonzero(end - start >= least[own])
        yield Pairs(own[real], order[other[real]], start[real], end[real])


def _near(spans: Spans, places: Spans, least: Numbers | int = 1) -> tuple[Numbers, Numbers]:
    """Of each presence, the places [low, high) that it may meet for so long; `places`: by venue and start.

    Where a venue's places do not overlap, as those of one person, each is met for a minute at least.
    """
    base = int(min(places.start.min(initial=NEVER), spans.start.min(initial=NEVER)))
    where, place = spans.venue << 32, places.venue << 32
    latest_end = np.maximum.accumulate(place + (places.end - base))  # of a venue's up to each
    low = np.searchsorted(latest_end, where + (spans.start + least - base))
    high = np.searchsorted(place + (places.start - base), where + (spans.end - least - base), side="right")
    return low, np.maximum(low, high)


def _minutes_of_each(spans: Spans, places: Spans, min_overlap: int) -> Numbers | int:
    """How many minutes each presence has to share with a place to count: all that are wanted where both have
    been at the venue only once; otherwise one, for a date counts with the sum of its minutes."""
    if min_overlap <= 1 or not len(spans) or not len(places):
        return 1
    again = np.zeros(int(max(spans.venue.max(), places.venue.max())) + 1, np.bool_)
    again[places.venue[1:][~changes(places.venue, places.person)]] = True
    several = again[spans.venue]
    same = np.flatnonzero(~changes(spans.venue, spans.person))
    several[same] = several[same + 1] = True
    return np.where(several, 1, min_overlap)


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


@dataclass(frozen=True, slots=True)
class Reached:
    """Of a chain: when the person of each presence was reached (`reached`; NEVER: not yet), and from when on
    the person of each place hands on (`since`). `first_only`: of a person only the first link is wanted."""

    reached: Numbers
    since: Numbers
    first_only: bool

    def can_matter(self, spans: Spans, places: Spans) -> Numbers:
        """Presences near a place whose person hands on before theirs was reached."""
        began = np.full(int(max(places.venue.max(initial=0), spans.venue.max(initial=0))) + 1, NEVER)
        np.minimum.at(began, places.venue, self.since)
        late = np.flatnonzero(self.reached > began[spans.venue])
        low, high = _near(spans.take(late), places.take(ordered(places.venue, places.start)))
        return late[low < high]

    def until(self, spans: Spans, places: Spans, reached: Numbers, min_overlap: int) -> Numbers:
        """From which minute on a meeting of each presence does not matter any more.

        A date counts as a whole, so it is the end of the local day at which the person is reached by then.
        """
        known = reached.copy()
        if self.first_only:
            new = np.flatnonzero(known == NEVER)
            people, who = np.unique(spans.person[new], return_inverse=True)
            first = np.full(len(people), NEVER)
            np.minimum.at(first, who, _surely(spans.take(new), places, min_overlap))
            known[new] = first[who] + 1  # what comes in the same minute may be longer
        days = (known - 1 + OFFSET_MINUTES) // MINUTES_PER_DAY + 1
        until: Numbers = days * MINUTES_PER_DAY - OFFSET_MINUTES
        return until


def _surely(spans: Spans, places: Spans, min_overlap: int) -> Numbers:
    """A minute at which each presence has begun to meet a place for long enough; NEVER where none is seen.

    Whoever is there when a presence begins and stays longest, or else whoever comes next: no pairs are made.
    """
    found = np.full(len(spans), NEVER)
    if not len(places):
        return found
    places = places.take(ordered(places.venue, places.start))
    base = int(min(places.start.min(), spans.start.min(initial=NEVER)))
    at = np.searchsorted(
        (places.venue << 32) + (places.start - base), (spans.venue << 32) + (spans.start - base), side="right"
    )
    longest = np.maximum.accumulate((places.venue << 40) + places.end)  # of a venue's, those before included
    for place, ends in ((at, places.end), (at - 1, longest & ((1 << 40) - 1))):
        there = np.flatnonzero((place >= 0) & (place < len(places)))
        there = there[places.venue[place[there]] == spans.venue[there]]
        start = np.maximum(spans.start[there], places.start[place[there]])
        together = np.minimum(spans.end[there], ends[place[there]]) - start
        enough = together >= max(min_overlap, 1)
        found[there[enough]] = start[enough]
    return found


def contacts(
    spans: Spans,
    places: Spans,
    min_overlap: int,
    chain: Reached | None = None,
) -> Iterator[Met]:
    """Who was at places, by the rule of an exposure, in pieces; nobody is a contact of themselves.

    The overlap is split at local midnight, and a date counts when its sum or one unsplit overlap that meets
    it reaches `min_overlap`. With `chain` only what can reach a person sooner; what cannot may be missing or
    lack minutes.
    """
    if chain is not None:
        near = chain.can_matter(spans, places)  # of a crowd hardly anybody: before pairs are made
        spans, reached = spans.take(near), chain.reached[near]
        until = chain.until(spans, places, reached, min_overlap)
    # a number a source, and one a venue and person: their presences are next to each other
    sources, stays = ranks(places.person), groups(spans.venue, spans.person)
    for pairs in meeting(spans, places, _minutes_of_each(spans, places, min_overlap)):
        source, person = places.person[pairs.place], spans.person[pairs.span]
        wanted = source != person
        if chain is not None:
            wanted &= reached[pairs.span] > chain.since[pairs.place]
            wanted &= pairs.start < until[pairs.span]
        chosen = np.flatnonzero(wanted)
        if not len(chosen):
            continue
        parts = _by_day(pairs, chosen)
        place, span, day = parts.place, parts.span, parts.day
        first, last, whole = parts.first, parts.last, parts.whole
        key = (sources[place] * (stays[-1] + 1) + stays[span]) * (np.ptp(day) + 1) + day - day.min()
        order = np.arange(len(key))
        if np.any(key[1:] < key[:-1]):  # never of a single source
            order = ordered(key)
            key, first, last = key[order], first[order], last[order]
        # What a source and a person have in common comes by time: the first part is the earliest.
        starts = np.flatnonzero(np.append(True, changes(key)))
        ends = np.append(starts[1:], len(key)) - 1
        minutes = np.add.reduceat(last - first, starts)
        long_enough = minutes >= min_overlap
        if whole is not None:
            long_enough |= np.maximum.reduceat(whole[order], starts) >= min_overlap
        kept = np.flatnonzero(long_enough)
        starts = starts[kept]
        rows = order[starts]
        yield Met(
            places.person[place[rows]],
            spans.person[span[rows]],
            spans.venue[span[rows]],
            day[rows],
            minutes[kept],
            first[starts],
            last[ends[kept]],
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What pairs have in common, cut at local midnight.

    `whole`: minutes of the overlap that each is a part of; None where nothing had to be cut.
    """

    span: Numbers
    place: Numbers
    day: Numbers
    first: Numbers
    last: Numbers
    whole: Numbers | None


def _by_day(pairs: Pairs, chosen: Numbers) -> _Parts:
    start, end = pairs.start[chosen], pairs.end[chosen]
    span, place = pairs.span[chosen], pairs.place[chosen]
    day = (start + OFFSET_MINUTES) // MINUTES_PER_DAY
    days = (end - 1 + OFFSET_MINUTES) // MINUTES_PER_DAY - day + 1
    if days.max() == 1:
        return _Parts(span, place, day, start, end, None)
    part = np.repeat(np.arange(len(start)), days)
    day = day[part] + np.arange(len(part)) - np.repeat(np.cumsum(days) - days, days)
    midnight = day * MINUTES_PER_DAY - OFFSET_MINUTES
    return _Parts(
        span[part],
        place[part],
        day,
        np.maximum(start[part], midnight),
        np.minimum(end[part], midnight + MINUTES_PER_DAY),
        (end - start)[part],
    )


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
