"""The simpler protocols, which have to be found out: each a small change to the code or a script.

Those named in docs/DESIGN.md, "Rejected", and each thing that we added: without it, something breaks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from schemas.events import Case, Venue
from stream_processors.cases import Cases
from stream_processors.entries import Entries
from stream_processors.layout import ENTRY_SIZE
from stream_processors.matcher import Matcher
from stream_processors.matching import Decision, Key
from stream_processors.requests import Marks
from stream_processors.scripts import source
from stream_processors.store import Attempt, Found, Ingested, Reading, Store
from stream_processors.touches import Touch, touched_records


def _settled(decision: Decision) -> Decision:
    return Decision(
        {key: replace(entry, pending=False) for key, entry in decision.exposures.items()},
        {day: replace(entry, pending=False) for day, entry in decision.warnings.items()},
    )


class DedupByClaim(Store):
    """A mark that is there already is a duplicate, whoever made it."""

    async def add_scans(self, marks: Marks, flag_venues: Sequence[str]) -> Ingested:
        found = await super().add_scans(marks, flag_venues)
        return replace(found, verdicts=found.verdicts.replace("r", "d"))


class BlindToFlags(Store):
    """A scan does not look at the flags of its venue."""

    async def add_scans(self, marks: Marks, flag_venues: Sequence[str]) -> Ingested:
        return replace(await super().add_scans(marks, flag_venues), flags={})


class RecordThenPublish(Store):
    """What changes is written as if it were published already."""

    async def write_pending(self, venue: str, case_id: str, number: int, decision: Decision) -> bool:
        return await super().write_pending(venue, case_id, number, _settled(decision))


class PublishThenRecord(Store):
    """Nothing is written before it is published."""

    async def write_pending(self, venue: str, case_id: str, number: int, decision: Decision) -> bool:
        return True

    async def clear_pending(self, venue: str, case_id: str, decision: Decision) -> None:
        await super().write_pending(venue, case_id, 0, _settled(decision))


def _each(entries: bytes) -> list[bytes]:
    return [entries[at : at + ENTRY_SIZE] for at in range(0, len(entries), ENTRY_SIZE)]


class MarksThenFlag(Store):
    """The marks are read before the flag is set."""

    async def set_flag(
        self,
        venue: str,
        case: Case,
        keys: Iterable[Key] | None,
        days: Iterable[int],
        now_ms: int,
        *,
        reading: Reading | None = None,
    ) -> Attempt:
        hours = range(now_ms // 3_600_000 - 4 * 24, now_ms // 3_600_000 + 24)
        self._before = (await super().marks_in(venue, Reading([hours], None))).entries
        attempt = await super().set_flag(venue, case, keys, days, now_ms)
        return attempt if reading is None else replace(attempt, found=await self.marks_in(venue, reading))

    async def marks_in(self, venue: str, reading: Reading) -> Found:
        asked = None if reading.persons is None else [bytes.fromhex(person) for person in reading.persons]
        found = [
            (hour, b"".join(entry for entry in _each(entries) if asked is None or entry[:8] in asked))
            for hour, entries in self._before.buckets
        ]
        return Found(Entries(found), len(reading.stretches))


class ForgetsVenues(Store):
    """A scan does not write its venue into the case before it touches it."""

    async def add_case_venues(
        self, case_id: str, venues: Iterable[str]
    ) -> tuple[Case | None, list[str], list[str]]:
        return await super().add_case_venues(case_id, [])


class NewWindowOnly(Cases):
    """A version touches the venues of its own window, not those that the case touched before."""

    async def announce(self, case: Case) -> int:
        venues = await self._venues_of(case)
        touches = [Touch(venue, case, persons=None) for venue in venues]
        await self._producer.send(touched_records(self._topics.touched, touches))
        return len(touches)


class TellsNobody(Cases):
    """A venue that is put below another one is seen by new scans only."""

    async def moved(self, codes: Collection[str]) -> int:
        return 0


class TrustsItsRegister(Matcher):
    """After a flag is set, the register is not looked at again."""

    async def _see_moves(self, case: Case, venue: Venue) -> None:
        return


def _changed(script: str, old: str, new: str) -> dict[str, str]:
    text = source(script)
    assert old in text, f"{script}.lua has changed: change this mutation with it"
    return {script: text.replace(old, new)}


_DELETED_FLAG: Final = _changed(
    "set_flag",
    "local n = redis.call('HINCRBY'",
    "if string.find(record, 'withdrawn', 1, true) then redis.call('HDEL', flags, ARGV[1]) end\n"
    "local n = redis.call('HINCRBY'",
)
_UNCOUNTED: Final = _changed(
    "write_pending", "if redis.call('HGET', KEYS[1], 'n') ~= ARGV[1] then", "if false then"
)


@dataclass(frozen=True)
class Unsafe:
    """A protocol and the scenario that shows what is wrong with it."""

    name: str
    scenario: str
    actors: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    explorer: Mapping[str, bool] = field(default_factory=dict)
    faults: int = 1
    zombies: bool = False


UNSAFE: Final = (
    Unsafe("acknowledge, then write", "withdrawn", explorer={"early_ack": True}),
    Unsafe("dedup by claim", "withdrawn", {"store": DedupByClaim}),
    Unsafe("no look at flags", "a check-out shortens", {"store": BlindToFlags}, faults=0),
    Unsafe("record, then publish", "withdrawn", {"store": RecordThenPublish}),
    Unsafe("publish, then record", "a check-out ends it", {"store": PublishThenRecord}, _UNCOUNTED),
    Unsafe("marks, then flag", "a check-out shortens", {"store": MarksThenFlag}, faults=0),
    Unsafe("a flag deleted by a withdrawal", "withdrawn", sources=_DELETED_FLAG, faults=0),
    Unsafe("the venues of the new window only", "moved far away", {"cases": NewWindowOnly}, faults=0),
    Unsafe("a touched venue that the case forgets", "moved far away", {"store": ForgetsVenues}, faults=0),
    Unsafe("nobody is told of a move", "a stall that comes to a market", {"cases": TellsNobody}, faults=0),
    Unsafe(
        "a move is not looked for",
        "a stall that leaves its market",
        {"matcher": TrustsItsRegister},
        faults=0,
    ),
    Unsafe("attempts are not counted", "a check-out ends it", sources=_UNCOUNTED, zombies=True),
    Unsafe("a zombie may write", "a place-time withdrawn", explorer={"fence": False}, zombies=True),
)
