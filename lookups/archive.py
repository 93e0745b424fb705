"""Questions about one person or one venue: one method a question, parameters always by the driver.

Rows are merged by GROUP BY with groupBitOr before a mask is looked at: background merges may be far behind.
What is small is asked as marks, and presence follows by lookups/presence.py: planning the views (migration
0006_questions) takes longer than the whole question (docs/LOOKUPS.md). What is large is asked of the views.
Every question is put into `lookup_audit` before it is asked: who looks into where a person has been leaves a
trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any, Final

from lookups.answers import (
    Contact,
    HourOccupancy,
    Mark,
    PersonTrace,
    Place,
    Presence,
    UnknownCaseError,
    Window,
)
from lookups.asking import Asker, incomplete, unknown_venue
from lookups.presence import MARGIN_HOURS, HourMarks, Span, clip, infectious, live_marks, presences
from schemas.events import Kind
from schemas.times import MS_PER_MINUTE, day_name, day_start, local_day

_PERSON: Final = """
SELECT venue, hour, groupBitOr(ins), groupBitOr(outs), groupBitOr(voids)
FROM visits_by_person
WHERE person = %(person)s AND hour BETWEEN %(first)s AND %(last)s
GROUP BY venue, hour
ORDER BY venue, hour
"""

_VENUE: Final = """
SELECT register.name, register.sector, register.district, register.dwell, capacity, person, hour, i, o, v
FROM (
    SELECT code, name, sector, district, dwell, capacity FROM venues FINAL WHERE code = %(venue)s
) AS register
LEFT JOIN (
    SELECT venue, person, hour, groupBitOr(ins) AS i, groupBitOr(outs) AS o, groupBitOr(voids) AS v
    FROM visits
    WHERE venue = %(venue)s AND hour BETWEEN %(first)s AND %(last)s
    GROUP BY venue, person, hour
) AS marks ON marks.venue = register.code
ORDER BY person, hour
"""

_MET: Final = """
SELECT person, venue, toString(date), minutes, first, last
FROM contacts_at_places(places = %(places)s, min_overlap = %(min_overlap)s)
ORDER BY first, venue, person
"""

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

_IS_CASE: Final = "SELECT count() FROM cases_current WHERE case_id = %(case)s"


class Lookups(Asker):
    """The archive, asked through one client by one asker (for the audit). Not for several threads at once.

    Every method raises ArchiveAwayError when ClickHouse does not answer, WrongAccessError when it refuses
    the user, IncompleteArchiveError when a visited venue is not in its register yet.
    """

    def person(self, person: str, window: Window) -> PersonTrace:
        """Where a person was in a window, and the marks that say so."""
        self._note("person", window, person=person)
        return self._trace(person, window)

    def _trace(self, person: str, window: Window) -> PersonTrace:
        first, last = _hours(window)
        rows = self._rows(_PERSON, {"person": int(person, 16), "first": first, "last": last})
        start, end = window.minutes
        marks: list[Mark] = []
        found: list[Presence] = []
        by_venue = {code: list(group) for code, group in groupby(rows, key=lambda row: row[0])}
        # a question of its own: joined, the two take half as long again
        register = self._register(set(by_venue))
        if missing := by_venue.keys() - register.keys():
            raise incomplete(sorted(missing))
        for code, own in by_venue.items():
            place = register[code]
            hours = [HourMarks(*row[1:5]) for row in own]
            marks += [mark for mark in _marks(place, hours) if start <= mark.at // MS_PER_MINUTE < end]
            found += _presences(place, person, clip(presences(live_marks(hours), place.dwell), start, end))
        marks.sort(key=lambda mark: (mark.at, mark.venue.code, mark.kind))
        found.sort(key=lambda presence: (presence.start, presence.venue.code))
        return PersonTrace(marks, found)

    def venue(self, venue: str, window: Window) -> list[Presence]:
        """Who was at a venue in a window, by time. Raises UnknownVenueError."""
        found = [
            presence
            for place, person, hours in self._visitors("venue", venue, window)
            for presence in _presences(
                place, person, clip(presences(live_marks(hours), place.dwell), *window.minutes)
            )
        ]
        return sorted(found, key=lambda presence: (presence.start, presence.person))

    def occupancy(self, venue: str, window: Window) -> list[HourOccupancy]:
        """How full a venue was, by clock hour, empty hours left out. Raises UnknownVenueError."""
        start, end = window.minutes
        changes = [0] * (end - start + 1)
        visitors: dict[int, int] = {}
        check_ins: dict[int, int] = {}
        capacity = None
        for place, _, hours in self._visitors("occupancy", venue, window):
            capacity = place.capacity
            live = live_marks(hours)
            inside: set[int] = set()
            for a, b in clip(presences(live, place.dwell), start, end):
                changes[a - start] += 1
                changes[b - start] -= 1
                inside.update(range(a // 60, (b - 1) // 60 + 1))
            for hour in inside:
                visitors[hour] = visitors.get(hour, 0) + 1
            for minute, is_out in live:
                if not is_out and start <= minute < end:
                    check_ins[minute // 60] = check_ins.get(minute // 60, 0) + 1
        present = list(accumulate(changes))
        return [
            HourOccupancy(
                hour * 60 * MS_PER_MINUTE,
                visitors[hour],
                max(present[max(hour * 60, start) - start : min(hour * 60 + 60, end) - start]),
                check_ins.get(hour, 0),
                capacity,
            )
            for hour in sorted(visitors)
        ]

    def contacts(self, person: str, window: Window, min_overlap: int = 1, linger: int = 0) -> list[Contact]:
        """Who was where this person was, at the same time within the window; from the visits, by time.

        As the exposures of a case with this window, `min_overlap` and `linger` (minutes) would be.
        Two questions: what the first answers, where the person was, tells the second what little to read.
        """
        self._note("contacts", window, person=person, min_overlap=min_overlap, linger=linger)
        stays = self._trace(person, window).presences
        if not stays:
            return []
        register = {stay.venue.code: stay.venue for stay in stays}
        places = _places(stays, linger)
        rows = self._rows(
            _MET,
            {
                "places": [(venue, start, end, int(person, 16)) for venue, start, end in places],
                "min_overlap": min_overlap,
            },
        )
        own = _minutes_by_day(places)
        return [
            Contact(
                _hex(other),
                register[venue],
                date,
                minutes,
                first * MS_PER_MINUTE,
                last * MS_PER_MINUTE,
                minutes / own[venue, date],
            )
            for other, venue, date, minutes, first, last in rows
        ]

    def contacts_of_case(self, case_id: str) -> list[Contact]:
        """The exposures of a case that stand: of each the highest version, if it is not withdrawn.

        Raises UnknownCaseError.
        """
        rows = list(self._ask("case", _EXPOSED, None, {"case": case_id}, case=case_id))
        if not rows and not self._execute(_IS_CASE, {"case": case_id})[0][0]:
            raise UnknownCaseError(f"the archive knows no case {case_id!r}: truyvet cases list shows all")
        return [Contact(_hex(row[0]), _place(row[1], row[2:6]), *row[6:10]) for row in rows]

    def _visitors(
        self, question: str, venue: str, window: Window
    ) -> Iterator[tuple[Place, str, list[HourMarks]]]:
        first, last = _hours(window)
        parameters = {"venue": venue, "first": first, "last": last}
        known = False
        for person, group in groupby(
            self._ask(question, _VENUE, window, parameters, venue=venue), key=lambda row: row[5]
        ):
            rows = list(group)
            known = True
            hours = [HourMarks(*row[6:10]) for row in rows if row[7] | row[8] | row[9]]
            if hours:  # the row of a venue without visitors has no marks
                yield _place(venue, rows[0][0:5]), _hex(person), hours
        if not known:
            raise unknown_venue([venue])


def _hours(window: Window) -> tuple[int, int]:
    """First and last hour whose marks say anything about the window."""
    start, end = window.minutes
    return max(0, start // 60 - MARGIN_HOURS), (end - 1) // 60 + MARGIN_HOURS


def _hex(person: int) -> str:
    return f"{person:016x}"


def _place(code: str, register: Sequence[Any]) -> Place:
    """`register`: name, sector, district, dwell, capacity if asked; no dwell: the venue is not there."""
    if not register[3]:
        raise incomplete([code])
    return Place(code, *register)


def _presences(place: Place, person: str, spans: Sequence[Span]) -> list[Presence]:
    return [
        Presence(place, person, start * MS_PER_MINUTE, end * MS_PER_MINUTE, end - start)
        for start, end in spans
    ]


def _marks(place: Place, hours: Sequence[HourMarks]) -> Iterator[Mark]:
    for each in hours:
        kinds: tuple[tuple[Kind, int], ...] = (("in", each.ins), ("out", each.outs), ("void", each.voids))
        for kind, mask in kinds:
            for minute in range(60):
                if mask >> minute & 1:
                    yield Mark(place, (each.hour * 60 + minute) * MS_PER_MINUTE, kind)


def _places(stays: Sequence[Presence], linger: int) -> list[tuple[str, int, int]]:
    """(venue, start, end) in minutes, where somebody with these stays is met."""
    by_venue: dict[str, list[Span]] = {}
    for stay in sorted(stays, key=lambda stay: stay.start):
        span = stay.start // MS_PER_MINUTE, stay.end // MS_PER_MINUTE
        by_venue.setdefault(stay.venue.code, []).append(span)
    return [(code, *span) for code, spans in by_venue.items() for span in infectious(spans, linger)]


def _minutes_by_day(places: Sequence[tuple[str, int, int]]) -> dict[tuple[str, str], int]:
    """(venue, local date) → minutes."""
    found: dict[tuple[str, str], int] = {}
    for venue, start, end in places:
        for day in range(local_day(start), local_day(end - 1) + 1):
            key = venue, day_name(day)
            found[key] = found.get(key, 0) + min(end, day_start(day + 1)) - max(start, day_start(day))
    return found
