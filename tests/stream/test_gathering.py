"""Chunks that wait are done as one: each once, in order, and none is said to be done before it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_processors import gathering
from stream_processors.gathering import Gathering
from stream_processors.records import Record, Records


def chunk(*offsets: int, size: int = 1, partition: int = 0) -> Records:
    return Records.of(Record(b"x" * size, offset, 0, (), partition) for offset in offsets)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_every_chunk_is_done_once_and_before_it_is_said_to_be(
    chunks: list[tuple[int, int, bool]], places: int, most: int, enough: int
) -> None:
    done: dict[int, list[int]] = {0: [], 1: [], 2: []}
    pieces: list[int] = []
    under_way = 0

    async def work(records: Records) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way <= places
        pieces.append(len(records))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for each in records:
            done[each.partition].append(each.offset)
        under_way -= 1

    async def everything() -> None:
        gathering = Gathering(work, places, most, enough)

        async def one(number: int, partition: int, count: int, stale: bool) -> None:
            mine = chunk(*(number * 10 + at for at in range(count)), partition=partition)
            await gathering.process(mine, lambda: stale)
            assert stale or set(mine.offsets) <= set(done[partition])

        await asyncio.wait_for(
            asyncio.gather(*(one(number, *chunk) for number, chunk in enumerate(chunks))), timeout=10
        )

    asyncio.run(everything())
    for partition, offsets in done.items():
        assert sorted(offsets) == [
            number * 10 + at
            for number, (of, count, stale) in enumerate(chunks)
            if of == partition and not stale
            for at in range(count)
        ]
        if places == 1:
            assert offsets == sorted(offsets)
    assert all(size <= max(most, 4) for size in pieces)


def pieces_of(chunks: int, places: int, enough: int) -> list[int]:
    """The sizes of the pieces begun before anything is done, then those of what was left. The first chunk
    comes alone."""
    pieces: list[int] = []
    gate, begun = asyncio.Event(), asyncio.Event()

    async def work(records: Records) -> None:
        pieces.append(len(records))
        begun.set()
        await gate.wait()

    async def everything() -> None:
        gathering = Gathering(work, places, enough=enough)
        for at in range(chunks):
            task = asyncio.create_task(gathering.process(chunk(at, partition=at % 3), lambda: False))
            tasks.append(task)
            await begun.wait()
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(*tasks)

    tasks: list[asyncio.Task[None]] = []
    asyncio.run(everything())
    return pieces


def test_what_waits_is_gathered_from_all_partitions() -> None:
    assert pieces_of(9, 1, 1) == [1, 8]


def test_a_piece_beside_another_is_begun_only_when_it_is_worth_it() -> None:
    assert pieces_of(9, 4, 100) == [1, 8]
    assert pieces_of(9, 4, 3) == [1, 3, 3, 2]
    assert pieces_of(12, 3, 3) == [1, 3, 3, 5]


def test_what_one_fetch_brought_is_one_piece_though_it_comes_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "COMPANY_S", 0.2)  # turns of the loop, however slow the machine
    pieces: list[int] = []

    async def work(records: Records) -> None:
        pieces.append(len(records))

    async def everything() -> None:
        of_fetches = Gathering(work, 4)
        await of_fetches.process(chunk(0, size=gathering.FEW_BYTES), lambda: False)
        tasks = []
        for at in range(4):
            tasks.append(asyncio.create_task(of_fetches.process(chunk(at, partition=at), lambda: False)))
            await asyncio.sleep(0)  # an agent's queue takes turns of the loop
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await of_fetches.process(chunk(9), lambda: False)
        monkeypatch.setattr(gathering, "COMPANY_S", 3600)
        await asyncio.wait_for(of_fetches.process(chunk(10), lambda: False), timeout=10)

    asyncio.run(everything())
    assert pieces == [1, 4, 1, 1]  # few came last: who comes alone then waits for nobody


def test_what_is_worth_a_piece_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "COMPANY_S", 3600)

    async def work(records: Records) -> None:
        pass

    async def everything() -> None:
        large = Gathering(work, 4, enough=gathering.FEW_BYTES)
        await asyncio.wait_for(large.process(chunk(0, size=gathering.FEW_BYTES), lambda: False), timeout=10)
        await asyncio.wait_for(large.process(chunk(1, size=gathering.FEW_BYTES), lambda: False), timeout=10)

    asyncio.run(everything())


def test_a_failure_is_that_of_every_chunk_of_the_piece() -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def work(records: Records) -> None:
        begun.set()
        await gate.wait()
        if records.offsets[0]:
            raise RuntimeError("no")

    async def everything() -> list[Any]:
        gathering = Gathering(work, 1)
        tasks = []
        for at in range(4):
            tasks.append(asyncio.create_task(gathering.process(chunk(at), lambda: False)))
            await begun.wait()
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, *others = asyncio.run(everything())
    assert first is None
    assert len(others) == 3
    for error in others:
        with pytest.raises(RuntimeError, match="no"):
            raise error
