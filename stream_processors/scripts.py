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


# The scripts that begin with a part of their own that they share.
_SHARED: Final = {"set_person_case": "_index", "erase_index": "_index"}


def source(name: str) -> str:
    """The text of a script as the server gets it: the comparison of epochs, then the step."""
    parts = ["_guard", *([_SHARED[name]] if name in _SHARED else []), name]
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

    async def close(self) -> None:
        """Close the connections."""
        await self._servers.aclose()

    async def load(self) -> None:
        """Make them known to every server."""
        for redis in await self._servers.all():
            for text in self._sources.values():
                await redis.script_load(text)

    async def run(self, name: str, keys: Sequence[str], args: Iterable[Any]) -> Any:
        """One script's reply. Raises StoreLostError, redis.RedisError."""
        (reply,) = await self.run_all([(name, keys, list(args))])
        return reply

    async def run_all(self, calls: Sequence[tuple[str, Sequence[str], list[Any]]]) -> list[Any]:
        """Several in one round trip; of one server in this order, as commands of one connection run in order.
        In a cluster each call is for the shard of its first key, and whichever comes first is done first."""
        commands: list[Keyed] = []
        for name, keys, args in calls:
            state = state_key(keys)
            commands.append(
                (state, ("EVALSHA", self._shas[name], len(keys) + 1, *keys, state, *args, self.epoch))
            )
        full = False
        while True:
            replies = await self._servers.execute(commands)
            errors = [reply for reply in replies if isinstance(reply, Exception)]
            if not errors:
                if full:
                    log.warning("Redis has room again")
                    self._on_full(False)
                return replies
            if any(isinstance(error, OutOfMemoryError) for error in errors):
                if not full:
                    log.error("Redis is full: waiting, nothing is dropped; give it more maxmemory")
                    self._on_full(True)
                full = True
                await asyncio.sleep(_FULL_PAUSE_S)
            elif any(isinstance(error, NoScriptError) for error in errors):  # somebody flushed them
                await self.load()
            else:
                raise next((lost for lost in map(_lost, errors) if lost), errors[0])


def _lost(error: Exception) -> StoreLostError | None:
    words = str(error)
    return StoreLostError(f"Redis lost what it held: {words}") if words.startswith("STORELOST") else None
