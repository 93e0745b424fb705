"""The process manager (supervisor, from PyPI): its configuration, how it is started, asked and told.

supervisord runs as a daemon of the data folder's owner; its one interface is a Unix socket that only the
owner may open. It starts nothing by itself: stack.py says what starts when.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import resource
import shlex
import socket
import stat
import subprocess
import sys
import tempfile
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.local.engines import UTF8

# Who belongs to which data folder: in the environment of everything that its supervisor starts, so that
# `down` finds what is left when the supervisor itself was killed.
MARKER: Final = "TRUYVET_STACK_DATA"
WATCH: Final = "watch"  # the event listener, see watch.py
WATCHDOG: Final = "watchdog"  # ends workers that hang, see watchdog.py

_LOG_BYTES: Final = 10 * 1024 * 1024
_LOG_BACKUPS: Final = 3
_OPEN_FILES: Final = 65536  # a broker keeps several files open for each partition's segments
_SUN_PATH: Final = 100  # a Unix socket's path must be shorter than 104 (macOS) or 108 (Linux) bytes

# A supervisor that does not answer within this time is taken for stuck; none of our calls waits inside it.
_CALL_SECONDS: Final = 10.0


class SupervisorError(RuntimeError):
    """The process manager cannot be started, does not answer, or refuses; the message says which."""


class SupervisorAwayError(SupervisorError):
    """Nothing answers at the data folder's socket: the stack is down."""


@dataclass(frozen=True, slots=True)
class Program:
    """A process to keep alive. `tier` orders the stop: the highest goes first; the start is stack.py's."""

    name: str
    command: tuple[str, ...]
    tier: int
    stop_seconds: int


@dataclass(frozen=True, slots=True)
class Folder:
    """Where things are in a data folder."""

    data: Path

    @property
    def run(self) -> Path:
        """What is true only while the stack is up, and what must be remembered of it."""
        return self.data / "run"

    @property
    def logs(self) -> Path:
        """One file a process, and the older ones beside it."""
        return self.data / "logs"

    @property
    def restarts(self) -> Path:
        """A JSON line for each process that died, see watch.py."""
        return self.run / "restarts.jsonl"

    @property
    def supervisor_log(self) -> Path:
        """What supervisord says itself."""
        return self.logs / "supervisord.log"

    def log(self, process: str) -> Path:
        """The log of one process."""
        return self.logs / f"{process}.log"

    @property
    def socket(self) -> Path:
        """The supervisor's socket: in the folder, or in a private place if its path would be too long."""
        inside = self.run / "supervisor.sock"
        if len(os.fsencode(inside)) <= _SUN_PATH:
            return inside
        mark = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"truyvet-{os.getuid()}" / f"{mark}.sock"


def watchdog_program(folder: Folder) -> Program:
    """Ends workers that hang; stops before them, for they may take long to end."""
    command = (sys.executable, "-m", "deploy.local.watchdog", str(folder.data))
    return Program(WATCHDOG, command, tier=40, stop_seconds=5)


def configuration(folder: Folder, programs: Sequence[Program]) -> str:
    """supervisord.conf. Raises SupervisorError for a data folder whose name the format cannot hold."""
    if re.search(r"[\x00-\x1f%,]|\s[;#]", str(folder.data)):
        raise SupervisorError(f"{folder.data}: choose a data folder without % , ; # or control characters")
    run = folder.run
    sections: dict[str, dict[str, object]] = {
        "unix_http_server": {"file": folder.socket, "chmod": "0600"},
        "supervisord": {
            "logfile": folder.supervisor_log,
            "logfile_maxbytes": _LOG_BYTES,
            "logfile_backups": _LOG_BACKUPS,
            "pidfile": run / "supervisord.pid",
            "childlogdir": folder.logs,
            "directory": folder.data,
            "minfds": min(_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            "umask": "077",  # whose scans they are is nobody else's to read
            **({"user": "root"} if os.geteuid() == 0 else {}),
        },
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
        f"eventlistener:{WATCH}": {
            "command": shlex.join((sys.executable, "-m", "deploy.local.watch", str(folder.data))),
            "events": "PROCESS_STATE_EXITED,PROCESS_STATE_BACKOFF,PROCESS_STATE_FATAL,TICK_5",
            "buffer_size": 1000,
            "priority": 0,
            "autorestart": "true",
            "stdout_logfile": "NONE",  # it speaks supervisord's protocol there
            "stderr_logfile": folder.log(WATCH),
            "stderr_logfile_maxbytes": _LOG_BYTES,
            "stderr_logfile_backups": 1,
        },
    }
    for program in programs:
        sections[f"program:{program.name}"] = {
            "command": shlex.join(program.command),
            "autostart": "false",
            "autorestart": "true",
            # dying within 5 s, 5 times in a row (a second later each time) is "failing": watch.py then
            # tries again more and more slowly
            "startsecs": 5,
            "startretries": 5,
            "stopsignal": "TERM",
            "stopwaitsecs": program.stop_seconds,  # past it SIGKILL: a hung process must not hold up `down`
            "killasgroup": "true",
            "priority": program.tier,
            "redirect_stderr": "true",
            "stdout_logfile": folder.log(program.name),
            "stdout_logfile_maxbytes": _LOG_BYTES,
            "stdout_logfile_backups": _LOG_BACKUPS,
        }
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key}={value}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def launch(folder: Folder, programs: Sequence[Program], environment: Mapping[str, str]) -> None:
    """Start supervisord for a data folder; its programs inherit `environment`, secrets stay out of files.

    Raises SupervisorError with what it said.
    """
    for directory in (folder.run, folder.logs):
        directory.mkdir(parents=True, exist_ok=True)
    folder.run.chmod(0o700)
    _private(folder.socket.parent)
    conf = folder.run / "supervisord.conf"
    conf.write_text(configuration(folder, programs), encoding="utf-8")
    marked = {**environment, **UTF8, MARKER: str(folder.data), "PYTHONUNBUFFERED": "1"}
    try:
        result = subprocess.run(
            (sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)),
            env=marked,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,  # it only reads its configuration and forks
        )
    except subprocess.TimeoutExpired:
        raise SupervisorError("the process manager hangs at its start: is the disk full?") from None
    if result.returncode:
        said = (result.stderr or result.stdout).strip()
        raise SupervisorError(f"the process manager does not start: {said or 'it says nothing'}")


