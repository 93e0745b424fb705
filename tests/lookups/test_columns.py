"""An answer by column is the same as its rows."""

from __future__ import annotations

from lookups.answers import Columns, Contact, Place

PLACES = [Place(code, f"Chợ {code}", "market", "hue", 60) for code in ("CDEFHJ", "CDEFHK")]
ROWS = [
    Contact("00000000000000aa", PLACES[0], "2026-11-20", 15, 60_000, 960_000, 0.5),
    Contact("00000000000000ab", PLACES[1], "2026-11-21", 20, 120_000, 1_320_000),
    Contact("00000000000000ac", PLACES[0], "2026-11-21", 1, 180_000, 240_000, 1.0),
]


def by_column(rows: list[Contact]) -> Columns[Contact]:
    return Columns(Contact, *([getattr(row, name) for row in rows] for name in Contact._fields))


def test_rows_and_columns_tell_the_same() -> None:
    found = by_column(ROWS)
    assert len(found) == 3
    assert list(found) == ROWS
    assert (found[0], found[-1], found[1:]) == (ROWS[0], ROWS[-1], ROWS[1:])
    assert ROWS[1] in found
    assert found.columns[3] == [15, 20, 1]


def test_nothing_found_is_an_empty_answer() -> None:
    assert not by_column([])
    assert list(by_column([])) == []
