"""Bad records among good ones through real roles: every element is a visit, or rejected with its place."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import orjson
from clickhouse_driver import Client
from confluent_kafka import KafkaError, KafkaException, Producer

from producers.compacted import read_to_end
from producers.dead_letters import DeadLetter, Reader
from producers.venues.register import read_register
from schemas import topics
from schemas.settings import Settings
from tests.bad_input import oracle
from tests.bad_input.mutate import Made, Maker
from tests.stream.harness import MINUTE, Installation

ROLES: Final = ("ingest", "cases", "matcher", "archive")
_REFUSED: Final = -1  # to its sender, by the broker
_SHOWN: Final = 20
Tell = Callable[[str], object]


@dataclass(slots=True)
class Kind:
    """What became of the records of one kind of harm."""

    records: int = 0
    refused: int = 0
    accepted: int = 0
    rejected: int = 0


@dataclass(slots=True)
class Outcome:
    """`differences`: what is not as it must be, the first of them in words; `problems` counts them all."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    problems: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def wrong(self, words: str) -> None:
        """One difference."""
        self.problems += 1
        if len(self.differences) < _SHOWN:
            self.differences.append(words)


Mark = tuple[str, int, str, str]


def _mark(scan: dict[str, Any]) -> Mark:
    return scan["venue"], scan["scanned_at"] // MINUTE, scan["person"], scan.get("kind", "in")


