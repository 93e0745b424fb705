"""Ingest grows from one worker to three and shrinks again while scans stream: nothing is lost or doubled."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from deploy.local.roles import INGEST
from deploy.local.watchdog import owners_of
from schemas import topics
from schemas.settings import Settings
from tests.growth.load import Load, counter, marks_of, visits_written
from tests.stream.harness import Installation, installed

pytestmark = pytest.mark.engines

A_SECOND = 1_500  # scans: the load goes on through every rebalance, and a small machine keeps up


class Streaming(threading.Thread):
    """Scans, evenly, until it is told to end."""

    def __init__(self, load: Load) -> None:
        super().__init__(daemon=True)
        self._load = load
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.1):
            self._load.scans(A_SECOND // 10)
            self._load.there.producer.poll(0)

    def end(self) -> None:
        self._end.set()
        self.join(10)


def shared_by(settings: Settings) -> set[str]:
    return set(owners_of(settings, INGEST).values())


def end(there: Installation, role: str) -> None:
    process = there.running.pop(role)
    process.terminate()
    assert process.wait(10) == 0, there.tail(role)


def test_growing_and_shrinking_under_load(settings: Settings, tmp_path: Path) -> None:
    with installed(settings, tmp_path, "ingest:0", "cases", "matcher") as there:
        load = Load(there)
        load.index()
        stream = Streaming(load)
        stream.start()
        there.wait(lambda: shared_by(settings) == {"ingest-0"}, "one worker has all")

        there.start("ingest:1", "ingest:2")
        there.wait(lambda: len(shared_by(settings)) == 3, "three workers share the partitions", 40)

        def accepted(worker: int) -> float:
            return counter(settings, "ingest", "truyvet_scans_total", worker, verdict="accepted")

        there.wait(lambda: all(map(accepted, range(3))), "all three are at work", 30)
        end(there, "ingest:2")
        end(there, "ingest:0")  # the one that was first, and leads the group
        there.wait(lambda: shared_by(settings) == {"ingest-1"}, "the one that is left has all", 40)
        time.sleep(1)
        stream.end()
        there.settle()

        records = there.read(topics.VISITS)
        assert marks_of(records) == {mark: {scan_id} for mark, scan_id in load.sent.items()}
        assert there.values(topics.SCANS_REJECTED) == []
        exposed = there.last(topics.EXPOSURES)  # versions of a key never fall
        assert there.exposed() == load.exposures()
        assert all(entry["status"] == "exposed" for entry in exposed.values())
        print(f"{len(load.sent)} scans, {visits_written(records) - len(load.sent)} visits written again")
