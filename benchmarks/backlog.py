"""What an ingest worker holds while it works off a backlog: python -m benchmarks.backlog

Ten million scans wait in the topic before the worker (`truyvet run ingest`, a process of its own) begins, as
after a night without one. Five times a second its memory is read, until nothing waits any more: a worker that
fetched faster than it works would grow with the backlog. Once with 100 scans a record, once with one.
Writes docs/benchmarks/backlog.json, .md and .svg.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.progress import Progress

from benchmarks.background import PACKED, Background
from benchmarks.inputs import Filling, register_venues, venue_codes
from benchmarks.pictures import BACK, INK, OURS, drawing
from benchmarks.running import OUT, cpu_of, installation, markdown, worker, write
from deploy.demo.watch import lag
from deploy.local.topics import TopicAdmin
from schemas import topics
from schemas.settings import Settings

GOAL_MB: Final = 300
_TICK_S: Final = 0.2
_PATIENCE_S: Final = 1_800.0  # of a worker at a tenth of the usual speed; past it, it has stalled


def _fill(settings: Settings, scans: int, packed: int, progress: Progress) -> None:
    """Scans of the last minute, `packed` a record. Raises SystemExit when Kafka does not take them all."""
    filling = Filling(settings)
    topic, made = settings.topic(topics.SCANS), Background(settings, venue_codes(), 7)
    task = progress.add_task(f"filling, {packed} a record", total=scans)
    for number in range(scans // PACKED):
        record = made.record(time.time_ns() // 1_000_000)
        values = [record] if packed == PACKED else list(map(orjson.dumps, orjson.loads(record)))
        for place, value in enumerate(values):
            filling.put(topic, value, (number + place) % topics.SCANS.partitions)
        progress.advance(task, PACKED)
    filling.finish()


def _work_off(settings: Settings, scans: int, packed: int, progress: Progress) -> dict[str, Any]:
    """Seconds, memory in MB and scans that wait, from the first commit to the last."""
    task = progress.add_task(f"working off, {packed} a record", total=scans)
    times: list[float] = []
    memory: list[float] = []
    waiting: list[int] = []
    with worker(settings, "truyvet", "run", "ingest") as process:
        started = time.monotonic()
        while not waiting or waiting[-1]:
            time.sleep(_TICK_S)
            now = time.monotonic() - started
            if now > _PATIENCE_S:
                raise SystemExit(f"the worker has stalled: {waiting[-1:]} scans wait")
            left = lag(settings, "ingest")
            if left is None:  # Kafka is too busy to say
                continue
            times.append(round(now, 2))
            memory.append(round(process.memory_info().rss / 1e6, 1))
            waiting.append(left * packed)
            progress.update(task, completed=scans - waiting[-1])
        cpu = cpu_of(process)
    begun = next(at for at, left in enumerate(waiting) if left < scans)
    half = begun + (len(memory) - begun) // 2
    seconds = times[-1] - times[begun]
    return {
        "packed": packed,
        "scans": scans,
        "scans_per_second": round(waiting[begun] / seconds),
        "cpu_s_a_million": round(cpu / scans * 1e6, 1),
        "memory_mb": max(memory),
        # what grows with the backlog is larger in its second half
        "memory_mb_by_half": [max(memory[: half + 1]), max(memory[half:])],
        "times": times,
        "memory": memory,
        "waiting": waiting,
    }


def picture(result: Mapping[str, Any], path: Path) -> None:
    """What waits, and the memory of the worker meanwhile."""
    runs = result["runs"]
    with drawing(path, len(runs)) as panels:
        for axes, run in zip(panels, runs, strict=True):
            axes.fill_between(run["times"], [left / 1e6 for left in run["waiting"]], color=BACK)
            axes.set_ylabel("million scans waiting")
            beside = axes.twinx()
            beside.plot(run["times"], run["memory"], color=OURS)
            beside.axhline(GOAL_MB, color=INK, linewidth=0.8, linestyle=":")
            beside.set_ylim(0, max(GOAL_MB * 1.1, run["memory_mb"] * 1.1))
            beside.set_ylabel("memory of the worker, MB", color=OURS)
            axes.set_title(f"{run['packed']} a record", loc="left", fontsize=9)
            axes.set_xlabel("seconds")


def _text(runs: Sequence[dict[str, Any]]) -> str:
    table = markdown(
        ("scans a record", "scans waiting", "scans/s", "CPU s a million", "memory MB, at most", "by half"),
        [
            (
                run["packed"],
                f"{run['scans']:,}",
                f"{run['scans_per_second']:,}",
                run["cpu_s_a_million"],
                f"{run['memory_mb']:.0f}",
                " / ".join(f"{most:.0f}" for most in run["memory_mb_by_half"]),
            )
            for run in runs
        ],
    )
    return (
        f"# A backlog\n\n{table}\nGoal: {GOAL_MB} MB, and no more for more that waits. `by half`: the most in"
        " the first and in the second half of the time. `python -m benchmarks.backlog`\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Fill, work off, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=10_000_000)
    parser.add_argument("--packed", type=int, choices=(1, PACKED), help="only this packing")
    parser.add_argument("--quick", action="store_true", help="100,000 scans; nothing is written")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(argv)
    scans = 100_000 if options.quick else options.scans
    console, runs = Console(), []
    both = (PACKED,) if options.quick else (PACKED, 1)
    for packed in (options.packed,) if options.packed else both:
        with (
            installation(["kafka", "redis"], redis_maxmemory="0") as settings,
            Progress(console=console) as progress,
        ):
            TopicAdmin(settings).apply()
            register_venues(settings, venue_codes())
            _fill(settings, scans, packed, progress)
            runs.append(_work_off(settings, scans, packed, progress))
    text = _text(runs)
    console.print(text, markup=False)
    if not options.quick:
        write("backlog", {"goal_mb": GOAL_MB, "runs": runs}, text, options.out, picture)


if __name__ == "__main__":
    main()
