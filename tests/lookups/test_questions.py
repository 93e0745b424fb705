"""The questions as views and as functions: on random worlds both are the oracle's, minute by minute."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from lookups.answers import IncompleteArchiveError, PlaceTime, UnknownVenueError, Window
from schemas.events import Case
from schemas.times import MS_PER_MINUTE, day_name, local_day
from sinks.migrate import FOLDER
from stream_processors import matching
from stream_processors import presence as processors
from tests.lookups import oracle
from tests.lookups.conftest import World, clock_ms
from tests.lookups.oracle import AMark

pytestmark = pytest.mark.engines

MARKET, STALL, HOTEL, WARD = "CDEFHJ", "CDEFHK", "CDEFHM", "CDEFHP"
DWELLS = {MARKET: 60, STALL: 30, HOTEL: 720, WARD: 1}
KINDS = {"in": processors.IN, "out": processors.OUT, "void": processors.VOID}
PERSONS = [f"{number:016x}" for number in (1, 2, 3, 4, 0xFEDC_BA98_7654_3210)]
# a Sunday, 17:00 UTC: local midnight, an edge of hours, of dates and of partitions at once; all before now
EDGE = (clock_ms() // MS_PER_MINUTE + 4 * 1440 + 420) // 10080 * 10080 - 4 * 1440 - 420 - 10080

# near the limits of the rules and of the edge, where a mistake of one minute shows
minutes_of_marks = st.one_of(
    st.integers(-1440, 1440),
    st.sampled_from([0, -1, 1, 29, 30, 31, 59, 60, 61, 719, 720, 721, -719, -720, -721]),
).map(lambda minute: EDGE + minute)
worlds = st.lists(
    st.tuples(
        st.sampled_from(PERSONS),
        st.sampled_from(sorted(DWELLS)),
        minutes_of_marks,
        st.sampled_from(["in", "in", "in", "out", "out", "void"]),
    ),
    max_size=60,
)
windows = st.tuples(st.integers(-2000, 1000), st.integers(1, 3000)).map(
    lambda it: range(EDGE + it[0], EDGE + it[0] + it[1])
)
some_of_them = st.dictionaries(
    st.sampled_from(PERSONS), st.integers(-1440, 1440).map(lambda minute: EDGE + minute)
)
examples = tuned(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


def fill(world: World, marks: list[AMark], chance: random.Random) -> None:
    """In two inserts, a part of them twice, nothing merged; the stall is inside the market."""
    world.empty()
    world.venues(DWELLS)
    world.put_below(STALL, MARKET, DWELLS[STALL])
    chance.shuffle(marks)
    world.marks(marks[: len(marks) // 2])
    world.marks(marks[len(marks) // 3 :])


def window_of(minutes: range) -> Window:
    return Window(minutes.start * MS_PER_MINUTE, minutes.stop * MS_PER_MINUTE)


def asked_of(minutes: range) -> dict[str, int]:
    return {"since": minutes.start, "until": minutes.stop}


def view(world: World, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = world.client.execute(sql, parameters)
    return rows


@examples
@given(worlds, windows, st.randoms(use_true_random=False))
def test_where_persons_were_and_who_was_at_places(
    world: World, marks: list[AMark], minutes: range, chance: random.Random
) -> None:
    fill(world, marks, chance)
    expected = {
        (who, venue, *run)
        for (who, venue), own in oracle.there(marks, DWELLS).items()
        for run in oracle.runs({minute for minute in own if minute in minutes})
    }
    rows = view(
        world,
        "SELECT person, venue, start, end FROM presences_of_persons(asked = %(asked)s)",
        asked=[(int(who, 16), minutes.start, minutes.stop) for who in PERSONS],
    )
    assert sorted((f"{who:016x}", *rest) for who, *rest in rows) == sorted(expected)

    # the second place-time ends where the first begins, the third is the hotel
    earlier = range(minutes.start - 700, minutes.start)
    places = [PlaceTime(MARKET, window_of(minutes)), PlaceTime(MARKET, window_of(earlier))]
    places.append(PlaceTime(HOTEL, window_of(minutes)))
    wanted = [((MARKET, STALL), minutes), ((MARKET, STALL), earlier), ((HOTEL,), minutes)]
    assert [
        (at.place, at.presence.venue.code, at.presence.person, at.presence.start, at.presence.end)
        for at in world.groups.at_places(places)
    ] == sorted(
        (
            (number, venue, who, first * MS_PER_MINUTE, last * MS_PER_MINUTE)
            for number, (venues, within) in enumerate(wanted)
            for (who, venue), own in oracle.there(marks, DWELLS).items()
            if venue in venues
            for first, last in oracle.runs({minute for minute in own if minute in within})
        ),
        key=lambda row: (row[0], row[3], row[2], row[1]),
    )


@examples
@given(
    worlds, windows, st.sampled_from([1, 15, 60]), st.sampled_from([0, 45]), st.randoms(use_true_random=False)
)
def test_contacts_with_linger(
    world: World, marks: list[AMark], minutes: range, min_overlap: int, linger: int, chance: random.Random
) -> None:
    fill(world, marks, chance)
    subject = PERSONS[0]
    there = oracle.there(marks, DWELLS)
    expected = set()
    for (who, venue), own in there.items():
        mine = {minute for minute in there.get((subject, venue), ()) if minute in minutes}
        infectious = {minute + more for minute in mine for more in range(linger + 1)}
        for day, times in oracle.days(own & infectious, min_overlap).items() if who != subject else ():
            of_day = {m for m in infectious if (m + oracle.VIETNAM) // oracle.DAY == day}
            expected.add((who, venue, day_name(day), *times, len(of_day)))
    found = world.lookups.contacts(subject, window_of(minutes), min_overlap, linger)
    assert {
        (
            each.person,
            each.venue.code,
            each.date,
            each.minutes,
            each.first // MS_PER_MINUTE,
            each.last // MS_PER_MINUTE,
            round(each.minutes / (each.share or 1)),
        )
        for each in found
    } == expected
    rows = view(
        world,
        "SELECT person, venue, toString(date), minutes, first, last"
        " FROM contacts_of_persons(asked = %(asked)s, linger = %(linger)s, min_overlap = %(min_overlap)s)",
        asked=[(int(subject, 16), minutes.start, minutes.stop)],
        linger=linger,
        min_overlap=min_overlap,
    )
    assert len(rows) == len(expected)
    assert {(f"{who:016x}", *rest) for who, *rest in rows} == {row[:6] for row in expected}


@examples
@given(
    worlds,
    windows,
    st.sampled_from([1, 30]),
    st.sampled_from([0, 45, 720]),
    st.randoms(use_true_random=False),
)
def test_contacts_are_the_exposures_that_the_stream_decides(
    world: World, marks: list[AMark], minutes: range, min_overlap: int, linger: int, chance: random.Random
) -> None:
    fill(world, marks, chance)
    case = Case(
        case_id="c-1",
        version=1,
        status="confirmed",
        person=PERSONS[0],
        infectious_from=minutes.start * MS_PER_MINUTE,
        infectious_to=minutes.stop * MS_PER_MINUTE,
        min_overlap=min_overlap,
        linger=linger,
    )
    exposures = set()
    for venue, dwell in DWELLS.items():
        own: dict[str, list[tuple[int, int]]] = {}
        for who, where, minute, kind in set(marks):
            if where == venue:
                own.setdefault(who, []).append((minute, KINDS[kind]))
        days = range(local_day(EDGE) - 4, local_day(EDGE) + 5)
        decision = matching.decide(
            matching.Snapshot(case, dwell, days, own, {}, {}, frozenset(), whole=True), clock_ms()
        )
        exposures |= {
            (who, venue, day_name(day), entry.minutes, entry.first, entry.last)
            for (who, day), entry in decision.exposures.items()
        }
    assert {
        (
            *(each.person, each.venue.code, each.date, each.minutes),
            *(each.first // MS_PER_MINUTE, each.last // MS_PER_MINUTE),
        )
        for each in world.lookups.contacts(PERSONS[0], window_of(minutes), min_overlap, linger)
    } == exposures


@examples
@given(worlds, windows, some_of_them, st.sampled_from([1, 20]), st.randoms(use_true_random=False))
def test_chains_go_forward_in_time(
    world: World,
    marks: list[AMark],
    minutes: range,
    isolated: dict[str, int],
    min_overlap: int,
    chance: random.Random,
) -> None:
    fill(world, marks, chance)
    subject, now = PERSONS[0], clock_ms() // MS_PER_MINUTE
    expected = oracle.chain(marks, DWELLS, subject, minutes, isolated, now, min_overlap)
    found = world.groups.chain(
        subject,
        window_of(minutes),
        {who: minute * MS_PER_MINUTE for who, minute in isolated.items()},
        min_overlap,
        every_link=True,
    )
    assert len(found) == len(expected)
    assert {
        (
            *(link.degree, link.source, link.person, link.venue.code, link.date, link.minutes),
            *(link.first // MS_PER_MINUTE, link.last // MS_PER_MINUTE),
        )
        for link in found
    } == {
        (degree, source, who, venue, day_name(day), *times)
        for degree, source, who, venue, day, *times in expected
    }
    first: dict[str, tuple[Any, ...]] = {}
    for degree, source, who, venue, day, count, start, end in sorted(expected, key=str):
        link = ((start, -count, source, venue), degree, day_name(day), end)
        first[who] = min(link, first.get(who, link))
    isolated_ms = {who: minute * MS_PER_MINUTE for who, minute in isolated.items()}
    assert {
        link.person: (
            (link.first // MS_PER_MINUTE, -link.minutes, link.source, link.venue.code),
            *(link.degree, link.date, link.last // MS_PER_MINUTE),
        )
        for link in world.groups.chain(subject, window_of(minutes), isolated_ms, min_overlap)
    } == first


@tuned(examples, max_examples=3)  # planning a view of views of views takes a second
@given(worlds, windows, some_of_them, st.randoms(use_true_random=False))
def test_the_view_of_a_chain(
    world: World, marks: list[AMark], minutes: range, isolated: dict[str, int], chance: random.Random
) -> None:
    fill(world, marks, chance)
    subject, now, min_overlap = PERSONS[0], clock_ms() // MS_PER_MINUTE, 1
    expected = oracle.chain(marks, DWELLS, subject, minutes, isolated, now, min_overlap)
    rows = view(
        world,
        "SELECT degree, source, person, venue, toString(date), minutes, first, last FROM chain_of_person("
        " person = %(person)s, since = %(since)s, until = %(until)s, now = %(now)s,"
        " min_overlap = %(min_overlap)s, isolated = %(isolated)s)",
        person=int(subject, 16),
        **asked_of(range(minutes.start, min(minutes.stop, isolated.get(subject, minutes.stop)))),
        now=now,
        min_overlap=min_overlap,
        isolated=[(int(who, 16), minute) for who, minute in isolated.items()] or [(0, 0)],
    )
    assert {(row[0], f"{row[1]:016x}", f"{row[2]:016x}", *row[3:]) for row in rows} == {
        (degree, source, who, venue, day_name(day), *times)
        for degree, source, who, venue, day, *times in expected
    }


@examples
@given(worlds, windows, st.sets(st.sampled_from(PERSONS), min_size=2), st.randoms(use_true_random=False))
def test_common_venues_and_occupancy(
    world: World, marks: list[AMark], minutes: range, persons: set[str], chance: random.Random
) -> None:
    fill(world, marks, chance)
    found = world.groups.common_venues(sorted(persons), window_of(minutes))
    assert {(it.venue.code, it.persons, it.together, it.minutes) for it in found} == oracle.common(
        marks, DWELLS, persons, minutes
    )
    assert [it.venue.code for it in found] == [
        it.venue.code
        for it in sorted(found, key=lambda it: (-it.together, -it.minutes, -it.persons, it.venue.code))
    ]
    for venue in DWELLS:
        rows = view(
            world,
            "SELECT hour, visitors, peak, check_ins, capacity, exceeded FROM occupancy_of_venue("
            " venue = %(venue)s, since = %(since)s, until = %(until)s)",
            venue=venue,
            **asked_of(minutes),
        )
        assert rows == [
            (
                each.start // MS_PER_MINUTE // 60,
                each.visitors,
                each.peak,
                each.check_ins,
                each.capacity,
                each.exceeded,
            )
            for each in world.lookups.occupancy(venue, window_of(minutes))
        ]


def test_a_full_venue_is_told(world: World) -> None:
    world.venues({MARKET: 60})
    world.put_below(STALL, MARKET, 30, capacity=1)
    world.marks([(who, STALL, EDGE + 5, "in") for who in PERSONS[:2]])
    (hour,) = world.lookups.occupancy(STALL, window_of(range(EDGE, EDGE + 30)))
    assert (hour.peak, hour.capacity, hour.exceeded) == (2, 1, True)
    (empty,) = world.lookups.occupancy(STALL, window_of(range(EDGE, EDGE + 6)))
    assert empty.exceeded
    world.put_below(STALL, MARKET, 30, capacity=2)
    (hour,) = world.lookups.occupancy(STALL, window_of(range(EDGE, EDGE + 30)))
    assert not hour.exceeded


def test_without_the_dwell_of_a_venue_no_view_answers(world: World) -> None:
    world.venues({MARKET: 60})
    world.marks([(who, HOTEL, EDGE, "in") for who in PERSONS[:2]])
    window = window_of(range(EDGE, EDGE + 60))
    with pytest.raises(IncompleteArchiveError, match=HOTEL):
        world.groups.chain(PERSONS[0], window, {})
    with pytest.raises(IncompleteArchiveError, match=HOTEL):
        world.groups.common_venues(PERSONS, window)
    with pytest.raises(UnknownVenueError, match=HOTEL):
        world.groups.at_places([PlaceTime(HOTEL, window)])


def test_a_chain_of_thousands_fits_into_a_question(world: World) -> None:
    world.venues(DWELLS)
    crowd = [f"{number:016x}" for number in range(2**63, 2**63 + 9_000)]
    world.marks([(who, MARKET, EDGE, "in") for who in [PERSONS[0], *crowd]])
    world.marks([(who, STALL, EDGE + 600, "in") for who in (crowd[7], PERSONS[1])])
    found = world.groups.chain(PERSONS[0], window_of(range(EDGE, EDGE + 60)), {})
    assert [link.person for link in found if link.degree == 2] == [PERSONS[1]]
    assert {link.person for link in found if link.degree == 1} == set(crowd)


def test_both_views_make_presence_in_the_same_words() -> None:
    text = (FOLDER / "0006_questions.sql").read_text("utf-8")
    parts = re.findall(r"        arrayJoin\(arrayZip\(\n.*?groupBitOr\(voids\) AS v\n", text, re.DOTALL)
    assert len(parts) == 2
    assert parts[0] == parts[1]
