"""The stream path on real engines: scans and cases in, what stands on the topics out."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import orjson
import pytest
from confluent_kafka import Message

from schemas import topics
from schemas.settings import Settings
from tests.stream.harness import HOUR, MINUTE, Installation, installed, now_ms, person

pytestmark = pytest.mark.engines

INDEX, CONTACT, OTHER = person(1), person(2), person(3)


@pytest.fixture
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    settings = request.getfixturevalue(getattr(request, "param", "settings"))
    with installed(settings, tmp_path, "ingest", "cases", "matcher") as installation:
        yield installation


# on one Redis, and on a Redis Cluster
either = pytest.mark.parametrize("here", ["settings", "clustered"], indirect=True)


def noon_before_yesterday() -> int:
    """12:00 local, two days ago: every test's presences stay within one local date."""
    day = 24 * HOUR
    return (now_ms() + 7 * HOUR) // day * day - 7 * HOUR - 2 * day + 12 * HOUR


def pairs(message: Message) -> list[tuple[str, bytes]]:
    """A record's headers; the client's stub allows forms that it never gives."""
    return cast(list[tuple[str, bytes]], message.headers() or [])


def window(at: int) -> dict[str, object]:
    return {"person": INDEX, "infectious_from": at - 6 * HOUR, "infectious_to": at + 6 * HOUR}


@either
def test_scan_then_case_and_case_then_scan_name_the_same_people(here: Installation) -> None:
    venue = here.venue()
    at = noon_before_yesterday()
    here.scan(INDEX, venue, at)
    here.scan(CONTACT, venue, at + 10 * MINUTE)
    here.settle(["ingest"])
    here.case(**window(at))
    here.settle(["cases", "matcher"])
    assert here.exposed() == {("k1", CONTACT, venue): 50}
    # late scans, after the case: a contact's, then one of the case itself at another venue
    here.scan(OTHER, venue, at + 20 * MINUTE)
    elsewhere = here.venue()
    here.scan(CONTACT, elsewhere, at + 3 * HOUR)
    here.settle()
    here.scan(INDEX, elsewhere, at + 3 * HOUR + 15 * MINUTE)
    here.settle()
    assert here.exposed() == {
        ("k1", CONTACT, venue): 50,
        ("k1", OTHER, venue): 40,
        ("k1", CONTACT, elsewhere): 45,
    }
    warnings = here.last(topics.VENUE_WARNINGS)
    assert {warning["venue"]: warning["contacts"] for warning in warnings.values()} == {
        venue: 2,
        elsewhere: 1,
    }
    assert all("person" not in warning for warning in warnings.values())
    headers = dict(here.read(topics.VENUE_WARNINGS)[0].headers() or [])
    assert headers == {"department": b"so-cong-thuong"}


def test_a_touch_without_a_value_asks_for_nothing(here: Installation) -> None:
    """A matcher that cannot read a record ends, and reads it again when it is back, for ever."""
    venue, at = here.venue(), noon_before_yesterday()
    here.send(topics.TOUCHED, None, venue)
    here.flush()
    here.settle(["matcher"])
    here.scan(INDEX, venue, at)
    here.scan(CONTACT, venue, at + 10 * MINUTE)
    here.settle(["ingest"])
    here.case(**window(at))
    here.settle(["cases", "matcher"])
    assert here.exposed() == {("k1", CONTACT, venue): 50}


@either
def test_withdrawal_narrowing_check_out_and_void(here: Installation) -> None:
    venue, at = here.venue(), noon_before_yesterday()
    here.scan(INDEX, venue, at)
    here.scan(CONTACT, venue, at + 30 * MINUTE)
    here.scan(OTHER, venue, at + 55 * MINUTE)
    here.settle(["ingest"])
    here.case(**window(at))
    here.settle(["cases", "matcher"])
    assert here.exposed() == {("k1", CONTACT, venue): 30, ("k1", OTHER, venue): 5}
    # the case had left before the other came: a check-out that arrives late shortens and withdraws
    here.scan(INDEX, venue, at + 50 * MINUTE, kind="out")
    here.settle()
    assert here.exposed() == {("k1", CONTACT, venue): 20}
    here.scan(CONTACT, venue, at + 30 * MINUTE, kind="void", source="manual")
    here.settle()
    assert here.exposed() == {}
    here.scan(OTHER, venue, at + 5 * MINUTE)
    here.settle()
    assert here.exposed() == {("k1", OTHER, venue): 45}
    narrowed = {"person": INDEX, "infectious_from": at, "infectious_to": at + 15 * MINUTE}
    here.case(version=2, **narrowed)
    here.settle(["cases", "matcher"])
    assert here.exposed() == {("k1", OTHER, venue): 10}
    here.case(version=3, **(narrowed | {"infectious_to": at + MINUTE}))
    here.settle(["cases", "matcher"])
    assert here.exposed() == {}
    here.case(version=5, status="withdrawn", **window(at))
    here.case(version=4, **window(at))
    here.settle(["cases", "matcher"])
    assert here.exposed() == {}
    # compaction must find the highest version last
    assert here.last(topics.CASES, rising=False)["k1"]["version"] == 5
    final = here.last(topics.EXPOSURES).values()
    assert {(exposure["status"], exposure["case_version"]) for exposure in final} == {("withdrawn", 5)}


