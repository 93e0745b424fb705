"""A personal card in the size of a bank card (ISO/IEC 7810 ID-1), which a venue scans."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import pypdfium2
from reportlab.lib.colors import white
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

from producers.qr import symbol, typeface
from producers.qr.poster import AMBER, INK, SOFT_INK, TEAL
from producers.qr.typeface import BOLD, REGULAR, SEMIBOLD
from schemas.qr import person_url

SIZE: Final = (85.6 * mm, 53.98 * mm)
PNG_DPI: Final = 600  # what a card printer resolves

_LINES: Final = (
    ("Đưa thẻ này cho nhân viên", SEMIBOLD, 7.4, INK, 9.4),
    ("quét khi bạn đến.", SEMIBOLD, 7.4, INK, 9.0),
    ("Show this card when you arrive.", REGULAR, 6.2, SOFT_INK, 12.5),
    ("Thẻ chỉ mang một mã số,", SEMIBOLD, 6.6, INK, 8.4),
    ("không có tên hay số điện thoại.", SEMIBOLD, 6.6, INK, 8.0),
    ("A number only: no name, no phone.", REGULAR, 6.0, SOFT_INK, 0.0),
)


def card_pdf(person: str, host: str) -> bytes:
    """The card of a person (16 hex digits) as a one-page PDF; the same person gives the same bytes."""
    typeface.register()
    width, height = SIZE
    whole = io.BytesIO()
    canvas = Canvas(whole, pagesize=SIZE, invariant=1, pageCompression=1)
    canvas.setTitle("Truy vết: thẻ QR cá nhân")
    canvas.setAuthor("Truy vết")
    band = 11 * mm
    canvas.setFillColor(TEAL)
    canvas.rect(0, height - band, width, band, stroke=0, fill=1)
    canvas.setFillColor(AMBER)
    canvas.rect(0, height - band - 0.7 * mm, width, 0.7 * mm, stroke=0, fill=1)
    canvas.setFillColor(white)
    canvas.setFont(BOLD, 13.5)
    canvas.drawString(5 * mm, height - 7.6 * mm, "THẺ QR CÁ NHÂN")
    canvas.setFont(SEMIBOLD, 8.5)
    canvas.drawRightString(width - 5 * mm, height - 7.3 * mm, "Personal QR card")

    side = 40 * mm
    symbol.draw(canvas, person_url(host, person), 1.2 * mm, 0.9 * mm, side)

    x = side + 2.2 * mm
    y = height - band - 8 * mm
    for text, font, size, color, step in _LINES:
        canvas.setFont(font, size)
        canvas.setFillColor(color)
        canvas.drawString(x, y, text)
        y -= step
    canvas.setFillColor(SOFT_INK)
    canvas.setFont(REGULAR, 6)
    canvas.drawString(x, 10.5 * mm, "Mã số · Number")
    canvas.setFillColor(INK)
    canvas.setFont(BOLD, 8.6)
    canvas.drawString(x, 6 * mm, " ".join(person[at : at + 4] for at in range(0, len(person), 4)))
    canvas.showPage()
    canvas.save()
    return whole.getvalue()


def card_png(person: str, host: str, dpi: int = PNG_DPI) -> bytes:
    """The same card as a picture."""
    document = pypdfium2.PdfDocument(card_pdf(person, host))
    try:
        picture = document[0].render(scale=dpi / 72).to_pil()
    finally:
        document.close()
    whole = io.BytesIO()
    picture.save(whole, "PNG", dpi=(dpi, dpi), optimize=True)
    return whole.getvalue()


def write_card(person: str, path: Path, host: str) -> None:
    """Write the card as the name's ending says, .pdf or .png. Raises ValueError for another, OSError."""
    writers = {".pdf": card_pdf, ".png": card_png}
    write = writers.get(path.suffix.lower())
    if write is None:
        raise ValueError(f"{path}: the name must end in .pdf or .png")
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(write(person, host))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
