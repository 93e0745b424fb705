"""The computation of machines, and that docs/PERFORMANCE.md says what it computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import capacity, running, scaling
from benchmarks.capacity import Assumptions, Costs
from benchmarks.scaling_parts import make_input

COSTS = Costs(
    worker=10.0,
    redis=5.0,
    broker=5.0,
    archive=2.0,
    archive_broker=1.0,
    clickhouse=2.0,
    matcher=100.0,
    matcher_redis=50.0,
    matcher_broker=200.0,
    scans_bytes=50.0,
    visits_bytes=50.0,
)


def limits(workers: int, share: float) -> tuple[str, float]:
    return capacity.first_full(
        capacity.ceilings(COSTS, workers=workers, redis_share=share, cores=16, partitions=64)
    )


def test_the_bottleneck_moves_from_the_worker_to_redis_to_the_cores() -> None:
    assert limits(1, 1.0) == ("ingest workers", 100_000)
    assert limits(4, 1.0) == ("Redis", 200_000)
    assert limits(8, capacity.share_of(64, 2)) == ("Redis", 400_000)
    assert capacity.share_of(64, 3) == 22 / 64
    assert limits(16, capacity.share_of(64, 16)) == ("the archive's one process", 500_000)
    cheap = replace(COSTS, archive=1.0)
    found = capacity.ceilings(cheap, workers=16, redis_share=1 / 16, cores=16, partitions=64)
    assert capacity.first_full(found) == ("the cores of the machine", 16e6 / 24)


def test_what_a_population_needs() -> None:
    given = Assumptions(cases=0.0, redis_bytes=40.0, archive_bytes=12.0)
    row = capacity.need(86_400_000, COSTS, given)
    assert row.peak_a_second == 10_000
    assert row.cores == {
        "ingest": pytest.approx(0.1),
        "Redis": pytest.approx(0.1),
        "Kafka": pytest.approx(0.18),
        "matcher": 0.0,
        "archive": pytest.approx(0.02),
        "ClickHouse": pytest.approx(0.04),
    }
    assert row.redis_bytes == 172_800_000 * 35 * 40 * 2
    assert row.kafka_bytes == 172_800_000 * 7 * 100 * 3
    assert row.archive_bytes == 172_800_000 * 365 * 12 * 2
    assert row.machines == {"memory of Redis": 13, "cores": 1, "disk": 2, "copies": 3}
    assert (row.most, row.bottleneck) == (13, "memory of Redis")


def test_a_small_place_needs_as_many_machines_as_there_are_copies() -> None:
    row = capacity.need(350_000, COSTS, Assumptions())
    assert (row.most, row.bottleneck) == (3, "copies")


@given(
    st.integers(1, 10**9),
    st.floats(1.01, 5),
    st.sampled_from(["redis_bytes", "peak", "scans_a_day", "cases"]),
)
def test_more_never_needs_less(population: int, factor: float, name: str) -> None:
    given_ = Assumptions()
    more = replace(given_, **{name: getattr(given_, name) * factor})
    before, after = (capacity.need(population, COSTS, each) for each in (given_, more))
    assert after.most >= before.most
    assert sum(after.cores.values()) >= sum(before.cores.values())
    assert capacity.need(population * 2, COSTS, given_).most >= before.most


def test_the_page_says_what_is_computed() -> None:
    found = json.loads(capacity.SCALING.read_text())
    text = capacity.PAGE.read_text()
    assert capacity.put(text, capacity.page(found, Assumptions())) == text, (
        "run: python -m benchmarks.capacity"
    )


def test_the_table_of_the_benchmark_says_what_its_figures_say(tmp_path: Path) -> None:
    found = json.loads(capacity.SCALING.read_text())
    running.write("scaling", found, scaling.tables(found), tmp_path, scaling.picture)
    page = capacity.SCALING.with_suffix(".md")
    assert page.read_text() == (tmp_path / page.name).read_text()
    assert {run["store"] for run in found["runs"]} == {"one Redis", "cluster of 3"}


def test_the_input_is_the_same_for_every_run_and_its_marks_are_counted() -> None:
    one, other = (make_input(3_000, 1_700_000_000_000) for _ in range(2))
    assert one == other
    scans = [json.loads(scan) for scan in one.scans]
    assert len({(scan["person"], scan["venue"], scan["scanned_at"] // 60_000) for scan in scans}) == one.marks
    assert {scan["venue"] for scan in scans} <= set(one.venues)


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity: begin"):
        capacity.put("nothing", "computed")
