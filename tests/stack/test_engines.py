"""The session's engines answer, and every test gets an installation of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from deploy.local import engines as local
from deploy.local.health import (
    NotHealthyError,
    clickhouse_answers,
    kafka_answers,
    redis_answers,
    without_password,
)
from deploy.local.topics import TopicAdmin
from schemas import topics
from schemas.settings import Settings

_seen: list[str] = []


@pytest.mark.engines
@pytest.mark.parametrize("turn", [1, 2])
def test_an_installation_of_its_own(settings: Settings, turn: int) -> None:
    kafka_answers(settings.kafka_address)
    redis_answers(settings.redis_url)
    clickhouse_answers(settings.clickhouse_url)
    marks = redis.Redis.from_url(settings.redis_url)
    assert marks.dbsize() == 0
    marks.set("left", turn)
    assert {step.action for step in TopicAdmin(settings).plan()} == {"keep"}
    names = {settings.topic(topic) for topic in topics.TOPICS.values()}
    assert not names & set(_seen)
    _seen.extend(names)


@pytest.mark.engines
def test_redis_keeps_what_the_design_needs(settings: Settings) -> None:
    config = redis.Redis.from_url(settings.redis_url, decode_responses=True).config_get("*")
    assert config["appendonly"] == "yes"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["hash-max-listpack-entries"] == "512"
    assert config["hash-max-listpack-value"] == "1024"
    assert config["auto-aof-rewrite-min-size"] == str(1024 * 1024 * 1024)
    assert config["bind"] == "127.0.0.1"


def test_a_server_that_is_away_is_named() -> None:
    (port,) = local.free_ports(1)
    with pytest.raises(NotHealthyError, match=f"Redis at redis://127.0.0.1:{port}/0"):
        redis_answers(f"redis://127.0.0.1:{port}/0")
    with pytest.raises(NotHealthyError, match=f"ClickHouse at clickhouse://u@127.0.0.1:{port}/d: .*refused"):
        clickhouse_answers(f"clickhouse://u:secret@127.0.0.1:{port}/d")
    with pytest.raises(NotHealthyError, match=f"Kafka at 127.0.0.1:{port}"):
        kafka_answers(f"127.0.0.1:{port}", seconds=1)


def test_a_server_that_cannot_start_shows_its_last_lines(tmp_path: Path) -> None:
    (port,) = local.free_ports(1)
    bad = local.redis(tmp_path / "redis", port)
    bad = local.Launch(bad.name, (*bad.command, "--appendfsync", "never-ever"), bad.ports, bad.answers)
    (tmp_path / "redis").mkdir()
    with (
        pytest.raises(local.EngineError, match=r"redis did not start: it ended with exit code 1(.|\n)*fsync"),
        local.scratch([bad], tmp_path / "logs"),
    ):
        pytest.fail("it must not come up")


def test_scratch_ends_what_it_started(tmp_path: Path) -> None:
    (port,) = local.free_ports(1)
    launch = local.redis(tmp_path, port)
    with local.scratch([launch], tmp_path / "logs"):
        assert local.port_holder(port) is not None
        with pytest.raises(local.EngineError, match=rf"port {port} .*redis-server.*TRUYVET_REDIS_PORT"):
            local.check_ports([launch])
    assert local.port_holder(port) is None


def test_one_port_for_two_servers_is_refused(tmp_path: Path) -> None:
    (port,) = local.free_ports(1)
    launches = [local.redis(tmp_path, port), local.clickhouse(tmp_path, port)]
    with pytest.raises(local.EngineError, match="is meant for both redis and clickhouse"):
        local.check_ports(launches)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:1/0", "redis://127.0.0.1:1/0"),
        ("clickhouse://u:se@cret@h:1/d", "clickhouse://u@h:1/d"),
        ("redis://:secret@h:1/0", "redis://@h:1/0"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_no_two_processes_draw_the_same_port() -> None:
    """Before anybody listens: a worker did not start, as another session's had taken its port meanwhile."""
    draw = "from deploy.local.engines import free_base; print(*(free_base((0, 7)) for _ in range(60)))"
    drawing = [
        subprocess.Popen([sys.executable, "-c", draw], stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    bases = [int(word) for each in drawing for word in each.communicate(timeout=60)[0].split()]
    ports = [base + offset for base in bases for offset in (0, 7)]
    assert len(set(ports)) == len(ports) == 240
    (claimed,) = local.free_ports(1)
    assert not local._claim(claimed)
    old = time.time() - local._CLAIMED_S - 1
    os.utime(local._CLAIMS / str(claimed), (old, old))
    assert local._claim(claimed)
