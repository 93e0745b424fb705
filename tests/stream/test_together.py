"""What waits is done as one: each once, in order, with its own result. So are scans that wait for Redis."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codes import new_code
from schemas.events import Case
from schemas.settings import Settings
from stream_processors.ingest import Ingest, IngestTopics
from stream_processors.layout import Layout
from stream_processors.metrics import Metrics
from stream_processors.outputs import Out
from stream_processors.records import Record, Records
from stream_processors.requests import MarkRow, Marks
from stream_processors.servers import connect
from stream_processors.store import Ingested, Store
from stream_processors.together import Together
from stream_processors.venues import Register
from tests.stream.harness import HOUR, MINUTE, now_ms, person, stall


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 3), st.integers(1, 9))
def test_every_item_is_done_once_in_order_and_gets_its_own_result(
    sizes: list[int], places: int, most: int
) -> None:
    pieces: list[Sequence[int]] = []
    under_way = 0

    async def work(items: Sequence[int]) -> list[int]:
        nonlocal under_way
        under_way += 1
        assert under_way <= places
        pieces.append(items)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        under_way -= 1
        return [-item for item in items]

    async def everything() -> list[int]:
        together = Together[int, int](work, places, most)

        async def one(number: int) -> int:
            done = together.add(number, sizes[number])
            together.begin()
            return await done

        return list(await asyncio.wait_for(asyncio.gather(*map(one, range(len(sizes)))), timeout=10))

    assert asyncio.run(everything()) == [-number for number in range(len(sizes))]
    assert [item for items in pieces for item in items] == list(range(len(sizes)))
    assert all(len(items) == 1 or sum(sizes[item] for item in items) <= most for items in pieces)
    # what came while all places were taken went together as far as it may
    for items, after in zip(pieces[places:], pieces[places + 1 :], strict=False):
        assert sum(sizes[item] for item in items) + sizes[after[0]] > most


def test_what_a_piece_raised_all_of_it_raise_and_the_next_goes_on() -> None:
    async def work(items: Sequence[int]) -> list[int]:
        await asyncio.sleep(0)
        if 1 in items:
            raise ValueError(items)
        return list(items)

    async def everything() -> list[int | BaseException]:
        together = Together[int, int](work, 1, 2)
        waiting = [together.add(number, 1) for number in range(6)]
        waiting[3].cancel()  # whoever waited may be gone
        together.begin()
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), timeout=10)

    zero, one, two, three, four, five = asyncio.run(everything())
    assert isinstance(zero, ValueError)
    assert isinstance(one, ValueError)
    assert isinstance(three, asyncio.CancelledError)
    assert (two, four, five) == (2, 4, 5)


def test_marks_joined_are_one_behind_the_other() -> None:
    rows = [MarkRow(f"s{n}", person(n), "CDEF", 480_000 + n, n, n % 2) for n in range(9)]
    joined = Marks.joined([Marks.of(rows[:1]), Marks.of(rows[1:4]), Marks.of(rows[4:])])
    whole = Marks.of(rows)
    for column in Marks.__dataclass_fields__:
        assert np.array_equal(getattr(joined, column), getattr(whole, column)), column


class _Venues:
    """Some venues, and no news of them."""

    def __init__(self, codes: Iterable[str]) -> None:
        self.register = Register(map(stall, codes))

    async def look(self, seen: int) -> bool:
        del seen
        return False


class _Kept:
    """A producer that keeps what it was given, by the name of the task that gave it."""

    def __init__(self) -> None:
        self.records: dict[str, list[Out]] = {}

    async def send(self, records: Sequence[Out]) -> None:
        await asyncio.sleep(0)
        self.records[cast(Any, asyncio.current_task()).get_name()] = list(records)


@pytest.mark.engines
def test_chunks_that_wait_for_redis_together_are_each_told_what_is_theirs(settings: Settings) -> None:
    """Of twelve chunks with the same persons at the same venues, a case flagged at one of these and a case's
    own person among them."""
    now, chance = now_ms(), random.Random(11)
    codes = sorted(new_code((), choose=random.Random(seed).choice) for seed in range(3))
    sick = person(3)
    at = now // HOUR * HOUR - HOUR
    chunks: list[list[dict[str, Any]]] = [
        [
            {
                "scan_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
                "person": person(chance.randrange(40)),
                "venue": chance.choice(codes[1 - number % 2 :]),  # the flagged one is not in every chunk
                "scanned_at": at + chance.randrange(60) * MINUTE,
                "kind": chance.choice(["in", "out"]),
            }
            for _ in range(150)
        ]
        for number in range(12)
    ]
    fields = {"version": 1, "status": "confirmed"}
    place = Case.model_validate(fields | {"case_id": "k1", "venue": codes[0], "from": at, "to": at + HOUR})
    ill = Case.model_validate(
        fields | {"case_id": "k2", "person": sick, "infectious_from": at, "infectious_to": at + HOUR}
    )
    asked: list[int] = []

    class Watched(Store):
        async def add_scans(self, marks: Marks, flag_venues: Sequence[str]) -> Ingested:
            asked.append(len(marks))
            return await super().add_scans(marks, flag_venues)

    async def work() -> dict[str, list[Out]]:
        store = Watched(connect(settings.redis_url), Layout(16, 30), lambda: now, lambda _: None)
        await store.open({})
        await store.set_case(place, now)
        await store.set_flag(codes[0], place, [], [], now)
        await store.set_case(ill, now)
        await store.set_person_case(ill, now)
        kept = _Kept()
        ingest = Ingest(
            store=store,
            venues=cast(Any, _Venues(codes)),
            producer=cast(Any, kept),
            topics=IngestTopics("scans", "visits", "touched", "rejected"),
            retention_days=30,
            clock_ms=lambda: now,
            metrics=Metrics(),
        )
        async with asyncio.TaskGroup() as group:
            for number, chunk in enumerate(chunks):
                records = [Record(orjson.dumps(scan), n, now) for n, scan in enumerate(chunk)]
                group.create_task(ingest.process(Records.of(records)), name=str(number))
        await store.close()
        return kept.records

    outs = asyncio.run(work())
    assert sum(asked) == 12 * 150
    assert max(asked) > 150, "none went together"

    def mark(scan: dict[str, Any]) -> tuple[str, str, int, str]:
        return scan["person"], scan["venue"], scan["scanned_at"] // MINUTE, scan["kind"]

    made: list[tuple[str, str, int, str]] = []
    told = 0
    for number, chunk in enumerate(chunks):
        records = outs[str(number)]
        assert {out.topic for out in records} <= {"visits", "touched"}
        said = {
            topic: [
                each for out in records if out.topic == topic for each in orjson.loads(cast(bytes, out.value))
            ]
            for topic in ("visits", "touched")
        }
        ids = {visit["scan_id"] for visit in said["visits"]}
        own = [scan for scan in chunk if scan["scan_id"] in ids]
        assert len(own) == len(ids), "a visit of another chunk's scan"
        made += map(mark, own)
        touched = {(each["venue"], each["case"]["case_id"]) for each in said["touched"]}
        told += len(touched)
        assert touched == {(codes[0], "k1") for scan in own if scan["venue"] == codes[0]} | {
            (scan["venue"], "k2") for scan in own if scan["person"] == sick
        }
    assert sorted(made) == sorted({mark(scan) for chunk in chunks for scan in chunk})
    assert told > 12
