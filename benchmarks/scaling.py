"""What more workers, and a Redis Cluster, change: python -m benchmarks.scaling

The same scans with 1, 2 and 4 ingest workers, on one Redis and on a Redis Cluster of three nodes; then, on
what was ingested, the archive and the matcher by themselves. For each: speed, and the CPU that each process
took a million scans (marks, exposures). The workers share the partitions before the first scan is there, and
are stopped while the topic is filled, so that all begin at once. Every run must end with exactly the marks
that the input has.

Writes docs/benchmarks/scaling.json, and tables beside it. benchmarks/capacity.py computes machines from it.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import redis
from clickhouse_driver import Client
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from benchmarks.pictures import BACK, OTHERS, OURS, drawing, key
from benchmarks.running import write
from benchmarks.scaling_parts import (
    PARTITIONS,
    PATIENCE_S,
    Input,
    a_million,
    cpu_of,
    fill,
    make_input,
    running,
    wait,
)
from deploy.local import engines, redis_cluster
from deploy.local.lag import LagUnknownError, consumer_lag
from deploy.local.roles import ARCHIVE, CASES, INGEST, MATCHER, Role
from deploy.local.topics import TopicAdmin
from deploy.local.watchdog import owners_of
from producers.venues.register import publish_venues
from schemas import topics
from schemas.events import Case, Venue
from schemas.settings import Settings
from schemas.topics import Topic

WORKERS: Final = (1, 2, 4)
PACKED: Final = (100, 1)
OUT: Final = Path("docs/benchmarks")


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of ingest. CPU in seconds a million scans, by stage."""

    store: str
    packed: int
    workers: int
    scans: int
    seconds: float
    scans_per_second: int
    cpu: dict[str, float] = field(default_factory=dict)
    redis_bytes_a_mark: float = 0.0
    kafka_bytes_a_scan: dict[str, float] = field(default_factory=dict)


def _records(settings: Settings, topic: Topic) -> int:
    """How many records stand on a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_address,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    name, found, left = settings.topic(topic), 0, topic.partitions
    consumer.assign([TopicPartition(name, number, 0) for number in range(topic.partitions)])
    while left:
        for message in consumer.consume(1000, 0.2):
            error = message.error()
            found += error is None
            left -= error is not None and error.code() == KafkaError._PARTITION_EOF
    consumer.close()
    return found


def _visits(settings: Settings, expected: int, log: Path) -> float:
    """Wait until the expected number of visits is there: the time (s) of the last one."""
    name, found, last = settings.topic(topics.VISITS), 0, 0
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_address,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
        }
    )
    consumer.assign([TopicPartition(name, number, 0) for number in range(topics.VISITS.partitions)])
    deadline = time.monotonic() + PATIENCE_S
    while found < expected:
        if time.monotonic() > deadline:
            sys.stderr.write(log.read_text(errors="replace")[-3000:])
            raise SystemExit(f"the run stopped at {found} of {expected} visits")
        for message in consumer.consume(1000, 0.2):
            if message.error() is None:
                found += (message.value() or b"").count(b'"scan_id"')
                last = max(last, message.timestamp()[1])
    consumer.close()
    if found != expected:
        raise SystemExit(f"{found} visits instead of {expected}: the run does not count")
    return last / 1000


@dataclass(frozen=True, slots=True)
class Place:
    """The engines of the benchmark."""

    kafka: int
    folder: Path
    urls: dict[str, str]  # store → TRUYVET_REDIS
    redis_ports: dict[str, tuple[int, ...]]
    clickhouse: int

    def settings(self, store: str) -> Settings:
        """A fresh installation, with an empty store."""
        own = Settings(
            kafka=f"127.0.0.1:{self.kafka}",
            redis=self.urls[store],
            clickhouse=f"clickhouse://default@127.0.0.1:{self.clickhouse}/default",
            metrics_port=engines.free_base((0, 1, 2, 3, 64, 65, 66)),
            topic_prefix=f"b{uuid.uuid4().hex[:6]}.",
            partitions=PARTITIONS,
        )
        for port in self.redis_ports[store]:
            with redis.Redis(port=port) as client:
                client.flushall()
        TopicAdmin(own).apply()
        return own

    def used(self, store: str) -> int:
        """Bytes that the store takes."""
        found = 0
        for port in self.redis_ports[store]:
            with redis.Redis(port=port) as client:
                found += int(cast(dict[str, Any], client.info("memory"))["used_memory"])
        return found

    def bytes_of(self, settings: Settings, topic: Topic) -> int:
        """Bytes of a topic on the broker's disk."""
        logs = (self.folder / "kafka" / "log").glob(f"{settings.topic(topic)}-[0-9]*/*.log")
        return sum(log.stat().st_size for log in logs)


