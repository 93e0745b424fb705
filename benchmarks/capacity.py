"""How many machines a population needs, and what the next bottleneck is: python -m benchmarks.capacity

Computed, not measured: from the CPU that a scan takes at each stage (docs/benchmarks/scaling.json, written by
benchmarks/scaling.py), the bytes that it takes in Redis, Kafka and ClickHouse, and what is assumed below.
Writes the tables into docs/PERFORMANCE.md, between its marks. Everything but `main` is pure.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

SCALING: Final = Path("docs/benchmarks/scaling.json")
PAGE: Final = Path("docs/PERFORMANCE.md")
BEGIN, END = "<!-- capacity: begin -->", "<!-- capacity: end -->"
POPULATIONS: Final = {
    "a province": 350_000,
    "a city": 5_000_000,
    "a region": 20_000_000,
    "a country": 100_000_000,
}
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Costs:
    """What one scan takes. CPU in seconds a million scans (marks, exposures); bytes of one."""

    worker: float
    redis: float
    broker: float  # scans in and out, visits in
    archive: float
    archive_broker: float  # visits out
    clickhouse: float
    matcher: float  # a million exposures
    matcher_redis: float
    matcher_broker: float
    scans_bytes: float  # in Kafka, before replication
    visits_bytes: float


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is not measured. A machine has `cores`, `memory` and `disk` (bytes)."""

    scans_a_day: float = 2.0  # of each person, everybody taking part; New South Wales had 0.3 (October 2021)
    peak: float = 5.0  # the busiest hour against the mean of the day
    cases: float = 1.4e-4  # new cases a person and day: 100 a week among 100,000
    exposures: float = 500.0  # of a case
    marks_days: int = 35  # Redis: retention and grace
    kafka_days: int = 7
    archive_days: int = 365
    redis_bytes: float = 38.0  # a mark, index and what the allocator has free (docs/benchmarks/memory.md)
    archive_bytes: float = 14.8  # a mark in ClickHouse, both tables (docs/benchmarks/memory.md)
    redis_copies: int = 2  # a replica of each master
    kafka_copies: int = 3
    archive_copies: int = 2
    cores: int = 16
    memory: float = 64e9
    disk: float = 2e12
    use: float = 0.6  # of cores, memory and disk: the rest is for a machine that is away, and for catching up


@dataclass(frozen=True, slots=True)
class Need:
    """What a population needs. CPU in cores at the peak hour, by stage; bytes with all copies."""

    population: int
    scans_a_day: float
    peak_a_second: float
    cores: dict[str, float]
    redis_bytes: float
    kafka_bytes: float
    archive_bytes: float
    machines: dict[str, int]  # by what they are needed for

    @property
    def most(self) -> int:
        """Machines: the same ones carry all."""
        return max(self.machines.values())

    @property
    def bottleneck(self) -> str:
        """What asks for most machines, or would be the first to."""
        return max(self.machines, key=lambda name: self.machines[name])


def costs_of(found: Mapping[str, Any], store: str, packed: int) -> Costs:
    """The costs in what benchmarks.scaling has written: medians over its numbers of workers.

    Raises ValueError when it has no such run.
    """
    runs = [run for run in found["runs"] if run["store"] == store and run["packed"] == packed]
    if not runs:
        raise ValueError(f"no run of {store} with {packed} scans a record")
    cpu = {
        stage: statistics.median(run["cpu"][stage] for run in runs) for stage in ("worker", "redis", "broker")
    }
    size = {
        name: statistics.median(run["kafka_bytes_a_scan"][name] for run in runs)
        for name in ("scans", "visits")
    }
    archive, matcher = found["archive"]["cpu"], found["matcher"]["cpu"]
    return Costs(
        worker=cpu["worker"],
        redis=cpu["redis"],
        broker=cpu["broker"],
        archive=archive["archive"],
        archive_broker=archive["broker"],
        clickhouse=archive["clickhouse"],
        matcher=matcher["matcher"],
        matcher_redis=matcher["redis"],
        matcher_broker=matcher["broker"],
        scans_bytes=size["scans"],
        visits_bytes=size["visits"],
    )


