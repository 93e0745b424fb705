"""Kafka, Redis and the ClickHouse engine: how each is started, asked whether it is well, and ended.

`truyvet up` starts them under supervision (stack.py); tests and trials start them with `scratch()` for the
length of a `with` block. Nothing here ends a process that it has not started.
"""

from __future__ import annotations

import base64
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import psutil

from deploy.local.health import NotHealthyError, clickhouse_answers, kafka_answers, node_answers

HOST = "127.0.0.1"
_FIRST_PORT = 20_000  # above every default of ours
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Not the generator that a seed sets: two processes with one seed would draw the same ports.
_DRAW = random.SystemRandom()
# Two test sessions, or two stacks that start, drew the same port before either listened on it.
_CLAIMS: Final = Path(tempfile.gettempdir()) / f"truyvet-ports-{os.getuid()}"
_CLAIMED_S: Final = 120.0  # whoever draws a port listens on it by then
KAFKA_HOME = Path(__file__).parent / "kafka"
CLICKHOUSE_MODULE = "deploy.local.clickhouse"

# A JVM that must replay its log after a crash, or a first start on a loaded machine, takes this long at most;
# past it the server is taken for stuck.
START_SECONDS = 90.0
# A clean stop of a broker on a loaded machine; past it the process is killed: the next start repairs its log.
STOP_SECONDS = 30.0


# Java takes the names of files from the locale: without this it cannot open a folder called "dữ liệu".
UTF8 = {"LC_ALL": "C.UTF-8"}


class EngineError(RuntimeError):
    """A server cannot be started or does not answer; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one server. `ports` maps each port that it binds to the setting that changes it."""

    name: str
    command: tuple[str, ...]
    ports: Mapping[int, str]
    answers: Callable[[], None]  # raises NotHealthyError
    prepare: Callable[[], None] = field(default=lambda: None)  # before a first start; idempotent


def kafka(data: Path, port: int, controller_port: int | None = None) -> Launch:
    """A broker and controller in one process (KRaft), listening on loopback, its log under `data`.

    The controller listens on the next port unless another one is given.
    Raises EngineError when Java or the broker's jars are missing.
    """
    java = shutil.which("java")
    if java is None:
        raise EngineError("java is not installed: run `make setup`, it installs or names what is missing")
    jars = KAFKA_HOME / "libs"
    if not any(jars.glob("kafka-server-*.jar")):
        raise EngineError(f"Kafka's jars are not in {jars}: run `make setup`, it fetches them")
    controller = port + 1 if controller_port is None else controller_port
    if controller > 65535:
        raise EngineError("TRUYVET_KAFKA_PORT: must be at most 65534, the controller takes the next port")
    properties = data / "server.properties"
    base = (java, "-Djava.awt.headless=true", f"-Dlog4j2.configurationFile={KAFKA_HOME / 'log4j2.xml'}")
    classpath = ("-cp", str(jars / "*"))
    heap = ("-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExitOnOutOfMemoryError")
    # Java's second compiler takes a third of a core for the first minutes of a load, when a laptop has none
    # to spare; what it makes faster is less than that (docs/DESIGN.md)
    compiler = ("-XX:TieredStopAtLevel=1",)

    def prepare() -> None:
        data.mkdir(parents=True, exist_ok=True)
        properties.write_text(_kafka_properties(data / "log", port, controller))
        if (data / "log" / "meta.properties").exists():
            return
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        result = subprocess.run(
            (
                *(*base, "-Xmx128m", *compiler, *classpath, "kafka.tools.StorageTool", "format"),
                *("--standalone", "--ignore-formatted"),
                *("-t", cluster, "-c", str(properties)),
            ),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **UTF8},
            timeout=START_SECONDS,  # a JVM that hangs on a full disk
        )
        if result.returncode:
            last = (result.stderr or result.stdout).strip().splitlines()[-1:]
            raise EngineError(f"Kafka's storage in {data} could not be made ready: {' '.join(last)}")

    return Launch(
        "kafka",
        (*base, *heap, *compiler, *classpath, "kafka.Kafka", str(properties)),
        {port: "TRUYVET_KAFKA_PORT", controller: "TRUYVET_KAFKA_PORT (its controller takes the next port)"},
        lambda: kafka_answers(f"{HOST}:{port}"),
        prepare,
    )


