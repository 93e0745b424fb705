"""The peer: the ingest job as a Quix Streams application, state in RocksDB with its changelog.

Scans come without a key, so they are grouped by venue, through a repartition topic, before the stateful step.
At-least-once and otherwise the defaults: a checkpoint every 5 seconds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from quixstreams import Application, State

from benchmarks.peers.scans import KINDS, scans_of, visit
from schemas.events import Scan


def is_new(scan: Scan, state: State) -> bool:
    """Whether a scan is the first of its mark at its venue, or is delivered once more."""
    minute = scan["scanned_at"] // 60_000
    key = f"{minute // 60}:{scan['person']}:{KINDS[scan.get('kind', 'in')] | minute % 60}"
    known = state.get(key)
    if known is None:
        state.set(key, scan["scan_id"])
    return known is None or known == scan["scan_id"]


def to_visit(scan: Scan, _key: Any, timestamp: int, _headers: Any) -> Any:
    """What is published of it; the record's timestamp is its arrival."""
    return visit(scan, timestamp)


def main() -> None:
    """Run until SIGTERM."""
    app = Application(
        broker_address=os.environ["TRUYVET_KAFKA"],
        consumer_group=os.environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
        state_dir=Path(os.environ["BENCH_STATE"]) / "state",
        producer_extra_config={"compression.type": "lz4"},
        loglevel="WARNING",
    )
    scans = app.topic(os.environ["BENCH_INPUT"], value_deserializer="bytes")
    visits = app.topic(os.environ["BENCH_OUTPUT"], key_serializer="str", value_serializer="json")
    frame = app.dataframe(scans)
    frame = frame.apply(scans_of, expand=True)
    frame = frame.group_by("venue")
    frame = frame.filter(is_new, stateful=True)
    frame = frame.apply(to_visit, metadata=True)
    frame.to_topic(visits)
    app.run()


if __name__ == "__main__":
    main()
