"""Questions about one person or one venue: one method a question, parameters always by the driver.

Marks are asked for, and what follows from them is found here, by lookups/presence.py and lookups/meetings.py:
planning the views (migration 0006_questions) takes longer than a whole question (docs/LOOKUPS.md). A mark
that comes twice, in rows that no background merge has met yet, counts once.
Every question is put into `lookup_audit` before it is asked: who looks into where a person has been leaves a
trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from lookups.answers import (
    Columns,
    Contact,
    HourOccupancy,
    Mark,
    PersonTrace,
    Place,
    Presence,
    UnknownCaseError,
    Window,
    hexes,
    rows_as,
)
from lookups.asking import incomplete, unknown_venue, withdrawn_case
from lookups.meetings import contacts, nobody, together
from lookups.presence import (
    IN,
    OUT,
    VENUE_BITS,
    VOID,
    Archived,
    Persons,
    Spans,
    changes,
    live_marks,
    ordered,
    presences,
)
from lookups.reading import Reader, dates
from schemas.events import Kind
from schemas.times import MS_PER_MINUTE, day_start, local_day

_VENUE: Final = (
    "SELECT code, name, sector, district, dwell, capacity FROM venues FINAL WHERE code = %(venue)s"
)

_EXPOSED: Final = """
SELECT person, venue, name, register.sector, district, dwell, toString(date), minutes, first, last
FROM (
    SELECT person, venue, date, minutes, first, last, status
    FROM exposures FINAL
    WHERE case_id = %(case)s
) AS newest
LEFT JOIN (SELECT code, name, sector, district, dwell FROM venues FINAL) AS register
    ON register.code = newest.venue
