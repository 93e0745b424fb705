"""An archive with its tables, the environment of a command, and truyvet as people call it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from clickhouse_driver import Client

from deploy.local.memory import environment_of
from lookups.connection import connect
from schemas.settings import Settings
from sinks.migrate import migrate


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def archive(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of an empty archive; commands of this process find it and the rest of the installation."""
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    client = connect(settings.clickhouse_url)
    migrate(client, clock_ms)
    yield client
    client.disconnect()
