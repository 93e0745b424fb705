"""The scans that every job reads: made once, the same for all, in topics of their own.

An input is an installation (a topic prefix) whose topic `scans` is filled and never changes. Slow jobs read a
shorter one, with the first scans of the same stream. Every scan is valid; a twentieth repeats a mark under
another scan id (somebody taps twice, or two devices send one visit): those must not become visits.
"""

from __future__ import annotations

import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import orjson
from confluent_kafka import Producer

from deploy.local.topics import TopicAdmin
from producers.venues.register import publish_venues
from schemas import topics
from schemas.codes import new_code
from schemas.events import Scan, Venue
from schemas.settings import Settings

VENUES = 900
PEOPLE = 350_000  # with the app, in February 2021
SPAN_MS = 3_600_000
_AGAIN = 0.05
_RECENT = 5_000
_OUTS = 0.15


@dataclass(frozen=True, slots=True)
class Input:
    """A filled topic: how many scans, in how many a record, and how many marks they make."""

    settings: Settings
    scans: int
    packed: int
    visits: int


def venue_codes(count: int = VENUES) -> list[str]:
    """The same codes each time."""
    chance = random.Random(7)
    codes: set[str] = set()
    for _ in range(count):
        codes.add(new_code(codes, choose=chance.choice))
    return sorted(codes)


def scans(now: int, seed: int = 7) -> Iterator[Scan]:
    """Scans of the hour before `now` (ms), without end: about 145 bytes each as JSON."""
    chance = random.Random(seed)
    venues = venue_codes()
    recent: list[Scan] = []
    for number in itertools.count():
        scan_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        if recent and chance.random() < _AGAIN:
            scan: Scan = {**chance.choice(recent), "scan_id": scan_id}
        else:
            scan = {
                "scan_id": scan_id,
                "person": (
                    f"{chance.getrandbits(64):016x}"
                    if chance.random() > 0.5
                    else f"{chance.randrange(PEOPLE):016x}"
                ),
                "venue": venues[int(chance.random() ** 2 * len(venues))],
                "scanned_at": now - chance.randrange(SPAN_MS),
                "kind": "out" if chance.random() < _OUTS else "in",
            }
            if len(recent) < _RECENT:
                recent.append(scan)
            else:
                recent[number % _RECENT] = scan
        yield scan


class Filling:
    """Puts records into topics as fast as the broker takes them."""

    def __init__(self, settings: Settings) -> None:
        self._failed: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": settings.kafka_address,
                "compression.type": "lz4",
                "linger.ms": 20,
                "batch.size": 262_144,
                "queue.buffering.max.messages": 1_000_000,
                "on_delivery": lambda error, _: self._failed.append(error.str()) if error else None,
            }
        )

    def put(self, topic: str, value: bytes, partition: int) -> None:
        """One record; waits while the client's queue is full."""
        while True:
            try:
                self._producer.produce(topic, value, partition=partition)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def finish(self, seconds: float = 120.0) -> None:
        """Until all are there. Raises SystemExit when Kafka does not take them in this time."""
        self._producer.flush(seconds)
        if self._failed or len(self._producer):
            why = self._failed[:1] or f"no answer within {seconds:.0f} s"
            raise SystemExit(f"Kafka did not take the input: {why}")


@dataclass(slots=True)
class _Writer:
    """One topic being filled: records go round the partitions, as a gateway without keys spreads them."""

    filling: Filling
    topic: str
    packed: int
    limit: int
    count: int = 0
    records: int = 0
    batch: list[bytes] = field(default_factory=list)
    visits: int = 0

    def add(self, text: bytes, marks: int) -> None:
        """One more scan, until the limit; `marks` in the stream so far."""
        if self.count == self.limit:
            return
        self.count += 1
        self.visits = marks
        self.batch.append(text)
        if len(self.batch) == self.packed or self.count == self.limit:
            value = self.batch[0] if self.packed == 1 else b"[" + b",".join(self.batch) + b"]"
            self.batch.clear()
            self.filling.put(self.topic, value, self.records % topics.SCANS.partitions)
            self.records += 1


def register_venues(settings: Settings, codes: Iterable[str]) -> None:
    """Make the places known to the processors of an installation."""
    publish_venues(
        settings,
        [
            Venue(code=code, name=code, sector="trade", district="hue", department="so-cong-thuong", dwell=60)
            for code in codes
        ],
    )


def make_inputs(
    base: Settings, sizes: Sequence[tuple[int, int]], advance: Callable[[int], None] = lambda _: None
) -> dict[tuple[int, int], Input]:
    """An input for each (scans, scans a record), filled from one stream side by side.

    `advance` hears how many more scans of the stream are written. Raises SystemExit when Kafka does not take
    them all.
    """
    filling = Filling(base)
    own = {
        size: base.model_copy(update={"topic_prefix": f"b{uuid.uuid4().hex[:6]}-{size[0]}x{size[1]}."})
        for size in dict.fromkeys(sizes)
    }
    codes = venue_codes()
    writers = []
    for (count, packed), settings in own.items():
        TopicAdmin(settings).apply()
        register_venues(settings, codes)
        writers.append(_Writer(filling, settings.topic(topics.SCANS), packed, count))
    marks: set[tuple[str, str, int, str]] = set()
    most = max(count for count, _ in own)
    for number, scan in enumerate(itertools.islice(scans(time.time_ns() // 1_000_000), most), 1):
        marks.add((scan["person"], scan["venue"], scan["scanned_at"] // 60_000, scan.get("kind", "in")))
        text = orjson.dumps(scan)
        for writer in writers:
            writer.add(text, len(marks))
        if number % 10_000 == 0:
            advance(10_000)
    filling.finish()
    return {
        size: Input(settings, *size, writer.visits)
        for (size, settings), writer in zip(own.items(), writers, strict=True)
    }