@either
def test_a_place_time_covers_stalls_also_new_ones(here: Installation) -> None:
    market = here.venue(dwell=30)
    stall = here.venue(parent=market, dwell=20)
    neighbour = here.venue(dwell=30)
    at = noon_before_yesterday()
    here.scan(CONTACT, stall, at)
    here.scan(OTHER, neighbour, at)
    here.settle(["ingest"])
    here.case(case_id="p1", venue=market, **{"from": at - HOUR, "to": at + 10 * MINUTE})
    here.settle(["cases", "matcher"])
    assert here.exposed() == {("p1", CONTACT, stall): 10}
    assert {warning["venue"] for warning in here.last(topics.VENUE_WARNINGS).values()} == {market, stall}
    late_stall = here.venue(parent=stall, dwell=20)
    here.scan(OTHER, late_stall, at + 4 * MINUTE)
    here.settle()
    assert here.exposed() == {("p1", CONTACT, stall): 10, ("p1", OTHER, late_stall): 6}
    here.case(case_id="p1", version=2, status="withdrawn", venue=market, **{"from": at - HOUR, "to": at})
    here.settle(["cases", "matcher"])
    assert here.exposed() == {}


def test_a_version_with_a_window_long_ago_still_ends_what_stands(here: Installation) -> None:
    venue, at = here.venue(), noon_before_yesterday()
    here.scan(INDEX, venue, at)
    here.scan(CONTACT, venue, at + 30 * MINUTE)
    here.settle(["ingest"])
    here.case(**window(at))
    here.settle(["cases", "matcher"])
    assert here.exposed() == {("k1", CONTACT, venue): 30}
    here.case(version=2, status="withdrawn", person=INDEX, infectious_from=0, infectious_to=60_000)
    here.settle(["cases", "matcher"])
    assert here.exposed() == {}


def test_refused_cases_say_why(here: Installation) -> None:
    at = noon_before_yesterday()
    case = here.case(version=2, **window(at))
    here.case(version=2, **(window(at) | {"linger": 5}))
    here.case(version=3, **(window(at) | {"person": OTHER}))
    here.send(topics.CASES, None, "k1")
    here.send(topics.CASES, b"{", "k1")
    here.send(topics.CASES, b'{"case_id":"k1"}', "k1")
    here.send(topics.CASES, case.to_json(), "k2")
    here.settle(["cases"])
    reasons = [dict(message.headers() or [])["reason"] for message in here.read(topics.CASES_REJECTED)]
    assert reasons == [b"conflict", b"subject_changed", b"tombstone", b"malformed", b"invalid", b"invalid"]


@either
def test_mixed_batches_duplicates_and_rejected(here: Installation) -> None:
    venue, at = here.venue(), noon_before_yesterday()
    first = here.scan(INDEX, venue, at)
    here.settle(["ingest"])
    here.send(topics.SCANS, orjson.dumps(first))  # a retry
    other = first | {"scan_id": "00000000-0000-4000-8000-000000000001"}
    here.send(topics.SCANS, orjson.dumps(other))  # a duplicate: the same mark by another scan
    batch = [
        first | {"scan_id": "00000000-0000-4000-8000-000000000002", "scanned_at": at + MINUTE},
        first | {"venue": "CCCC"},
        first | {"scanned_at": now_ms() + HOUR},
        first | {"scanned_at": now_ms() - 31 * 24 * HOUR},
        {"scan_id": 5},
    ]
    here.send(topics.SCANS, orjson.dumps(batch))
    here.send(topics.SCANS, b"\xff")
    here.settle(["ingest"])
    visits = [visit for array in here.values(topics.VISITS) for visit in array]
    assert {visit["scan_id"] for visit in visits} == {first["scan_id"], batch[0]["scan_id"]}
    rejected = here.read(topics.SCANS_REJECTED)
    found = {}
    for message in rejected:
        headers = {name: str(value, "utf-8") for name, value in pairs(message)}
        assert set(headers) == set(topics.SCANS_REJECTED.headers)
        assert headers["source-topic"] == here.settings.topic(topics.SCANS)
        found[headers["reason"], headers["source-index"]] = message.value()
    expected_codes = {("unknown_venue", "1"), ("invalid", "1")}  # CCCC may have a fitting check character
    assert {key for key in found if key not in expected_codes} == {
        ("in_future", "2"),
        ("too_old", "3"),
        ("invalid", "4"),
        ("malformed", "0"),
    }
    assert found["invalid", "4"] == b'{"scan_id":5}'
    assert found["malformed", "0"] == b"\xff"


