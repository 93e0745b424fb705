"""The matcher role: touched events in; exposures and venue warnings out.

The steps of one match are numbered as in docs/DESIGN.md, section "The two-sided join". Decisions about one
venue are made one after another, because `touched` is keyed by venue and a partition has one owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, TypeVar

from schemas.events import Case, Venue
from schemas.times import MS_PER_MINUTE, day_start, local_day
from stream_processors.entries import marks_to_decide
from stream_processors.matching import (
    MARGIN,
    Decision,
    Snapshot,
    days_changed,
    days_of,
    decide,
    infectious_of,
    own_presences,
    window,
)
from stream_processors.metrics import Metrics
from stream_processors.outputs import Out, TransactionalProducer
from stream_processors.presence import Interval, Mark, cut
from stream_processors.published import exposure_record, warning_record
from stream_processors.store import Attempt, Found, Reading, Store
from stream_processors.touches import Touch, gather, touched_records
from stream_processors.venues import VenueTable

# Neighbouring days that are read together, and persons and hours after which no more days are: bounds what
# one computation holds in memory at a market with tens of thousands of scans a day. At most places, that is
# all days of a case.
_DAYS_AT_A_TIME: Final = 4
_ENTRIES_AT_A_TIME: Final = 50_000
# Contacts that one call asks Redis for by name: some 20 ms, which everybody waits for. Of the tens of
# thousands that a crowd brings at once, one call took more than five seconds; Redis refuses all others then.
_NAMED_AT_A_TIME: Final = 500
# Matches of one chunk that wait for Redis at the same time.
_CONCURRENT: Final = 64
# A gateway's clock may be ahead of ours by this much, not more.
_DAYS_AHEAD: Final = 33
# A bucket that expires while it is being read must be frozen already.
_FREEZE_EARLY_S: Final = 120

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MatcherTopics:
    """The names of the topics that the matcher reads and writes on this installation."""

    touched: str
    exposures: str
    warnings: str


@dataclass(frozen=True, slots=True)
class _Pending:
    """A decision that is written as pending and has to be published, then cleared."""

    venue: Venue
    case: Case
    decision: Decision


@dataclass(slots=True)
class _Chunk:
    """A chunk that waits for its partition's turn."""

    touches: Sequence[Touch]
    stale: Callable[[], bool]
    settled: asyncio.Future[Any] | None = None  # of a chunk that was matched: its last step


