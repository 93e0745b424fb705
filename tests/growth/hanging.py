"""A worker as `truyvet run` starts it, that hangs as Faust does: its loop stands, its threads go on.

    python tests/growth/hanging.py FILE ROLE NUMBER

When FILE is there as a chunk comes, the file is removed and that chunk never ends; heartbeats and /metrics
go on. The next start works.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from deploy.cli import roles as cli
from stream_processors import roles
from stream_processors.records import Records


def hang_if(file: Path) -> None:
    """Block whoever calls, for ever, if the file is there."""
    if file.exists():
        file.unlink()
        print("hangs", flush=True)
        while True:
            time.sleep(60)


def main() -> None:
    file, role, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    process = roles.IngestRole.process

    async def hanging(
        self: roles.IngestRole, partition: int, records: Records, stale: Callable[[], bool]
    ) -> None:
        hang_if(file)
        await process(self, partition, records, stale)

    roles.IngestRole.process = hanging  # type: ignore[method-assign]
    cli.run(cli.RoleName(role), number)


if __name__ == "__main__":
    main()
