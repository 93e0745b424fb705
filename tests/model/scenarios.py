"""Small worlds. What must stand at their end is written down by hand from the words of the design."""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

import orjson

from schemas.codes import new_code
from schemas.departments import department_of
from schemas.events import Venue
from schemas.times import day_start, local_day
from tests.model.explore import Scenario

NOW_MS: Final = time.time_ns() // 1_000_000
_MINUTE: Final = 60_000
# ten in the morning of yesterday: no day, no hour edge is near what happens within two hours of it
T: Final = day_start(local_day(NOW_MS // _MINUTE) - 1) + 10 * 60
CASE, CONTACT = "00000000000000ca", "0000000000000001"
VENUE: Final = new_code(set())
BELOW: Final = new_code({VENUE})


def _venue(code: str, parent: str | None = None) -> Venue:
    return Venue(
        code=code,
        name=code,
        sector="trade",
        district="hue",
        department=department_of("trade", "hue"),
        parent=parent,
        dwell=60,
    )


def scan(person: str, at: int, kind: str = "in", venue: str = "") -> bytes:
    """A scan at T + `at` minutes; its id follows from what it says."""
    about = {"person": person, "venue": venue or VENUE, "scanned_at": (T + at) * _MINUTE, "kind": kind}
    scan_id = uuid.uuid5(uuid.NAMESPACE_OID, repr(about))
    return orjson.dumps({"scan_id": str(scan_id), **about, "received_at": NOW_MS})


def case(version: int, begin: int = -60, end: int = 600, **more: Any) -> bytes:
    """A version of the case, its window from T + `begin` to T + `end` minutes."""
    window = {"infectious_from": (T + begin) * _MINUTE, "infectious_to": (T + end) * _MINUTE}
    about = {"case_id": "k", "version": version, "status": "confirmed", "person": CASE}
    return orjson.dumps(about | window | more)


def place(version: int, begin: int, end: int, venue: str, **more: Any) -> bytes:
    """A version of a declared place-time."""
    about = {"case_id": "k", "version": version, "status": "confirmed", "venue": venue}
    window = {"from": (T + begin) * _MINUTE, "to": (T + end) * _MINUTE}
    return orjson.dumps(about | window | more)


VENUES: Final = (_venue(VENUE), _venue(BELOW, VENUE))
APART: Final = (_venue(VENUE), _venue(BELOW))
REGISTERS: Final = (VENUES, APART)

CAME, LEFT, MET = scan(CONTACT, 0), scan(CONTACT, 10, "out"), scan(CASE, 5)

SCENARIOS: Final = (
    # the contact was there [0, 10), the case [5, 65): 5 minutes together
    Scenario("a check-out shortens", (CAME, LEFT, MET), (case(1),), {CONTACT: ("exposed", 5)}),
    Scenario("a check-out ends it", (CAME, LEFT, MET), (case(1, min_overlap=6),), {CONTACT: None}),
    Scenario("withdrawn", (CAME, MET), (case(1), case(2, status="withdrawn")), {CONTACT: None}),
    Scenario("withdrawn first", (CAME, MET), (case(2, status="withdrawn"), case(1)), {CONTACT: None}),
    Scenario("narrowed away", (CAME, MET), (case(1), case(2, begin=100)), {CONTACT: None}),
    # days later: the new window alone does not know of the venue any more
    Scenario("moved far away", (CAME, MET), (case(1), case(2, 4 * 1440, 5 * 1440)), {CONTACT: None}),
    Scenario("widened", (CAME, MET), (case(1, begin=100), case(2)), {CONTACT: ("exposed", 55)}),
    Scenario(
        "a void takes the case's mark away",
        (CAME, MET, scan(CASE, 5, "void")),
        (case(1),),
        {CONTACT: None},
    ),
    Scenario(
        "a place-time holds for a stall below",
        (scan(CONTACT, 0, venue=BELOW), scan(CONTACT, 10, "out", venue=BELOW)),
        (place(1, 0, 30, VENUE), place(2, 0, 8, VENUE)),
        {CONTACT: ("exposed", 8)},
    ),
    Scenario(
        "a place-time withdrawn",
        (scan(CONTACT, 0, venue=BELOW),),
        (place(1, 0, 30, BELOW), place(2, 0, 30, BELOW, status="withdrawn")),
        {CONTACT: None},
    ),
    Scenario(
        "a stall that leaves its market",
        (scan(CONTACT, 0, venue=BELOW),),
        (place(1, 0, 30, VENUE),),
        {CONTACT: None},
        registers=(0, 1),
        moves=BELOW,
    ),
    Scenario(
        "a stall that comes to a market",
        (scan(CONTACT, 0, venue=BELOW),),
        (place(1, 0, 30, VENUE),),
        {CONTACT: ("exposed", 30)},
        registers=(1, 0),
        moves=BELOW,
    ),
)
