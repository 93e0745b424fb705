"""A worker as `truyvet run` starts it, that fails while a thread of its own is in a call that never returns.

    python tests/growth/failing.py HOW NUMBER

HOW: `chunk`, an ingest worker's first chunk fails; `faust`, the fetching part of Faust does.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from deploy.cli import roles as cli
from stream_processors import roles
from stream_processors.chunks import ChunkConsumer
from stream_processors.records import Records

_NEVER = threading.Event()


def main() -> None:
    how, number = sys.argv[1], int(sys.argv[2])

    async def failing(
        self: roles.IngestRole, partition: int, records: Records, stale: Callable[[], bool]
    ) -> None:
        asyncio.get_running_loop().run_in_executor(None, _NEVER.wait)
        raise RuntimeError("this chunk fails")

    async def fetching(self: ChunkConsumer, timeout: float) -> AsyncIterator[Any]:  # noqa: ASYNC109
        asyncio.get_running_loop().run_in_executor(None, _NEVER.wait)
        for _ in range(1):
            raise RuntimeError("the fetch fails")
        yield

    if how == "chunk":
        roles.IngestRole.process = failing  # type: ignore[method-assign]
    else:
        ChunkConsumer.getmany = fetching  # type: ignore[method-assign]
    cli.run(cli.RoleName("ingest"), number)


if __name__ == "__main__":
    main()
