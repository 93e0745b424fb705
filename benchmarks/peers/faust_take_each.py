"""The peer: the ingest job as a Faust agent that takes about 1,000 scans at once and sends visit by visit."""

from __future__ import annotations

import os
import time
from typing import Any

import orjson

from benchmarks.peers.faust_app import app, scans, unique, visits
from benchmarks.peers.scans import valid_scans, visit

_RECORDS = max(1, 1000 // int(os.environ["BENCH_PACKED"]))


@app.agent(scans)  # type: ignore[untyped-decorator]
async def ingest(stream: Any) -> None:
    """As faust_take, but for what is sent: a message for each event, as the documentation has it."""
    async for values in stream.take(_RECORDS, within=0.2):
        found = valid_scans(values)
        arrival = time.time_ns() // 1_000_000
        for scan in await unique(found) if found else ():
            await visits.send(value=orjson.dumps(visit(scan, arrival)))
