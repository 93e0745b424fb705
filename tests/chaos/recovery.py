"""How long each fault was felt: until committed offsets moved again wherever work was waiting."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from deploy.local.health import admin
from deploy.local.roles import ROLES
from schemas.settings import Settings
from tests.chaos.processes import Hit

_EVERY_S: Final = 1.0
# A broker that is away must not hold a sample for long: then there is none.
_ANSWER_S: Final = 2.0
_END: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call]

Place = tuple[str, int]  # topic, partition
# Whose offsets tell that a process does its work again.
FELT_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "kafka": ("ingest", "matcher", "archive"),
    "redis": ("ingest", "matcher"),
    "clickhouse": ("archive",),
    "ingest-0": ("ingest",),
    "ingest-1": ("ingest",),
    "cases": ("cases",),
    "matcher": ("matcher",),
    "archive": ("archive",),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Committed offset and end of each partition, by role; `at` in seconds of the run."""

    at: float
    places: Mapping[str, Mapping[Place, tuple[int, int]]]


class Sampler:
    """Looks at the offsets every second, in a thread of its own."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.samples: list[Sample] = []

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        client = admin(self._settings.kafka_address)
        consumers = {
            name: Consumer(
                {
                    "bootstrap.servers": self._settings.kafka_address,
                    "group.id": self._settings.group(name),
                    "enable.auto.commit": False,
                    "log_level": 0,
                }
            )
            for name, role in ROLES.items()
            if role.inputs
        }
        try:
            while not self._stop.wait(_EVERY_S):
                at = self._clock()
                try:
                    places = {name: self._look(client, each, name) for name, each in consumers.items()}
                except KafkaException:
                    continue
                self.samples.append(Sample(at, places))
        finally:
            for consumer in consumers.values():
                consumer.close()

    def _look(self, client: AdminClient, consumer: Consumer, role: str) -> dict[Place, tuple[int, int]]:
        names = {self._settings.topic(topic) for topic in ROLES[role].inputs}
        there = client.list_topics(timeout=_ANSWER_S).topics
        places = [
            TopicPartition(name, number)
            for name in sorted(names & there.keys())
            for number in there[name].partitions
        ]
        committed = consumer.committed(places, timeout=_ANSWER_S)
        ends = {
            (place.topic, place.partition): future.result().offset
            for place, future in client.list_offsets(
                dict.fromkeys(places, _END), request_timeout=_ANSWER_S
            ).items()
        }
        return {
            (place.topic, place.partition): (max(0, place.offset), ends[place.topic, place.partition])
            for place in committed
        }


def recovered(hit: Hit, samples: Sequence[Sample], answers: Sequence[float]) -> float | None:
    """Seconds from a fault until its work went on everywhere; none when there was no work to go on with.

    `answers`: when posts were acknowledged (ascending), for the gateway.
    """
    if hit.fault.target == "gateway":
        after = hit.back if hit.back is not None and hit.fault.kind != "end" else hit.at
        place = bisect_right(answers, after)
        return answers[place] - hit.at if place < len(answers) else None
    began = bisect_right([sample.at for sample in samples], hit.at)
    before, later = samples[max(0, began - 1)], samples[began:]
    took = [
        seconds
        for role in FELT_BY[hit.fault.target]
        for place, (committed, _) in before.places.get(role, {}).items()
        if (seconds := _moved(place, role, committed, hit.at, later)) is not None
    ]
    return max(took, default=None)


def _moved(place: Place, role: str, committed: int, at: float, later: Sequence[Sample]) -> float | None:
    """Seconds from the fault, or from the first work after it, until the committed offset rose."""
    since: float | None = None
    for sample in later:
        now, end = sample.places.get(role, {}).get(place, (committed, committed))
        if now > committed:
            return sample.at - (at if since is None else since)
        if since is None and end > committed + 1:  # a transaction's marker is no work
            since = max(at, at if sample is later[0] else sample.at)
    return None
