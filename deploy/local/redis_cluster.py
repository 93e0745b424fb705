"""A Redis Cluster of local masters, for tests and trials: servers, slots, and who knows whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from deploy.local import engines, health

_SLOTS: Final = 16_384
# Nodes that have met tell the others within a second or two; a loaded machine needs longer.
_FORM_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Nodes:
    """Masters on loopback, each with a folder of its own below `folder`."""

    folder: Path
    ports: tuple[int, ...]
    bus_ports: tuple[int, ...]

    @property
    def url(self) -> str:
        """TRUYVET_REDIS."""
        return "redis+cluster://" + ",".join(f"{engines.HOST}:{port}" for port in self.ports)

    def launch(self, node: int, maxmemory: str = "0") -> engines.Launch:
        """How to start a node."""
        port = self.ports[node]
        return engines.redis(
            self.folder / str(port), port, maxmemory=maxmemory, bus_port=self.bus_ports[node]
        )

    def client(self, node: int) -> redis.Redis:
        """A client of one node."""
        return redis.Redis(host=engines.HOST, port=self.ports[node], socket_timeout=5.0)

    def empty(self) -> None:
        """Forget what all nodes hold; the slots stay."""
        for node in range(len(self.ports)):
            with self.client(node) as client:
                client.flushall()


def nodes(folder: Path, count: int = 3, ports: Sequence[int] = ()) -> Nodes:
    """So many masters, on ports that are free now unless twice as many are given."""
    ports = ports or engines.free_ports(2 * count)
    return Nodes(folder, tuple(ports[:count]), tuple(ports[count : 2 * count]))


def form(there: Nodes, seconds: float = _FORM_SECONDS) -> None:
    """Give each running node its share of the slots, and introduce them. Raises EngineError."""
    share = -(-_SLOTS // len(there.ports))
    for node, first in enumerate(range(0, _SLOTS, share)):
        with there.client(node) as client:
            last = min(first + share, _SLOTS) - 1
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            for port, bus in zip(there.ports[:node], there.bus_ports, strict=False):
                meet = ("CLUSTER MEET", engines.HOST, port, bus)
                client.execute_command(*meet)
    for port in there.ports:
        url = f"redis+cluster://{engines.HOST}:{port}"
        if refusal := engines.wait_until(lambda url=url: health.redis_answers(url), seconds):  # type: ignore[misc]
            raise engines.EngineError(f"the Redis Cluster does not come together: {refusal}")


@contextmanager
def running(there: Nodes, logs: Path, others: Sequence[engines.Launch] = ()) -> Iterator[Nodes]:
    """A cluster, and other servers, for the length of a `with` block."""
    launches = [there.launch(node) for node in range(len(there.ports))]
    with engines.scratch([*launches, *others], logs):
        form(there)
        yield there