def _kafka_properties(log: Path, port: int, controller_port: int) -> str:
    one_node = (
        "offsets.topic",
        "transaction.state.log",
        "share.coordinator.state.topic",
    )
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.bootstrap.servers": f"{HOST}:{controller_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(log),
        "auto.create.topics.enable": "false",  # a typing error must not become a topic
        **{f"{topic}.replication.factor": "1" for topic in one_node},
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # 50 each by default: on one node they only make the first commit and every start slower
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.num.partitions": "8",
        "share.coordinator.state.topic.num.partitions": "1",
        # a stack that was off for weeks still knows how far each group had come
        "offsets.retention.minutes": str(90 * 24 * 60),
        "group.initial.rebalance.delay.ms": "0",
        # compaction works on closed segments only: a segment is closed daily at the latest
        "log.roll.hours": "24",
        "log.segment.bytes": str(256 * 1024 * 1024),
        "log.index.size.max.bytes": str(1024 * 1024),
        # 128 MiB by default, a quarter of this heap; 32 MiB hold 1.2 million keys a pass
        "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),
        "log.cleaner.min.cleanable.ratio": "0.3",
    }
    return "".join(f"{key}={_escaped(value)}\n" for key, value in lines.items())


def _escaped(value: str) -> str:
    """As a .properties file wants it: Latin-1 is read, anything else is written as UTF-16 escapes."""
    units = value.encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)]
    return "".join(chr(code) if 32 <= code < 127 and code != 92 else f"\\u{code:04x}" for code in codes)


def redis(
    data: Path, port: int, databases: int = 16, maxmemory: str = "0", bus_port: int | None = None
) -> Launch:
    """A Redis on loopback that keeps every write (append-only file, synced each second) and evicts none:
    past `maxmemory` (0: no bound) it refuses to grow, and ingest waits. `bus_port`: it is a node of a
    cluster, and speaks to the others there (redis_cluster.py)."""
    server = shutil.which("redis-server")
    if server is None:
        raise EngineError("redis-server is not installed: run `make setup`, it installs or names it")
    options = {
        "port": port,
        "bind": HOST,
        "dir": data,
        "daemonize": "no",
        "set-proc-title": "no",  # it would overwrite the mark by which `down` knows a lost process
        "databases": databases,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        # From 64 MB on, as Redis would, a busy file was written anew every seven seconds, by a child that
        # takes a core for a second each time: everybody's scans are late then, until that is made up for. A
        # start reads this much in some twenty seconds.
        "auto-aof-rewrite-min-size": "1gb",
        "rdbcompression": "no",  # of that file: pseudonyms hardly shrink, and trying costs the child
        "maxmemory": maxmemory,
        "maxmemory-policy": "noeviction",  # an evicted bucket would be a missed exposure
        # a bucket of up to some 2,500 marks stays a listpack: a value is a group of its persons
        "hash-max-listpack-entries": 512,
        "hash-max-listpack-value": 1024,
    }
    ports = {port: "TRUYVET_REDIS_PORT"}
    if bus_port is not None:
        # a node that is silent for so long is taken for dead: trials would only wait with the default of 15 s
        options |= {"cluster-enabled": "yes", "cluster-port": bus_port, "cluster-node-timeout": 2000}
        ports[bus_port] = "the port of its bus"
    flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return Launch(
        "redis" if bus_port is None else f"redis-{port}",
        (server, *flags),
        ports,
        lambda: node_answers(f"redis://{HOST}:{port}/0"),
        lambda: data.mkdir(parents=True, exist_ok=True),
    )


def clickhouse(data: Path, port: int) -> Launch:
    """The ClickHouse engine (chDB) behind its native protocol, on loopback."""
    command = (
        sys.executable,
        "-m",
        CLICKHOUSE_MODULE,
        "--host",
        HOST,
        "--port",
        str(port),
        "--data",
        str(data),
    )
    return Launch(
        "clickhouse",
        command,
        {port: "TRUYVET_CLICKHOUSE_PORT"},
        lambda: clickhouse_answers(f"clickhouse://default@{HOST}:{port}/default"),
        lambda: data.mkdir(parents=True, exist_ok=True),
    )


