"""A4 posters: one page a venue, as people see it at the door.

What never changes between pages is drawn once a document (a PDF form), so that a file of thousands of
posters stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from reportlab.lib.colors import Color, HexColor, white
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

from producers.qr import symbol, typeface
from producers.qr.typeface import BOLD, REGULAR, SEMIBOLD
from schemas.departments import department_name, district_name
from schemas.events import Venue
from schemas.qr import venue_url

INK: Final = HexColor("#10262B")
SOFT_INK: Final = HexColor("#51666B")
TEAL: Final = HexColor("#0B6470")
PALE: Final = HexColor("#E6F2F2")
AMBER: Final = HexColor("#F2A93B")

_WIDTH, _HEIGHT = A4
_MARGIN: Final = 16 * mm
_ROOM: Final = _WIDTH - 2 * _MARGIN
_QR_SIDE: Final = 112 * mm
_FRAME: Final = 3 * mm
_STATIC: Final = "poster"

_STEPS: Final = (
    ("Mở máy ảnh hoặc ứng dụng và quét mã này khi đến.", "Scan this code with your camera when you arrive."),
    ("Khi ra về, quét lại để báo bạn đã rời đi.", "Scan again when you leave."),
    ("Không có điện thoại? Đưa thẻ QR cho nhân viên quét.", "No phone? Let the staff scan your QR card."),
)


@dataclass(frozen=True, slots=True)
class Look:
    """What all posters of one installation share.

    `host` of the URL in the QR code; `kept_days`: how long a visit is kept; `names`: venues by code, to
    name the place that a stall or ward belongs to.
    """

    host: str
    kept_days: int
    names: Mapping[str, Venue] = field(default_factory=dict)


def grouped(code: str) -> str:
    """A code in groups that an eye can hold: C4D8 K2HP. A short code stays whole."""
    if len(code) <= 5:
        return code
    size = 3 if len(code) % 3 == 0 and len(code) % 4 else 4
    return " ".join(code[at : at + size] for at in range(0, len(code), size))


def write_posters(
    venues: Iterable[Venue], path: Path, look: Look, done: Callable[[Venue], None] = lambda _: None
) -> int:
    """Write one PDF with a page for each venue and return how many; `done` is called after each page.

    The file appears only when it is whole. The same venues give the same bytes. Raises OSError.
    """
    typeface.register()
    part = path.with_name(path.name + ".part")
    canvas = Canvas(str(part), pagesize=A4, invariant=1, pageCompression=1)
    canvas.setTitle("Truy vết: mã QR địa điểm")
    canvas.setAuthor("Truy vết")
    canvas.beginForm(_STATIC)
    _draw_static(canvas, look)
    canvas.endForm()
    count = 0
    for venue in venues:
        _draw_page(canvas, venue, look)
        canvas.showPage()
        count += 1
        done(venue)
    try:
        canvas.save()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _centred(canvas: Canvas, y: float, text: str, font: str, *, size: float, color: Color) -> None:
    canvas.setFont(font, size)
    canvas.setFillColor(color)
    canvas.drawCentredString(_WIDTH / 2, y, text)


def _draw_static(canvas: Canvas, look: Look) -> None:
    band = 39 * mm
    canvas.setFillColor(TEAL)
    canvas.rect(0, _HEIGHT - band, _WIDTH, band, stroke=0, fill=1)
    canvas.setFillColor(AMBER)
    canvas.rect(0, _HEIGHT - band - 1.6 * mm, _WIDTH, 1.6 * mm, stroke=0, fill=1)
    _centred(canvas, _HEIGHT - 21.5 * mm, "QUÉT MÃ KHI ĐẾN", BOLD, size=41, color=white)
    _centred(canvas, _HEIGHT - 31.5 * mm, "Scan when you arrive", SEMIBOLD, size=19, color=white)
    _draw_steps(canvas, top=70.5 * mm)
    _draw_promise(canvas, look.kept_days)


def _draw_steps(canvas: Canvas, top: float) -> None:
    gap = 6 * mm
    column = (_ROOM - gap * (len(_STEPS) - 1)) / len(_STEPS)
    for number, (vietnamese, english) in enumerate(_STEPS, 1):
        x = _MARGIN + (number - 1) * (column + gap)
        radius = 4.2 * mm
        canvas.setFillColor(TEAL)
        canvas.circle(x + radius, top - radius, radius, stroke=0, fill=1)
        canvas.setFillColor(white)
        canvas.setFont(BOLD, 14)
        canvas.drawCentredString(x + radius, top - radius - 5, str(number))
        text_x, room = x + 2 * radius + 2.4 * mm, column - 2 * radius - 2.4 * mm
        y = top - 3.6 * mm
        for text, font, size, color in (
            (vietnamese, SEMIBOLD, 12.0, INK),
            (english, REGULAR, 10.0, SOFT_INK),
        ):
            canvas.setFont(font, size)
            canvas.setFillColor(color)
            for line in typeface.wrap(text, font, size, room):
                canvas.drawString(text_x, y, line)
                y -= size * 1.25
            y -= 1.2


def _draw_promise(canvas: Canvas, kept_days: int) -> None:
    """Why, and what is kept: a pseudonym, never a name or a phone number (see schemas.events.Scan)."""
    bottom, height = 18 * mm, 22.5 * mm
    canvas.setFillColor(PALE)
    canvas.roundRect(_MARGIN, bottom, _ROOM, height, 2.5 * mm, stroke=0, fill=1)
    lines = (
        ("Nếu có ca bệnh ở cùng nơi, cùng lúc với bạn, bạn sẽ sớm được báo.", SEMIBOLD, 10.8, INK),
        ("If someone infectious was here when you were, you can be warned early.", REGULAR, 9.4, SOFT_INK),
        (
            f"Chỉ lưu một mã số thay cho bạn, không lưu tên hay số điện thoại; xóa sau {kept_days} ngày.",
            SEMIBOLD,
            10.8,
            INK,
        ),
        (
            f"Only a number stands for you: no name, no phone number; deleted after {kept_days} days.",
            REGULAR,
            9.4,
            SOFT_INK,
        ),
    )
    y = bottom + height - 5.6 * mm
    for row, (text, font, size, color) in enumerate(lines):
        fitted, _ = typeface.fit(
            text, font, (size, size - 0.5, size - 1), room=_ROOM - 8 * mm, height=size * 1.3
        )
        _centred(canvas, y, text, font, size=fitted, color=color)
        y -= (5.7 if row == 1 else 4.6) * mm


def _draw_page(canvas: Canvas, venue: Venue, look: Look) -> None:
    name = typeface.composed(venue.name)
    canvas.bookmarkPage(venue.code)
    canvas.addOutlineEntry(f"{name} ({grouped(venue.code)})", venue.code)
    canvas.doForm(_STATIC)

    # the name's block keeps its height, so that the symbol is at the same place on every poster
    middle, block = _HEIGHT - 58.5 * mm, 25 * mm
    size, lines = typeface.fit(
        name, BOLD, (32, 28, 25, 22, 19, 16, 13), room=_ROOM, height=block, leading=1.2
    )
    step = size * 1.2
    y = middle + (len(lines) - 1) * step / 2 - size * 0.34
    for line in lines:
        _centred(canvas, y, line, BOLD, size=size, color=INK)
        y -= step
    parent = look.names.get(venue.parent) if venue.parent else None
    district = district_name(venue.district)
    place = f"{typeface.composed(parent.name)} · {district}" if parent else district
    place_size, places = typeface.fit(place, SEMIBOLD, (14, 12.5, 11, 9.5), room=_ROOM, height=14 * 1.3)
    _centred(canvas, _HEIGHT - 77 * mm, places[0], SEMIBOLD, size=place_size, color=SOFT_INK)

    x, y = (_WIDTH - _QR_SIDE) / 2, _HEIGHT - 84.5 * mm - _QR_SIDE
    canvas.setFillColor(TEAL)
    outer = _QR_SIDE + 2 * _FRAME
    canvas.roundRect(x - _FRAME, y - _FRAME, outer, outer, 4.5 * mm, stroke=0, fill=1)
    symbol.draw(canvas, venue_url(look.host, venue.code), x, y, _QR_SIDE)

    code = grouped(venue.code)
    spacing = 2.0
    code_size = 38.0
    code_width = typeface.width(code, BOLD, code_size) + spacing * (len(code) - 1)
    text = canvas.beginText((_WIDTH - code_width) / 2, y - _FRAME - 14 * mm)
    text.setFont(BOLD, code_size)
    text.setFillColor(INK)
    text.setCharSpace(spacing)
    text.textOut(code)
    text.setCharSpace(0)
    canvas.drawText(text)
    hint = "Mã địa điểm, để nhập tay · Venue code, to type by hand"
    _centred(canvas, y - _FRAME - 20 * mm, hint, REGULAR, size=10, color=SOFT_INK)

    lead = department_name(venue.department)
    size, fitted = typeface.fit(
        f"Đơn vị chủ quản · Lead department: {lead}", SEMIBOLD, (10, 9, 8), room=_ROOM * 0.66, height=13
    )
    canvas.setFont(SEMIBOLD, size)
    canvas.setFillColor(INK)
    canvas.drawString(_MARGIN, 11 * mm, fitted[0])
    canvas.setFont(REGULAR, 8)
    canvas.setFillColor(SOFT_INK)
    canvas.drawRightString(_WIDTH - _MARGIN, 11 * mm, "Truy vết · contact tracing")
