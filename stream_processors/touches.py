"""`touched` events: what may have changed about a case at a venue. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from schemas.events import TOUCHED, Case, Touched
from stream_processors.outputs import Out
from stream_processors.presence import Interval


@dataclass(slots=True)
class Touch:
    """One venue and case: whose marks changed (none: look at everybody) between which minutes (none: all).

    `hours`: where the case's own marks there are to be looked for (none: in its whole window). A mark that
    came after they were read raises a touch by itself: its scan found the person's case.
    """

    venue: str
    case: Case
    persons: set[str] | None = field(default_factory=set)
    minutes: Interval | None = None
    hours: frozenset[int] | None = None

    def add(self, person: str | None, minute: int) -> None:
        """One more changed mark; `person` none when it is the case's own."""
        if person is None:
            self.persons = None
        elif self.persons is not None:
            self.persons.add(person)
        low, high = self.minutes or (minute, minute)
        self.minutes = (min(low, minute), max(high, minute))

    def absorb(self, other: Touch) -> None:
        """Both in one computation: the higher case version, everybody and every minute of either."""
        if other.case.version > self.case.version:
            self.case = other.case
        self.persons = None if self.persons is None or other.persons is None else self.persons | other.persons
        self.hours = None if self.hours is None or other.hours is None else self.hours | other.hours
        if self.minutes is None or other.minutes is None:
            self.minutes = None
        else:
            self.minutes = (
                min(self.minutes[0], other.minutes[0]),
                max(self.minutes[1], other.minutes[1]),
            )


# Kafka's limit for a record is 1 MiB; a person is 19 bytes of it, a case about 250.
_PERSONS_A_RECORD = 20_000
_TOUCHES_A_RECORD = 500


def read_touches(value: bytes) -> list[Touch]:
    """The touches in a record. Raises pydantic.ValidationError when it is not of our making."""
    return [
        Touch(
            event.venue,
            event.case,
            None if event.persons is None else set(event.persons),
            event.minutes,
            None if event.hours is None else frozenset(event.hours),
        )
        for event in TOUCHED.validate_json(value)
    ]


def gather(touches: Iterable[Touch]) -> list[Touch]:
    """One touch for each venue and case."""
    found: dict[tuple[str, str], Touch] = {}
    for touch in touches:
        at = (touch.venue, touch.case.case_id)
        if at in found:
            found[at].absorb(touch)
        else:
            found[at] = replace(touch)
    return list(found.values())


def touched_records(topic: str, touches: Iterable[Touch]) -> list[Out]:
    """Records for the topic, keyed by venue, so that one venue's decisions are made one after another."""
    by_venue: dict[str, list[Touched]] = {}
    for touch in touches:
        events = by_venue.setdefault(touch.venue, [])
        if touch.persons is None:
            hours = None if touch.hours is None else sorted(touch.hours)
            events.append(Touched(venue=touch.venue, case=touch.case, minutes=touch.minutes, hours=hours))
            continue
        persons = sorted(touch.persons)
        for start in range(0, len(persons), _PERSONS_A_RECORD):
            part = persons[start : start + _PERSONS_A_RECORD]
            events.append(Touched(venue=touch.venue, case=touch.case, persons=part, minutes=touch.minutes))
    return [
        Out(topic, TOUCHED.dump_json(part, by_alias=True, exclude_none=True), venue.encode())
        for venue, events in by_venue.items()
        for part in _records(events)
    ]


def _records(events: Sequence[Touched]) -> list[list[Touched]]:
    parts: list[list[Touched]] = []
    room = 0
    for event in events:
        listed = len(event.persons or ()) + len(event.hours or ())
        size = 1 + listed * _TOUCHES_A_RECORD // _PERSONS_A_RECORD
        if size > room:
            parts.append([])
            room = _TOUCHES_A_RECORD
        parts[-1].append(event)
        room -= size
    return parts
