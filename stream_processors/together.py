"""What waits while some work is under way is done as one.

A few pieces of work are under way at once, and what comes meanwhile waits and makes the next one (as a
database commits in groups): the more comes, the larger the pieces, and what a piece costs by itself is
shared.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    size: int
    done: asyncio.Future[Result]


class Together(Generic[Item, Result]):
    """Does up to `places` pieces of work at once, of items in the order in which they came; a piece ends
    before it would exceed `most` in size, and has one item at least.

    `work` is given the items of a piece and returns a result for each; what it raises, every one of them
    raises.
    """

    def __init__(
        self, work: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], places: int, most: int
    ) -> None:
        self._work = work
        self._places = places
        self._most = most
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._pieces: set[asyncio.Task[None]] = set()
        self.size = 0  # of what waits
        self.last = 0  # the size of the piece begun last

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    @property
    def under_way(self) -> int:
        """How many pieces are under way."""
        return len(self._pieces)

    def add(self, item: Item, size: int) -> asyncio.Future[Result]:
        """Let an item wait; nothing is begun."""
        own = _Waiting[Item, Result](item, size, asyncio.get_running_loop().create_future())
        self._waiting.append(own)
        self.size += size
        return own.done

    def ready(self) -> bool:
        """Whether what waits is worth a piece now; there is something, and a place for it."""
        return True

    def begin(self) -> None:
        """Begin with what is ready."""
        while self._waiting and len(self._pieces) < self._places and self.ready():
            piece = asyncio.get_running_loop().create_task(self._do(self._next()))
            self._pieces.add(piece)
            piece.add_done_callback(self._ended)

    def _ended(self, piece: asyncio.Task[None]) -> None:
        self._pieces.discard(piece)
        self.begin()

    def _next(self) -> list[_Waiting[Item, Result]]:
        """Those that have waited longest."""
        taken, size = list[_Waiting[Item, Result]](), 0
        while self._waiting and (not taken or size + self._waiting[0].size <= self._most):
            one = self._waiting.popleft()
            taken.append(one)
            size += one.size
        self.size -= size
        self.last = size
        return taken

    async def _do(self, taken: Sequence[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._work([one.item for one in taken])
        except Exception as error:
            for one in taken:
                if not one.done.done():  # whoever waited may be gone
                    one.done.set_exception(error)
        except BaseException:
            for one in taken:
                one.done.cancel()
            raise
        else:
            for one, result in zip(taken, results, strict=True):
                if not one.done.done():
                    one.done.set_result(result)
