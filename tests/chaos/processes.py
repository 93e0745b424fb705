"""The processes of a run: started, hit, and started again as a supervisor would; each ended by its id."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.local.engines import UTF8
from tests.chaos.plan import Fault

# What a supervisor waits before it starts a process again that ended by itself.
_AGAIN_S: Final = 1.0
# Longer than any role or engine takes to end by itself; past it SIGTERM was not heard, and that is told.
_END_S: Final = 40.0
# What tells in a log why a process ended: the first such lines, the causes, and the last.
_TELLING: Final = re.compile(r"the worker ends|Error\b|CRITICAL|Traceback|cannot|could not", re.IGNORECASE)
_LINES: Final = 4


@dataclass(frozen=True, slots=True)
class Spec:
    """How to start a process."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Hit:
    """A fault that was carried out. Seconds of the run; `back`: when the process ran again."""

    fault: Fault
    at: float
    back: float | None = None
    code: int | None = None
    slow: bool = False  # it did not end at SIGTERM


@dataclass(slots=True)
class OwnEnd:
    """A process ended without having been asked to."""

    name: str
    at: float
    code: int
    words: list[str]


@dataclass(slots=True)
class _Process:
    spec: Spec
    running: subprocess.Popen[bytes] | None = None
    hit: Hit | None = None
    due: float | None = None  # when it is to be started, or continued
    log_from: int = 0  # where in its log the running process begins


class Processes:
    """Processes under chaos. Call `tick` often, from the thread that made this: a process is bound to it.

    `clock` gives the seconds of the run.
    """

    def __init__(self, logs: Path, clock: Callable[[], float]) -> None:
        self._logs = logs
        self._clock = clock
        self._all: dict[str, _Process] = {}
        self.hits: list[Hit] = []
        self.own_ends: list[OwnEnd] = []
        # what a killed process leaves behind in its folder for temporary files goes with the run's
        self._temporary = logs.parent / "tmp"
        for folder in (logs, self._temporary):
            folder.mkdir(parents=True, exist_ok=True)

    def start(self, spec: Spec) -> None:
        """Start a process, and again whenever it ends."""
        process = self._all[spec.name] = _Process(spec)
        self._run(process)

    def hit(self, fault: Fault) -> bool:
        """Carry out a fault; false while its target is down or still being hit."""
        process = self._all[fault.target]
        running = process.running
        if running is None or process.hit is not None or running.poll() is not None:
            return False
        number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "end": signal.SIGTERM}[fault.kind]
        now = self._clock()
        running.send_signal(number)
        process.hit = Hit(fault, now)
        process.due = now + (fault.seconds if fault.kind == "stop" else _END_S)
        self.hits.append(process.hit)
        return True

    def tick(self) -> None:
        """Start what is due, notice what ended."""
        now = self._clock()
        for process in self._all.values():
            running = process.running
            if running is None:
                if process.due is not None and now >= process.due:
                    self._run(process)
            elif (code := running.poll()) is not None:
                self._ended(process, code, now)
            elif process.hit is not None and process.due is not None and now >= process.due:
                if process.hit.fault.kind == "stop":
                    running.send_signal(signal.SIGCONT)
                    self._back(process)
                else:
                    process.hit.slow = True
                    running.kill()

    def _ended(self, process: _Process, code: int, now: float) -> None:
        process.running = None
        if process.hit is not None and process.hit.fault.kind != "stop":
            process.hit.code = code
            process.due = now + process.hit.fault.seconds
            return
        words = telling(self._log(process.spec).read_bytes()[process.log_from :].decode("utf-8", "replace"))
        self.own_ends.append(OwnEnd(process.spec.name, now, code, words))
        process.due = now + _AGAIN_S

    def _back(self, process: _Process) -> None:
        if process.hit is not None:
            process.hit.back = self._clock()
        process.hit, process.due = None, None

    def _log(self, spec: Spec) -> Path:
        return self._logs / f"{spec.name}.log"

    def _run(self, process: _Process) -> None:
        with self._log(process.spec).open("ab") as log:
            process.log_from = log.tell()
            process.running = subprocess.Popen(
                [*_BOUND, *process.spec.command],
                env={**os.environ, **UTF8, "TMPDIR": str(self._temporary), **process.spec.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._back(process)

    @property
    def calm(self) -> bool:
        """Whether everything runs and nothing is being hit."""
        return all(each.running is not None and each.hit is None for each in self._all.values())

    def again(self, names: Sequence[str]) -> None:
        """End these and start them anew."""
        for name in names:
            running = self._all[name].running
            if running is not None:
                _end([running])
            self._run(self._all[name])

    def end(self) -> None:
        """End all of them: asked first, killed after a bounded wait."""
        running = [each.running for each in reversed(self._all.values()) if each.running is not None]
        for process in self._all.values():
            process.running = None
        _end(running)


def telling(text: str) -> list[str]:
    """The lines of a log that say why its process ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [line[:300] for line in lines if _TELLING.search(line)]
    return [*found[:_LINES], *found[_LINES:][-1:]] or [line[:300] for line in lines[-_LINES:]]


def _end(running: Sequence[subprocess.Popen[bytes]], seconds: float = 15.0) -> None:
    for process in running:
        if process.poll() is None:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # one that is stopped does not hear
    deadline = time.monotonic() + seconds
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _bound() -> list[str]:
    """A command that ends its child with us, even when we are killed or the child is stopped (Linux)."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


_BOUND: Final = _bound()
