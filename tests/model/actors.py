"""The roles' own coroutines, stopped at every call to Redis and every write to Kafka.

A coroutine cannot be copied, so an actor is what it was started with and every answer that it was given:
it is run again from the start with those answers, up to its next question. Each (start, answers) is run
once and remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from schemas.events import Venue
from stream_processors.cases import CaseRecord, Cases, CaseTopics
from stream_processors.ingest import Ingest, IngestTopics
from stream_processors.layout import Layout
from stream_processors.matcher import Matcher, MatcherTopics
from stream_processors.metrics import Metrics
from stream_processors.outputs import Out, PublishError
from stream_processors.records import Record, Records
from stream_processors.store import Store
from stream_processors.touches import read_touches
from stream_processors.venues import Register
from tests.model.scripts import thawed

RETENTION_DAYS: Final = 30
# In a cluster the two steps of a scan are always two calls: others come in between.
_LAYOUT: Final = Layout(shards=1, retention_days=RETENTION_DAYS, split=True)
_METRICS: Final = Metrics()

SCRIPT, PUBLISH, OWN, FRESH = "script", "publish", "own", "fresh"
FENCED: Final = "fenced"


@dataclass(frozen=True, slots=True)
class Ask:
    """What an actor wants next: a script (name, keys, args), a write (records), ownership, the register as it
    is now."""

    kind: str
    what: tuple[Any, ...]


class ActorError(Exception):
    """A role ended with an error that no answer explains: wrong in every world."""


DONE: Final = Ask("done", ())
DEAD: Final = Ask("dead", ())


class Port:
    """The boundary of an actor: answers what is known, and stops at the first question that is not."""

    def __init__(self, replies: Sequence[Any]) -> None:
        self._replies = list(reversed(replies))
        self.next: asyncio.Future[Ask] = asyncio.get_running_loop().create_future()

    async def ask(self, kind: str, *what: Any) -> Any:
        if self._replies:
            reply = self._replies.pop()
            if reply == FENCED:
                raise PublishError(FENCED)
            return thawed(reply)
        if not self.next.done():
            self.next.set_result(Ask(kind, what))
        return await asyncio.get_running_loop().create_future()


class _Scripts:
    """In the place of stream_processors.scripts.Scripts."""

    def __init__(self, port: Port) -> None:
        self._port = port

    async def run(self, name: str, keys: Sequence[str], args: Any) -> Any:
        return await self._port.ask(SCRIPT, name, tuple(keys), tuple(args))

    async def run_all(self, calls: Sequence[tuple[str, Sequence[str], list[Any]]]) -> list[Any]:
        # one round trip, but others' calls may come between any two of them
        return [await self.run(*call) for call in calls]


class _Producer:
    """In the place of both producers."""

    def __init__(self, port: Port) -> None:
        self._port = port

    async def send(self, records: Sequence[Out]) -> None:
        if records:
            await self._port.ask(PUBLISH, *((out.topic, out.key, out.value) for out in records))

    async def begin_ownership(self) -> None:
        await self._port.ask(OWN)


# Which register a process knows, and whether it is one that changes: else looking at it is no step.
Known = tuple[int, bool]
STILL: Final[Known] = (0, False)


class _Venues:
    """In the place of the VenueTable: a register that changes only when it is looked at."""

    def __init__(self, port: Port, registers: Sequence[Register], known: Known) -> None:
        self._port = port
        self._registers = registers
        number, self._changes = known
        self.register = registers[number]

    async def fresh(self) -> None:
        if self._changes:
            self.register = self._registers[await self._port.ask(FRESH)]

    async def look(self, seen: int) -> bool:
        return False

    async def get(self, code: str) -> Venue | None:
        return self.register.get(code)

    async def descendants(self, code: str) -> set[str]:
        await self.fresh()
        return self.register.descendants(code)


async def _directly(call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    return await call(*args)


@contextmanager
def _no_threads() -> Iterator[None]:
    original = asyncio.to_thread
    asyncio.to_thread = _directly  # type: ignore[assignment]
    try:
        yield
    finally:
        asyncio.to_thread = original


@dataclass
class Actors:
    """Makes the actors of one world. The classes can be replaced by unsafe ones.

    `registers`: the venues, in each state that a world may put them in.
    """

    registers: Sequence[Sequence[Venue]]
    now_ms: int
    ingest: type[Ingest] = Ingest
    cases: type[Cases] = Cases
    matcher: type[Matcher] = Matcher
    store: type[Store] = Store
    layout: Layout = _LAYOUT
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __post_init__(self) -> None:
        self._registers = [Register(venues) for venues in self.registers]

    def _parts(self, port: Port, known: Known) -> dict[str, Any]:
        store = self.store.__new__(self.store)
        store.layout = self.layout
        store._scripts = cast(Any, _Scripts(port))
        store._whole = asyncio.Semaphore()
        return {
            "store": store,
            "venues": _Venues(port, self._registers, known),
            "clock_ms": lambda: self.now_ms,
            "metrics": _METRICS,
        }

    def scan(self, port: Port, value: bytes, known: Known) -> Coroutine[Any, Any, None]:
        names = IngestTopics("scans", "visits", "touched", "scans.rejected")
        parts = self._parts(port, known) | {"producer": _Producer(port), "topics": names}
        role = self.ingest(retention_days=RETENTION_DAYS, **parts)
        return role.process(Records.of([Record(value, 0, self.now_ms)]))

    def _cases(self, port: Port, known: Known) -> Cases:
        names = CaseTopics("cases", "touched", "cases.rejected")
        return self.cases(**self._parts(port, known), producer=cast(Any, _Producer(port)), topics=names)

    def case(self, port: Port, key: bytes, value: bytes, known: Known) -> Coroutine[Any, Any, None]:
        return self._cases(port, known).process([CaseRecord(key, value, 0, 0, self.now_ms)])

    def moved(self, port: Port, code: str, known: Known) -> Coroutine[Any, Any, int]:
        return self._cases(port, known).moved([code])

    def match(
        self, port: Port, owned: bool, values: tuple[bytes, ...], known: Known
    ) -> Coroutine[Any, Any, None]:
        names = MatcherTopics("touched", "exposures", "venue-warnings")
        producer = cast(Any, _Producer(port))
        parts = self._parts(port, known) | {"producer_for": lambda _: producer, "topics": names}
        role = self.matcher(**parts)
        if owned:
            role._producers[0] = producer
        return role.process(0, [touch for value in values for touch in read_touches(value)])

    def next_ask(self, start: tuple[Any, ...], replies: Sequence[Any]) -> Ask:
        """What the actor asks after these answers; DONE, or DEAD when one of them ended it."""
        with _no_threads():
            return self._loop.run_until_complete(self._advance(start, replies))

    async def _advance(self, start: tuple[Any, ...], replies: Sequence[Any]) -> Ask:
        port = Port(replies)
        work = getattr(self, start[0])(port, *start[1:])
        task = asyncio.get_running_loop().create_task(work)
        await asyncio.wait([task, port.next], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            tasks = asyncio.all_tasks() - {cast(Any, asyncio.current_task())}  # an actor may have several
            for each in tasks:
                each.cancel()
            await asyncio.wait(tasks)
            return port.next.result()
        if isinstance(task.exception(), PublishError):
            return DEAD
        error = task.exception()
        if isinstance(error, (AttributeError, NameError, TypeError)):
            raise error  # a mistake of the program, which says nothing about the protocol
        if error:
            raise ActorError(f"{start[0]}: {error!r}") from error
        return DONE


class Tree:
    """Every actor in every situation that was met: a node is a start and the answers since."""

    def __init__(self, actors: Actors) -> None:
        self._actors = actors
        self._nodes: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = []
        self._asks: list[Ask | None] = []
        self._attempts: list[int] = []
        self._children: dict[tuple[int, Any], int] = {}
        self._roots: dict[tuple[Any, ...], int] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def _new(self, start: tuple[Any, ...], replies: tuple[Any, ...], attempts: int) -> int:
        self._nodes.append((start, replies))
        self._asks.append(None)
        self._attempts.append(attempts)
        return len(self._nodes) - 1

    def root(self, start: tuple[Any, ...]) -> int:
        """The node of an actor that was just started."""
        if start not in self._roots:
            self._roots[start] = self._new(start, (), 0)
        return self._roots[start]

    def child(self, node: int, reply: Any) -> int:
        """The node after one more answer."""
        at = (node, reply)
        if at not in self._children:
            start, replies = self._nodes[node]
            ask = self.ask(node)
            attempts = self._attempts[node] + (ask.kind == SCRIPT and ask.what[0] == "set_flag")
            self._children[at] = self._new(start, (*replies, reply), attempts)
        return self._children[at]

    def answered(self, node: int) -> int:
        """How many answers an actor in this situation has had."""
        return len(self._nodes[node][1])

    def attempts(self, node: int) -> int:
        """How often a matcher in this situation has begun to match anything."""
        return self._attempts[node]

    def ask(self, node: int) -> Ask:
        """What the actor in this situation asks."""
        found = self._asks[node]
        if found is None:
            found = self._asks[node] = self._actors.next_ask(*self._nodes[node])
        return found
