"""Doing something with ClickHouse until it is done, or until it is certain that waiting does not help."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from sinks import connection, metrics

_LONGEST_PAUSE_S: Final = 10  # between two tries: a server that is back is noticed within it
# A failure that no table knows may pass: so many tries in about three seconds, before it is believed.
UNKNOWN_TRIES: Final = 6
# A question that is under way for so long counts as waiting: whoever watches for workers that hang must not
# take a slow server for one. Well below the least time after which a worker counts as hanging.
_SLOW_S: Final = 5.0


class ArchiveError(RuntimeError):
    """The sink cannot go on; the message says why and what to do. Nothing is lost: offsets stand still."""


class EndedError(Exception):
    """`stop` was set while ClickHouse was away: what is not committed is read again by the next start."""


class RefusedError(Exception):
    """ClickHouse refuses this block, and would again: for its content, or for a reason that nobody knows."""

    def __init__(self, error: Exception) -> None:
        super().__init__(connection.first_line(error))
        self.error = error


class Patience:
    """`do` carries out one action. Used by one thread; /metrics reads `waiting` from another.

    `tell` gets a line (form and words) at each failure that is tried again.
    """

    def __init__(self, stop: threading.Event, counters: metrics.Metrics, tell: Callable[..., None]) -> None:
        self._stop = stop
        self._metrics = counters
        self._tell = tell
        self._failing = False
        self._searching = False
        self._asked: float | None = None  # monotonic
        counters.waiting.set_function(lambda: float(self.waiting))

    @property
    def waiting(self) -> bool:
        """Whether progress depends on ClickHouse: it is away or slow, or refuses rows that are being looked
        for."""
        asked = self._asked
        slow = asked is not None and time.monotonic() - asked > _SLOW_S
        return self._failing or self._searching or slow

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Many questions in a row, which may take long together."""
        self._searching = True
        try:
            yield
        finally:
            self._searching = False

    def do(
        self,
        what: str,
        action: Callable[[], None],
        sleep: Callable[[float], None],
        tries: int = UNKNOWN_TRIES,
    ) -> None:
        """Do it; after a passing failure again with growing pauses until it is done or `stop` is set, after
        an unknown one so many `tries`.

        Raises RefusedError, ArchiveError when the configuration is at fault, EndedError when `stop` ended it,
        and what `sleep` raises.
        """
        mark = time.monotonic()

        def count() -> None:
            nonlocal mark
            now = time.monotonic()
            self._metrics.waiting_seconds.inc(now - mark)
            mark = now

        def say(state: RetryCallState) -> None:
            self._failing = True
            self._metrics.retries.inc()
            count()
            error = state.outcome.exception() if state.outcome else None
            words = connection.first_line(error) if error else ""
            self._tell("waiting for ClickHouse to %s (nothing is skipped): %s", what, words)

        def again(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            return (
                error is not None and connection.meaning(error) == "unknown" and state.attempt_number < tries
            )

        patiently = Retrying(
            retry=retry_if_exception(lambda error: connection.meaning(error) == "passing") | again,
            wait=wait_random_exponential(multiplier=0.25, max=_LONGEST_PAUSE_S),
            stop=lambda _: self._stop.is_set(),
            sleep=sleep,
            before_sleep=say,
            reraise=True,
        )
        try:
            for attempt in patiently:
                with attempt:
                    self._ask(action)
        except ArchiveError:
            raise
        except Exception as error:
            raise self._verdict(what, error) from error
        finally:
            if self._failing:
                self._failing = False
                count()

    def _ask(self, action: Callable[[], None]) -> None:
        self._asked = time.monotonic()
        try:
            action()
        finally:
            self._asked = None

    def _verdict(self, what: str, error: Exception) -> Exception:
        words, meaning = connection.first_line(error), connection.meaning(error)
        if self._stop.is_set() and meaning in {"passing", "unknown"}:
            return EndedError(f"ended before it could {what}: {words}")
        if meaning in {"content", "unknown"}:
            return RefusedError(error)
        return ArchiveError(f"could not {what}: {words}: {connection.advice(error)}")