def ceilings(
    costs: Costs, *, workers: int, redis_share: float, cores: int, partitions: int
) -> dict[str, float]:
    """Scans a second at which each stage is full. A worker and a Redis node are one core each at most;
    `redis_share`: of the marks, on the node that has most of them."""
    everything = costs.worker + costs.redis + costs.broker
    everything += costs.archive + costs.archive_broker + costs.clickhouse
    return {
        "ingest workers": min(workers, partitions) * 1e6 / costs.worker,
        "Redis": 1e6 / (costs.redis * redis_share),
        "the archive's one process": 1e6 / costs.archive,
        "the cores of the machine": cores * 1e6 / everything,
    }


def first_full(limits: Mapping[str, float]) -> tuple[str, float]:
    """The bottleneck, and its scans a second."""
    name = min(limits, key=lambda each: limits[each])
    return name, limits[name]


def need(population: int, costs: Costs, given: Assumptions) -> Need:
    """What a population needs."""
    a_day = population * given.scans_a_day
    peak = a_day / _DAY_S * given.peak
    exposures = population * given.cases * given.exposures / _DAY_S * given.peak
    cores = {
        "ingest": peak * costs.worker / 1e6,
        # a replica and a follower do what their masters and leaders do
        "Redis": given.redis_copies * (peak * costs.redis + exposures * costs.matcher_redis) / 1e6,
        "Kafka": given.kafka_copies
        * (peak * (costs.broker + costs.archive_broker) + exposures * costs.matcher_broker)
        / 1e6,
        "matcher": exposures * costs.matcher / 1e6,
        "archive": peak * costs.archive / 1e6,
        "ClickHouse": given.archive_copies * peak * costs.clickhouse / 1e6,
    }
    redis_bytes = a_day * given.marks_days * given.redis_bytes * given.redis_copies
    kafka_bytes = a_day * given.kafka_days * (costs.scans_bytes + costs.visits_bytes) * given.kafka_copies
    archive_bytes = a_day * given.archive_days * given.archive_bytes * given.archive_copies
    return Need(
        population,
        a_day,
        peak,
        cores,
        redis_bytes,
        kafka_bytes,
        archive_bytes,
        {
            "memory of Redis": math.ceil(redis_bytes / (given.memory * given.use)),
            "cores": math.ceil(sum(cores.values()) / (given.cores * given.use)),
            "disk": math.ceil((kafka_bytes + archive_bytes) / (given.disk * given.use)),
            "copies": max(given.redis_copies, given.kafka_copies, given.archive_copies),
        },
    )


def share_of(shards: int, nodes: int) -> float:
    """The part of the marks on the node that has most shards, when they are dealt out evenly."""
    return math.ceil(shards / nodes) / shards


