"""Background load: packed records of scans, sent by a clock that waits for nobody.

    python -m benchmarks.background --rate 20000 --seconds 60 --codes FILE

Record n is due at n * PACKED / rate seconds after the start, however the ones before it fared: a broker or a
pipeline that falls behind meets the same load as one that does not. The last line says what was sent.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Producer

from schemas import topics
from schemas.settings import Settings, load_settings

PACKED: Final = 100  # scans a record, as gateways of many devices send them
_PEOPLE: Final = 2_000_000
# A device's clock and its buffer: a scan is up to so old when it is sent.
_OLDEST_MS: Final = 60_000


class Background:
    """A paced producer. `sent`: records so far; `late_ms`: how far the clock was ever missed."""

    def __init__(self, settings: Settings, codes: list[str], seed: int) -> None:
        self._chance = random.Random(seed)
        self._codes = codes
        self._topic = settings.topic(topics.SCANS)
        self.sent = 0
        self.failed = 0
        self.late_ms = 0.0
        self._producer = Producer(
            {
                "bootstrap.servers": settings.kafka_address,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 5,
                "partitioner": topics.PARTITIONER,
            }
        )

    def record(self, now_ms: int) -> bytes:
        """PACKED scans of somebody somewhere within the last minute."""
        draw, codes = self._chance.random, self._codes
        ids = f"{self._chance.getrandbits(128):032x}"
        head = f"{ids[:8]}-{ids[8:12]}-4{ids[13:16]}-a{ids[17:20]}-{ids[20:28]}"
        scans = [
            f'{{"scan_id":"{head}{place:04x}","person":"{int(draw() * _PEOPLE) | 1 << 61:016x}",'
            f'"venue":"{codes[int(draw() * len(codes))]}","scanned_at":{now_ms - int(draw() * _OLDEST_MS)}}}'
            for place in range(PACKED)
        ]
        return f"[{','.join(scans)}]".encode()

    def _delivered(self, error: Any, _: Any) -> None:
        self.failed += error is not None

    def run(self, rate: int, seconds: float) -> None:
        """Send for so long, or until `stop`."""
        began = time.monotonic()
        total = int(rate * seconds / PACKED)
        self._going = True
        while self._going and self.sent < total:
            due = began + self.sent * PACKED / rate
            now = time.monotonic()
            if now < due:
                self._producer.poll(0)
                time.sleep(max(0.0, due - time.monotonic()))
                continue
            self.late_ms = max(self.late_ms, (now - due) * 1000)
            self._producer.produce(self._topic, self.record(time.time_ns() // 1_000_000))
            self.sent += 1
        self.seconds = time.monotonic() - began
        self.failed += self._producer.flush(30)

    def stop(self) -> None:
        """End early."""
        self._going = False


def main() -> None:
    """Send; SIGTERM ends it early."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=20_000, help="scans a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--codes", type=Path, required=True, help="venue codes, one a line")
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    load = Background(load_settings(), chosen.codes.read_text().split(), chosen.seed)
    signal.signal(signal.SIGTERM, lambda *_: load.stop())
    load.run(chosen.rate, chosen.seconds)
    figures = {
        "scans": load.sent * PACKED,
        "a_second": round(load.sent * PACKED / load.seconds),
        "latest_ms": round(load.late_ms),
        "failed": load.failed,
    }
    print(json.dumps(figures))
    sys.exit(1 if load.failed else 0)


if __name__ == "__main__":
    main()
