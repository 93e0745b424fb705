"""Posters and cards: a real decoder reads the rendered page, and the page says what it should."""

from __future__ import annotations

import random
from pathlib import Path

import pypdfium2
import pytest
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from producers.qr import typeface
from producers.qr.card import SIZE, card_png, write_card
from producers.qr.poster import Look, grouped, write_posters
from schemas.codes import ALPHABET, is_code, new_code
from schemas.departments import SECTORS, department_name, department_of
from schemas.events import Venue
from schemas.qr import parse_person, parse_venue, venue_url

HOST = "truyvet.example"
PERSON = "0123456789abcdef"
_RANDOM = random.Random(7)


def a_venue(name: str = "Chợ Đông Ba", length: int = 8, parent: str | None = None) -> Venue:
    code = new_code((), length, _RANDOM.choice)
    return Venue(
        code=code,
        name=name,
        sector="trade",
        district="hue",
        department=department_of("trade", "hue"),
        dwell=120,
        parent=parent,
    )


def pages(path: Path, dpi: int) -> list[Image.Image]:
    document = pypdfium2.PdfDocument(path)
    found = [page.render(scale=dpi / 72).to_pil().convert("L") for page in document]
    document.close()
    return found


def text_of(path: Path) -> str:
    document = pypdfium2.PdfDocument(path)
    text = " ".join(page.get_textpage().get_text_bounded() for page in document)
    document.close()
    return " ".join(text.split())


def decode(image: Image.Image) -> list[str]:
    return [found.text for found in zxingcpp.read_barcodes(image)]


