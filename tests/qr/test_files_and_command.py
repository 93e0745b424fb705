"""Venues from files, and `truyvet qr` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pypdfium2
import pytest
import zxingcpp
from PIL import Image
from typer.testing import CliRunner

from deploy.cli.qr import commands
from producers.qr.files import read_venues
from schemas.codes import check_character
from schemas.qr import parse_person, parse_venue

CODES = [body + check_character(body) for body in ("M54HV62", "C4D8K2H", "HVEXX45", "R9TYW83")]
HEADER = "code,name,sector,district,dwell,closed_at\n"
ROWS = [
    f'{CODES[0]},"Chợ Đông Ba, cổng 1",trade,hue,120,\n',
    f"{CODES[1]},Trường Quốc Học,education,hue,300,\n",
    f"{CODES[2]},Trạm y tế,health,a-luoi,60,\n",
    f"{CODES[3]},Quán cũ,trade,hue,60,2021-02-08\n",
]
PERSON = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _own_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_PUBLIC_HOST", "qr.example")


@pytest.fixture
def venues_csv(tmp_path: Path) -> Path:
    path = tmp_path / "venues.csv"
    path.write_text(HEADER + "".join(ROWS), encoding="utf-8-sig")
    return path


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(commands, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def codes_in(path: Path) -> list[str]:
    document = pypdfium2.PdfDocument(path)
    found = [parse_venue(zxingcpp.read_barcodes(page.render(scale=1).to_pil())[0].text) for page in document]
    document.close()
    return found


def test_one_file_each_and_closed_ones_left_out(venues_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "deep"
    code, stdout, stderr = run("posters", "--from", venues_csv, "--out", out)
    assert (code, stderr) == (0, "")
    assert "3 posters" in stdout and "1 closed left out" in stdout
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{code}.pdf" for code in CODES[:3])
    assert all(codes_in(path) == [path.stem] for path in out.iterdir())


def test_one_file_sorted_with_json(venues_csv: Path, tmp_path: Path) -> None:
    code, stdout, _ = run("posters", "--from", venues_csv, "--out", tmp_path, "--one-file", "--json")
    assert code == 0
    file = tmp_path / "posters.pdf"
    assert json.loads(stdout) == {"posters": 3, "closed": 1, "problems": 0, "files": [str(file)]}
    assert codes_in(file) == [CODES[2], CODES[1], CODES[0]]  # a-luoi; hue: education, trade


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--sector", "trade"], [CODES[0]]),
        (["--sector", "trade", "--sector", "health"], [CODES[2], CODES[0]]),
        (["--district", "hue", "--sector", "education"], [CODES[1]]),
        (["--code", f"https://qr.example/v/{CODES[2].lower()}"], [CODES[2]]),
    ],
)
def test_filters(venues_csv: Path, tmp_path: Path, filters: list[str], expected: list[str]) -> None:
    code, _, _ = run("posters", "--from", venues_csv, "--out", tmp_path, "--one-file", *filters)
    assert code == 0
    assert codes_in(tmp_path / "posters.pdf") == expected


@pytest.mark.parametrize(
    ("filters", "code", "message"),
    [
        (["--sector", "school"], 2, "no such sector: school; sectors are health,"),
        (["--district", "huế"], 2, "no venue is in huế; districts are a-luoi, hue"),
        (["--code", "M54HV62C"], 2, "holds no valid venue code"),
        (["--code", "4MK2442W8HM6"], 2, "not in the register: 4MK2442W8HM6"),
        (["--code", CODES[3]], 1, "no open venue to print"),
    ],
)
def test_wrong_filters(venues_csv: Path, tmp_path: Path, filters: list[str], code: int, message: str) -> None:
    out = tmp_path / "out"
    found, _, stderr = run("posters", "--from", venues_csv, "--out", out, *filters)
    assert found == code and message in stderr
    assert not out.exists()


def test_bad_rows_are_named_and_the_good_ones_printed(tmp_path: Path) -> None:
    path = tmp_path / "venues.csv"
    bad = [
        ROWS[0],
        "M54HV62C,mistyped,trade,hue,60,\n",
        f"{CODES[1]},no such sector,school,hue,60,\n",
        f"{CODES[1]},dwell,trade,hue,long,\n",
        f"{CODES[1]},too many,trade,hue,60,,x\n",
        ROWS[0],
        ",no code,trade,hue,60,\n",
    ]
    path.write_text(HEADER + "".join(bad), encoding="utf-8")
    code, _, stderr = run("posters", "--from", path, "--out", tmp_path / "out")
    assert code == 1
    for words in (
        "line 3: code: the check character",
        "line 4: sector: 'school'",
        "line 5: dwell: 'long'",
        "line 6: more cells",
        "line 7: name: the same venue",
        "line 8: no code: register it first",
    ):
        assert words in stderr, words
    assert [found.name for found in (tmp_path / "out").iterdir()] == [f"{CODES[0]}.pdf"]


GOOD = {
    "code": CODES[0],
    "name": "Chợ",
    "sector": "trade",
    "district": "hue",
    "department": "so-cong-thuong",
    "dwell": 60,
    "lat": 16.4,
}


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "venues.jsonl"
    mistyped = json.dumps(GOOD | {"code": CODES[1], "dwell": "60"})
    lines = [json.dumps(GOOD), "", "{", mistyped, "5", json.dumps(GOOD)]
    path.write_text("\n".join(lines), encoding="utf-8")
    venues, problems = read_venues(path)
    assert [venue.code for venue in venues] == [CODES[0]]
    assert [problem.split(", ", 1)[1].split(":")[0] for problem in problems] == [
        "line 3",
        "line 4",
        "line 5",
        "line 6",
    ]
    assert "dwell: Input should be a valid integer" in problems[1] and "came before" in problems[3]


def test_a_json_array(tmp_path: Path) -> None:
    path = tmp_path / "venues.json"
    path.write_text(json.dumps([GOOD, {}], indent=2), encoding="utf-8")
    venues, problems = read_venues(path)
    assert [venue.code for venue in venues] == [CODES[0]]
    assert [problem.split(", ", 1)[1] for problem in problems] == ["element 2: code: Field required"]
    path.write_text("[\n{}", encoding="utf-8")
    assert "line 2: not JSON" in read_venues(path)[1][0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("venues.xlsx", b"PK", "must end in .csv"),
        ("venues.csv", b"code,name\n", "no column sector, district"),
        ("venues.csv", b"", "no column name"),
        ("venues.json", b"\xee", "byte 0 is not UTF-8"),
        ("venues.csv", "code,name\nx,Ch\xee".encode("latin-1"), "not UTF-8"),
    ],
)
def test_wrong_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    code, _, stderr = run("posters", "--from", path, "--out", tmp_path / "out")
    assert code == 2 and message in stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    code, _, stderr = run("posters", "--from", tmp_path / "none.csv", "--out", tmp_path)
    assert code == 2 and f"no such file: {tmp_path / 'none.csv'}" in stderr


def test_letters_that_print_as_boxes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "venues.csv"
    path.write_text(HEADER + f"{CODES[0]},Quán 漢,trade,hue,60,\n", encoding="utf-8")
    code, _, stderr = run("posters", "--from", path, "--out", tmp_path / "out")
    assert code == 1 and "'漢'" in stderr
    assert (tmp_path / "out" / f"{CODES[0]}.pdf").exists()


def test_the_placeholder_host_is_told(
    venues_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRUYVET_PUBLIC_HOST")
    _, _, stderr = run("posters", "--from", venues_csv, "--out", tmp_path / "out")
    assert "set TRUYVET_PUBLIC_HOST before you print" in stderr


def test_card(tmp_path: Path) -> None:
    code, stdout, stderr = run("card", f"https://qr.example/p/{PERSON}", "--out", tmp_path / "card.png")
    assert (code, stderr) == (0, "") and "card.png" in stdout
    code, _, stderr = run("card", "0912345678", "--out", tmp_path / "x.png")
    assert code == 2 and "holds no person's card" in stderr
    code, _, stderr = run("card", PERSON, "--out", tmp_path / "card.svg")
    assert code == 2 and "must end in .pdf or .png" in stderr
    code, _, stderr = run("card", PERSON, "--out", tmp_path / "none" / "card.pdf")
    assert code == 1 and f"there is no folder {tmp_path / 'none'}" in stderr and ".part" not in stderr
    code, _, stderr = run("card", PERSON, "--out", "/proc/card.pdf")
    assert code == 1 and "/proc/card.pdf cannot be written: " in stderr
    with Image.open(tmp_path / "card.png") as picture:
        [found] = zxingcpp.read_barcodes(picture)
    assert parse_person(found.text) == PERSON
