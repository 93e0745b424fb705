"""A Faust transport that delivers chunks: one message for many Kafka records of a partition.

Faust's cost is per message, so a message here is a chunk: its value is the records by column, its offset the
last one's. What has to hold, and how it does:

- An offset is committed only when every chunk delivered before it on that partition is acknowledged.
  Chunks of a partition wait in a queue in the order of delivery; only an acknowledged head leaves it.
  Acknowledgements may come in any order.
- Gaps between offsets (transaction markers, what compaction took) mean nothing: a chunk covers them. So
  Faust's own bookkeeping of gaps is switched off.
- A seek or a rebalance empties the queue: what was delivered before is delivered again, from the committed
  offset, and an acknowledgement that comes late from before has no effect. A chunk that is no longer in the
  queue is `stale`: whoever has not begun with it need not.
- Before an offset is committed, the app is told (`ChunkApp.committing`): what the offset vouches for can be
  written down elsewhere first.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from stream_processors.batches import fetch_columns
from stream_processors.records import Records

# A chunk of about 3,500 single scans, or of 36 packed records of 100: the more, the more of them are of the
# same venues, and what is done a venue is done less often; but few enough that some dozens are bounded
# memory.
CHUNK_BYTES: Final = 512 * 1024
CHUNK_RECORDS: Final = 4_000


def cut_chunks(
    records: Records, max_records: int = CHUNK_RECORDS, max_bytes: int = CHUNK_BYTES
) -> Iterator[Records]:
    """Runs of records within both bounds; a record larger than `max_bytes` is a chunk by itself."""
    ends = list(accumulate(len(value or b"") for value in records.values))
    start = done = 0
    while start < len(records):
        end = min(bisect_right(ends, done + max_bytes, start), start + max_records)
        end = max(end, start + 1)
        yield records[start:end]
        start, done = end, ends[end - 1]


@dataclass(frozen=True, slots=True)
class Fetching:
    """How long the broker may hold a fetch back, until it has so many bytes for it."""

    # A fetch that left out a partition, because its last records were not taken yet, keeps that partition
    # waiting until it is answered: an alert stood for up to the 1,500 ms that Faust asks for.
    wait_ms: int = 100
    min_bytes: int = 1


# Bytes of values a second from which fetches bring company anyway: some 2,000 scans.
_BUSY_RATE: Final = 300_000
# What that is judged by: longer than most pauses of a busy machine. Who comes alone right after a crowd waits
# as the crowd did, for twice this at most.
_PACE_S: Final = 0.25


# Of the time, the part in which chunks are under way: above the one a worker has hardly time to spare, and
# larger chunks save it some; below the other it has, whatever they are. Smaller chunks take more in all,
# so nearer to each other they would change places for ever. (A chunk waits for Redis and Kafka most of its
# time: a worker that keeps up with ease has one under way for half of it.)
_PRESSED_SHARE: Final = 0.95
_EASY_SHARE: Final = 0.75


class Pace:
    """Which way to fetch holds: `calm` while few come; while much comes, `busy`, and `pressed` when that
    leaves the worker hardly any time to spare.

    What a chunk costs by itself is shared by the records of one fetch. A lone record should not wait for
    company; of thousands a second each waits a little, and all are done sooner. Seconds are monotonic.
    """

    def __init__(self, calm: Fetching, busy: Fetching, pressed: Fetching) -> None:
        self.calm = calm
        self.busy = busy
        self.pressed = pressed
        self._size = 0
        self._since: float | None = None
        self._hard = False
        self._under_way = 0
        self._working_since = self._worked = 0.0

    def begun(self, now_s: float) -> None:
        """A chunk is under way."""
        if not self._under_way:
            self._working_since = now_s
        self._under_way += 1

    def done(self, now_s: float) -> None:
        """One less."""
        self._under_way -= 1
        if not self._under_way:
            self._worked += now_s - self._working_since

    def heard(self, size: int, now_s: float) -> Fetching | None:
        """A fetch brought so many bytes of values, or none. Returns how to fetch from now on; None: as
        before."""
        if self._since is None:
            self._begin(now_s)
            self._size = size
            return None
        self._size += size
        past = now_s - self._since
        if past < _PACE_S:
            return None
        fast = self._size >= _BUSY_RATE * past
        worked = self._worked + (now_s - self._working_since if self._under_way else 0.0)
        self._hard = worked > (_EASY_SHARE if self._hard else _PRESSED_SHARE) * past
        self._begin(now_s)
        if not fast:
            return self.calm
        return self.pressed if self._hard else self.busy

    def _begin(self, now_s: float) -> None:
        """What is counted from now on."""
        self._size, self._since = 0, now_s
        self._worked, self._working_since = 0.0, now_s


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's own, with the app's way of fetching: no setting of Faust's reaches it."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        _set_fetching(consumer, self.consumer.app.pace.calm)
        return consumer

    def fetch_as(self, fetching: Fetching) -> None:
        """From the next fetch on."""
        # the fetcher read its options once, when the consumer started; there is none before
        fetcher = getattr(self._consumer, "_fetcher", None)
        if fetcher is not None:
            _set_fetching(fetcher, fetching)


def _set_fetching(client: Any, fetching: Fetching) -> None:
    client._fetch_max_wait_ms = fetching.wait_ms
    client._fetch_min_bytes = fetching.min_bytes


class ChunkConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's aiokafka consumer, delivering chunks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._delivered: dict[TP, deque[Any]] = {}
        self._uncommitted: dict[TP, int] = {}  # acknowledged, and not known to be committed

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109
        """Fetch, and yield a message a chunk, the partitions in turn."""
        fetched, active = await self._wait_next_records(timeout)
        size = sum(batch.size for batches in (fetched or {}).values() for batch in batches)
        if (fetching := self.app.pace.heard(size, time.monotonic())) is not None:
            self._thread.fetch_as(fetching)
        generation = self.app.consumer_generation_id
        # a fetch that was under way at the end finds the flow stopped, as in a rebalance; but nothing is read
        # again then, and a seek would forget what is acknowledged and not committed yet
        if fetched is None or self.should_stop or self.app.should_stop:
            return
        if not self.flow_active:
            # a rebalance began while the fetch was under way: what it brought is fetched again
            # the recovery after the rebalance seeks again, so a failure here (nothing assigned any more)
            # must not end the worker
            try:
                await self.perform_seek()
            except Exception as error:
                self.log.warning("seek during a rebalance: %r", error)
            return
        waiting = [(tp, cut_chunks(Records.joined(batches))) for tp, batches in fetched.items() if batches]
        while waiting:
            still: list[tuple[TP, Iterator[Records]]] = []
            for tp, chunks in waiting:
                chunk = next(chunks, None)
                if chunk is None:
                    continue
                still.append((tp, chunks))
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                if active is not None and tp not in active and tp not in self._buffered_partitions:
                    continue
                message = self._to_message(tp, chunk)
                self._delivered.setdefault(tp, deque()).append(message)
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                yield tp, message
            waiting = still

    def _to_message(self, tp: TP, record: Records) -> Any:
        """A chunk as Faust's message."""
        generation = self.app.consumer_generation_id
        offset, timestamp_s = record.offsets[-1], record.timestamps[-1] / 1000
        return ConsumerMessage(
            *(tp.topic, tp.partition, offset, timestamp_s, 0, None, None, record, None),
            tp=tp,
            generation_id=generation,
        )

    async def perform_seek(self) -> None:
        """Back to the committed offsets; what is under way does not count any more.

        A partition that was never committed goes back to its beginning: Faust leaves it where the last
        fetch ended, and what that fetch brought would be lost if a rebalance threw it away.
        """
        self._delivered.clear()
        self._uncommitted.clear()
        await super().perform_seek()
        fresh = [tp for tp in self.assignment() if self._committed_offset.get(tp) is None]
        if fresh:
            await self._thread.seek_to_beginning(*map(driver.ensure_aiokafka_TP, fresh))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget what was delivered of the partitions."""
        for tp in revoked:
            self._delivered.pop(tp, None)
            self._uncommitted.pop(tp, None)
        await super().on_partitions_revoked(revoked)

    async def commit_and_end_transactions(self) -> None:
        """The last commit, at the end and before partitions go: all that is acknowledged by now. Faust's own
        only waits for one that is under way, which began before the last chunks were done."""
        await self.maybe_wait_for_commit_to_finish()
        await super().commit_and_end_transactions()

    def stale(self, message: Any) -> bool:
        """Whether a chunk was delivered before a seek or a rebalance: it comes again, here or elsewhere."""
        queue = self._delivered.get(message.tp, ())
        return not any(each is message for each in queue)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Gaps need no bookkeeping here."""

    def _new_offset(self, tp: TP) -> int | None:
        """What can be committed: one past the last chunk of the acknowledged head of the queue."""
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        queue = self._delivered.get(tp, ())
        while queue and queue[0].acked:
            self._uncommitted[tp] = queue.popleft().offset + 1
        # a commit that failed is tried again, also when nothing more is acknowledged
        return self._uncommitted.get(tp)

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        if not await self.app.committing({tp.partition: offset for tp, offset in offsets.items()}):
            return False
        done: bool = await super()._commit_offsets(offsets, start_new_transaction)
        if done:
            for tp, offset in offsets.items():
                if self._uncommitted.get(tp) == offset:
                    del self._uncommitted[tp]
        return done


