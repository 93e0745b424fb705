"""Marks as they are archived, all of an hour at a time: what Redis is rebuilt from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from clickhouse_driver import Client

from schemas.events import Kind

# Rows merge by GROUP BY, as everywhere: background merges may be far behind.
_MARKS: Final = """
SELECT venue, hour, person, groupBitOr(ins), groupBitOr(outs), groupBitOr(voids)
FROM visits
WHERE hour BETWEEN %(first)s AND %(last)s
GROUP BY venue, hour, person
"""
_HOURS: Final = "SELECT min(hour), max(hour) FROM visits WHERE hour >= %(first)s"
_KINDS: Final[tuple[Kind, ...]] = ("in", "out", "void")
# Rows of one answer that are in memory at once.
_BLOCK: Final = 65_536


class ArchivedMark(NamedTuple):
    """One mark; `minute` in the hour."""

    person: str
    venue: str
    hour: int
    minute: int
    kind: Kind


def archived_hours(client: Client, first: int) -> range:
    """The hours from `first` on that the archive has marks of. Raises clickhouse_driver.errors.Error."""
    ((low, high),) = client.execute(_HOURS, {"first": first})
    return range(low, high + 1) if high else range(0)


def archived_marks(client: Client, hours: range) -> Iterator[ArchivedMark]:
    """Every mark of these hours, each once. Raises clickhouse_driver.errors.Error."""
    rows = client.execute_iter(
        _MARKS,
        {"first": hours.start, "last": hours.stop - 1},
        settings={"max_block_size": _BLOCK},
    )
    for venue, hour, person, *masks in rows:
        who = f"{person:016x}"
        for kind, mask in zip(_KINDS, masks, strict=True):
            left = mask
            while left:
                lowest = left & -left
                yield ArchivedMark(who, venue, hour, lowest.bit_length() - 1, kind)
                left ^= lowest
