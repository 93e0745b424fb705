"""Columns that the engine keeps sparse: nearly all of their values are zero, as of voids in real life."""

from __future__ import annotations

import random

import pytest

from lookups.answers import Window
from schemas.times import MS_PER_MINUTE, day_name
from tests.lookups import oracle
from tests.lookups.conftest import World, clock_ms
from tests.lookups.oracle import AMark

pytestmark = pytest.mark.engines

DWELLS = {"CDEFHJ": 30, "CDEFHK": 60, "CDEFHM": 720}
PERSONS = [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(1, 201)]
DAYS = 3
BASE = (clock_ms() // MS_PER_MINUTE - 9 * 1440) // 1440 * 1440
WINDOW = Window(BASE * MS_PER_MINUTE, (BASE + DAYS * 1440) * MS_PER_MINUTE)
MINUTES = range(BASE, BASE + DAYS * 1440)


def a_crowd(chance: random.Random) -> list[AMark]:
    """Visits of a crowd; one in a hundred is cancelled, one in fifty left properly."""
    marks: list[AMark] = []
    for person in PERSONS:
        for _ in range(8):
            mark = (person, chance.choice(sorted(DWELLS)), BASE + chance.randrange(DAYS * 1440))
            marks.append((*mark, "in"))
            if chance.random() < 0.01:
                marks.append((*mark, "void"))
            elif chance.random() < 0.02:
                marks.append((*mark[:2], mark[2] + chance.randrange(1, 300), "out"))
    return marks


def test_a_void_cancels_its_own_mark_and_no_other(world: World) -> None:
    marks = a_crowd(random.Random(3))
    world.venues(DWELLS)
    # as of a flush that was late for some: check-outs by themselves, without a check-in beside them
    world.marks([mark for mark in marks if mark[3] != "out"])
    world.marks([mark for mark in marks if mark[3] == "out"])
    sparse = world.client.execute(
        "SELECT DISTINCT table, column FROM system.parts_columns WHERE active AND table LIKE 'visits%%'"
        " AND database = currentDatabase() AND serialization_kind = 'Sparse' ORDER BY table, column"
    )
    assert sparse == [(t, c) for t in ("visits", "visits_by_person") for c in ("ins", "outs", "voids")]
    there = {key: {m for m in own if m in MINUTES} for key, own in oracle.there(marks, DWELLS).items()}
    for person in PERSONS[:20]:
        expected = oracle.contacts(marks, DWELLS, person, MINUTES, 1)
        asked = f"[({int(person, 16)}, {MINUTES.start}, {MINUTES.stop})]"
        in_view = world.client.execute(
            "SELECT count(), sum(minutes)"
            f" FROM contacts_of_persons(asked = {asked}, linger = 0, min_overlap = 1)"
        )
        assert in_view == [(len(expected), sum(each[3] for each in expected))]
        assert {
            (c.person, c.venue.code, c.date, c.minutes, c.first, c.last)
            for c in world.lookups.contacts(person, WINDOW)
        } == {
            (who, venue, day_name(day), count, first * MS_PER_MINUTE, last * MS_PER_MINUTE)
            for who, venue, day, count, first, last in expected
        }
    for venue in DWELLS:
        assert sorted((p.person, p.start, p.end) for p in world.lookups.venue(venue, WINDOW)) == sorted(
            (who, a * MS_PER_MINUTE, b * MS_PER_MINUTE)
            for (who, where), own in there.items()
            if where == venue
            for a, b in oracle.runs(own)
        )
    together = world.groups.common_venues(PERSONS[:40], WINDOW)
    assert {each.venue.code: each.persons for each in together} == {
        venue: sum(bool(there.get((person, venue))) for person in PERSONS[:40]) for venue in DWELLS
    }
