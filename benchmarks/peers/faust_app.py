"""What the Faust peers share: the app, the topics, and deduplication by one Redis call or pipeline.

Faust flushes its producer before it commits offsets, so a visit that was sent is durable by then.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import faust
import redis.asyncio

from benchmarks.peers.scans import bucket, mark, tag, valid_scans, visit
from schemas.events import Scan, Visit

app = faust.App(
    os.environ["BENCH_GROUP"],
    broker=f"kafka://{os.environ['TRUYVET_KAFKA']}",
    store="memory://",
    value_serializer="raw",
    producer_compression_type="lz4",
    consumer_auto_offset_reset="earliest",
    topic_disable_leader=True,  # there is no table: it would only make one more topic
    topic_allow_declare=False,  # both topics exist
    datadir=os.environ["BENCH_STATE"],  # else a folder of its own where the benchmark was started
)
scans = app.topic(os.environ["BENCH_INPUT"], value_type=bytes)
visits = app.topic(os.environ["BENCH_OUTPUT"], value_type=bytes)
_store = redis.asyncio.Redis.from_url(os.environ["TRUYVET_REDIS"])


async def unique(found: Sequence[Scan]) -> list[Scan]:
    """Those that are the first of their mark."""
    if len(found) == 1:
        (scan,) = found
        return [scan] if await _store.hsetnx(bucket(scan), mark(scan), tag(scan)) else []
    pipeline = _store.pipeline(transaction=False)
    for scan in found:
        pipeline.hsetnx(bucket(scan), mark(scan), tag(scan))
    answers = await pipeline.execute()
    return [scan for scan, new in zip(found, answers, strict=True) if new]


_RECORDS: Final = max(1, 1000 // int(os.environ["BENCH_PACKED"]))


async def visits_of(stream: Any) -> AsyncIterator[list[Visit]]:
    """Those of about 1,000 scans at a time; a batch tells no timestamps, so a scan arrives now."""
    async for values in stream.take(_RECORDS, within=0.2):
        found = valid_scans(values)
        if found and (new := await unique(found)):
            arrival = time.time_ns() // 1_000_000
            yield [visit(scan, arrival) for scan in new]