def test_a_scan_just_after_a_place_opens_again_is_taken(here: Installation) -> None:
    at = noon_before_yesterday()
    codes = [here.venue(closed_at=at - HOUR) for _ in range(5)]
    for code in codes:
        here.scan(INDEX, code, at)
    here.settle(["ingest"])
    assert len(here.read(topics.SCANS_REJECTED)) == 5
    sent = set[str]()
    for code in codes:
        here.open_again(code)
        sent.add(here.scan(person(7), code, at)["scan_id"])
        here.flush()
    here.settle(["ingest"])
    assert {visit["scan_id"] for array in here.values(topics.VISITS) for visit in array} == sent


def test_killed_roles_lose_nothing_and_shuffling_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    """A stream with repetitions, in random order, while every role is killed again and again: what stands
    in the end is what a quiet run says."""
    chance = random.Random(20210201)
    at = noon_before_yesterday()
    people = [person(number) for number in range(1, 40)]
    with installed(settings, tmp_path, "ingest", "cases", "matcher") as here:
        venues = [here.venue(dwell=chance.choice([20, 60])) for _ in range(3)]
        scans = [
            (
                chance.choice(people),
                chance.choice(venues),
                at + chance.randrange(300) * MINUTE,
                chance.random() < 0.2,
            )
            for _ in range(3000)
        ]
        cases = [(f"k{number}", people[number]) for number in range(4)]
        for position, (who, venue, when, leaves) in enumerate(scans):
            scan = here.scan(who, venue, when, **({"kind": "out"} if leaves else {}))
            if chance.random() < 0.1:
                here.send(topics.SCANS, orjson.dumps(scan))
            if position % 600 == 300:
                name, who_is = cases[position // 600 % 4]
                here.case(case_id=name, **(window(at) | {"person": who_is}))
            if position % 500 == 250:
                role = ["ingest", "matcher", "cases"][position // 500 % 3]
                here.flush()
                # so that kills meet roles that start, that work, and that wait
                time.sleep(chance.uniform(0.5, 4.0))
                here.kill(role)
                here.start(role)
        here.settle(seconds=120)
        expected = _expected(scans, cases, venues, here)
        assert here.exposed() == expected
        assert len(expected) > 100


def _expected(
    scans: list[tuple[str, str, int, bool]],
    cases: list[tuple[str, str]],
    venues: list[str],
    here: Installation,
) -> dict[tuple[str, str, str], int]:
    """Minute sets, straight from the rules."""
    dwells = {value["code"]: value["dwell"] for value in here.values(topics.VENUES)}
    there: dict[tuple[str, str], set[int]] = {}
    marks: dict[tuple[str, str], dict[int, bool]] = {}
    for who, venue, when, leaves in scans:
        minutes = marks.setdefault((who, venue), {})
        minutes[when // MINUTE] = minutes.get(when // MINUTE, False) or not leaves
    for (who, venue), minutes in marks.items():
        times = sorted(minutes)
        present: set[int] = set()
        for minute, following in zip(times, [*times[1:], None], strict=True):
            if not minutes[minute]:
                continue
            stop = minute + dwells[venue]
            if following is not None and (not minutes[following] or following - minute <= dwells[venue]):
                stop = following
            present |= set(range(minute, stop))
        if not minutes[times[0]]:
            present |= set(range(times[0] - dwells[venue], times[0]))
        there[who, venue] = present
    sent = {case["case_id"]: case for case in here.values(topics.CASES)}
    found: dict[tuple[str, str, str], int] = {}
    for name, index in cases:
        if name not in sent:
            continue
        inside = range(sent[name]["infectious_from"] // MINUTE, sent[name]["infectious_to"] // MINUTE)
        for venue in venues:
            mine = there.get((index, venue), set()) & set(inside)
            for (who, place), theirs in there.items():
                if place == venue and who != index and mine & theirs:
                    found[name, who, venue] = len(mine & theirs)
    return found
