"""The typeface of posters and cards: Be Vietnam Pro (SIL Open Font License), drawn for Vietnamese.

It comes as a package, so that a poster looks the same wherever it is printed and no letter depends on
what a machine happens to have installed.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

import fontpkg
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

REGULAR = "BeVietnamPro-Regular"
SEMIBOLD = "BeVietnamPro-SemiBold"
BOLD = "BeVietnamPro-Bold"
_WEIGHTS = {REGULAR: 400, SEMIBOLD: 600, BOLD: 700}


@functools.cache
def register() -> None:
    """Make the typeface known to reportlab; once a process."""
    for name, weight in _WEIGHTS.items():
        pdfmetrics.registerFont(TTFont(name, str(fontpkg.path("Be Vietnam Pro", weight))))


def composed(text: str) -> str:
    """The text with letters and tone marks as one character each (NFC), blanks made single.

    Some keyboards and spreadsheets write ệ as e and two marks, which a PDF would print side by side.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def missing_letters(text: str) -> str:
    """The characters of `text` that the typeface lacks, each once: they would print as an empty box."""
    register()
    glyphs = pdfmetrics.getFont(BOLD).face.charToGlyph
    return "".join(dict.fromkeys(letter for letter in composed(text) if ord(letter) not in glyphs))


def width(text: str, font: str, size: float) -> float:
    """The width of a line, in points."""
    return float(pdfmetrics.stringWidth(text, font, size))


def wrap(text: str, font: str, size: float, room: float) -> list[str]:
    """Lines no wider than `room` points; a single word that is wider is cut where it must be."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if width(longer, font, size) <= room:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while width(line, font, size) > room and len(line) > 1:
            cut = next(
                at for at in range(len(line) - 1, 0, -1) if at == 1 or width(line[:at], font, size) <= room
            )
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line] if line else lines


def fit(
    text: str,
    font: str,
    sizes: Sequence[float],
    *,
    room: float,
    height: float,
    leading: float = 1.22,
) -> tuple[float, list[str]]:
    """The first of `sizes` (largest first) at which the text fits into `room` × `height` points, and its
    lines. At the last size, what does not fit is replaced by an ellipsis."""
    for size in sizes:
        lines = wrap(text, font, size, room)
        if len(lines) * size * leading <= height:
            return size, lines
    size = sizes[-1]
    lines = wrap(text, font, size, room)
    keep = max(1, int(height / (size * leading)))
    last = lines[keep - 1]
    while last and width(last + "…", font, size) > room:
        last = last[:-1]
    return size, [*lines[: keep - 1], last.rstrip() + "…"]
