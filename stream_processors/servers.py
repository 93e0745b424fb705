"""Which Redis is asked for a key: the one server, or a master of a Redis Cluster.

In a cluster, a script may touch keys of one slot only, so a call is for one shard, and calls of several
shards go out side by side, one pipeline a node. Who holds a slot is asked once in a life: whoever finds that
a slot has another master than it had then begins again, as with a server that was restarted, because the new
master may be a replica that lagged; positions tell (guard.py). A slot that is being moved is waited for and
ASK never followed: the keys that a script touches are not all declared to Redis, so it would make a second
bucket on the new node while the old one is still on its way.

redis-py's own cluster client is not used here: on an error it closes the connections of every node under the
calls of other chunks, and it follows MOVED to whatever server is there.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, cast
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from schemas.settings import redis_cluster

Command = tuple[Any, ...]  # EVALSHA, its sha, …
Keyed = tuple[str, Command]  # a key that the command is about, the command

# A cluster that looks for its nodes after a restart takes seconds, and a slot that is moved its time; past
# this the worker ends with words, and is tried again.
_PATIENCE_S: Final = 10.0
_PAUSE_S: Final = 0.1


class StoreLostError(RuntimeError):
    """Redis is not the store that the worker knows; it ends, and finds out at its next start what is left."""


class SameServer:
    """Refuses a connection to another server process than the first one's."""

    def __init__(self) -> None:
        self.run_id: str | None = None

    async def connected(self, connection: AbstractConnection) -> None:
        """Greet as usual, then compare. Raises StoreLostError."""
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        said = await connection.read_response()
        text = said.decode() if isinstance(said, bytes) else str(said)
        found = next((line[7:].strip() for line in text.splitlines() if line.startswith("run_id:")), "")
        if self.run_id is None:
            self.run_id = found
        elif found != self.run_id:
            await connection.disconnect()  # else it would serve the next command without having been compared
            raise StoreLostError("Redis was restarted or replaced: this worker begins again with the new one")


# A matcher with much to do would open one for every venue and case at hand, and the client raises past a
# hundred: the worker would end, begin again with the same work, and end again.
_CONNECTIONS: Final = 24


