"""Ends workers that hang: alive, and nothing of what waits for them is acknowledged any more.

supervisord starts it: `python -m deploy.local.watchdog DATA`, with the environment of the roles. It looks
from the outside only: committed offsets, each worker's /healthz and /metrics. What it ends, supervisord
starts again; watch.py notes the reason that is left for it here.
"""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException
from prometheus_client.parser import text_string_to_metric_families

from deploy.local import health
from deploy.local.lag import Key, LagUnknownError, holding, places
from deploy.local.roles import Role, Worker, health_url, workers
from deploy.local.stalls import Candidate, Report, Stall, Stalls
from deploy.local.supervision import Folder, Process, Supervisor, SupervisorError
from deploy.local.watch import leave_reason
from schemas.settings import Settings, load_settings

_EVERY: Final = 5.0  # seconds from one look to the next
# A pause that took so much longer was not ours: the machine slept, and nothing moved meanwhile.
_SLEPT: Final = 10.0
_WAITING: Final = ("truyvet_waiting", "truyvet_archive_waiting")
_PROGRESS: Final = "truyvet_progress_timestamp_seconds"


class Watchdog:
    """Looks at every role that has running processes. The clock is monotonic, in seconds."""

    def __init__(
        self,
        settings: Settings,
        folder: Folder,
        supervisor: Supervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._supervisor = supervisor
        self._clock = clock
        self._stalls: dict[str, Stalls] = {}
        self._said = ""

    def look(self) -> list[Stall]:
        """One look; returns what was ended. Bounded: each question has its own time-out."""
        try:
            kept = self._supervisor.processes()
        except SupervisorError as error:
            self._say(f"cannot look: {error}")
            return []
        running: dict[Role, list[tuple[Worker, Process]]] = {}
        for worker in workers(self._settings):
            process = kept.get(worker.name)
            if worker.role.inputs and process and process.state in {"RUNNING", "STARTING"}:
                running.setdefault(worker.role, []).append((worker, process))
        if not running:
            return []
        try:
            stand = places(self._settings, running)
        except LagUnknownError as error:  # without Kafka nobody can move
            self._say(f"cannot look: {error}")
            self.forget()
            return []
        self._said = ""
        found = []
        for role, processes in running.items():
            stalls = self._stalls.setdefault(
                role.name, Stalls(float(self._settings.stalled_seconds), self._clock)
            )
            pids = {worker.name: process.pid for worker, process in processes}
            if stalls.look(stand[role.name], pids) and (stall := self._judge(role, processes, stalls)):
                self._end(stall)
                found.append(stall)
        return found

    def forget(self) -> None:
        """What stands may have stood for reasons of its own: every worker's time begins anew."""
        for stalls in self._stalls.values():
            stalls.forget()

    def _judge(self, role: Role, processes: Sequence[tuple[Worker, Process]], stalls: Stalls) -> Stall | None:
        with ThreadPoolExecutor(8) as pool:
            reports = pool.map(lambda pair: report(self._settings, pair[0]), processes)
        candidates = [
            Candidate(worker.name, process.pid, told)
            for (worker, process), told in zip(processes, reports, strict=True)
        ]
        owners: Mapping[Key, str] = {}
        if overdue := stalls.overdue():
            real = holding(self._settings, role, overdue)
            stalls.forget([key for key in overdue if key not in real])
            if len(candidates) > 1:
                owners = owners_of(self._settings, role)
        return stalls.judge(candidates, owners)

    def _end(self, stall: Stall) -> None:
        """Kill it: a process that hangs may not obey. Not if it is another one by now."""
        leave_reason(self._folder, stall.worker, stall.pid, str(stall))
        try:
            self._supervisor.kill(stall.worker, stall.pid)
        except SupervisorError as error:
            self._say(f"{stall.worker} hangs ({stall}) and cannot be ended: {error}")
        else:
            self._say(f"{stall.worker}: {stall}: ended, to be started again")

    def _say(self, text: str) -> None:
        if text != self._said:  # the same trouble is told once
            self._said = text
            sys.stderr.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} truyvet watchdog: {text}\n")
            sys.stderr.flush()


def report(settings: Settings, worker: Worker) -> Report:
    """What a worker says of itself; one that does not answer in time is not well."""
    url = health_url(settings, worker)
    try:
        health.http_answers(url)
        with urllib.request.urlopen(url.replace("/healthz", "/metrics"), timeout=health.PATIENCE) as answer:  # noqa: S310 (our own)
            text = answer.read().decode()
    except (health.NotHealthyError, OSError, ValueError):
        return Report(well=False)
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return Report(
        well=True,
        waiting=any(each.name in _WAITING and each.value > 0 for each in samples),
        progress=max((each.value for each in samples if each.name == _PROGRESS), default=0.0),
    )


def owners_of(settings: Settings, role: Role) -> dict[Key, str]:
    """Partition → name of the worker that has it; empty while the group does not come to rest.

    Workers of a role with several are static members, `group-number`.
    """
    group = settings.group(role.name)
    client = health.admin(settings.kafka_address)
    try:
        told = client.describe_consumer_groups([group], request_timeout=health.PATIENCE)[group].result()
    except KafkaException:
        return {}
    return {
        (place.topic, place.partition): f"{role.name}-{member.group_instance_id.removeprefix(f'{group}-')}"
        for member in told.members
        if member.group_instance_id
        for place in member.assignment.topic_partitions
    }


def main(data: Path) -> None:
    """Look every few seconds until SIGTERM."""
    folder = Folder(data)
    watchdog = Watchdog(load_settings(), folder, Supervisor(folder))
    while True:
        watchdog.look()
        before = time.monotonic()
        time.sleep(_EVERY)
        if time.monotonic() - before > _EVERY + _SLEPT:
            watchdog.forget()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
