"""The peer: the ingest job as a Bytewax dataflow, with its Kafka connectors and a recovery store.

Whole batches go through the operators (`flat_map_batch`), duplicates are found with one Redis pipeline a
batch. Bytewax keeps the offsets in its recovery store, at the end of an epoch; its sink waits for Kafka after
each batch. Redis is shared by all workers, so nothing has to be keyed or sent between them.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import orjson
import redis
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from benchmarks.peers.scans import bucket, mark, scans_of, tag, visit
from schemas.events import Scan

_BROKERS = [os.environ["TRUYVET_KAFKA"]]
_STORE = redis.Redis.from_url(os.environ["TRUYVET_REDIS"])


def valid(batch: list[KafkaSourceMessage[bytes, bytes]]) -> list[tuple[Scan, int]]:
    """The valid scans of a batch of records, with their arrival (ms)."""
    return [(scan, message.timestamp[1]) for message in batch for scan in scans_of(message.value)]


def unique(batch: list[tuple[Scan, int]]) -> list[KafkaSinkMessage[None, bytes]]:
    """One record with the visits of those scans that are the first of their mark."""
    pipeline = _STORE.pipeline(transaction=False)
    for scan, _ in batch:
        pipeline.hsetnx(bucket(scan), mark(scan), tag(scan))
    visits = [
        visit(scan, arrival) for (scan, arrival), new in zip(batch, pipeline.execute(), strict=True) if new
    ]
    return [KafkaSinkMessage(None, orjson.dumps(visits))] if visits else []


flow = Dataflow("ingest")
records = op.input(
    "scans",
    flow,
    KafkaSource(
        _BROKERS, [os.environ["BENCH_INPUT"]], batch_size=max(1, 1000 // int(os.environ["BENCH_PACKED"]))
    ),
)
scans = op.flat_map_batch("valid", records, valid)
visits = op.flat_map_batch("unique", scans, unique)
op.output(
    "visits", visits, KafkaSink(_BROKERS, os.environ["BENCH_OUTPUT"], add_config={"compression.type": "lz4"})
)

if __name__ == "__main__":
    recovery = Path(os.environ["BENCH_STATE"]) / "recovery"
    recovery.mkdir()
    init_db_dir(recovery, 1)
    cli_main(flow, epoch_interval=timedelta(seconds=10), recovery_config=RecoveryConfig(recovery))
