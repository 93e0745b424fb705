"""The state in Redis: one method a step of the protocol, each atomic within one shard.

Every write is a merge, so every step may be repeated; a caller that is not sure repeats it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, Literal

import msgpack
import numpy as np

from schemas.events import Case
from schemas.times import MS_PER_MINUTE
from stream_processors.entries import Entries
from stream_processors.guard import Guard, StoreState
from stream_processors.layout import (
    Layout,
    exposure_field,
    pack_standing,
    pack_warned,
    read_case,
    read_code,
    read_field,
    unpack_standing,
    unpack_warned,
    warning_field,
)
from stream_processors.matching import Decision, Key, Standing, Warned
from stream_processors.presence import Mark
from stream_processors.requests import (
    Marks,
    gather,
    index_calls,
    marks_calls,
    with_index,
)
from stream_processors.scripts import OnFull, Scripts
from stream_processors.servers import Servers

# Some 40 ms of Redis, which others wait for
MARKS_A_CALL: Final = 11_000
# So few are mostly all new, and then both steps are one call, which spares a trip. Of more, some are no news
# nearly always, and what was laid down for the second step would be thrown away.
_AT_ONCE: Final = 100
# Readings of everybody at a venue that are under way at once, each in a trip of its own: dozens of a market's
# in one trip would block Redis for seconds, and then the loop, past the client's time-out.
_WHOLE_READS: Final = 4

NEW: Final = "n"
REDELIVERY: Final = "r"
DUPLICATE: Final = "d"
ERASED: Final = "e"

Call = tuple[str, Sequence[str], list[Any]]  # a script, its keys, its arguments
CaseVerdict = Literal["set", "same", "lower", "conflict", "subject"]


@dataclass(slots=True)
class Ingested:
    """What the two steps of a scan found: a verdict a mark, and who has to be told."""

    verdicts: str
    flags: dict[str, list[Case]]
    cases: dict[str, list[Case]]


@dataclass(frozen=True, slots=True)
class Reading:
    """Which marks of a venue to read: of these persons or of everybody, in stretches of hours that do not
    meet, in their order. None is begun once `most` marks were found, or persons asked for by name."""

    stretches: Sequence[range]
    persons: Sequence[str] | None
    most: int = 1 << 52  # more than any stretch of hours holds


@dataclass(frozen=True, slots=True)
class Found:
    """Marks that were read, and of how many stretches."""

    entries: Entries
    stretches: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """The first step of a match: the case record that stands, the attempt's number, the entries, and the
    marks that were asked for."""

    case: Case
    number: int
    standing: Mapping[Key, Standing]
    warned: Mapping[int, Warned]
    found: Found | None = None


class Store:
    """Redis, spoken to in steps of the protocol.

    A full Redis is waited for: it refuses to grow, so the step is repeated until there is room; `waiting`
    hears of it. Every step raises StoreLostError when Redis is not of the epoch that `open` found.
    """

    def __init__(
        self, servers: Servers, layout: Layout, clock_ms: Callable[[], int], on_full: OnFull
    ) -> None:
        self.layout = replace(layout, split=servers.clustered)
        self.guard = Guard(servers, self.layout, clock_ms)
        self._scripts = Scripts(servers, on_full)
        self._whole = asyncio.Semaphore(_WHOLE_READS)

    async def close(self) -> None:
        """Close the connections."""
        await self._scripts.close()

    async def open(self, committed: Mapping[str, int]) -> StoreState:
        """Make the scripts known, begin with the epoch that stands. Raises redis.ConnectionError when Redis
        is away. `committed`: as Guard.open."""
        await self._scripts.load()
        state = await self.guard.open(committed)
        self._scripts.epoch = state.epoch
        return state

    async def record_positions(self, positions: Mapping[str, int]) -> None:
        """Write down, in every shard, how far the store has been told; behind all that it was told."""
        arguments = [word for item in positions.items() for word in item]
        states = [self.layout.state(shard) for shard in range(self.layout.shards)]
        await self._scripts.run_all(
            [
                ("record_positions", keys, list(arguments))
                for keys in ([[key] for key in states] if self.layout.split else [states])
            ]
        )

    async def finish_rebuild(self, committed: Mapping[str, int], now_ms: int) -> None:
        """The store is whole again, unless it was lost once more meanwhile (StoreLostError). `committed`:
        what was acknowledged when the rebuild began to read; all of it is in the store now."""
        await self.record_positions(committed)
        await self._scripts.run("finish_rebuild", [self.layout.state(0)], [now_ms])

    # --- a scan -------------------------------------------------------------------------------

    async def add_scans(self, marks: Marks, flag_venues: Sequence[str]) -> Ingested:
        """Both steps of every scan of a chunk: all marks and flags first, then index and cases of those that
        are no duplicates.

        A venue's flags are read in the call that adds its marks; those of the places above it may be read
        before. Of few scans on one server both steps are one call, with nothing of anybody else's in between,
        as they might be in two.
        """
        layout = self.layout
        verdicts = np.empty(len(marks), np.uint8)
        flags: dict[str, list[Case]] = {}
        cases: dict[str, list[Case]] = {}
        for start in range(0, len(marks), MARKS_A_CALL):
            part = marks[start : start + MARKS_A_CALL]
            buckets = gather(layout, part)
            marking = marks_calls(layout, part, buckets, flag_venues)
            script = "add_marks"
            if len(part) <= _AT_ONCE and not layout.split:
                script, new = "add_scans", np.ones(len(part), np.bool_)
                marking = [with_index(marking[0], *index_calls(layout, part, buckets, new, ~new))]
            marked = await self._scripts.run_all(
                [(script, [layout.state(call.shard)], [call.request]) for call in marking]
            )
            indexed: list[Any] = []
            for call, (said, found, *done) in zip(marking, marked, strict=True):
                indexed += done
                verdicts[start + call.order] = np.frombuffer(said, np.uint8)
                for index, fields in found:
                    flags[call.venues[index]] = [read_case(record) for record in fields[1::2]]
            told = verdicts[start : start + len(part)]
            again = told == ord(REDELIVERY)
            taken = again | (told == ord(NEW))
            if not indexed and taken.any():
                indexing = index_calls(layout, part, buckets, taken, again)
                indexed = await self._scripts.run_all(
                    [("add_index", [layout.state(call.shard)], [call.request]) for call in indexing]
                )
            for person, fields in chain.from_iterable(indexed):
                cases[person.hex()] = [read_case(record) for record in fields[1::2]]
        return Ingested(verdicts.tobytes().decode(), flags, cases)

    # --- a person who is erased ---------------------------------------------------------------

    async def refuse_marks(self, person: str, last_hour: int, until_s: int, now_ms: int) -> None:
        """From now on no mark of the person up to this hour is added."""
        await self._refuse(b"m" + bytes.fromhex(person), last_hour, until_s, now_ms)

    async def refuse_index(self, person: str, last_hour: int, until_s: int, now_ms: int) -> None:
        """From now on no entry of the person's index up to this hour is added."""
        await self._refuse(b"i" + person.encode(), last_hour, until_s, now_ms)

    async def _refuse(self, field: bytes, last_hour: int, until_s: int, now_ms: int) -> None:
        arguments = [field, last_hour, until_s, now_ms // 1000]
        await self._scripts.run_all([("set_erased", [key], list(arguments)) for key in self.layout.erased])

    async def index_of(self, person: str, last_hour: int, remove: bool = False) -> list[tuple[int, str]]:
        """The (hour, venue) pairs of the person's index up to this hour; `remove`: they are gone then."""
        days = range(self.layout.index_days(last_hour * 60 * MS_PER_MINUTE).start, last_hour // 24 + 1)
        entries = await self._scripts.run(
            "erase_index",
            self.layout.index(person, days),
            [bytes.fromhex(person), last_hour % 24, "1" if remove else ""],
        )
        return _places(days, entries)

    async def erase_marks(self, person: str, places: Iterable[tuple[int, str]]) -> int:
        """Take the person out of these (hour, venue) buckets; how many marks that were."""
        field, by_venue = bytes.fromhex(person), dict[str, list[str]]()
        for hour, venue in places:
            by_venue.setdefault(venue, []).append(self.layout.bucket(venue, hour))
        calls: list[Call] = [
            ("erase_marks", keys[start : start + MARKS_A_CALL], [field])
            for keys in by_venue.values()
            for start in range(0, len(keys), MARKS_A_CALL)
        ]
        return sum(await self._scripts.run_all(calls)) if calls else 0

    async def flagged(self, venue: str) -> list[Case]:
        """The cases that a venue is flagged with."""
        return (await self.flagged_at([venue])).get(venue, [])

    async def flagged_at(self, venues: Sequence[str]) -> dict[str, list[Case]]:
        """The cases that venues are flagged with; without those that have none."""
        layout, asked = self.layout, list[tuple[int, Sequence[str]]]()
        if layout.split:
            shards = layout.by_shard(venues).items()
            asked += [(shard, [venues[at] for at in places]) for shard, places in shards]
        else:
            asked.append((0, venues))
        calls: list[Call] = [
            (
                "add_marks",
                [layout.state(shard)],
                [msgpack.packb([[], [layout.flags(venue) for venue in some]], use_bin_type=False)],
            )
            for shard, some in asked
        ]
        found: dict[str, list[Case]] = {}
        for (_, some), (_, flags) in zip(asked, await self._scripts.run_all(calls), strict=True):
            found |= {some[at]: [read_case(record) for record in fields[1::2]] for at, fields in flags}
        return found

    # --- a case -------------------------------------------------------------------------------

    async def set_case(self, case: Case, now_ms: int) -> tuple[CaseVerdict, Case]:
        """First step: what becomes of this version, and the case that stands."""
        layout = self.layout
        verdict, record = await self._scripts.run(
            "set_case",
            [layout.case(case.case_id)],
            [layout.case_record(case, now_ms), case.subject, layout.case_expiry(case, now_ms)],
        )
        return verdict.decode(), read_case(record)

    async def set_person_case(self, case: Case, now_ms: int) -> list[tuple[int, str]]:
        """Second step: give the person the case; the (hour, venue) pairs of the person's index."""
        assert case.person is not None
        layout = self.layout
        days = layout.index_days(now_ms)
        entries = await self._scripts.run(
            "set_person_case",
            [
                layout.cases(case.person),
                layout.having_cases(layout.shard(case.person)),
                *layout.index(case.person, days),
            ],
            [
                case.case_id,
                layout.case_record(case, now_ms),
                layout.case_expiry(case, now_ms),
                now_ms // 1000,
                bytes.fromhex(case.person),
            ],
        )
        return _places(days, entries)

    async def add_case_venues(
        self, case_id: str, venues: Iterable[str]
    ) -> tuple[Case | None, list[str], list[str]]:
        """Remember venues of a case: (the case that stands, the new ones, all of them)."""
        record, added, known = await self._scripts.run("add_case_venues", [self.layout.case(case_id)], venues)
        case = read_case(record) if record else None
        return case, [venue.decode() for venue in added], [venue.decode() for venue in known]

    # --- a match ------------------------------------------------------------------------------

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
        """First step: flag the venue, count the attempt, read the entries of `keys` (none: all), then marks.

        `reading` is for marks of persons by name; everybody's at a place can be many: `marks_in`.
        """
        layout = self.layout
        wanted: list[str] = []
        if keys is not None:
            wanted = [exposure_field(*key) for key in keys] + [warning_field(day) for day in days]
        asked = None if reading is None else self._asked(venue, reading)
        reply = await self._scripts.run(
            "set_flag",
            [layout.flags(venue), layout.entries(venue, case.case_id)],
            [
                case.case_id,
                layout.case_record(case, now_ms),
                layout.case_expiry(case, now_ms),
                now_ms // 1000,
                b"" if asked is None else asked,
                *wanted,
            ],
        )
        standing: dict[Key, Standing] = {}
        warned: dict[int, Warned] = {}
        for name, value in zip(reply[3::2], reply[4::2], strict=True):
            parsed = read_field(name)
            if parsed is None:
                continue
            subject, day = parsed
            if subject == "w":
                warned[day] = unpack_warned(value)
            else:
                standing[subject, day] = unpack_standing(value)
        found = None
        if reading is not None:
            found = _found(reading, reply[2]) if asked else Found(Entries(()), len(reading.stretches))
        return Attempt(read_case(reply[0]), int(reply[1]), standing, warned, found)

    async def marks(self, venue: str, hours: range, persons: Sequence[str] | None) -> dict[str, list[Mark]]:
        """The marks at a venue in these hours: of these persons, or of everybody."""
        return (await self.marks_in(venue, Reading([hours], persons))).entries.marks()

    async def marks_in(self, venue: str, reading: Reading) -> Found:
        """Some of the marks at a venue."""
        asked = self._asked(venue, reading)
        if asked is None:
            return Found(Entries(()), len(reading.stretches))
        # the script wants a key of the slot; which hour's does not matter
        call: Call = ("read_marks", [self.layout.bucket(venue, 0)], [asked])
        if reading.persons:
            return _found(reading, await self._scripts.run(*call))
        async with self._whole:
            (reply,) = await self._scripts.run_all([call])
            return _found(reading, reply)

    def _asked(self, venue: str, reading: Reading) -> bytes | None:
        """The request of a script; None: there is nothing to read."""
        limits = [limit for hours in reading.stretches if hours for limit in (hours.start, hours.stop - 1)]
        if not limits or (reading.persons is not None and not reading.persons):
            return None
        fields = [bytes.fromhex(person) for person in reading.persons or ()]
        request = [self.layout.bucket_prefix(venue), fields, reading.most, *limits]
        packed: bytes = msgpack.packb(request, use_bin_type=False)
        return packed

    async def write_pending(self, venue: str, case_id: str, number: int, decision: Decision) -> bool:
        """Third step: write what will change as pending; false when the attempt has to be made again."""
        arguments: list[Any] = [number]
        for key, standing in decision.exposures.items():
            arguments += [exposure_field(*key), pack_standing(standing)]
        for day, warned in decision.warnings.items():
            arguments += [warning_field(day), pack_warned(warned)]
        return bool(
            await self._scripts.run("write_pending", [self.layout.entries(venue, case_id)], arguments)
        )

    async def restore(
        self,
        venue: str,
        case: Case,
        decision: Decision,
        expire_at: int,
    ) -> None:
        """Put back what stands published of a case at a venue, unless something newer is there.
        `expire_at` in Unix seconds."""
        arguments: list[Any] = [expire_at]
        for key, standing in decision.exposures.items():
            arguments += [exposure_field(*key), standing.version, pack_standing(standing)]
        for day, warned in decision.warnings.items():
            arguments += [warning_field(day), warned.version, pack_warned(warned)]
        await self._scripts.run("restore_entries", [self.layout.entries(venue, case.case_id)], arguments)

    async def clear_pending(self, venue: str, case_id: str, decision: Decision) -> None:
        """Fifth step: what was published is no longer pending."""
        arguments: list[Any] = []
        for key, standing in decision.exposures.items():
            settled = Standing(
                standing.version, standing.status, standing.first, standing.last, standing.minutes
            )
            arguments += [exposure_field(*key), pack_standing(standing), pack_standing(settled)]
        for day, warned in decision.warnings.items():
            calm = Warned(warned.version, warned.status, warned.presences, warned.contacts)
            arguments += [warning_field(day), pack_warned(warned), pack_warned(calm)]
        await self._scripts.run("clear_pending", [self.layout.entries(venue, case_id)], arguments)


def _found(reading: Reading, reply: Any) -> Found:
    """Of a reply to a request that asked for something."""
    read, hours = reply
    entries = Entries(list(zip(hours[::2], hours[1::2], strict=True)))
    asked = [number for number, stretch in enumerate(reading.stretches) if stretch]
    return Found(entries, len(reading.stretches) if read == len(asked) else asked[read])


def _places(days: range, entries: Sequence[Any]) -> list[tuple[int, str]]:
    """(hour, venue) of index entries, each pair once."""
    pairs = zip(entries[::2], entries[1::2], strict=True)
    return sorted({(days[place] * 24 + tail[0], read_code(tail[1:])) for place, tail in pairs})
