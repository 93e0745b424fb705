"""Requests that come at the same time share a record, a lock and a wake-up.

The publisher answers from its own thread. To wake the event loop for every request costs more than the
request itself; so the scans of a few milliseconds are handed over together, and answered together. What
becomes of a group becomes of each of its requests: a client of a group that failed posts again, as after any
503, and a scan that comes twice is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from producers.publisher import ClosedError, Publisher, QueueFullError
from schemas.events import MAX_SCANS_PER_RECORD

# How long the first scan of a group waits for others: far below what a person at a gate notices.
TOGETHER_S: Final = 0.005


@dataclass(slots=True)
class _Group:
    """The scans of several requests, and who waits for them."""

    loop: asyncio.AbstractEventLoop
    scans: list[bytes] = field(default_factory=list)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    sent: bool = False

    def settle(self, error: BaseException | None) -> None:
        """Answer everybody; who has given up is let be."""
        for waiter in self.waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:  # one each: a traceback would grow with everybody who raises it
                waiter.set_exception(type(error)(*error.args))


class Together:
    """Hands over to a publisher what arrives within `together_s`. Used from the thread of one event loop."""

    def __init__(self, publisher: Publisher, together_s: float = TOGETHER_S) -> None:
        self._publisher = publisher
        self._together_s = together_s
        self._open: _Group | None = None

    def publish(self, scans: Sequence[bytes]) -> asyncio.Future[None]:
        """Take scans; done when Kafka has acknowledged all of them.

        The future has QueueFullError, NotDeliveredError or ClosedError otherwise.
        """
        loop = asyncio.get_running_loop()
        group = self._open
        if group is None or group.loop is not loop:
            group = self._open = _Group(loop)
            loop.call_later(self._together_s, self._send, group)
        waiter: asyncio.Future[None] = loop.create_future()
        group.scans += scans
        group.waiters.append(waiter)
        if len(group.scans) >= MAX_SCANS_PER_RECORD:
            self._send(group)
        return waiter

    def _send(self, group: _Group) -> None:
        if group.sent:
            return
        group.sent = True
        if self._open is group:
            self._open = None
        try:
            future = self._publisher.submit(group.scans)
        except (QueueFullError, ClosedError) as error:
            group.settle(error)
            return

        def answered(done: Future[None]) -> None:
            if not group.loop.is_closed():  # else nobody waits any more
                group.loop.call_soon_threadsafe(group.settle, done.exception())

        future.add_done_callback(answered)
