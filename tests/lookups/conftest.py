"""An empty archive with its tables, and ways to fill it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pytest
from clickhouse_driver import Client

from lookups.archive import Lookups
from lookups.connection import connect
from lookups.groups import GroupLookups
from schemas.settings import Settings
from sinks.migrate import migrate
from tests.lookups.oracle import AMark

MASKS = {"in": 0, "out": 1, "void": 2}


def clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class World:
    """An archive that a test fills by hand and asks."""

    client: Client
    lookups: Lookups
    groups: GroupLookups

    def empty(self) -> None:
        for table in ("visits", "visits_by_person", "lookup_audit"):
            self.client.execute(f"TRUNCATE TABLE {table}")

    def venues(self, dwells: Mapping[str, int], name: str = "Chợ Đông Ba") -> None:
        rows = [(code, name, "trade", "hue", "so-cong-thuong", dwell, 1) for code, dwell in dwells.items()]
        columns = "code, name, sector, district, department, dwell, recorded_at"
        self.client.execute(f"INSERT INTO venues ({columns}) VALUES", rows)

    def put_below(self, code: str, parent: str, dwell: int, capacity: int | None = None) -> None:
        """A newer record of a venue, inside another one."""
        row = (code, "Sạp 1", "trade", "hue", "so-cong-thuong", parent, dwell, capacity, time.time_ns())
        columns = "code, name, sector, district, department, parent, dwell, capacity, recorded_at"
        self.client.execute(f"INSERT INTO venues ({columns}) VALUES", [row])

    def marks(self, world: Iterable[AMark]) -> None:
        """One row a mark: nothing is merged before the question."""
        rows = []
        for person, venue, minute, kind in world:
            masks = [0, 0, 0]
            masks[MASKS[kind]] = 1 << minute % 60
            rows.append((venue, minute // 60, int(person, 16), *masks, 1, 1))
        if rows:
            columns = "venue, hour, person, ins, outs, voids, party, sources"
            self.client.execute(f"INSERT INTO visits ({columns}) VALUES", rows)


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    client = connect(settings.clickhouse_url)
    migrate(client, clock_ms)
    # merges would hide what a question forgets to merge itself
    for table in ("visits", "visits_by_person", "exposures", "venues"):
        client.execute(f"SYSTEM STOP MERGES {table}")
    asker = connect(settings.clickhouse_url)
    yield World(client, Lookups(asker, clock_ms, "tester"), GroupLookups(asker, clock_ms, "tester"))
    client.disconnect()
    asker.disconnect()
