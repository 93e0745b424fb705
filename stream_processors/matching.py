"""What stands of one case at one venue: the matcher's decisions as pure functions.

Input is a snapshot (marks, what stands in Redis); output is what has to be written and published.
The clock and all I/O are elsewhere, so that every rule can be tested by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from schemas.events import Case
from schemas.times import MINUTES_PER_DAY, day_start, local_day, minute_of
from stream_processors.presence import (
    REACH,
    Interval,
    Mark,
    Overlap,
    cut,
    intersect,
    linger,
    overlap_on,
    presences,
)

Status: TypeAlias = Literal["exposed", "withdrawn"]
Marks: TypeAlias = Mapping[str, Sequence[Mark]]  # person → distinct marks

# What can matter to a local date: a presence reaches REACH back and ahead of a mark, a case lingers up
# to REACH more, and an overlap that crosses midnight counts whole up to the largest min_overlap.
MARGIN: Final = 36 * 60
LARGEST_MIN_OVERLAP: Final = 240
CONTACT_REACH: Final = REACH + LARGEST_MIN_OVERLAP
CASE_REACH: Final = CONTACT_REACH + REACH


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands published of one contact on one day. `first`/`last` in minutes, `version` as published."""

    version: int
    status: Status
    first: int
    last: int
    minutes: int
    pending: bool = False

    @property
    def case_version(self) -> int:
        """The case version that it was decided for."""
        return self.version >> 32

    @property
    def evidence(self) -> int:
        """The number of marks that it was decided from."""
        return self.version & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Warned:
    """What stands published of a venue's warning on one day; `presences` in minutes, without linger."""

    version: int
    status: Status
    presences: tuple[Interval, ...]
    contacts: int
    pending: bool = False


Key: TypeAlias = tuple[str, int]  # (person, day)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a decision rests on, read after the flag was set.

    `days`: the local days to decide. `marks`: of the case's person and of every contact that is looked
    at, from MARGIN before the first day to MARGIN after the last; whoever cannot have been there while the
    case was, and of whom nothing stands, may be left out. `frozen`: days whose marks have begun to expire.
    `whole`: whether `standing` holds every contact's entries of these days. `covered`: whether the case is
    about this place at all; a place-time is not once the venue is no longer below its own.
    """

    case: Case
    dwell: int
    days: Sequence[int]
    marks: Marks
    standing: Mapping[Key, Standing]
    warned: Mapping[int, Warned]
    frozen: frozenset[int]
    whole: bool
    covered: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """What has to be written as pending and published."""

    exposures: Mapping[Key, Standing]
    warnings: Mapping[int, Warned]


def window(case: Case) -> Interval:
    """The case's window in minutes, without linger."""
    return minute_of(case.start), minute_of(case.end)


def holds(case: Case, minute: int) -> bool:
    """Whether a mark at this minute can matter to the case."""
    start, end = window(case)
    return start - MARGIN <= minute < end + case.linger + MARGIN


def own_presences(case: Case, marks: Iterable[Mark], dwell: int) -> list[Interval]:
    """The case's presences at a venue within its window, without linger; none for a withdrawn case."""
    if case.status == "withdrawn":
        return []
    start, end = window(case)
    if case.person is None:
        return [(start, end)] if start < end else []
    return cut(presences(marks, dwell), start, end)


def infectious_of(case: Case, mine: Sequence[Interval]) -> list[Interval]:
    """When the place is infectious: presences with linger; of a place-time [from, to + linger)."""
    if case.person is None and case.status == "confirmed":
        start, end = window(case)
        return [(start, end + case.linger)] if start < end + case.linger else []
    return linger(mine, case.linger)


def there(
    case: Case, marks: Iterable[Mark], dwell: int, covered: bool
) -> tuple[list[Interval], list[Interval]]:
    """The case's presences at a place, and when it is infectious; nothing where the case is not about it."""
    mine = own_presences(case, marks, dwell) if covered else []
    return mine, infectious_of(case, mine) if covered else []


def days_of(intervals: Iterable[Interval]) -> set[int]:
    """The local days that the intervals meet."""
    return {day for start, end in intervals for day in range(local_day(start), local_day(end - 1) + 1)}


def days_changed(minutes: Interval, own: bool) -> range:
    """The local days that marks between these two minutes (both included) can change."""
    first, last = minutes
    return range(
        local_day(first - CONTACT_REACH), local_day(last + (CASE_REACH if own else CONTACT_REACH)) + 1
    )


def _count(marks: Iterable[Mark], day: int) -> int:
    start = day_start(day) - MARGIN
    end = day_start(day) + MINUTES_PER_DAY + MARGIN
    return sum(start <= minute < end for minute, _ in marks)


