"""Devices, another gateway and the authority: each sends until it is acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import orjson
from confluent_kafka import KafkaError, KafkaException, Producer

from schemas import topics
from schemas.settings import Settings
from schemas.topics import PARTITIONER
from tests.chaos.scenario import Post, Scenario, parts

KEY: Final = "a-key-of-the-chaos-devices"
_DEVICES: Final = 6
# A device gives up on an answer after this and posts again: a gateway may be stopped for longer.
_ANSWER_S: Final = 8.0
_PAUSE_S: Final = 0.3
# Kafka may be stopped for 20 s; past this the client has failed and a new one sends the same record again.
_DELIVERY_S: Final = 30.0
_DONE: Final = frozenset({202, 207, 422})
_AGAIN: Final = frozenset({408, 500, 502, 503, 504})


@dataclass(slots=True)
class Sent:
    """What the senders have seen; read it when they have ended, or as a rough figure."""

    acknowledged: set[str] = field(default_factory=set)
    posts: int = 0
    failures: int = 0  # posts without an answer, or with one that asks to post again
    wrong: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of acknowledgements, seconds of the run
    errors: list[str] = field(default_factory=list)  # a sender that ended before its time


class Traffic:
    """Everything of a scenario, sent within `seconds` of the run's `clock`, then until it is acknowledged."""

    def __init__(
        self, scenario: Scenario, settings: Settings, seconds: float, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.sent = Sent()
        raw = [(record.at, None, record.value) for record in scenario.raw]
        cases = [(record.at, record.key.encode(), record.value) for record in scenario.authority.records]
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._device, part), daemon=True)
            for part in parts(scenario.posts, _DEVICES)
        ] + [
            threading.Thread(target=self._guarded, args=(self._write, topic, records), daemon=True)
            for topic, records in ((topics.SCANS, raw), (topics.CASES, cases))
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether anything is still to be sent, or not acknowledged."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Give up what is left."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_DELIVERY_S)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:  # a sender that ends must be seen, not merely be missed
            self.sent.errors.append(repr(error))

    def _until(self, at: float) -> None:
        self._stop.wait(max(0.0, at * self._seconds - self._clock()))

    # --- HTTP ---------------------------------------------------------------------------------

    def _device(self, posts: Sequence[Post]) -> None:
        url = f"http://127.0.0.1:{self._settings.gateway_port}/v1/scans"
        with httpx.Client(timeout=_ANSWER_S, headers={"X-Api-Key": KEY}) as client:
            for post in posts:
                self._until(post.at)
                for _ in range(1 + post.twice):
                    self._post(client, url, post)
                if self._stop.is_set():
                    return

    def _post(self, client: httpx.Client, url: str, post: Post) -> None:
        while not self._stop.is_set():
            try:
                answer = client.post(url, content=post.body)
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code in _DONE:
                self._heard(post, answer)
                return
            with self._lock:
                self.sent.failures += 1
                if answer is not None and answer.status_code not in _AGAIN:
                    self.sent.wrong.append(f"HTTP {answer.status_code}: {answer.text[:200]}")
                    return
            self._stop.wait(_PAUSE_S)

    def _heard(self, post: Post, answer: httpx.Response) -> None:
        results = orjson.loads(answer.content)["results"]
        told = tuple((each["scan_id"], each["accepted"]) for each in results)
        wanted = tuple(zip(post.scan_ids, post.accepted, strict=True))
        with self._lock:
            self.sent.posts += 1
            self.sent.times.append(self._clock())
            self.sent.acknowledged.update(scan_id for scan_id, accepted in told if accepted)
            if told != wanted:
                odd = [pair for pair in told if pair not in wanted][:3]
                self.sent.wrong.append(f"HTTP {answer.status_code}: {odd}")

    # --- Kafka --------------------------------------------------------------------------------

    def _write(
        self, topic: topics.Topic, records: Sequence[tuple[float, bytes | None, bytes | None]]
    ) -> None:
        """One record after another, so that a key's records keep their order whatever fails."""
        producer = self._producer()
        for at, key, value in records:
            self._until(at)
            while not self._stop.is_set() and not _acknowledged(
                producer, self._settings.topic(topic), key, value
            ):
                producer = self._producer()
        producer.flush(0)

    def _producer(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._settings.kafka_address,
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": PARTITIONER,
                "delivery.timeout.ms": int(_DELIVERY_S * 1000),
                "log_level": 0,
            }
        )


def _acknowledged(producer: Producer, topic: str, key: bytes | None, value: bytes | None) -> bool:
    told: list[KafkaError | None] = []
    try:
        producer.produce(topic, value, key, on_delivery=lambda error, _: told.append(error))
        deadline = time.monotonic() + _DELIVERY_S + 5
        while not told and time.monotonic() < deadline:
            producer.poll(0.1)
    except KafkaException:
        return False
    return told == [None]
