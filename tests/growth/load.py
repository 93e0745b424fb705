"""A stream whose right end is known without computing: one case that stays all day, people who come for an
hour; and what the real parts say of it."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterable

import orjson
from clickhouse_driver import Client
from confluent_kafka import Message
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.lag import Place, places
from deploy.local.roles import ROLES, metrics_port
from schemas import topics
from schemas.settings import Settings
from tests.stream.harness import HOUR, MINUTE, Installation, now_ms, person

INDEX = 0xC0FFEE
Mark = tuple[str, str, int, int]  # person, venue, hour, minute


class Load:
    """Scans of people 1, 2, … spread over venues; the first venue is the case's."""

    def __init__(self, there: Installation, venues: int = 4) -> None:
        self.there = there
        self.venues = [there.venue() for _ in range(venues)]
        self.start = now_ms() // HOUR * HOUR - 30 * HOUR
        self.sent: dict[Mark, str] = {}  # → scan_id
        self.people = 0

    def index(self) -> None:
        """The case: at the first venue for ten hours; and the record that says so."""
        self._scan(INDEX, 0, 0, "in")
        self._scan(INDEX, 0, 600, "out")
        self.there.case(
            person=person(INDEX), infectious_from=self.start - HOUR, infectious_to=self.start + 20 * HOUR
        )

    def scans(self, count: int) -> None:
        """So many more people come, each once; a quarter of them (with 4 venues) meets the case."""
        for number in range(self.people + 1, self.people + count + 1):
            self._scan(number, number % len(self.venues), number % 500, "in")
        self.people += count

    def _scan(self, who: int, venue: int, minute: int, kind: str) -> None:
        at = self.start + minute * MINUTE
        scan_id = f"00000000-0000-4000-8000-{len(self.sent):012x}"
        scan = {"scan_id": scan_id, "person": person(who), "venue": self.venues[venue], "scanned_at": at}
        partition = len(self.sent) % topics.SCANS.partitions  # every worker has some
        while True:
            try:
                self.there.send(topics.SCANS, orjson.dumps(scan | {"kind": kind}), partition=partition)
                break
            except BufferError:
                self.there.producer.poll(0.05)
        self.sent[person(who), self.venues[venue], at // HOUR, at // MINUTE % 60] = scan_id

    def exposures(self) -> dict[tuple[str, str, str], int]:
        """What must stand in the end: an hour each."""
        return {
            ("k1", person(number), self.venues[0]): 60
            for number in range(1, self.people + 1)
            if number % len(self.venues) == 0
        }


def marks_of(records: Iterable[Message]) -> dict[Mark, set[str]]:
    """Mark → the scans that are said to have made it, of records of `visits`."""
    found: dict[Mark, set[str]] = {}
    for record in records:
        for visit in orjson.loads(record.value() or b"[]"):
            mark = (visit["person"], visit["venue"], visit["hour"], visit["minute"])
            found.setdefault(mark, set()).add(visit["scan_id"])
    return found


def visits_written(records: Iterable[Message]) -> int:
    """How many visits stand on the topic, repetitions too."""
    return sum(len(orjson.loads(record.value() or b"[]")) for record in records)


def stand(settings: Settings, role: str) -> dict[tuple[str, int], Place]:
    """Where a role's group stands."""
    return places(settings, [ROLES[role]])[role]


def archived(settings: Settings) -> int:
    """Marks in the archive, each once."""
    client = Client.from_url(settings.clickhouse_url)
    try:
        query = (
            "SELECT sum(bitCount(i) + bitCount(o)) FROM (SELECT groupBitOr(ins) AS i, groupBitOr(outs) AS o"
            " FROM visits GROUP BY venue, hour, person)"
        )
        return int(client.execute(query)[0][0])
    finally:
        client.disconnect()


def counter(settings: Settings, role: str, name: str, worker: int = 0, **labels: str) -> float:
    """A counter of a running worker, 0 when it has not counted yet."""
    url = f"http://127.0.0.1:{metrics_port(settings, role, worker)}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    return sum(
        each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.name == name and labels.items() <= each.labels.items()
    )


def seconds(since: float) -> float:
    return round(time.monotonic() - since, 1)
