"""The report of a case for the epidemic board, as a PDF in Vietnamese with English beside it.

It counts contacts and names none of them; only the index case's own places and times are in it, under its
pseudonym. Pure: the answers come in, a file comes out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from reportlab.graphics.charts.barcharts import VerticalBarChart
from reportlab.graphics.shapes import Drawing, Line, Rect, String
from reportlab.lib.colors import HexColor, white
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from lookups.answers import Contact, Link, Place, Presence, Window
from producers.qr import typeface
from producers.qr.typeface import BOLD, REGULAR, SEMIBOLD, composed
from schemas.departments import department_name, department_of, district_name
from schemas.times import MS_PER_MINUTE, day_name, day_start, format_time, local_day

_INK: Final = HexColor("#10262B")
_SOFT: Final = HexColor("#51666B")
_TEAL: Final = HexColor("#0B6470")
_PALE: Final = HexColor("#E6F2F2")
_F1: Final = HexColor("#C8502D")
_F2: Final = HexColor("#E7B26A")
_MARGIN: Final = 16 * mm
_ROOM: Final = A4[0] - 2 * _MARGIN
_LABELS: Final = 52 * mm  # of the timeline's venues
_MOST_VENUES: Final = 40  # more do not fit on a page; the table has them all
_TIMES_A_ROW: Final = 20


@dataclass(frozen=True, slots=True)
class Report:
    """What a report is made of. `contacts`: the exposures of the case that stand; `links`: its chain.

    `made_at` ms.
    """

    case_id: str
    person: str
    window: Window
    purpose: str
    made_at: int
    presences: Sequence[Presence]
    contacts: Sequence[Contact]
    links: Sequence[Link]


def first_exposures(report: Report) -> tuple[dict[str, tuple[str, Place]], dict[str, tuple[str, Place]]]:
    """F1 and F2: person → date and place of the first exposure. An F1 is no F2."""
    f1: dict[str, tuple[str, Place]] = {}
    for contact in sorted(report.contacts, key=lambda contact: (contact.first, contact.venue.code)):
        f1.setdefault(contact.person, (contact.date, contact.venue))
    f2: dict[str, tuple[str, Place]] = {}
    for link in sorted(report.links, key=lambda link: (link.first, link.venue.code)):
        if link.degree == 2 and link.person not in f1 and link.person != report.person:
            f2.setdefault(link.person, (link.date, link.venue))
    return f1, f2


def write_report(report: Report, path: Path) -> None:
    """Write it; the file appears only when it is whole, with the same bytes for the same report.

    Raises OSError.
    """
    typeface.register()
    f1, f2 = first_exposures(report)
    part = path.with_name(path.name + ".part")
    document = SimpleDocTemplate(
        str(part),
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN,
        bottomMargin=_MARGIN,
        title=f"Truy vết: {report.case_id}",
        author="Truy vết",
        invariant=1,
    )
    story: list[Any] = [
        _text("BÁO CÁO TRUY VẾT CA BỆNH", BOLD, 19, _TEAL),
        _text("Case report for the epidemic board", REGULAR, 10, _SOFT),
        Spacer(1, 4 * mm),
        _table(_about(report, len(f1), len(f2)), (62 * mm, _ROOM - 62 * mm), heading=False),
        _heading("Lịch trình ca chỉ điểm", "the index case's places and times"),
        _timeline(report),
        _heading("Địa điểm theo cơ quan chủ quản", "venues by lead department"),
        _table(_by_department(report), (58 * mm, 67 * mm, 18 * mm, _ROOM - 143 * mm)),
        _heading("F1, F2 theo ngày", "by the day of the first exposure"),
        _bars(f1, f2),
        _heading("F1, F2 theo ngày và địa bàn", "by day and district"),
        _table(_by_district(f1, f2), (35 * mm, _ROOM - 79 * mm, 22 * mm, 22 * mm)),
        Spacer(1, 4 * mm),
        _text(
            "F1: có tiếp xúc với ca bệnh, theo các phơi nhiễm còn hiệu lực. F2: cùng nơi, cùng lúc với F1 sau"
            " khi F1 phơi nhiễm. Mỗi người tính một lần, tại lần phơi nhiễm đầu tiên. Báo cáo không nêu người"
            " tiếp xúc; việc lập báo cáo được ghi vào nhật ký tra cứu.",
            REGULAR,
            8,
            _SOFT,
        ),
    ]
    try:
        document.build(story)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _text(words: str, font: str, size: float, color: HexColor = _INK) -> Paragraph:
    style = ParagraphStyle(font, fontName=font, fontSize=size, leading=size * 1.35, textColor=color)
    return Paragraph(escape(composed(words)), style)


def _heading(vietnamese: str, english: str) -> Table:
    table = Table(
        [[_text(vietnamese, BOLD, 12, _TEAL), _text(english, REGULAR, 8.5, _SOFT)]],
        (90 * mm, _ROOM - 90 * mm),
    )
    table.setStyle(
        TableStyle(
            [
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 14),
                ("VALIGN", (0, 0), (-1, -1), "BOTTOM"),
            ]
        )
    )
    table.keepWithNext = True
    return table


def _table(rows: Sequence[Sequence[str]], widths: Sequence[float], heading: bool = True) -> Table:
    cells = [
        [
            _text(
                cell,
                SEMIBOLD if heading and not number else REGULAR,
                8.5,
                white if heading and not number else _INK,
            )
            for cell in row
        ]
        for number, row in enumerate(rows)
    ]
    style = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("ROWBACKGROUNDS", (0, 0), (-1, -1), [white, _PALE]),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
    ]
    if heading:
        style.append(("BACKGROUND", (0, 0), (-1, 0), _TEAL))
    return Table(cells, widths, repeatRows=1 if heading else 0, style=TableStyle(style))


def _about(report: Report, f1: int, f2: int) -> list[list[str]]:
    venues = {each.venue.code for each in report.presences}
    return [
        ["Ca bệnh / case", report.case_id],
        ["Mã giả danh / pseudonym", report.person],
        [
            "Thời gian lây nhiễm / infectious",
            f"{format_time(report.window.start)} – {format_time(report.window.end)}",
        ],
        ["Địa điểm đã đến / venues", str(len(venues))],
        ["F1, F2", f"{f1:,} F1, {f2:,} F2"],
        ["Căn cứ / purpose", report.purpose],
        ["Lập lúc / made", format_time(report.made_at)],
    ]


def _by_department(report: Report) -> list[list[str]]:
    met: dict[str, set[str]] = defaultdict(set)
    for contact in report.contacts:
        met[contact.venue.code].add(contact.person)
    stays: dict[str, list[Presence]] = defaultdict(list)
    for presence in report.presences:
        stays[presence.venue.code].append(presence)
    found = []
    for code, presences in stays.items():
        place = presences[0].venue
        department = department_name(_department(place))
        where = f"{place.name} ({code}), {district_name(place.district)}"
        times = [f"{format_time(each.start)[:16]}–{format_time(each.end)[11:16]}" for each in presences]
        # a row does not break across pages: a place that was visited often has several
        for start in range(0, len(times), _TIMES_A_ROW):
            first = start == 0
            found.append(
                (
                    (department, where, start),
                    [
                        department if first else "",
                        where if first else "",
                        str(len(met[code])) if first else "",
                        "; ".join(times[start : start + _TIMES_A_ROW]),
                    ],
                )
            )
    heading = ["Cơ quan / department", "Địa điểm / venue", "F1", "Thời gian / when"]
    return [heading, *([row for _, row in sorted(found)] or [["–", "–", "0", "–"]])]


def _department(place: Place) -> str:
    sector: Any = place.sector
    return department_of(sector, place.district)


def _by_district(f1: Mapping[str, tuple[str, Place]], f2: Mapping[str, tuple[str, Place]]) -> list[list[str]]:
    ones, twos = _places(f1.values()), _places(f2.values())
    rows = [
        [day, district_name(district), f"{ones[day, district]:,}", f"{twos[day, district]:,}"]
        for day, district in sorted(ones.keys() | twos.keys())
    ]
    return [["Ngày / day", "Địa bàn / district", "F1", "F2"], *(rows or [["–", "–", "0", "0"]])]


def _places(exposures: Iterable[tuple[str, Place]]) -> Counter[tuple[str, str]]:
    return Counter((day, place.district) for day, place in exposures)


def _timeline(report: Report) -> Drawing:
    """A line a venue, a column a local day of the window."""
    everywhere = list(dict.fromkeys(each.venue.code for each in report.presences))
    codes = everywhere[:_MOST_VENUES]
    line, top = 6 * mm, 7 * mm
    height = top + line * max(1, len(codes)) + 2 * mm
    drawing = Drawing(_ROOM, height)
    start, end = report.window.minutes
    scale = (_ROOM - _LABELS) / (end - start)
    days = range(local_day(start), local_day(end - 1) + 1)
    # as many labels as there is room for
    every = max(1, round(len(days) / 10))
    for number, day in enumerate(days):
        x = _LABELS + (max(day_start(day), start) - start) * scale
        drawing.add(Line(x, 0, x, height - top, strokeColor=_PALE, strokeWidth=0.8))
        if number % every == 0:
            drawing.add(
                String(
                    x + 1, height - top + 4, day_name(day)[5:], fontName=REGULAR, fontSize=7, fillColor=_SOFT
                )
            )
    for number, code in enumerate(codes):
        y = height - top - line * (number + 1)
        own = [each for each in report.presences if each.venue.code == code]
        _, (label, *_rest) = typeface.fit(own[0].venue.name, REGULAR, (7.5,), room=_LABELS - 4, height=10)
        drawing.add(String(0, y + 5, label, fontName=REGULAR, fontSize=7.5, fillColor=_INK))
        for each in own:
            a, b = each.start // MS_PER_MINUTE - start, each.end // MS_PER_MINUTE - start
            # a short visit must be seen on paper
            drawing.add(
                Rect(
                    _LABELS + a * scale,
                    y + 2,
                    max((b - a) * scale, 1.2),
                    line - 6,
                    fillColor=_F1,
                    strokeColor=None,
                )
            )
    if more := len(everywhere) - len(codes):
        words = f"và {more} địa điểm khác, xem bảng / and {more} more, in the table"
        drawing.add(String(0, 0, words, fontName=REGULAR, fontSize=7.5, fillColor=_SOFT))
    if not codes:
        drawing.add(
            String(_LABELS, height - top - line + 5, "–", fontName=REGULAR, fontSize=9, fillColor=_SOFT)
        )
    return drawing


def _bars(f1: Mapping[str, tuple[str, Place]], f2: Mapping[str, tuple[str, Place]]) -> Drawing:
    ones, twos = Counter(day for day, _ in f1.values()), Counter(day for day, _ in f2.values())
    days = sorted(ones.keys() | twos.keys())
    drawing = Drawing(_ROOM, 58 * mm)
    if not days:
        drawing.add(
            String(0, 40 * mm, "Không có F1, F2 / none", fontName=REGULAR, fontSize=9, fillColor=_SOFT)
        )
        return drawing
    chart = VerticalBarChart()
    chart.x, chart.y, chart.width, chart.height = 12 * mm, 12 * mm, _ROOM - 14 * mm, 38 * mm
    chart.data = [[ones[day] for day in days], [twos[day] for day in days]]
    chart.bars[0].fillColor, chart.bars[1].fillColor = _F1, _F2
    chart.bars.strokeColor = None
    chart.categoryAxis.categoryNames = [day[5:] for day in days]
    for axis in (chart.categoryAxis, chart.valueAxis):
        axis.labels.fontName, axis.labels.fontSize = REGULAR, 7.5
        axis.strokeColor = _SOFT
    chart.valueAxis.valueMin = 0
    # whole persons only
    most = max(max(row) for row in chart.data)
    chart.valueAxis.valueStep = max(1, -(-most // 5))
    drawing.add(chart)
    for number, (name, color) in enumerate((("F1", _F1), ("F2", _F2))):
        x = 14 * mm + number * 16 * mm
        drawing.add(Rect(x, 53 * mm, 8, 8, fillColor=color, strokeColor=None))
        drawing.add(String(x + 11, 53 * mm, name, fontName=SEMIBOLD, fontSize=8.5, fillColor=_INK))
    return drawing
