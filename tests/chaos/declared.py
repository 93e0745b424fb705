"""What the authority declares in a scenario: versions of cases, and which records must be refused."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from schemas.events import Venue

_DAY: Final = 1440
_STORIES: Final = (
    "narrowed",
    "withdrawn",
    "late version",
    "place",
    "confirmed again",
    "place withdrawn",
    "widened",
    "conflict",
    "subject changed",
    "place narrowed",
    "plain",
    "repeated",
)

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """A record for the topic `cases`. `at`: share of the run, 0 to 1."""

    at: float
    key: str
    value: bytes | None


@dataclass(slots=True)
class Authority:
    """Records in the order in which they are written; what stands of each case; what must be refused."""

    records: list[CaseRecord] = field(default_factory=list)
    standing: dict[str, Body] = field(default_factory=dict)
    rejected: dict[tuple[str, bytes | None], str] = field(default_factory=dict)  # (key, value) → reason


def declare(
    rng: random.Random,
    venues: Sequence[Venue],
    visits: Mapping[str, Sequence[tuple[int, str]]],
    count: int,
    today: int,
) -> Authority:
    """So many cases, each with a story; `visits`: (minute, venue) of each person's marks."""
    authority = Authority()
    # people with many visits: their cases have contacts
    busy = sorted(visits, key=lambda person: (-len(visits[person]), person))[: 4 * count]
    persons = rng.sample(busy, min(count, len(busy)))
    parents = sorted({venue.parent for venue in venues if venue.parent})
    for number in range(count):
        story = _STORIES[number % len(_STORIES)]
        subject: Body = (
            {"venue": rng.choice(parents)}
            if story.startswith("place")
            else {"person": persons[number % len(persons)]}
        )
        _tell(rng, authority, f"c{number}", story, subject, today)
    _refuse_others(rng, authority)
    authority.records.sort(key=lambda record: record.at)
    return authority


def _window(rng: random.Random, today: int, days: int) -> tuple[int, int]:
    """A window of some days, in ms, not on whole minutes."""
    first = today - rng.randint(days, 24) * _DAY
    return (
        (first + rng.randrange(600)) * 60_000 + rng.randrange(60_000),
        (first + days * _DAY - rng.randrange(300)) * 60_000 + rng.randrange(60_000),
    )


def _body(case_id: str, version: int, subject: Body, window: tuple[int, int], **more: Any) -> Body:
    names = ("from", "to") if "venue" in subject else ("infectious_from", "infectious_to")
    given = dict(zip(names, window, strict=True))
    return {"case_id": case_id, "version": version, "status": "confirmed", **subject, **given, **more}


def _tell(
    rng: random.Random, authority: Authority, case_id: str, story: str, subject: Body, today: int
) -> None:
    wide = _window(rng, today, 1 if "venue" in subject else rng.randint(7, 14))
    third = (wide[1] - wide[0]) // 3
    narrow = (wide[0] + third, wide[1] - third)
    rules = {"min_overlap": rng.choice((1, 1, 1, 5, 15, 30)), "linger": rng.choice((0, 0, 0, 30, 120, 720))}
    moments = sorted(rng.uniform(0.05, 0.93) for _ in range(3))

    def say(moment: int, body: Body) -> bytes:
        value = orjson.dumps(body)
        authority.records.append(CaseRecord(moments[moment], case_id, value))
        return value

    first = _body(case_id, 1, subject, wide, **rules)
    second: Body | None = None
    if story in {"narrowed", "place narrowed"}:
        second = _body(case_id, 2, subject, narrow, **rules | {"min_overlap": 5})
    elif story in {"withdrawn", "place withdrawn"}:
        second = first | {"version": 2, "status": "withdrawn"}
    elif story == "widened":
        first, second = _body(case_id, 1, subject, narrow, **rules), first | {"version": 40}
    elif story == "confirmed again":
        say(1, first | {"version": 7, "status": "withdrawn"})
        second = _body(case_id, 1_000_000, subject, narrow, **rules)
    elif story == "late version":
        # the highest comes first; those that come after it count for nothing
        say(1, first | {"version": 2, "linger": 0})
        say(2, first)
        first = _body(case_id, 3, subject, narrow, **rules)
    say(0, first)
    last = first
    if second is not None:
        say(2, second)
        last = second
    elif story == "repeated":
        say(1, first)
        say(2, first)
    elif story == "conflict":
        other = say(1, first | {"min_overlap": 99})
        authority.rejected[case_id, other] = "conflict"
        last = first | {"version": 2, "status": "withdrawn"}
        say(2, last)
    elif story == "subject changed":
        other = say(1, first | {"version": 2, "person": "0123456789abcdef"})
        authority.rejected[case_id, other] = "subject_changed"
    authority.standing[case_id] = last


def _refuse_others(rng: random.Random, authority: Authority) -> None:
    """Records that are no cases at all."""
    body = next(iter(authority.standing.values()))
    for key, value, reason in (
        ("torn", b'{"case_id":"torn","version":1', "malformed"),
        ("none", None, "tombstone"),
        ("bad", orjson.dumps(body | {"case_id": "bad", "version": 0}), "invalid"),
        ("bad", orjson.dumps(body | {"case_id": "bad", "status": "maybe"}), "invalid"),
        ("other key", orjson.dumps(body | {"case_id": "elsewhere"}), "invalid"),
    ):
        authority.records.append(CaseRecord(rng.uniform(0.05, 0.93), key, value))
        authority.rejected[key, value] = reason
