"""The peer: the ingest job as a Faust agent that takes event by event, as the documentation begins."""

from __future__ import annotations

from typing import Any

import orjson

from benchmarks.peers.faust_app import app, scans, unique, visits
from benchmarks.peers.scans import scans_of, visit


@app.agent(scans)  # type: ignore[untyped-decorator]
async def ingest(stream: Any) -> None:
    """One record at a time."""
    async for event in stream.events():
        found = scans_of(event.value)
        if found and (new := await unique(found)):
            arrival = round(event.message.timestamp * 1000)
            await visits.send(value=orjson.dumps([visit(scan, arrival) for scan in new]))
