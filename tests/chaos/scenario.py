"""What is sent, and what has to come of it: one seed, one scenario.

Nothing here is asked of the pipeline: each scan and each case record is made together with its fate. Times
count from `today` (a local midnight, in minutes of the epoch), so that a seed means the same on every day.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, NamedTuple

from schemas.codes import ALPHABET, new_code
from schemas.departments import Sector, department_of
from schemas.events import Venue
from tests.chaos.declared import Authority, declare

DAY: Final = 1440
# Scans speak of these days before today: late by up to four weeks, and well within the retention of 30 days.
DAYS: Final = 27
KINDS: Final = ("in", "out", "void")
IN, OUT, VOID = 0, 1, 2

_PLACES: Final[tuple[tuple[Sector, int], ...]] = (
    ("trade", 30),
    ("trade", 60),
    ("health", 120),
    ("lodging", 720),
    ("transport", 20),
    ("education", 240),
    ("trade", 45),
)
_SOURCES: Final = ("person", "venue", "manual", "event")


class Mark(NamedTuple):
    """(person, venue, minute of the epoch, kind as a number)."""

    person: str
    venue: str
    minute: int
    kind: int


@dataclass(frozen=True, slots=True)
class Post:
    """One HTTP post of a device. `at`: share of the run, 0 to 1. `accepted`: the gateway's answer by scan,
    in their order. `twice`: the device posts it again although it was answered."""

    at: float
    body: bytes
    scan_ids: tuple[str, ...]
    accepted: tuple[bool, ...]
    twice: bool


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record that another gateway writes to the topic by itself."""

    at: float
    value: bytes


@dataclass(slots=True)
class Scenario:
    """All that is sent, and the fate of each part of it."""

    seed: int
    today: int
    venues: list[Venue]
    posts: list[Post] = field(default_factory=list)
    raw: list[RawRecord] = field(default_factory=list)
    authority: Authority = field(default_factory=Authority)
    fates: dict[str, Mark | str] = field(default_factory=dict)  # scan_id → its mark, or why it is rejected
    refused: set[str] = field(default_factory=set)  # scan_ids that the gateway must refuse
    raw_marks: set[Mark] = field(default_factory=set)  # of the other gateway's records
    raw_rejected: dict[bytes, str] = field(default_factory=dict)  # original bytes → reason
    scans: int = 0  # sent by devices, repetitions counted

    def marks(self) -> set[Mark]:
        """Every mark that must be there in the end."""
        return {fate for fate in self.fates.values() if isinstance(fate, Mark)} | self.raw_marks


class _Sent(NamedTuple):
    position: float
    scan_id: str
    text: str
    accepted: bool


