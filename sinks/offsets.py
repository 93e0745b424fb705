"""Where the sink stands in Kafka: what it commits, how far behind it is, and what Kafka deleted unread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.topics import Topic
from sinks import metrics

# A coordinator that does not say what is committed must not hold an assignment, and with it the whole group.
_PATIENCE_S: Final = 5.0

log = logging.getLogger("truyvet.archive")

Key = tuple[str, int]  # topic and partition


class Offsets:
    """Used by the thread of the consumer, its callbacks included. `tell` gets a line: form and words."""

    def __init__(
        self, topics: Mapping[str, Topic], counters: metrics.Metrics, tell: Callable[..., None]
    ) -> None:
        self._topics = topics
        self._metrics = counters
        self._tell = tell
        self._next: dict[Key, int] = {}  # of what was read since the last flush began
        self._flying: dict[Key, int] = {}  # of the flush under way, and what a commit before it left
        self._position: dict[Key, int] = {}  # the offset that is expected

    def assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """From where the group goes on, where it has a place."""
        try:
            known = consumer.committed(list(partitions), timeout=_PATIENCE_S)
        except KafkaException as error:
            self._tell("what Kafka deleted unread could not be told: %s", error.args[0].str())
            return
        for each in known:
            if each.offset >= 0:
                self._position[each.topic, each.partition] = each.offset

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Another member goes on from what was committed."""
        for each in partitions:
            self._next.pop((each.topic, each.partition), None)
            self._flying.pop((each.topic, each.partition), None)
            self._position.pop((each.topic, each.partition), None)
            self._metrics.lag.labels(each.topic).set(0)

    def passed(self, consumer: Consumer, key: Key, offset: int, after: int) -> bool:
        """The record at `offset`, or the end of the partition (`after` is the same), was read; False: it is
        the end, and was known."""
        expected = self._position.get(key)
        if expected is not None and offset == after and after <= expected:
            return False
        if expected is not None and offset > expected:
            self._look_for_loss(consumer, key, expected)
        self._position[key] = self._next[key] = after
        return True

    def _look_for_loss(self, consumer: Consumer, key: Key, expected: int) -> None:
        """Offsets are missing: markers of transactions, what compaction superseded, or deleted unread."""
        topic = self._topics[key[0]]
        known = consumer.get_watermark_offsets(TopicPartition(*key), cached=True)
        if topic.compacted or not known or known[0] <= expected:
            return
        lost = known[0] - expected
        self._metrics.lost.labels(key[0]).inc(lost)
        log.critical(
            "Kafka deleted %d records of %s/%d (offsets %d to %d) before they were archived: the sink was"
            " behind for longer than the topic's retention.ms; it goes on with what is left",
            *(lost, *key, expected, known[0] - 1),
        )

    def take_off(self) -> None:
        """A flush begins: what was passed until now is committed after it."""
        self._flying |= self._next
        self._next = {}

    def commit(self, consumer: Consumer) -> bool:
        """Commit what the flush had; whether it did. Raises KafkaException when the client cannot go on."""
        if not self._flying:
            return False
        offsets = [
            TopicPartition(name, partition, after) for (name, partition), after in self._flying.items()
        ]
        try:
            done = consumer.commit(offsets=offsets, asynchronous=False) or []
        except KafkaException as error:
            if error.args[0].fatal():
                raise
            # the rows are in; the next commit, or the partition's next owner, moves on
            self._tell("offsets are not committed yet: %s", error.args[0].str())
            return False
        failed = {(each.topic, each.partition): each.error for each in done if each.error is not None}
        for key, problem in failed.items():
            self._tell("offset of %s is not committed yet: %s", f"{key[0]}/{key[1]}", problem.str())
        self._flying = {key: after for key, after in self._flying.items() if key in failed}
        return True

    def measure_lag(self, consumer: Consumer) -> None:
        """Set the gauge of each topic."""
        lag: dict[str, int] = {}
        for (name, partition), position in self._position.items():
            known = consumer.get_watermark_offsets(TopicPartition(name, partition), cached=True)
            if known:
                lag[name] = lag.get(name, 0) + max(0, known[1] - position)
        for name, count in lag.items():
            self._metrics.lag.labels(name).set(count)
