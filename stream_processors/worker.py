"""A processor role as a Faust worker: manual acknowledgement, crash on an unexpected error, never skip."""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

import faust
from faust.worker import Worker
from mode.supervisors import CrashingSupervisor

from schemas.settings import Settings
from stream_processors.balance import BalancedAssignor
from stream_processors.chunks import ChunkApp, Fetching, Pace
from stream_processors.metrics import Metrics
from stream_processors.records import Records

log: Final = logging.getLogger(__name__)

# A worker that fails must be gone soon after, even when its shutdown hangs: Kafka redelivers to the next.
_GIVE_UP_STOPPING_S: Final = 10.0
# At SIGTERM, what is under way may finish for so long: with the commit and the close it stays well under the
# session time-out (20 s) and the time after which a supervisor kills. What does not finish comes again.
_DRAIN_S: Final = 5.0
# The loop shows every second that it goes round; after so many without, /healthz says that the worker hangs.
# The longest piece of work without an await is parsing a chunk (some 50 ms).
_BEAT_S: Final = 1.0
_HANGS_S: Final = 30.0


class Role:
    """What a worker runs: set up once Kafka is there, then a coroutine a chunk.

    `limit`: how many chunks may be under way at once; 1 keeps a partition's chunks in order. How to fetch, if
    not as always: `busy` while much comes, `pressed` while that leaves hardly any time to spare.
    """

    name: str
    topic: str
    limit: int = 1
    fetching: Fetching = Fetching()
    busy: Fetching | None = None
    pressed: Fetching | None = None
    # Ends the worker: for what a role notices beside its chunks. Set before `start`.
    fail: Callable[[BaseException], None]

    async def start(self) -> None:
        """Connect, load what is needed before the first chunk."""
        raise NotImplementedError

    async def process(self, partition: int, records: Records, stale: Callable[[], bool]) -> None:
        """Do everything that a chunk asks for; return when it is durable.

        `stale` tells whether the partition went elsewhere, or is delivered again, since the chunk was: then
        the rest may be left undone.
        """
        raise NotImplementedError

    async def committing(self, offsets: Mapping[int, int]) -> None:
        """These next offsets, by partition, are about to be committed. Raising ends the worker instead."""

    async def assigned(self, partitions: set[int], ours: Callable[[int], bool]) -> None:
        """Partitions of the topic are ours from now on, as long as `ours` says so; runs beside their first
        chunks."""

    def revoked(self, partitions: set[int]) -> None:
        """Partitions are no longer ours."""

    async def stop(self) -> None:
        """Close what `start` opened."""
        raise NotImplementedError


def _new_app(settings: Settings, role: Role, worker: int) -> ChunkApp:
    group = settings.group(role.name)
    # Faust wants a folder, and keeps nothing in it that anybody needs
    folder = tempfile.mkdtemp(prefix=f"{group}-{worker}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return ChunkApp(
        group,
        broker=[f"kafka://{address}" for address in settings.kafka_address.split(",")],
        key_serializer="raw",
        value_serializer="raw",
        datadir=folder,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_wait_empty=False,
        stream_buffer_maxsize=32,
        agent_supervisor=CrashingSupervisor,
        PartitionAssignor=BalancedAssignor,  # Faust asks it as long as table_standby_replicas is not 0
        consumer_auto_offset_reset="earliest",
        # a restarted worker takes its old place at once instead of waiting for the session to end
        consumer_group_instance_id=f"{group}-{worker}",
        broker_commit_interval=0.5,
        broker_session_timeout=20.0,
        broker_heartbeat_interval=3.0,
        broker_request_timeout=30.0,
        producer_request_timeout=30.0,
        broker_max_poll_interval=120.0,
    )


