"""Columns that come as one value each, whatever their bytes look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest

from lookups.answers import Window
from lookups.presence import IN
from lookups.reading import Reader
from schemas.times import MS_PER_MINUTE

MS_PER_HOUR = 60 * MS_PER_MINUTE

# C2 9B 07 00 and DF 9B 07 00: each is three characters of UTF-8, and the driver hands over text
TEXT_HOURS = [0x79BC2, 0x79BDF]


class _Told(Reader):
    """A reader that is told what the driver gives for these hours."""

    def __init__(self, hours: list[int]) -> None:
        self.hours = hours

    def _one(self, sql: str, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        columns = [np.array(self.hours, "<u4"), *(np.full(len(self.hours), n, "<u8") for n in (7, 1, 0, 0))]
        return tuple(_as_the_driver_does(column.tobytes()) for column in columns)


def _as_the_driver_does(packed: bytes) -> str | bytes:
    try:
        return packed.decode()
    except UnicodeDecodeError:
        return packed


@pytest.mark.parametrize("hours", [TEXT_HOURS[:1], TEXT_HOURS, [0x79B41], [0x79BFF], [*TEXT_HOURS, 0x79BFF]])
def test_a_row_stays_a_row_where_its_bytes_are_text(hours: list[int]) -> None:
    window = Window(min(hours) * MS_PER_HOUR, (max(hours) + 1) * MS_PER_HOUR)
    found = cast(Any, _Told(hours))._marks_at("CDEF", window)
    assert found.person.tolist() == [7] * len(hours)
    assert found.mark.tolist() == [(hour * 60 - found.base) * 4 + IN for hour in hours]
