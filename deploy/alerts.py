"""The reference alert consumer: what everybody who subscribes to `exposures` has to do, in one place.

Read committed records only, and ignore a version that is not higher than the one already known: the same
exposure may be published more than once, and after a rebuild in another order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition
from pydantic import ValidationError

from producers.compacted import PASSING, SILENCE_SECONDS, away, end_of, partitions_of, quiet_consumer
from schemas import topics
from schemas.events import Exposure
from schemas.problems import first_problem
from schemas.settings import Settings

News = Literal["new", "changed", "withdrawn"]


@dataclass(slots=True)
class Newest:
    """The highest version seen of each exposure. Pure."""

    _seen: dict[str, tuple[int, str]] = field(default_factory=dict)
    ignored: int = 0

    def take(self, exposure: Exposure) -> News | None:
        """What this record is news of; none when its version is not higher than the one known."""
        version, status = self._seen.get(exposure.exposure_id, (0, ""))
        if exposure.version <= version:
            self.ignored += 1
            return None
        self._seen[exposure.exposure_id] = (exposure.version, exposure.status)
        if exposure.status == "withdrawn":
            return "withdrawn"
        return "changed" if status == "exposed" else "new"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is no exposure, and why."""

    partition: int
    offset: int
    problem: str


def follow(
    settings: Settings,
    *,
    from_beginning: bool,
    until_idle: float | None = None,
    on_ready: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Exposure | Unreadable]:
    """The records of the topic `exposures` as they are committed, each as it lies there.

    `until_idle`: end when what was there is read and nothing came for so many seconds; none: go on for ever,
    through a broker's restart too. `on_ready` is called once the start of the reading is fixed: what is
    published from then on will be seen. Raises KafkaAwayError, TopicMissingError.
    """
    consumer = quiet_consumer(settings)
    try:
        places = _places(consumer, settings, from_beginning)
        consumer.assign(places)
        on_ready()
        unread = {place.partition for place in places}  # whose end has not been seen yet
        last_heard = clock()
        while True:
            if until_idle is not None:
                limit = max(until_idle, SILENCE_SECONDS) if unread else until_idle
                if clock() - last_heard >= limit:
                    break
            message = consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    if message.partition() in unread:
                        unread.discard(message.partition())
                        last_heard = clock()
                elif error.code() not in PASSING:
                    raise away(settings, error.str())
                continue
            value = message.value()
            # a tombstone says that retention has removed the exposure: news to nobody
            if value is not None:
                yield _read(message, value)
            last_heard = clock()  # after the reader has done its part: that is not idleness
        if unread:
            raise away(settings, f"{settings.topic(topics.EXPOSURES)} stays silent")
    finally:
        consumer.close()


def _places(consumer: Consumer, settings: Settings, from_beginning: bool) -> list[TopicPartition]:
    """Where to begin in each partition."""
    name = settings.topic(topics.EXPOSURES)
    places = [
        TopicPartition(name, partition, OFFSET_BEGINNING)
        for partition in partitions_of(consumer, settings, topics.EXPOSURES)
    ]
    if not from_beginning:
        # a number, not OFFSET_END: that would be looked up later, and skip what comes in between
        for place in places:
            place.offset = end_of(consumer, settings, place)
    return places


def _read(message: Message, value: bytes) -> Exposure | Unreadable:
    try:
        return Exposure.model_validate_json(value)
    except ValidationError as problem:
        return Unreadable(message.partition() or 0, message.offset() or 0, first_problem(problem))
