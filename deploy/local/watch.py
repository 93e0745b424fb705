"""Notes every process of the stack that dies, and keeps trying those that supervisor has given up.

supervisord starts it as an event listener: `python -m deploy.local.watch DATA`. Its notes are the JSON lines
of run/restarts.jsonl (`at` ms, `process`, `reason`) and one line in the log of the process that died.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypedDict

import orjson
from supervisor import childutils

from deploy.local.engines import last_lines
from deploy.local.supervision import Folder, Supervisor, SupervisorError

_KEPT: Final = 1000  # notes; the file must not grow for ever beside a process that keeps dying
_FIRST_PAUSE: Final = 10.0  # seconds until a process that supervisor has given up is tried again …
_LONGEST_PAUSE: Final = 300.0  # … twice as long each time, up to this


class Death(TypedDict):
    """One process that ended without having been asked to."""

    at: int
    process: str
    reason: str


def deaths(folder: Folder, since: int = 0) -> list[Death]:
    """The notes since a time in ms; a line that a power cut has torn is left out."""
    found: list[Death] = []
    try:
        lines = folder.restarts.read_bytes().splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        try:
            note: Death = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if note["at"] >= since:
            found.append(note)
    return found


def leave_reason(folder: Folder, process: str, pid: int, reason: str) -> None:
    """Say why a process is about to be ended: the note of its death will give it instead of the signal."""
    path = _reason_left(folder, process)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(orjson.dumps({"pid": pid, "reason": reason}))
    fresh.replace(path)


def _reason_left(folder: Folder, process: str) -> Path:
    return folder.run / f"ended-{process}.json"


@dataclass(slots=True)
class Watch:
    """The listener's state: which process is to be tried again when. The clock gives Unix seconds."""

    folder: Folder
    start: Callable[[str], None]
    clock: Callable[[], float] = time.time
    _due: dict[str, float] = field(default_factory=dict)
    _pause: dict[str, float] = field(default_factory=dict)

    def process_event(self, event: str, process: str, pid: int = 0) -> None:
        """A process changed its state; `pid` of the one that ended, 0 where supervisord does not tell."""
        if event == "PROCESS_STATE_FATAL":
            pause = self._pause.get(process, _FIRST_PAUSE)
            self._pause[process] = min(2 * pause, _LONGEST_PAUSE)
            self._due[process] = self.clock() + pause
            self._say(process, f"keeps dying: tried again in {pause:.0f} s")
            return
        if event == "PROCESS_STATE_EXITED":
            self._pause.pop(process, None)  # it had come up: the next failure begins with the short pause
        reason = self._left(process, pid) or self._reason(process)
        self._note({"at": round(self.clock() * 1000), "process": process, "reason": reason})
        self._say(process, f"died ({reason}): started again")

    def tick(self) -> None:
        """Called every few seconds."""
        now = self.clock()
        for process in [name for name, due in self._due.items() if due <= now]:
            del self._due[process]
            self.start(process)

    def _left(self, process: str, pid: int) -> str:
        """Why the watchdog ended it, if it was that."""
        path = _reason_left(self.folder, process)
        try:
            left = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return ""
        except orjson.JSONDecodeError:
            left = {}
        path.unlink(missing_ok=True)
        return str(left["reason"]) if left.get("pid") == pid else ""

    def _reason(self, process: str) -> str:
        """supervisord tells the exit code or the signal only to its own log."""
        pattern = re.compile(rf"exited: {re.escape(process)} \((.*?)(?:; (?:not )?expected)?\)")
        spawn = re.compile(rf"spawnerr: (.*{re.escape(process)}.*|can't find command .*)")
        for line in reversed(last_lines(self.folder.supervisor_log, 50)):
            if match := pattern.search(line) or spawn.search(line):
                return match[1].replace("terminated by", "killed by")
        return "for a reason that was not recorded"

    def _note(self, death: Death) -> None:
        with self.folder.restarts.open("ab") as file:
            file.write(orjson.dumps(death, option=orjson.OPT_APPEND_NEWLINE))
        kept = deaths(self.folder)
        if len(kept) > _KEPT:
            shorter = self.folder.restarts.with_suffix(".new")
            shorter.write_bytes(b"".join(orjson.dumps(note) + b"\n" for note in kept[-_KEPT // 2 :]))
            shorter.replace(self.folder.restarts)

    def _say(self, process: str, text: str) -> None:
        line = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} truyvet: {process} {text}\n"
        with self.folder.log(process).open("a") as log:
            log.write(line)
        sys.stderr.write(line)
        sys.stderr.flush()


def main(data: Path) -> None:
    """Listen until supervisord ends."""
    folder = Folder(data)
    supervisor = Supervisor(folder)

    def start(process: str) -> None:
        try:
            supervisor.start(process)
        except SupervisorError as error:
            sys.stderr.write(f"{process} could not be started again: {error}\n")

    watch = Watch(folder, start)
    while True:
        try:
            headers, payload = childutils.listener.wait(sys.stdin, sys.stdout)
        except KeyError:  # an empty line: supervisord is gone
            return
        event = headers["eventname"]
        if event.startswith("TICK"):
            watch.tick()
        else:
            about = childutils.get_headers(payload)
            watch.process_event(event, about["processname"], int(about.get("pid", 0)))
        childutils.listener.ok(sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
