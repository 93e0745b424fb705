"""The store under much work at once."""

from __future__ import annotations

import asyncio

import pytest

from schemas.settings import Settings
from stream_processors.layout import Layout
from stream_processors.requests import MarkRow, Marks
from stream_processors.servers import connect
from stream_processors.store import Store
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
        found = [await store.marks_in("CDEF", stretches, whom, most) for whom, most in asked]
        await store.close()
        return [(set(marks), done) for marks, done in found]

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
