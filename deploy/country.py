"""A simulated country straight into the archive: made on one thread, inserted on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from clickhouse_driver import Client

from producers.simulator.country import HourRows, country_rows
from producers.simulator.province import Province
from sinks.bulk import insert_marks, insert_venues

MARKS: Final = 100_000_000
DAYS: Final = 14
PEOPLE: Final = 2_000_000
VENUES: Final = 30_000


def is_empty(client: Client) -> bool:
    """Whether the archive has no marks yet. Raises the driver's errors."""
    return not client.execute("SELECT 1 FROM visits LIMIT 1")


def fill(
    client: Client,
    province: Province,
    *,
    days: int,
    marks: int,
    end_ms: int,
    seed: int,
    advance: Callable[[int], None],
) -> int:
    """Insert the country's venues and marks; tells `advance` how many marks went in. Returns their number.

    `client` is one of sinks/connection.py, the tables are there. Raises the driver's errors.
    """
    insert_venues(
        client,
        [
            (
                *(venue.code, venue.name, venue.sector, venue.district, venue.department, venue.parent or ""),
                *(venue.dwell, venue.capacity, venue.opens or "", venue.closes or ""),
                *(venue.lat, venue.lon, venue.closed_at, end_ms),
            )
            for venue in province.venues
        ],
    )
    codes = np.array([venue.code for venue in province.venues], dtype=object)
    total = 0
    for rows in _ahead(country_rows(province, days, marks, end_ms, seed)):
        insert_marks(
            client,
            {
                "venue": codes[rows.venue],
                "hour": rows.hour,
                "person": rows.person,
                "ins": rows.ins,
                "outs": rows.outs,
                "voids": rows.voids,
                "party": rows.party,
                "sources": rows.sources,
            },
        )
        total += rows.marks
        advance(rows.marks)
    return total


def _ahead(rows: Iterator[HourRows]) -> Iterator[HourRows]:
    """The same, each made while the one before is inserted; never more than two in memory."""
    with ThreadPoolExecutor(1) as maker:
        waiting = maker.submit(next, rows, None)
        while (made := waiting.result()) is not None:
            waiting = maker.submit(next, rows, None)
            yield made
