"""Chunks: how records are cut, and what may be committed."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stream_processors.chunks import ChunkConsumer, Fetching, Pace, cut_chunks
from stream_processors.records import Record, Records


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 10), st.integers(1, 500))
def test_cutting_keeps_every_record_in_order_within_the_bounds(
    sizes: list[int], max_records: int, max_bytes: int
) -> None:
    records = [Record(b"x" * size, offset, 0) for offset, size in enumerate(sizes)]
    chunks = list(cut_chunks(Records.of(records), max_records, max_bytes))
    assert [record for chunk in chunks for record in chunk] == records
    for chunk, after in zip(chunks, [*chunks[1:], None], strict=False):
        assert 1 <= len(chunk) <= max_records
        assert len(chunk) == 1 or chunk.size <= max_bytes
        # none is smaller than it has to be
        assert after is None or len(chunk) == max_records or chunk.size + after[:1].size > max_bytes


def test_a_tombstone_is_a_record_like_another() -> None:
    assert [len(chunk) for chunk in cut_chunks(Records.of([Record(None, 0, 0)] * 3), 2)] == [2, 1]


def test_fetches_wait_longer_only_while_much_comes() -> None:
    calm, busy = Fetching(wait_ms=20), Fetching(wait_ms=60)
    pace = Pace(calm, busy, busy)
    heard = [pace.heard(100_000, 0.05 * turn) for turn in range(21)]  # 2 MB/s
    assert busy in heard
    assert calm not in heard
    heard = [pace.heard(1_000 * (turn % 2), 2 + 0.05 * turn) for turn in range(21)]
    assert heard[0] is calm  # a second without anything came before
    assert busy not in heard


def test_a_single_large_fetch_is_no_rate() -> None:
    pace = Pace(Fetching(wait_ms=20), busy := Fetching(wait_ms=60), busy)
    assert pace.heard(200_000, 0.0) is None
    assert pace.heard(0, 1.0) is not busy


def test_who_has_no_time_to_spare_takes_larger_chunks_until_there_is_plenty() -> None:
    calm, busy, pressed = (Fetching(wait_ms=wait) for wait in (20, 30, 60))
    pace = Pace(calm, busy, pressed)

    def heard(share: float, seconds: float, start: float) -> list[Fetching]:
        """What holds while fetches come every 50 ms and chunks are under way for this part of the time."""
        found = []
        for turn in range(round(seconds / 0.05)):
            now = start + 0.05 * turn
            pace.begun(now)
            pace.begun(now)  # two at once are not twice the time
            pace.done(now + 0.05 * share / 2)
            pace.done(now + 0.05 * share)
            found.append(pace.heard(100_000, now + 0.05))
        return [each for each in found if each is not None]

    assert set(heard(0.85, 2, 0.0)) == {busy}
    assert heard(0.99, 2, 2.0)[-1] is pressed
    assert set(heard(0.85, 2, 4.0)) == {pressed}
    assert heard(0.6, 2, 6.0)[-1] is busy


def test_a_chunk_that_goes_on_and_on_is_time_that_is_not_to_spare() -> None:
    pace = Pace(Fetching(wait_ms=20), Fetching(wait_ms=30), pressed := Fetching(wait_ms=60))
    pace.begun(0.0)
    assert [pace.heard(200_000, now) for now in (0.0, 0.3, 0.6)] == [None, pressed, pressed]


def consumer() -> Any:
    """The bookkeeping alone; a consumer on a broker is in test_pipeline."""
    bare = ChunkConsumer.__new__(ChunkConsumer)
    bare._delivered = {}
    bare._uncommitted = {}
    bare._acked = defaultdict(list)
    bare._acked_index = defaultdict(set)
    return bare


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.data())
def test_a_commit_never_passes_a_chunk_that_is_not_acknowledged(gaps: list[int], data: st.DataObject) -> None:
    """Chunks end at growing offsets with gaps; acknowledged in any order, asked for at any time."""
    bare = consumer()
    tp = ("scans", 0)
    messages = []
    offset = -1
    for gap in gaps:
        offset += gap
        messages.append(SimpleNamespace(offset=offset, acked=False))
    bare._delivered[tp] = deque(messages)
    committed = 0
    for index in data.draw(st.permutations(range(len(messages)))):
        messages[index].acked = True
        if data.draw(st.booleans()):
            committed = bare._new_offset(tp) or committed
            waiting = [message.offset for message in messages if not message.acked]
            assert all(committed <= before for before in waiting)
    committed = bare._new_offset(tp) or committed
    assert committed == messages[-1].offset + 1
    assert bare._new_offset(tp) == committed  # until the commit is known to be done


def test_the_last_commit_is_one_of_its_own() -> None:
    """While one was under way more was acknowledged: a clean stop left it uncommitted, to be done again."""

    async def work() -> list[str]:
        bare, events = consumer(), list[str]()
        bare.loop = asyncio.get_running_loop()
        bare.app = SimpleNamespace(client_only=False)
        bare._commit_fut = under_way = bare.loop.create_future()

        async def force_commit(*_: Any, **__: Any) -> bool:
            events.append("committed")
            return True

        bare.force_commit = force_commit
        last = asyncio.create_task(bare.commit_and_end_transactions())
        await asyncio.sleep(0)
        events.append("the one before ends")
        bare._commit_fut = None
        under_way.set_result(None)
        await last
        return events

    assert asyncio.run(work()) == ["the one before ends", "committed"]


def test_a_fetch_that_ends_during_the_last_steps_forgets_nothing() -> None:
    """It did: what was acknowledged since the last commit was done again by whoever came next."""

    async def work(ends: bool) -> bool:
        bare, tp = consumer(), ("scans", 0)
        done = SimpleNamespace(offset=7, acked=True)
        bare._delivered[tp] = deque([done])
        bare.app = SimpleNamespace(
            should_stop=ends, pace=Pace(Fetching(), Fetching(), Fetching()), consumer_generation_id=1
        )
        bare._stopped, bare._crashed = asyncio.Event(), asyncio.Event()
        bare.flow_active = False
        bare.log = SimpleNamespace(warning=lambda *_: None)  # the seek itself wants a broker

        async def fetch(_: float) -> tuple[dict[Any, Any], None]:
            return {tp: [Records.of([Record(b"{}", 8, 0)])]}, None

        bare._wait_next_records = fetch
        assert [each async for each in bare.getmany(1.0)] == []
        return bool(bare._new_offset(tp) == 8)

    assert asyncio.run(work(ends=True))
    assert not asyncio.run(work(ends=False))  # in a rebalance, it is fetched again
