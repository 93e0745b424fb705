"""Follow the exposures in a thread, and tell when something has come true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from deploy.alerts import Newest, follow
from deploy.local.lag import LagUnknownError, consumer_lag
from deploy.local.roles import ROLES
from schemas.events import Exposure
from schemas.settings import Settings
from schemas.topics import Topic


class Alerts:
    """What an alert consumer knows: the newest version of each exposure, and when the last news came."""

    def __init__(self, settings: Settings) -> None:
        self.newest: dict[str, Exposure] = {}
        self.last_news = time.monotonic()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._settings = settings
        threading.Thread(target=self._run, name="alerts", daemon=True).start()

    def _run(self) -> None:
        known = Newest()
        try:
            for item in follow(self._settings, from_beginning=True):
                if isinstance(item, Exposure) and known.take(item) is not None:
                    with self._lock:
                        self.newest[item.exposure_id] = item
                        self.last_news = time.monotonic()
        except Exception as error:
            self._failure = error

    def snapshot(self) -> dict[str, Exposure]:
        """The newest version of each exposure. Raises what ended the following."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            return dict(self.newest)

    def exposed(self, case_id: str) -> list[Exposure]:
        """Whom a case exposes now."""
        return [
            exposure
            for exposure in self.snapshot().values()
            if exposure.case_id == case_id and exposure.status == "exposed"
        ]


def lag(settings: Settings, role: str, topics: tuple[Topic, ...] | None = None) -> int | None:
    """Records that a role has not acknowledged (of these topics); none when Kafka cannot tell now."""
    names = None if topics is None else {settings.topic(topic) for topic in topics}
    try:
        return sum(
            found.records
            for found in consumer_lag(settings, [ROLES[role]])
            if names is None or found.topic in names
        )
    except LagUnknownError:
        return None


def wait_until(true: Callable[[], bool], what: str, seconds: float) -> None:
    """Raises TimeoutError that says what did not come true."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true in {seconds:.0f} s: see truyvet logs")
        time.sleep(0.05)
