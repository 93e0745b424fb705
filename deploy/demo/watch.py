"""Follow the exposures in a thread, and tell when something has come true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from deploy.alerts import Newest, Unreadable, follow
from deploy.local.lag import LagUnknownError, consumer_lag
from deploy.local.roles import ROLES
from schemas import topics
from schemas.events import Exposure
from schemas.settings import Settings
from schemas.topics import Topic


class Alerts:
    """What an alert consumer knows: the newest version of each exposure, and when each news came.

    Follows from the topic's beginning, in a thread, until the process ends.
    """

    def __init__(self, settings: Settings) -> None:
        self._newest: dict[str, Exposure] = {}
        self._news: list[tuple[float, Exposure]] = []
        self._lock = threading.Lock()
        self._failure: Exception | None = None
        self._settings = settings
        threading.Thread(target=self._run, name="alerts", daemon=True).start()

    def _run(self) -> None:
        known = Newest()
        try:
            for item in follow(self._settings, from_beginning=True):
                if isinstance(item, Unreadable):
                    raise ValueError(f"a record of the topic is no exposure: {item.problem}")
                if known.take(item) is not None:
                    with self._lock:
                        self._newest[item.exposure_id] = item
                        self._news.append((time.monotonic(), item))
        except Exception as error:
            self._failure = error

    def newest(self) -> list[Exposure]:
        """The newest version of each exposure. Raises what ended the following."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            return list(self._newest.values())

    def news(self, start: int = 0) -> list[tuple[float, Exposure]]:
        """(when by the monotonic clock, what) of every news from this number on, in the order they came."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            return self._news[start:]

    def exposed(self, case_id: str) -> list[Exposure]:
        """Whom a case exposes now."""
        return [
            exposure
            for exposure in self.newest()
            if exposure.case_id == case_id and exposure.status == "exposed"
        ]


def lag(settings: Settings, role: str, of: tuple[Topic, ...] | None = None) -> int | None:
    """Records that a role has not acknowledged (of these topics); none when Kafka cannot tell now."""
    names = None if of is None else {settings.topic(topic) for topic in of}
    try:
        return sum(
            found.records
            for found in consumer_lag(settings, [ROLES[role]])
            if names is None or found.topic in names
        )
    except LagUnknownError:
        return None


def archived(settings: Settings) -> bool:
    """Whether the archive has everything that was published so far."""
    kept = (topics.VISITS, topics.SCANS_REJECTED, topics.CASES, topics.VENUES)
    # the end of a transaction takes an offset too, which nobody reads: at most one a partition is left
    marks = settings.partitions.get(topics.EXPOSURES.name, topics.EXPOSURES.partitions)
    left = lag(settings, "archive", (topics.EXPOSURES,))
    return left is not None and left <= marks and lag(settings, "archive", kept) == 0


def wait_until(true: Callable[[], bool], what: str, seconds: float) -> None:
    """Raises TimeoutError that says what did not come true."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {seconds:.0f} s, something has stalled")
        time.sleep(0.05)
