"""Questions about several persons or places at once: chains, common venues, place-times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from lookups.answers import (
    AtPlaceTime,
    CaseSubject,
    CommonVenue,
    Link,
    PlaceTime,
    Presence,
    UnknownCaseError,
    Window,
    WrongSubjectError,
)
from lookups.asking import Asker
from schemas.times import MS_PER_MINUTE, minute_of

DEGREES: Final = 3
# Persons whose contacts are asked for at once. Their stays go from view to view as one value: with those of
# ten thousand persons ClickHouse says that the parameter is not set.
_AT_ONCE: Final = 1_000

# In a crowd most pairs are of two who were both exposed before: whoever was reached no later than a source
# began to hand on cannot be reached sooner by it. The filter is on keys of the view's aggregation, so it acts
# before that.
_EVERY_LINK: Final = """
SELECT source, person, venue, toString(date), minutes, first, last
FROM contacts_of_persons(asked = %(asked)s, linger = 0, min_overlap = %(min_overlap)s)
WHERE person != %(origin)s
    AND transform(person, %(reached)s, %(reached_at)s, 4294967295)
        > transform(source, %(sources)s, %(since)s, toUInt32(0))
ORDER BY first, source, person, venue
"""
# Of a crowd of thousands every pair is a link: who was first is told by the engine.
_FIRST_LINKS: Final = """
SELECT link.1, person, link.2, toString(link.3), link.4, link.5, link.6
FROM (
    SELECT
        person,
        argMin((source, venue, date, minutes, first, last), (first, -toInt32(minutes), source, venue)) AS link
    FROM contacts_of_persons(asked = %(asked)s, linger = 0, min_overlap = %(min_overlap)s)
    WHERE person != %(origin)s
        AND transform(person, %(reached)s, %(reached_at)s, 4294967295)
            > transform(source, %(sources)s, %(since)s, toUInt32(0))
    GROUP BY person
)
ORDER BY link.5, link.1, person
"""
_CASE: Final = """
SELECT person, window_start, window_end, min_overlap, status FROM cases_current WHERE case_id = %(case)s
"""
_COMMON: Final = """
SELECT venue, persons, together, minutes, first, last
FROM common_venues(persons = %(persons)s, since = %(since)s, until = %(until)s)
"""
_AT_PLACES: Final = """
SELECT place, venue, person, start, end
FROM people_at_places(places = %(places)s)
ORDER BY place, start, person, venue
"""


class GroupLookups(Asker):
    """As Lookups (archive.py), for questions about several persons or places."""

    def chain(
        self,
        person: str,
        window: Window,
        isolated: Mapping[str, int],
        min_overlap: int = 1,
        *,
        every_link: bool = False,
    ) -> list[Link]:
        """Who was exposed through whom: F1, F2 and F3 of a person who was infectious in a window.

        Edges go forward in time: whoever was exposed hands on from the first minute of that exposure, up to
        the isolation (`isolated`: person → ms), or to now. A person has the smallest degree at which the
        chain reaches them, and the link that exposed them first at that degree; with `every_link` all links
        of that degree: in a crowd that is every pair.
        """
        self._note("chain", window, person=person, isolated=dict(isolated), min_overlap=min_overlap)
        now = minute_of(self._clock_ms())
        until = {int(who, 16): minute_of(at) for who, at in isolated.items()}
        origin = int(person, 16)
        since, end = window.minutes
        asked = [(origin, since, min(end, until.get(origin, end)))]
        steps: list[tuple[int, tuple[Any, ...]]] = []
        degree_of: dict[int, int] = {}
        exposed: dict[int, int] = {}
        for degree in range(1, DEGREES + 1):
            asked = [each for each in asked if each[1] < each[2]]
            if not asked:
                break
            rows = [
                row
                for start in range(0, len(asked), _AT_ONCE)
                for row in self._step(
                    asked[start : start + _AT_ONCE], origin, exposed, min_overlap, every_link
                )
            ]
            if not every_link:
                rows = _first_of_each(rows)
            sooner: dict[int, int] = {}
            for row in rows:
                who, first = row[1], row[5]
                degree_of.setdefault(who, degree)
                # whoever was reached as early on a shorter way has handed on from there already
                if first < exposed.get(who, first + 1):
                    exposed[who] = sooner[who] = first
            steps += [(degree, row) for row in rows if degree_of[row[1]] == degree]
            asked = [(who, first, min(now, until.get(who, now))) for who, first in sorted(sooner.items())]
        places = self._register({row[2] for _, row in steps})
        return [
            Link(
                degree,
                f"{source:016x}",
                f"{who:016x}",
                places[venue],
                date,
                minutes,
                first * MS_PER_MINUTE,
                last * MS_PER_MINUTE,
            )
            for degree, (source, who, venue, date, minutes, first, last) in steps
        ]

    def person_of_case(self, case_id: str) -> CaseSubject:
        """What a case asks for, as it stands. Raises UnknownCaseError, WrongSubjectError."""
        self._note("person of case", None, case=case_id)
        rows = list(self._rows(_CASE, {"case": case_id}))
        if not rows:
            raise UnknownCaseError(f"the archive knows no case {case_id!r}: truyvet cases list shows all")
        person, start, end, min_overlap, status = rows[0]
        if person is None or status != "confirmed":
            why = "is withdrawn" if status != "confirmed" else "is a place-time, not a person"
            raise WrongSubjectError(f"case {case_id} {why}: name a person and a window instead")
        return CaseSubject(f"{person:016x}", Window(start, end), min_overlap)

    def _step(
        self,
        asked: Sequence[tuple[int, int, int]],
        origin: int,
        exposed: Mapping[int, int],
        min_overlap: int,
        every_link: bool,
    ) -> Iterator[tuple[Any, ...]]:
        return self._rows(
            _EVERY_LINK if every_link else _FIRST_LINKS,
            {
                "asked": asked,
                "min_overlap": min_overlap,
                "origin": origin,
                "sources": [each[0] for each in asked],
                "since": [each[1] for each in asked],
                "reached": [*exposed, origin],
                "reached_at": [*exposed.values(), 0],
            },
        )

    def common_venues(self, persons: Sequence[str], window: Window) -> list[CommonVenue]:
        """Where at least two of these persons were, most likely places to have met first."""
        self._note("common", window, persons=list(persons))
        since, until = window.minutes
        found = list(
            self._rows(
                _COMMON, {"persons": [int(who, 16) for who in persons], "since": since, "until": until}
            )
        )
        places = self._register({row[0] for row in found})
        return [
            CommonVenue(
                places[venue],
                count,
                together,
                minutes,
                first * MS_PER_MINUTE if together else None,
                last * MS_PER_MINUTE if together else None,
            )
            for venue, count, together, minutes, first, last in found
        ]

    def at_places(self, places: Sequence[PlaceTime]) -> list[AtPlaceTime]:
        """Who was at any of these place-times, venues below them included, by place-time and time.

        Raises UnknownVenueError for a code that no venue has.
        """
        self._note(
            "places", None, places=[[each.venue, each.window.start, each.window.end] for each in places]
        )
        self._known({each.venue for each in places})
        asked = [(each.venue, *each.window.minutes) for each in places]
        rows = list(self._rows(_AT_PLACES, {"places": asked}))
        register = self._register({row[1] for row in rows})
        return [
            AtPlaceTime(
                place,
                Presence(
                    register[venue],
                    f"{who:016x}",
                    start * MS_PER_MINUTE,
                    end * MS_PER_MINUTE,
                    end - start,
                ),
            )
            for place, venue, who, start, end in rows
        ]


def _first_of_each(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Of the links to a person the first, then the longest: what several answers say together."""
    found: dict[int, tuple[Any, ...]] = {}
    for row in sorted(rows, key=lambda row: (row[5], -row[4], row[0], row[2])):
        found.setdefault(row[1], row)
    return list(found.values())
