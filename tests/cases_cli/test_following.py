"""A subscriber that runs for long: only committed records, from now on, and through a broker's restart."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.alerts import Unreadable, follow
from deploy.local import engines as local
from deploy.local.topics import TopicAdmin
from schemas import topics
from schemas.settings import Settings
from tests.cases_cli.test_alerts import exposure
from tests.cases_cli.writing import as_record, write

pytestmark = pytest.mark.engines


class Listener:
    """`follow` in a thread, as a subscriber would run it, until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self.heard: list[object] = []
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._readings = itertools.count(1)
        self._thread = threading.Thread(target=self._run, args=(settings,))
        self._thread.start()
        assert self._ready.wait(20), self.heard

    def _clock(self) -> float:
        # the idle limit passes at once when the test has heard enough: from one reading to the next, for the
        # last record may be noted as heard after the stop
        return time.monotonic() + (1e6 * next(self._readings) if self._stop.is_set() else 0)

    def _run(self, settings: Settings) -> None:
        try:
            for found in follow(
                settings, from_beginning=False, until_idle=60, on_ready=self._ready.set, clock=self._clock
            ):
                assert not isinstance(found, Unreadable)
                self.heard.append(found)
        except Exception as error:
            self.heard.append(error)

    def wait_for(self, enough: Callable[[list[object]], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not enough(self.heard):
            time.sleep(0.02)
        return enough(self.heard)

    def stop(self) -> list[object]:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.heard


def test_follow_hears_only_what_is_committed_from_now_on(settings: Settings) -> None:
    write(settings, topics.EXPOSURES, [as_record(exposure(1))])
    listener = Listener(settings)
    aborted = write(settings, topics.EXPOSURES, [as_record(exposure(7))], transaction="aborted")
    aborted.abort_transaction(30)
    open_one = write(settings, topics.EXPOSURES, [as_record(exposure(8))], transaction="open")
    heard_too_early = listener.wait_for(bool, 1)
    open_one.commit_transaction(30)
    listener.wait_for(bool, 10)
    assert listener.stop() == [exposure(8)]
    assert not heard_too_early


def test_follow_goes_on_after_the_broker_was_restarted(tmp_path: Path) -> None:
    port, controller = local.free_ports(2)
    broker = local.kafka(tmp_path / "kafka", port, controller)
    settings = Settings(kafka=f"127.0.0.1:{port}")
    with local.scratch([broker], tmp_path / "logs"):
        TopicAdmin(settings).apply()
        write(settings, topics.EXPOSURES, [as_record(exposure(1))])
        listener = Listener(settings)
        write(settings, topics.EXPOSURES, [as_record(exposure(2))])
        before = listener.wait_for(bool, 10)
    with local.scratch([broker], tmp_path / "logs"):
        write(settings, topics.EXPOSURES, [as_record(exposure(3))])
        listener.wait_for(lambda heard: len(heard) == 2, 20)
        assert listener.stop() == [exposure(2), exposure(3)]
    assert before
