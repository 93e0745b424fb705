"""Redis' child that writes the log anew does not take the cores from what is at work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from deploy.local import engines
from deploy.local.rewriting import BEHIND, Rewriting


@pytest.fixture
def busy_redis(tmp_path: Path) -> Iterator[redis.Redis]:
    """A Redis whose child needs some ten seconds to write it out."""
    (port,) = engines.free_ports(1)
    with engines.scratch([engines.redis(tmp_path / "redis", port)], tmp_path / "logs"):
        client = redis.Redis.from_url(f"redis://127.0.0.1:{port}/0")
        client.config_set("rdb-key-save-delay", 1000)  # µs a key
        client.mset({f"key {number}": "" for number in range(10_000)})
        yield client


@pytest.mark.engines
def test_the_child_is_put_behind_and_redis_is_not(busy_redis: redis.Redis) -> None:
    port = busy_redis.connection_pool.connection_kwargs["port"]
    rewriting = Rewriting(f"redis://127.0.0.1:{port}/0")
    assert rewriting.look() == []
    busy_redis.bgrewriteaof()
    (child,) = rewriting.look()
    server = psutil.Process(busy_redis.info("server")["process_id"])
    assert psutil.Process(child).parent() == server
    assert psutil.Process(child).nice() == BEHIND > server.nice()
    assert rewriting.look() == []  # it is behind already
    psutil.Process(child).kill()


def test_a_redis_that_is_away_is_asked_again() -> None:
    (port,) = engines.free_ports(1)
    assert Rewriting(f"redis://127.0.0.1:{port}/0").look() == []