def ingest(place: Place, settings: Settings, given: Input, *, store: str, packed: int, workers: int) -> Ran:
    """One run of ingest over the input."""
    count, log = len(given.scans), place.folder / "ingest.log"
    publish_venues(
        settings,
        [
            Venue(code=code, name=code, sector="trade", district="hue", department="so-cong-thuong", dwell=60)
            for code in given.venues
        ],
    )
    empty = place.used(store)
    with running(settings, INGEST, workers, log) as processes:
        wait(lambda: len(set(owners_of(settings, INGEST).values())) == workers, "all workers at work", log)
        time.sleep(1.5)  # the first look for venues is over
        for process in processes:
            process.suspend()
        fill(settings, given.scans, packed)
        before, began = cpu_of(processes), time.time()
        for process in processes:
            process.resume()
        seconds = _visits(settings, given.marks, log) - began
        after = cpu_of(processes)
    return Ran(
        store,
        packed,
        workers,
        count,
        round(seconds, 2),
        round(count / seconds),
        a_million(before, after, count),
        round((place.used(store) - empty) / given.marks, 1),
        {
            topic.name: round(place.bytes_of(settings, topic) / count, 1)
            for topic in (topics.SCANS, topics.VISITS)
        },
    )


def _caught_up(settings: Settings, role: Role) -> Callable[[], bool]:
    def true() -> bool:
        try:
            return sum(lag.records for lag in consumer_lag(settings, [role])) == 0
        except LagUnknownError:
            return False

    return true


def archive(place: Place, settings: Settings, marks: int) -> dict[str, Any]:
    """The archive takes in what one run of ingest has left on `visits`."""
    log = place.folder / "archive.log"
    began, started, first = time.time(), cpu_of([]), 0
    with running(settings, ARCHIVE, 1, log) as processes:
        wait(lambda: _archived(settings) > 0, "the first marks in the archive", log)
        if (so_far := _archived(settings)) < marks / 2:  # so that its start does not count
            began, started, first = time.time(), cpu_of(processes), so_far
        wait(_caught_up(settings, ARCHIVE), "the archive takes in everything", log)
        seconds, after = time.time() - began, cpu_of(processes)
    found = _archived(settings)
    if found != marks:
        raise SystemExit(f"{found} marks in the archive instead of {marks}: the run does not count")
    cpu = a_million(started, after, marks - first)
    cpu["archive"] = cpu.pop("worker")
    return {"marks": marks - first, "seconds": round(seconds, 2), "cpu": cpu}


def _archived(settings: Settings) -> int:
    client = Client.from_url(settings.clickhouse_url)
    try:
        rows = client.execute(
            "SELECT sum(bitCount(i)) FROM"
            " (SELECT groupBitOr(ins) AS i FROM visits GROUP BY venue, hour, person)"
        )
    except Exception:  # the tables are not made yet
        return 0
    finally:
        client.disconnect()
    return int(rows[0][0] or 0)


def matcher(place: Place, settings: Settings, given: Input, cases: int) -> dict[str, Any]:
    """Cases among those who were ingested: what an exposure costs."""
    log = place.folder / "matcher.log"
    producer = Producer({"bootstrap.servers": settings.kafka_address})
    with running(settings, CASES, 1, log) as others, running(settings, MATCHER, 1, log) as processes:
        for role in (CASES, MATCHER):
            wait(lambda role=role: bool(owners_of(settings, role)), f"{role.name} is at work", log)  # type: ignore[misc]
        time.sleep(2.0)  # they have taken over what there is: nothing
        began, started = time.time(), cpu_of(processes)
        for number, person in enumerate(given.persons[:cases]):
            case = Case(
                case_id=f"k{number}",
                version=1,
                status="confirmed",
                person=person,
                infectious_from=given.now_ms - 2 * 3_600_000,
                infectious_to=given.now_ms + 3_600_000,
            )
            producer.produce(settings.topic(topics.CASES), case.to_json(), case.case_id.encode())
        producer.flush(30)
        wait(_caught_up(settings, CASES), "cases are taken", log)
        wait(_caught_up(settings, MATCHER), "everything is matched", log)
        seconds, after = time.time() - began, cpu_of(processes)
        assert others
    exposures = _records(settings, topics.EXPOSURES)
    cpu = a_million(started, after, exposures)
    cpu["matcher"] = cpu.pop("worker")
    return {"cases": cases, "exposures": exposures, "seconds": round(seconds, 2), "cpu": cpu}


