"""A matcher stopped past its session time-out and woken again leaves no stale record last."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from deploy.local.engines import free_ports
from schemas import topics
from schemas.settings import Settings
from tests.growth import stopping
from tests.stream.harness import HOUR, MINUTE, installed, now_ms, person

pytestmark = pytest.mark.engines

VENUES, PEOPLE = 12, 60


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def test_a_matcher_that_wakes_up_late_is_shut_out(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "stop"
    ports = free_ports(2)
    command = (sys.executable, stopping.__file__, str(file))
    with installed(settings, tmp_path, "ingest", "cases") as there:
        there.launch("matcher:old", *command, "0", str(ports[0]))
        venues = [there.venue() for _ in range(VENUES)]
        start = now_ms() // HOUR * HOUR - 26 * HOUR
        for number in range(PEOPLE):
            there.scan(person(number), venues[number % VENUES], start + MINUTE)
        for at, venue in enumerate(venues):
            there.scan(person(10**6), venue, start + at * MINUTE)
        there.settle(("ingest",))
        file.touch()
        case = {"person": person(10**6), "infectious_from": start - HOUR, "infectious_to": now_ms()}
        there.case(**case)
        old = there.running.pop("matcher:old")
        there.wait(lambda: stopped(old.pid), "the matcher has stopped itself")

        # another one, which the group gives the partitions once the session of the first is over
        there.launch("matcher:1", *command, "1", str(ports[1]))
        there.settle(("matcher",), 60)  # an open transaction is gone by then: it would hold readers back
        there.wait(lambda: len(there.exposed()) == PEOPLE, "the new matcher has published all")
        there.case(version=2, **case | {"status": "withdrawn"})
        there.settle(("cases", "matcher"))
        there.wait(lambda: there.exposed() == {}, "all are withdrawn")
        before = there.last(topics.EXPOSURES)

        old.send_signal(signal.SIGCONT)
        assert old.wait(40) == 1, "it was shut out, and ended"
        time.sleep(1)
        assert "PublishError" in (tmp_path / "matcherold.log").read_text()
        assert there.last(topics.EXPOSURES) == before  # reads all: versions of a key never fall
        assert {entry["status"] for entry in before.values()} == {"withdrawn"}
        assert there.running["matcher:1"].poll() is None
