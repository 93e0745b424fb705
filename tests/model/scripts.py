"""The real scripts on a real Redis, from any state: a function of state and arguments, remembered.

A state is seven parts, one for each family of keys (`v`, `p`, `c`, `w`, `k`, `f`, `e`); each part is
interned, so that states compare and hash as small tuples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import redis

from stream_processors.scripts import source

FAMILIES: Final = "bpcwkfe"
# The keys that each script may touch. One that touches another finds it empty, and is found out.
TOUCHES: Final[Mapping[str, str]] = {
    "add_marks": "bf",
    "add_index": "pcw",
    "add_scans": "bfpcw",
    "set_case": "k",
    "set_person_case": "cwp",
    "add_case_venues": "k",
    "set_flag": "feb",
    "read_marks": "b",
    "write_pending": "e",
    "clear_pending": "e",
}
EPOCH: Final = "model"
_DUMP: Final = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
    local family, fields = string.sub(key, 1, 1), nil
    if family == 'p' then
        fields = { '', table.concat(redis.call('LRANGE', key, 0, -1)) }
    elseif family == 'w' then
        fields = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    elseif family ~= 's' then
        fields = redis.call('HGETALL', key)
    end
    if fields then found[#found + 1] = { key, fields } end
end
return found
"""

Part = frozenset[tuple[str, bytes, bytes]]  # key, field, value
State = tuple[int, ...]  # an interned part for each family
EMPTY: Final[State] = (0,) * len(FAMILIES)


_ENTRY: Final = {"p": 16, "b": 13}  # bytes


def _in_order(family: str, entries: bytes) -> bytes:
    """Entries of an index or a bucket: in whichever order, however often one is there, they say the same."""
    size = _ENTRY.get(family)
    if size is None:
        return entries
    return b"".join(sorted({entries[at : at + size] for at in range(0, len(entries), size)}))


def frozen(reply: Any) -> Any:
    """A reply that can be compared and hashed."""
    return tuple(map(frozen, reply)) if isinstance(reply, list) else reply


def thawed(reply: Any) -> Any:
    """What the code expects: lists."""
    return list(map(thawed, reply)) if isinstance(reply, tuple) else reply


class Scripts:
    """Executes scripts. `sources` replaces some of them by other text (an unsafe protocol)."""

    def __init__(self, client: redis.Redis, sources: Mapping[str, str] | None = None) -> None:
        self._client = client
        self._sources = {name: source(name) for name in TOUCHES} | dict(sources or {})
        self._shas = {name: client.script_load(text) for name, text in self._sources.items()}
        self._dump = client.script_load(_DUMP)
        self._parts: list[Part] = [frozenset()]
        self._ids: dict[Part, int] = {frozenset(): 0}
        self._calm: dict[int, int] = {}
        self._known: dict[Any, tuple[Any, tuple[int, ...]]] = {}

    @property
    def executed(self) -> int:
        """How many different calls the real Redis has answered."""
        return len(self._known)

    def names(self) -> set[str]:
        """Which scripts were called."""
        return {name for name, *_ in self._known}

    def run(self, state: State, name: str, keys: tuple[str, ...], args: tuple[Any, ...]) -> tuple[Any, State]:
        """The reply, and the state after it."""
        families = TOUCHES[name]
        places = [FAMILIES.index(family) for family in families]
        asked = (name, keys, args, tuple(state[place] for place in places))
        known = self._known.get(asked)
        if known is None:
            known = self._known[asked] = self._execute(state, families, name, keys, args)
        after = list(state)
        for place, part in zip(places, known[1], strict=True):
            after[place] = part
        return known[0], tuple(after)

    def _execute(
        self, state: State, families: str, name: str, keys: tuple[str, ...], args: tuple[Any, ...]
    ) -> tuple[Any, tuple[int, ...]]:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.flushdb()
        pipeline.hset("s:{0}", "epoch", EPOCH)
        before = [self._parts[state[FAMILIES.index(family)]] for family in families]
        for part in before:
            for key, field, value in part:
                if key[0] == "p":
                    pipeline.rpush(key, value)
                elif key[0] == "w":
                    pipeline.zadd(key, {field: float(value)})
                else:
                    pipeline.hset(key, field, value)
        pipeline.evalsha(self._shas[name], len(keys) + 1, *keys, "s:{0}", *args, EPOCH)
        pipeline.evalsha(self._dump, 0)
        *_, reply, dump = pipeline.execute()
        after: dict[str, set[tuple[str, bytes, bytes]]] = {family: set() for family in families}
        for raw, fields in dump:
            key = raw.decode()
            for field, value in zip(fields[::2], fields[1::2], strict=True):
                after[key[0]].add((key, field, _in_order(key[0], value)))
        return frozen(reply), tuple(self._intern(frozenset(after[family])) for family in families)

    def at_rest(self, state: State) -> State:
        """The same state with every counter of attempts at 0: when nobody is between reading a counter and
        comparing it, its value means nothing, and states that differ by it are one."""
        place = FAMILIES.index("e")
        part = state[place]
        if part not in self._calm:
            calm = frozenset(each for each in self._parts[part] if each[1] != b"n")
            self._calm[part] = self._intern(calm)
        return (*state[:place], self._calm[part], *state[place + 1 :])

    def _intern(self, part: Part) -> int:
        if part not in self._ids:
            self._ids[part] = len(self._parts)
            self._parts.append(part)
        return self._ids[part]
