"""The peer: the ingest job as one would write it by hand with confluent-kafka, as fast as that goes.

Read, validate every field, drop duplicates with one Lua call a batch, publish each unique visit, commit after
durability. No unknown venues, lateness, flags, index, rejected records or metrics: less than ingest does.
"""

from __future__ import annotations

import signal
import sys
import zlib

import msgpack
import orjson
import redis
from confluent_kafka import Consumer, Producer
from pydantic import ValidationError

from benchmarks.peers.scans import valid_scans
from schemas import topics
from schemas.events import SCANS, Scan
from schemas.settings import load_settings

_DEDUPLICATE = """
local batch = cmsgpack.unpack(ARGV[1])
local new = {}
for i = 1, #batch, 3 do
    new[#new + 1] = redis.call('HSETNX', batch[i], batch[i + 1], batch[i + 2])
end
return new
"""

_KINDS = {"in": 0, "out": 64, "void": 128}


def _valid(values: list[bytes]) -> list[Scan]:
    """All scans of a batch in one call; when one of them is invalid, each by itself."""
    try:
        return SCANS.validate_json(b"[" + b",".join(value.strip(b"[]") for value in values) + b"]")
    except ValidationError:
        return valid_scans(values)


def main() -> None:
    """Run until SIGTERM. The argument: records a batch, so that a batch is about 1,000 scans."""
    records = int(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load_settings()
    scans = settings.topic(topics.SCANS)
    visits = settings.topic(topics.VISITS)
    store = redis.Redis.from_url(settings.redis_url)
    deduplicate = store.register_script(_DEDUPLICATE)
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_address,
            "group.id": settings.group("plain"),
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "queued.max.messages.kbytes": 65_536,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_address,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "linger.ms": 2,
        }
    )
    consumer.subscribe([scans])
    while True:
        messages = consumer.consume(records, 0.2)
        if not messages:
            continue
        values = [message.value() or b"" for message in messages]
        batch = _valid(values)
        request: list[bytes | str] = []
        for scan in batch:
            hour, minute = divmod(scan["scanned_at"] // 60_000, 60)
            request.append(f"{scan['venue']}:{hour}")
            mark = _KINDS[scan.get("kind", "in")] | minute
            request.append(bytes.fromhex(scan["person"]) + bytes((mark,)))
            request.append(zlib.crc32(scan["scan_id"].encode()).to_bytes(4, "big"))
        new = deduplicate(args=[msgpack.packb(request, use_bin_type=False)])
        unique = [scan for scan, is_new in zip(batch, new, strict=True) if is_new]
        if unique:
            producer.produce(visits, orjson.dumps(unique))
            producer.flush()
        consumer.commit(asynchronous=False)


if __name__ == "__main__":
    main()