WHERE status = 'exposed'
ORDER BY first, venue, person
"""

_KINDS: Final[dict[int, Kind]] = {IN: "in", OUT: "out", VOID: "void"}

_STATUS: Final = "SELECT status FROM cases_current WHERE case_id = %(case)s"


class Lookups(Reader):
    """The archive, asked through one client by one asker (for the audit). Not for several threads at once.

    Every method raises ArchiveAwayError when ClickHouse does not answer, WrongAccessError when it refuses
    the user, IncompleteArchiveError when a visited venue is not in its register yet.
    """

    def person(self, person: str, window: Window) -> PersonTrace:
        """Where a person was in a window, and the marks that say so."""
        self._note("person", window, person=person)
        start, end = window.minutes
        codes, archived = self._marks_of(_persons(person), start, end)
        places = self._places(codes)
        marks = [
            mark
            for mark in _marks([places[code] for code in codes], archived)
            if start <= mark.at // MS_PER_MINUTE < end
        ]
        marks.sort(key=lambda mark: (mark.at, mark.venue.code, mark.kind))
        found = self._found(codes, self._presences(codes, archived).clip(start, end))
        found.sort(key=lambda presence: (presence.start, presence.venue.code))
        return PersonTrace(marks, found)

    def venue(self, venue: str, window: Window) -> list[Presence]:
        """Who was at a venue in a window, by time. Raises UnknownVenueError."""
        self._note("venue", window, venue=venue)
        archived = self._marks_at(venue, window)
        if not len(archived.mark):
            self._known({venue})
        spans = self._presences([venue], archived).clip(*window.minutes)
        return self._found([venue], spans.take(ordered(spans.start, spans.person)))

    def occupancy(self, venue: str, window: Window) -> list[HourOccupancy]:
        """How full a venue was, by clock hour, empty hours left out. Raises UnknownVenueError."""
        self._note("occupancy", window, venue=venue)
        register = list(self._rows(_VENUE, {"venue": venue}))  # anew: a capacity may be changed
        if not register:
            raise unknown_venue([venue])
        place = Place(*register[0])
        if not place.dwell:
            raise incomplete([venue])
        marks = live_marks(self._marks_at(venue, window))
        start, end = window.minutes
        spans = presences(marks, np.array([place.dwell])).clip(start, end)
        entered = marks.at[~marks.is_out & (marks.at >= start) & (marks.at < end)]
        change = np.bincount(spans.start - start, minlength=end - start + 1) - np.bincount(
            spans.end - start, minlength=end - start + 1
        )
        present = np.cumsum(change)
        base = start // 60
        check_ins = np.bincount(entered // 60 - base, minlength=1).tolist()
        found = []
        for hour, visitors in _visitors(spans):
            within = present[max(hour * 60 - start, 0) : min(hour * 60 + 60, end) - start]
            known = check_ins[hour - base] if hour - base < len(check_ins) else 0
            found.append(
                HourOccupancy(hour * 60 * MS_PER_MINUTE, visitors, int(within.max()), known, place.capacity)
            )
        return found

    def contacts(
        self, person: str, window: Window, min_overlap: int = 1, linger: int = 0
    ) -> Columns[Contact]:
        """Who was where this person was, at the same time within the window; from the visits.

        By time, then by venue.
        As the exposures of a case with this window, `min_overlap` and `linger` (minutes) would be.
        Two questions: what the first answers, where the person was, tells the second what little to read.
        """
        self._note("contacts", window, person=person, min_overlap=min_overlap, linger=linger)
        start, end = window.minutes
        codes, archived = self._marks_of(_persons(person), start, end)
        places = self._presences(codes, archived).clip(start, end).infectious(linger).lasting(min_overlap)
        there = self._presences_at(codes, places).lasting(min_overlap)
        found = together([nobody(), *contacts(there, places, min_overlap)])
        if not len(found):
            return Columns(Contact, *[[]] * len(Contact._fields))
        found = found.take(ordered(found.first - found.first.min()))  # they come by venue
        day = int(found.day.min())
        days = range(day, int(found.day.max()) + 1)
        own = _minutes_by_day(places)
        known = np.array([[own.get((venue, when), 0) for when in days] for venue in range(len(codes))])
        return Columns(
            Contact,
            hexes(found.person),
            self._places_at(codes, found.venue),
            dates(found.day),
            found.minutes.tolist(),
            (found.first * MS_PER_MINUTE).tolist(),
            (found.last * MS_PER_MINUTE).tolist(),
            (found.minutes / known[found.venue, found.day - day]).tolist(),
        )

    def contacts_of_case(self, case_id: str) -> Columns[Contact]:
        """The exposures of a case that stand: of each the highest version, if it is not withdrawn.

        Raises UnknownCaseError; WrongSubjectError for a withdrawn case: "nobody" would be read as an answer.
        """
        status = [row[0] for row in self._ask("case", _STATUS, None, {"case": case_id}, case=case_id)]
        if "withdrawn" in status:
            raise withdrawn_case(case_id)
        # exposures may be in the archive before their case is
        found = self._execute(_EXPOSED, {"case": case_id})
        if not found and not status:
            raise UnknownCaseError(f"the archive knows no case {case_id!r}: truyvet cases list shows all")
        person, venue, *register, date, minutes, first, last = found or [[]] * 10
        places = {code: _place(code, known) for code, *known in set(zip(venue, *register, strict=True))}
        return Columns(
            Contact,
            hexes(np.array(person, np.uint64)),
            [places[code] for code in venue],
            *(date, minutes, first, last),
            [None] * len(person),
        )

    def _found(self, codes: Sequence[str], spans: Spans) -> list[Presence]:
        return rows_as(
            Presence,
            self._places_at(codes, spans.venue),
            hexes(spans.person),
            (spans.start * MS_PER_MINUTE).tolist(),
            (spans.end * MS_PER_MINUTE).tolist(),
            (spans.end - spans.start).tolist(),
        )


def _persons(*persons: str) -> Persons:
    return np.array([int(person, 16) for person in persons], np.uint64)


def _visitors(spans: Spans) -> list[tuple[int, int]]:
    """(clock hour, persons who were there in it), hours without anybody left out."""
    first = spans.start // 60
    hours = (spans.end - 1) // 60 - first + 1
    part = np.repeat(np.arange(len(spans)), hours)
    hour = first[part] + np.arange(len(part)) - np.repeat(np.cumsum(hours) - hours, hours)
    person = spans.person[part]
    once = np.ones(len(part), np.bool_)
    # a person's presences are next to each other: who left and came back within an hour counts once
    once[1:] = changes(person, hour)
    counted, visitors = np.unique(hour[once], return_counts=True)
    return list(zip(counted.tolist(), visitors.tolist(), strict=True))


def _place(code: str, register: Sequence[Any]) -> Place:
    """`register`: name, sector, district, dwell, capacity if asked; no dwell: the venue is not there."""
    if not register[3]:
        raise incomplete([code])
    return Place(code, *register)


def _marks(places: Sequence[Place], archived: Archived) -> Iterator[Mark]:
    """Every mark of a person's once, void ones and what they cancel included."""
    for mark in np.unique(archived.mark).tolist():
        venue, time = mark >> VENUE_BITS, mark & ((1 << VENUE_BITS) - 1)
        yield Mark(places[venue], (archived.base + (time >> 2)) * MS_PER_MINUTE, _KINDS[time & 3])


def _minutes_by_day(places: Spans) -> dict[tuple[int, int], int]:
    """(number of the venue, local day) → minutes."""
    found: dict[tuple[int, int], int] = {}
    for venue, start, end in zip(
        places.venue.tolist(), places.start.tolist(), places.end.tolist(), strict=True
    ):
        for day in range(local_day(start), local_day(end - 1) + 1):
            key = venue, day
            found[key] = found.get(key, 0) + min(end, day_start(day + 1)) - max(start, day_start(day))
    return found
