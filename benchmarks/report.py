"""What a run leaves behind: the table, the figures, and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import Quiet
from benchmarks.measuring import Run
from benchmarks.pictures import INK, OTHERS, OURS, drawing
from benchmarks.summary import Row, Spread

HEADS = (
    "job",
    "scans a record",
    "scans read",
    "scans/s: median (range)",
    "against the loop",
    "CPU s a million: job",
    "Kafka",
    "Redis",
    "memory MB, at most",
)


def cells(row: Row) -> list[str]:
    """A row as text."""
    start = [row.job, str(row.packed), f"{row.scans:,}"]
    if row.void:
        return [*start, f"void: {row.void}", *[""] * 5]

    def said(value: Spread | None, form: str = ",.0f") -> str:
        return value.text(form) if value else "–"

    def middle(value: Spread | None) -> str:
        return f"{value.median:.1f}" if value else "–"

    return [
        *start,
        said(row.speed),
        said(row.ratio, ".2f"),
        middle(row.cpu),
        middle(row.cpu_kafka),
        middle(row.cpu_redis),
        f"{row.memory.most:,.0f}" if row.memory else "–",
    ]


def markdown(rows: Sequence[Row], about: Sequence[str]) -> str:
    """The table and, below it, how it was measured."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells(row))} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {line}" for line in about)]) + "\n"


def figures(
    rows: Sequence[Row], rounds: Sequence[Sequence[Run]], looks: Sequence[Quiet], facts: Mapping[str, Any]
) -> str:
    """Everything as JSON: each run of each round, and the summary."""
    found = {
        **facts,
        "rows": [asdict(row) for row in rows],
        "before_each_round": [asdict(look) for look in looks],
        "rounds": [[asdict(run) for run in runs] for runs in rounds],
    }
    return json.dumps(found, indent=1) + "\n"


def picture(rows: Sequence[Row], own: str, path: Path) -> None:
    """Bars of the medians with the range of the rounds, a panel for each packing, as SVG."""
    shown = [row for row in rows if row.speed]
    packings = sorted({row.packed for row in shown})
    if not packings:
        return
    heights = [max(1, sum(row.packed == packed for row in shown)) for packed in packings]
    each = (0.6 + 0.36 * len(shown)) / len(packings)
    with drawing(path, len(packings), each, sharex=True, height_ratios=heights) as panels:
        for axes, packed in zip(panels, packings, strict=True):
            here = sorted(
                (row for row in shown if row.packed == packed),
                key=lambda row: row.speed.median if row.speed else 0,
            )
            speeds = [row.speed for row in here if row.speed]
            medians = [speed.median for speed in speeds]
            axes.barh(
                [row.job for row in here],
                medians,
                xerr=[
                    [speed.median - speed.least for speed in speeds],
                    [speed.most - speed.median for speed in speeds],
                ],
                color=[OURS if row.job == own else OTHERS for row in here],
                error_kw={"elinewidth": 1, "capsize": 3, "ecolor": INK},
            )
            axes.set_title(
                "one scan a record" if packed == 1 else f"{packed} scans a record", loc="left", fontsize=9
            )
            axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f} k")
        panels[-1].set_xlabel("scans a second, median of the rounds; the line is their range")
