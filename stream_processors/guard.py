"""Does Redis still hold all that was acknowledged? Noticed at once, and known to every worker.

Redis can be wiped, replaced by an old file, or fail over to a replica that lags. Three things tell:

- **The epoch**, an identifier in the key `s:{shard}`. Every script compares it before it reads or writes, so
  a wiped store answers STORELOST instead of pretending to be empty.
- **The server's run id**. Every new connection compares it, so a worker never goes on with another server
  process than the one that answered its chunks: it ends, and what it had not committed is delivered again.
- **Positions**. Before a worker commits an offset to Kafka, it writes it into `s:{shard}`, behind everything
  that the offset vouches for. Redis loses the end of its writes or all of them, never some in between; so
  when a worker starts and Kafka has committed more than Redis was told, Redis has lost something. When it
  was told as much, it has lost nothing, however often it was restarted.

A store that lost something gets a new epoch (every live worker ends and starts again) and the status
`lost`: ingest goes on, cases and matcher wait, until somebody has rebuilt it (deploy/rebuild) and it is
`ready`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from stream_processors.layout import Layout

log: Final = logging.getLogger(__name__)

Status = Literal["ready", "lost"]
READY: Final = "ready"
LOST: Final = "lost"
_LUA: Final = Path(__file__).parent / "lua"
_BEGIN: Final = (_LUA / "_begin_epoch.lua").read_text()
_SPREAD: Final = (_LUA / "_spread_epoch.lua").read_text()


class StoreLostError(RuntimeError):
    """Redis is not the store that the worker knows; it ends, and finds out at its next start what is left."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """What `s:` says. `since` ms; `reason` why it was lost; `step`, `done`, `total` of a rebuild at work."""

    epoch: str
    status: Status
    since: int
    reason: str = ""
    step: str = ""
    done: int = 0
    total: int = 0


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


class Guard:
    """The keys `s:` of all shards; the first shard's also says how it stands."""

    def __init__(self, redis: Redis, layout: Layout, clock_ms: Callable[[], int]) -> None:
        self._redis = redis
        self._layout = layout
        self._clock_ms = clock_ms

    async def open(self, committed: Mapping[str, int]) -> StoreState:
        """Begin with what is there. `committed`: by partition, what Kafka says was acknowledged.

        A store that has no epoch and owes nothing is new, and ready. Raises redis.RedisError.
        """
        shards = await self._fields()
        if "epoch" in shards[0] and "begun" not in shards[0]:
            # somebody is just beginning, or died while it was: the first shard has decided already
            await self._spread(shards[0]["epoch"])
            shards = await self._fields()
        epochs = [fields.get("epoch") for fields in shards]
        if set(epochs) == {None} and not committed:
            return await self._begin(None, {"status": READY})
        reason = ""
        if None in epochs:
            reason = "Redis holds nothing" if set(epochs) == {None} else "a shard of Redis holds nothing"
        elif len(set(epochs)) > 1:
            reason = "the shards of Redis are of different epochs"
        elif shards[0].get("status") == READY:
            reason = next(filter(None, (_behind(fields, committed) for fields in shards)), "")
        if reason:
            log.critical("matching is degraded: %s. Buckets and flags have to be rebuilt", reason)
            return await self._begin(epochs[0], {"status": LOST, "reason": reason})
        return _state(shards[0])

    async def state(self) -> StoreState:
        """How it stands. Raises StoreLostError when there is nothing."""
        fields = _text(await cast(Any, self._redis.hgetall(self._layout.state(0))))
        if "epoch" not in fields:
            raise StoreLostError("Redis holds nothing")
        return _state(fields)

    async def position(self, name: str) -> int:
        """How far the store was told of a partition; 0 when nothing is known of it."""
        found: bytes | None = await cast(Any, self._redis.hget(self._layout.state(0), name))
        return int(found or 0)

    async def mark_lost(self, reason: str) -> StoreState:
        """Begin a new epoch because somebody knows better. Whoever works with the old one ends."""
        known = (await self._fields())[0].get("epoch")
        return await self._begin(known, {"status": LOST, "reason": reason})

    async def _begin(self, known: str | None, about: Mapping[str, str]) -> StoreState:
        """A new epoch on every shard. The first shard decides between several who begin one: `known` is what
        was seen there; whoever comes later goes on with what the first made."""
        fields = [word for item in about.items() for word in item] + ["since", str(self._clock_ms())]
        arguments = [known or "", uuid.uuid4().hex, *fields]
        key = self._layout.state(0)
        epoch: bytes = await cast(Any, self._redis.eval(_BEGIN, 1, key, *arguments))
        await self._spread(epoch.decode())
        return await self.state()

    async def _spread(self, epoch: str) -> None:
        for shard in range(1, self._layout.shards):
            await cast(Any, self._redis.eval(_SPREAD, 1, self._layout.state(shard), epoch))
        await cast(Any, self._redis.hset(self._layout.state(0), "begun", 1))

    async def progress(self, step: str, done: int, total: int) -> None:
        """Say how far a rebuild is; for whoever looks."""
        fields: dict[Any, Any] = {"step": step, "done": done, "total": total}
        await cast(Any, self._redis.hset(self._layout.state(0), mapping=fields))

    async def _fields(self) -> list[dict[str, str]]:
        pipeline = self._redis.pipeline(transaction=False)
        for shard in range(self._layout.shards):
            pipeline.hgetall(self._layout.state(shard))
        return [_text(each) for each in await pipeline.execute()]


def _text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _state(fields: Mapping[str, str]) -> StoreState:
    return StoreState(
        fields["epoch"],
        READY if fields.get("status") == READY else LOST,
        int(fields.get("since", 0)),
        fields.get("reason", ""),
        fields.get("step", ""),
        int(fields.get("done", 0)),
        int(fields.get("total", 0)),
    )


def _behind(fields: Mapping[str, str], committed: Mapping[str, int]) -> str:
    """Why the store is older than what was acknowledged, or nothing."""
    for name, offset in committed.items():
        told = int(fields.get(name, 0))
        if told < offset:
            return f"Redis was told {name} up to {told}, and {offset} was acknowledged"
    return ""
