"""The Lua scripts: how they are called, repeated, and refused by a store that was lost."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from redis.exceptions import NoScriptError, OutOfMemoryError

from stream_processors.servers import Keyed, Servers, StoreLostError

log: Final = logging.getLogger(__name__)

OnFull = Callable[[bool], None]  # Redis refuses to grow; it has room again

_LUA: Final = Path(__file__).parent / "lua"
_FULL_PAUSE_S: Final = 1.0  # between two tries of a step that a full Redis refused
_CALLS_A_TRIP: Final = 16  # a reply is not read before the last one of its trip has come


# The scripts that begin with a part of their own that they share.
_SHARED: Final = {
    "set_person_case": ("_index",),
    "erase_index": ("_index",),
    "add_marks": ("_marks", "_marks_step"),
    "add_scans": ("_marks", "_marks_step", "_index_step"),
    "add_index": ("_index_step",),
    "read_marks": ("_marks", "_reading"),
    "set_flag": ("_marks", "_reading"),
    "erase_marks": ("_marks",),
}


def source(name: str) -> str:
    """The text of a script as the server gets it: the comparison of epochs, then the step."""
    parts = ["_guard", *_SHARED.get(name, ()), name]
    return "".join((_LUA / f"{part}.lua").read_text() for part in parts)


def state_key(keys: Sequence[str]) -> str:
    """The state of the shard that the keys are in; of the first for a call without keys of its own."""
    if not keys:
        return "s:{0}"
    key = keys[0]
    return "s:" + key[key.index("{") : key.index("}") + 1]


class Scripts:
    """Calls scripts within one epoch.

    Each script is a merge, so a call may be repeated: after a broken connection, and while Redis is full
    (`on_full` hears of it; it refuses to grow, so the step waits until there is room, and nothing is lost).
    """

    def __init__(self, servers: Servers, on_full: OnFull) -> None:
        self._servers = servers
        self._on_full = on_full
        self._sources = {path.stem: source(path.stem) for path in sorted(_LUA.glob("[!_]*.lua"))}
        self._shas = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._sources.items()
        }
        self.epoch = ""
        self._waiting: list[tuple[Keyed, asyncio.Future[Any]]] = []
        self._trips: set[asyncio.Task[None]] = set()  # a task that nobody holds may vanish

    async def close(self) -> None:
        """Close the connections."""
        await self._servers.aclose()

    async def load(self) -> None:
        """Make them known to every server."""
        for redis in await self._servers.all():
            for text in self._sources.values():
                await redis.script_load(text)

    async def run(self, name: str, keys: Sequence[str], args: Iterable[Any]) -> Any:
        """One script's reply. Raises StoreLostError, redis.RedisError.

        What is asked for at the same moment leaves together: a matcher has dozens of venues at hand, and a
        trip of its own costs each several times what Redis does for it.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._leave)
        self._waiting.append((self._command(name, keys, args), reply))
        return await reply

    async def run_all(self, calls: Sequence[tuple[str, Sequence[str], list[Any]]]) -> list[Any]:
        """Several in one round trip; of one server in this order, as commands of one connection run in order,
        but for those that a full Redis refused at first. In a cluster each call is for the shard of its first
        key, and whichever comes first is done first."""
        replies = await self._replies([self._command(*call) for call in calls])
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if errors:
            raise next((error for error in errors if isinstance(error, StoreLostError)), errors[0])
        return replies

    def _command(self, name: str, keys: Sequence[str], args: Iterable[Any]) -> Keyed:
        state = state_key(keys)
        return state, ("EVALSHA", self._shas[name], len(keys) + 1, *keys, state, *args, self.epoch)

    def _leave(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _CALLS_A_TRIP):
            trip = asyncio.get_running_loop().create_task(self._trip(waiting[start : start + _CALLS_A_TRIP]))
            self._trips.add(trip)
            trip.add_done_callback(self._trips.discard)

    async def _trip(self, asked: Sequence[tuple[Keyed, asyncio.Future[Any]]]) -> None:
        try:
            replies = await self._replies([command for command, _ in asked])
        except asyncio.CancelledError:
            for _, reply in asked:
                reply.cancel()
            raise
        except Exception as error:
            for _, reply in asked:
                if not reply.done():  # whoever waited may be gone
                    reply.set_exception(error)
            return
        for (_, reply), found in zip(asked, replies, strict=True):
            if reply.done():
                continue
            if isinstance(found, Exception):
                reply.set_exception(found)
            else:
                reply.set_result(found)

    async def _replies(self, commands: Sequence[Keyed]) -> list[Any]:
        """The replies, errors of a command among them; repeated as long as Redis is full."""
        replies: list[Any] = [None] * len(commands)
        left: Sequence[int] = range(len(commands))
        full = False
        while True:
            for place, reply in zip(
                left, await self._servers.execute([commands[place] for place in left]), strict=True
            ):
                replies[place] = _lost(reply) or reply if isinstance(reply, Exception) else reply
            refused = [place for place in left if isinstance(replies[place], OutOfMemoryError)]
            unknown = [place for place in left if isinstance(replies[place], NoScriptError)]
            if full and not refused:
                log.warning("Redis has room again")
                self._on_full(False)
            if not refused and not unknown:
                return replies
            left = sorted(refused + unknown)
            if unknown:  # somebody flushed them
                await self.load()
            if refused:
                if not full:
                    log.error("Redis is full: waiting, nothing is dropped; give it more maxmemory")
                    self._on_full(True)
                await asyncio.sleep(_FULL_PAUSE_S)
            full = bool(refused)


def _lost(error: Exception) -> StoreLostError | None:
    words = str(error)
    return StoreLostError(f"Redis lost what it held: {words}") if words.startswith("STORELOST") else None
