"""One job over one input: how fast, at what cost, and whether its answer is whole.

While the job runs, nothing is read: ten times a second the ends of the output topic and the counters of the
processes are asked. When the ends stand still, the output is counted. The speed is that of the visits between
the first and the last output record by the broker's clock, so the start of a process does not count, for any
job. A job that does not end with exactly the expected number of visits has no speed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

import psutil
import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic, OffsetSpec
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from benchmarks.inputs import Input
from benchmarks.jobs import ROOT, Job
from deploy.local.health import admin
from deploy.local.memory import environment_of
from schemas import topics
from schemas.settings import Settings

_TICK_S: Final = 0.1
_STILL_S: Final = 1.5  # an output that stands still for so long is counted: it may be whole
_START_S: Final = 90.0  # a process that publishes nothing for so long does not start
_STALLED_S: Final = 60.0  # one that stops before the end for so long has stalled
_GROUP_S: Final = 60.0  # a static member that ended is remembered until its session ends
_CALL_S: Final = 30.0  # the broker answers within this or is stuck
_SETTLE_S: Final = 1.0  # a job that publishes too much shows it within this


class NotMeasuredError(RuntimeError):
    """The engines did not do what a measurement needs."""


@dataclass(frozen=True, slots=True)
class Engines:
    """The processes of the broker and of Redis."""

    kafka: psutil.Process
    redis: psutil.Process


@dataclass(frozen=True, slots=True)
class Run:
    """One job over one input. CPU in seconds a million scans; `others`: CPU that was not ours, of all cores.

    `problem`: why the run is void, empty when it is not.
    """

    job: str
    packed: int
    scans: int
    visits: int
    expected: int
    seconds: float = 0.0
    scans_per_second: float = 0.0
    cpu: float = 0.0
    cpu_kafka: float = 0.0
    cpu_redis: float = 0.0
    memory_mb: float = 0.0
    others: float = 0.0
    problem: str = ""


def _cpu(process: psutil.Process) -> float:
    """CPU seconds of a process, all its threads and its children that have ended."""
    return sum(process.cpu_times()[:4])


def _tree(process: psutil.Process) -> tuple[float, int]:
    """CPU seconds and resident bytes of a process and all below it."""
    cpu, memory = 0.0, 0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            cpu += _cpu(each)
            memory += each.memory_info().rss
    return cpu, memory


def _machine() -> float:
    """CPU seconds of all cores in which something ran, other guests of the host included."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + times.irq + times.softirq + times.steal)


@dataclass(frozen=True, slots=True)
class _Sample:
    """What was used so far, when the output ended at `ends`."""

    ends: tuple[int, ...]
    job: float
    kafka: float
    redis: float
    harness: float
    machine: float


def _passing(error: BaseException) -> bool:
    """A topic that was just made has no leader for a moment; one made again under its name, another epoch."""
    return isinstance(error, KafkaException) and error.args[0].code() in {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }


