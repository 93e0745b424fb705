"""The embedded ClickHouse engine as its users have it: a process of its own, clickhouse-driver in front."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from clickhouse_driver import Client

START_SECONDS = 60.0


@dataclass
class Server:
    """One server process. `lines` is what it has logged."""

    data: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None
    lines: list[str] = field(default_factory=list)

    def start(self, *options: str) -> None:
        """Start it and wait for the line that says it is ready."""
        command = [sys.executable, "-m", "deploy.local.clickhouse", "--port", str(self.port)]
        command += ["--data", str(self.data), *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        ready = threading.Event()
        threading.Thread(target=self._read, args=(self.process, ready), daemon=True).start()
        assert ready.wait(START_SECONDS), self.lines
        assert self.port, self.lines

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line)
            found = re.search(r"ready: ClickHouse engine [\d.]+ on [\d.]+:(\d+)", line)
            if found:
                self.port = int(found[1])
                ready.set()
        ready.set()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def client(self, **options: Any) -> Client:
        """A client of it."""
        return Client("127.0.0.1", self.port, **options)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that do not stop it."""
    running = Server(tmp_path_factory.mktemp("clickhouse"))
    running.start("--max-queries", "8")
    yield running
    running.stop()


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """An empty database."""
    name = f"d_{uuid.uuid4().hex[:8]}"
    with server.client() as client:
        client.execute(f"CREATE DATABASE {name}")
        yield name
        client.execute(f"DROP DATABASE {name}")


@pytest.fixture
def client(server: Server, database: str) -> Iterator[Client]:
    """A client whose current database is empty."""
    with server.client(database=database) as connected:
        yield connected


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server, not yet started, that a test may stop and kill."""
    one = Server(tmp_path / "dữ liệu 1")
    yield one
    if one.process is not None and one.process.poll() is None:
        one.stop(signal.SIGKILL)


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    """Wait until a condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