def build(seed: int, scans: int, cases: int, today: int) -> Scenario:
    """A scenario of about so many scans (at least) and cases; `today` in minutes of the epoch."""
    rng = random.Random(seed)
    venues = _venues(rng, max(15, min(150, scans // 2500)), today)
    scenario = Scenario(seed, today, venues)
    stream = _Stream(rng, scenario)
    stream.fill(scans)
    stream.pack()
    stream.write_raw(max(24, scans // 2500))
    scenario.authority = declare(rng, scenario.venues, _visits_of(scenario), cases, today)
    return scenario


def _visits_of(scenario: Scenario) -> dict[str, list[tuple[int, str]]]:
    """(minute, venue) of each person's marks, in a repeatable order."""
    found: dict[str, list[tuple[int, str]]] = {}
    for mark in sorted(scenario.marks()):
        found.setdefault(mark.person, []).append((mark.minute, mark.venue))
    return found


def _venues(rng: random.Random, count: int, today: int) -> list[Venue]:
    taken: set[str] = set()
    found: list[Venue] = []

    def place(sector: Sector, dwell: int, parent: str | None, closed_at: int | None = None) -> str:
        code = new_code(taken, rng.choice((4, 6, 8, 12)), rng.choice)
        taken.add(code)
        name, lead = f"Nơi {len(found)}", department_of(sector, "hue")
        found.append(
            Venue(
                code=code,
                name=name,
                sector=sector,
                district="hue",
                department=lead,
                dwell=dwell,
                parent=parent,
                closed_at=closed_at,
            )
        )
        return code

    while len(found) < count:
        sector, dwell = _PLACES[len(found) % len(_PLACES)]
        top = place(sector, dwell, None)
        if len(found) % 3 == 1:  # a market with stalls, one of them with a counter
            for _ in range(rng.randint(2, 4)):
                stall = place("trade", rng.choice((15, 30)), top)
            place("trade", 15, stall)
    for _ in range(3):
        place("trade", 60, None, closed_at=(today - 9 * DAY) * 60_000)
    return found


class _Stream:
    """Scans in the order in which they are sent."""

    def __init__(self, rng: random.Random, scenario: Scenario) -> None:
        self.rng = rng
        self.scenario = scenario
        self.sent: list[_Sent] = []
        self.start = scenario.today - DAYS * DAY
        self.open = [venue for venue in scenario.venues if venue.closed_at is None]
        # some places are where everybody meets
        self.weights = list(accumulate(1 / (rank + 3) for rank in range(len(self.open))))
        self.closed = [venue for venue in scenario.venues if venue.closed_at is not None]
        self.taken = {venue.code for venue in scenario.venues}

    def fill(self, scans: int) -> None:
        rng = self.rng
        persons = [f"{rng.getrandbits(64):016x}" for _ in range(max(60, scans // 45))]
        habits = {person: rng.choices(self.open, cum_weights=self.weights, k=5) for person in persons}
        while len(self.sent) < scans:
            person = rng.choice(persons)
            if rng.random() < 0.7:
                venue = rng.choice(habits[person])
            else:
                (venue,) = rng.choices(self.open, cum_weights=self.weights)
            self._visit(person, venue)
            if rng.random() < 0.03:
                self._bad(person)

    def _visit(self, person: str, venue: Venue) -> None:
        rng = self.rng
        at = self.start + rng.randrange(DAYS) * DAY + int(rng.triangular(5 * 60, 24 * 60 - 1, 18 * 60))
        stay = min(720, rng.randint(2, int(venue.dwell * 1.7)))
        at = min(at, self.scenario.today - stay - 1)
        shape = rng.random()
        if shape < 0.05:
            self._mark(person, venue.code, at + stay, OUT)
            return
        self._mark(person, venue.code, at, IN)
        if shape < 0.55:
            self._mark(person, venue.code, at + stay, OUT)
        if rng.random() < 0.08:
            self._mark(person, venue.code, at + rng.randint(0, stay), IN)
        if rng.random() < 0.03:
            self._mark(person, venue.code, at + rng.choice((0, stay)), VOID)

    def _mark(self, person: str, venue: str, minute: int, kind: int) -> None:
        mark = Mark(person, venue, minute, kind)
        position = self._position(minute)
        self._send(position, mark, mark)
        if self.rng.random() < 0.06:  # another scan of the same mark
            self._send(self._later(position), mark, mark)
        if self.rng.random() < 0.05:  # the same scan once more
            self.sent.append(self.sent[-1]._replace(position=self._later(position)))

    def _position(self, minute: int) -> float:
        """Where in the stream a scan comes: when it was made, or later, by up to all of the days."""
        on_time = (minute - self.start) / (DAYS * DAY)
        return on_time if self.rng.random() < 0.65 else self._later(on_time)

    def _later(self, position: float) -> float:
        return position + (1 - position) * self.rng.random()

    def _send(self, position: float, mark: Mark, fate: Mark | str, accepted: bool = True) -> None:
        scan_id, text = self._encode(mark)
        if accepted:
            self.scenario.fates[scan_id] = fate
        else:
            self.scenario.refused.add(scan_id)
        self.sent.append(_Sent(position, scan_id, text, accepted))

    def _encode(self, mark: Mark, more: str | None = None) -> tuple[str, str]:
        """A scan's id and JSON; `more`: fields that are given, else some at random."""
        rng = self.rng
        digits = f"{rng.getrandbits(128):032x}"
        scan_id = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        at = mark.minute * 60_000 + rng.randrange(60_000)
        if more is None:
            more = f',"kind":"{KINDS[mark.kind]}"' if mark.kind or rng.random() < 0.5 else ""
            if rng.random() < 0.3:
                more += f',"source":"{rng.choice(_SOURCES)}","party":{rng.randint(1, 50)}'
        return scan_id, (
            f'{{"scan_id":"{scan_id}","person":"{mark.person}","venue":"{mark.venue}","scanned_at":{at}{more}}}'
        )

    def _bad(self, person: str) -> None:
        """A scan of a venue that is not open, which ingest rejects; or one that the gateway refuses."""
        rng, today = self.rng, self.scenario.today
        venue, minute = rng.choice(self.open).code, self.start + rng.randrange(DAYS * DAY)
        what = rng.randrange(6)
        reason = "unknown_venue" if what < 2 else ""
        if what == 0:
            venue = new_code(self.taken, 8, rng.choice)
        elif what == 1:
            venue, minute = rng.choice(self.closed).code, today - rng.randint(1, 9 * DAY)
        elif what == 2:
            minute = today - rng.randint(32, 300) * DAY
        elif what == 3:
            minute = today + rng.randint(3, 300) * DAY
        elif what == 4:
            venue = mistyped(venue)
        else:
            person = person[:15]
        self._send(rng.random(), Mark(person, venue, minute, IN), reason, accepted=bool(reason))

    def pack(self) -> None:
        """Posts of one scan and of up to 400."""
        rng, self.sent = self.rng, sorted(self.sent)
        total, at = len(self.sent), 0
        while at < total:
            size = 1 if rng.random() < 0.25 else min(400, 2 + int(rng.expovariate(1 / 90)))
            part = self.sent[at : at + size]
            text = ",".join(each.text for each in part)
            self.scenario.posts.append(
                Post(
                    at / total,
                    (text if len(part) == 1 else f"[{text}]").encode(),
                    tuple(each.scan_id for each in part),
                    tuple(each.accepted for each in part),
                    rng.random() < 0.03,
                )
            )
            at += size
        self.scenario.scans = total

    def write_raw(self, count: int) -> None:
        """What another gateway writes: arrays and single scans without received_at, some of them broken."""
        for number in range(count):
            self._raw(number)
        self.scenario.raw.sort(key=lambda record: record.at)

    def _raw(self, number: int) -> None:
        rng, scenario = self.rng, self.scenario

        def good() -> str:
            person = f"{rng.getrandbits(64):016x}"
            minute = self.start + rng.randrange(DAYS * DAY)
            mark = Mark(person, rng.choice(self.open).code, minute, IN)
            scenario.raw_marks.add(mark)
            return self._encode(mark)[1]

        def spoilt(more: str = "", **changes: Any) -> str:
            fields: dict[str, Any] = {"person": "0" * 16, "venue": self.open[0].code, "minute": self.start}
            fields |= changes
            mark = Mark(fields["person"], fields["venue"], fields["minute"], IN)
            return self._encode(mark, more)[1]

        token = f"{rng.getrandbits(64):x}"
        what = number % 13
        bad, reason = (
            (f'{{"scan_id":"{token}","person":', "malformed"),  # cut off
            (f'[{{"scan_id":"{token}"}},', "malformed"),
            (f'"{token}"', "malformed"),
            ("[" + " " * (number + 1) + "]", "malformed"),  # an array of none
            (spoilt(',"note":NaN'), "malformed"),
            (spoilt(person="không phải"), "invalid"),
            (spoilt(',"party":51'), "invalid"),
            (spoilt(venue=mistyped(self.open[0].code)), "invalid"),
            (f'{{"scan_id":"{token}"}}', "invalid"),
            (f'"{token}"', "malformed"),  # from here on within an array of good ones
            (spoilt(',"kind":"đi"'), "invalid"),
            (spoilt(minute=scenario.today - rng.randint(32, 300) * DAY), "too_old"),
            (spoilt(minute=scenario.today + rng.randint(3, 300) * DAY), "in_future"),
        )[what]
        scenario.raw_rejected[bad.encode()] = reason
        value = f"[{good()}, {bad} ,{good()}]" if what >= 9 else bad
        scenario.raw.append(RawRecord(rng.random(), value.encode()))
        scenario.raw.append(RawRecord(rng.random(), good().encode()))


def mistyped(code: str) -> str:
    """The code with another check character."""
    return code[:-1] + ALPHABET[(ALPHABET.index(code[-1]) + 1) % len(ALPHABET)]


def parts(items: Sequence[Any], count: int) -> list[list[Any]]:
    """The items dealt out to `count` hands."""
    return [list(items[start::count]) for start in range(count)]
