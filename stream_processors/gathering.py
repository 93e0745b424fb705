"""Chunks of a partition that wait are done as one.

A fetch under light load brings few records, and each chunk costs the same trips to Redis and Kafka whatever
is in it. While all places are taken, what comes is gathered, so a worker that falls behind does larger pieces
instead of more of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stream_processors.chunks import CHUNK_BYTES

# The records of one partition, from one chunk or several in the order of delivery.
Work = Callable[[int, Sequence[Any]], Awaitable[None]]


@dataclass(slots=True, eq=False)
class _Chunk:
    records: Sequence[Any]
    size: int
    stale: Callable[[], bool]
    done: asyncio.Future[None]
    taken: bool = False


class Gathering:
    """Does up to `places` pieces of work at once; a piece ends before it would exceed `most` bytes."""

    def __init__(self, work: Work, places: int, most: int = CHUNK_BYTES) -> None:
        self._work = work
        self._places = asyncio.Semaphore(places)
        self._most = most
        self._waiting: dict[int, deque[_Chunk]] = {}

    async def process(self, partition: int, records: Sequence[Any], stale: Callable[[], bool]) -> None:
        """Return when the chunk is done, by itself or with others. Raises what the work raised."""
        size = sum(len(record.value or b"") for record in records)
        own = _Chunk(records, size, stale, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(partition, deque()).append(own)
        async with self._places:
            while not own.taken:
                await self._do(partition)
        await own.done

    async def _do(self, partition: int) -> None:
        """The chunks that have waited longest."""
        waiting, chunks, size = self._waiting[partition], list[_Chunk](), 0
        while waiting and (not chunks or size + waiting[0].size <= self._most):
            chunk = waiting.popleft()
            chunk.taken = True
            chunks.append(chunk)
            size += chunk.size
        try:
            records = [record for chunk in chunks if not chunk.stale() for record in chunk.records]
            if records:
                await self._work(partition, records)
        except BaseException as error:
            for chunk in chunks:
                if not chunk.done.done():
                    chunk.done.set_exception(error)
                    chunk.done.exception()  # seen: a task that was cancelled asks no more
            raise
        for chunk in chunks:
            if not chunk.done.done():
                chunk.done.set_result(None)
