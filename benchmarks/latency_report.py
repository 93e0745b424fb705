"""Latencies as a distribution: recorded in an HdrHistogram, printed, plotted, written down."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from hdrh.histogram import HdrHistogram
from rich.console import Console
from rich.table import Table

from benchmarks.pictures import drawing

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
# 1 microsecond to 5 minutes, to three digits.
_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 300_000_000, 3


def histogram(seconds: Iterable[float]) -> HdrHistogram:
    """Values in microseconds. What is longer than the histogram reaches counts as its end."""
    found = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
    for each in seconds:
        found.record_value(min(_HIGHEST_US, max(_LOWEST_US, round(each * 1e6))))
    return found


def figures(seconds: list[float]) -> dict[str, float]:
    """Percentiles in ms, the largest, and how many there are."""
    of = histogram(seconds)
    found = {f"p{percent:g}": round(of.get_value_at_percentile(percent) / 1000, 1) for percent in PERCENTILES}
    return found | {"max": round(of.get_max_value() / 1000, 1), "count": of.get_total_count()}


def lines(rows: Mapping[str, dict[str, float]], goals: Mapping[str, float]) -> list[list[str]]:
    """A table's cells: heads first."""
    names = [f"p{percent:g}" for percent in PERCENTILES] + ["max"]
    cells = [["ms", "goal, p99", *names, "count"]]
    for name, row in rows.items():
        goal = goals.get(name)
        cells.append(
            [
                name,
                "" if goal is None else f"{goal:g}",
                *(f"{row[column]:,.1f}" for column in names),
                f"{row['count']:,}",
            ]
        )
    return cells


def show(cells: list[list[str]], title: str, console: Console) -> None:
    """The table on the console."""
    table = Table(title=title, title_justify="left")
    for place, head in enumerate(cells[0]):
        table.add_column(head, justify="right" if place else "left")
    for row in cells[1:]:
        table.add_row(*row)
    console.print(table)


def markdown(cells: list[list[str]]) -> str:
    """The same for a page."""
    head, *rows = cells
    body = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(body + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def plot(measured: Mapping[str, list[float]], goals: Mapping[str, float], about: str, file: Path) -> None:
    """Latency over percentile, the tail drawn wide: one nine more is one step to the right."""
    ticks = [0.0, 50.0, 90.0, 99.0, 99.9]
    with drawing(file, height=4.5) as (axes,):
        for number, (name, seconds) in enumerate(measured.items()):
            of, count = histogram(seconds), len(seconds)
            at = [100 * place / count for place in range(count)]
            (line,) = axes.step(
                [_place(percent) for percent in at],
                [of.get_value_at_percentile(percent) / 1000 for percent in at],
                where="post",
                label=f"{name} ({count:,})",
            )
            if name in goals:
                axes.plot(
                    [_place(99)],
                    [goals[name]],
                    marker="v" if number else "^",
                    markersize=9,
                    linestyle="none",
                    color=line.get_color(),
                    label=f"goal at p99: {goals[name]:g} ms",
                )
        axes.set_xticks([_place(percent) for percent in ticks], [f"{percent:g} %" for percent in ticks])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("percentile")
        axes.set_ylabel("ms")
        axes.set_title(about, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend()


def _place(percent: float) -> float:
    return -math.log10(1 - percent / 100)


def write(
    folder: Path, measured: Mapping[str, list[float]], goals: Mapping[str, float], facts: dict[str, Any]
) -> None:
    """latency.json, latency.md and latency.svg in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {name: figures(seconds) for name, seconds in measured.items()}
    stages = {name: figures(seconds) for name, seconds in facts["stages"].items()}
    kept = facts | {"ms": rows, "stages": stages, "goals_p99_ms": dict(goals)}
    (folder / "latency.json").write_text(json.dumps(kept, indent=2) + "\n")
    about = facts["about"]
    pages = [about, markdown(lines(rows, goals)), "Where the time goes:", markdown(lines(stages, {}))]
    (folder / "latency.md").write_text("\n".join(f"{page.rstrip()}\n" for page in pages))
    plot(measured, goals, about, folder / "latency.svg")
