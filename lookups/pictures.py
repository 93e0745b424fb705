"""Answers as SVG pictures: a person's timeline, a venue's hours, a transmission tree. Local times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from lookups.answers import HourOccupancy, Presence, Window
from lookups.chains import Node
from schemas.times import MS_PER_MINUTE, OFFSET_MINUTES, day_name, format_time, local_day

# Text stays text: it can be searched and read aloud. DejaVu, which matplotlib brings, has every Vietnamese
# letter; a fixed salt and no date make the same answer the same bytes.
_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "truyvet",
    "font.family": "DejaVu Sans",
    "font.size": 9,
}
_DEGREE_COLOURS: Final = ("#b2182b", "#ef8a62", "#67a9cf", "#878787")
_SPACES: Final = {
    "": "http://www.w3.org/2000/svg",
    "xlink": "http://www.w3.org/1999/xlink",
    "cc": "http://creativecommons.org/ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
}
# More cannot be told apart on a screen, and the file takes seconds to draw.
MOST_PERSONS: Final = 3_000
_ROW_INCHES: Final = 0.16  # of a person: the text beside a dot is half as high
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
        axes.set_ylim(max(1, len(venues)) - 0.5, -0.5)
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
        # it took long to find out: whoever asked has at least the numbers, to see by how much it is too large
        count = Counter(node.degree for node in nodes)
        degrees = ", ".join(f"F{degree}: {count[degree]:,}" for degree in sorted(count) if degree)
        raise TooLargeError(
            f"{len(nodes):,} persons ({degrees}) do not fit into a picture (at most {MOST_PERSONS:,}):"
            " --out with .graphml (for graph programs), .csv or .parquet takes them all; for fewer,"
            " give isolation dates, or ask about the person with a higher --min-overlap"
            " or a shorter window (--from, --to)"
        )
    rows, at = _rows(nodes), _times(nodes)
    known = [at[node.person] for node in nodes if node.person in at]
    first = min(known, default=0)
    x = {node.person: _day(at.get(node.person, first)) for node in nodes}
    # rows of a fixed height, one of them free above the first: what is around them does not grow with them
    with _figure(path, title, height=1.5 + _ROW_INCHES * (len(nodes) + 1), told=_told(nodes)) as axes:
        branches = [
            ((x[node.parent], rows[node.parent]), (x[node.parent], row), (x[node.person], row))
            for node in nodes
            if node.parent is not None
            for row in [rows[node.person]]
        ]
        axes.add_collection(LineCollection(branches, colors="#bbbbbb", linewidths=0.8, zorder=1))
        for degree, colour in enumerate(_DEGREE_COLOURS):
            chosen = [node for node in nodes if node.degree == degree]
            axes.scatter(
                [x[node.person] for node in chosen],
                [rows[node.person] for node in chosen],
                color=colour,
                s=18,
                zorder=3,
                label=f"F{degree}: {len(chosen):,}",
                gid=f"F{degree}",
            )
        for node in nodes:
            label = axes.annotate(
                node.person,
                (x[node.person], rows[node.person]),
                (4, 2),
                textcoords="offset points",
                fontsize=6,
            )
            label.set_in_layout(False)  # else the layout measures thousands of them, several times
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_ylim(len(nodes) - 0.5, -1)
        axes.figure.legend(loc="outside upper right", ncols=len(_DEGREE_COLOURS))
        if known:
            # room for the first dot on the left, and on the right for what is written beside the last ones
            span = max(max(known) - first, 3_600_000)
            _time_axis(axes, first - span // 40, max(known) + span // 6)
            above = axes.secondary_xaxis("top")  # nobody scrolls down a thousand rows to see when it was
            locator = AutoDateLocator()
            above.xaxis.set_major_locator(locator)
            above.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _times(nodes: Sequence[Node]) -> dict[str, int]:
    """When each node stands, ms. The first case: when it met the first of its contacts, for it was there."""
    found = {node.person: node.exposed for node in nodes if node.exposed is not None}
    for first in (node.person for node in nodes if node.exposed is None):
        met = [node.exposed for node in nodes if node.parent == first and node.exposed is not None]
        if met:
            found[first] = min(met)
    return found


def _told(nodes: Sequence[Node]) -> dict[str, list[str]]:
    """What a dot says under the mouse: by degree, in the order of the nodes."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        when = "" if node.exposed is None else f", {format_time(node.exposed)}, through {node.parent}"
        found.setdefault(f"F{node.degree}", []).append(f"{node.person}: F{node.degree}{when}")
    return found


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
def _figure(
    path: Path, title: str, height: float, told: Mapping[str, Sequence[str]] | None = None
) -> Iterator[Any]:
    """`told`: tooltips of the dots that were drawn under a gid."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", parse_math=False)
        yield axes
        drawn = BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        path.write_bytes(_with_tooltips(drawn.getvalue(), told) if told else drawn.getvalue())


def _with_tooltips(svg: bytes, told: Mapping[str, Sequence[str]]) -> bytes:
    """A picture whose dots say something under the mouse; matplotlib can only link them."""
    for prefix, space in _SPACES.items():
        ElementTree.register_namespace(prefix, space)
    root = ElementTree.fromstring(svg)  # noqa: S314 (our own)
    for gid, lines in told.items():
        dots = root.findall(f".//*[@id='{gid}']//{{{_SPACES['']}}}use")
        for dot, line in zip(dots, lines, strict=True):
            ElementTree.SubElement(dot, f"{{{_SPACES['']}}}title").text = line
    found: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=True)
    return found


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
