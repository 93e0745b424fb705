"""The ingest role: a chunk of scans in; marks, visits, touched and rejected out.

A chunk is done once everything that it caused is durable; any part of it may be done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, compress, pairwise
from typing import Final, NamedTuple

import msgspec
import numpy as np

from schemas.codes import is_code
from schemas.events import MAX_SCANS_PER_RECORD, Case
from schemas.times import MS_PER_MINUTE
from stream_processors.dead_letters import Refusal, dead_letter
from stream_processors.layout import KINDS
from stream_processors.matching import holds
from stream_processors.metrics import Metrics
from stream_processors.outputs import DurableProducer, Out
from stream_processors.poison import PoisonAlarm
from stream_processors.records import Records
from stream_processors.requests import Marks
from stream_processors.store import DUPLICATE, ERASED, MARKS_A_CALL, NEW, Ingested, Store
from stream_processors.together import Together
from stream_processors.touches import Touch, touched_records
from stream_processors.validation import Accepted, Rejected, Validated, header_int, validate
from stream_processors.venues import VenueTable

_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class IngestTopics:
    """The names of the topics that ingest reads and writes on this installation."""

    scans: str
    visits: str
    touched: str
    rejected: str


def rejected_record(topic: str, source: str, rejected: Rejected) -> Out:
    """The dead-letter record of a scan: its original bytes; the rest stands in the headers."""
    refusal = Refusal(
        rejected.reason,
        rejected.detail,
        source,
        rejected.partition,
        rejected.offset,
        rejected.index,
        rejected.arrival,
        rejected.attempts,
    )
    return dead_letter(topic, rejected.value, None, refusal)


class _Visit(msgspec.Struct, gc=False):
    """schemas.events.Visit, as what writes it fast wants it."""

    scan_id: str
    person: str
    venue: str
    hour: int
    minute: int
    kind: str
    source: str
    party: int
    received_at: int


_write: Final = msgspec.json.Encoder().encode


def marks_of(scans: Accepted) -> Marks:
    """The marks that scans make."""
    hours, minutes = np.divmod(scans.scanned_at // MS_PER_MINUTE, 60)
    kinds = np.fromiter(map(KINDS.__getitem__, scans.kinds), np.int64, len(scans))
    return Marks(scans.scan_ids, scans.persons, scans.venues, hours, minutes, kinds)


def visit_records(topic: str, scans: Accepted, marks: Marks, verdicts: str) -> list[Out]:
    """The accepted marks in arrays of up to 1,000."""
    visits: Iterable[_Visit] = map(
        _Visit,
        scans.scan_ids,
        scans.persons,
        scans.venues,
        marks.hours.tolist(),
        marks.minutes.tolist(),
        scans.kinds,
        scans.sources,
        scans.parties,
        scans.arrivals,
    )
    if DUPLICATE in verdicts or ERASED in verdicts:
        visits = compress(visits, [verdict not in (DUPLICATE, ERASED) for verdict in verdicts])
    made = list(visits)
    return [
        Out(topic, _write(made[start : start + MAX_SCANS_PER_RECORD]))
        for start in range(0, len(made), MAX_SCANS_PER_RECORD)
    ]


# Trips to Redis at once, of scans: while one is executed, the next has been sent. Redis is what a backlog
# fills, and a mark costs it the less, the more of a venue's hour come with it (docs/DESIGN.md).
_ADDING: Final = 2


class _Asked(NamedTuple):
    marks: Marks
    watched: Sequence[str]  # venues whose flags matter


class Ingest:
    """Validate, deduplicate, bucket, and tell the matcher: one chunk at a time."""

    def __init__(
        self,
        *,
        store: Store,
        venues: VenueTable,
        producer: DurableProducer,
        topics: IngestTopics,
        retention_days: int,
        clock_ms: Callable[[], int],
        metrics: Metrics,
        poison: PoisonAlarm | None = None,
    ) -> None:
        self._store = store
        self._adding = Together[_Asked, Ingested](self._add, _ADDING, MARKS_A_CALL)
        self._venues = venues
        self._producer = producer
        self._topics = topics
        self._retention_ms = retention_days * _DAY_MS
        self._clock_ms = clock_ms
        self._metrics = metrics
        self._poison = poison

    async def process(self, records: Records) -> None:
        """Do everything that a chunk asks for, of one partition or several; return when it is durable."""
        validated = await self._validated(records)
        topics = self._topics
        out = [rejected_record(topics.rejected, topics.scans, rejected) for rejected in validated.rejected]
        touches: list[Touch] = []
        verdicts = ""
        if validated.scans:
            marks = marks_of(validated.scans)
            watched, ancestors = self._watched(marks)
            found = await self._added(marks, watched)
            verdicts = found.verdicts
            if ERASED in verdicts:
                out += self._erased(records, validated.scans, verdicts)
            out += visit_records(topics.visits, validated.scans, marks, verdicts)
            if found.flags or found.cases:
                touches = await self._touches(marks, found, ancestors)
                out += touched_records(topics.touched, touches)
        await self._producer.send(out)
        self._count(validated, verdicts, len(touches))

    async def _added(self, marks: Marks, watched: Sequence[str]) -> Ingested:
        """Both steps of the scans of a chunk, with those of chunks that wait for Redis as well."""
        added = self._adding.add(_Asked(marks, watched), len(marks))
        self._adding.begin()
        return await added

    async def _add(self, asked: Sequence[_Asked]) -> list[Ingested]:
        if len(asked) == 1:
            return [await self._store.add_scans(*asked[0])]
        marks = Marks.joined([one.marks for one in asked])
        watched = list(set(chain.from_iterable(one.watched for one in asked)))
        found = await self._store.add_scans(marks, watched)
        # whoever has none of the flags and cases that were found passes them over
        bounds = pairwise(accumulate((len(one.marks) for one in asked), initial=0))
        return [replace(found, verdicts=found.verdicts[start:end]) for start, end in bounds]

    def _erased(self, records: Records, scans: Accepted, verdicts: str) -> list[Out]:
        """Scans of erased persons as rejected ones, without their bytes: in there they would be back."""
        rejected = []
        for at, verdict in enumerate(verdicts):
            if verdict == ERASED:
                record = records.at(scans.places[at])
                detail = "the person was erased by order; the scan's bytes are not kept"
                source = record.partition, record.offset, scans.indexes[at], scans.arrivals[at]
                attempts = (header_int(record.headers, "attempts") or 0) + 1
                rejected.append(Rejected(None, "erased", detail, *source, attempts))
        return [rejected_record(self._topics.rejected, self._topics.scans, each) for each in rejected]

    async def _validated(self, records: Records) -> Validated:
        """Judge a chunk; once more when the register has news of a venue that seemed unknown or closed."""
        doubtful: list[str] = []
        seen = self._venues.register.changes

        def closed_at(codes: Sequence[str]) -> dict[str, int | None]:
            found = self._venues.register.closed_at(codes)
            doubtful[:] = [
                code for code in codes if (found[code] is not None if code in found else is_code(code))
            ]
            return found

        validated = validate(records, closed_at, self._retention_ms)
        refused = any(each.reason == "unknown_venue" for each in validated.rejected)
        if refused and doubtful and await self._venues.look(seen):
            validated = validate(records, closed_at, self._retention_ms)
        return validated

    def _watched(self, marks: Marks) -> tuple[list[str], dict[str, list[str]]]:
        """Venues whose flags matter: those of the marks, and their ancestors (a place-time at a market
        covers a stall that was registered after it)."""
        codes = set(marks.venues)
        ancestors = self._venues.register.ancestors_of(codes)
        return list(codes.union(*ancestors.values())), ancestors

    async def _touches(self, marks: Marks, found: Ingested, ancestors: dict[str, list[str]]) -> list[Touch]:
        touches: dict[tuple[str, str], Touch] = {}
        to_remember: dict[str, set[str]] = {}
        flagged = found.flags.keys() | {
            venue for venue, above in ancestors.items() if not found.flags.keys().isdisjoint(above)
        }
        minutes = (marks.hours * 60 + marks.minutes).tolist()

        def touch(venue: str, case: Case, person: str | None, minute: int) -> None:
            if holds(case, minute):
                at = (venue, case.case_id)
                item = touches.setdefault(at, Touch(venue, case))
                if case.version > item.case.version:
                    item.case = case
                item.add(person, minute)

        for venue, person, minute, verdict in zip(
            marks.venues, marks.persons, minutes, found.verdicts, strict=True
        ):
            if verdict in (DUPLICATE, ERASED) or not (venue in flagged or person in found.cases):
                continue
            for case in found.flags.get(venue, ()):
                touch(venue, case, None if case.person == person else person, minute)
            for above in ancestors.get(venue, ()):
                for case in found.flags.get(above, ()):
                    if case.venue == above:
                        touch(venue, case, person, minute)
                        to_remember.setdefault(case.case_id, set()).add(venue)
            for case in found.cases.get(person, ()):
                touch(venue, case, None, minute)
                to_remember.setdefault(case.case_id, set()).add(venue)
        # A venue must be known to the case before it is touched: a later version finds its venues there.
        # What stands by then is what is sent: either that version sees the venue, or we see the version.
        ids = [case_id for case_id in to_remember if any(at[1] == case_id for at in touches)]
        stands = await asyncio.gather(
            *(self._store.add_case_venues(case_id, sorted(to_remember[case_id])) for case_id in ids)
        )
        for case_id, (standing, _, _) in zip(ids, stands, strict=True):
            if standing is not None:
                for (_, touched_id), item in touches.items():
                    if touched_id == case_id and standing.version > item.case.version:
                        item.case = standing
        return list(touches.values())

    def _count(self, validated: Validated, verdicts: str, touches: int) -> None:
        metrics = self._metrics
        new, duplicate, erased = (verdicts.count(verdict) for verdict in (NEW, DUPLICATE, ERASED))
        for verdict, count in (
            ("accepted", new),
            ("duplicate", duplicate),
            ("erased", erased),
            ("redelivered", len(verdicts) - new - duplicate - erased),
        ):
            if count:
                metrics.scans.labels(verdict).inc(count)
        for rejected in validated.rejected:
            metrics.scans.labels(rejected.reason).inc()
        metrics.chunk_scans.observe(len(verdicts) + len(validated.rejected))
        metrics.touched.inc(touches)
        if self._poison is not None:
            self._poison.seen(len(verdicts) + len(validated.rejected), [r.reason for r in validated.rejected])
