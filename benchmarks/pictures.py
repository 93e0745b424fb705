"""What the pictures of measurements share: size, colours, a file that is the same for the same figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS: Final = "#b5402f"
OTHERS: Final = "#8aa1b1"
BACK: Final = "#d5dee4"
INK: Final = "#333333"


@contextmanager
def drawing(path: Path, panels: int = 1, height: float = 2.6, **shared: Any) -> Iterator[Sequence[Axes]]:
    """Panels below each other, of so many inches each; written as SVG at the end. `shared`: as
    Figure.subplots."""
    with mpl.rc_context({"svg.hashsalt": "truyvet", "font.size": 9}):
        figure = Figure(figsize=(9, height * panels), layout="constrained")
        axes = list(figure.subplots(panels, 1, squeeze=False, **shared)[:, 0])
        for each in axes:
            each.spines[["top", "right"]].set_visible(False)
        yield axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def key(axes: Axes) -> None:
    """What is what, above the panel: within it would stand on a bar."""
    axes.legend(frameon=False, ncols=8, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)


def goal(axes: Axes, value: float, words: str) -> None:
    """A line at what was wanted."""
    axes.axvline(value, color=INK, linewidth=0.9, linestyle=":", label=words)
    key(axes)


def bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], ours: Sequence[bool], form: str = "{:,.0f}"
) -> None:
    """Lying bars, the first on top, each with its figure."""
    drawn = axes.barh(names, values, color=[OURS if own else OTHERS for own in ours])
    axes.bar_label(drawn, [form.format(value) for value in values], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
