"""The ingest job beside the same work in other frameworks: python -m benchmarks.throughput [--quick]

Read scans, check every field, drop duplicates, keep venue-hour buckets, publish each unique visit, commit
after durability: the same input, engines and machine for all, in turn, several rounds. What is compared are
ratios within a round; absolute figures belong to the machine. Writes docs/benchmarks/throughput.json, .md and
.svg.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import machine, report
from benchmarks.inputs import make_inputs
from benchmarks.jobs import BENCH_PYTHON, JOBS, LOOP, OWN, STREAMS, Job
from benchmarks.measuring import Bench, Engines, Run
from benchmarks.summary import Row, summarise
from deploy.local import engines
from schemas.settings import Settings

QUICK_SCANS = 30_000
QUICK_JOBS = (OWN, LOOP, "kafka streams, 2 threads")  # most of a short run is the start of its processes
LEAST_SCANS = 10_000  # below this a run is over before it has begun


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.throughput", description=__doc__)
    parser.add_argument("--scans", type=int, help="of the whole input; slow jobs read its beginning")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--packed", type=int, action="append", help="scans a record (default: 1 and 100)")
    parser.add_argument("--job", action="append", choices=list(JOBS), help="only this one (repeatable)")
    parser.add_argument("--quick", action="store_true", help="a few jobs, small; writes no results by itself")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args(argv)
    options.scans = options.scans or (QUICK_SCANS if options.quick else 1_000_000)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.packed = options.packed or ([1] if options.quick else [1, 100])
    if options.quick and not options.job:
        options.job = list(QUICK_JOBS)
    if options.out is None and not options.quick and options.job is None:
        options.out = Path("docs/benchmarks")
    return options


def chosen_jobs(names: Sequence[str] | None, console: Console) -> list[Job]:
    """Those named, or all; what cannot run here is said and left out."""
    jobs = []
    for job in JOBS.values():
        if names and job.name not in names:
            continue
        if why := job.missing():
            console.print(f"[yellow]{job.name}: left out, {why}[/]")
        else:
            jobs.append(job)
    return jobs


def size(job: Job, scans: int) -> int:
    """How many scans a job reads."""
    return min(scans, max(LEAST_SCANS, round(scans * job.share)))


def measure(
    options: argparse.Namespace, jobs: Sequence[Job], console: Console, watch: machine.Watch
) -> Iterator[list[Run]]:
    """Round after round; each begins with another job, so that no place in the order is for ever."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        kafka, controller, redis_port = engines.free_ports(3)
        launches = [
            engines.kafka(Path(folder) / "kafka", kafka, controller),
            engines.redis(Path(folder) / "redis", redis_port),
        ]
        with engines.scratch(launches, Path(folder) / "logs"), Progress(console=console) as progress:
            base = Settings(
                kafka=f"127.0.0.1:{kafka}",
                redis=f"redis://127.0.0.1:{redis_port}/0",
                metrics_port=engines.free_base((0,)),
            )
            sizes = [(size(job, options.scans), packed) for job in jobs for packed in options.packed]
            task = progress.add_task("input", total=max(count for count, _ in sizes))
            inputs = make_inputs(base, sizes, lambda more: progress.advance(task, more))
            bench = Bench(base.kafka_address, _processes())
            progress.update(
                task,
                total=options.rounds * len(options.packed) * len(jobs),
                completed=0,
                description="rounds",
            )
            for number in range(options.rounds):
                runs: list[Run] = []
                if (look := watch.look()).why:
                    console.print(f"[yellow]round {number + 1} is not quiet: {look.why}[/]")
                turn = number % len(jobs)
                for packed in options.packed:
                    for job in (*jobs[turn:], *jobs[:turn]):
                        progress.update(task, description=f"{number + 1}: {job.name}, {packed} a record")
                        run = bench.run(job, inputs[size(job, options.scans), packed])
                        said = (
                            run.problem or f"{run.scans_per_second:,.0f} scans/s, others {run.others:.1f} s"
                        )
                        console.print(f"{number + 1}  {job.name}, {packed} a record: {said}", highlight=False)
                        runs.append(run)
                        progress.advance(task)
                yield runs


def _processes() -> Engines:
    below = {child.name(): child for child in psutil.Process().children()}
    return Engines(below["java"], below["redis-server"])


def about(options: argparse.Namespace, jobs: Sequence[Job], rounds: int, watch: machine.Watch) -> list[str]:
    """How it was measured, for people."""
    there = machine.describe()
    noisy = [(number, look.why) for number, look in enumerate(watch.looks, 1) if look.why]
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {there['cpu']}, {there['cores']} cores, {there['memory GiB']} GiB, "
        f"{there['system']}; broker, Redis and the job share them.",
        f"{rounds} rounds in turn; ratios are taken within a round, against the {LOOP}."
        + (" Quick: too short for a JVM to warm up, no figures to quote." if options.quick else ""),
        "Machine quiet before each round."
        if not noisy
        else "Not quiet: " + "; ".join(f"round {number}: {why}" for number, why in noisy) + ".",
    ]
    lines += [f"{job.name}: {job.about}." for job in jobs]
    pairs = versions(jobs).items()
    return [*lines, "Versions: " + ", ".join(f"{name} {version}" for name, version in pairs) + "."]


def versions(jobs: Sequence[Job]) -> dict[str, str]:
    """Of everything that was compared."""
    jars = sorted((STREAMS / "libs").glob("kafka-streams-*.jar")) + sorted(
        (STREAMS / "libs").glob("rocksdbjni-*.jar")
    )
    kafka = sorted((engines.KAFKA_HOME / "libs").glob("kafka-server-[0-9]*.jar"))
    others = [(BENCH_PYTHON, job.package) for job in jobs if job.package]
    return machine.versions([*kafka, *jars], others)


def write(
    folder: Path,
    rows: Sequence[Row],
    rounds: Sequence[Sequence[Run]],
    watch: machine.Watch,
    notes: Sequence[str],
) -> None:
    """throughput.json, .md and .svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "throughput.json").write_text(
        report.figures(rows, rounds, watch.looks, {"machine": machine.describe(), "about": list(notes)})
    )
    (folder / "throughput.md").write_text(report.markdown(rows, notes))
    report.picture(rows, OWN, folder / "throughput.svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show the table, write the results; 1 when a run is void."""
    options = parse(sys.argv[1:] if argv is None else argv)
    console = Console(width=None if sys.stdout.isatty() else 150)
    jobs = chosen_jobs(options.job, console)
    watch = machine.Watch()
    rounds: list[list[Run]] = []
    rows: list[Row] = []
    notes: list[str] = []
    for runs in measure(options, jobs, console, watch):
        rounds.append(runs)
        rows = summarise(rounds, LOOP)
        notes = about(options, jobs, len(rounds), watch)
        if options.out:  # after each round: a run that is cut short leaves what it has
            write(options.out, rows, rounds, watch, notes)
    table = Table(*report.HEADS)
    for row in rows:
        table.add_row(*report.cells(row))
    console.print(table)
    for note in notes[:3]:
        console.print(note, highlight=False)
    if options.out:
        console.print(f"written to {options.out}")
    return 1 if any(row.void for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
