"""What must be there in the end, counted by the demo's oracle from a scenario: no code of the pipeline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deploy.demo.oracle import (
    CaseTruth,
    Exposed,
    ExposureKey,
    World,
    exposures,
    local_date,
    present,
)
from tests.chaos.scenario import Mark, Scenario

_MINUTE = 60_000
_MARGIN = 36 * 60

WarningKey = tuple[str, str, str]  # case, venue, date
Presences = tuple[tuple[int, int], ...]  # ms


@dataclass(frozen=True)
class Expected:
    """Everything that a finished run is compared with."""

    marks: set[Mark]
    rejected: dict[bytes, str]  # scan_id, or the original bytes of another gateway's record → reason
    exposures: dict[ExposureKey, Exposed]
    evidence: dict[tuple[str, str], list[int]]  # person, venue → minutes of marks
    warnings: dict[WarningKey, tuple[Presences, int]]  # presences, number of contacts
    cases: dict[str, tuple[int, str]]  # version and status that stand
    subjects: dict[str, str | None]  # case → its person, none: a place-time
    cases_rejected: dict[tuple[str, bytes | None], str]
    venues: dict[str, tuple[str, str]]  # sector, department
    fates: Mapping[str, Mark | str]  # scan_id of a device → its mark, or why it is rejected


def expect(scenario: Scenario, folder: Path) -> Expected:
    """Count it; `folder` takes the oracle's files."""
    marks = scenario.marks()
    world = _world(scenario, marks, folder)
    stand = scenario.authority.standing
    exposed: dict[ExposureKey, Exposed] = {}
    warnings: dict[WarningKey, tuple[Presences, int]] = {}
    for body in stand.values():
        if body["status"] == "confirmed":
            case = truth_of(body)
            found = exposures(world, case)
            exposed |= found
            warnings |= warned(world, case, found)
    rejected = {scan.encode(): fate for scan, fate in scenario.fates.items() if isinstance(fate, str)}
    minutes: dict[tuple[str, str], list[int]] = {}
    for mark in marks:
        minutes.setdefault((mark.person, mark.venue), []).append(mark.minute)
    return Expected(
        marks=marks,
        rejected=rejected | scenario.raw_rejected,
        exposures=exposed,
        evidence=minutes,
        warnings=warnings,
        cases={case_id: (body["version"], body["status"]) for case_id, body in stand.items()},
        subjects={case_id: body.get("person") for case_id, body in stand.items()},
        cases_rejected=scenario.authority.rejected,
        venues={venue.code: (venue.sector, venue.department) for venue in scenario.venues},
        fates=scenario.fates,
    )


def truth_of(body: Mapping[str, Any]) -> CaseTruth:
    """A case record as the oracle wants it."""
    start, end = (
        (body["infectious_from"], body["infectious_to"])
        if "person" in body
        else (
            body["from"],
            body["to"],
        )
    )
    return CaseTruth(
        body["case_id"],
        start,
        end,
        body.get("person"),
        body.get("venue"),
        body.get("min_overlap", 1),
        body.get("linger", 0),
    )


def _world(scenario: Scenario, marks: set[Mark], folder: Path) -> World:
    folder.mkdir(parents=True, exist_ok=True)
    number = {venue.code: place for place, venue in enumerate(scenario.venues)}
    rows = sorted(marks)
    np.savez(
        folder / "marks.npz",
        person=np.array([int(mark.person, 16) for mark in rows], dtype=np.uint64),
        venue=np.array([number[mark.venue] for mark in rows], dtype=np.uint32),
        minute=np.array([mark.minute for mark in rows], dtype=np.uint32),
        kind=np.array([mark.kind for mark in rows], dtype=np.uint8),
    )
    places = [{"code": venue.code, "parent": venue.parent, "dwell": venue.dwell} for venue in scenario.venues]
    (folder / "venues.json").write_text(json.dumps(places))
    (folder / "rejected.json").write_text("{}")
    return World(folder)


def warned(
    world: World, case: CaseTruth, found: Iterable[ExposureKey]
) -> dict[WarningKey, tuple[Presences, int]]:
    """What departments must see of a confirmed case: its presences without linger, and the contacts."""
    contacts: dict[WarningKey, int] = {}
    for _, _, venue, date in found:
        key = (case.case_id, venue, date)
        contacts[key] = contacts.get(key, 0) + 1
    start, end = case.start // _MINUTE, case.end // _MINUTE
    here: dict[WarningKey, list[int]] = {}
    venues = world.below(case.venue) if case.venue is not None else world.venues_of(case.person or "")
    for venue in venues:
        if case.venue is not None:
            mine = set(range(start, end))
        else:
            marks = world.at(venue, start - 3 * 1440, end + 3 * 1440).get(case.person or "", [])
            mine = {minute for minute in present(marks, world.dwell(venue)) if start <= minute < end}
        for minute in mine:
            here.setdefault((case.case_id, venue, local_date(minute)), []).append(minute)
    return {key: (_runs(here.get(key, [])), contacts.get(key, 0)) for key in {*here, *contacts}}


def _runs(minutes: Iterable[int]) -> Presences:
    """[start, end) in ms of minutes that follow each other."""
    runs: list[list[int]] = []
    for minute in sorted(minutes):
        if runs and runs[-1][1] == minute * _MINUTE:
            runs[-1][1] += _MINUTE
        else:
            runs.append([minute * _MINUTE, (minute + 1) * _MINUTE])
    return tuple((start, end) for start, end in runs)


def most_evidence(expected: Expected, key: ExposureKey) -> int:
    """How many marks of the case's person and the contact there are within 36 hours of the date."""
    case_id, person, venue, date = key
    start = int(np.datetime64(date, "m").astype(np.int64)) - 7 * 60
    persons = {person, expected.subjects.get(case_id)} - {None}
    return sum(
        start - _MARGIN <= minute < start + 1440 + _MARGIN
        for who in persons
        for minute in expected.evidence.get((str(who), venue), [])
    )


def met(expected: Expected, key: ExposureKey) -> bool:
    """Whether the contact, and the case's person if it has one, were ever at the venue around the date.

    Nobody else can have been exposed there, not even before a check-out or a later version.
    """
    case_id, person, venue, date = key
    subject = expected.subjects.get(case_id)
    alone = replace(expected, subjects={})
    return all(most_evidence(alone, (case_id, who, venue, date)) > 0 for who in (person, subject or person))


def identity(key: ExposureKey) -> str:
    """The exposure_id that the design words: hex SHA-256 of "case|person|venue|date", first 32 digits."""
    return hashlib.sha256("|".join(key).encode()).hexdigest()[:32]
