"""Questions about several persons or places at once: chains, common venues, place-times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

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
    hexes,
    rows_as,
)
from lookups.asking import withdrawn_case
from lookups.meetings import NEVER, Met, Reached, contacts, first_of_each, meeting, nobody, together
from lookups.presence import Numbers, Persons, Spans, changes
from lookups.reading import Reader, dates
from schemas.times import MS_PER_MINUTE, minute_of

DEGREES: Final = 3
_CASE: Final = """
SELECT person, window_start, window_end, min_overlap, status FROM cases_current WHERE case_id = %(case)s
"""
_BELOW: Final = "SELECT code, parent FROM venues FINAL WHERE parent IN %(parents)s"
_DEPTH: Final = 8  # of venues inside venues, as the view people_at_places has it


class GroupLookups(Reader):
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
        left = {int(who, 16): minute_of(at) for who, at in isolated.items()}
        origin = int(person, 16)
        since, end = window.minutes
        sources, began = np.array([origin], np.uint64), np.array([since])
        until = np.array([min(end, left.get(origin, end))])
        exposed: dict[int, int] = {origin: 0}  # nobody's link leads back
        degree_of: dict[int, int] = {}
        links: list[Link] = []
        for degree in range(1, DEGREES + 1):
            asked = began < until
            if not asked.any():
                break
            # whoever is reached sooner in the last step has nobody left to hand on to
            codes, met = self._step(
                Asked(sources[asked], began[asked], until[asked]),
                dict.fromkeys(exposed, 0) if degree == DEGREES else exposed,
                min_overlap,
                every_link,
            )
            sooner: dict[int, int] = {}
            for who, first in zip(met.person.tolist(), met.first.tolist(), strict=True):
                degree_of.setdefault(who, degree)
                # whoever was reached as early on a shorter way has handed on from there already
                if first < exposed.get(who, first + 1):
                    exposed[who] = sooner[who] = first
            links += self._links(degree, codes, met, degree_of)
            sources = np.array(sorted(sooner), np.uint64)
            began = np.array([sooner[who] for who in sources.tolist()], np.int64)
            until = _Minutes.of(left, now).at(sources)
        return links

    def _step(
        self, asked: Asked, exposed: Mapping[int, int], min_overlap: int, every_link: bool
    ) -> tuple[list[str], Met]:
        """The venues, and by time whom these persons met there who was not exposed before."""
        codes, archived = self._marks_of(asked.person, int(asked.since.min()), int(asked.until.max()))
        spans = self._presences(codes, archived)
        who = np.searchsorted(asked.person, spans.person)
        # each one's own limits; with them the number of the person
        start, end = asked.since[who], asked.until[who]
        places = spans.clip(start, end).lasting(min_overlap)
        there = self._presences_at(codes, places).lasting(min_overlap)
        reached = _Minutes.of(exposed, NEVER).at(there.person)
        since = asked.since[np.searchsorted(asked.person, places.person)]
        # In a crowd most pairs are of two who were both exposed before, or would meet again on later days.
        found = contacts(there, places, min_overlap, Reached(reached, since, not every_link))
        # Of a crowd of thousands every pair is a link: only the first ones are kept of each piece.
        parts = [met if every_link else first_of_each(met) for met in found]
        if not parts:
            return codes, nobody()
        met = together(parts)
        return codes, (met if every_link else first_of_each(met)).by_time()

    def _links(self, degree: int, codes: Sequence[str], met: Met, degree_of: Mapping[int, int]) -> list[Link]:
        met = met.take(np.array([degree_of[who] == degree for who in met.person.tolist()], np.bool_))
        return rows_as(
            Link,
            [degree] * len(met),
            hexes(met.source),
            hexes(met.person),
            self._places_at(codes, met.venue),
            dates(met.day),
            met.minutes.tolist(),
            (met.first * MS_PER_MINUTE).tolist(),
            (met.last * MS_PER_MINUTE).tolist(),
        )

    def person_of_case(self, case_id: str) -> CaseSubject:
        """What a case asks for, as it stands. Raises UnknownCaseError, WrongSubjectError."""
        self._note("person of case", None, case=case_id)
        rows = list(self._rows(_CASE, {"case": case_id}))
        if not rows:
            raise UnknownCaseError(f"the archive knows no case {case_id!r}: truyvet cases list shows all")
        person, start, end, min_overlap, status = rows[0]
        if status != "confirmed":
            raise withdrawn_case(case_id)
        if person is None:
            raise WrongSubjectError(
                f"case {case_id} is a place-time, not a person: ask truyvet trace contacts --case {case_id}"
                " whom it exposed, or truyvet trace chain about a person and a window"
            )
        return CaseSubject(f"{person:016x}", Window(start, end), min_overlap)

    def common_venues(self, persons: Sequence[str], window: Window) -> list[CommonVenue]:
        """Where at least two of these persons were, most likely places to have met first."""
        self._note("common", window, persons=list(persons))
        since, until = window.minutes
        who = np.unique(np.array([int(each, 16) for each in persons], np.uint64))
        codes, archived = self._marks_of(who, since, until)
        spans = self._presences(codes, archived).clip(since, until)
        register = self._places([codes[at] for at in np.unique(spans.venue).tolist()])
        alone = np.append(len(spans) > 0, changes(spans.venue, spans.person))[: len(spans)]
        present = np.bincount(spans.venue[alone], minlength=len(codes))
        met, minutes = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.int64)
        first, last = np.full(len(codes), NEVER), np.zeros(len(codes), np.int64)
        for pairs in meeting(spans, spans):
            other = spans.person[pairs.span] != spans.person[pairs.place]
            if not other.any():
                continue
            span = pairs.span[other]
            venue = spans.venue[span]
            once = np.append(True, changes(venue, spans.person[span]))
            met += np.bincount(venue[once], minlength=len(codes))
            np.add.at(minutes, venue, (pairs.end - pairs.start)[other])
            np.minimum.at(first, venue, spans.start[span])
            np.maximum.at(last, venue, spans.end[span])
        answer = [
            CommonVenue(
                register[codes[at]],
                int(present[at]),
                int(met[at]),
                int(minutes[at]) // 2,  # a pair was found from both sides
                int(first[at]) * MS_PER_MINUTE if met[at] else None,
                int(last[at]) * MS_PER_MINUTE if met[at] else None,
            )
            for at in np.flatnonzero(present > 1).tolist()
        ]
        return sorted(answer, key=lambda it: (-it.together, -it.minutes, -it.persons, it.venue.code))

    def at_places(self, places: Sequence[PlaceTime]) -> list[AtPlaceTime]:
        """Who was at any of these place-times, venues below them included, by place-time and time.

        Raises UnknownVenueError for a code that no venue has.
        """
        self._note(
            "places", None, places=[[each.venue, each.window.start, each.window.end] for each in places]
        )
        self._known({each.venue for each in places} - (self._known_places or {}).keys())
        below = self._below({each.venue for each in places})
        codes = sorted({code for inside in below.values() for code in inside})
        number = {code: at for at, code in enumerate(codes)}
        table = [
            (number[code], tag, *each.window.minutes)
            for tag, each in enumerate(places)
            for code in sorted(below[each.venue])
        ]
        venue, tag, start, end = (np.array(column, np.int64) for column in zip(*table, strict=True))
        asked = Spans(venue, tag.astype(np.uint64), start, end)
        there = self._presences_at(codes, asked)
        parts = [
            (
                asked.person[pairs.place],
                there.venue[pairs.span],
                there.person[pairs.span],
                pairs.start,
                pairs.end,
            )
            for pairs in meeting(there, asked)
        ]
        if not parts:
            return []
        place, at, who, since, until = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((at, who, since, place))
        met = rows_as(
            Presence,
            self._places_at(codes, at[order]),
            hexes(who[order]),
            (since[order] * MS_PER_MINUTE).tolist(),
            (until[order] * MS_PER_MINUTE).tolist(),
            (until - since)[order].tolist(),
        )
        return rows_as(AtPlaceTime, place[order].tolist(), met)

    def _below(self, codes: set[str]) -> dict[str, set[str]]:
        """Of each venue itself and all that are inside of it."""
        inside: dict[str, set[str]] = {code: {code} for code in codes}
        above = {code: {code} for code in codes}  # of a venue: those of `codes` that it is inside of
        for _ in range(_DEPTH):
            found: dict[str, set[str]] = {}
            for code, parent in self._rows(_BELOW, {"parents": tuple(above)}):
                for top in above[parent]:
                    if code not in inside[top]:
                        inside[top].add(code)
                        found.setdefault(code, set()).add(top)
            if not found:
                break
            above = found
        return inside


@dataclass(frozen=True, slots=True)
class Asked:
    """Persons in order, each within a window of their own, in minutes."""

    person: Persons
    since: Numbers
    until: Numbers


@dataclass(frozen=True, slots=True)
class _Minutes:
    """A minute for each of some persons, another one for everybody else."""

    person: Persons
    minute: Numbers
    other: int

    @classmethod
    def of(cls, known: Mapping[int, int], other: int) -> _Minutes:
        person = np.array(sorted(known), np.uint64)
        return cls(person, np.array([known[who] for who in person.tolist()], np.int64), other)

    def at(self, persons: Persons) -> Numbers:
        if not len(self.person):
            return np.full(len(persons), self.other, np.int64)
        place = np.minimum(np.searchsorted(self.person, persons), len(self.person) - 1)
        return np.where(self.person[place] == persons, self.minute[place], self.other)