def port_holder(port: int, host: str = HOST) -> str | None:
    """Who listens on a port: None when it is free, else words for people."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            return "the system, which keeps it for root"
        except OSError:
            pass
        else:
            return None
    process = listener(port)
    if process is None:
        return "another process"
    try:
        return f"process {process.pid} ({process.name()})"
    except psutil.Error:
        return "another process"


def listener(port: int) -> psutil.Process | None:
    """The process that listens on a port of this machine; None: nobody, or the system does not say."""
    try:
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if (
                connection.status == psutil.CONN_LISTEN
                and address
                and address.port == port
                and connection.pid
            ):
                return psutil.Process(connection.pid)
    except psutil.Error:
        pass
    return None


def check_ports(launches: Sequence[Launch]) -> None:
    """Raises EngineError with a line for each port that is taken, naming the setting to change."""
    taken, seen = [], dict[int, str]()
    for launch in launches:
        for port, setting in launch.ports.items():
            if port in seen:
                taken.append(
                    f"port {port} is meant for both {seen[port]} and {launch.name}: change {setting}"
                )
            elif holder := port_holder(port):
                taken.append(
                    f"port {port} ({launch.name}) is taken by {holder}: end that or change {setting}"
                )
            seen[port] = launch.name
    if taken:
        raise EngineError("\n".join(taken))


def wait_until(
    answers: Callable[[], None],
    seconds: float,
    alive: Callable[[], str | None] = lambda: None,
    pause: float = 0.1,
) -> str | None:
    """Ask until it answers: None. Otherwise why not: what `alive` says has ended it, or the last refusal."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answers()
        except NotHealthyError as error:
            if ended := alive():
                return ended
            if time.monotonic() > deadline:
                return f"no answer within {seconds:.0f} s: {error}"
            time.sleep(pause)
        else:
            return None


def _first_ephemeral() -> int:
    """From here on, the system hands ports to connections that go out: one may be taken at any moment."""
    try:
        return int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768  # Linux' own; macOS begins later


def _claim(port: int) -> bool:
    """Whether nobody drew this port a moment ago, who may not listen on it yet; now it is drawn here."""
    file = _CLAIMS / str(port)
    try:
        _CLAIMS.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            return True
        if time.time() - file.stat().st_mtime < _CLAIMED_S:
            return False
        file.touch()
    except OSError:
        pass  # a folder that cannot be written: then nobody is warned
    return True


def free_base(offsets: Sequence[int]) -> int:
    """A port of loopback from which all of these offsets are free now, below those of outgoing connections;
    each call, of whichever process of this user, draws others. Raises EngineError when none is found.
    """
    last = max(_first_ephemeral(), _FIRST_PORT + 1_000) - max(offsets)
    for start in _DRAW.sample(range(_FIRST_PORT, last), 500):
        with ExitStack() as held, suppress(OSError):
            for offset in offsets:
                held.enter_context(socket.socket()).bind((HOST, start + offset))
            if all(_claim(start + offset) for offset in offsets):
                return start
    raise EngineError("no free ports on loopback: end what listens there")


def free_ports(count: int) -> list[int]:
    """So many free ports, as `free_base`. Raises EngineError when so many are not found."""
    return [free_base((0,)) for _ in range(count)]


def _bound_to_us(command: Sequence[str]) -> list[str]:
    """The command, made to end with this process even if we are killed outright (Linux)."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", "TERM", *command] if setpriv else list(command)


def end(process: subprocess.Popen[bytes], seconds: float = STOP_SECONDS) -> None:
    """SIGTERM, a bounded wait, then SIGKILL: of this one process, which we have started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(seconds)


def _ask_to_end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log; none when there is no such file yet."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1000 * count))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def start(launch: Launch, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start one server outside the supervisor; it does not see the terminal's Ctrl-C, its owner ends it."""
    launch.prepare()
    return subprocess.Popen(
        _bound_to_us(launch.command),
        env={**os.environ, **UTF8},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@contextmanager
def scratch(launches: Sequence[Launch], logs: Path, seconds: float = START_SECONDS) -> Iterator[None]:
    """Run servers for the length of a `with` block: started side by side, each answering when it begins.

    Raises EngineError with the last lines of its log for one that does not come up.
    """
    logs.mkdir(parents=True, exist_ok=True)
    check_ports(launches)
    with ExitStack() as stack:
        running = []
        for launch in launches:
            log = logs / f"{launch.name}.log"
            process = start(launch, stack.enter_context(log.open("ab")))
            stack.callback(end, process)
            running.append((launch, process, log))
        # all are told to end at once, so that the last of them is not waited for alone
        stack.callback(_ask_to_end, [process for _, process, _ in running])
        for launch, process, log in running:

            def ended(process: subprocess.Popen[bytes] = process) -> str | None:
                code = process.poll()
                return None if code is None else _exit_words(code)

            if reason := wait_until(launch.answers, seconds, ended):
                raise EngineError(
                    "\n".join((f"{launch.name} did not start: {reason}; its log ends:", *last_lines(log, 15)))
                )
        yield


def _exit_words(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"
