"""The store: what it says of marks against a plain account of them; under much work at once."""

from __future__ import annotations

import asyncio
import random

import pytest

from schemas.settings import Settings
from stream_processors.layout import Layout
from stream_processors.requests import MarkRow, Marks
from stream_processors.servers import connect
from stream_processors.store import Reading, Store
from tests.stream.harness import HOUR, now_ms, person

pytestmark = pytest.mark.engines


def test_hundreds_of_steps_at_once_share_connections(settings: Settings) -> None:
    """The client raises past 100 connections: a matcher with much to do ended, and began with the same."""
    now, hour = now_ms(), now_ms() // HOUR

    async def work() -> list[list[tuple[int, str]]]:
        store = Store(connect(settings.redis_url), Layout(16, 30), lambda: now, lambda _: None)
        await store.open({})
        rows = [MarkRow(f"s{n}", person(n), "CDEF", hour, n % 60, 0) for n in range(400)]
        await asyncio.gather(*(store.add_scans(Marks.of([row]), ["CDEF"]) for row in rows))
        found = await asyncio.gather(*(store.index_of(person(n), hour) for n in range(400)))
        await store.close()
        return found

    assert asyncio.run(work()) == [[(hour, "CDEF")]] * 400


def test_no_more_stretches_are_read_than_there_is_room_for(settings: Settings) -> None:
    now, hour = now_ms(), now_ms() // HOUR
    stretches = [range(hour - 9, hour - 6), range(hour - 6, hour - 6), range(hour - 3, hour + 1)]

    async def work() -> list[tuple[set[str], int]]:
        store = Store(connect(settings.redis_url), Layout(16, 30), lambda: now, lambda _: None)
        await store.open({})
        rows = [MarkRow(f"s{n}", person(n), "CDEF", hour - n % 2 * 8, 5, 0) for n in range(20)]
        await store.add_scans(Marks.of(rows), [])
        named = [person(n) for n in range(4)]
        asked = [(None, 10), (None, 11), (named, 12), (named, 13), (["f" * 16], 3), (["f" * 16], 4)]
        found = [await store.marks_in("CDEF", Reading(stretches, whom, most)) for whom, most in asked]
        await store.close()
        return [(set(each.entries.marks()), each.stretches) for each in found]

    everybody, odd = {person(n) for n in range(20)}, {person(n) for n in range(1, 20, 2)}
    some = {person(n) for n in range(4)}
    assert asyncio.run(work()) == [
        (odd, 2),
        (everybody, 3),
        (some & odd, 2),
        (some, 3),
        (set(), 2),
        (set(), 3),
    ]


# Persons of one group and of others, whose bytes can be mistaken for each other's between two entries.
ALIKE = ["00" * 8, "00" * 7 + "20", "20" * 8, "00" * 7 + "05", "05" + "00" * 7]
ALIKE += ["0005" * 4, "05" * 8, "40" * 8, "0300" * 4, "00" * 6 + "0b00", "00" * 6 + "1300", "ff" * 7 + "00"]


@pytest.mark.parametrize("seed", range(5))
def test_verdicts_and_marks_are_those_of_a_plain_account(settings: Settings, seed: int) -> None:
    chance, now, hour = random.Random(seed), now_ms(), now_ms() // HOUR
    first: dict[tuple[str, str, int, int, int], str] = {}  # mark → the scan that made it
    venues = ["CDEF", "HJKM"]

    def row() -> MarkRow:
        scan_id = f"s{chance.randrange(400)}"
        at = chance.choice(venues), hour - chance.randrange(3)
        return MarkRow(scan_id, chance.choice(ALIKE), *at, chance.choice([0, 0, 5, 32]), chance.randrange(3))

    def expected(row: MarkRow) -> str:
        mark = row.person, row.venue, row.hour, row.minute, row.kind
        if mark not in first:
            first[mark] = row.scan_id
            return "n"
        return "r" if first[mark] == row.scan_id else "d"

    def marks_at(venue: str) -> dict[str, list[tuple[int, int]]]:
        found: dict[str, list[tuple[int, int]]] = {}
        for who, where, when, minute, kind in first:
            if where == venue:
                found.setdefault(who, []).append((when * 60 + minute, kind))
        return {who: sorted(marks) for who, marks in found.items()}

    async def read(store: Store, venue: str, persons: list[str] | None) -> dict[str, list[tuple[int, int]]]:
        found = await store.marks(venue, range(hour - 2, hour + 1), persons)
        return {who: sorted(marks) for who, marks in found.items()}

    async def work() -> None:
        store = Store(connect(settings.redis_url), Layout(16, 30), lambda: now, lambda _: None)
        await store.open({})
        for _ in range(60):
            rows = [row() for _ in range(chance.choice([1, 2, 40]))]
            told = (await store.add_scans(Marks.of(rows), [])).verdicts
            for each, verdict in zip(rows, told, strict=True):
                assert verdict == expected(each), (each, rows)
            for venue in venues:
                whole = marks_at(venue)
                assert await read(store, venue, None) == whole
                some = chance.sample(ALIKE, 3)
                assert await read(store, venue, some) == {who: whole[who] for who in some if who in whole}
        held = connect(settings.redis_url)
        buckets = [store.layout.bucket(venue, hour - back) for venue in venues for back in range(3)]
        groups = [await held.one(key, "HGETALL", key) for key in buckets]
        await held.aclose()
        assert any(b"" in fields[1::2] for fields in groups)  # large groups were met
        gone = chance.choice(ALIKE)
        places = [(hour - back, venue) for back in range(3) for venue in venues]
        theirs = [mark for mark in first if mark[0] == gone]
        assert await store.erase_marks(gone, places) == len(theirs)
        for mark in theirs:
            del first[mark]
        for venue in venues:
            assert await read(store, venue, None) == marks_at(venue)
        await store.close()

    asyncio.run(work())


def test_a_large_group_that_was_erased_whole_still_expires(settings: Settings) -> None:
    now, hour = now_ms(), now_ms() // HOUR
    gone, others = "00" * 8, ["20" * 8, "00" * 7 + "40"]  # one group

    async def work() -> list[int]:
        store = Store(connect(settings.redis_url), Layout(16, 30), lambda: now, lambda _: None)
        await store.open({})
        often = [MarkRow(f"s{n}", gone, "CDEF", hour, n, 0) for n in range(30)]
        assert (await store.add_scans(Marks.of(often), [])).verdicts == "n" * 30
        assert await store.erase_marks(gone, [(hour, "CDEF")]) == 30
        for who in others:
            assert (
                await store.add_scans(Marks.of([MarkRow("t", who, "CDEF", hour, 1, 0)]), [])
            ).verdicts == "n"
        assert (await store.marks("CDEF", range(hour, hour + 1), None)).keys() == set(others)
        held = connect(settings.redis_url)
        key = store.layout.bucket("CDEF", hour)
        ends = [await held.one(at, "EXPIRETIME", at) for at in (key, f"d{key[1:]}@")]
        await held.aclose()
        await store.close()
        return ends

    ends = asyncio.run(work())
    assert ends == [Layout(16, 30).bucket_expiry(hour)] * 2
