"""Chunks that wait are done as one, whichever partitions they are of.

A fetch under light load brings few records of each partition, and each chunk costs the same trips to Redis
and Kafka whatever is in it. So one piece of work is under way as long as little waits, and what comes
meanwhile is the next one (as a database commits in groups); only when much waits are several pieces done side
by side. A worker that falls behind does larger pieces instead of more of them. While pieces are of some size,
the first chunk of a fetch waits 2 ms for those of other partitions; a scan that comes alone waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stream_processors.chunks import CHUNK_BYTES
from stream_processors.records import Records

# Records from one chunk or several; those of a partition in the order of delivery.
Work = Callable[[Records], Awaitable[None]]

# So much that waits is worth a piece beside the one under way: its cost is then shared by some 900 scans.
ENOUGH_BYTES: Final = 128 * 1024


# The chunks of a fetch come one after the other, each through an agent's queue: the first of them would be a
# piece by itself.
COMPANY_S: Final = 0.002
FEW_BYTES: Final = 16 * 1024  # a piece of so little, some 100 scans, was of a time when few come


@dataclass(slots=True, eq=False)
class _Chunk:
    records: Records
    size: int
    stale: Callable[[], bool]
    done: asyncio.Future[None]


class Gathering:
    """Does up to `places` pieces of work at once; a piece ends before it would exceed `most` bytes, and is
    begun beside others only when `enough` bytes wait."""

    def __init__(self, work: Work, places: int, most: int = CHUNK_BYTES, enough: int = ENOUGH_BYTES) -> None:
        self._work = work
        self._places = places
        self._most = most
        self._enough = enough
        self._waiting: deque[_Chunk] = deque()
        self._size = 0  # of what waits
        self._last = 0  # of the piece begun last
        self._pieces: set[asyncio.Task[None]] = set()

    async def process(self, records: Records, stale: Callable[[], bool]) -> None:
        """Return when the chunk is done, by itself or with others. Raises what the work raised."""
        size = records.size
        own = _Chunk(records, size, stale, asyncio.get_running_loop().create_future())
        self._waiting.append(own)
        self._size += size
        if self._pieces or self._size >= self._enough or self._last < FEW_BYTES:
            self._begin()
        elif len(self._waiting) == 1:  # the first: the others that wait begin with it
            asyncio.get_running_loop().call_later(COMPANY_S, self._begin)
        await own.done

    def _begin(self) -> None:
        while (
            self._waiting
            and len(self._pieces) < self._places
            and (not self._pieces or self._size >= self._enough)
        ):
            piece = asyncio.get_running_loop().create_task(self._do(self._next()))
            self._pieces.add(piece)
            piece.add_done_callback(self._ended)

    def _ended(self, piece: asyncio.Task[None]) -> None:
        self._pieces.discard(piece)
        self._begin()

    def _next(self) -> list[_Chunk]:
        """The chunks that have waited longest."""
        chunks, size = list[_Chunk](), 0
        while self._waiting and (not chunks or size + self._waiting[0].size <= self._most):
            chunk = self._waiting.popleft()
            chunks.append(chunk)
            size += chunk.size
        self._size -= size
        self._last = size
        return chunks

    async def _do(self, chunks: Sequence[_Chunk]) -> None:
        try:
            fresh = [chunk.records for chunk in chunks if not chunk.stale()]
            if fresh:
                await self._work(Records.joined(fresh))
        except Exception as error:
            for chunk in chunks:
                if not chunk.done.done():  # whoever waited may be gone
                    chunk.done.set_exception(error)
        except BaseException:
            for chunk in chunks:
                chunk.done.cancel()
            raise
        else:
            for chunk in chunks:
                if not chunk.done.done():
                    chunk.done.set_result(None)