class ChunkTransport(driver.Transport):  # type: ignore[misc]
    """The aiokafka transport with chunks."""

    Consumer = ChunkConsumer


class ChunkApp(faust.App):  # type: ignore[misc]
    """A Faust app whose agents are given chunks, with something to open before the first of them."""

    pace: Pace
    opening: Callable[[], Awaitable[None]]
    closing: Callable[[], Awaitable[None]]
    committing: Callable[[Mapping[int, int]], Awaitable[bool]]  # partition → next offset; whether to commit
    draining: Callable[[], Awaitable[None]]
    failing: Callable[[], None]  # the app fails, whichever of its parts began it; may be called again

    def _new_transport(self) -> ChunkTransport:
        fetch_columns()
        return ChunkTransport(self.conf.broker_consumer, self, loop=self.loop)

    def _crash(self, reason: BaseException) -> None:
        self.failing()
        super()._crash(reason)

    async def on_start(self) -> None:
        """Open before the consumer starts."""
        await super().on_start()
        await self.opening()

    async def _stop_consumer(self) -> None:
        """Take no more, finish what is under way; the last commit follows."""
        await super()._stop_consumer()
        await self.draining()

    async def on_shutdown(self) -> None:
        """Close after the consumer has stopped."""
        await super().on_shutdown()
        await self.closing()
