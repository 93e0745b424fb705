"""A stack of its own on free ports, with roles as small as they can be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local import engines as local
from deploy.local.roles import Worker, metrics_port
from deploy.local.stack import Stack
from schemas.settings import Settings
from tests.conftest import Engines

TINY = Path(__file__).parent / "tiny_role.py"
MakeStack = Callable[..., Stack]


@pytest.fixture
def make_stack(engines: Engines, tmp_path: Path) -> Iterator[MakeStack]:
    """Stacks in this test's folder, taken down at its end.

    Redis is started by the stack; Kafka and ClickHouse are the session's, as external addresses, unless an
    empty address is given.
    """
    made: list[Stack] = []

    def make(name: str = "data", role_seconds: float = 30, **overrides: object) -> Stack:
        values: dict[str, object] = {
            "data": tmp_path / name,
            "kafka": engines.kafka,
            "clickhouse": f"clickhouse://default@127.0.0.1:{engines.clickhouse_port}/default",
            "kafka_port": local.free_base((0, 1)),
            "redis_port": local.free_ports(1)[0],
            "gateway_port": local.free_ports(1)[0],
            "metrics_port": local.free_base((0, 1, 64, 65, 66)),
            "topic_prefix": f"{tmp_path.name.replace('_', '-')}.",
        }
        settings = Settings.model_validate({**values, **overrides})

        def command(worker: Worker) -> tuple[str, ...]:
            port = metrics_port(settings, worker.role.name, worker.number)
            return sys.executable, str(TINY), str(port), str(tmp_path / f"broken-{worker.name}")

        made.append(Stack(settings, command, role_seconds=role_seconds))
        return made[-1]

    yield make
    for stack in made:
        stack.down()
        assert stack.leftovers() == []
