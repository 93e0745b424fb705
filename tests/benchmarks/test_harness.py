"""The harness: what it measures, and that a job which does not answer exactly has no speed."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from benchmarks import report
from benchmarks.__main__ import main as run_parts
from benchmarks.inputs import Input, make_inputs, scans
from benchmarks.jobs import JOBS, Job
from benchmarks.machine import Watch
from benchmarks.measuring import Bench, Engines, Run
from benchmarks.summary import Row, summarise
from benchmarks.throughput import LEAST_SCANS, parse, size
from schemas.events import SCANS
from schemas.settings import Settings

PUBLISH = """
import os, sys, time
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": os.environ["TRUYVET_KAFKA"]})
for batch in sys.argv[1:]:
    producer.produce(os.environ["BENCH_OUTPUT"], b'[' + b','.join([b'{"scan_id":1}'] * int(batch)) + b']')
    producer.flush()
    time.sleep(0.5)
if "0" in sys.argv[1:]:
    sys.exit("said at last")
time.sleep(60)
"""


def publishing(*batches: int) -> Job:
    """A job that publishes records of so many visits, half a second apart; after 0 it ends in an error."""
    return Job("test", "", lambda _: [sys.executable, "-c", PUBLISH, *map(str, batches)])


@pytest.fixture
def bench(settings: Settings) -> Bench:
    """On the session's engines; the processes are this one, their cost is not looked at."""
    return Bench(settings.kafka_address, Engines(psutil.Process(), psutil.Process()))


@pytest.mark.engines
def test_a_speed_is_that_between_first_and_last_record(settings: Settings, bench: Bench) -> None:
    run = bench.run(publishing(100, 300, 100), Input(settings, 1000, 1, 500))
    assert (run.problem, run.visits) == ("", 500)
    # 400 visits, 2 scans each, came after the first record; two pauses of half a second
    assert 0.9 < run.seconds < 5
    assert run.scans_per_second == pytest.approx(800 / run.seconds)
    assert run.memory_mb > 1
    client = AdminClient({"bootstrap.servers": settings.kafka_address})
    left = client.list_topics(timeout=10).topics
    assert f"{settings.topic_prefix}visits" not in left
    assert f"{settings.topic_prefix}scans" in left


@pytest.mark.engines
def test_a_job_with_another_answer_is_void(settings: Settings, bench: Bench) -> None:
    given = Input(settings, 1000, 1, 500)
    too_many = bench.run(publishing(300, 201), given)
    assert too_many.problem == "501 visits instead of 500"
    assert too_many.scans_per_second == 0
    died = bench.run(publishing(300, 199, 0), given)
    assert died.problem == "ended by itself with code 1; said at last"
    assert died.visits == 499


@pytest.mark.engines
def test_inputs_share_their_beginning_and_tell_their_marks(settings: Settings) -> None:
    made = make_inputs(settings, [(2_000, 1), (2_000, 100), (150, 100)])
    first = list(zip(range(2_000), scans(1_700_000_000_000), strict=False))
    marks = [(s["person"], s["venue"], s["scanned_at"] // 60_000, s.get("kind")) for _, s in first]
    assert made[2_000, 1].visits == made[2_000, 100].visits == len(set(marks)) < 1_960
    assert made[150, 100].visits == len(set(marks[:150]))
    SCANS.validate_python([scan for _, scan in first])
    client = AdminClient({"bootstrap.servers": settings.kafka_address})  # it must outlive its questions
    ends = {}
    for key, given in made.items():
        asked = client.list_offsets(_latest(given.settings.topic_prefix + "scans"))
        ends[key] = sum(found.result().offset for found in asked.values())
    assert ends == {(2_000, 1): 2_000, (2_000, 100): 20, (150, 100): 2}


def _latest(topic: str) -> dict[TopicPartition, OffsetSpec]:
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    return dict.fromkeys((TopicPartition(topic, number) for number in range(4)), latest)


def a_run(job: str, speed: float, problem: str = "") -> Run:
    """With one scan a record."""
    return Run(job, 1, 1000, 950, 950, 1.0, speed, 10.0, 2.0, 1.0, 80.0, 0.0, problem)


def rows_of_three_rounds() -> list[Row]:
    """The loop is slow in the third round; another job is void once."""
    rounds = [
        [a_run("own", 50), a_run("loop", 100), a_run("other", 10)],
        [a_run("own", 60), a_run("loop", 100), a_run("other", 10, "499 visits | instead of 500")],
        [a_run("own", 28), a_run("loop", 40), a_run("other", 10)],
    ]
    return summarise(rounds, "loop")


def test_ratios_are_taken_within_a_round() -> None:
    own, loop, _ = rows_of_three_rounds()
    assert own.speed and own.ratio and loop.ratio
    assert (own.speed.median, own.speed.least, own.speed.most) == (50, 28, 60)
    assert (own.ratio.median, own.ratio.least, own.ratio.most) == (0.6, 0.5, 0.7)
    assert loop.ratio.text(".2f") == "1.00 (1.00–1.00)"


def test_one_void_round_makes_the_row_void() -> None:
    *_, other = rows_of_three_rounds()
    assert other.speed is other.ratio is None
    assert other.void == "1 of 3 rounds: 499 visits | instead of 500"


def test_the_results_can_be_read(tmp_path: Path) -> None:
    rows = rows_of_three_rounds()
    lines = report.markdown(rows, ["a note"]).splitlines()
    assert len(lines) == 2 + len(rows) + 2
    assert {line.count("|") for line in lines[: 2 + len(rows)]} == {len(report.HEADS) + 1}
    report.picture(rows, "own", tmp_path / "it.svg")
    drawn = (tmp_path / "it.svg").read_text()
    assert drawn.count("<svg") == 1
    report.picture([rows[-1]], "own", tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_slow_jobs_read_the_beginning_of_the_input() -> None:
    assert {size(job, 1_000_000) for job in JOBS.values()} >= {1_000_000, 20_000}
    assert all(size(job, 20_000) >= LEAST_SCANS for job in JOBS.values())
    assert all(size(job, 500) == 500 for job in JOBS.values())


def test_a_quick_run_does_not_touch_the_results() -> None:
    assert parse(["--quick"]).out is None
    assert parse([]).out == Path("docs/benchmarks")


def test_the_machine_is_looked_at() -> None:
    watch = Watch()
    look = watch.look()
    assert look.calibration > 1
    assert 0 <= look.busy <= 1
    assert watch.looks == [look]


def test_an_unknown_part_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_parts(["nothing"])
    assert ended.value.code == 2
    assert "no part is called nothing" in capsys.readouterr().err
