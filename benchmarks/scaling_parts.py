"""What benchmarks.scaling is made of: its input, its workers, and the CPU that processes took."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import psutil

from benchmarks.inputs import Filling
from deploy.local import engines
from deploy.local.memory import environment_of
from deploy.local.roles import Role
from schemas import topics
from schemas.codes import new_code
from schemas.settings import Settings

PARTITIONS: Final = {"scans": 8}
VENUES: Final = 900
PEOPLE: Final = 350_000
PATIENCE_S: Final = 180.0  # a run that takes longer than this has stalled
ENGINES: Final = {"redis-server": "redis", "java": "broker"}


@dataclass(frozen=True, slots=True)
class Input:
    """The same scans for every run."""

    venues: list[str]
    scans: list[bytes]
    persons: list[str]  # some who are there, for cases
    marks: int
    now_ms: int


def make_input(count: int, now_ms: int, seed: int = 7) -> Input:
    """Scans of the last hour: half of the persons are seen once, the others are of a province."""
    chance = random.Random(seed)
    codes: set[str] = set()
    for _ in range(VENUES):
        codes.add(new_code(codes, choose=chance.choice))
    venues = sorted(codes)
    marks: set[tuple[str, str, int]] = set()
    scans = []
    for _ in range(count):
        number = chance.getrandbits(64) if chance.random() > 0.5 else chance.randrange(PEOPLE)
        person, venue = f"{number:016x}", venues[int(chance.random() ** 2 * VENUES)]
        at = now_ms - chance.randrange(3_600_000)
        marks.add((person, venue, at // 60_000))
        scan_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        scans.append(
            orjson.dumps(
                {"scan_id": scan_id, "person": person, "venue": venue, "scanned_at": at, "kind": "in"}
            )
        )
    persons = sorted({person for person, _, _ in marks})
    return Input(venues, scans, chance.sample(persons, min(500, len(persons))), len(marks), now_ms)


def fill(settings: Settings, scans: Sequence[bytes], packed: int) -> None:
    """Put the scans on the topic, so many a record, evenly over the partitions."""
    filling = Filling(settings)
    name = settings.topic(topics.SCANS)
    for number, start in enumerate(range(0, len(scans), packed)):
        part = scans[start : start + packed]
        value = part[0] if packed == 1 else b"[" + b",".join(part) + b"]"
        # of single records a thousand in a row go to one partition, as a producer's batches do
        partition = number // (1000 if packed == 1 else 1) % PARTITIONS["scans"]
        filling.put(name, value, partition)
    filling.finish()


def cpu_of(workers: Sequence[psutil.Process]) -> dict[str, float]:
    """CPU seconds so far of the workers, and of the engines that this process has started."""
    found = {"worker": sum(sum(worker.cpu_times()[:2]) for worker in workers), "redis": 0.0, "broker": 0.0}
    for child in psutil.Process().children():
        stage = ENGINES.get(child.name())
        if stage is None and "deploy.local.clickhouse" in " ".join(child.cmdline()):
            stage = "clickhouse"
        if stage is not None:
            found[stage] = found.get(stage, 0.0) + sum(child.cpu_times()[:2])
    return found


def a_million(before: Mapping[str, float], after: Mapping[str, float], count: int) -> dict[str, float]:
    """CPU seconds a million of something, by stage."""
    return {stage: round((after[stage] - before.get(stage, 0.0)) / count * 1e6, 2) for stage in after}


@contextmanager
def running(settings: Settings, role: Role, count: int, log: Path) -> Iterator[list[psutil.Process]]:
    """Workers of a role, ended by process id."""
    started = []
    try:
        with log.open("ab") as output:
            for number in range(count):
                command = (sys.executable, "-m", "truyvet", "run", role.name, "--worker", str(number))
                environment = {**os.environ, **environment_of(settings)}
                started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
        yield [psutil.Process(process.pid) for process in started]
    finally:
        for process in started:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in started:
            engines.end(process, 15)


def wait(true: Callable[[], bool], what: str, log: Path) -> None:
    """Until it is true. Raises SystemExit after `PATIENCE_S`, with the end of the log."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            sys.stderr.write(log.read_text(errors="replace")[-3000:])
            raise SystemExit(f"{what}: not within {PATIENCE_S:.0f} s")
        time.sleep(0.2)
