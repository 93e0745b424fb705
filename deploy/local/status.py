"""What a data folder's stack is doing: every process, the lag, the speed, and whether all is well."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

import psutil
from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import RedisError

from deploy.local import engines, health
from deploy.local.lag import Freshness, Lag, LagUnknownError, freshness, lag_and_age
from deploy.local.roles import INGEST, Worker, health_url, workers
from deploy.local.stack import Stack
from deploy.local.store import StoreStatus, store_client, store_status
from deploy.local.supervision import WATCH, Process, SupervisorError
from deploy.local.watch import Death, deaths

# Seconds between two looks at the counters: shorter ones make the speed jump with each chunk.
_SAMPLE: Final = 1.0
# This many deaths within this time: it runs at the moment, but it will not last.
_UNSTEADY_DEATHS: Final = 3
_UNSTEADY_SECONDS: Final = 300
_TAIL: Final = 8  # log lines shown of a process that fails

State = Literal["healthy", "starting", "failing", "stopped", "away"]


@dataclass(frozen=True, slots=True)
class Row:
    """One process, or one server that is somebody else's (`external`, then without process figures)."""

    name: str
    state: State
    external: bool = False
    pid: int | None = None
    uptime_seconds: int | None = None
    memory_bytes: int | None = None
    restarts: int = 0  # since the last `up`
    last_death: Death | None = None
    detail: str = ""
    log_tail: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that `truyvet status` shows. Figures that nobody can tell are None, `notes` say why."""

    up: bool
    healthy: bool
    processes: list[Row]
    lag: list[Lag]
    marks_per_second: float | None
    freshness: Freshness | None
    seconds_since_progress: float | None  # since the ingest last acknowledged a chunk
    notes: list[str]
    store: StoreStatus | None  # what Redis holds; None: it does not answer


def status(stack: Stack, started_at: int = 0, sample: float = _SAMPLE) -> Status:
    """Look at everything once; takes about `sample` seconds. `started_at` ms: deaths count from then."""
    notes = list[str]()
    try:
        kept = stack.supervisor.processes()
        up = True
    except SupervisorError as error:
        kept, up = {}, False
        other = stack.elsewhere()
        advice = f": {other.words}" if other else ": start it with `truyvet up`"
        notes.append(f"{error}{advice}")
    with ThreadPoolExecutor(16) as pool:
        # of a stack that is down these are the figures of whoever is on its ports
        speed = pool.submit(_speed, stack, sample) if up else None
        rows = list(pool.map(lambda look: look(), _looks(stack, kept, started_at)))
        lag, fresh = list[Lag](), None
        if any(row.name == "kafka" and row.state == "healthy" for row in rows):
            try:
                lag = lag_and_age(stack.settings)
                fresh = freshness(stack.settings)
            except LagUnknownError as error:
                notes.append(str(error))
        store = pool.submit(_store, stack).result() if up else None
        marks, progress = speed.result() if speed else (None, None)
    aging = [each for each in lag if each.retention != "kept"]
    notes += [_aging(each) for each in aging]
    if store is not None and not store.whole:
        notes.append(f"{store.words} (truyvet buckets status)")
    if store is not None and store.full:
        notes.append(f"Redis: {store.memory}")
    if not up and (left := stack.leftovers()):
        pids = ", ".join(str(process.pid) for process in left)
        notes.append(f"the supervisor is gone, but it left processes {pids} behind: `truyvet down` ends them")
    well = up and all(row.state == "healthy" for row in rows) and not aging
    well = well and (store is None or (store.whole and not store.full))
    return Status(up, well, rows, lag, marks, fresh, progress, notes, store)


def _aging(lag: Lag) -> str:
    if lag.retention == "lost":
        return (
            f"{lag.topic}: Kafka has deleted up to {lag.deleted_unread} records that {lag.role} had not read:"
            " it was behind for longer than retention.ms, and goes on with what is left"
        )
    hours = lag.hours_to_age_out or 0.0
    when = f"in {hours} h" if hours > 0 else "at any moment"
    return (
        f"{lag.topic}: Kafka deletes what waits for {lag.role} {when}: let the role catch up; until then set"
        " a longer retention.ms on the topic (the next truyvet up or topics apply sets it back)"
    )


def _store(stack: Stack) -> StoreStatus | None:
    try:
        with store_client(stack.settings.redis_url, health.PATIENCE) as client:
            return store_status(client)
    except (RedisError, OSError):
        return None  # the row of redis says so


def _looks(stack: Stack, kept: dict[str, Process], started_at: int) -> list[Callable[[], Row]]:
    """One question for each process and each external server, to be asked side by side."""
    died = deaths(stack.folder, started_at)
    answers: dict[str, Callable[[], None]] = {}
    for launch in stack.launches():
        answers[launch.name] = launch.answers
    for worker in workers(stack.settings):
        answers[worker.name] = _role_question(stack, worker)
    external = stack.external()
    asked: list[Callable[[], Row]] = []
    for name in [*("kafka", "redis", "clickhouse"), *sorted(kept.keys() - {"kafka", "redis", "clickhouse"})]:
        if name in external:
            address, question = external[name]
            asked.append(partial(_external, name, address, question))
        elif name in kept and name != WATCH:
            own = [death for death in died if death["process"] == name]
            asked.append(partial(_row, stack, kept[name], answers.get(name), own))
    return asked


def _role_question(stack: Stack, worker: Worker) -> Callable[[], None]:
    return lambda: health.http_answers(health_url(stack.settings, worker))


def _external(name: str, address: str, question: Callable[[], None]) -> Row:
    try:
        question()
    except health.NotHealthyError as error:
        return Row(name, "away", external=True, detail=str(error))
    return Row(name, "healthy", external=True, detail=address)


def _row(stack: Stack, process: Process, question: Callable[[], None] | None, died: Sequence[Death]) -> Row:
    now = time.time()
    refusal = ""
    if question is not None and process.pid:
        try:
            question()
        except health.NotHealthyError as error:
            refusal = str(error)
    recent = [death for death in died if death["at"] / 1000 > now - _UNSTEADY_SECONDS]
    state: State
    if process.state in {"STOPPED", "STOPPING"}:
        state, detail = "stopped", process.state.lower()
    elif process.state in {"BACKOFF", "FATAL", "EXITED", "UNKNOWN"}:
        state, detail = "failing", died[-1]["reason"] if died else process.said
    elif len(recent) >= _UNSTEADY_DEATHS:
        state, detail = "failing", f"died {len(recent)} times in the last {_UNSTEADY_SECONDS // 60} minutes"
    elif refusal:
        young = now - process.started < engines.START_SECONDS
        state, detail = "starting" if young else "failing", refusal
    else:
        state, detail = "healthy", ""
    tail = engines.last_lines(stack.folder.log(process.name), _TAIL) if state == "failing" else []
    return Row(
        process.name,
        state,
        pid=process.pid or None,
        uptime_seconds=max(0, round(now - process.started)) if process.pid else None,
        memory_bytes=_memory(process.pid),
        restarts=len(died),
        last_death=died[-1] if died else None,
        detail=detail,
        log_tail=tail,
    )


def _memory(pid: int) -> int | None:
    """Resident bytes of a process and its children."""
    if not pid:
        return None
    try:
        process = psutil.Process(pid)
        return int(sum(each.memory_info().rss for each in [process, *process.children(recursive=True)]))
    except psutil.Error:
        return None


def _speed(stack: Stack, sample: float) -> tuple[float | None, float | None]:
    """Accepted marks a second over all ingest workers, and the seconds since one acknowledged a chunk."""
    first, _ = _ingest_counters(stack)
    began = time.monotonic()
    time.sleep(sample)
    second, progress = _ingest_counters(stack)
    took = time.monotonic() - began
    if first is None or second is None:
        return None, None
    # a worker that was started again in between counts from 0: no speed rather than a negative one
    speed = round(max(0.0, second - first) / took, 1)
    return speed, max(0.0, time.time() - progress) if progress else None


def _ingest_counters(stack: Stack) -> tuple[float | None, float]:
    accepted: float | None = None
    progress = 0.0
    for worker in workers(stack.settings, (INGEST.name,)):
        url = health_url(stack.settings, worker).replace("/healthz", "/metrics")
        try:
            with urllib.request.urlopen(url, timeout=health.PATIENCE) as answer:  # noqa: S310 (our own)
                text = answer.read().decode()
        except (OSError, ValueError):
            continue  # its row says that it does not answer
        accepted = accepted or 0.0
        for family in text_string_to_metric_families(text):
            for each in family.samples:
                if each.name == "truyvet_scans_total" and each.labels.get("verdict") == "accepted":
                    accepted += each.value
                elif each.name == "truyvet_progress_timestamp_seconds":
                    progress = max(progress, each.value)
    return accepted, progress
