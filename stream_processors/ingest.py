"""The ingest role: a chunk of scans in; marks, visits, touched and rejected out.

A chunk is done once everything that it caused is durable; any part of it may be done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from schemas.codes import is_code
from schemas.events import MAX_SCANS_PER_RECORD, Case, Scan
from schemas.times import MS_PER_MINUTE
from stream_processors.dead_letters import Refusal, dead_letter
from stream_processors.layout import KINDS
from stream_processors.matching import holds
from stream_processors.metrics import Metrics
from stream_processors.outputs import DurableProducer, Out
from stream_processors.poison import PoisonAlarm
from stream_processors.store import DUPLICATE, ERASED, NEW, Ingested, MarkRow, Store
from stream_processors.touches import Touch, touched_records
from stream_processors.validation import Record, Rejected, Validated, header_int, validate
from stream_processors.venues import VenueTable

_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class IngestTopics:
    """The names of the topics that ingest reads and writes on this installation."""

    scans: str
    visits: str
    touched: str
    rejected: str


def rejected_record(topic: str, source: str, partition: int, rejected: Rejected) -> Out:
    """The dead-letter record of a scan: its original bytes; the rest stands in the headers."""
    refusal = Refusal(
        rejected.reason,
        rejected.detail,
        source,
        partition,
        rejected.offset,
        rejected.index,
        rejected.arrival,
        rejected.attempts,
    )
    return dead_letter(topic, rejected.value, None, refusal)


def rows_of(scans: Sequence[Scan]) -> list[MarkRow]:
    """The marks that scans make."""
    rows: list[MarkRow] = []
    for scan in scans:
        hour, minute = divmod(scan["scanned_at"] // MS_PER_MINUTE, 60)
        rows.append(
            MarkRow(
                scan["scan_id"], scan["person"], scan["venue"], hour, minute, KINDS[scan.get("kind", "in")]
            )
        )
    return rows


def visit_records(
    topic: str, scans: Sequence[Scan], rows: Sequence[MarkRow], arrivals: Sequence[int], verdicts: str
) -> list[Out]:
    """The accepted marks in arrays of up to 1,000."""
    visits = [
        {
            "scan_id": row.scan_id,
            "person": row.person,
            "venue": row.venue,
            "hour": row.hour,
            "minute": row.minute,
            "kind": scan.get("kind", "in"),
            "source": scan.get("source", "person"),
            "party": scan.get("party", 1),
            "received_at": arrival,
        }
        for scan, row, arrival, verdict in zip(scans, rows, arrivals, verdicts, strict=True)
        if verdict not in (DUPLICATE, ERASED)
    ]
    return [
        Out(topic, orjson.dumps(visits[start : start + MAX_SCANS_PER_RECORD]))
        for start in range(0, len(visits), MAX_SCANS_PER_RECORD)
    ]


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
        self._venues = venues
        self._producer = producer
        self._topics = topics
        self._retention_ms = retention_days * _DAY_MS
        self._clock_ms = clock_ms
        self._metrics = metrics
        self._poison = poison

    async def process(self, partition: int, records: Sequence[Record]) -> None:
        """Do everything that a chunk asks for; return when it is durable."""
        validated = await self._validated(records)
        topics = self._topics
        out = [
            rejected_record(topics.rejected, topics.scans, partition, rejected)
            for rejected in validated.rejected
        ]
        touches: list[Touch] = []
        verdicts = ""
        if validated.scans:
            rows = rows_of(validated.scans)
            watched, ancestors = self._watched(rows)
            found = await self._store.add_scans(rows, watched, self._clock_ms())
            verdicts = found.verdicts
            if ERASED in verdicts:
                out += self._erased(partition, validated, verdicts)
            out += visit_records(topics.visits, validated.scans, rows, validated.arrivals, verdicts)
            if found.flags or found.cases:
                touches = await self._touches(rows, found, ancestors)
                out += touched_records(topics.touched, touches)
        await self._producer.send(out)
        self._count(validated, verdicts, len(touches))

    def _erased(self, partition: int, validated: Validated, verdicts: str) -> list[Out]:
        """Scans of erased persons as rejected ones, without their bytes: in there they would be back."""
        return [
            rejected_record(
                self._topics.rejected,
                self._topics.scans,
                partition,
                Rejected(
                    None,
                    "erased",
                    "the person was erased by order; the scan's bytes are not kept",
                    record.offset,
                    index,
                    arrival,
                    (header_int(record.headers, "attempts") or 0) + 1,
                ),
            )
            for (record, index), arrival, verdict in zip(
                validated.origins, validated.arrivals, verdicts, strict=True
            )
            if verdict == ERASED
        ]

    async def _validated(self, records: Sequence[Record]) -> Validated:
        """Judge a chunk; once more when a venue that it names turns out to be registered after all."""
        unknown: list[str] = []

        def closed_at(codes: Sequence[str]) -> dict[str, int | None]:
            found = self._venues.register.closed_at(codes)
            unknown[:] = [code for code in codes if code not in found and is_code(code)]
            return found

        validated = validate(records, closed_at, self._retention_ms)
        if unknown and await self._venues.look_for(unknown):
            validated = validate(records, closed_at, self._retention_ms)
        return validated

    def _watched(self, rows: Sequence[MarkRow]) -> tuple[list[str], dict[str, list[str]]]:
        """Venues whose flags matter: those of the rows, and their ancestors (a place-time at a market
        covers a stall that was registered after it)."""
        register = self._venues.register
        codes = {row.venue for row in rows}
        ancestors = {code: above for code in codes if (above := register.ancestors(code))}
        return list(codes.union(*ancestors.values())), ancestors

    async def _touches(
        self, rows: Sequence[MarkRow], found: Ingested, ancestors: dict[str, list[str]]
    ) -> list[Touch]:
        touches: dict[tuple[str, str], Touch] = {}
        to_remember: dict[str, set[str]] = {}

        def touch(row: MarkRow, case: Case, person: str | None) -> None:
            minute = row.hour * 60 + row.minute
            if holds(case, minute):
                at = (row.venue, case.case_id)
                item = touches.setdefault(at, Touch(row.venue, case))
                if case.version > item.case.version:
                    item.case = case
                item.add(person, minute)

        for row, verdict in zip(rows, found.verdicts, strict=True):
            if verdict in (DUPLICATE, ERASED):
                continue
            for case in found.flags.get(row.venue, ()):
                touch(row, case, None if case.person == row.person else row.person)
            for above in ancestors.get(row.venue, ()):
                for case in found.flags.get(above, ()):
                    if case.venue == above:
                        touch(row, case, row.person)
                        to_remember.setdefault(case.case_id, set()).add(row.venue)
            for case in found.cases.get(row.person, ()):
                touch(row, case, None)
                to_remember.setdefault(case.case_id, set()).add(row.venue)
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
