"""The register of venues: who is above whom, however it came to be so."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import orjson
from hypothesis import given
from hypothesis import strategies as st

from deploy.local import engines as local
from deploy.local.topics import TopicAdmin
from producers.venues.register import publish_venues
from schemas import topics
from schemas.codes import new_code
from schemas.events import Venue
from schemas.settings import Settings
from stream_processors.ingest import Ingest
from stream_processors.records import Record, Records
from stream_processors.venues import Register, VenueTable
from tests.stream.harness import stall

_CODES = sorted(new_code((), choose=random.Random(seed).choice) for seed in range(6))


@given(
    st.lists(
        st.tuples(st.sampled_from(_CODES), st.none() | st.sampled_from(_CODES), st.booleans()), max_size=30
    )
)
def test_what_is_above_many_is_what_is_above_each_after_every_change(
    changes: list[tuple[str, str | None, bool]],
) -> None:
    """Also with parents that are not known, and in circles, which the topic may hold for a while."""
    register = Register()
    for code, parent, asked in changes:
        register.put(stall(code, parent if parent != code else None))
        if asked:
            wanted = {code: above for code in _CODES if (above := register.ancestors(code))}
            assert register.ancestors_of(set(_CODES)) == wanted
            assert register.ancestors_of(set(_CODES)) == wanted  # from what is remembered


class _Read:
    """A record as the client gives it."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 4

    def error(self) -> None:
        return None

    def value(self) -> bytes:
        return self._value


def test_a_record_counts_as_read_once_its_venue_is_in_the_register() -> None:
    """Whoever looks from another thread how far the topic was read must find what was read: one that did not
    refused a scan of a venue that had just been registered."""
    table, heard = VenueTable.__new__(VenueTable), list[tuple[int, bool]]()
    table._next = {0: 4}

    class Watched(Register):
        def put(self, venue: Venue) -> bool:
            heard.append((table._next[0], venue.code in self))
            return super().put(venue)

    table.register = Watched()
    table._on_moved = lambda *_: heard.append((table._next[0], _CODES[0] in table.register))
    table._apply(cast(Any, _Read(stall(_CODES[0]).model_dump_json().encode())))
    assert heard == [(4, False), (4, True)]
    assert table._next == {0: 5}


class _FilledMeanwhile(Register):
    """The thread that follows the topic puts a venue just after a chunk has asked for it."""

    def closed_at(self, codes: Iterable[str]) -> dict[str, int | None]:
        found = super().closed_at(codes)
        self.put(stall(_CODES[0]))
        return found


class _ReadToItsEnd(VenueTable):
    """A topic in which nothing is left to read."""

    def __init__(self) -> None:
        self.register = _FilledMeanwhile()

    async def fresh(self) -> None:
        pass


def test_a_venue_that_came_while_its_scans_were_judged_is_known() -> None:
    now = 1_700_000_000_000
    scan = {"scan_id": "00000000-0000-4000-8000-000000000001", "person": "0" * 15 + "1", "venue": _CODES[0]}
    ingest = Ingest(
        **dict.fromkeys(("store", "producer", "topics", "metrics"), cast("Any", None)),
        venues=_ReadToItsEnd(),
        retention_days=30,
        clock_ms=lambda: now,
    )
    records = Records.of([Record(orjson.dumps({**scan, "scanned_at": now}), 0, now, ())])
    judged = asyncio.run(ingest._validated(records))
    assert not judged.rejected
    assert len(judged.scans) == 1


def test_a_broker_that_was_killed_is_asked_for_the_end_of_the_register_again(tmp_path: Path) -> None:
    """A scan of an unknown venue asks for it: without an answer the worker would end."""
    port, controller = local.free_ports(2)
    launch = local.kafka(tmp_path / "kafka", port, controller)
    own = Settings(kafka=f"127.0.0.1:{port}")
    with (tmp_path / "log").open("ab") as log:
        process = local.start(launch, log)
        table = None
        try:
            assert local.wait_until(launch.answers, 30) is None
            TopicAdmin(own).apply()
            publish_venues(own, [stall(_CODES[0])])
            table = VenueTable(own.kafka_address, topics.VENUES.name, timeout_s=20)
            table.start()
            process.kill()
            process.wait(10)
            time.sleep(1)  # the broker that comes back is not taken for the one that went
            process = local.start(launch, log)
            assert local.wait_until(launch.answers, 30) is None
            publish_venues(own, [stall(_CODES[1])])
            assert asyncio.run(table.get(_CODES[1])) is not None
            assert asyncio.run(table.get(_CODES[2])) is None
        finally:
            if table is not None:
                table.stop()
            local.end(process)
