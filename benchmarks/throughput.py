"""make bench: the whole ingest job beside a hand-written loop, in one run on the same engines.

A speed is the number of visits between the first and the last visit record, by the broker's clock: so the
start of a process does not count, for either. Figures are ratios of runs in turn; absolute ones belong to the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from deploy.local import engines
from deploy.local.memory import environment_of
from deploy.local.topics import TopicAdmin
from producers.venues.register import publish_venues
from schemas import topics
from schemas.codes import new_code
from schemas.events import Venue
from schemas.settings import Settings

PATIENCE_S = 180.0  # a run that takes longer than this has stalled

JOBS = {
    "truyvet ingest": [sys.executable, "-m", "truyvet", "run", "ingest"],
    "hand-written loop": [sys.executable, "-m", "benchmarks.plain_loop"],
}


@dataclass(frozen=True, slots=True)
class Run:
    """One job over one input."""

    job: str
    packed: int
    scans_per_second: float
    cpu_seconds_per_million: float
    memory_mb: float


def _input(settings: Settings, count: int, packed: int) -> int:
    """Fill the topic; the number of unique marks in it."""
    chance = random.Random(7)
    codes: set[str] = set()
    for _ in range(900):
        codes.add(new_code(codes, choose=chance.choice))
    venues = sorted(codes)
    publish_venues(
        settings,
        [
            Venue(code=code, name=code, sector="trade", district="hue", department="so-cong-thuong", dwell=60)
            for code in venues
        ],
    )
    now = time.time_ns() // 1_000_000
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_address,
            "compression.type": "lz4",
            "linger.ms": 20,
            "batch.size": 262_144,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    marks: set[tuple[str, str, int]] = set()
    batch: list[bytes] = []
    for _ in range(count):
        person = (
            f"{chance.getrandbits(64):016x}" if chance.random() > 0.5 else f"{chance.randrange(350_000):016x}"
        )
        venue = venues[int(chance.random() ** 2 * 900)]
        at = now - chance.randrange(3_600_000)
        marks.add((person, venue, at // 60_000))
        batch.append(
            orjson.dumps(
                {
                    "scan_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
                    "person": person,
                    "venue": venue,
                    "scanned_at": at,
                    "kind": "in",
                }
            )
        )
        if len(batch) == packed:
            value = batch[0] if packed == 1 else b"[" + b",".join(batch) + b"]"
            batch = []
            while True:
                try:
                    producer.produce(settings.topic(topics.SCANS), value)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
    producer.flush(60)
    return len(marks)


def _visits(settings: Settings, expected: int, worker: psutil.Process) -> tuple[float, int, float, float]:
    """Read visits until the expected number of marks is there: (seconds, visits between, CPU, memory)."""
    name = settings.topic(topics.VISITS)
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_address,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.assign([TopicPartition(name, number, 0) for number in range(topics.VISITS.partitions)])
    found, first_count = 0, 0
    first = last = 0
    deadline = time.monotonic() + PATIENCE_S
    cpu_before = cpu = 0.0
    memory = 0
    while found < expected:
        if time.monotonic() > deadline or worker.status() == psutil.STATUS_ZOMBIE:
            raise SystemExit(f"the job stopped at {found} of {expected} visits")
        for message in consumer.consume(1000, 0.5):
            if message.error() is not None:
                continue
            count = (message.value() or b"").count(b'"scan_id"')
            stamp = message.timestamp()[1]
            if not first:
                first, first_count = stamp, count
                cpu_before = sum(worker.cpu_times()[:2])
            found += count
            first, last = min(first, stamp), max(last, stamp)
        memory = max(memory, worker.memory_info().rss)
    cpu = sum(worker.cpu_times()[:2]) - cpu_before
    consumer.close()
    if found != expected:
        raise SystemExit(f"{found} visits instead of {expected}: the run does not count")
    return (last - first) / 1000, found - first_count, cpu, memory / 1e6


def _run(base: Settings, job: str, count: int, packed: int) -> Run:
    settings = base.model_copy(update={"topic_prefix": f"b{uuid.uuid4().hex[:6]}."})
    admin = TopicAdmin(settings)
    admin.apply()
    store = redis.Redis.from_url(settings.redis_url)
    store.flushdb()
    expected = _input(settings, count, packed)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*JOBS[job], *([str(1000 // packed)] if "loop" in job else [])],
            env={**os.environ, **environment_of(settings)},
            stdout=log,
            stderr=log,
        )
        try:
            seconds, visits, cpu, memory = _visits(settings, expected, psutil.Process(process.pid))
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-3000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
    admin.delete()
    return Run(job, packed, visits / seconds, cpu / count * 1e6, memory)


def main() -> None:
    """Run the benchmark and show the table; --json FILE keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    runs: list[Run] = []
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        kafka, controller, redis_port = engines.free_ports(3)
        launches = [
            engines.kafka(Path(folder) / "kafka", kafka, controller),
            engines.redis(Path(folder) / "redis", redis_port),
        ]
        with engines.scratch(launches, Path(folder) / "logs"), Progress(console=console) as progress:
            settings = Settings(
                kafka=f"127.0.0.1:{kafka}",
                redis=f"redis://127.0.0.1:{redis_port}/0",
                metrics_port=engines.free_base((0,)),
            )
            task = progress.add_task("rounds", total=chosen.rounds * 2 * len(JOBS))
            for _ in range(chosen.rounds):
                for packed in (1, 100):
                    for job in JOBS:
                        progress.update(task, description=f"{job}, {packed} a record")
                        runs.append(_run(settings, job, chosen.scans, packed))
                        progress.advance(task)
    rows = _summary(runs)
    table = Table("job", "scans a record", "scans/s, median (range)", "ratio", "CPU s a million", "memory MB")
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("job", "packed", "speed", "ratio", "cpu", "memory")))
    console.print(table)
    console.print(
        f"{chosen.scans:,} scans a run, {chosen.rounds} rounds in turn; ratio: against the loop, same run"
    )
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")


def _summary(runs: list[Run]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for packed in (1, 100):
        peer = [
            run.scans_per_second for run in runs if run.packed == packed and run.job == "hand-written loop"
        ]
        for job in JOBS:
            own = [run for run in runs if run.packed == packed and run.job == job]
            speeds = [run.scans_per_second for run in own]
            ratio = statistics.median(a / b for a, b in zip(speeds, peer, strict=True))
            rows.append(
                {
                    "job": job,
                    "packed": packed,
                    "speed": f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f})",
                    "ratio": round(ratio, 2),
                    "cpu": round(statistics.median(run.cpu_seconds_per_million for run in own), 1),
                    "memory": round(max(run.memory_mb for run in own)),
                }
            )
    return rows


if __name__ == "__main__":
    main()