class Output:
    """The topic that a job publishes to, made anew for each run; its records carry the broker's time."""

    def __init__(self, kafka: str, name: str) -> None:
        self._client = admin(kafka)  # its own: one that knew the topic of the last run has an epoch too high
        self.name = name
        self._places = [TopicPartition(name, number) for number in range(topics.VISITS.partitions)]
        self._reader = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": uuid.uuid4().hex,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        self._read: list[int] = [0] * len(self._places)
        self.visits = 0
        self.first = self.last = 0  # ms
        self.first_visits = 0  # of the earliest record: what was published before the clock began
        self.since: tuple[int, ...] = (0,) * len(self._places)
        self.visits_since = 0  # behind those offsets
        self.values: list[bytes] | None = None  # tests keep them

    @retry(
        retry=retry_if_exception(_passing),
        wait=wait_fixed(_TICK_S),
        stop=stop_after_delay(_CALL_S),
        reraise=True,
    )
    def ends(self) -> tuple[int, ...]:
        """Where each partition ends now."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = self._client.list_offsets(dict.fromkeys(self._places, latest), request_timeout=_CALL_S)
        return tuple(asked[place].result(_CALL_S).offset for place in self._places)

    def count(self, ends: tuple[int, ...]) -> int:
        """Read on up to these ends; the number of visits from the beginning."""
        self._reader.assign(
            [TopicPartition(self.name, number, offset) for number, offset in enumerate(self._read)]
        )
        deadline = time.monotonic() + _CALL_S
        while any(offset < end for offset, end in zip(self._read, ends, strict=True)):
            if time.monotonic() > deadline:
                raise NotMeasuredError(f"{self.name} cannot be read up to its end")
            for message in self._reader.consume(10_000, 0.2):
                if message.error() is not None:
                    continue
                deadline = time.monotonic() + _CALL_S
                value, stamp = message.value() or b"", message.timestamp()[1]
                found = value.count(b'"scan_id"')
                if not self.first or stamp < self.first:
                    self.first, self.first_visits = stamp, found
                self.last = max(self.last, stamp)
                number, offset = message.partition() or 0, message.offset() or 0
                self.visits += found
                if offset >= self.since[number]:
                    self.visits_since += found
                self._read[number] = offset + 1
                if self.values is not None:
                    self.values.append(value)
        self._reader.unassign()
        return self.visits

    def close(self) -> None:
        """Let go of the connection."""
        self._reader.close()


class Bench:
    """Runs jobs one after another on engines that belong to this benchmark alone."""

    def __init__(self, kafka: str, engines: Engines, keep_values: bool = False) -> None:
        self._client = admin(kafka)
        self._kafka = kafka
        self._engines = engines
        self._keep_values = keep_values
        self.values: list[bytes] = []  # what the last run published, when kept

    def run(self, job: Job, given: Input) -> Run:
        """Run a job over an input. Whatever fails, stalls or miscounts makes a void run, no exception."""
        scratch = Path(tempfile.mkdtemp(prefix="bench-"))
        output = Output(self._kafka, given.settings.topic(topics.VISITS))
        output.values = [] if self._keep_values else None
        try:
            run = self._measured(job, given, output, scratch)
            self._remove(given.settings)
        except (NotMeasuredError, KafkaException, redis.RedisError) as error:
            run = _void(job, given, output.visits, f"not measured: {error}")
        finally:
            output.close()
            shutil.rmtree(scratch, ignore_errors=True)
        self.values = output.values or []
        return run

    def _measured(self, job: Job, given: Input, output: Output, scratch: Path) -> Run:
        self._clean(job, given.settings, output.name)
        with (scratch / "log").open("wb") as log:
            process = self._start(job, given, scratch, log)
            try:
                run = self._watch(job, given, output, process)
            finally:
                _end(process)
        if not run.problem:
            # once more after the end: what came too much makes the run void
            time.sleep(_SETTLE_S)
            if (visits := output.count(output.ends())) != given.visits:
                run = _void(job, given, visits, f"{visits:,} visits instead of {given.visits:,}")
        if run.problem and (words := _last_words(scratch / "log")):
            run = replace(run, problem=f"{run.problem}; {words}")
        return run

    def _start(self, job: Job, given: Input, scratch: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        settings = given.settings
        environment = {
            **environment_of(settings),
            "BENCH_INPUT": settings.topic(topics.SCANS),
            "BENCH_OUTPUT": settings.topic(topics.VISITS),
            "BENCH_GROUP": f"{settings.topic_prefix}{uuid.uuid4().hex[:8]}",
            "BENCH_STATE": str(scratch),
            "BENCH_PACKED": str(given.packed),
        }
        return subprocess.Popen(
            job.command(given.packed),
            env={**os.environ, **environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def _watch(self, job: Job, given: Input, output: Output, process: subprocess.Popen[bytes]) -> Run:
        watched = psutil.Process(process.pid)
        harness = psutil.Process()
        memory = 0
        first: _Sample | None = None
        last: _Sample | None = None
        counted: tuple[int, ...] = ()
        began = moved = time.monotonic()
        problem = ""
        while True:
            ends = output.ends()
            now = time.monotonic()
            cpu, resident = _tree(watched)
            memory = max(memory, resident)
            sample = _Sample(
                ends, cpu, _cpu(self._engines.kafka), _cpu(self._engines.redis), _cpu(harness), _machine()
            )
            if any(ends):
                if first is None:
                    first, output.since = sample, ends
                if last is None or ends != last.ends:
                    last, moved = sample, now
                elif now - moved > _STILL_S and ends != counted:
                    counted = ends
                    if output.count(ends) >= given.visits:
                        break
            if process.poll() is not None:
                problem = f"ended by itself with code {process.returncode}"
            elif now - began > _START_S and first is None:
                problem = f"published nothing within {_START_S:.0f} s"
            elif first is not None and now - moved > _STALLED_S:
                problem = f"stopped at {output.visits:,} of {given.visits:,} visits"
            if problem:
                output.count(ends)
                return _void(job, given, output.visits, problem)
            time.sleep(_TICK_S)
        assert first is not None  # it was counted
        assert last is not None
        return _figures(job, given, output, (first, last), memory)

    def _clean(self, job: Job, settings: Settings, output: str) -> None:
        """As if nothing had run on this input: an empty Redis, no group, an empty output."""
        store = redis.Redis.from_url(settings.redis_url)
        store.flushdb()
        store.close()
        if job.role:
            self._forget(settings.group(job.role))
        self._remove(settings)
        config = {**topics.VISITS.config(), "message.timestamp.type": "LogAppendTime"}
        new = NewTopic(output, topics.VISITS.partitions, 1, config=config)
        self._client.create_topics([new], operation_timeout=_CALL_S)[output].result(_CALL_S)
        self._wait_for(lambda names: output in names, f"Kafka does not make {output}")

    def _remove(self, settings: Settings) -> None:
        """The output, and what a framework made for itself under the name of its group."""
        inputs = {settings.topic(topic) for topic in topics.TOPICS.values() if topic is not topics.VISITS}
        spare = {
            name
            for name in self._client.list_topics(timeout=_CALL_S).topics
            if settings.topic_prefix in name and name not in inputs
        }
        if spare:
            for future in self._client.delete_topics(list(spare), operation_timeout=_CALL_S).values():
                future.result(_CALL_S)
            self._wait_for(
                lambda names: not spare & names, "Kafka does not delete the output of the last run"
            )

    def _wait_for(self, done: Callable[[set[str]], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _CALL_S
        while not done(set(self._client.list_topics(timeout=_CALL_S).topics)):
            if time.monotonic() > deadline:
                raise NotMeasuredError(otherwise)
            time.sleep(_TICK_S)

    def _forget(self, group: str) -> None:
        """Delete a consumer group, waiting until its last member is forgotten."""
        deadline = time.monotonic() + _GROUP_S
        while True:
            known = self._client.list_consumer_groups(request_timeout=_CALL_S).result(_CALL_S).valid
            if group not in {each.group_id for each in known}:
                return
            try:
                self._client.delete_consumer_groups([group], request_timeout=_CALL_S)[group].result(_CALL_S)
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise NotMeasuredError(f"group {group} stays: {error.args[0].str()}") from None
                time.sleep(1)


def _void(job: Job, given: Input, visits: int, problem: str) -> Run:
    return Run(job.name, given.packed, given.scans, visits, given.visits, problem=problem)


def _figures(job: Job, given: Input, output: Output, samples: tuple[_Sample, _Sample], memory: int) -> Run:
    first, last = samples
    scans_a_visit = given.scans / given.visits
    seconds = (output.last - output.first) / 1000
    used: Mapping[str, float] = {
        name: getattr(last, name) - getattr(first, name) for name in ("job", "kafka", "redis", "harness")
    }
    # the first sample came somewhat after the first record: the counters belong to what came behind it
    million = output.visits_since * scans_a_visit / 1e6 or float("nan")
    return Run(
        job.name,
        given.packed,
        given.scans,
        output.visits,
        given.visits,
        seconds,
        (output.visits - output.first_visits) * scans_a_visit / seconds if seconds else 0.0,
        used["job"] / million,
        used["kafka"] / million,
        used["redis"] / million,
        memory / 1e6,
        max(0.0, last.machine - first.machine - sum(used.values())),
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL, of the process that was started here and of what it started."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    for each in below:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-500:]
