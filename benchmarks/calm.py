"""How long a scan takes to the topic `visits` when few come: python -m benchmarks.calm

Kafka, Redis and one ingest worker. A hundred scans a second, one a record, at moments that nobody chose: a
scan must not wait until a batch is full. Each is timed from its hand-over to the Kafka client to the
reading of its visit, both clients included. Writes docs/benchmarks/calm.json, .md and .svg.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from confluent_kafka import Producer, TopicPartition
from rich.console import Console
from rich.progress import Progress

from benchmarks.inputs import register_venues, venue_codes
from benchmarks.pictures import OURS, drawing, goal
from benchmarks.running import OUT, installation, markdown, percentile, wait, worker, write
from deploy.local.topics import TopicAdmin
from producers.compacted import end_of, quiet_consumer
from schemas import topics
from schemas.settings import Settings

GOAL_MS: Final = 30.0
_WARM: Final = 300  # scans that do not count: until then parts of the worker run for the first time
_PATIENCE_S: Final = 30.0  # for what was sent last: past it the worker has stalled


class _Visits(threading.Thread):
    """Reads visits as they come: scan → when it was read."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="visits", daemon=True)
        self.read: dict[str, float] = {}
        self._going = True
        self._consumer = quiet_consumer(settings)
        topic = topics.VISITS
        places = [
            TopicPartition(settings.topic(topic), partition)
            for partition in range(settings.partitions.get(topic.name, topic.partitions))
        ]
        for place in places:
            place.offset = end_of(self._consumer, settings, place)
        self._consumer.assign(places)

    def run(self) -> None:
        """Until `stop`."""
        while self._going:
            message = self._consumer.poll(0.2)
            if message is None or message.error() is not None:
                continue
            now = time.monotonic()
            for visit in orjson.loads(message.value() or b"[]"):
                self.read[visit["scan_id"]] = now

    def stop(self) -> None:
        """End, and close the consumer."""
        self._going = False
        self.join(5)
        self._consumer.close()


def _measure(settings: Settings, scans: int, rate: float, progress: Progress) -> list[float]:
    """Milliseconds of each scan that counts. Raises SystemExit when a visit does not come."""
    chance, codes = random.Random(7), venue_codes()
    producer = Producer({"bootstrap.servers": settings.kafka_address, "acks": "all", "linger.ms": 0})
    visits = _Visits(settings)
    visits.start()

    def send(scan_id: str) -> None:
        scan = {"scan_id": scan_id, "person": f"{chance.getrandbits(64):016x}", "venue": chance.choice(codes)}
        value = orjson.dumps({**scan, "scanned_at": time.time_ns() // 1_000_000})
        sent[scan_id] = time.monotonic()
        producer.produce(settings.topic(topics.SCANS), value)
        producer.poll(0)

    sent: dict[str, float] = {}
    send(str(uuid.UUID(int=1, version=4)))  # the worker is still starting
    producer.flush(10)
    wait(lambda: len(visits.read) == 1, 2 * _PATIENCE_S, "the worker is at work")
    task = progress.add_task(f"{rate:g} scans a second", total=scans)
    due = time.monotonic()
    for _ in range(scans):
        due += chance.expovariate(rate)
        while (left := due - time.monotonic()) > 0:
            time.sleep(left)
        send(str(uuid.UUID(int=chance.getrandbits(128), version=4)))
        progress.advance(task)
    producer.flush(10)
    wait(lambda: len(visits.read) > scans, _PATIENCE_S, "every visit is read")
    visits.stop()
    return [(visits.read[scan_id] - at) * 1000 for scan_id, at in list(sent.items())[_WARM + 1 :]]


def picture(result: Mapping[str, Any], path: Path) -> None:
    """The share of scans that were through by then."""
    with drawing(path, height=2.8) as (axes,):
        shares = sorted((float(share), ms) for share, ms in result["percentiles_ms"].items())
        axes.plot([ms for _, ms in shares], [share * 100 for share, _ in shares], color=OURS, marker="o")
        goal(axes, GOAL_MS, f"wanted of 99 %: {GOAL_MS:g} ms")
        axes.set_xlim(left=0)
        axes.set_xlabel("ms from a scan's hand-over to its visit being read")
        axes.set_ylabel("% of the scans")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=100.0, help="scans a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="six seconds; nothing is written")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    seconds = 6.0 if options.quick else options.seconds
    scans = _WARM + int(options.rate * seconds)
    console = Console()
    with installation(["kafka", "redis"]) as settings, Progress(console=console) as progress:
        TopicAdmin(settings).apply()
        register_venues(settings, venue_codes())
        with worker(settings, "truyvet", "run", "ingest"):
            taken = _measure(settings, scans, options.rate, progress)
    shares = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
    found = {str(share): round(percentile(taken, share), 1) for share in shares}
    result = {
        "rate": options.rate,
        "scans": len(taken),
        "goal_ms": GOAL_MS,
        "percentiles_ms": found,
    }
    table = markdown(
        ["wanted, p99", *(f"p{float(share) * 100:g}" for share in ("0.5", "0.9", "0.99", "0.999")), "max"],
        [[GOAL_MS, *(found[share] for share in ("0.5", "0.9", "0.99", "0.999", "1.0"))]],
    )
    text = (
        f"# Few scans\n\n{options.rate:g} scans a second for {seconds:g} s, one a record; milliseconds from a"
        f" scan's hand-over to its visit being read:\n\n{table}\n`python -m benchmarks.calm`\n"
    )
    console.print(text, markup=False)
    if not options.quick:
        write("calm", result, text, options.out, picture)


if __name__ == "__main__":
    main()
