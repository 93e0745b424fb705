"""SIGTERM to every role in the middle of its work: each ends by itself and soon, and little is redone."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from schemas import topics
from schemas.settings import Settings
from schemas.topics import Topic
from stream_processors.chunks import CHUNK_RECORDS
from tests.growth.load import (
    Load,
    archived,
    counter,
    marks_of,
    stand,
    visits_written,
)
from tests.stream.harness import Installation, installed, person

pytestmark = pytest.mark.engines

ROLES = ("ingest", "cases", "matcher", "archive", "gateway")
SCANS, DECLARED = 500_000, 250  # some seconds of work, of 180,000 scans a second
# What may be done twice: the pieces under way (4 of ingest), when they take longer than the drain.
MOST_SCANS, MOST_CASES = 4 * CHUNK_RECORDS, DECLARED
# Half of the session's 20 s: whoever takes over does not have to wait for the session's end.
STOP_SECONDS = 10.0


class Posting(threading.Thread):
    """A device that posts scans one after another, until it is told to end or the gateway is gone."""

    def __init__(self, settings: Settings, venue: str, at: int) -> None:
        super().__init__(daemon=True)
        self._url = f"http://127.0.0.1:{settings.gateway_port}/v1/scans"
        self._venue, self._at = venue, at
        self.accepted: list[str] = []
        self.gone = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.gone.is_set():
            number += 1
            scan_id = f"00000000-0000-4000-9000-{number:012x}"
            scan = {"scan_id": scan_id, "person": person(10**9 + number), "venue": self._venue}
            body = orjson.dumps(scan | {"scanned_at": self._at})
            headers = {"X-Api-Key": "secret", "Content-Type": "application/json"}
            request = urllib.request.Request(self._url, body, headers)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    assert answer.status == 202
                    self.accepted.append(scan_id)
            except urllib.error.HTTPError as error:
                assert error.code == 503, error  # it says itself that it ends
                self.gone.set()
            except OSError:
                self.gone.set()


def test_every_role_ends_cleanly_in_the_middle_of_its_work(settings: Settings, tmp_path: Path) -> None:
    own = settings.model_copy(update={"gateway_keys": {"door": SecretStr("secret")}})
    with installed(own, tmp_path, "gateway") as there:
        load = Load(there)
        load.index()
        declare(there, load)
        load.scans(SCANS)
        there.flush()
        there.wait(lambda: answers(own), "the gateway answers")
        device = Posting(own, load.venues[1], load.start)
        device.start()
        there.start("archive", "matcher", "cases")
        there.wait(lambda: under_way(own, "matcher", topics.TOUCHED), "cases and matcher are at work")
        there.start("ingest")
        there.wait(lambda: under_way(own, "ingest", topics.SCANS), "ingest is at work")
        there.wait(lambda: under_way(own, "archive", topics.VISITS), "archive is at work")

        took = end_all(there)
        device.join(15)
        assert max(took.values()) < STOP_SECONDS, took
        assert device.accepted, "the gateway had nothing to do"
        # what a device was told is accepted is there
        posted = {scan["scan_id"] for scan in there.values(topics.SCANS) if scan["scan_id"][19] == "9"}
        assert set(device.accepted) <= posted

        left = {role: sum(each.lag for each in stand(own, role).values()) for role in ROLES[:4]}
        assert left["ingest"] > 1_000, f"it was over before the end: {left}"
        again = done_again(there)
        print(f"ended after {took}, left {left}, to be done again {again}")
        assert again["archive"] == 0
        assert again["ingest"] <= MOST_SCANS

        there.start(*ROLES[:4])
        there.settle(ROLES[:4])
        redelivered = counter(own, "ingest", "truyvet_scans_total", verdict="redelivered")
        assert redelivered == again["ingest"]
        assert counter(own, "cases", "truyvet_cases_total", verdict="same") <= MOST_CASES
        records = there.read(topics.VISITS)
        marks = {mark: ids for mark, ids in marks_of(records).items() if int(mark[0], 16) < 10**9}
        assert marks == {mark: {scan_id} for mark, scan_id in load.sent.items()}
        assert visits_written(records) == len(load.sent) + len(posted) + redelivered
        assert archived(own) == len(load.sent) + len(posted)
        assert there.exposed() == load.exposures()


def declare(there: Installation, load: Load) -> None:
    """Work for `cases` and `matcher`: place-times at a venue where nobody is."""
    empty = there.venue()
    for number in range(DECLARED):
        case = {"case_id": f"p{number}", "version": 1, "status": "confirmed", "venue": empty}
        case |= {"from": load.start, "to": load.start + 3_600_000}
        there.send(topics.CASES, orjson.dumps(case), f"p{number}")


def answers(settings: Settings) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.gateway_port}/healthz", timeout=2):
            return True
    except OSError:
        return False


def under_way(settings: Settings, role: str, topic: Topic) -> bool:
    """Has the role acknowledged some of the topic?"""
    own = settings.topic(topic)
    return any(each.done > each.begin for (name, _), each in stand(settings, role).items() if name == own)


def end_all(there: Installation) -> dict[str, float]:
    """SIGTERM to all at once; how long each took. All must end with exit code 0."""
    began, took = time.monotonic(), dict[str, float]()
    processes = dict(there.running)
    for process in processes.values():
        process.terminate()
    while len(took) < len(processes) and time.monotonic() - began < 2 * STOP_SECONDS:
        for role, process in processes.items():
            if role not in took and process.poll() is not None:
                took[role] = round(time.monotonic() - began, 1)
        time.sleep(0.02)
    codes = {role: process.poll() for role, process in processes.items()}
    assert set(codes.values()) == {0}, {role: there.tail(role) for role in codes if codes[role] != 0}
    there.running.clear()
    return took


def done_again(there: Installation) -> dict[str, int]:
    """Of what was done, how much is behind no committed offset: scans of ingest, marks of the archive."""
    settings = there.settings
    scans = stand(settings, "ingest")
    committed = sum(
        (record.offset() or 0) < scans[record.topic() or "", record.partition() or 0].done
        for record in there.read(topics.SCANS)
    )
    records = there.read(topics.VISITS)
    visits = stand(settings, "archive")
    behind = [
        record
        for record in records
        if (record.offset() or 0) < visits[record.topic() or "", record.partition() or 0].done
    ]
    return {
        "ingest": len(marks_of(records)) - committed,
        "archive": archived(settings) - len(marks_of(behind)),
    }
