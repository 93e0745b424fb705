"""What pydantic's parser takes for JSON though it is none."""

from __future__ import annotations

import json
from typing import Final


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# a number of 5,000 digits must not fail for its length
_STRICT: Final = json.JSONDecoder(parse_int=lambda _: 0, parse_float=lambda _: 0.0, parse_constant=_refuse)


def has_constant(value: bytes) -> bool:
    """Whether NaN or Infinity may stand in it: no JSON, though pydantic's parser takes them."""
    return b"NaN" in value or b"Infinity" in value


def constant_problem(value: bytes) -> str | None:
    """Why a value is no JSON for the words NaN and Infinity; none when they are not there, or in a text."""
    if has_constant(value):
        try:
            _STRICT.decode(value.decode())
        except (ValueError, RecursionError) as error:
            return str(error)
    return None
