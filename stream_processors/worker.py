"""A processor role as a Faust worker: manual acknowledgement, crash on an unexpected error, never skip."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import faust
from faust.worker import Worker
from mode.supervisors import CrashingSupervisor

from schemas.settings import Settings
from stream_processors.chunks import ChunkApp
from stream_processors.metrics import Metrics

log: Final = logging.getLogger(__name__)

# A chunk: the topic's partition and the Kafka records.
Process = Callable[[int, Sequence[Any]], Awaitable[None]]

# A worker that fails must be gone soon after, even when its shutdown hangs: Kafka redelivers to the next.
_GIVE_UP_STOPPING_S: Final = 10.0


class Role:
    """What a worker runs: set up once Kafka is there, then a coroutine a chunk.

    `limit`: how many chunks may be under way at once; 1 keeps a partition's chunks in order.
    """

    name: str
    topic: str
    limit: int = 1

    async def start(self) -> None:
        """Connect, load what is needed before the first chunk."""
        raise NotImplementedError

    async def process(self, partition: int, records: Sequence[Any]) -> None:
        """Do everything that a chunk asks for; return when it is durable."""
        raise NotImplementedError

    async def assigned(self, partitions: set[int]) -> None:
        """Partitions of the topic are ours from now on; runs beside their first chunks."""

    def revoked(self, partitions: set[int]) -> None:
        """Partitions are no longer ours."""

    async def stop(self) -> None:
        """Close what `start` opened."""
        raise NotImplementedError


def _crash(app: faust.App, error: BaseException) -> None:
    log.critical("chunk failed, the worker ends and its chunk is delivered again: %r", error, exc_info=error)
    loop = asyncio.get_running_loop()
    loop.call_later(_GIVE_UP_STOPPING_S, os._exit, 1)
    task = loop.create_task(app.crash(error))
    task.add_done_callback(lambda _: None)


def build_app(settings: Settings, role: Role, metrics: Metrics, worker: int) -> ChunkApp:
    """The Faust app of a role; one agent, one topic."""
    group = settings.group(role.name)
    app = ChunkApp(
        group,
        broker=[f"kafka://{address}" for address in settings.kafka_address.split(",")],
        key_serializer="raw",
        value_serializer="raw",
        datadir=Path(tempfile.gettempdir()) / f"{group}-{worker}-{os.getpid()}",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_wait_empty=False,
        stream_buffer_maxsize=64,
        agent_supervisor=CrashingSupervisor,
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
    topic = app.topic(role.topic, value_serializer="raw", key_serializer="raw")
    slots = asyncio.Semaphore(role.limit)
    running: set[asyncio.Task[None]] = set()

    async def handle(event: Any) -> None:
        began = time.monotonic()
        try:
            await role.process(event.message.partition, event.message.value)
            event.ack()
        except Exception as error:
            _crash(app, error)
        finally:
            slots.release()
        metrics.chunk_seconds.observe(time.monotonic() - began)
        metrics.progress.set_to_current_time()

    async def take(stream: Any) -> None:
        async for event in stream.noack().events():
            await slots.acquire()
            task = asyncio.get_running_loop().create_task(handle(event))
            running.add(task)
            task.add_done_callback(running.discard)

    async def take_over(partitions: set[int]) -> None:
        try:
            await role.assigned(partitions)
        except Exception as error:
            _crash(app, error)

    def start_take_over(_: Any, assigned: Iterable[Any], **__: Any) -> None:
        partitions = {tp.partition for tp in assigned}
        task = asyncio.get_running_loop().create_task(take_over(partitions))
        running.add(task)
        task.add_done_callback(running.discard)

    def let_go(_: Any, revoked: Iterable[Any], **__: Any) -> None:
        role.revoked({tp.partition for tp in revoked})

    app.agent(topic, name=role.name)(take)
    app.on_partitions_assigned.connect(start_take_over, weak=False)
    app.on_partitions_revoked.connect(let_go, weak=False)

    app.opening = role.start
    app.closing = role.stop
    return app


def run(app: faust.App, loglevel: str = "INFO") -> None:
    """Run until SIGTERM or a crash; does not return."""
    Worker(app, loglevel=loglevel, redirect_stdouts=False).execute_from_commandline()
