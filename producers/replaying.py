"""Send rejected records once more, and remember which.

What was sent is remembered in the topic `rejected.replayed`, after Kafka has acknowledged it: a crash between
the two sends some records again at the next call, which does no harm (every write is a merge), and loses
none. A run of offsets is one entry, so filters may leave holes.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self, TypeVar

from confluent_kafka import KafkaError, KafkaException
from pydantic import ValidationError

from producers.compacted import read_to_end
from producers.dead_letters import DeadLetter, Resend, incurable, resend
from schemas import topics
from schemas.events import Replayed
from schemas.kafka import LARGE_VALUES, durable_producer
from schemas.settings import Settings
from schemas.topics import Topic

log: Final = logging.getLogger("truyvet.audit")

# Past this without an acknowledgement, longer than a broker's restart, whoever waits should be told.
ACKNOWLEDGED_SECONDS: Final = 30.0
# What is sent before it is remembered, and so at most sent again after a crash.
BATCH_RECORDS: Final = 2_000
BATCH_BYTES: Final = 8_000_000

Place = tuple[str, int]  # topic (without prefix) and partition
T = TypeVar("T")
# topic, value, key, headers, and what it stands for
_Written = tuple[Topic, bytes | None, bytes | None, list[tuple[str, Any]], T]


def runs(offsets: Iterable[int]) -> list[tuple[int, int]]:
    """Offsets in any order as ascending runs [first, past the last)."""
    found: list[tuple[int, int]] = []
    for offset in sorted(set(offsets)):
        if found and found[-1][1] == offset:
            found[-1] = found[-1][0], offset + 1
        else:
            found.append((offset, offset + 1))
    return found


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Runs in any order, that may overlap or touch, as ascending ones that do not."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        elif begin < end:
            found.append((begin, end))
    return found


class Memory:
    """Which dead letters were replayed before."""

    def __init__(self, entries: Iterable[Replayed] = ()) -> None:
        spans: dict[Place, list[tuple[int, int]]] = {}
        for entry in entries:
            spans.setdefault((entry.topic, entry.partition), []).extend(entry.offsets)
        self._spans = {place: merged(found) for place, found in spans.items()}

    def __contains__(self, letter: DeadLetter) -> bool:
        found = self._spans.get((letter.topic.name, letter.partition), [])
        at = bisect_right(found, letter.offset, key=lambda span: span[0]) - 1
        return at >= 0 and letter.offset < found[at][1]

    @classmethod
    def read(cls, settings: Settings) -> Self:
        """What the topic remembers now. Raises KafkaAwayError, TopicMissingError."""
        return cls(_entries(settings))


def _entries(settings: Settings) -> Iterator[Replayed]:
    for record in read_to_end(settings, topics.REJECTED_REPLAYED):
        try:
            yield Replayed.model_validate_json(record.value or b"")
        except ValidationError:
            log.warning("ignored an entry of rejected.replayed at offset %d: not ours", record.offset)


@dataclass(slots=True)
class Outcome:
    """What became of the dead letters that were asked for, by (topic, reason).

    `sent` (with a dry run: would be), `before` (replayed already), `incurable`, `refused` (by the broker);
    `advice`: for each reason that no replay cures, what to do; `problems`: what the broker said, with places.
    """

    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    before: Counter[tuple[str, str]] = field(default_factory=Counter)
    incurable: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    advice: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class NotAcknowledgedError(ConnectionError):
    """Kafka stopped answering in the middle; what was acknowledged is remembered."""


# The broker refuses this one record, whenever it is sent.
_LASTING: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_MSG,
        KafkaError._INVALID_ARG,
    }
)


class Replay:
    """One call of `truyvet rejected replay`. `by`: user and host, for the audit; `dry`: send nothing;
    `reasons`: only these, empty: all."""

    def __init__(
        self,
        settings: Settings,
        memory: Memory,
        *,
        by: str,
        clock_ms: Callable[[], int],
        reasons: Collection[str] = (),
        dry: bool = False,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._by = by
        self._clock_ms = clock_ms
        self._reasons = reasons
        self._dry = dry
        self.outcome = Outcome()
        self._producer = durable_producer(
            settings.kafka_address,
            [settings.topic(topics.SCANS)],  # where most go; one connection serves all
            ACKNOWLEDGED_SECONDS,
            {
                **LARGE_VALUES,
                "linger.ms": 5,
                "log_level": 0,
            },
        )

    def run(self, letters: Iterable[DeadLetter], seen: Callable[[int], object]) -> None:
        """Send all that may be; `seen` is told how many dead letters are dealt with since it was told last.

        Raises NotAcknowledgedError. After that, and after any other end, a second call goes on.
        """
        batch: list[tuple[DeadLetter, Resend]] = []
        size = count = 0
        for letter in letters:
            count += 1
            if (again := self._judged(letter)) is not None:
                batch.append((letter, again))
                size += len(letter.value or b"")
            if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES or count >= BATCH_RECORDS:
                self._send(batch)
                seen(count)
                batch, size, count = [], 0, 0
        self._send(batch)
        seen(count)

    def _judged(self, letter: DeadLetter) -> Resend | None:
        if self._reasons and letter.reason not in self._reasons:
            return None
        about = letter.topic.name, letter.reason
        if letter in self._memory:
            self.outcome.before[about] += 1
            return None
        if (why := incurable(self._settings, letter)) is not None:
            self.outcome.incurable[about] += 1
            self.outcome.advice["cut" if "cut" in letter.headers else letter.reason] = why
            return None
        return resend(letter)

    def _send(self, batch: Sequence[tuple[DeadLetter, Resend]]) -> None:
        outcome = self.outcome
        if self._dry:
            outcome.sent.update((letter.topic.name, letter.reason) for letter, _ in batch)
            return
        written = self._write(
            [
                (again.topic, again.value, again.key, letter.replay_headers(), letter)
                for letter, again in batch
            ]
        )
        sent = [letter for letter, error in written if error is None]
        self._remember(sent)
        outcome.sent.update((letter.topic.name, letter.reason) for letter in sent)
        lost = []
        for letter, error in written:
            if error is not None and error.code() in _LASTING:
                outcome.refused[letter.topic.name, letter.reason] += 1
                outcome.problems.append(f"{letter.place}: {error.str()}")
            elif error is not None:
                lost.append(error.str())
        if lost:
            raise self._away(len(lost), lost[0])

    def _remember(self, sent: Sequence[DeadLetter]) -> None:
        """Durably, one entry a partition; the audit's line for each."""
        by_place: dict[Place, list[DeadLetter]] = {}
        for letter in sent:
            by_place.setdefault((letter.topic.name, letter.partition), []).append(letter)
        entries: list[_Written[Replayed]] = []
        for (topic, partition), letters in by_place.items():
            entry = Replayed(
                topic=topic,
                partition=partition,
                offsets=runs(letter.offset for letter in letters),
                counts=dict(Counter(letter.reason for letter in letters)),
                at=self._clock_ms(),
                by=self._by,
            )
            entries.append((topics.REJECTED_REPLAYED, entry.model_dump_json().encode(), None, [], entry))
        failed = [error for _, error in self._write(entries) if error is not None]
        if failed:
            raise self._away(len(failed), f"what was sent could not be written down: {failed[0].str()}")

    def _write(self, records: Sequence[_Written[T]]) -> list[tuple[T, KafkaError | None]]:
        """Write and wait; for each the broker's error, none when it is durable.

        The broker bounds a batch: one that is refused for its size is written again record by record, so that
        only those are refused that are too large by themselves.
        """
        errors = self._write_batch(records)
        too_large = [
            index
            for index, error in enumerate(errors)
            if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE
        ]
        for index in too_large if len(records) > 1 else ():
            errors[index : index + 1] = self._write_batch(records[index : index + 1])
        return [(record[4], error) for record, error in zip(records, errors, strict=True)]

    def _write_batch(self, records: Sequence[_Written[T]]) -> list[KafkaError | None]:
        silent = KafkaError(KafkaError._TIMED_OUT, "no acknowledgement")
        errors: list[KafkaError | None] = [silent] * len(records)

        def settle(index: int, error: KafkaError | None, _: object = None) -> None:
            errors[index] = error

        for index, (topic, value, key, headers, _) in enumerate(records):
            while True:
                try:
                    self._producer.produce(
                        self._settings.topic(topic),
                        value,
                        key,
                        on_delivery=partial(settle, index),
                        headers=headers,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
                except KafkaException as error:
                    settle(index, error.args[0])
                    break
        self._producer.flush(ACKNOWLEDGED_SECONDS + 5)
        return errors

    def _away(self, count: int, why: str) -> NotAcknowledgedError:
        return NotAcknowledgedError(
            f"Kafka at {self._settings.kafka_address} did not acknowledge {count:,} records ({why}): replay "
            "again, what is in already does no harm"
        )


def audit(outcome: Outcome, by: str) -> None:
    """Who replayed what, one line a topic and reason, in the log; the topic rejected.replayed keeps it."""
    for (topic, reason), count in sorted(outcome.sent.items()):
        log.info("%s replayed %d %s of %s", by, count, reason, topic)
