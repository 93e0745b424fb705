"""Columns that come as one value each, whatever their bytes look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest

from lookups.answers import Window
from lookups.reading import Reader
from schemas.times import MS_PER_MINUTE

# C2 9B and DF 9B, then zeros: two of their bytes are one character of UTF-8, and the driver hands over text
TEXT_MARKS = [0x9BC2, 0x9BDF]


class _Told(Reader):
    """A reader that is told what the driver gives for these marks."""

    def __init__(self, marks: list[int]) -> None:
        self.marks = marks

    def _one(self, sql: str, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        columns = np.array(self.marks, "<i8"), np.full(len(self.marks), 7, "<u8")
        return tuple(_as_the_driver_does(column.tobytes()) for column in columns)


def _as_the_driver_does(packed: bytes) -> str | bytes:
    try:
        return packed.decode()
    except UnicodeDecodeError:
        return packed


@pytest.mark.parametrize("marks", [TEXT_MARKS[:1], TEXT_MARKS, [0x41], [0xFF], [*TEXT_MARKS, 0xFF], []])
def test_a_row_stays_a_row_where_its_bytes_are_text(marks: list[int]) -> None:
    found = cast(Any, _Told(marks))._marks_at("CDEF", Window(0, 60 * MS_PER_MINUTE))
    assert found.person.tolist() == [7] * len(marks)
    assert found.mark.tolist() == marks


def test_the_marks_are_some_that_the_driver_gives_as_text() -> None:
    assert isinstance(_as_the_driver_does(np.array(TEXT_MARKS, "<i8").tobytes()), str)