def _groups(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _runs(days: Iterable[int], longest: int) -> list[list[int]]:
    """Days, or hours, in order, cut into runs of neighbours."""
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and day == runs[-1][-1] + 1 and len(runs[-1]) < longest:
            runs[-1].append(day)
        else:
            runs.append([day])
    return runs


def _told(touch: Touch, own_hours: range, now_ms: int) -> list[range]:
    """Where to look for the case's own marks: each hour costs Redis a microsecond, a window has hundreds.

    Who told us read the index of the days up to tomorrow; a gateway whose clock is far ahead has later ones.
    """
    if touch.hours is None:
        return [own_hours]
    ahead = range(now_ms // (60 * MS_PER_MINUTE) + 1, own_hours.stop)
    hours = touch.hours.union(ahead).intersection(own_hours)
    return [range(run[0], run[-1] + 1) for run in _runs(hours, len(own_hours))]


def _named(touch: Touch) -> list[Sequence[str] | None]:
    """The contacts to look at, as many as are named at a time; None: all."""
    if touch.persons is None:
        return [None]
    return [*_groups(sorted(touch.persons), _NAMED_AT_A_TIME)] or [[]]


class Matcher:
    """Decide, write as pending, publish in a transaction, clear: for every touch of a chunk."""

    def __init__(
        self,
        *,
        store: Store,
        venues: VenueTable,
        producer_for: Callable[[int], TransactionalProducer],
        topics: MatcherTopics,
        clock_ms: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._venues = venues
        self._producer_for = producer_for
        self._producers: dict[int, TransactionalProducer] = {}
        # one partition's chunks one after another, in the order of delivery: asyncio's lock is first come,
        # first served
        self._turns: dict[int, asyncio.Lock] = {}
        self._waiting: dict[int, list[_Chunk]] = {}
        self._topics = topics
        self._clock_ms = clock_ms
        self._metrics = metrics

    async def process(
        self, partition: int, touches: Sequence[Touch], stale: Callable[[], bool] = lambda: False
    ) -> None:
        """Do everything that a chunk of one partition asks for; return when it is durable.

        A chunk that waited for its turn while the partition went to another matcher is left to that one:
        to begin with it would shut the new owner out. All chunks that wait are done as one: a fetch brings
        few touches, and each chunk by itself costs the round trips and a transaction. Whoever is next in turn
        begins once ours is published, beside our last step: what it still finds pending it publishes again.
        """
        own = _Chunk(touches, stale)
        self._waiting.setdefault(partition, []).append(own)
        async with self._turns.setdefault(partition, asyncio.Lock()):
            if own.settled is None:
                chunks = self._waiting.pop(partition, [])
                try:
                    settled = await self._process_chunks(
                        partition, [chunk for chunk in chunks if not chunk.stale()]
                    )
                except BaseException:
                    # none of them is done: whoever is next in turn must not pass for having been
                    self._waiting[partition] = [
                        *(chunk for chunk in chunks if chunk is not own),
                        *self._waiting.get(partition, []),
                    ]
                    raise
                for chunk in chunks:
                    chunk.settled = settled
        assert own.settled is not None  # by whoever did it
        await own.settled

    async def _process_chunks(self, partition: int, chunks: Sequence[_Chunk]) -> asyncio.Future[Any]:
        """Match and publish; what is left to be waited for is the last step."""
        settling: list[asyncio.Task[None]] = []
        if chunks:
            producer = await self._owned(partition)
            touches = [touch for chunk in chunks for touch in chunk.touches]
            for group in _groups(gather(touches), _CONCURRENT):
                pending, news = await self._publish(producer, group)
                settling.append(asyncio.get_running_loop().create_task(self._settle(pending, news)))
        return asyncio.gather(*settling)

    async def _publish(
        self, producer: TransactionalProducer, group: Sequence[Touch]
    ) -> tuple[list[_Pending], list[Touch]]:
        """Steps (1) to (4): what was published, and venues of a case that nobody had told of."""
        matched = await asyncio.gather(*(self._match(touch) for touch in group))
        pending = [item for items, _ in matched for item in items]
        news = [touch for _, found in matched for touch in found]
        out = [record for item in pending for record in self._records(item)]
        out += touched_records(self._topics.touched, news)
        if out:
            await asyncio.to_thread(producer.send, out)  # (4)
        return pending, news

    async def _settle(self, pending: Sequence[_Pending], news: Sequence[Touch]) -> None:
        # only now: remembered before it is sent, a venue would be forgotten by a crash in between
        for touch in news:
            await self._store.add_case_venues(touch.case.case_id, [touch.venue])
        await asyncio.gather(  # (5)
            *(
                self._store.clear_pending(item.venue.code, item.case.case_id, item.decision)
                for item in pending
            )
        )
        self._count(pending)

    async def take_over(self, partition: int, ours: Callable[[], bool]) -> None:
        """Own a partition that was assigned, before its first chunk: the first alert does not wait for it.

        Always anew: it may have been somebody else's in between. `ours`: whether it still is.
        """
        async with self._turns.setdefault(partition, asyncio.Lock()):
            self._producers.pop(partition, None)
            if ours():
                await self._owned(partition)

    def let_go(self, partition: int) -> None:
        """The partition went to somebody else, who has shut our producer out, or will."""
        self._producers.pop(partition, None)

    async def _owned(self, partition: int) -> TransactionalProducer:
        """The partition's producer. It shuts out every earlier owner before the first step is taken, so
        that whatever a zombie decided before cannot land after what we decide."""
        producer = self._producers.get(partition)
        if producer is None:
            producer = self._producer_for(partition)
            await asyncio.to_thread(producer.begin_ownership)
            self._producers[partition] = producer
        return producer

    async def _match(self, touch: Touch) -> tuple[list[_Pending], list[Touch]]:
        """Steps (1) to (3) of one venue and case; days are decided a few at a time."""
        venue = await self._venues.get(touch.venue)
        case, days, news, first = touch.case, set[int](), list[Touch](), None
        if touch.minutes is not None:
            days = set(days_changed(touch.minutes, own=touch.persons is None))
        if touch.minutes is None or venue is None:
            own_hours, now_ms, whose = self._own_hours(case), self._clock_ms(), None
            if case.person is not None:
                whose = Reading(_told(touch, own_hours, now_ms), [case.person])
            first = await self._store.set_flag(touch.venue, case, None, (), now_ms, reading=whose)  # (1)
            case = first.case
            news = await self._new_descendants(touch.venue, case)
            # once more, now that the flag is set: a scan that came before it has a registered venue
            venue = venue or await self._venues.get(touch.venue)
            if venue is None:
                return [], news  # no marks yet: its first scan will find the flag
            await self._see_moves(case, venue)
            if own_hours != self._own_hours(case):  # a later version stands, with another window
                first = replace(first, found=None)
            mine = await self._own(venue, case, first.found)
            infectious = infectious_of(case, mine)
            if case.person is None:  # whatever window it names, only what is kept can be decided
                kept = self._kept(*window(case))
                infectious = cut(infectious, kept.start * 60, kept.stop * 60 + case.linger)
                if not self._covers(case, venue.code):
                    infectious = []
            days = days_of(infectious) | {day for _, day in first.standing} | set(first.warned)
        pending: list[_Pending] = []
        # a forged arrival can lie in the year 9999: nothing is decided so far ahead
        latest = local_day(self._clock_ms() // MS_PER_MINUTE) + _DAYS_AHEAD
        runs = _runs((day for day in days if day <= latest), _DAYS_AT_A_TIME)
        for persons in _named(touch):
            left = runs
            while left:
                decided, done = await self._decide(persons, venue, case, left, first)
                first = None
                left = left[done:]
                if decided is not None:
                    pending.append(decided)
        return pending, news

    async def _new_descendants(self, code: str, case: Case) -> list[Touch]:
        """Venues that were put below a declared place while it was being declared. From here on, the flag
        that was just set tells their scans."""
        if case.venue != code:
            return []
        below = await self._venues.descendants(code)
        if not below:
            return []
        _, _, known = await self._store.add_case_venues(case.case_id, [])
        return [Touch(venue, case, persons=None) for venue in sorted(below - set(known))]

    async def _see_moves(self, case: Case, venue: Venue) -> None:
        """After a flag is set: a change of the register that is older may not have found it there, so it has
        to be seen here."""
        if case.venue not in {None, venue.code}:
            await self._venues.fresh()

    def _covers(self, case: Case, code: str) -> bool:
        """Whether a case is about a venue: a place-time covers what is below its own now."""
        return case.venue in {None, code} or case.venue in self._venues.register.ancestors(code)

    def _own_hours(self, case: Case) -> range:
        """The hours whose marks say where the case's person was in its window."""
        start, end = window(case)
        return self._kept(start - MARGIN, end + MARGIN)

    async def _own(self, venue: Venue, case: Case, found: Found | None) -> list[Interval]:
        """The case's presences within what is kept; `found`: its marks, if they were read already."""
        marks: Sequence[Mark] = ()
        if case.person is not None:
            if found is None:
                reading = Reading([self._own_hours(case)], [case.person])
                found = await self._store.marks_in(venue.code, reading)
            marks = found.entries.of(case.person)
        kept = self._kept(*window(case))
        inside = (kept.start * 60, kept.stop * 60)
        return [
            (max(start, inside[0]), min(end, inside[1]))
            for start, end in own_presences(case, marks, venue.dwell)
            if start < inside[1] and end > inside[0]
        ]

    def _kept(self, start: int, end: int) -> range:
        """The hours of [start, end) minutes that Redis can hold, whatever window a case names."""
        now_ms = self._clock_ms()
        first = max(start // 60, self._store.layout.oldest_hour(now_ms))
        # a gateway's clock may be ahead of ours, though not by a month
        last = min(-(-end // 60), now_ms // (60 * MS_PER_MINUTE) + 31 * 24)
        return range(first, max(first, last))

    async def _decide(
        self,
        persons: Sequence[str] | None,
        venue: Venue,
        case: Case,
        runs: Sequence[list[int]],
        first: Attempt | None,
    ) -> tuple[_Pending | None, int]:
        """What changes for these contacts (None: for all), and of how many of these runs of days; of one at
        least.

        `first`: an attempt of this match that read every entry; it serves as long as nobody made another,
        which (3) finds out.
        """
        store = self._store
        if persons:  # as many entries are named to (1) as may be read
            runs = runs[: max(1, _ENTRIES_AT_A_TIME // (len(persons) * _DAYS_AT_A_TIME))]
        asked = list(chain.from_iterable(runs))
        keys = None if persons is None else [(person, day) for person in persons for day in asked]
        looked_at = persons
        if persons is not None and case.person is not None:
            looked_at = [*persons, case.person]
        # a mark between two stretches is too far from every day that is decided to matter to it
        reading = Reading(self._stretches(runs), looked_at, _ENTRIES_AT_A_TIME)
        while True:
            if first is not None and keys is None:
                attempt, first = first, None
            else:
                attempt = await store.set_flag(  # (1)
                    venue.code,
                    case,
                    keys,
                    asked,
                    self._clock_ms(),
                    reading=None if keys is None else reading,
                )
                await self._see_moves(case, venue)
            case = attempt.case
            found = attempt.found
            if keys is None or found is None:  # everybody's can be many: by themselves
                found = await store.marks_in(venue.code, reading)
            done = found.stretches
            days = list(chain.from_iterable(runs[:done]))
            wanted = set(days)
            standing = {key: entry for key, entry in attempt.standing.items() if key[1] in wanted}
            covered = self._covers(case, venue.code)
            snapshot = Snapshot(
                case=case,
                dwell=venue.dwell,
                days=days,
                marks=marks_to_decide(found.entries, case, venue.dwell, covered, standing),
                standing=standing,
                warned=attempt.warned,
                frozen=self._frozen(days),
                whole=persons is None,
                covered=covered,
            )
            decision = decide(snapshot, self._clock_ms())  # (2)
            if not decision.exposures and not decision.warnings:
                return None, done
            if await store.write_pending(venue.code, case.case_id, attempt.number, decision):  # (3)
                return _Pending(venue, case, decision), done
            self._metrics.match_retries.inc()

    def _stretches(self, runs: Sequence[list[int]]) -> list[range]:
        """The hours that each run of days depends on; those that the one before it has are left out."""
        found: list[range] = []
        for days in runs:
            hours = self._kept(day_start(days[0]) - MARGIN, day_start(days[-1] + 1) + MARGIN)
            start = max(hours.start, found[-1].stop) if found else hours.start
            found.append(range(start, max(start, hours.stop)))
        return found

    def _frozen(self, days: Sequence[int]) -> frozenset[int]:
        now_s = self._clock_ms() // 1000
        layout = self._store.layout
        return frozenset(
            day
            for day in days
            if layout.bucket_expiry((day_start(day) - MARGIN) // 60) <= now_s + _FREEZE_EARLY_S
        )

    def _records(self, item: _Pending) -> list[Out]:
        topics = self._topics
        return [
            exposure_record(topics.exposures, item.venue, item.case, key, entry)
            for key, entry in item.decision.exposures.items()
        ] + [
            warning_record(topics.warnings, item.venue, item.case, day, entry)
            for day, entry in item.decision.warnings.items()
        ]

    def _count(self, pending: Sequence[_Pending]) -> None:
        for item in pending:
            for entry in item.decision.exposures.values():
                self._metrics.exposures.labels(entry.status).inc()
            self._metrics.warnings.inc(len(item.decision.warnings))
