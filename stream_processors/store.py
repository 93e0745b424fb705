"""The state in Redis: one method a step of the protocol, each atomic within one shard.

Every write is a merge, so every step may be repeated; a caller that is not sure repeats it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

import msgpack
from redis.asyncio import Redis

from schemas.events import Case
from stream_processors.guard import Guard, StoreState
from stream_processors.layout import (
    Layout,
    exposure_field,
    index_entry,
    marks_of,
    pack_standing,
    pack_warned,
    read_case,
    read_field,
    read_index_entry,
    unpack_standing,
    unpack_warned,
    warning_field,
)
from stream_processors.matching import Decision, Key, Standing, Warned
from stream_processors.presence import Mark
from stream_processors.scripts import OnFull, Scripts

# Lua's unpack holds about 8,000 values: a bucket may take two of them a mark
_MARKS_A_CALL: Final = 2_000

NEW: Final = "n"
REDELIVERY: Final = "r"
DUPLICATE: Final = "d"
ERASED: Final = "e"

CaseVerdict = Literal["set", "same", "lower", "conflict", "subject"]


class MarkRow(NamedTuple):
    """One scan as the store sees it (a tuple: made a million times a minute)."""

    scan_id: str
    person: str
    venue: str
    hour: int
    minute: int  # in the hour
    kind: int


@dataclass(slots=True)
class Ingested:
    """What the two steps of a scan found: a verdict a mark, and who has to be told."""

    verdicts: str
    flags: dict[str, list[Case]]
    cases: dict[str, list[Case]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """The first step of a match: the case record that stands, the attempt's number, the entries."""

    case: Case
    number: int
    standing: Mapping[Key, Standing]
    warned: Mapping[int, Warned]


