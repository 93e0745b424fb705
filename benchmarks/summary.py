"""From runs to rows: medians over the rounds, their spread, and ratios that are taken within a round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.measuring import Run


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of the rounds."""

    median: float
    least: float
    most: float

    def text(self, form: str = ",.0f") -> str:
        """`median (least–most)`."""
        return f"{self.median:{form}} ({self.least:{form}}–{self.most:{form}})"


@dataclass(frozen=True, slots=True)
class Row:
    """One job with one packing. `ratio`: its speed against the loop's of the same round. `void`: why it has
    none."""

    job: str
    packed: int
    scans: int
    speed: Spread | None
    ratio: Spread | None
    cpu: Spread | None
    cpu_kafka: Spread | None
    cpu_redis: Spread | None
    memory: Spread | None
    void: str = ""


def spread(values: Iterable[float]) -> Spread | None:
    """None when there is nothing to measure."""
    known = [value for value in values if math.isfinite(value)]
    return Spread(statistics.median(known), min(known), max(known)) if known else None


def summarise(rounds: Sequence[Sequence[Run]], against: str) -> list[Row]:
    """A row for each job and packing, as they first ran. One void run makes its row void."""
    keys = dict.fromkeys((run.job, run.packed) for runs in rounds for run in runs)
    return [_row(rounds, job, packed, against) for job, packed in keys]


def _row(rounds: Sequence[Sequence[Run]], job: str, packed: int, against: str) -> Row:
    pairs = []
    for runs in rounds:
        named = {run.job: run for run in runs if run.packed == packed}
        if job in named:
            pairs.append((named[job], named.get(against)))
    own = [run for run, _ in pairs]
    wrong = [run.problem for run in own if run.problem]
    if wrong:
        void = f"{len(wrong)} of {len(own)} rounds: {wrong[0]}"
        return Row(job, packed, own[0].scans, None, None, None, None, None, None, void)

    def over(value: Callable[[Run], float]) -> Spread | None:
        return spread(map(value, own))

    return Row(
        job,
        packed,
        own[0].scans,
        over(lambda run: run.scans_per_second),
        spread(
            run.scans_per_second / other.scans_per_second
            for run, other in pairs
            if other is not None and other.scans_per_second
        ),
        over(lambda run: run.cpu),
        over(lambda run: run.cpu_kafka),
        over(lambda run: run.cpu_redis),
        over(lambda run: run.memory_mb),
    )
