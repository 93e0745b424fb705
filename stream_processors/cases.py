"""The cases role: case records in; what stands in Redis, touched and cases.rejected out."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from schemas.events import Case, CaseRejectReason
from schemas.json_text import constant_problem
from schemas.problems import first_problem
from stream_processors.dead_letters import Refusal, dead_letter
from stream_processors.matching import holds
from stream_processors.metrics import Metrics
from stream_processors.outputs import DurableProducer, Out
from stream_processors.records import Headers
from stream_processors.store import Store
from stream_processors.touches import Touch, touched_records
from stream_processors.validation import header_int
from stream_processors.venues import VenueTable

_DETAIL_LIMIT = 500
_PLACES_A_CALL = 500  # whose flags are asked for at once: Redis serves others in between
CASE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class CaseTopics:
    """The names of the topics that the cases role reads and writes on this installation."""

    cases: str
    touched: str
    rejected: str


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """One record of the topic `cases`. `timestamp` ms."""

    key: bytes | None
    value: bytes | None
    partition: int
    offset: int
    timestamp: int
    headers: Headers = ()


def read_case_record(record: CaseRecord) -> Case | tuple[CaseRejectReason, str]:
    """The case, or why it is refused."""
    if record.value is None:
        return "tombstone", "a case is withdrawn (status, and a higher version), not deleted"
    problem = constant_problem(record.value)
    if problem is not None:
        return "malformed", problem[:_DETAIL_LIMIT]
    try:
        case = Case.model_validate_json(record.value)
    except ValidationError as error:
        not_json = error.errors(include_input=False, include_url=False)[0]["type"] == "json_invalid"
        return "malformed" if not_json else "invalid", first_problem(error)[:_DETAIL_LIMIT]
    if record.key != case.case_id.encode():
        # compaction goes by the key: another one would lose a version or keep a dead one
        return "invalid", "the record's key must be the case_id"
    return case


def _parts(places: Sequence[str]) -> Iterator[Sequence[str]]:
    return (places[start : start + _PLACES_A_CALL] for start in range(0, len(places), _PLACES_A_CALL))


class Cases:
    """Keep each case's highest version, find its venues, and tell the matcher."""

    def __init__(
        self,
        *,
        store: Store,
        venues: VenueTable,
        producer: DurableProducer,
        topics: CaseTopics,
        clock_ms: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._venues = venues
        self._producer = producer
        self._topics = topics
        self._clock_ms = clock_ms
        self._metrics = metrics

    async def process(self, records: Sequence[CaseRecord]) -> None:
        """Do everything that the records ask for, in their order; return when it is durable."""
        for record in records:
            case = read_case_record(record)
            if isinstance(case, tuple):
                await self._reject(record, *case)
                await self._stands_again(record.key)
            else:
                await self._take(record, case)

    async def _reject(self, record: CaseRecord, reason: CaseRejectReason, detail: str) -> None:
        arrival = header_int(record.headers, "arrival")
        refusal = Refusal(
            reason,
            detail,
            self._topics.cases,
            record.partition,
            record.offset,
            0,
            max(0, record.timestamp) if arrival is None else arrival,
            (header_int(record.headers, "attempts") or 0) + 1,
        )
        await self._producer.send([dead_letter(self._topics.rejected, record.value, record.key, refusal)])
        self._metrics.cases.labels(reason).inc()

    async def _take(self, record: CaseRecord, case: Case) -> None:
        verdict, standing = await self._store.set_case(case, self._clock_ms())
        if verdict == "conflict":
            await self._reject(record, "conflict", f"version {case.version} was another case before")
            await self._highest_again(standing)
            return
        if verdict == "subject":
            detail = f"the case is about {standing.subject}; another person or venue is a new case"
            await self._reject(record, "subject_changed", detail)
            await self._highest_again(standing)
            return
        self._metrics.cases.labels(verdict).inc()
        if verdict == "lower":
            await self._highest_again(standing)
            return
        self._metrics.touched.inc(await self.announce(case))

    async def _highest_again(self, standing: Case) -> None:
        """A record that does not count is now the last of its key: compaction must find the version that
        stands there instead."""
        out = Out(self._topics.cases, standing.to_json(), standing.case_id.encode())
        await self._producer.send([out])

    async def _stands_again(self, key: bytes | None) -> None:
        """The same, of a record that could not be read: its key says which case it hides."""
        if key is None or not CASE_ID.fullmatch(key):
            return  # no case has such a key
        case_id = key.decode()
        standing, _, _ = await self._store.add_case_venues(case_id, [])
        if standing is not None:
            await self._highest_again(standing)

    async def announce(self, case: Case) -> int:
        """Tell the matcher of every venue that a case that stands ever touched; returns how many."""
        venues = await self._venues_of(case)
        _, _, known = await self._store.add_case_venues(case.case_id, venues)
        touches = [Touch(venue, case, persons=None, hours=venues.get(venue)) for venue in {*known, *venues}]
        await self._producer.send(touched_records(self._topics.touched, touches))
        return len(touches)

    async def moved(self, codes: Collection[str]) -> int:
        """Venues are new, or below others than before: what place-times cover has changed. Returns how many
        of those the matcher was told.

        A place-time that covered such a venue has its flag there, one that covers it now has its flag above
        it. Where the matcher has yet to set that flag, it looks at the register after it.
        """
        register = self._venues.register
        inside = set(codes).union(*(register.descendants(code) for code in codes))
        above = {place for code in codes for place in register.ancestors(code)}
        found: set[str] = set()
        for part in _parts(sorted(inside | above)):
            for place, cases in (await self._store.flagged_at(part)).items():
                for case in cases:
                    now = place in above and case.venue == place
                    before = place in inside and case.venue not in {None, place}
                    if (now or before) and case.status == "confirmed":
                        found.add(case.case_id)
        for case_id in sorted(found):
            standing, _, _ = await self._store.add_case_venues(case_id, [])
            if standing is not None:
                self._metrics.touched.inc(await self.announce(standing))
        return len(found)

    async def _venues_of(self, case: Case) -> dict[str, frozenset[int] | None]:
        """The venues of a case; of a person's also the hours in which the index has the person there."""
        if case.venue is not None:
            return dict.fromkeys([case.venue, *await self._venues.descendants(case.venue)])
        index = await self._store.set_person_case(case, self._clock_ms())
        found: dict[str, set[int]] = {}
        for hour, venue in index:
            if holds(case, hour * 60) or holds(case, hour * 60 + 59):
                found.setdefault(venue, set()).add(hour)
        return {venue: frozenset(hours) for venue, hours in found.items()}
