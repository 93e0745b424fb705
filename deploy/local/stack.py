"""The whole stack on one machine: engines, topics, roles; brought up in order, watched, taken down in order.

    stack = Stack(settings)
    stack.up()      # engines, each answering; topics; roles, each well
    stack.down()    # roles, then engines; state stays in settings.data

A server whose address is set (TRUYVET_KAFKA, _REDIS, _CLICKHOUSE) is only asked whether it is there.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import psutil

from deploy.local import engines, health, memory, topics
from deploy.local.engines import Launch
from deploy.local.roles import GATEWAY, Worker, health_url, metrics_port, workers
from deploy.local.supervision import (
    MARKER,
    WATCH,
    WATCHDOG,
    Folder,
    Program,
    Supervisor,
    SupervisorError,
    launch,
    watchdog_program,
)
from deploy.local.watch import deaths
from schemas.settings import Settings

# A worker that loads its registers, or the archive that runs its migrations, on a loaded machine.
ROLE_START_SECONDS: Final = 90.0
# Flush, commit and leave the group; past it the process is killed and its records are read again.
ROLE_STOP_SECONDS: Final = 20
# A server of somebody else's should be there already; this covers one that restarts at this moment.
EXTERNAL_SECONDS: Final = 10.0
# Dead this often within START_SECONDS of its coming up: it will not come up by itself.
_DEATHS_TOO_MANY: Final = 3

Say = Callable[[str], None]


class StackError(RuntimeError):
    """The stack cannot be brought up or down; the message says why and what to do."""


class AlreadyUpError(StackError):
    """It is up with other settings."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Who is on ports of a stack that is down: the data folder of another stack, if that can be known."""

    folder: str | None
    ports: tuple[int, ...]
    holder: str  # of the first port

    @property
    def words(self) -> str:
        """What that is, and what to do."""
        ports = ", ".join(map(str, self.ports))
        if self.folder is not None:
            return (
                f"the stack of {self.folder} is on its ports ({ports}): say --data {self.folder}, or set"
                " TRUYVET_DATA to that"
            )
        return (
            f"its ports ({ports}) are taken, the first by {self.holder}: if that is the stack of another data"
            " folder, set TRUYVET_DATA to that, or call truyvet where it was brought up"
        )


def role_command(worker: Worker) -> tuple[str, ...]:
    """How one process of a role is started."""
    number = ("--worker", str(worker.number)) if worker.role.most_workers > 1 else ()
    return (sys.executable, "-m", "truyvet", "run", worker.role.name, *number)


