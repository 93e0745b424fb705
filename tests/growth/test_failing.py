"""A worker that fails is gone soon after, though a thread of its own never ends: another takes its place."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

from schemas import topics
from schemas.settings import Settings
from tests.growth import failing
from tests.stream.harness import HOUR, installed, now_ms, person

pytestmark = pytest.mark.engines


def test_a_worker_that_fails_ends_whatever_it_waits_for(settings: Settings, tmp_path: Path) -> None:
    with installed(settings, tmp_path) as there:
        market = there.venue()
        for number in range(
            topics.SCANS.partitions
        ):  # whichever partitions a worker is given, it has a chunk
            scan: dict[str, object] = {
                "scan_id": f"00000000-0000-4000-8000-{number:012x}",
                "person": person(number),
            }
            scan |= {"venue": market, "scanned_at": now_ms() - HOUR}
            there.send(topics.SCANS, orjson.dumps(scan), partition=number)
        there.flush()
        for number, how in enumerate(("chunk", "faust")):
            there.launch(f"ingest:{number}", sys.executable, failing.__file__, how, str(number))
        for number, words in enumerate(("this chunk fails", "the fetch fails")):
            # it starts, joins and fails within half a minute on a busy machine, and is gone 10 s later
            assert there.running.pop(f"ingest:{number}").wait(60) == 1
            assert words in (tmp_path / f"ingest{number}.log").read_text()
