"""Chunks that wait are done as one, whichever partitions they are of.

A fetch under light load brings few records of each partition, and each chunk costs the same trips to Redis
and Kafka whatever is in it. So one piece of work is under way as long as little waits, and what comes
meanwhile is the next one (as a database commits in groups); only when much waits are several pieces done side
by side. A worker that falls behind does larger pieces instead of more of them. While pieces are of some size,
the first chunk of a fetch waits 2 ms for those of other partitions; a scan that comes alone waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from stream_processors.chunks import CHUNK_BYTES
from stream_processors.records import Records
from stream_processors.together import Together

# Records from one chunk or several; those of a partition in the order of delivery.
Work = Callable[[Records], Awaitable[None]]

# So much that waits is worth a piece beside the one under way: its cost is then shared by some 900 scans.
ENOUGH_BYTES: Final = 128 * 1024


# The chunks of a fetch come one after the other, each through an agent's queue: the first of them would be a
# piece by itself.
COMPANY_S: Final = 0.002
FEW_BYTES: Final = 16 * 1024  # a piece of so little, some 100 scans, was of a time when few come


class _Chunk(NamedTuple):
    records: Records
    stale: Callable[[], bool]


class Gathering(Together[_Chunk, None]):
    """Does up to `places` pieces of work at once; a piece ends before it would exceed `most` bytes, and is
    begun beside others only when `enough` bytes wait."""

    def __init__(self, work: Work, places: int, most: int = CHUNK_BYTES, enough: int = ENOUGH_BYTES) -> None:
        super().__init__(self._done, places, most)
        self._of_records = work
        self._enough = enough

    async def process(self, records: Records, stale: Callable[[], bool]) -> None:
        """Return when the chunk is done, by itself or with others. Raises what the work raised."""
        done = self.add(_Chunk(records, stale), records.size)
        if self.under_way or self.size >= self._enough or self.last < FEW_BYTES:
            self.begin()
        elif self.waiting == 1:  # the first: the others that wait begin with it
            asyncio.get_running_loop().call_later(COMPANY_S, self.begin)
        await done

    def ready(self) -> bool:
        return not self.under_way or self.size >= self._enough

    async def _done(self, chunks: Sequence[_Chunk]) -> list[None]:
        fresh = [chunk.records for chunk in chunks if not chunk.stale()]
        if fresh:
            await self._of_records(Records.joined(fresh))
        return [None] * len(chunks)
