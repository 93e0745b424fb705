"""A role without Kafka says what it waits for."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.local.engines import free_base, free_ports
from deploy.local.waiting import tell_until_kafka_answers
from schemas.settings import Settings


@pytest.mark.parametrize("role", ["ingest", "cases", "matcher", "archive", "gateway"])
def test_every_role_says_at_once_and_again_that_kafka_is_away(role: str, tmp_path: Path) -> None:
    kafka, redis, clickhouse, gateway = free_ports(4)
    own = {  # none of it where another stack might be
        "TRUYVET_KAFKA": f"127.0.0.1:{kafka}",
        "TRUYVET_REDIS": f"redis://127.0.0.1:{redis}/0",
        "TRUYVET_CLICKHOUSE": f"clickhouse://default@127.0.0.1:{clickhouse}/default",
        "TRUYVET_GATEWAY_PORT": str(gateway),
        "TRUYVET_METRICS_PORT": str(free_base((0, 64, 65, 66))),
    }
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "truyvet", "run", role],
            env={**os.environ, **own},
            stdout=file,
            stderr=file,
        )
    try:
        told, deadline = 0, time.monotonic() + 30
        while told < 2:
            told = log.read_text().count(f"waiting for Kafka at 127.0.0.1:{kafka} (TRUYVET_KAFKA)")
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.engines
def test_nothing_is_said_when_kafka_is_there(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "truyvet.kafka"):
        thread = tell_until_kafka_answers(settings.kafka_address)
        thread.join(10)
    assert not thread.is_alive()
    assert caplog.records == []
