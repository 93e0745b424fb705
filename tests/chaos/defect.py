"""truyvet with a deliberate defect: `python tests/chaos/defect.py NAME run ingest --worker 0`.

A judge that cannot fail is worth nothing, so each of these has to be seen by the comparison. The defects
that need a crash bring it with them, once and at the worst moment: marks are in Redis, nothing is published
yet. The file that CHAOS_ONCE names remembers that it was.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import truyvet
from stream_processors import worker
from stream_processors.outputs import DurableProducer, Out
from stream_processors.requests import Marks
from stream_processors.store import DUPLICATE, REDELIVERY, Ingested, Store

ONCE: Final = "CHAOS_ONCE"
# Longer than the time between two commits: what is acknowledged is committed by then.
_COMMITTED_S: Final = 2.5


def _kill_before_publishing(delay_s: float) -> None:
    """The first publication of visits is preceded by SIGKILL."""
    send, marker = DurableProducer.send, Path(os.environ[ONCE])
    if marker.exists():
        return

    def die() -> None:
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    async def send_or_die(self: DurableProducer, records: Sequence[Out]) -> None:
        if any(record.topic.endswith("visits") for record in records):
            await asyncio.sleep(delay_s)
            die()
        await send(self, records)

    DurableProducer.send = send_or_die  # type: ignore[method-assign]


def ack_before_publish() -> None:
    """An offset is committed before what its records caused is durable."""

    async def acknowledge_first(self: Any, event: Any) -> None:
        event.ack()
        try:
            # at once: a chunk that waited to be gathered would not have come to Redis either
            await self._role._ingest.process(event.message.value)
        except BaseException as error:
            self.crash(error)
        finally:
            self._slots.release()

    worker._Running._handle = acknowledge_first  # type: ignore[method-assign]
    _kill_before_publishing(_COMMITTED_S)


def dedup_by_claim() -> None:
    """A mark that is already there is a duplicate, whoever made it."""
    add_scans = Store.add_scans

    async def claim(self: Store, marks: Marks, venues: Sequence[str]) -> Ingested:
        found = await add_scans(self, marks, venues)
        found.verdicts = found.verdicts.replace(REDELIVERY, DUPLICATE)
        return found

    Store.add_scans = claim  # type: ignore[assignment,method-assign]
    _kill_before_publishing(0.0)


def flags_ignored() -> None:
    """A scan does not hear of the cases flagged at its venue."""
    add_scans = Store.add_scans

    async def deaf(self: Store, marks: Marks, venues: Sequence[str]) -> Ingested:
        found = await add_scans(self, marks, venues)
        found.flags = {}
        return found

    Store.add_scans = deaf  # type: ignore[assignment,method-assign]


DEFECTS: Final[dict[str, Callable[[], None]]] = {
    "none": lambda: None,
    "ack-before-publish": ack_before_publish,
    "dedup-by-claim": dedup_by_claim,
    "flags-ignored": flags_ignored,
}


if __name__ == "__main__":
    DEFECTS[sys.argv.pop(1)]()
    truyvet.main()
