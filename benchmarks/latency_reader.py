"""What arrives while latency is measured: committed exposures, and the touched events that lead to them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from confluent_kafka import TopicPartition

from producers.compacted import end_of, quiet_consumer
from schemas import topics
from schemas.settings import Settings


@dataclass(frozen=True, slots=True)
class Read:
    """A record as it was read: when, when it was written (seconds, wall clock), and what it says."""

    at: float
    written: float
    touched: bool
    value: bytes


class Reader(threading.Thread):
    """Reads committed exposures, and what leads to them, as fast as they come."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="reader", daemon=True)
        self._consumer = quiet_consumer(settings)
        self._touched = settings.topic(topics.TOUCHED)
        self._read: list[Read] = []
        self._going = True
        self._failure: Exception | None = None
        places = [
            TopicPartition(settings.topic(topic), partition)
            for topic in (topics.EXPOSURES, topics.TOUCHED)
            for partition in range(settings.partitions.get(topic.name, topic.partitions))
        ]
        for place in places:
            place.offset = end_of(self._consumer, settings, place)
        self._consumer.assign(places)

    def run(self) -> None:
        """Until `stop`."""
        try:
            while self._going:
                message = self._consumer.poll(0.2)
                if message is None or message.error() is not None:
                    continue
                self._read.append(
                    Read(
                        time.time(),
                        message.timestamp()[1] / 1000,
                        message.topic() == self._touched,
                        message.value() or b"",
                    )
                )
        except Exception as error:
            self._failure = error
        finally:
            self._consumer.close()

    def since(self, start: int) -> list[Read]:
        """What was read from this number on. Raises what ended the reading."""
        if self._failure is not None:
            raise self._failure
        return self._read[start:]

    def stop(self) -> None:
        """End."""
        self._going = False
        self.join(5)
