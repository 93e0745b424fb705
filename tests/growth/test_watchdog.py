"""Workers that hang with their processes alive: found from the outside, ended, and nothing is missing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from deploy.local.roles import INGEST, Worker
from deploy.local.stack import Stack, role_command
from deploy.local.status import status
from deploy.local.watch import deaths
from deploy.local.watchdog import owners_of
from schemas import topics
from schemas.settings import Settings
from tests.growth import hanging
from tests.stream.harness import HOUR, MINUTE, Installation, now_ms, person

pytestmark = pytest.mark.engines

ROLES = ("ingest", "cases", "matcher")


@pytest.fixture
def hang(tmp_path: Path) -> Path:
    """The file that makes ingest-1 hang."""
    return tmp_path / "hang"


@pytest.fixture
def stack(settings: Settings, tmp_path: Path, hang: Path) -> Iterator[Stack]:
    own = settings.model_copy(update={"data": tmp_path / "data", "ingest_workers": 2, "stalled_seconds": 8})

    def command(worker: Worker) -> tuple[str, ...]:
        if worker == Worker(INGEST, 1):
            return sys.executable, hanging.__file__, str(hang), "ingest", "1"
        return role_command(worker)

    made = Stack(own, command)
    try:
        made.up(ROLES)
        yield made
    finally:
        made.down()
        assert made.leftovers() == []


def test_workers_that_hang_are_found_and_ended(stack: Stack, hang: Path, tmp_path: Path) -> None:
    there = Installation(stack.settings, tmp_path)
    market, start = there.venue(), now_ms() // HOUR * HOUR - 26 * HOUR
    sent = set[str]()

    def crowd(people: range) -> None:
        """Scans into every partition: either worker has some."""
        for number in people:
            scan: dict[str, object] = {
                "scan_id": f"00000000-0000-4000-8000-{number:012x}",
                "person": person(number),
            }
            scan |= {"venue": market, "scanned_at": start + number % 7 * MINUTE}
            there.send(topics.SCANS, orjson.dumps(scan), partition=number % topics.SCANS.partitions)
            sent.add(str(scan["scan_id"]))
        there.flush()

    there.wait(lambda: len(set(owners_of(stack.settings, INGEST).values())) == 2, "both have partitions")
    crowd(range(1, 201))
    there.settle(ROLES)
    before = {name: process.pid for name, process in stack.supervisor.processes().items()}

    hang.touch()
    os.kill(before["matcher"], signal.SIGSTOP)
    crowd(range(201, 401))
    there.case(person=person(1), infectious_from=start - HOUR, infectious_to=now_ms())
    began = time.monotonic()

    def noted() -> dict[str, str]:
        return {death["process"]: death["reason"] for death in deaths(stack.folder)}

    there.wait(lambda: len(noted()) == 2, "both are ended", 35)
    assert time.monotonic() - began < 30
    assert not hang.exists()
    there.settle(ROLES, 30)

    found = noted()
    assert set(found) == {"matcher", "ingest-1"}, "the worker that did its work was left alone"
    assert all(reason.startswith("no progress for ") for reason in found.values()), found
    after = {name: process.pid for name, process in stack.supervisor.processes().items()}
    assert {name for name in after if after[name] != before[name]} - {"watchdog"} == {"matcher", "ingest-1"}
    assert {visit["scan_id"] for record in there.values(topics.VISITS) for visit in record} == sent
    assert len(there.exposed()) == 399
    seen = {row.name: row for row in status(stack, 0, 0.1).processes}
    assert seen["matcher"].restarts == 1
    assert seen["matcher"].last_death and "with lag" in seen["matcher"].last_death["reason"]
