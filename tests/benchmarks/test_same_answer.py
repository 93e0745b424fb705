"""Every peer of the benchmark and our pipeline answer the same: otherwise their speeds cannot be compared.

The input mixes single scans and arrays, with duplicates in other partitions and every kind of invalid scan;
the expected marks are told by how it was made. All jobs run at the same time, each on its own installation.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from confluent_kafka import Producer

from benchmarks.inputs import Input, register_venues, venue_codes
from benchmarks.jobs import JOBS, LOOP, Job
from benchmarks.measuring import Bench, Engines, Run
from deploy.local import engines as local
from deploy.local.topics import TopicAdmin
from schemas import topics
from schemas.events import VISITS
from schemas.settings import Settings
from tests import conftest

pytestmark = pytest.mark.engines

Mark = tuple[str, str, int, str]
Answer = tuple[Run, list[bytes]]

# one thread more or less is no other program
COMPARED = [name for name in JOBS if name != "kafka streams, 1 thread"]
VENUES = venue_codes(12)
WRONG: list[dict[str, Any]] = [
    {"scan_id": "no uuid"},
    {"scan_id": None},
    {"person": "00C0FFEE00C0FFEE"},
    {"person": "00c0ffee"},
    {"person": 5},
    {"venue": "A1"},
    {"venue": "cdef"},
    {"scanned_at": "1700000000000"},
    {"scanned_at": -1},
    {"scanned_at": 1.5},
    {"scanned_at": 10**16},
    {"scanned_at": 10**30},
    {"scanned_at": True},
    {"kind": "IN"},
    {"kind": None},
    {"source": "nobody"},
    {"party": 0},
    {"party": 51},
    {"party": "2"},
    {"received_at": -5},
    {"gateway": "g" * 65},
    {"gateway": 7},
]
MISSING = ("scan_id", "person", "venue", "scanned_at")
BROKEN = [None, b"", b"{", b"null", b"5", b'"text"', b"[]", b"[1,2]", b"\xff\xfe", b'{"scan_id":']


def some_scan(chance: random.Random, now: int) -> dict[str, Any]:
    """A valid scan, of few persons and minutes, so that marks repeat; sometimes with all that is optional."""
    scan: dict[str, Any] = {
        "scan_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "person": f"{chance.randrange(40):016x}",
        "venue": chance.choice(VENUES),
        "scanned_at": now - chance.randrange(90 * 60_000),
    }
    if chance.random() < 0.8:
        scan["kind"] = chance.choice(["in", "in", "out", "void"])
    if chance.random() < 0.3:
        scan |= {
            "source": chance.choice(["person", "venue", "manual", "event"]),
            "party": chance.randint(1, 50),
            "received_at": now,
            "gateway": "cổng chính",
            "ignored": {"deep": [1, {"x": None}]},
        }
    return scan


def make_records(seed: int) -> tuple[list[bytes | None], dict[Mark, set[str]]]:
    """Records, and for every mark in them the ids of the scans that make it."""
    chance = random.Random(seed)
    now = time.time_ns() // 1_000_000
    marks: dict[Mark, set[str]] = {}
    scans: list[dict[str, Any]] = []
    for _ in range(400):
        scans.append(some_scan(chance, now))
        if chance.random() < 0.3:  # the same mark again, by another scan
            again = chance.choice(scans[-50:])
            scans.append({**again, "scan_id": str(uuid.UUID(int=chance.getrandbits(128), version=4))})
    for scan in scans:
        mark = (scan["person"], scan["venue"], scan["scanned_at"] // 60_000, scan.get("kind", "in"))
        marks.setdefault(mark, set()).add(scan["scan_id"])
    wrong = [{**some_scan(chance, now), **change} for change in WRONG]
    for name in MISSING:
        wrong.append({key: value for key, value in some_scan(chance, now).items() if key != name})
    elements: list[Any] = [*scans, *wrong, *wrong]
    chance.shuffle(elements)
    records: list[bytes | None] = list(BROKEN)
    while elements:
        count = 1 if chance.random() < 0.8 else chance.randint(1, 30)
        taken, elements = elements[:count], elements[count:]
        if len(taken) == 1 and chance.random() < 0.9:
            records.append(_dumps(taken[0]))
        else:
            records.append(b"[" + b",".join(map(_dumps, taken)) + b"]")
    chance.shuffle(records)
    return records, marks


def _fits(scan: dict[str, Any]) -> bool:
    return all(not isinstance(value, int) or abs(value) < 2**63 for value in scan.values())


def _dumps(scan: dict[str, Any]) -> bytes:
    if _fits(scan):
        return orjson.dumps(scan)
    text = orjson.dumps({key: "BIG" if key == "scanned_at" else value for key, value in scan.items()})
    return text.replace(b'"BIG"', str(scan["scanned_at"]).encode())


@pytest.fixture(scope="module")
def answers(
    engines: conftest.Engines, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Answer], dict[Mark, set[str]]]]:
    """By job what it published, and what was expected."""
    records, marks = make_records(11)
    folder = tmp_path_factory.mktemp("peers")
    (port,) = local.free_ports(1)
    jobs = [JOBS[name] for name in COMPARED if JOBS[name].missing() is None]
    with local.scratch([local.redis(folder / "redis", port)], folder / "logs"):

        def answer(number: int, job: Job) -> Answer:
            settings = Settings(
                kafka=engines.kafka,
                redis=f"redis://127.0.0.1:{port}/{number}",
                topic_prefix=f"t{uuid.uuid4().hex[:8]}.",
                metrics_port=local.free_base((0,)),
            )
            admin = TopicAdmin(settings)
            admin.apply()
            try:
                return run(engines.kafka, settings, job, records, len(marks))
            finally:
                admin.delete()

        with ThreadPoolExecutor(len(jobs)) as pool:
            found = dict(
                zip((job.name for job in jobs), pool.map(answer, range(len(jobs)), jobs), strict=True)
            )
        yield found, marks


def run(kafka: str, settings: Settings, job: Job, records: list[bytes | None], visits: int) -> Answer:
    """One job over the records."""
    register_venues(settings, VENUES)
    producer = Producer({"bootstrap.servers": kafka, "compression.type": "lz4"})
    for number, value in enumerate(records):
        producer.produce(settings.topic(topics.SCANS), value, partition=number % 4)
    assert producer.flush(30) == 0
    bench = Bench(kafka, Engines(psutil.Process(), psutil.Process()), keep_values=True)
    done = bench.run(job, Input(settings, len(records), 1, visits))
    return done, bench.values


@pytest.mark.parametrize("name", COMPARED)
def test_a_job_publishes_each_mark_once(
    name: str, answers: tuple[dict[str, Answer], dict[Mark, set[str]]], tmp_path: Path
) -> None:
    if why := JOBS[name].missing():
        pytest.skip(why)
    found, marks = answers
    done, values = found[name]
    assert done.problem == ""
    assert done.visits == len(marks)
    visits: list[dict[str, Any]] = []
    for value in values:
        parsed = orjson.loads(value)
        visits += parsed if isinstance(parsed, list) else [parsed]
    if name != LOOP:  # it publishes the scan as it came
        VISITS.validate_json(orjson.dumps(visits))
    told: dict[Mark, str] = {}
    for visit in visits:
        minute = visit["scanned_at"] // 60_000 if name == LOOP else visit["hour"] * 60 + visit["minute"]
        told[visit["person"], visit["venue"], minute, visit.get("kind", "in")] = visit["scan_id"]
    assert told.keys() == marks.keys()
    assert all(scan_id in marks[mark] for mark, scan_id in told.items())
