"""A matcher as `truyvet run` starts it, that stops itself (SIGSTOP) at the two worst moments at once.

    python tests/growth/stopping.py FILE NUMBER PORT

NUMBER is the worker's in its group, PORT that of its metrics: `truyvet run` knows one matcher only.
While FILE is there: the second decision has its transaction written and not committed, all others wait
between what they wrote to Redis as pending and theirs; then the whole process stops. Whoever wakes it
(SIGCONT) finds it going on with all as if no time had passed.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.settings import load_settings
from stream_processors import outputs
from stream_processors.roles import run_role

_SEND = outputs.TransactionalProducer.send


class Stopping:
    """A producer whose process stops before it commits."""

    def __init__(self, producer: Any, file: Path, arrived: threading.Event) -> None:
        self._producer, self._file, self._arrived = producer, file, arrived

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def commit_transaction(self, timeout_s: float) -> None:
        self._producer.flush(timeout_s)  # the records are at the broker, not committed
        self._file.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._arrived.set()
        self._producer.commit_transaction(timeout_s)


def main() -> None:
    file, number, port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    arrived, second = threading.Event(), itertools.count()

    def send(
        self: outputs.TransactionalProducer, records: Sequence[outputs.Out], timeout_s: float = 30.0
    ) -> None:
        if file.exists():
            if next(second) == 1:
                self._producer = Stopping(self._producer, file, arrived)  # type: ignore[assignment]
            else:
                arrived.wait()
        _SEND(self, records, timeout_s)

    outputs.TransactionalProducer.send = send  # type: ignore[method-assign]

    def clock_ms() -> int:
        return time.time_ns() // 1_000_000

    run_role("matcher", load_settings(), clock_ms, number, port, rebuild=lambda settings: None)


if __name__ == "__main__":
    main()
