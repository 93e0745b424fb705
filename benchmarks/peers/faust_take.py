"""The peer: the ingest job as a Faust agent that takes about 1,000 scans at once, and packs their visits."""

from __future__ import annotations

from typing import Any

import orjson

from benchmarks.peers.faust_app import app, scans, visits, visits_of


@app.agent(scans)  # type: ignore[untyped-decorator]
async def ingest(stream: Any) -> None:
    """A batch of records at a time, their visits as one."""
    async for batch in visits_of(stream):
        await visits.send(value=orjson.dumps(batch))
