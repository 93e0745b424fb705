"""An alarm for many rejected scans: a broken gateway, or a register that was not imported, is soon noticed.

Scans are counted in a window that slides over the last seconds. The alarm says nothing about single scans:
those lie in `scans.rejected` with their reasons.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from stream_processors.metrics import Metrics

log: Final = logging.getLogger(__name__)

WINDOW_S: Final = 60.0
# Fewer scans say nothing: two typing errors of the first three in the morning are no alarm.
AT_LEAST: Final = 100
# A share that swings about the bound would begin and end an alarm with every chunk.
CALM_S: Final = 10.0
_SLICE_S: Final = 1.0  # what leaves the window at once: its memory is bounded by time, not by chunks
_REASONS_TOLD: Final = 3


@dataclass(frozen=True, slots=True)
class News:
    """The alarm began or ended. `rejected` of `scans` within the window; `reasons`, most frequent first."""

    alarm: bool
    scans: int
    rejected: int
    reasons: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        share = self.rejected / self.scans if self.scans else 0.0
        found = f"{share:.0%} of the last {self.scans:,} scans are rejected"
        if not self.alarm:
            return f"the alarm is over: {found}"
        words = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons[:_REASONS_TOLD])
        return f"{found}: {words}; see `truyvet rejected list`"


class PoisonGuard:
    """Says when the share of rejected scans rises above `share`, and when that is over. Not thread-safe.

    `clock` gives seconds and never goes back. The alarm begins with at least `at_least` scans in the window
    of `window_s`; it ends when the share was not above for `calm_s`, or when too few scans are left to tell.
    """

    def __init__(
        self,
        share: float,
        clock: Callable[[], float],
        *,
        window_s: float = WINDOW_S,
        at_least: int = AT_LEAST,
        calm_s: float = CALM_S,
    ) -> None:
        self.alarm = False
        self._share = share
        self._clock = clock
        self._window_s = window_s
        self._at_least = at_least
        self._calm_s = calm_s
        self._above = 0.0  # when the share was above last
        self._slices: deque[tuple[float, int, Counter[str]]] = deque()  # from when, scans, rejected by reason
        self._scans = 0
        self._rejected: Counter[str] = Counter()

    def seen(self, scans: int, rejected: Iterable[str] = ()) -> News | None:
        """Some scans were judged, those of `rejected` (a reason each) among them; what that changes.

        With no scans: what the passing of time changes.
        """
        now = self._clock()
        reasons = Counter(rejected)
        if scans:
            if not self._slices or now - self._slices[-1][0] >= _SLICE_S:
                self._slices.append((now, 0, Counter()))
            since, count, before = self._slices[-1]
            before.update(reasons)
            self._slices[-1] = since, count + scans, before
            self._scans += scans
            self._rejected.update(reasons)
        while self._slices and self._slices[0][0] <= now - self._window_s:
            _, count, gone = self._slices.popleft()
            self._scans -= count
            self._rejected.subtract(gone)
        return self._judge(now)

    def _judge(self, now: float) -> News | None:
        enough = self._scans >= self._at_least
        rejected = self._rejected.total()
        above = enough and rejected > self._share * self._scans
        if above:
            self._above = now
        ended = self.alarm and not above and (not enough or now - self._above >= self._calm_s)
        if above == self.alarm or not (above or ended):
            return None
        self.alarm = above
        reasons = tuple((reason, count) for reason, count in self._rejected.most_common() if count)
        return News(above, self._scans, rejected, reasons)


class PoisonAlarm:
    """The guard of one worker: tells the log when the alarm begins and ends, and the metric as it stands.

    Thread-safe: chunks are told by the worker, and whoever reads the metric asks too, so that an alarm also
    ends when no scan comes any more.
    """

    def __init__(self, guard: PoisonGuard, metrics: Metrics) -> None:
        self._guard = guard
        self._lock = threading.Lock()
        metrics.poison_alarm.set_function(lambda: float(self.seen(0)))

    def seen(self, scans: int, rejected: Iterable[str] = ()) -> bool:
        """See PoisonGuard.seen; whether the alarm stands."""
        with self._lock:
            news = self._guard.seen(scans, rejected)
            stands = self._guard.alarm
        if news is not None:
            log.log(logging.ERROR if news.alarm else logging.WARNING, "%s", news)
        return stands