class Servers(ABC):
    """Clients that outlast a short break, and raise after about ten seconds of it."""

    clustered: bool

    @abstractmethod
    async def execute(self, commands: Sequence[Keyed]) -> list[Any]:
        """The replies in this order, errors of a command among them.

        One round trip. With one server they are executed in this order; in a cluster in this order within a
        node, and one that had to wait is sent again. Raises StoreLostError, redis.RedisError.
        """

    @abstractmethod
    async def of(self, key: str) -> Redis:
        """The client of whoever holds a key. Raises redis.RedisError."""

    @abstractmethod
    async def all(self) -> list[Redis]:
        """A client of every server that holds keys. Raises redis.RedisError."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""

    async def one(self, key: str, *command: Any) -> Any:
        """The reply to one command. Raises its error."""
        (reply,) = await self.execute([(key, command)])
        if isinstance(reply, Exception):
            raise reply
        return reply


def connect(url: str) -> Servers:
    """Clients for an address of the settings; nothing is asked yet.

    The socket time-out prevents waiting for ever on a server that is stopped or a half-open connection;
    raising ends the worker, so that its records are redelivered. Each client speaks to one server process
    only (StoreLostError): another one may hold less.
    """
    cluster = redis_cluster(url)
    return OneServer(_client(url)) if cluster is None else Cluster(cluster)


class _Lines:
    """Trips to one server over connections of a client's making, without its pipelines: what those do around
    a trip costs the worker 0.1 ms, a third of the whole (docs/DESIGN.md)."""

    def __init__(self, redis: Redis) -> None:
        self._pool = redis.connection_pool
        self._room = asyncio.Semaphore(_CONNECTIONS)
        self._free: list[AbstractConnection] = []
        self._all: list[AbstractConnection] = []

    async def trip(self, commands: Sequence[Command]) -> list[Any]:
        """The replies in order, errors of a command among them. Raises redis.RedisError, StoreLostError."""
        async with self._room:
            line = self._free.pop() if self._free else self._new()

            async def once() -> list[Any]:
                if not line.is_connected:  # by itself it would try ten times for each of the ten tries here
                    await line.connect_check_health(retry_socket_connect=False)
                await line.send_packed_command(line.pack_commands(commands))
                return [await _reply(line) for _ in commands]

            try:
                return await line.retry.call_with_retry(once, lambda _: line.disconnect())
            finally:  # whoever was cancelled in mid-trip has a line that was closed by that
                self._free.append(line)

    def _new(self) -> AbstractConnection:
        line = cast(AbstractConnection, cast(Any, self._pool).make_connection())
        self._all.append(line)
        return line

    async def aclose(self) -> None:
        """Close the connections."""
        for line in self._all:
            await line.disconnect()


async def _reply(line: AbstractConnection) -> Any:
    try:
        return await line.read_response()
    except ResponseError as error:
        return error


def _client(url: str) -> Redis:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=None,  # whoever has a connection gives it back: its own time-outs are below
        redis_connect_func=SameServer().connected,
        socket_timeout=5.0,
        socket_connect_timeout=2.0,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 10),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
        protocol=2,
    )
    return Redis.from_pool(pool)


class OneServer(Servers):
    """One Redis that holds everything."""

    clustered = False

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._lines = _Lines(redis)

    async def execute(self, commands: Sequence[Keyed]) -> list[Any]:
        replies = await self._lines.trip([command for _, command in commands])
        if any(isinstance(reply, MovedError) for reply in replies):
            raise RedisError("this Redis is a node of a cluster: set TRUYVET_REDIS=redis+cluster://host:port")
        return replies

    async def of(self, key: str) -> Redis:  # noqa: ARG002 (all keys are its own)
        return self._redis

    async def all(self) -> list[Redis]:
        return [self._redis]

    async def aclose(self) -> None:
        await self._lines.aclose()
        await self._redis.aclose()


class Cluster(Servers):
    """The masters of a Redis Cluster, as they were when they were first asked."""

    clustered = True

    def __init__(
        self,
        urls: Sequence[str],
        client: Callable[[str], Redis] = _client,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls = urls  # of some nodes; they tell of the others
        self._client = client
        self._clock = clock
        self._masters: dict[str, Redis] = {}  # host:port → client
        self._lines: dict[str, _Lines] = {}  # likewise
        self._owners: list[tuple[int, int, str]] = []  # first slot, last slot, host:port
        self._known: dict[str, str] = {}  # hash tag → host:port
        self._learning = asyncio.Lock()

    async def execute(self, commands: Sequence[Keyed]) -> list[Any]:
        await self._learn()
        replies: list[Any] = [None] * len(commands)
        left: Sequence[int] = range(len(commands))
        deadline = self._clock() + _PATIENCE_S
        while left:
            places: dict[str, list[int]] = {}
            for place in left:
                places.setdefault(self._owner(commands[place][0]), []).append(place)
            answers = await asyncio.gather(
                *(
                    self._lines[name].trip([commands[place][1] for place in mine])
                    for name, mine in places.items()
                ),
                return_exceptions=True,  # else the others' would go on unseen
            )
            for mine, answer in zip(places.values(), answers, strict=True):
                if isinstance(answer, BaseException):
                    raise answer
                for place, reply in zip(mine, answer, strict=True):
                    replies[place] = reply
            left = [place for place in left if _passing(replies[place])]
            if left and self._clock() > deadline:
                break
            if left:
                await asyncio.sleep(_PAUSE_S)
        return replies

    async def of(self, key: str) -> Redis:
        await self._learn()
        return self._masters[self._owner(key)]

    async def all(self) -> list[Redis]:
        await self._learn()
        return list(self._masters.values())

    async def aclose(self) -> None:
        for lines in self._lines.values():
            await lines.aclose()
        for redis in self._masters.values():
            await redis.aclose()

    def _owner(self, key: str) -> str:
        tag = key[key.index("{") : key.index("}")] if "{" in key else key
        owner = self._known.get(tag)
        if owner is None:
            slot = key_slot(key.encode())
            owner = next(name for first, last, name in self._owners if first <= slot <= last)
            self._known[tag] = owner
        return owner

    async def _learn(self) -> None:
        if self._owners:
            return
        async with self._learning:
            refusal = RedisError("no node of the Redis Cluster is named")
            for url in self._urls if not self._owners else ():
                asked = self._client(url)
                try:
                    ranges = await cast(Any, asked).execute_command("CLUSTER SLOTS")
                    self._take(url, ranges)
                except RedisError as error:
                    refusal = error
                else:
                    return
                finally:
                    await asked.aclose()
            if not self._owners:
                raise _clear(refusal)

    def _take(self, url: str, ranges: Sequence[Sequence[Any]]) -> None:
        """Remember who holds what. Raises RedisError when a slot has no master.

        `ranges` as CLUSTER SLOTS gives them: first slot, last slot, [host, port, …] of the master, replicas.
        """
        covered = sum(last - first + 1 for first, last, *_ in ranges)
        if covered != REDIS_CLUSTER_HASH_SLOTS:
            raise ClusterDownError(f"the Redis Cluster holds {covered} of {REDIS_CLUSTER_HASH_SLOTS} slots")
        own = urlsplit(url)
        owners = []
        for first, last, (host, port, *_), *_ in ranges:
            # a node that has met nobody does not know its own address
            name = f"{host.decode() if host else own.hostname}:{port}"
            owners.append((int(first), int(last), name))
            if name not in self._masters:
                redis = self._client(own._replace(netloc=_at(own.netloc, name)).geturl())
                self._masters[name], self._lines[name] = redis, _Lines(redis)
        self._owners = owners


def _at(netloc: str, address: str) -> str:
    credentials, at, _ = netloc.rpartition("@")
    return credentials + at + address


def _clear(error: RedisError) -> RedisError:
    if isinstance(error, ResponseError) and "cluster support disabled" in str(error):
        return RedisError("this Redis is no cluster: set TRUYVET_REDIS=redis://host:port/0")
    return error


def _passing(reply: Any) -> bool:
    """Whether a cluster may answer otherwise in a moment. Raises StoreLostError when it never will."""
    if isinstance(reply, MovedError):
        raise StoreLostError(
            "another node holds a part of the Redis Cluster now: this worker begins again with it"
        )
    if isinstance(reply, (AskError, TryAgainError, ClusterDownError, BusyLoadingError)):
        return True
    # within a script, what a moving slot says comes as another error
    return isinstance(reply, ResponseError) and any(
        words in str(reply) for words in ("non local key", "CLUSTERDOWN", "TRYAGAIN", "cluster is down")
    )