def _decide(old: Standing | None, found: Overlap | None, case: Case, evidence: int) -> Standing | None:
    """The new state of an entry, or none when what stands is already right and published."""
    if found is None and old is None:
        return None
    version = (case.version << 32) + evidence
    if found is not None:
        new = Standing(version, "exposed", found.first, found.last, found.minutes, pending=True)
    else:
        assert old is not None  # by the first line
        new = Standing(version, "withdrawn", old.first, old.last, old.minutes, pending=True)
    if old is None:
        return new
    same = (old.status, old.first, old.last, old.minutes) == (new.status, new.first, new.last, new.minutes)
    if same and not old.pending and old.case_version >= case.version:
        return None
    # Marks and case versions only grow, so this holds by itself unless Redis lost marks; then what a
    # consumer has must still be overtaken.
    if new.version <= old.version:
        new = replace(new, version=old.version if same else old.version + 1)
    return new


def _decide_frozen(old: Standing, case: Case) -> Standing | None:
    """The same for a day whose marks have begun to expire: only the entry itself and the case decide."""
    start, end = window(case)
    meets = start < end and old.first < end + case.linger and old.last > start
    status: Status = (
        "exposed" if old.status == "exposed" and case.status == "confirmed" and meets else "withdrawn"
    )
    if status == old.status and not old.pending and old.case_version >= case.version:
        return None
    version = max(old.version + (status != old.status), (case.version << 32) + old.evidence)
    return Standing(version, status, old.first, old.last, old.minutes, pending=True)


def decide(snapshot: Snapshot, now_ms: int) -> Decision:
    """What changes for the snapshot's days; `now_ms` numbers the warnings, rising at every publication."""
    case = snapshot.case
    own = case.person
    own_marks = snapshot.marks.get(own, ()) if own is not None else ()
    mine, infectious = there(case, own_marks, snapshot.dwell, snapshot.covered)
    evidence = {day: _count(own_marks, day) for day in snapshot.days}

    exposures: dict[Key, Standing] = {}
    contacts = (set(snapshot.marks) | {person for person, _ in snapshot.standing}) - {own}
    live_days = [day for day in snapshot.days if day not in snapshot.frozen]
    for person in contacts:
        marks = snapshot.marks.get(person, ())
        overlaps = intersect(infectious, presences(marks, snapshot.dwell)) if infectious else []
        for day in live_days:
            old = snapshot.standing.get((person, day))
            found = overlap_on(day, overlaps, case.min_overlap) if overlaps else None
            if found is None and old is None:
                continue
            new = _decide(old, found, case, evidence[day] + _count(marks, day))
            if new is not None:
                exposures[person, day] = new
    for (person, day), old in snapshot.standing.items():
        if day in snapshot.frozen:
            new = _decide_frozen(old, case)
            if new is not None:
                exposures[person, day] = new
    return Decision(exposures, _warnings(snapshot, mine, exposures, now_ms))


def _warnings(
    snapshot: Snapshot, mine: Sequence[Interval], exposures: Mapping[Key, Standing], now_ms: int
) -> dict[int, Warned]:
    case = snapshot.case
    warnings: dict[int, Warned] = {}
    for day in snapshot.days:
        old = snapshot.warned.get(day)
        contacts = 0 if old is None or snapshot.whole else old.contacts
        if snapshot.whole:
            after = {key: entry for key, entry in snapshot.standing.items() if key[1] == day}
            after |= {key: entry for key, entry in exposures.items() if key[1] == day}
            contacts = sum(entry.status == "exposed" for entry in after.values())
        else:
            # entries and the count are written in one step, so what stands is counted already
            for key, entry in exposures.items():
                if key[1] == day:
                    entry_before = snapshot.standing.get(key)
                    was = entry_before is not None and entry_before.status == "exposed"
                    contacts += (entry.status == "exposed") - was
        start = day_start(day)
        if day in snapshot.frozen:
            # what was seen of the case there, as far as it is still within the window
            before = old.presences if old is not None and case.status == "confirmed" else ()
            here = tuple(cut(before, *window(case)))
        else:
            here = tuple(cut(mine, start, start + MINUTES_PER_DAY))
        status: Status = "exposed" if here or contacts else "withdrawn"
        if old is None:
            if status == "exposed":
                warnings[day] = Warned(now_ms, status, here, contacts, pending=True)
            continue
        if status == "withdrawn":
            here = old.presences
        if old.pending or (old.status, old.presences, old.contacts) != (status, here, contacts):
            warnings[day] = Warned(max(old.version + 1, now_ms), status, here, contacts, pending=True)
    return warnings
