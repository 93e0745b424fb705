"""Does Redis still hold all that was acknowledged? Noticed at once, and known to every worker.

Redis can be wiped, replaced by an old file, or fail over to a replica that lags. Three things tell:

- **The epoch**, an identifier in the key `s:{shard}`. Every script compares it before it reads or writes, so
  a wiped store answers STORELOST instead of pretending to be empty.
- **The server's run id**. Every new connection compares it, so a worker never goes on with another server
  process than the one that answered its chunks: it ends, and what it had not committed is delivered again.
  In a Redis Cluster that is each node's; a slot that another node answers for ends the worker as well.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from stream_processors.layout import LAYOUT_VERSION, Layout
from stream_processors.servers import Servers, StoreLostError

log: Final = logging.getLogger(__name__)

Status = Literal["ready", "lost"]
READY: Final = "ready"
LOST: Final = "lost"
_LUA: Final = Path(__file__).parent / "lua"
_BEGIN: Final = (_LUA / "_begin_epoch.lua").read_text()
_SPREAD: Final = (_LUA / "_spread_epoch.lua").read_text()


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


class Guard:
    """The keys `s:` of all shards; the first shard's also says how it stands."""

    def __init__(self, servers: Servers, layout: Layout, clock_ms: Callable[[], int]) -> None:
        self._servers = servers
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
        elif shards[0].get("layout") != LAYOUT_VERSION:
            reason = "Redis was filled by a version of Truy vết that lays it out differently"
        elif shards[0].get("status") == READY:
            reason = next(filter(None, (_behind(fields, committed) for fields in shards)), "")
        if reason:
            log.critical("matching is degraded: %s. Buckets and flags have to be rebuilt", reason)
            return await self._begin(epochs[0], {"status": LOST, "reason": reason})
        return _state(shards[0])

    async def state(self) -> StoreState:
        """How it stands. Raises StoreLostError when there is nothing.

        Of a cluster every shard is asked, as a node may be lost that holds nothing of the first one.
        """
        first, *others = await self._fields(range(self._layout.shards if self._layout.split else 1))
        if "epoch" not in first:
            raise StoreLostError("Redis holds nothing")
        if any("epoch" not in fields for fields in others):
            raise StoreLostError("a shard of Redis holds nothing")
        return _state(first)

    async def position(self, name: str) -> int:
        """How far the store was told of a partition; 0 when nothing is known of it."""
        (first,) = await self._fields(range(1))
        return int(first.get(name, 0))

    async def mark_lost(self, reason: str) -> StoreState:
        """Begin a new epoch because somebody knows better. Whoever works with the old one ends."""
        known = (await self._fields())[0].get("epoch")
        return await self._begin(known, {"status": LOST, "reason": reason})

    async def _begin(self, known: str | None, about: Mapping[str, str]) -> StoreState:
        """A new epoch on every shard. The first shard decides between several who begin one: `known` is what
        was seen there; whoever comes later goes on with what the first made."""
        whole = {**about, "since": str(self._clock_ms()), "layout": LAYOUT_VERSION}
        fields = [word for item in whole.items() for word in item]
        arguments = [known or "", uuid.uuid4().hex, *fields]
        key = self._layout.state(0)
        epoch: bytes = await self._servers.one(key, "EVAL", _BEGIN, 1, key, *arguments)
        await self._spread(epoch.decode())
        return await self.state()

    async def _spread(self, epoch: str) -> None:
        for shard in range(1, self._layout.shards):
            key = self._layout.state(shard)
            await self._servers.one(key, "EVAL", _SPREAD, 1, key, epoch)
        key = self._layout.state(0)
        await self._servers.one(key, "HSET", key, "begun", 1)

    async def progress(self, step: str, done: int, total: int) -> None:
        """Say how far a rebuild is; for whoever looks."""
        key = self._layout.state(0)
        await self._servers.one(key, "HSET", key, "step", step, "done", done, "total", total)

    async def _fields(self, shards: range | None = None) -> list[dict[str, str]]:
        keys = [self._layout.state(shard) for shard in shards or range(self._layout.shards)]
        asked = [(key, ("HGETALL", key)) for key in keys]
        # The first shard first, also where others are on other nodes: it is the last to say that an epoch has
        # begun everywhere, so what is read after it is of that epoch.
        replies = await self._servers.execute(asked[:1])
        replies += await self._servers.execute(asked[1:]) if asked[1:] else []
        if error := next((reply for reply in replies if isinstance(reply, Exception)), None):
            raise error
        return [_text(each) for each in replies]


def _text(reply: Sequence[bytes]) -> dict[str, str]:
    """Of HGETALL: field, value, …"""
    words = [word.decode() for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))


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