class Stack:
    """One data folder's stack. `command` gives the command line of a worker; `say` hears of each step."""

    def __init__(
        self,
        settings: Settings,
        command: Callable[[Worker], Sequence[str]] = role_command,
        say: Say = lambda _line: None,
        role_seconds: float = ROLE_START_SECONDS,
    ) -> None:
        self.settings: Final = settings.model_copy(update={"data": settings.data.absolute()})
        self.folder: Final = Folder(self.settings.data)
        self.supervisor: Final = Supervisor(self.folder)
        self._command: Final = command
        self._say: Final = say
        self._role_seconds: Final = role_seconds

    def launches(self) -> list[Launch]:
        """The engines that are ours to start. Raises EngineError when one is not installed."""
        own, data = self.settings, self.settings.data
        found = []
        if not own.kafka:
            found.append(engines.kafka(data / "kafka", own.kafka_port))
        if not own.redis:
            found.append(engines.redis(data / "redis", own.redis_port, maxmemory=own.redis_maxmemory))
        if not own.clickhouse:
            found.append(engines.clickhouse(data / "clickhouse", own.clickhouse_port))
        return found

    def external(self) -> dict[str, tuple[str, Callable[[], None]]]:
        """The servers that are somebody else's: address as it may be shown, and how to ask it."""
        own = self.settings
        found: dict[str, tuple[str, Callable[[], None]]] = {}
        if own.kafka:
            found["kafka"] = (own.kafka, lambda: health.kafka_answers(own.kafka))
        if own.redis:
            found["redis"] = (
                health.without_password(own.redis),
                lambda: health.redis_answers(own.redis),
            )
        if own.clickhouse:
            found["clickhouse"] = (
                health.without_password(own.clickhouse),
                lambda: health.clickhouse_answers(own.clickhouse),
            )
        return found

    def up(self, roles: Sequence[str] | None = None) -> bool:
        """Bring up what is not up yet; False when everything was. `roles` default to all of them.

        Raises StackError, EngineError, SupervisorError, topics.TopicsError or KafkaAwayError with a message
        for people; what has come up by then stays up, `down` ends it.
        """
        chosen = workers(self.settings, tuple(roles) if roles is not None else None)
        # before the lock: it makes the folder, and a call in the wrong place should leave nothing there
        other = None if self.supervisor.up() else self.elsewhere()
        if other is not None and other.folder is not None:
            raise StackError(
                f"{self.folder.data} cannot be brought up: {other.words}; for two at once give one of"
                " them other ports"
            )
        with self._lock():
            if self.supervisor.up():
                self._same_settings(chosen)
                return self._bring_up(chosen, fresh=False)
            self._end_leftovers()
            launches = self.launches()
            engines.check_ports(launches + [self._claim(worker) for worker in chosen])
            for name, (address, answers) in self.external().items():
                self._say(f"{name} at {address}")
                if reason := engines.wait_until(answers, EXTERNAL_SECONDS):
                    raise StackError(
                        f"{reason}\nTRUYVET_{name.upper()} says where it is: correct it, or leave it empty "
                        "to have one started here"
                    )
            for each in launches:
                self._say(f"{each.name}: getting its folder ready")
                each.prepare()
            programs = [watchdog_program(self.folder)]
            programs += [
                Program(each.name, _yielding(each.name, each.command), 10, round(engines.STOP_SECONDS))
                for each in launches
            ]
            programs += [
                Program(
                    worker.name,
                    _yielding(worker.name, tuple(self._command(worker))),
                    _tier(worker),
                    ROLE_STOP_SECONDS,
                )
                for worker in chosen
            ]
            own = memory.environment_of(self.settings)
            others = {name: value for name, value in os.environ.items() if not name.startswith("TRUYVET_")}
            launch(self.folder, programs, others | own)
            if reason := engines.wait_until(self._supervisor_answers, 20):
                raise SupervisorError(f"{reason}; see {self.folder.supervisor_log}")
            memory.write(self.folder, own, [worker.name for worker in chosen])
            return self._bring_up(chosen, fresh=True)

    def _bring_up(self, chosen: Sequence[Worker], fresh: bool) -> bool:
        own = [(each.name, each.answers) for each in self.launches()]
        changed = self._start_all(own, engines.START_SECONDS) or fresh
        steps = topics.apply(self.settings)
        if made := [step for step in steps if step.action != "keep"]:
            self._say(f"topics: {len(made)} of {len(steps)} created or corrected")
        roles = [
            (worker.name, partial(health.http_answers, health_url(self.settings, worker)))
            for worker in chosen
        ]
        changed = self._start_all(roles, self._role_seconds) or changed or bool(made)
        self.supervisor.start(WATCHDOG)
        return changed

    def _start_all(self, processes: Sequence[tuple[str, Callable[[], None]]], seconds: float) -> bool:
        """Start side by side what does not run, wait until each is well; False: all ran already."""
        states = self.supervisor.processes()
        idle = [name for name, _ in processes if states[name].state not in {"RUNNING", "STARTING"}]
        began, since = time.monotonic(), round(time.time() * 1000)
        for name in idle:
            self.supervisor.start(name)
        for name, answers in processes:
            self._await(name, answers, seconds, since)
            if name in idle:
                self._say(f"{name}: up after {time.monotonic() - began:.1f} s")
        return bool(idle)

    def _await(self, name: str, answers: Callable[[], None], seconds: float, since: int) -> None:
        def given_up() -> str | None:
            died = [death for death in deaths(self.folder, since) if death["process"] == name]
            state = self.supervisor.processes()[name]
            if state.state in {"FATAL", "UNKNOWN"} or len(died) >= _DEATHS_TOO_MANY:
                return f"it keeps dying ({died[-1]['reason'] if died else state.said})"
            return None

        if reason := engines.wait_until(answers, seconds, given_up):
            tail = engines.last_lines(self.folder.log(name), 15)
            raise StackError(
                "\n".join(
                    (
                        f"{name} did not come up: {reason}",
                        f"its log ({self.folder.log(name)}) ends:" if tail else "its log is empty",
                        *(f"  {line}" for line in tail),
                        "The rest stays up: see `truyvet status`; `truyvet down` ends it.",
                    )
                )
            )

    def down(self) -> bool:
        """End everything in order, roles before engines; False when nothing was up. State stays.

        Raises StackError or SupervisorError when something does not end within its bounds.
        """
        if not self.folder.run.is_dir():
            return False
        with self._lock():
            try:
                kept = self.supervisor.processes()
            except SupervisorError:  # gone, ending or stuck: what it kept is known by its mark
                return self._end_leftovers()
            known = [name for name, process in kept.items() if process.state not in {"STOPPED", "EXITED"}]
            order = sorted(known, key=lambda name: (name in _ENGINES, name))
            tiers = [
                [WATCH, WATCHDOG],  # they would start again what we stop, or kill what ends slowly
                [name for name in order if name == GATEWAY.name],
                [name for name in order if name not in {*_ENGINES, GATEWAY.name, WATCH, WATCHDOG}],
                [name for name in order if name in _ENGINES],
            ]
            for tier in tiers:
                self._stop([name for name in tier if name in kept])
            pid = self.supervisor.pid()
            self.supervisor.shutdown()
            self._gone(pid, 60)
            self._end_leftovers()
            return True

    def _stop(self, names: Sequence[str]) -> None:
        for name in names:
            self.supervisor.stop(name)
        # supervisor kills what does not end in its time; this bound only guards against a stuck supervisor
        deadline = time.monotonic() + engines.STOP_SECONDS + 15
        waiting = set(names)
        while waiting:
            states = self.supervisor.processes()
            for name in sorted(waiting):
                if states[name].pid == 0:
                    waiting.discard(name)
                    if name not in {WATCH, WATCHDOG}:
                        self._say(f"{name}: ended")
            if waiting and time.monotonic() > deadline:
                raise StackError(
                    f"{', '.join(sorted(waiting))} did not end: see {self.folder.supervisor_log}"
                )
            if waiting:
                time.sleep(0.1)

    def _gone(self, pid: int, seconds: float) -> None:
        """Wait until supervisord has ended."""
        deadline = time.monotonic() + seconds
        while _runs(pid):
            if time.monotonic() > deadline:
                raise StackError(f"the process manager, process {pid}, does not end: end it by hand")
            self.supervisor.up()  # a question wakes its loop, which else looks around once a second
            time.sleep(0.05)

    def leftovers(self) -> list[psutil.Process]:
        """Processes of this data folder whose supervisor is gone: known by the mark in their environment."""
        found = []
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            if _marked(process) == str(self.folder.data):
                found.append(process)
        return found

    def elsewhere(self) -> Neighbour | None:
        """Who else is on the ports of this stack; to be asked when it is down. None: no other stack is."""
        own = self.settings
        ports = [metrics_port(own, worker.role.name, worker.number) for worker in workers(own)]
        ports += [
            port
            for address, port in (
                (own.kafka, own.kafka_port),
                (own.redis, own.redis_port),
                (own.clickhouse, own.clickhouse_port),
            )
            if not address
        ]
        taken: dict[int, str] = {}
        folders: dict[str, list[int]] = {}
        for port in sorted(ports):
            holder = engines.port_holder(port)
            if holder is None:
                continue
            folder = _marked(engines.listener(port))
            if folder == str(self.folder.data):
                continue
            taken[port] = holder
            if folder is not None:
                folders.setdefault(folder, []).append(port)
        if folders:
            folder = max(folders, key=lambda each: len(folders[each]))
            return Neighbour(folder, tuple(folders[folder]), taken[folders[folder][0]])
        if 2 * len(taken) <= len(ports):  # one or two may be anybody's
            return None
        return Neighbour(None, tuple(taken), next(iter(taken.values())))

    def _end_leftovers(self) -> bool:
        """End what a killed supervisor left behind: roles first, then the rest; each bounded."""
        left = self.leftovers()
        for tier in (
            [process for process in left if not _is_engine(process)],
            [process for process in left if _is_engine(process)],
        ):
            for process in tier:
                self._say(f"ending process {process.pid}, left behind by a supervisor that is gone")
                _quietly(process.terminate)
            for process in _still_running(tier, engines.STOP_SECONDS):
                _quietly(process.kill)
            if alive := _still_running(tier, 10):
                raise StackError(f"process {alive[0].pid} cannot be ended, not even by SIGKILL")
        return bool(left)

    def _claim(self, worker: Worker) -> Launch:
        """A worker's port, to be checked with those of the engines."""
        setting = "TRUYVET_GATEWAY_PORT" if worker.role is GATEWAY else "TRUYVET_METRICS_PORT"
        port = metrics_port(self.settings, worker.role.name, worker.number)
        return Launch(worker.name, (), {port: setting}, lambda: None)

    def _supervisor_answers(self) -> None:
        if not self.supervisor.up():
            raise health.NotHealthyError("the process manager does not answer")

    def _same_settings(self, chosen: Sequence[Worker]) -> None:
        known = memory.read(self.folder)
        if known is None:
            raise AlreadyUpError(f"something is half up in {self.folder.data}: run `truyvet down` first")
        if words := memory.differences(known, memory.environment_of(self.settings)):
            raise AlreadyUpError(f"it is up with other settings ({words}): run `truyvet down` first")
        if missing := [worker.name for worker in chosen if worker.name not in known["roles"]]:
            raise AlreadyUpError(f"it is up without {', '.join(missing)}: run `truyvet down` first")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up` or `down` at a time for a data folder; released by the system if we are killed."""
        try:
            self.folder.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.run.mkdir(mode=0o700, exist_ok=True)
            file = (self.folder.run / "lock").open("a")
        except OSError as error:
            raise StackError(f"the data folder cannot be used: {error}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StackError(
                    f"another `truyvet up` or `down` is at work in {self.folder.data}: wait for it"
                ) from None
            yield


# On one machine an alert must not wait for a processor that writes the archive: it can be late by seconds.
_YIELD: Final = {"archive": 10, "clickhouse": 10}


def _yielding(name: str, command: Sequence[str]) -> tuple[str, ...]:
    """The command, at the priority that its work may have beside the others."""
    return ("nice", "-n", str(_YIELD[name]), *command) if name in _YIELD else tuple(command)


_ENGINES: Final = ("kafka", "redis", "clickhouse")


def _tier(worker: Worker) -> int:
    """supervisord's own stop order (a machine that is switched off): the gateway, workers, then engines."""
    return 30 if worker.role is GATEWAY else 20


def _marked(process: psutil.Process | None) -> str | None:
    """The data folder of the stack that a process belongs to; None: of none, or the system does not say."""
    try:
        return None if process is None else process.environ().get(MARKER)
    except psutil.Error:
        return None


def _is_engine(process: psutil.Process) -> bool:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(word in words for word in ("kafka.Kafka", "redis-server", engines.CLICKHOUSE_MODULE))


def _runs(pid: int) -> bool:
    """Not ended, and not a zombie either: in a container nobody may collect those."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _still_running(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that have not ended within the time."""
    deadline = time.monotonic() + seconds
    while True:
        alive = [process for process in processes if process.is_running() and _runs(process.pid)]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.05)


def _quietly(act: Callable[[], None]) -> None:
    try:
        act()
    except psutil.NoSuchProcess:
        return