def symbol_of(page: Image.Image, pixels: int) -> Image.Image:
    """The symbol with its quiet zone, cut out of a poster and scaled to `pixels` a side."""
    [found] = zxingcpp.read_barcodes(page)
    corners = found.position
    xs = [corner.x for corner in (corners.top_left, corners.bottom_right)]
    ys = [corner.y for corner in (corners.top_left, corners.bottom_right)]
    quiet = round((xs[1] - xs[0]) * 4 / 33)
    box = (xs[0] - quiet, ys[0] - quiet, xs[1] + quiet, ys[1] + quiet)
    return page.crop(box).resize((pixels, pixels), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("length", [4, 8, 12])
def test_a_poster_is_read_from_the_whole_page(tmp_path: Path, length: int) -> None:
    venue = a_venue(length=length)
    write_posters([venue], tmp_path / "p.pdf", Look(HOST, 365))
    [page] = pages(tmp_path / "p.pdf", 72)
    assert decode(page) == [venue_url(HOST, venue.code)]
    assert parse_venue(decode(page)[0]) == venue.code


def test_a_poster_is_read_at_200_pixels_rotated_dark_and_damaged(tmp_path: Path) -> None:
    venue = a_venue()
    write_posters([venue], tmp_path / "p.pdf", Look(HOST, 365))
    [page] = pages(tmp_path / "p.pdf", 150)
    small = symbol_of(page, 200)
    expected = [venue_url(HOST, venue.code)]
    assert decode(small) == expected
    for degrees in (-7, -3, 3, 7, 90, 185):
        turned = small.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=255)
        assert decode(turned) == expected, degrees
    assert decode(small.point(lambda level: 30 + level // 4)) == expected
    torn = small.copy()
    torn.paste(255, (70, 100, 120, 135))
    assert decode(torn) == expected


def test_a_poster_says_who_what_and_where(tmp_path: Path) -> None:
    market = a_venue("Chợ Đông Ba")
    stall = a_venue("Quầy vải lụa cô Nữ, tầng trệt, cổng đường Trần Hưng Đạo", parent=market.code)
    look = Look(HOST, 90, {market.code: market})
    assert write_posters([stall], tmp_path / "p.pdf", look) == 1
    text = text_of(tmp_path / "p.pdf")
    for words in (
        "QUÉT MÃ KHI ĐẾN",
        "Scan when you arrive",
        stall.name,
        "Chợ Đông Ba · thành phố Huế",
        department_name(stall.department),
        "không lưu tên hay số điện thoại",
        "90 ngày",
        "no phone number",
    ):
        assert words in text, words
    assert grouped(stall.code) in text


def test_many_venues_in_one_file(tmp_path: Path) -> None:
    venues = [a_venue(f"Quán số {number}") for number in range(40)]
    seen: list[Venue] = []
    assert write_posters(venues, tmp_path / "all.pdf", Look(HOST, 365), seen.append) == 40
    assert seen == venues
    read = [decode(page) for page in pages(tmp_path / "all.pdf", 72)]
    assert read == [[venue_url(HOST, venue.code)] for venue in venues]
    assert (tmp_path / "all.pdf").stat().st_size < 40 * 20_000  # the fonts and the frame are there once
    assert [path.name for path in tmp_path.iterdir()] == ["all.pdf"]


def test_the_same_venues_give_the_same_bytes(tmp_path: Path) -> None:
    venues = [a_venue(), a_venue("Bến xe phía Nam")]
    for name in ("a.pdf", "b.pdf"):
        write_posters(venues, tmp_path / name, Look(HOST, 365))
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_every_vietnamese_letter_is_in_the_typeface() -> None:
    vowels = "aăâeêioôơuưy"
    tones = ["", "\u0300", "\u0309", "\u0303", "\u0301", "\u0323"]
    letters = [vowel + tone for vowel in vowels for tone in tones] + ["đ"]
    text = "".join(letters + [letter.upper() for letter in letters])
    assert typeface.missing_letters(text) == ""
    assert len(typeface.composed(text)) == 2 * (12 * 6 + 1)  # one character each


def test_letters_that_cannot_be_printed_are_found() -> None:
    assert typeface.missing_letters("Quán 漢 cà phê ☕漢") == "漢☕"


def test_decomposed_letters_are_printed_as_one(tmp_path: Path) -> None:
    venue = a_venue("Che\u0323\u0302  Hue\u0302\u0301")
    write_posters([venue], tmp_path / "p.pdf", Look(HOST, 365))
    assert "Chệ Huế" in text_of(tmp_path / "p.pdf")


@given(st.text(min_size=1, max_size=200), st.integers(20, 400), st.integers(10, 80))
@settings(max_examples=60)
def test_a_name_never_leaves_its_room(name: str, room: int, height: int) -> None:
    typeface.register()
    sizes = (32, 22, 13)
    size, lines = typeface.fit(typeface.composed(name), typeface.BOLD, sizes, room=room, height=height)
    assert size in sizes
    assert len(lines) <= max(1, int(height / (size * 1.22)))
    for line in lines:
        assert len(line) <= 2 or typeface.width(line, typeface.BOLD, size) <= room


def test_wrapping_loses_nothing() -> None:
    typeface.register()
    text = "Trường Đại học Ngoại ngữ " + "x" * 90
    lines = typeface.wrap(text, typeface.BOLD, 20, 150)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("length", range(4, 13))
def test_a_code_typed_as_it_is_printed_is_understood(length: int) -> None:
    code = new_code((), length, random.Random(length).choice)
    printed = grouped(code)
    assert parse_venue(printed) == parse_venue(printed.lower()) == code
    assert all(2 <= len(group) <= 5 for group in printed.split(" ")) or length in (5, 9)
    assert is_code(code) and set(code) <= set(ALPHABET)


def test_a_card_as_pdf_and_png(tmp_path: Path) -> None:
    write_card(PERSON, tmp_path / "card.pdf", HOST)
    write_card(PERSON, tmp_path / "card.PNG", HOST)
    [page] = pages(tmp_path / "card.pdf", 150)
    assert parse_person(decode(page)[0]) == PERSON
    assert page.size == (round(SIZE[0] / 72 * 150), round(SIZE[1] / 72 * 150))
    assert "0123 4567 89ab cdef" in text_of(tmp_path / "card.pdf")
    with Image.open(tmp_path / "card.PNG") as picture:
        assert parse_person(decode(picture.convert("L"))[0]) == PERSON
        turned = picture.convert("L").resize((506, 319)).rotate(4, expand=True, fillcolor=255)
        assert parse_person(decode(turned)[0]) == PERSON
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.PNG", "card.pdf"]
    assert card_png(PERSON, HOST, 150) == card_png(PERSON, HOST, 150)


def test_a_card_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.pdf or \.png"):
        write_card(PERSON, tmp_path / "card.svg", HOST)
    assert not list(tmp_path.iterdir())


def test_every_sector_prints(tmp_path: Path) -> None:
    venues = [
        Venue(
            code=new_code((), 8, _RANDOM.choice),
            name=sector,
            sector=sector,
            district="a-luoi",
            department=department_of(sector, "a-luoi"),
            dwell=60,
        )
        for sector in SECTORS
    ]
    write_posters(venues, tmp_path / "p.pdf", Look(HOST, 365))
    text = text_of(tmp_path / "p.pdf")
    assert all(department_name(venue.department) in text for venue in venues)
