"""Every question against the real engine; random small worlds against the oracle."""

from __future__ import annotations

import random
from datetime import date

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from lookups.answers import (
    ArchiveAwayError,
    IncompleteArchiveError,
    UnknownCaseError,
    UnknownVenueError,
    Window,
)
from lookups.archive import Lookups
from lookups.connection import connect
from schemas.times import MS_PER_MINUTE, day_name
from tests.lookups import oracle
from tests.lookups.conftest import World, clock_ms
from tests.lookups.oracle import AMark

pytestmark = pytest.mark.engines

DWELLS = {"CDEFHJ": 1, "CDEFHK": 60, "CDEFHM": 720}
PERSONS = [f"{number:016x}" for number in (1, 2, 0xFEDC_BA98_7654_3210)]
# 00:00 UTC of a day that is within the retention whenever this runs
BASE = (clock_ms() // MS_PER_MINUTE - 9 * 1440) // 1440 * 1440

worlds = st.lists(
    st.tuples(
        st.sampled_from(PERSONS),
        st.sampled_from(sorted(DWELLS)),
        st.integers(BASE, BASE + 2 * 1440),
        st.sampled_from(["in", "in", "in", "out", "out", "void"]),
    ),
    max_size=40,
)
windows = st.tuples(st.integers(-720, 2 * 1440), st.integers(1, 3 * 1440))


def window_of(start: int, length: int) -> tuple[Window, range]:
    minutes = range(BASE + start, BASE + start + length)
    return Window(minutes.start * MS_PER_MINUTE, minutes.stop * MS_PER_MINUTE + 59_999), minutes


@tuned(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(worlds, windows, st.sampled_from([1, 15, 60]), st.randoms(use_true_random=False))
def test_answers_are_those_of_the_oracle(
    world: World,
    marks: list[AMark],
    bounds: tuple[int, int],
    min_overlap: int,
    chance: random.Random,
) -> None:
    window, minutes = window_of(*bounds)
    world.empty()
    world.venues(DWELLS)
    chance.shuffle(marks)
    world.marks(marks[: len(marks) // 2])
    world.marks(marks[len(marks) // 3 :])  # a part of it twice, in two inserts
    there = {key: {m for m in own if m in minutes} for key, own in oracle.there(marks, DWELLS).items()}
    for person in PERSONS:
        trace = world.lookups.person(person, window)
        assert [
            (p.venue.code, p.start // MS_PER_MINUTE, p.end // MS_PER_MINUTE) for p in trace.presences
        ] == (
            sorted(
                (
                    (venue, *run)
                    for (who, venue), own in there.items()
                    if who == person
                    for run in oracle.runs(own)
                ),
                key=lambda it: (it[1], it[0]),
            )
        )
        assert {(person, m.venue.code, m.at // MS_PER_MINUTE, m.kind) for m in trace.marks} == {
            mark for mark in marks if mark[0] == person and mark[2] in minutes
        }
        assert {
            (c.person, c.venue.code, c.date, c.minutes, c.first, c.last)
            for c in world.lookups.contacts(person, window, min_overlap)
        } == {
            (who, venue, day_name(day), count, first * MS_PER_MINUTE, last * MS_PER_MINUTE)
            for who, venue, day, count, first, last in oracle.contacts(
                marks, DWELLS, person, minutes, min_overlap
            )
        }
    for venue in DWELLS:
        inside = {who: own for (who, where), own in there.items() if where == venue}
        assert [(p.person, p.start, p.end, p.minutes) for p in world.lookups.venue(venue, window)] == sorted(
            (
                (who, a * MS_PER_MINUTE, b * MS_PER_MINUTE, b - a)
                for who, own in inside.items()
                for a, b in oracle.runs(own)
            ),
            key=lambda it: (it[1], it[0]),
        )
        voided = {(who, minute) for who, where, minute, kind in marks if where == venue and kind == "void"}
        entered = {(who, minute) for who, where, minute, kind in marks if where == venue and kind == "in"}
        hours = sorted({minute // 60 for own in inside.values() for minute in own})
        assert [
            (hour.start // MS_PER_MINUTE // 60, hour.visitors, hour.peak, hour.check_ins)
            for hour in world.lookups.occupancy(venue, window)
        ] == [
            (
                hour,
                sum(any(minute // 60 == hour for minute in own) for own in inside.values()),
                max(
                    sum(minute in own for own in inside.values())
                    for minute in range(hour * 60, hour * 60 + 60)
                ),
                len({it for it in entered - voided if it[1] // 60 == hour and it[1] in minutes}),
            )
            for hour in hours
        ]


def test_marks_of_one_hour_from_several_inserts_are_one_set(world: World) -> None:
    """Bits merge by OR: a maximum or a sum of the masks would be another set."""
    world.venues(DWELLS)
    case, contact = PERSONS[0], PERSONS[1]
    for person in (case, contact):
        for minute, kind in ((3, "in"), (9, "in"), (3, "void"), (9, "void"), (20, "in"), (30, "out")):
            world.marks([(person, "CDEFHK", BASE + minute, kind)])
            world.marks([(person, "CDEFHK", BASE + minute, kind)])
        world.marks([(person, "CDEFHK", BASE + 34, "in"), (person, "CDEFHK", BASE + 40, "out")])
    window, _ = window_of(0, 60)
    spans = [(BASE + 20, BASE + 30), (BASE + 34, BASE + 40)]
    expected = [(a * MS_PER_MINUTE, b * MS_PER_MINUTE) for a, b in spans]
    assert [(p.start, p.end) for p in world.lookups.person(case, window).presences] == expected
    assert [(p.start, p.end) for p in world.lookups.venue("CDEFHK", window) if p.person == case] == expected
    assert [(c.person, c.minutes) for c in world.lookups.contacts(case, window)] == [(contact, 16)]


def test_a_contact_whose_only_mark_is_a_day_away(world: World) -> None:
    world.venues(DWELLS)
    case, contact = PERSONS[0], PERSONS[1]
    # the case stays 12 hours after its only mark; the contact's only mark is a check-out 12 hours later
    marks = [(case, "CDEFHM", BASE, "in"), (contact, "CDEFHM", BASE + 1439, "out")]
    world.marks(marks)
    window, _ = window_of(0, 3 * 1440)
    found = world.lookups.contacts(case, window)
    assert [(c.person, c.minutes, c.first // MS_PER_MINUTE) for c in found] == [(contact, 1, BASE + 719)]


def exposure(world: World, person: str, status: str, version: int, minutes: int = 30) -> None:
    day = date.fromisoformat(day_name(BASE // 1440))
    start = BASE * MS_PER_MINUTE
    row = ("c-1", int(person, 16), "CDEFHK", day, start, start + minutes * MS_PER_MINUTE, minutes)
    columns = "case_id, person, venue, date, first, last, minutes, status, version"
    world.client.execute(f"INSERT INTO exposures ({columns}) VALUES", [(*row, status, version)])


def test_of_each_exposure_of_a_case_the_highest_version_stands(world: World) -> None:
    world.venues(DWELLS, "=1+1 Phở")
    exposure(world, PERSONS[0], "exposed", 7, minutes=20)
    exposure(world, PERSONS[0], "exposed", 6, minutes=30)
    exposure(world, PERSONS[1], "withdrawn", 9)
    exposure(world, PERSONS[1], "exposed", 8)
    exposure(world, PERSONS[2], "withdrawn", 2)
    exposure(world, PERSONS[2], "exposed", 3)
    found = world.lookups.contacts_of_case("c-1")
    assert sorted((c.person, c.minutes, c.venue.name) for c in found) == [
        (PERSONS[0], 20, "=1+1 Phở"),
        (PERSONS[2], 30, "=1+1 Phở"),
    ]


def test_a_case_without_contacts_is_no_unknown_case(world: World) -> None:
    columns = "case_id, version, topic, partition, offset, status, window_start, window_end"
    world.client.execute(
        f"INSERT INTO cases ({columns}) VALUES", [("c-2", 1, "cases", 0, 5, "confirmed", 1, 2)]
    )
    assert list(world.lookups.contacts_of_case("c-2")) == []
    with pytest.raises(UnknownCaseError, match="c-3"):
        world.lookups.contacts_of_case("c-3")


def test_a_refused_case_record_does_not_stand(world: World) -> None:
    columns = "case_id, version, topic, partition, offset, status, window_start, window_end, linger"
    first = ("c-4", 1, "cases", 0, 5, "confirmed", 1, 2, 0)
    conflict = ("c-4", 1, "cases", 0, 9, "confirmed", 1, 2, 30)
    other = ("c-4", 2, "cases", 0, 11, "confirmed", 7, 9, 60)
    world.client.execute(f"INSERT INTO cases ({columns}) VALUES", [conflict, other, first])
    refused = [("cases", 0, 9, 0, "conflict"), ("cases", 0, 11, 0, "subject_changed")]
    names = "source_topic, source_partition, source_offset, source_index, reason"
    world.client.execute(f"INSERT INTO rejected ({names}) VALUES", refused)
    assert world.client.execute("SELECT version, offset, linger FROM cases_current") == [(1, 5, 0)]


def test_an_unknown_venue_and_one_without_visitors(world: World) -> None:
    world.venues(DWELLS)
    window, _ = window_of(0, 60)
    assert world.lookups.venue("CDEFHK", window) == []
    assert world.lookups.occupancy("CDEFHK", window) == []
    with pytest.raises(UnknownVenueError, match="CDEFXX"):
        world.lookups.venue("CDEFXX", window)


def test_without_the_dwell_of_a_venue_there_is_no_answer_rather_than_a_wrong_one(world: World) -> None:
    world.marks([(PERSONS[0], "CDEFHK", BASE, "in")])
    window, _ = window_of(0, 60)
    with pytest.raises(IncompleteArchiveError, match="CDEFHK"):
        world.lookups.person(PERSONS[0], window)
    with pytest.raises(IncompleteArchiveError, match="CDEFHK"):
        world.lookups.contacts(PERSONS[0], window)


def test_every_question_stands_in_the_audit_before_it_is_asked(world: World) -> None:
    window, _ = window_of(0, 60)
    world.lookups.person(PERSONS[2], window)
    with pytest.raises(UnknownVenueError):
        world.lookups.venue("CDEFXX", window)
    rows = world.client.execute("SELECT asker, question, arguments FROM lookup_audit ORDER BY question")
    assert [row[:2] for row in rows] == [("tester", "person"), ("tester", "venue")]
    assert PERSONS[2] in rows[0][2]
    assert str(window.start) in rows[0][2]


def test_words_of_a_user_never_become_sql(world: World) -> None:
    window, _ = window_of(0, 60)
    for text in ("' OR 1=1 --", "\\' OR 1=1 --", "%(person)s", "'; DROP TABLE venues; --"):
        with pytest.raises(UnknownVenueError):
            world.lookups.venue(text, window)
        with pytest.raises(UnknownCaseError):
            world.lookups.contacts_of_case(text)


def test_a_server_that_is_away_is_told(world: World) -> None:
    lookups = Lookups(connect("clickhouse://default@127.0.0.1:1/default"), clock_ms, "tester")
    with pytest.raises(ArchiveAwayError, match="does not answer"):
        lookups.person(PERSONS[0], Window(0, 60_000))


def test_an_archive_without_tables_is_told(world: World) -> None:
    world.client.execute("DROP TABLE lookup_audit")
    with pytest.raises(ArchiveAwayError, match="truyvet run archive"):
        world.lookups.person(PERSONS[0], Window(0, 60_000))


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="after the start"):
        Window(120_000, 120_059)
