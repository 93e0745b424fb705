"""An installation under test: real role processes, records in, what stands on the topics out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.local import engines
from deploy.local.lag import LagUnknownError, consumer_lag
from deploy.local.memory import environment_of
from deploy.local.roles import ROLES
from schemas import topics
from schemas.codes import new_code
from schemas.departments import Sector, department_of
from schemas.events import Case, Venue
from schemas.settings import Settings
from schemas.topics import PARTITIONER, Topic

MINUTE = 60_000
HOUR = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def person(number: int) -> str:
    return f"{number:016x}"


def stall(code: str, parent: str | None = None) -> Venue:
    """A venue as the register has it."""
    return Venue(
        code=code,
        name="Sạp",
        sector="trade",
        district="hue",
        department=department_of("trade", "hue"),
        parent=parent,
        dwell=60,
    )


@dataclass
class Installation:
    """Topics, roles and helpers of one test."""

    settings: Settings
    logs: Path
    codes: set[str] = field(default_factory=set)
    registered: dict[str, Venue] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    supervised: bool = False  # a role that dies is started again, as a supervisor does, instead of failing
    deaths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.producer = Producer(
            {"bootstrap.servers": self.settings.kafka_address, "acks": "all", "partitioner": PARTITIONER}
        )
        self.admin = AdminClient({"bootstrap.servers": self.settings.kafka_address})

    # --- roles --------------------------------------------------------------------------------

    def start(self, *roles: str) -> None:
        for role in roles:
            name, _, worker = role.partition(":")
            self.launch(role, sys.executable, "-m", "truyvet", "run", name, "--worker", worker or "0")

    def launch(self, role: str, *command: str) -> None:
        """Start a role by a command of the test's own."""
        name, _, worker = role.partition(":")
        with (self.logs / f"{name}{worker}.log").open("ab") as log:
            self.running[role] = subprocess.Popen(
                command, env={**os.environ, **environment_of(self.settings)}, stdout=log, stderr=log
            )

    def kill(self, role: str) -> None:
        process = self.running.pop(role)
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        self.running.clear()

    # --- in -----------------------------------------------------------------------------------

    def send(self, topic: Topic, value: bytes | None, key: str | None = None, **more: Any) -> None:
        self.producer.produce(self.settings.topic(topic), value, key.encode() if key else None, **more)

    def flush(self) -> None:
        assert self.producer.flush(30) == 0

    def venue(self, sector: Sector = "trade", dwell: int = 60, parent: str | None = None, **more: Any) -> str:
        code = new_code(self.codes)
        self.codes.add(code)
        venue = Venue(
            code=code,
            name=f"Nơi {code}",
            sector=sector,
            district="hue",
            department=department_of(sector, "hue"),
            dwell=dwell,
            parent=parent,
            **more,
        )
        self.registered[code] = venue
        self.send(topics.VENUES, venue.model_dump_json().encode(), code)
        self.flush()
        return code

    def open_again(self, code: str) -> None:
        """A venue that was closed is so no more."""
        venue = self.registered[code].model_copy(update={"closed_at": None})
        self.send(topics.VENUES, venue.model_dump_json().encode(), code)
        self.flush()

    def scan(self, who: str, venue: str, at: int, **more: Any) -> dict[str, Any]:
        scan = {"scan_id": str(uuid.uuid4()), "person": who, "venue": venue, "scanned_at": at, **more}
        self.send(topics.SCANS, orjson.dumps(scan))
        return scan

    def case(self, **fields: Any) -> Case:
        case = Case.model_validate({"case_id": "k1", "version": 1, "status": "confirmed"} | fields)
        self.send(topics.CASES, case.to_json(), case.case_id)
        self.flush()
        return case

    # --- out ----------------------------------------------------------------------------------

    def read(self, topic: Topic) -> list[Message]:
        """Everything that stands on a topic now, committed."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.kafka_address,
                "group.id": uuid.uuid4().hex,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        name = self.settings.topic(topic)
        partitions = [TopicPartition(name, number, 0) for number in range(self._partitions(name))]
        consumer.assign(partitions)
        found: list[Message] = []
        left = len(partitions)
        deadline = time.monotonic() + 30
        while left and time.monotonic() < deadline:
            for message in consumer.consume(500, 0.2):
                if message.error() is None:
                    found.append(message)
                else:
                    left -= 1
        consumer.close()
        assert not left, f"could not read {name} to its end"
        return found

    def values(self, topic: Topic) -> list[Any]:
        return [orjson.loads(message.value() or b"null") for message in self.read(topic)]

    def last(self, topic: Topic, rising: bool = True) -> dict[str, Any]:
        """The last record of each key; `rising`: versions of a key must never fall."""
        found: dict[str, Any] = {}
        for message in self.read(topic):
            key = (message.key() or b"").decode()
            value = orjson.loads(message.value() or b"null")
            if rising and key in found:
                assert value["version"] >= found[key]["version"], (found[key], value)
            found[key] = value
        return found

    def exposed(self) -> dict[tuple[str, str, str], int]:
        """(case, person, venue) → minutes over all dates, of what stands exposed."""
        found: dict[tuple[str, str, str], int] = {}
        for exposure in self.last(topics.EXPOSURES).values():
            if exposure["status"] == "exposed":
                key = (exposure["case_id"], exposure["person"], exposure["venue"])
                found[key] = found.get(key, 0) + exposure["minutes"]
        return found

    # --- waiting ------------------------------------------------------------------------------

    def _partitions(self, name: str) -> int:
        return len(self.admin.list_topics(name, timeout=10).topics[name].partitions)

    def lag(self, role: str) -> int:
        """Records that the role has not acknowledged; one while Kafka cannot tell."""
        try:
            return sum(lag.records for lag in consumer_lag(self.settings, [ROLES[role]]))
        except LagUnknownError:
            return 1

    def settle(self, roles: Iterable[str] = ("ingest", "cases", "matcher"), seconds: float = 90) -> None:
        """Wait until the roles have acknowledged everything; a role's output is the next one's input."""
        self.flush()
        for role in roles:
            self.wait(lambda role=role: self.lag(role) == 0, f"{role} has lag", seconds)  # type: ignore[misc]

    def wait(self, true: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            dead = [role for role, process in self.running.items() if process.poll() is not None]
            assert self.supervised or not dead, f"{dead} died: {self.tail(dead[0])}"
            for role in dead:
                self.deaths.append(role)
                self.start(role)
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{self.tails()}"
            time.sleep(0.1)

    def tails(self) -> str:
        return "\n".join(f"== {role}\n{self.tail(role)}" for role in self.running)

    def tail(self, role: str) -> str:
        return (self.logs / f"{role.replace(':', '')}.log").read_text(errors="replace")[-3000:]


@contextmanager
def installed(settings: Settings, logs: Path, *roles: str) -> Iterator[Installation]:
    """An installation with these roles, ended by process id."""
    installation = Installation(settings, logs)
    try:
        installation.start(*roles)
        yield installation
    finally:
        installation.stop()


@contextmanager
def redis_of_its_own(folder: Path, port: int, **options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis apart from that of the session, with `options` of deploy.local.engines.redis."""
    launch = engines.redis(folder, port, **options)  # type: ignore[arg-type]
    launch.prepare()
    process = subprocess.Popen(launch.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert engines.wait_until(launch.answers, 20) is None
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
