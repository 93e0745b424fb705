"""Venue codes: what the check character notices, and what a new code looks like."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codes import ALPHABET, MAX_LENGTH, MIN_LENGTH, check_character, is_code, new_code

bodies = st.text(ALPHABET, min_size=MIN_LENGTH - 1, max_size=MAX_LENGTH - 1)


def test_alphabet_has_no_look_alikes() -> None:
    assert len(set(ALPHABET)) == len(ALPHABET) == 22
    assert not set(ALPHABET) & set("0OQ1ILB7GUNAZS")


@given(bodies)
def test_a_completed_code_is_a_code(body: str) -> None:
    assert is_code(body + check_character(body))


@given(bodies, st.data())
def test_every_single_wrong_character_is_noticed(body: str, data: st.DataObject) -> None:
    code = body + check_character(body)
    at = data.draw(st.integers(0, len(code) - 1))
    wrong = data.draw(st.sampled_from([letter for letter in ALPHABET if letter != code[at]]))
    assert not is_code(code[:at] + wrong + code[at + 1 :])


def test_nearly_every_swap_of_two_neighbours_is_noticed() -> None:
    """Luhn mod N misses only the swap of the first and last character of the alphabet."""
    missed = set()
    for start in ("H", "K5H", "M54H"):
        for one in ALPHABET:
            for other in ALPHABET:
                if one == other:
                    continue
                body = start + one + other
                code = body + check_character(body)
                if is_code(start + other + one + code[-1]):
                    missed.add(frozenset((one, other)))
    assert missed == {frozenset((ALPHABET[0], ALPHABET[-1]))}


@pytest.mark.parametrize("text", ["", "CCC", "C" * 13, "m54hv62t", "M54H V62T", "M54HV62O", "M54HV62T\n"])
def test_what_is_no_code(text: str) -> None:
    assert not is_code(text)


def test_known_code() -> None:
    assert is_code("M54HV62T")


def test_check_character_names_a_foreign_character() -> None:
    with pytest.raises(ValueError, match="'O' is not one of"):
        check_character("M5O")


@pytest.mark.parametrize("length", range(MIN_LENGTH, MAX_LENGTH + 1))
def test_new_codes_are_repeatable_free_and_of_their_length(length: int) -> None:
    first = new_code((), length, random.Random(1).choice)
    assert first == new_code((), length, random.Random(1).choice)
    assert is_code(first) and len(first) == length
    other = new_code({first}, length, random.Random(1).choice)
    assert is_code(other) and other != first


def test_new_code_refuses_an_impossible_length_and_a_full_space() -> None:
    with pytest.raises(ValueError, match="4 to 12"):
        new_code((), 3)
    always = "CCC" + check_character("CCC")
    with pytest.raises(RuntimeError, match="use a longer one"):
        new_code({always}, 4, lambda _: "C")
