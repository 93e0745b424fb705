"""QR payloads: what a scanner or a person at a keyboard may hand in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.qr import parse_person, parse_venue, person_url, venue_url

CODE = "M54HV62T"
PERSON = "0123456789abcdef"


@pytest.mark.parametrize(
    "text",
    [
        venue_url("truyvet.example", CODE),
        venue_url("truyvet.example:8443", CODE).lower(),
        f"HTTPS://TRUYVET.EXAMPLE/V/{CODE}",
        f"truyvet.example/v/{CODE}",
        f"https://another.example/v/{CODE}/?utm=poster#top",
        CODE,
        CODE.lower(),
        f"  {CODE}\n",
        "M54H V62T",
        "m54h-v62t",
    ],
)
def test_venue_forms(text: str) -> None:
    assert parse_venue(text) == CODE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "M54HV62C",  # check character
        "https://truyvet.example/",
        f"https://truyvet.example/p/{CODE}",
        f"https://truyvet.example/v/{CODE}/more",
        f"https://truyvet.example/{CODE}",
        f"https://[/v/{CODE}",
        "WIFI:S:cafe;T:WPA;P:secret;;",
        "\x00",
    ],
)
def test_no_venue(text: str) -> None:
    with pytest.raises(ValueError, match="holds no valid venue code"):
        parse_venue(text)


@pytest.mark.parametrize(
    "text",
    [
        person_url("truyvet.example", PERSON),
        PERSON,
        PERSON.upper(),
        "0123 4567 89ab cdef",
        f"x.example/p/{PERSON}",
    ],
)
def test_person_forms(text: str) -> None:
    assert parse_person(text) == PERSON


@pytest.mark.parametrize(
    "text", ["", "0912345678", PERSON[:-1], PERSON + "0", f"https://h/v/{PERSON}", "٠" * 16]
)
def test_no_person(text: str) -> None:
    with pytest.raises(ValueError, match="holds no person's card"):
        parse_person(text)


@given(st.text())
def test_rubbish_is_refused_or_a_code_never_another_error(text: str) -> None:
    for parse in (parse_venue, parse_person):
        try:
            found = parse(text)
        except ValueError as error:
            assert len(str(error)) < 500
        else:
            assert parse(found) == found
