"""The QR symbol itself: a matrix of modules, drawn as vectors so that it is sharp at any size."""

from __future__ import annotations

import qrcode
from qrcode.constants import ERROR_CORRECT_H
from reportlab.pdfgen.canvas import Canvas

QUIET_ZONE = 4  # modules of white on every side (ISO/IEC 18004): without it a camera does not find the symbol


def modules(payload: str) -> list[list[bool]]:
    """The dark modules of the symbol, without its quiet zone.

    Error correction H: a third of a poster may be torn, wet or written over.
    """
    code = qrcode.QRCode(error_correction=ERROR_CORRECT_H, border=0)
    code.add_data(payload)
    code.make(fit=True)
    return [[bool(dark) for dark in row] for row in code.get_matrix()]


def draw(canvas: Canvas, payload: str, x: float, y: float, side: float) -> None:
    """Draw the symbol in black into a square of `side` points with the lower left corner (x, y).

    The square holds the quiet zone; whatever is beneath it is covered with white.
    """
    matrix = modules(payload)
    module = side / (len(matrix) + 2 * QUIET_ZONE)
    canvas.saveState()
    canvas.setFillGray(1)
    canvas.rect(x, y, side, side, stroke=0, fill=1)
    canvas.setFillGray(0)
    # one path for all: a renderer then leaves no hairlines between modules
    path = canvas.beginPath()
    for row, darks in enumerate(matrix):
        bottom = y + side - (QUIET_ZONE + row + 1) * module
        column = 0
        while column < len(darks):
            start = column
            while column < len(darks) and darks[column]:
                column += 1
            if column > start:
                path.rect(x + (QUIET_ZONE + start) * module, bottom, (column - start) * module, module)
            column += 1
    canvas.drawPath(path, stroke=0, fill=1)
    canvas.restoreState()