def _private(directory: Path) -> None:
    """Make the socket's folder ours alone; one that another user made in the temporary folder is refused."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = directory.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        raise SupervisorError(f"{directory} belongs to somebody else: remove it or set TMPDIR")
    if about.st_mode & 0o077:
        directory.chmod(0o700)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CALL_SECONDS)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = str(path)

    def make_connection(self, host: object) -> http.client.HTTPConnection:  # noqa: ARG002 (its signature)
        return _UnixConnection(self._path)


@dataclass(frozen=True, slots=True)
class Process:
    """What supervisor knows of a process: `state` in its words (RUNNING, BACKOFF …), `started` in seconds."""

    name: str
    state: str
    pid: int
    started: int
    said: str


class Supervisor:
    """Talks to a data folder's supervisord. Each call raises SupervisorAwayError when there is none."""

    def __init__(self, folder: Folder) -> None:
        self._folder: Final = folder

    def _call(self, method: str, *arguments: object) -> Any:
        transport = _UnixTransport(self._folder.socket)
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as server:
            try:
                return getattr(server, f"supervisor.{method}")(*arguments)
            except (FileNotFoundError, ConnectionError):
                raise SupervisorAwayError(f"nothing is up in {self._folder.data}") from None
            except TimeoutError:
                raise SupervisorError(f"the process manager of {self._folder.data} does not answer") from None
            except (http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
                raise SupervisorError(f"the process manager answers nonsense: {error}") from None

    def pid(self) -> int:
        """The process id of supervisord."""
        return int(self._call("getPID"))

    def up(self) -> bool:
        """Does one answer, and is it not on its way out?"""
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except (SupervisorError, xmlrpc.client.Fault):
            return False

    def processes(self) -> dict[str, Process]:
        """Every process by its name, the watcher too."""
        try:
            found = self._call("getAllProcessInfo")
        except xmlrpc.client.Fault as fault:
            raise SupervisorError(
                f"the process manager of {self._folder.data} is ending: {fault.faultString}"
            ) from None
        return {
            info["name"]: Process(
                info["name"], info["statename"], info["pid"], info["start"], info["spawnerr"] or ""
            )
            for info in found
        }

    def start(self, name: str) -> None:
        """Start a process, unless it is started already; does not wait."""
        self._tell("startProcess", name, unless="ALREADY_STARTED")

    def stop(self, name: str) -> None:
        """Ask a process to end, unless it is not running; does not wait."""
        self._tell("stopProcess", name, unless="NOT_RUNNING")

    def kill(self, name: str, pid: int) -> None:
        """SIGKILL to a process, if it is still the one with this id; it is then started again."""
        if self.processes()[name].pid != pid:
            return
        try:
            self._call("signalProcess", name, "KILL")
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" not in fault.faultString:
                raise SupervisorError(f"{name}: {fault.faultString}") from None

    def shutdown(self) -> None:
        """End supervisord, and with it whatever it still keeps, the highest tier first."""
        try:
            self._call("shutdown")
        except (SupervisorAwayError, xmlrpc.client.Fault):
            return

    def _tell(self, method: str, name: str, unless: str) -> None:
        try:
            self._call(method, name, False)
        except xmlrpc.client.Fault as fault:
            if unless not in fault.faultString:
                raise SupervisorError(f"{name}: {fault.faultString}") from None
