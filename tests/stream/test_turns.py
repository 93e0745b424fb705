"""Whose turn it is at a partition of the matcher, and when a chunk is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from producers.cases import make_case
from stream_processors.matcher import Matcher
from stream_processors.touches import Touch

CASE = make_case(
    case_id="k1", version=1, status="confirmed", person="f" * 16, infectious_from=0, infectious_to=60_000
)


class _Steps(Matcher):
    """The turns alone: publishing says what it was, the last step waits or fails as it is told."""

    def __init__(self) -> None:
        self._turns, self._waiting = {}, {}
        self.published: list[list[str]] = []
        self.publish = asyncio.Event()
        self.go_on = asyncio.Event()
        self.failure: Exception | None = None

    async def _owned(self, partition: int) -> Any:
        return None

    async def _publish(self, producer: Any, group: Sequence[Touch]) -> Any:
        await self.publish.wait()
        self.published.append([touch.venue for touch in group])
        return [], []

    async def _settle(self, pending: Any, news: Any) -> None:
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure


def _chunk(own: _Steps, venue: str) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(own.process(0, [Touch(venue, CASE, persons=None)]))


async def _turns(work: int = 20) -> None:
    for _ in range(work):
        await asyncio.sleep(0)


def test_the_next_chunk_begins_beside_the_last_step_and_none_is_done_before_its_own() -> None:
    async def work() -> None:
        own = _Steps()
        chunks = [_chunk(own, "one")]
        await _turns()
        chunks += [_chunk(own, "two"), _chunk(own, "three")]
        await _turns()
        assert not own.published
        own.publish.set()
        await _turns()
        assert own.published == [["one"], ["two", "three"]]  # what waits is one
        assert not any(chunk.done() for chunk in chunks)
        own.go_on.set()
        await asyncio.wait_for(asyncio.gather(*chunks), 5)

    asyncio.run(work())


def test_a_last_step_that_fails_fails_every_chunk_that_waits_for_it() -> None:
    async def work() -> None:
        own = _Steps()
        chunks = [_chunk(own, "one"), _chunk(own, "two")]
        own.failure = RuntimeError("Redis is away")
        own.publish.set()
        own.go_on.set()
        for chunk in chunks:
            with pytest.raises(RuntimeError, match="away"):
                await asyncio.wait_for(chunk, 5)

    asyncio.run(work())
