"""The jobs that are compared: ours, and the same work written for others. To add one: an entry of JOBS.

A job is a process that reads BENCH_INPUT as the consumer group BENCH_GROUP, keeps its own files in
BENCH_STATE and publishes visits to BENCH_OUTPUT; BENCH_PACKED says how many scans a record holds. Kafka and
Redis are named as everywhere (TRUYVET_KAFKA, TRUYVET_REDIS). Ours takes its topics from the installation, and
BENCH_… are set so that they agree.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
OWN: Final = "truyvet ingest"
LOOP: Final = "hand-written loop"
STREAMS: Final = Path(__file__).parent / "kafka_streams"
BENCH_PYTHON: Final = ROOT / ".venv-bench" / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Job:
    """One competitor. `command` is given the scans a record; `share` of the input that it reads; `role` names
    its consumer group when that is not BENCH_GROUP; `package` is what it brings along, for the versions."""

    name: str
    about: str
    command: Callable[[int], list[str]]
    share: float = 1.0
    role: str = ""
    package: str = ""
    missing: Callable[[], str | None] = lambda: None  # why it cannot run here, if it cannot


def _streams(threads: int) -> list[str]:
    classpath = f"{STREAMS / 'classes'}:{STREAMS / 'libs'}/*"
    log = ROOT / "deploy" / "local" / "kafka" / "log4j2.xml"
    return [
        *(shutil.which("java") or "java", "-Xmx1g", f"-Dlog4j2.configurationFile={log}"),
        *("-cp", classpath, "Peer", str(threads)),
    ]


def _no_streams() -> str | None:
    if (STREAMS / "classes" / "Peer.class").exists():
        return None
    return "the Kafka Streams peer is not built: make peers"


def _no_bench_python() -> str | None:
    if BENCH_PYTHON.exists():
        return None
    return "its packages are not installed: make peers"


def _faust(module: str) -> list[str]:
    return [sys.executable, "-m", "faust", "-A", module, "worker", "-l", "warn", "--without-web"]


JOBS: Final = {
    job.name: job
    for job in (
        Job(
            OWN,
            "the role as it runs in production; beyond the job it checks venues and lateness, keeps rejected "
            "scans, indexes persons, looks for cases",
            lambda _: [sys.executable, "-m", "truyvet", "run", "ingest"],
            role="ingest",
        ),
        Job(
            LOOP,
            "confluent-kafka and one Lua call a batch, scans published as they came: the plain limit; if it "
            "is killed, it loses what it claimed and had not published",
            lambda packed: [sys.executable, "-m", "benchmarks.plain_loop", str(1000 // packed)],
            role="plain",
        ),
        Job(
            "kafka streams, 1 thread",
            "RocksDB and changelog, repartitioned by venue as scans have no key, a visit a record, 1 GB heap",
            lambda _: _streams(1),
            missing=_no_streams,
        ),
        Job(
            "kafka streams, 2 threads",
            "RocksDB and changelog, repartitioned by venue as scans have no key, a visit a record, 1 GB heap",
            lambda _: _streams(2),
            missing=_no_streams,
        ),
        Job(
            "bytewax",
            "its Kafka connectors and recovery store, a Redis pipeline and an array of visits a batch",
            lambda _: [str(BENCH_PYTHON), "-m", "benchmarks.peers.bytewax_flow"],
            share=0.3,
            package="bytewax",
            missing=_no_bench_python,
        ),
        Job(
            "quix streams",
            "RocksDB with its changelog, grouped by venue (scans have no key), a visit a record",
            lambda _: [str(BENCH_PYTHON), "-m", "benchmarks.peers.quix_app"],
            share=0.1,
            package="quixstreams",
            missing=_no_bench_python,
        ),
        Job(
            "faust, take(1000)",
            "stock agent, a Redis pipeline and an array of visits a batch",
            lambda _: _faust("benchmarks.peers.faust_take"),
            share=0.1,
        ),
        Job(
            "faust, take(1000), a visit a record",
            "stock agent, a Redis pipeline a batch, each visit sent by itself as agents usually send",
            lambda _: _faust("benchmarks.peers.faust_take_each"),
            share=0.1,
        ),
        Job(
            "faust, per event",
            "stock agent, a Redis call and a record of visits an event",
            lambda _: _faust("benchmarks.peers.faust_event"),
            share=0.02,
        ),
    )
}