class Store:
    """Redis, spoken to in steps of the protocol.

    A full Redis is waited for: it refuses to grow, so the step is repeated until there is room; `waiting`
    hears of it. Every step raises StoreLostError when Redis is not of the epoch that `open` found.
    """

    def __init__(self, redis: Redis, layout: Layout, clock_ms: Callable[[], int], on_full: OnFull) -> None:
        self.layout = layout
        self.guard = Guard(redis, layout, clock_ms)
        self._scripts = Scripts(redis, on_full)

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
        await self._scripts.run_all(
            [
                ("record_positions", [self.layout.state(shard)], list(arguments))
                for shard in range(self.layout.shards)
            ]
        )

    async def finish_rebuild(self, committed: Mapping[str, int], now_ms: int) -> None:
        """The store is whole again, unless it was lost once more meanwhile (StoreLostError). `committed`:
        what was acknowledged when the rebuild began to read; all of it is in the store now."""
        await self.record_positions(committed)
        await self._scripts.run("finish_rebuild", [self.layout.state(0)], [now_ms])

    # --- a scan -------------------------------------------------------------------------------

    async def add_scans(self, rows: Sequence[MarkRow], flag_venues: Sequence[str], now_ms: int) -> Ingested:
        """Both steps of every scan of a chunk: marks and flags first, then index and cases."""
        verdicts: list[str] = []
        flags: dict[str, list[Case]] = {}
        cases: dict[str, list[Case]] = {}
        for start in range(0, len(rows), _MARKS_A_CALL):
            part = rows[start : start + _MARKS_A_CALL]
            marks_request, order = self._marks_request(part, flag_venues)
            persons_request, persons = self._persons_request(part, now_ms)
            marked, found = await self._scripts.run_all(
                [("add_marks", (), [marks_request]), ("add_index", (), [persons_request])]
            )
            verdicts += _in_order(marked[0].decode(), order)
            for index, fields in marked[1]:
                flags[flag_venues[index]] = [read_case(record) for record in fields[1::2]]
            for index, fields in found:
                cases[persons[index]] = [read_case(record) for record in fields[1::2]]
        return Ingested("".join(verdicts), flags, cases)

    def _marks_request(self, rows: Sequence[MarkRow], flag_venues: Sequence[str]) -> tuple[bytes, list[int]]:
        """The argument of add_marks, and for each mark of it the position of its row."""
        layout = self.layout
        buckets: dict[tuple[str, int], list[Any]] = {}
        positions: dict[tuple[str, int], list[int]] = {}
        fromhex, crc32 = bytes.fromhex, zlib.crc32
        for position, (scan_id, person, venue, hour, minute, kind) in enumerate(rows):
            at = (venue, hour)
            bucket = buckets.get(at)
            if bucket is None:
                bucket = buckets[at] = [layout.bucket(venue, hour), layout.bucket_expiry(hour), 0]
                positions[at] = []
            bucket.append(fromhex(person))
            # mark_byte and tag of the layout, written out: this line runs for every scan
            bucket.append((kind << 38 | minute << 32 | crc32(scan_id.encode())).to_bytes(5, "big"))
            positions[at].append(position)
        flat: list[Any] = []
        for at, bucket in buckets.items():
            bucket[2] = len(positions[at])
            flat += bucket
        request = [flat, [layout.flags(venue) for venue in flag_venues]]
        # raw strings: Lua's unpacker gives them back byte for byte
        packed: bytes = msgpack.packb(request, use_bin_type=False)
        return packed, [position for at in buckets for position in positions[at]]

    def _persons_request(self, rows: Sequence[MarkRow], now_ms: int) -> tuple[bytes, list[str]]:
        layout = self.layout
        entries: dict[str, list[Any]] = {}
        case_keys: list[str] = []
        known: dict[tuple[int, str], tuple[int, bytes]] = {}
        for _, person, venue, hour, _, _ in rows:
            place = known.get((hour, venue))
            if place is None:
                place = known[hour, venue] = (layout.bucket_expiry(hour), index_entry(hour, venue))
            entry = entries.get(person)
            if entry is None:
                index_key, case_key = layout.person_keys(person)
                entries[person] = [index_key, place[0], 1, place[1]]
                case_keys.append(case_key)
                continue
            entry[1] = max(entry[1], place[0])
            if place[1] not in entry:
                entry.append(place[1])
                entry[2] += 1
        flat = list(chain.from_iterable(entries.values()))
        request = [flat, case_keys, max(layout.oldest_hour(now_ms), 0).to_bytes(4, "big")]
        packed: bytes = msgpack.packb(request, use_bin_type=False)
        return packed, list(entries)

    # --- a person who is erased ---------------------------------------------------------------

    async def refuse_marks(self, person: str, last_hour: int, until_s: int, now_ms: int) -> None:
        """From now on no mark of the person up to this hour is added."""
        await self._refuse(b"m" + bytes.fromhex(person), last_hour, until_s, now_ms)

    async def refuse_index(self, person: str, last_hour: int, until_s: int, now_ms: int) -> None:
        """From now on no entry of the person's index up to this hour is added."""
        await self._refuse(b"i" + person.encode(), last_hour, until_s, now_ms)

    async def _refuse(self, field: bytes, last_hour: int, until_s: int, now_ms: int) -> None:
        arguments = [field, last_hour, until_s, now_ms // 1000]
        await self._scripts.run("set_erased", [self.layout.erased], arguments)

    async def index_of(self, person: str, last_hour: int, remove: bool = False) -> list[tuple[int, str]]:
        """The (hour, venue) pairs of the person's index up to this hour; `remove`: they are gone then."""
        key = self.layout.index(person)
        entries = await self._scripts.run("erase_index", [key], [last_hour, "1" if remove else ""])
        return [read_index_entry(entry) for entry in entries]

    async def erase_marks(self, person: str, places: Iterable[tuple[int, str]]) -> int:
        """Take the person out of these (hour, venue) buckets; how many marks that were."""
        field, by_venue = bytes.fromhex(person), dict[str, list[str]]()
        for hour, venue in places:
            by_venue.setdefault(venue, []).append(self.layout.bucket(venue, hour))
        calls: list[tuple[str, Sequence[str], list[Any]]] = [
            ("erase_marks", keys[start : start + _MARKS_A_CALL], [field])
            for keys in by_venue.values()
            for start in range(0, len(keys), _MARKS_A_CALL)
        ]
        return sum(await self._scripts.run_all(calls)) if calls else 0

    async def flagged(self, venue: str) -> list[Case]:
        """The cases that a venue is flagged with."""
        return (await self.flagged_at([venue])).get(venue, [])

    async def flagged_at(self, venues: Sequence[str]) -> dict[str, list[Case]]:
        """The cases that venues are flagged with; without those that have none."""
        keys = [self.layout.flags(venue) for venue in venues]
        _, flags = await self._scripts.run("add_marks", (), [msgpack.packb([[], keys], use_bin_type=False)])
        return {venues[at]: [read_case(record) for record in fields[1::2]] for at, fields in flags}

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
        entries = await self._scripts.run(
            "set_person_case",
            [layout.cases(case.person), layout.index(case.person)],
            [
                case.case_id,
                layout.case_record(case, now_ms),
                layout.case_expiry(case, now_ms),
                now_ms // 1000,
            ],
        )
        return [read_index_entry(entry) for entry in entries]

    async def add_case_venues(
        self, case_id: str, venues: Iterable[str]
    ) -> tuple[Case | None, list[str], list[str]]:
        """Remember venues of a case: (the case that stands, the new ones, all of them)."""
        record, added, known = await self._scripts.run("add_case_venues", [self.layout.case(case_id)], venues)
        case = read_case(record) if record else None
        return case, [venue.decode() for venue in added], [venue.decode() for venue in known]

    # --- a match ------------------------------------------------------------------------------

    async def set_flag(
        self, venue: str, case: Case, keys: Iterable[Key] | None, days: Iterable[int], now_ms: int
    ) -> Attempt:
        """First step: flag the venue, count the attempt, read the entries of `keys` (none: all)."""
        layout = self.layout
        wanted: list[str] = []
        if keys is not None:
            wanted = [exposure_field(*key) for key in keys] + [warning_field(day) for day in days]
        reply = await self._scripts.run(
            "set_flag",
            [layout.flags(venue), layout.entries(venue, case.case_id)],
            [
                case.case_id,
                layout.case_record(case, now_ms),
                layout.case_expiry(case, now_ms),
                now_ms // 1000,
                *wanted,
            ],
        )
        standing: dict[Key, Standing] = {}
        warned: dict[int, Warned] = {}
        for name, value in zip(reply[2::2], reply[3::2], strict=True):
            parsed = read_field(name)
            if parsed is None:
                continue
            subject, day = parsed
            if subject == "w":
                warned[day] = unpack_warned(value)
            else:
                standing[subject, day] = unpack_standing(value)
        return Attempt(read_case(reply[0]), int(reply[1]), standing, warned)

    async def marks(self, venue: str, hours: range, persons: Sequence[str] | None) -> dict[str, list[Mark]]:
        """The marks at a venue in these hours: of these persons, or of everybody."""
        if not hours or (persons is not None and not persons):
            return {}
        layout = self.layout
        fields = [bytes.fromhex(person) for person in persons or ()]
        request = [layout.bucket_prefix(venue), hours.start, hours.stop - 1, fields]
        reply = await self._scripts.run(
            "read_marks",
            [layout.bucket(venue, hours.start)],
            [msgpack.packb(request, use_bin_type=False)],
        )
        found: dict[str, list[Mark]] = {}
        for hour, pairs in reply:
            for field, value in zip(pairs[::2], pairs[1::2], strict=True):
                found.setdefault(field.hex(), []).extend(marks_of(hour, value))
        return found

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


def _in_order(verdicts: str, order: Sequence[int]) -> list[str]:
    """Verdicts given bucket by bucket, put back in the order of the rows."""
    placed = [""] * len(order)
    for position, verdict in zip(order, verdicts, strict=True):
        placed[position] = verdict
    return placed