def size(count: float) -> str:
    """Bytes in words."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count:,.0f} B"


def bottlenecks(found: Mapping[str, Any], cores: int = 16, partitions: int = 64, shards: int = 64) -> str:
    """A table: where the bottleneck is, and where it moves to."""
    lines = [
        "| scans a record | workers | Redis | full at, scans/s | what is full | next |",
        "|---|---|---|---|---|---|",
    ]
    for packed in (100, 1):
        for workers, nodes in ((1, 1), (2, 1), (4, 1), (4, 3), (8, 3), (8, 6)):
            costs = costs_of(found, "one Redis" if nodes == 1 else "cluster of 3", packed)
            limits = ceilings(
                costs,
                workers=workers,
                redis_share=share_of(shards, nodes),
                cores=cores,
                partitions=partitions,
            )
            name, rate = first_full(limits)
            after, later = first_full({each: limit for each, limit in limits.items() if each != name})
            cells = [
                packed,
                workers,
                nodes if nodes > 1 else "one",
                f"{rate:,.0f}",
                name,
                f"{after}: {later:,.0f}",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def populations(costs: Costs, given: Assumptions) -> str:
    """A table: what a population needs."""
    lines = [
        "| | people | scans a day | peak, scans/s | cores at the peak | Redis | Kafka | ClickHouse"
        " | machines | decided by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, population in POPULATIONS.items():
        row = need(population, costs, given)
        lines.append(
            f"| {name} | {population:,} | {row.scans_a_day:,.0f} | {row.peak_a_second:,.0f}"
            f" | {sum(row.cores.values()):,.3f} | {size(row.redis_bytes)} | {size(row.kafka_bytes)}"
            f" | {size(row.archive_bytes)} | {row.most} | {row.bottleneck} |"
        )
    return "\n".join(lines)


def by_size(costs: Costs, given: Assumptions, bytes_a_mark: Sequence[float] = (20, 100, 200)) -> str:
    """What most depends on: machines of the largest population by the size of a mark in Redis, of the
    assumed size too."""
    most = max(POPULATIONS.values())
    sizes = sorted({given.redis_bytes, *bytes_a_mark})
    rows = {each: need(most, costs, replace(given, redis_bytes=each)) for each in sizes}
    counts = ", ".join(f"{row.most} at {each:g}" for each, row in rows.items())
    return f"Machines for {most:,} people by bytes a mark in Redis: {counts}."


def by_stage(costs: Costs, given: Assumptions) -> str:
    """A table: cores of the largest population at its peak, by stage."""
    row = need(max(POPULATIONS.values()), costs, given)
    lines = ["| stage | CPU, µs a scan | cores at 100 million people's peak |", "|---|---|---|"]
    each = {
        "ingest": costs.worker,
        "Redis": costs.redis,
        "Kafka": costs.broker + costs.archive_broker,
        "archive": costs.archive,
        "ClickHouse": costs.clickhouse,
    }
    for stage, cores in row.cores.items():
        cost = f"{each[stage]:.1f}" if stage in each else f"{costs.matcher:.0f} an exposure"
        lines.append(f"| {stage} | {cost} | {cores:.2f} |")
    return "\n".join(lines)


def page(found: Mapping[str, Any], given: Assumptions) -> str:
    """The part of docs/PERFORMANCE.md that is computed."""
    dearest = costs_of(found, "cluster of 3", 1)
    return "\n".join(
        [
            f"Assumed: {given.scans_a_day:g} scans a person and day, everybody taking part; the busiest hour"
            f" has {given.peak:g} times the mean; {given.cases * 7e5:.0f} new cases a week among 100,000"
            f" with {given.exposures:g} exposures each; Redis keeps a mark {given.marks_days} days at"
            f" {given.redis_bytes:g} bytes and has {given.redis_copies} copies, Kafka {given.kafka_days}"
            f" days and {given.kafka_copies}, ClickHouse {given.archive_days} days at"
            f" {given.archive_bytes:g} bytes and {given.archive_copies}. A machine has {given.cores} cores,"
            f" {given.memory / 1e9:g} GB and {given.disk / 1e12:g} TB of disk, of which {given.use:.0%} are"
            " used. One scan a record on a Redis Cluster, the dearest way.",
            "",
            populations(dearest, given),
            "",
            by_size(dearest, given),
            "",
            by_stage(dearest, given),
            "",
            "Scans to archive on one machine of 16 cores, with 64 partitions and 64 shards:",
            "",
            bottlenecks(found),
        ]
    )


def put(text: str, computed: str) -> str:
    """The page with its computed part replaced. Raises ValueError when its marks are not there."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{head}{BEGIN}\n{computed}\n{END}{tail}"


def main(argv: Sequence[str] | None = None) -> int:
    """Compute, show, and write into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scaling", type=Path, default=SCALING, help="what benchmarks.scaling has written")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write into")
    parser.add_argument("--quick", action="store_true", help="show only")
    for each in fields(Assumptions):
        kind = int if isinstance(each.default, int) else float
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=kind, default=each.default)
    chosen = parser.parse_args(argv)
    given = Assumptions(**{each.name: getattr(chosen, each.name) for each in fields(Assumptions)})
    try:
        computed = page(json.loads(chosen.scaling.read_text()), given)
        if not chosen.quick:
            chosen.page.write_text(put(chosen.page.read_text(), computed))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(computed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
