"""Marks by column straight into the archive: for a simulated country, or a copy from another archive.

The same insert as the archive role's: same table, same connection, same settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from clickhouse_driver import Client

from sinks.rows import COLUMNS

_MARKS: Final = f"INSERT INTO visits ({', '.join(COLUMNS['visits'])}) VALUES"
_VENUES: Final = f"INSERT INTO venues ({', '.join(COLUMNS['venues'])}) VALUES"


class Column(Protocol):
    """An array that gives its values as a list: numpy's do."""

    def tolist(self) -> list[Any]:
        """The values."""
        ...


def insert_marks(client: Client, columns: Mapping[str, Column]) -> None:
    """Insert rows of `visits`: one array a column of sinks/rows.py, all equally long.

    What is inserted twice merges away, so a load that was cut off is begun again. Raises the driver's errors.
    The driver packs lists: it has numpy columns of its own, but not for SimpleAggregateFunction.
    """
    client.execute(_MARKS, [columns[name].tolist() for name in COLUMNS["visits"]], columnar=True)


def insert_venues(client: Client, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows of `venues`, values in the order of sinks/rows.py. Raises the driver's errors."""
    client.execute(_VENUES, [tuple(row) for row in rows])