def measured(place: Place, given: Input, quick: bool) -> dict[str, Any]:
    """All runs."""
    runs: list[Ran] = []
    found: dict[str, Any] = {}
    if not quick:  # the broker's code is compiled while it runs: the first run would pay for it
        settings = place.settings("one Redis")
        ingest(place, settings, given, store="one Redis", packed=1, workers=1)
        TopicAdmin(settings).delete()
    for store in place.urls:
        for packed in PACKED[:1] if quick else PACKED:
            for workers in WORKERS[1:2] if quick else WORKERS:
                settings = place.settings(store)
                runs.append(ingest(place, settings, given, store=store, packed=packed, workers=workers))
                print(line(asdict(runs[-1])), flush=True)
                if not found:
                    found["archive"] = archive(place, settings, given.marks)
                    found["matcher"] = matcher(place, settings, given, 20 if quick else 100)
                    print(found, flush=True)
                TopicAdmin(settings).delete()
    return {
        "scans": len(given.scans),
        "marks": given.marks,
        "partitions": PARTITIONS["scans"],
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "runs": [asdict(run) for run in runs],
        **found,
    }


def line(run: Mapping[str, Any]) -> str:
    """A row of the table."""
    cpu = run["cpu"]
    cells = [run["store"], run["packed"], run["workers"], f"{run['scans_per_second']:,}"]
    total = sum(cpu.values()) - cpu.get("clickhouse", 0.0)
    cells += [f"{cpu[stage]:.1f}" for stage in ("worker", "redis", "broker")] + [f"{total:.1f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def tables(found: Mapping[str, Any]) -> str:
    """The figures for people."""
    archive, matcher = found["archive"], found["matcher"]
    costs = ", ".join(f"{stage} {value:.1f}" for stage, value in archive["cpu"].items())
    costs_matcher = ", ".join(f"{stage} {value:.1f}" for stage, value in matcher["cpu"].items())
    return "\n".join(
        [
            f"{found['scans']:,} scans a run, {found['marks']:,} marks, {found['partitions']} partitions,"
            f" {found['cores']} cores shared by all processes. CPU in seconds a million scans.",
            "",
            "| store | scans a record | workers | scans/s | CPU workers | CPU Redis | CPU broker | CPU all |",
            "|---|---|---|---|---|---|---|---|",
            *(line(run) for run in found["runs"]),
            "",
            f"Archive: {archive['marks']:,} marks in {archive['seconds']} s;"
            f" CPU seconds a million marks: {costs}.",
            "",
            f"Matcher: {matcher['cases']} cases, {matcher['exposures']:,} exposures"
            f" in {matcher['seconds']} s;"
            f" CPU seconds a million exposures: {costs_matcher}.",
            "",
        ]
    )


def picture(found: Mapping[str, Any], path: Path) -> None:
    """CPU of each stage for a scan, by store, packing and number of workers."""
    runs = found["runs"]
    names = [f"{run['store']}, {run['packed']} a record, {run['workers']}" for run in runs]
    with drawing(path, height=0.8 + 0.24 * len(runs)) as (axes,):
        begins = [0.0] * len(runs)
        for stage, colour in (("worker", OURS), ("redis", OTHERS), ("broker", BACK)):
            costs = [run["cpu"][stage] for run in runs]
            axes.barh(names, costs, left=begins, color=colour, edgecolor="white", label=stage)
            begins = [begin + cost for begin, cost in zip(begins, costs, strict=True)]
        for at, run in enumerate(runs):
            axes.text(begins[at] + 0.3, at, f"{run['scans_per_second']:,}/s", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel("CPU, us a scan; beside it, scans a second on all cores together")
        key(axes)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; `--quick` only shows that it works, and writes nothing unless `--out` says where."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=300_000)
    parser.add_argument("--quick", action="store_true", help="few scans, few runs")
    parser.add_argument("--out", type=Path, help=f"folder of scaling.json and scaling.md; default {OUT}")
    chosen = parser.parse_args(argv)
    count = min(chosen.scans, 20_000) if chosen.quick else chosen.scans
    given = make_input(count, time.time_ns() // 1_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kafka, controller, port, clickhouse, *ports = engines.free_ports(10)
        nodes = redis_cluster.nodes(folder / "cluster", ports=ports)
        others = [
            engines.kafka(folder / "kafka", kafka, controller),
            engines.redis(folder / "redis", port),
            engines.clickhouse(folder / "clickhouse", clickhouse),
        ]
        with redis_cluster.running(nodes, folder / "logs", others):
            urls = {"one Redis": f"redis://127.0.0.1:{port}/0", "cluster of 3": nodes.url}
            stores = {"one Redis": (port,), "cluster of 3": nodes.ports}
            found = measured(Place(kafka, folder, urls, stores, clickhouse), given, chosen.quick)
    if out := chosen.out or (None if chosen.quick else OUT):
        write("scaling", found, tables(found), out, picture)
    print(tables(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
