"""The report of a case: right numbers, letters of Vietnamese that can be read, no contact named, audited."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pypdfium2
import pytest
from clickhouse_driver import Client
from typer.testing import CliRunner, Result

from deploy.audit import audit_records
from deploy.cli import report
from deploy.report import Report, write_report
from lookups.answers import Place, Presence, Window
from lookups.audit import read_row
from schemas.settings import Settings
from schemas.times import MS_PER_MINUTE, day_name, day_start, local_day
from tests.privacy.conftest import clock_ms

CASE, SECOND = 0xAA, 900
DAY = local_day(clock_ms() // MS_PER_MINUTE) - 5
EIGHT = day_start(DAY) + 8 * 60
MARKET, SCHOOL = "CDEFHK", "CDEFJK"


@pytest.fixture
def filled(archive: Client) -> Client:
    """The case meets seven at the market; one of those meets nine others at the school the next day."""
    archive.execute(
        "INSERT INTO venues (code, name, sector, district, department, dwell, recorded_at) VALUES",
        [
            (MARKET, "Chợ Đông Ba <sạp & hàng>", "trade", "hue", "so-cong-thuong", 60, 1),
            (SCHOOL, "Trường THPT Nguyễn Huệ", "education", "phu-vang", "so-giao-duc-dao-tao", 45, 1),
        ],
    )
    marks = [(MARKET, CASE, EIGHT)] + [(MARKET, number, EIGHT + 10) for number in range(1, 8)]
    next_day = EIGHT + 1440
    marks += [(SCHOOL, number, next_day) for number in (1, *range(SECOND, SECOND + 9))]
    rows = [(venue, minute // 60, who, 1 << minute % 60) for venue, who, minute in marks]
    archive.execute("INSERT INTO visits (venue, hour, person, ins) VALUES", rows)
    start = EIGHT * MS_PER_MINUTE
    archive.execute(
        "INSERT INTO cases"
        " (case_id, version, topic, status, person, window_start, window_end, min_overlap) VALUES",
        [("k-1", 1, "cases", "confirmed", CASE, start - 3_600_000, start + 5 * 86_400_000, 1)],
    )
    day = date.fromisoformat(day_name(DAY))
    archive.execute(
        "INSERT INTO exposures (case_id, person, venue, date, first, last, minutes, status, version) VALUES",
        [("k-1", n, MARKET, day, start + 600_000, start + 3_600_000, 50, "exposed", 1) for n in range(1, 8)],
    )
    return archive


def made(*words: str) -> Result:
    return CliRunner().invoke(report.commands, words)


@pytest.mark.engines
def test_a_report_counts_and_names_no_contact(filled: Client, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "k-1.pdf"
    result = made("--case", "k-1", "--out", str(path), "--purpose", "45/QĐ-BCĐ")
    assert result.exit_code == 0, result.output
    document = pypdfium2.PdfDocument(path)
    text = " ".join(" ".join(page.get_textpage().get_text_range().split()) for page in document)
    for words in (
        "BÁO CÁO TRUY VẾT CA BỆNH",
        "Chợ Đông Ba <sạp & hàng>",
        "Sở Công Thương",
        "thành phố Huế",
        "huyện Phú Vang",
        "7 F1, 9 F2",
        "45/QĐ-BCĐ",
        f"{day_name(DAY)} thành phố Huế 7 0",
        f"{day_name(DAY + 1)} huyện Phú Vang 0 9",
        f"{CASE:016x}",
    ):
        assert words in text, (words, text)
    assert not [who for who in (*range(1, 8), *range(SECOND, SECOND + 9)) if f"{who:016x}" in text]
    picture = document[0].render(scale=1).to_pil()
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert (0xC8, 0x50, 0x2D) in colours  # a stay of the timeline
    rows = [read_row(value)[0] for _, value in audit_records(settings)]
    assert [row.question for row in rows if row.step == "asked"] == [
        "person of case",
        "person",
        "case",
        "chain",
    ]
    assert {row.purpose for row in rows} == {"45/QĐ-BCĐ"}


@pytest.mark.engines
def test_no_report_without_a_purpose_or_a_case(filled: Client, tmp_path: Path) -> None:
    path = tmp_path / "k.pdf"
    assert made("--case", "k-1", "--out", str(path)).exit_code == 2
    unknown = made("--case", "k-9", "--out", str(path), "--purpose", "k-9")
    assert unknown.exit_code == 1
    assert "knows no case" in unknown.output
    columns = "case_id, version, topic, status, venue, window_start, window_end, min_overlap"
    place = ("k-2", 1, "cases", "confirmed", MARKET, 1, 60_001, 1)
    filled.execute(f"INSERT INTO cases ({columns}) VALUES", [place])
    of_a_place = made("--case", "k-2", "--out", str(path), "--purpose", "k-2")
    assert of_a_place.exit_code == 1
    told = " ".join(of_a_place.output.split())
    assert "is a place-time, not a person: ask truyvet trace contacts --case k-2" in told
    assert made("--case", "k-1", "--out", str(path.with_suffix(".txt")), "--purpose", "k-1").exit_code == 2
    assert not path.exists()


def test_a_case_that_was_everywhere_all_the_time_fits(tmp_path: Path) -> None:
    start = day_start(DAY) * MS_PER_MINUTE
    hour = 3_600_000
    stays = [
        Presence(place, "aa", start + number * hour, start + (number + 1) * hour, 60)
        for place in (Place(f"CODE{number}", "Chợ " * 30, "trade", "hue", 60) for number in range(70))
        for number in range(100)
    ]
    full = Report("k", "aa", Window(start, start + 30 * 24 * hour), "k", start, stays, [], [])
    for name, each in (("full", full), ("empty", replace(full, presences=[]))):
        write_report(each, tmp_path / name)
        document = pypdfium2.PdfDocument(tmp_path / name)
        text = " ".join(page.get_textpage().get_text_range() for page in document)
        assert ("và 30 địa điểm khác" in text) == (name == "full")
    write_report(full, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "full").read_bytes()
