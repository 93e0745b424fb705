"""What must come out, counted by brute force from the simulator's truth.

This file shares no code with the pipeline: it reads files and follows the words of docs/DESIGN.md, "Meaning
of the data", with sets of minutes. Slow and obvious is right here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

IN, OUT, VOID = 0, 1, 2


@dataclass(frozen=True)
class CaseTruth:
    """A case as it was declared: of a person (16 hex digits), or of a venue (its code). Window in ms."""

    case_id: str
    start: int
    end: int
    person: str | None = None
    venue: str | None = None
    min_overlap: int = 1
    linger: int = 0


@dataclass(frozen=True)
class Exposed:
    """What the topic must say of one contact at one venue on one date; first and last in ms."""

    first: int
    last: int
    minutes: int


ExposureKey = tuple[str, str, str, str]  # case, person, venue, date
MarkRow = tuple[str, str, int, int]  # person, venue, minute, kind


class World:
    """The marks and venues of a simulation, and marks that were added by hand."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "marks.npz") as marks:
            # by venue, so that what happened at one lies together
            order = np.argsort(marks["venue"], kind="stable")
            self._person = marks["person"][order]
            self._venue = marks["venue"][order].astype(np.int64)
            self._minute = marks["minute"][order].astype(np.int64)
            self._kind = marks["kind"][order]
        self._venues = json.loads((folder / "venues.json").read_text(encoding="utf-8"))
        self._from = np.searchsorted(self._venue, np.arange(len(self._venues) + 1))
        self._number = {venue["code"]: number for number, venue in enumerate(self._venues)}
        self.rejected: dict[str, int] = json.loads((folder / "rejected.json").read_text(encoding="utf-8"))
        self._more: set[MarkRow] = set()

    def add(self, marks: Iterable[MarkRow]) -> None:
        """Marks that were made by hand after the simulation."""
        self._more.update(marks)

    def marks(self) -> set[tuple[int, int, int, int]]:
        """Every distinct mark: (person as a number, number of the venue, minute, kind)."""
        rows = zip(
            self._person.tolist(),
            self._venue.tolist(),
            self._minute.tolist(),
            self._kind.tolist(),
            strict=True,
        )
        extra = {
            (int(person, 16), self._number[venue], minute, kind) for person, venue, minute, kind in self._more
        }
        return set(rows) | extra

    @property
    def venues(self) -> int:
        """How many venues there are; their numbers count from 0."""
        return len(self._venues)

    def company(self, start: int, end: int) -> list[tuple[str, int, int]]:
        """Who has marks between two minutes: (person, how many, how many others have some in the same hours
        at the same venues, once for each hour), most marks first.

        A guess at whom somebody meets, without the rules of presence.
        """
        inside = np.flatnonzero((self._minute >= start) & (self._minute < end))
        persons, who = np.unique(self._person[inside], return_inverse=True)
        _, where = np.unique(self._venue[inside] << 32 | self._minute[inside] // 60, return_inverse=True)
        pairs = np.unique(where * max(1, len(persons)) + who)
        there, person = pairs // max(1, len(persons)), pairs % max(1, len(persons))
        crowd = np.bincount(there)
        others = np.bincount(person, weights=crowd[there] - 1).astype(np.int64)
        marks = np.bincount(who)
        order = np.argsort(-marks, kind="stable")
        return [(f"{int(persons[at]):016x}", int(marks[at]), int(others[at])) for at in order]

    def code(self, number: int) -> str:
        """The code of a venue's number."""
        return str(self._venues[number]["code"])

    def at(self, venue: str, start: int, end: int) -> dict[str, list[tuple[int, int]]]:
        """Marks at a venue between two minutes, by person."""
        number = self._number[venue]
        first, last = self._from[number], self._from[number + 1]
        minutes = self._minute[first:last]
        here = first + np.flatnonzero((minutes >= start) & (minutes < end))
        found: dict[str, list[tuple[int, int]]] = {}
        for row in here.tolist():
            mark = (int(self._minute[row]), int(self._kind[row]))
            found.setdefault(f"{int(self._person[row]):016x}", []).append(mark)
        for person, place, minute, kind in self._more:
            if place == venue and start <= minute < end:
                found.setdefault(person, []).append((minute, kind))
        return found

    def venues_of(self, person: str) -> set[str]:
        """Where a person has marks."""
        numbers = np.unique(self._venue[self._person == np.uint64(int(person, 16))])
        return {self.code(int(number)) for number in numbers} | {
            place for who, place, _, _ in self._more if who == person
        }

    def below(self, venue: str) -> set[str]:
        """The venue and everything under it."""
        found = {venue}
        while True:
            more = {place["code"] for place in self._venues if place["parent"] in found} - found
            if not more:
                return found
            found |= more

    def dwell(self, venue: str) -> int:
        """Minutes that a visit without a check-out lasts."""
        return int(self._venues[self._number[venue]]["dwell"])


def present(marks: Iterable[tuple[int, int]], dwell: int) -> set[int]:
    """The minutes in which somebody with these marks at one venue was there."""
    all_marks = set(marks)
    voided = {minute for minute, kind in all_marks if kind == VOID}
    ins = {minute for minute, kind in all_marks if kind == IN} - voided
    outs = {minute for minute, kind in all_marks if kind == OUT} - voided - ins
    times = sorted(ins | outs)
    there: set[int] = set()
    for place, minute in enumerate(times):
        following = times[place + 1] if place + 1 < len(times) else None
        before = times[place - 1] if place else None
        if minute in ins:
            until = minute + dwell
            if following is not None:
                gap = following - minute
                if (following in ins and gap <= dwell) or (following in outs and gap <= 720):
                    until = following
            there.update(range(minute, until))
        elif before is None or minute - before > 720:
            there.update(range(minute - dwell, minute))
    return there


def _runs(minutes: Iterable[int]) -> list[tuple[int, int]]:
    """[start, end) of consecutive minutes."""
    runs: list[tuple[int, int]] = []
    for minute in sorted(minutes):
        if runs and runs[-1][1] == minute:
            runs[-1] = (runs[-1][0], minute + 1)
        else:
            runs.append((minute, minute + 1))
    return runs


def local_date(minute: int) -> str:
    """The date in Vietnam (UTC+7) of a minute."""
    return (date(1970, 1, 1) + timedelta(days=(minute + 7 * 60) // 1440)).isoformat()


def exposures(world: World, case: CaseTruth) -> dict[ExposureKey, Exposed]:
    """Everybody whom a confirmed case exposed, and how."""
    start, end = case.start // 60_000, case.end // 60_000
    found: dict[ExposureKey, Exposed] = {}
    venues = world.below(case.venue) if case.venue is not None else world.venues_of(case.person or "")
    for venue in venues:
        by_person = world.at(venue, start - 3 * 1440, end + case.linger + 3 * 1440)
        if case.venue is not None:
            infectious = set(range(start, end + case.linger))
        else:
            mine = present(by_person.get(case.person or "", []), world.dwell(venue))
            infectious = set()
            for first, last in _runs(minute for minute in mine if start <= minute < end):
                infectious.update(range(first, last + case.linger))
        if not infectious:
            continue
        for person, marks in by_person.items():
            if person == case.person:
                continue
            together = infectious & present(marks, world.dwell(venue))
            for day in {local_date(minute) for minute in together}:
                inside = [minute for minute in together if local_date(minute) == day]
                whole = [
                    last - first
                    for first, last in _runs(together)
                    if any(first <= minute < last for minute in inside)
                ]
                if len(inside) >= case.min_overlap or max(whole) >= case.min_overlap:
                    found[case.case_id, person, venue, day] = Exposed(
                        min(inside) * 60_000, (max(inside) + 1) * 60_000, len(inside)
                    )
    return found
