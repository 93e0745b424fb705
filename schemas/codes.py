"""Venue codes: what is printed under a QR poster and typed when a camera fails.

4 to 12 characters of an alphabet without look-alikes; the last is a Luhn mod N check character
(N = 22), so that any single wrong character and nearly every swap of two neighbours is noticed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Container

ALPHABET = "CDEFHJKMPRTVWXY2345689"
MIN_LENGTH = 4
MAX_LENGTH = 12
CODE_PATTERN = f"^[{ALPHABET}]{{{MIN_LENGTH},{MAX_LENGTH}}}$"

_BASE = len(ALPHABET)
_VALUE = {character: value for value, character in enumerate(ALPHABET)}


def _luhn_sum(values: list[int], first_factor: int) -> int:
    """Sum of the base-N digits of every value times 1 or 2, from the right, starting with `first_factor`."""
    total, factor = 0, first_factor
    for value in reversed(values):
        product = value * factor
        total += product // _BASE + product % _BASE
        factor = 3 - factor
    return total


def check_character(body: str) -> str:
    """The check character that completes `body`. Raises ValueError for a character outside the alphabet."""
    try:
        values = [_VALUE[character] for character in body]
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is not one of {ALPHABET}") from None
    return ALPHABET[-_luhn_sum(values, 2) % _BASE]


def is_code(text: str) -> bool:
    """Whether `text` is a well-formed venue code with the right check character."""
    if not MIN_LENGTH <= len(text) <= MAX_LENGTH or any(character not in _VALUE for character in text):
        return False
    return check_character(text[:-1]) == text[-1]


def new_code(taken: Container[str], length: int = 8, choose: Callable[[str], str] = secrets.choice) -> str:
    """A code of `length` characters that is not in `taken`.

    `choose` picks one character of the alphabet; a seeded one makes the codes repeatable.
    8 characters leave 22^7 = 2.5 billion codes, so a guessed code is nearly always unknown.
    """
    if not MIN_LENGTH <= length <= MAX_LENGTH:
        raise ValueError(f"a code has {MIN_LENGTH} to {MAX_LENGTH} characters, not {length}")
    for _ in range(10_000):
        body = "".join(choose(ALPHABET) for _ in range(length - 1))
        code = body + check_character(body)
        if code not in taken:
            return code
    raise RuntimeError(f"found no free code of {length} characters in 10,000 tries: use a longer one")
