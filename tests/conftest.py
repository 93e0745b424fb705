"""Real engines for every test that wants them: started once a session, on free ports, in a scratch folder.

A test takes `settings`: an installation of its own on these engines (own topic names, own Redis database,
own ClickHouse database), with all its topics made. `engines` alone gives the addresses. `clustered` is the
same with a Redis Cluster of three nodes, emptied before each test.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis
import pytest
import redis
from clickhouse_driver import Client

from deploy.local import engines as local
from deploy.local import redis_cluster
from deploy.local.topics import TopicAdmin
from schemas.settings import Settings

# pytest-xdist tells its workers how wide a terminal is; a table's width is for each test to say
os.environ.pop("COLUMNS", None)

# no example has a time limit: a machine that pauses is no defect
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_REDIS_DATABASES = 1024
_next_database = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Engines:
    """Where the session's engines listen, on loopback."""

    kafka_port: int
    redis_port: int
    clickhouse_port: int

    @property
    def kafka(self) -> str:
        """host:port of the broker."""
        return f"127.0.0.1:{self.kafka_port}"


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Kafka, Redis and the ClickHouse engine, ended by their process ids when the session ends."""
    folder = tmp_path_factory.mktemp("engines")
    kafka, controller, redis_port, clickhouse = local.free_ports(4)
    launches = [
        local.kafka(folder / "kafka", kafka, controller),
        local.redis(folder / "redis", redis_port, databases=_REDIS_DATABASES),
        local.clickhouse(folder / "clickhouse", clickhouse),
    ]
    with local.scratch(launches, folder / "logs"):
        yield Engines(kafka, redis_port, clickhouse)


@pytest.fixture
def settings(engines: Engines) -> Iterator[Settings]:
    """An installation of its own on the session's engines, gone when the test is."""
    mark = uuid.uuid4().hex[:8]
    database = 1 + next(_next_database) % (_REDIS_DATABASES - 1)
    archive = f"clickhouse://default@127.0.0.1:{engines.clickhouse_port}"
    own = Settings(
        kafka=engines.kafka,
        redis=f"redis://127.0.0.1:{engines.redis_port}/{database}",
        clickhouse=f"{archive}/t_{mark}",
        gateway_port=local.free_ports(1)[0],
        metrics_port=local.free_base((0, 1, 2, 3, 64, 65, 66)),
        topic_prefix=f"t{mark}.",
    )
    marks = redis.Redis.from_url(own.redis_url)
    marks.flushdb()
    clickhouse = Client.from_url(f"{archive}/default")
    clickhouse.execute(f"CREATE DATABASE t_{mark}")
    topics = TopicAdmin(own)
    topics.apply()
    yield own
    topics.delete()
    clickhouse.execute(f"DROP DATABASE t_{mark}")
    clickhouse.disconnect()
    marks.flushdb()
    marks.close()


@pytest.fixture(scope="session")
def redis_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis_cluster.Nodes]:
    """A Redis Cluster of three masters, started when a test first asks for it."""
    folder = tmp_path_factory.mktemp("cluster")
    with redis_cluster.running(redis_cluster.nodes(folder), folder / "logs") as nodes:
        yield nodes


@pytest.fixture
def clustered(settings: Settings, redis_nodes: redis_cluster.Nodes) -> Settings:
    """`settings` with an empty Redis Cluster."""
    redis_nodes.empty()
    return settings.model_copy(update={"redis": redis_nodes.url})
