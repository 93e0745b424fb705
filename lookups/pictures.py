"""Answers as SVG pictures: a person's timeline, a venue's hours, a transmission tree. Local times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from lookups.answers import HourOccupancy, Presence, Window
from lookups.chains import Node
from schemas.times import MS_PER_MINUTE, OFFSET_MINUTES, day_name, local_day

# Text stays text: it can be searched and read aloud. DejaVu, which matplotlib brings, has every Vietnamese
# letter; a fixed salt and no date make the same answer the same bytes.
_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "truyvet",
    "font.family": "DejaVu Sans",
    "font.size": 9,
}
_DEGREE_COLOURS: Final = ("#b2182b", "#ef8a62", "#67a9cf", "#878787")
# More cannot be told apart on a screen, and the file takes seconds to draw.
MOST_PERSONS: Final = 3_000
_MOST_NAMED: Final = 120
_MOST_VENUES: Final = 60


class TooLargeError(ValueError):
    """Nobody could read the picture; the message says what to do instead."""


def timeline(path: Path, title: str, presences: Sequence[Presence], window: Window) -> None:
    """When a person was where: a line a venue, in the order of first visits.

    Raises TooLargeError, and OSError when the file cannot be written.
    """
    venues = list(dict.fromkeys((each.venue.code, each.venue.name) for each in presences))
    if len(venues) > _MOST_VENUES:
        raise TooLargeError(f"{len(venues)} venues do not fit into a picture: choose a shorter window")
    with _figure(path, title, height=1.2 + 0.28 * max(1, len(venues))) as axes:
        for place, (code, _) in enumerate(venues):
            bars = [
                (_day(each.start), _day(each.end) - _day(each.start))
                for each in presences
                if each.venue.code == code
            ]
            axes.broken_barh(bars, (place - 0.35, 0.7), color=_DEGREE_COLOURS[2])
        axes.set_yticks(range(len(venues)), [f"{name} ({code})" for code, name in venues], parse_math=False)
        axes.invert_yaxis()
        _time_axis(axes, window.start, window.end)


def heat_map(path: Path, title: str, hours: Sequence[HourOccupancy], window: Window) -> None:
    """How many were at a venue at once: days down, hours across; hours over the capacity are framed.

    Raises TooLargeError, and OSError when the file cannot be written.
    """
    first, end = (local_day(minute) for minute in (window.minutes[0], window.minutes[1] - 1))
    days = end - first + 1
    if days > 366:
        raise TooLargeError(f"{days} days do not fit into a picture: choose a shorter window")
    peaks = np.zeros((days, 24))
    over = []
    for each in hours:
        minute = each.start // MS_PER_MINUTE
        day, hour = local_day(minute) - first, (minute + OFFSET_MINUTES) // 60 % 24
        peaks[day, hour] = each.peak
        if each.exceeded:
            over.append((hour, day))
    with _figure(path, title, height=1.4 + 0.24 * days) as axes:
        cells = axes.pcolormesh(np.arange(25), np.arange(days + 1), peaks, cmap="YlOrRd", vmin=0)
        for hour, day in over:
            axes.add_patch(matplotlib.patches.Rectangle((hour, day), 1, 1, fill=False, linewidth=1.5))
        axes.set_xticks(np.arange(0, 25, 3))
        axes.set_xlabel("giờ / hour")
        axes.set_yticks(np.arange(days) + 0.5, [day_name(first + day) for day in range(days)])
        axes.invert_yaxis()
        axes.figure.colorbar(cells, ax=axes, label="at once")


def transmission_tree(path: Path, title: str, nodes: Sequence[Node]) -> None:
    """Who was exposed through whom (chains.tree): time across, a branch below another.

    Raises TooLargeError, and OSError when the file cannot be written.
    """
    if len(nodes) > MOST_PERSONS:
        raise TooLargeError(
            f"{len(nodes):,} persons do not fit into a picture (at most {MOST_PERSONS:,}): raise"
            " --min-overlap, give isolation dates, or write a .graphml for a graph program"
        )
    rows = _rows(nodes)
    times = [node.exposed for node in nodes if node.exposed is not None]
    start = min(times, default=0) - 3_600_000
    at = {node.person: _day(start if node.exposed is None else node.exposed) for node in nodes}
    with _figure(path, title, height=min(200.0, 1.5 + 0.2 * len(nodes))) as axes:
        for node in nodes:
            if node.parent is not None:
                x, y = at[node.parent], rows[node.parent]
                axes.plot(
                    [x, x, at[node.person]],
                    [y, rows[node.person], rows[node.person]],
                    color="#bbbbbb",
                    lw=0.8,
                )
        for degree, colour in enumerate(_DEGREE_COLOURS):
            chosen = [node for node in nodes if node.degree == degree]
            axes.scatter(
                [at[node.person] for node in chosen],
                [rows[node.person] for node in chosen],
                color=colour,
                s=18,
                zorder=3,
                label=f"F{degree}: {len(chosen):,}",
            )
        if len(nodes) <= _MOST_NAMED:
            for node in nodes:
                axes.annotate(
                    node.person,
                    (at[node.person], rows[node.person]),
                    (4, 2),
                    textcoords="offset points",
                    fontsize=6,
                )
        axes.set_yticks([])
        axes.invert_yaxis()
        axes.legend(loc="upper right")
        if times:
            end = max(times) + 3_600_000
            # room for the first dot on the left, and on the right for what is written beside the last ones
            _time_axis(axes, start - (end - start) // 50, end + (end - start) // 6)


def _rows(nodes: Sequence[Node]) -> dict[str, int]:
    """Depth first, so that no two branches cross."""
    below: dict[str | None, list[str]] = {}
    for node in nodes:
        below.setdefault(node.parent, []).append(node.person)
    rows: dict[str, int] = {}
    waiting = list(reversed(below.get(None, [])))
    while waiting:
        person = waiting.pop()
        rows[person] = len(rows)
        waiting += reversed(below.get(person, []))
    return rows


@contextmanager
def _figure(path: Path, title: str, height: float) -> Iterator[Any]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", parse_math=False)
        yield axes
        figure.savefig(path, format="svg", metadata={"Date": None})


def _time_axis(axes: Any, start: int, end: int) -> None:
    axes.set_xlim(_day(start), _day(end))
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)


def _day(ms: int) -> float:
    """Local time in matplotlib's days."""
    local = datetime.fromtimestamp(ms / 1000, UTC) + timedelta(minutes=OFFSET_MINUTES)
    found: float = date2num(local.replace(tzinfo=None))
    return found
