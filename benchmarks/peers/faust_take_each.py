"""The peer: the ingest job as a Faust agent that takes about 1,000 scans at once, and sends each visit."""

from __future__ import annotations

from typing import Any

import orjson

from benchmarks.peers.faust_app import app, scans, visits, visits_of


@app.agent(scans)  # type: ignore[untyped-decorator]
async def ingest(stream: Any) -> None:
    """As faust_take, but for what is sent: a message for each event, as agents usually do."""
    async for batch in visits_of(stream):
        for each in batch:
            await visits.send(value=orjson.dumps(each))