class Run:
    """One run: `records` for `scans`, a twentieth (3,000 at most) for `cases`, a fiftieth for `venues`."""

    def __init__(self, here: Installation, records: int, seed: int, now: int, tell: Tell) -> None:
        self._here = here
        self._settings = here.settings
        self._count = records
        self._bad_venues = max(20, records // 50)
        # the role takes one after another, some tens a second: an authority declares thousands, not millions
        self._cases = min(records // 20, 3_000)
        self._make = Maker(seed, now)
        self._venues = {
            code: self._make.closed_at if code == self._make.closed else None for code in self._make.venues
        }
        self._tell = tell
        self.outcome = Outcome()
        self._marks: set[int] = set()  # hashes: a million of them must fit
        self._scan_ids: set[int] = set()
        self._kept: Counter[str] = Counter()  # rejected records that the archive keeps, by topic
        self._oldest = now - Settings().archive_retention_days * 86_400_000
        self._senders = [self._sender("lz4"), self._sender("zstd")]

    def _sender(self, codec: str) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._settings.kafka_address,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": codec,
                "linger.ms": 5,
                "message.max.bytes": 20_000_000,
                "log_level": 0,
            }
        )

    def run(self, seconds: float) -> Outcome:
        """Send, wait until the roles have done everything, at most `seconds`, and compare."""
        began = time.monotonic()
        self._register()
        scans, cases = self._send_all()
        sent = time.monotonic()
        self._tell(f"sent in {sent - began:.0f} s; the roles go on")
        self._here.settle(ROLES, seconds)
        settled = time.monotonic()
        self._tell(f"done after {settled - began:.0f} s; now compared")
        self._compare_scans(scans)
        self._compare_cases(cases)
        self._compare_venues()
        self._compare_archive()
        self.outcome.seconds = {
            "send": sent - began,
            "settle": settled - sent,
            "compare": time.monotonic() - settled,
        }
        return self.outcome

    # --- in -----------------------------------------------------------------------------------

    def _register(self) -> None:
        for value in self._make.registered():
            key = orjson.loads(value)["code"].encode()
            self._produce(Made(value, "good", 0, key), topics.VENUES, 0, array("q", [0]), 0)
        places = array("q", [0]) * self._bad_venues
        for number in range(self._bad_venues):
            made = self._make.venue(number)
            self._kind("venues", made).records += 1
            self._produce(made, topics.VENUES, 0, places, number)
        self._flush()

    def _send_all(self) -> tuple[array[int], array[int]]:
        scans, cases = array("q", [0]) * self._count, array("q", [0]) * self._cases
        for number in range(self._count):
            made = self._make.scans(number)
            self._kind("scans", made).records += 1
            self._produce(made, topics.SCANS, number % topics.SCANS.partitions, scans, number)
            every, rest = divmod(number * self._cases, self._count)
            if rest < self._cases and every < self._cases:
                made = self._make.case(every)
                self._kind("cases", made).records += 1
                self._produce(made, topics.CASES, every % topics.CASES.partitions, cases, every)
        self._flush()
        return scans, cases

    def _produce(
        self, made: Made, topic: topics.Topic, partition: int, places: array[int], number: int
    ) -> None:
        def delivered(number: int, error: KafkaError | None, message: Any) -> None:
            if error is None:
                places[number] = message.offset()
            elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                places[number] = _REFUSED
            else:
                self.outcome.wrong(f"not sent: {error.str()}")

        sender = self._senders[made.large]
        name = self._settings.topic(topic)
        headers: Any = list(made.headers)  # the client's stub asks for an invariant list
        while True:
            try:
                sender.produce(
                    name,
                    made.value,
                    made.key,
                    partition,
                    on_delivery=partial(delivered, number),
                    timestamp=made.timestamp,
                    headers=headers,
                )
                break
            except BufferError:
                sender.poll(0.1)
            except KafkaException as error:
                delivered(number, error.args[0], None)
                break
        sender.poll(0)

    def _flush(self) -> None:
        for sender in self._senders:
            assert sender.flush(60) == 0

    def _kind(self, topic: str, made: Made) -> Kind:
        return self.outcome.kinds.setdefault(f"{topic}: {made.how}", Kind())

    # --- out ----------------------------------------------------------------------------------

    def _compare_scans(self, places: array[int]) -> None:
        letters = self._by_record(topics.SCANS_REJECTED, places)
        for number, offset in enumerate(places):
            made = self._make.scans(number)
            kind = self._kind("scans", made)
            if offset == _REFUSED:
                kind.refused += 1
                continue
            verdicts = oracle.scan_verdicts(made.value, made.headers, made.timestamp, self._venues)
            wanted = {}
            for index, (verdict, scan) in enumerate(verdicts):
                if verdict:
                    wanted[index] = verdict
                    continue
                kind.accepted += 1
                self._marks.add(hash(_mark(scan)))
                self._scan_ids.add(hash(scan["scan_id"]))
            kind.rejected += len(wanted)
            self._same(f"scans, record {number} ({made.how})", made, wanted, letters.pop(number, []))
        for number in letters:
            self.outcome.wrong(f"scans: a rejected record of a source that was never sent, {number}")
        self._compare_visits()

    def _compare_visits(self) -> None:
        found: set[int] = set()
        for record in read_to_end(self._settings, topics.VISITS):
            for visit in orjson.loads(record.value or b"[]"):
                at = visit["hour"] * 60 + visit["minute"]
                mark = hash((visit["venue"], at, visit["person"], visit["kind"]))
                found.add(mark)
                if mark not in self._marks or hash(visit["scan_id"]) not in self._scan_ids:
                    self.outcome.wrong(f"a visit that must not be: {visit}")
        if missing := len(self._marks - found):
            self.outcome.problems += missing
            self.outcome.wrong(f"{missing} marks have no visit")

    def _compare_cases(self, places: array[int]) -> None:
        letters = self._by_record(topics.CASES_REJECTED, places)
        for number, offset in enumerate(places):
            made = self._make.case(number)
            kind = self._kind("cases", made)
            if offset == _REFUSED:
                kind.refused += 1
                continue
            verdict = oracle.case_verdict(made.key, made.value)
            kind.accepted += not verdict
            kind.rejected += bool(verdict)
            wanted = {0: verdict} if verdict else {}
            found = letters.pop(number, [])
            self._same(f"cases, record {number} ({made.how})", made, wanted, found)
            if any(letter.key != (made.key or b"")[:1024] for letter in found):
                self.outcome.wrong(f"cases, record {number}: the rejected record has another key")
        for number in letters:
            self.outcome.wrong(f"cases: a rejected record of a source that was never sent, {number}")

    def _compare_venues(self) -> None:
        wanted = set(self._make.venues)
        for number in range(self._bad_venues):
            made = self._make.venue(number)
            kind = self._kind("venues", made)
            if oracle.is_venue(made.value):
                kind.accepted += 1
                wanted.add(oracle.parsed(made.value)["code"])
            else:
                kind.rejected += 1
        found = set(read_register(self._settings))
        if found != wanted:
            self.outcome.wrong(f"the register has {found - wanted} too many and lacks {wanted - found}")

    def _by_record(self, topic: topics.Topic, places: array[int]) -> dict[int, list[DeadLetter]]:
        """The rejected records by the number of the record that they came from; unknown places below 0."""
        partitions = 4
        numbers = {
            (number % partitions, offset): number
            for number, offset in enumerate(places)
            if offset != _REFUSED
        }
        found: dict[int, list[DeadLetter]] = {}
        for letter in Reader(self._settings, topic):
            place = int(letter.text("source-partition")), int(letter.text("source-offset"))
            found.setdefault(numbers.get(place, -len(found) - 1), []).append(letter)
            self.outcome.reasons[f"{topic.name}: {letter.reason}"] += 1
            # it goes by the arrival, which headers and timestamps may claim to be long ago
            self._kept[topic.name] += int(letter.text("arrival")) > self._oldest
        return found

    def _same(self, where: str, made: Made, wanted: dict[int, str], letters: list[DeadLetter]) -> None:
        found = {int(letter.text("source-index")): letter for letter in letters}
        for index in wanted.keys() ^ found.keys():
            why = wanted.get(index) or f"{found[index].reason}: {found[index].text('detail')}"
            which = "is missing in" if index in wanted else "must not be in"
            self.outcome.wrong(f"{where}: element {index} {which} the rejected ones ({why})")
        for index in wanted.keys() & found.keys():
            self._same_letter(f"{where}: element {index}", made, wanted[index], found[index])

    def _same_letter(self, where: str, made: Made, verdict: str, letter: DeadLetter) -> None:
        reason = oracle.BAD if letter.reason in {"malformed", "invalid"} else letter.reason
        whole = letter.value == made.value
        if reason != verdict:
            self.outcome.wrong(f"{where} is {letter.reason}, not {verdict}")
        elif not whole and (not made.value or not letter.value or letter.value not in made.value):
            self.outcome.wrong(f"{where} has other bytes than were sent")
        elif letter.attempts != oracle.attempts(made.headers):
            self.outcome.wrong(f"{where} has {letter.attempts} attempts")
        elif not letter.text("detail") or len(letter.text("detail")) > 600:
            self.outcome.wrong(f"{where} has no detail, or one that grows with the input")

    def _compare_archive(self) -> None:
        client = Client.from_url(self._settings.clickhouse_url)
        try:
            for topic in (topics.SCANS, topics.CASES):
                wanted = self._kept[f"{topic.name}.rejected"]
                ((found,),) = client.execute(
                    "SELECT uniqExact(source_partition, source_offset, source_index) FROM rejected"
                    " WHERE source_topic = %(topic)s AND detail != '' AND arrival > %(oldest)s",
                    {"topic": self._settings.topic(topic), "oldest": self._oldest},
                )
                if found != wanted:
                    self.outcome.wrong(f"the archive has {found} rejected of {topic.name}, not {wanted}")
            ((marks,),) = client.execute(
                "SELECT sum(bitCount(i) + bitCount(o) + bitCount(v)) FROM (SELECT groupBitOr(ins) AS i,"
                " groupBitOr(outs) AS o, groupBitOr(voids) AS v FROM visits GROUP BY venue, hour, person)"
            )
            if marks != len(self._marks):
                self.outcome.wrong(f"the archive has {marks} marks, not {len(self._marks)}")
        finally:
            client.disconnect()


def lines(outcome: Outcome) -> Iterator[tuple[str, ...]]:
    """The table: kind, records, refused to the sender, accepted elements, rejected elements."""
    for name, kind in sorted(outcome.kinds.items()):
        yield name, *(f"{each:,}" for each in (kind.records, kind.refused, kind.accepted, kind.rejected))