class Heart:
    """Whether the loop goes round: it beats there, and is asked from another thread. Seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beaten = clock()

    async def beat(self) -> None:
        """For as long as the loop lives."""
        while True:
            self._beaten = self._clock()
            await asyncio.sleep(_BEAT_S)

    def trouble(self) -> str | None:
        """What /healthz has to say."""
        still = self._clock() - self._beaten
        return f"the worker hangs: its loop has stood for {still:.0f} s" if still > _HANGS_S else None


class Deadline:
    """Ends the process (exit code 1) some seconds after its first `start`, whatever it waits for by then.

    A thread, not a timer of the event loop: that one is closed before Python waits for a thread that is in a
    call of the Kafka client, and nobody would be left to end it.
    """

    def __init__(self, seconds: float = _GIVE_UP_STOPPING_S) -> None:
        self._timer = threading.Timer(seconds, os._exit, (1,))
        self._timer.daemon = True
        self._once = threading.Lock()

    def start(self) -> None:
        """Begin to count; again: nothing."""
        if self._once.acquire(blocking=False):
            self._timer.start()


class _Running:
    """The chunks of a role that are under way, and what ends the worker."""

    def __init__(self, app: ChunkApp, role: Role, metrics: Metrics, heart: Heart) -> None:
        self._app = app
        self._role = role
        self._metrics = metrics
        self._heart = heart
        self._slots = asyncio.Semaphore(role.limit)
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    async def open(self) -> None:
        """Before the consumer starts."""
        beating = asyncio.get_running_loop().create_task(self._heart.beat())
        self._beating = beating  # else nothing holds it
        await self._role.start()

    async def take(self, stream: Any) -> None:
        """The agent: begin with each chunk as soon as there is a slot for it."""
        async for event in stream.noack().events():
            await self._slots.acquire()
            if self._draining:  # what is not begun comes again, and is not waited for
                self._slots.release()
                return
            self._begin(self._handle(event))

    async def _handle(self, event: Any) -> None:
        began, message = time.monotonic(), event.message
        self._app.pace.begun(began)
        try:
            await self._role.process(
                message.partition, message.value, lambda: bool(self._app.consumer.stale(message))
            )
            event.ack()
        except BaseException as error:  # a chunk that was cancelled is not done either
            self.crash(error)
        finally:
            self._slots.release()
            self._app.pace.done(time.monotonic())
        self._metrics.chunk_seconds.observe(time.monotonic() - began)
        self._metrics.progress.set_to_current_time()

    async def committing(self, offsets: Mapping[int, int]) -> bool:
        """Whether these offsets may be committed."""
        try:
            await self._role.committing(offsets)
        except Exception as error:
            self.crash(error)
            return False
        return True

    async def drain(self) -> None:
        """Begin with no more, and let what is under way finish, for a bounded time."""
        self._draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_DRAIN_S)

    def assigned(self, _: Any, assigned: Iterable[Any], **__: Any) -> None:
        """Tell the role of its partitions, beside their first chunks."""
        self._begin(self._take_over({tp.partition for tp in assigned}))

    def revoked(self, _: Any, revoked: Iterable[Any], **__: Any) -> None:
        """Tell the role what is no longer its own."""
        self._role.revoked({tp.partition for tp in revoked})

    async def _take_over(self, partitions: set[int]) -> None:
        try:
            await self._role.assigned(partitions, self._ours)
        except Exception as error:
            self.crash(error)

    def _ours(self, partition: int) -> bool:
        assignment = {(tp.topic, tp.partition) for tp in self._app.consumer.assignment()}
        return (self._role.topic, partition) in assignment

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def crash(self, error: BaseException) -> None:
        """End the worker: what is not acknowledged is delivered again, here or elsewhere."""
        if self._app.should_stop:
            return
        log.critical(
            "the worker ends, and what it has not acknowledged is delivered again: %r", error, exc_info=error
        )
        self._app.failing()
        self._begin(self._app.crash(error))


def build_app(settings: Settings, role: Role, metrics: Metrics, worker: int, heart: Heart) -> ChunkApp:
    """The Faust app of a role; one agent, one topic."""
    app = _new_app(settings, role, worker)
    running = _Running(app, role, metrics, heart)
    topic = app.topic(role.topic, value_serializer="raw", key_serializer="raw")

    async def take(stream: Any) -> None:  # Faust wants a function
        await running.take(stream)

    app.agent(topic, name=role.name)(take)
    app.on_partitions_assigned.connect(running.assigned, weak=False)
    app.on_partitions_revoked.connect(running.revoked, weak=False)
    role.fail = running.crash
    busy = role.busy or role.fetching
    app.pace = Pace(role.fetching, busy, role.pressed or busy)
    app.opening = running.open
    app.closing = role.stop
    app.committing = running.committing
    app.draining = running.drain
    app.failing = Deadline().start
    return app


def run(app: faust.App, loglevel: str = "INFO") -> None:
    """Run until SIGTERM or a crash; does not return."""
    # A chunk is thousands of dicts, all of them gone by reference counting once it is done. By default the
    # collector looks at them every 700 allocations and found nothing: a third of the CPU of ingest.
    gc.collect()
    gc.freeze()
    # Faust tells of each of its timers that woke up late: on a busy machine 7 % of a worker's CPU, to say
    # that the machine is busy
    logging.getLogger("mode.timers").setLevel(logging.WARNING)
    gc.set_threshold(200_000, 20, 50)
    Worker(app, loglevel=loglevel, redirect_stdouts=False).execute_from_commandline()
