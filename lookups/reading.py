"""Marks out of the archive as arrays, for questions that are asked from Python.

A column comes as one value, the bytes of all its numbers: clickhouse-driver makes a Python object of every
number otherwise (docs/LOOKUPS.md, "Trials").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from clickhouse_driver import Client
from numpy.typing import NDArray

from lookups.answers import Place, Window, listed
from lookups.asking import Asker, Desk, incomplete
from lookups.presence import (
    MARGIN_HOURS,
    PER_HOUR,
    VENUE_BITS,
    Archived,
    Numbers,
    Persons,
    Spans,
    live_marks,
    presences,
    telling,
)
from schemas.times import day_name

# The number of a mark (lookups/presence.py), but for the venue. A row is as many as it has marks.
_MARK: Final = f"(hour - %(first)s) * {PER_HOUR} + arrayJoin(marks)"
# Codes are letters and digits: joined by a blank they are one value.
_BY_PERSON: Final = f"""
SELECT
    reinterpret(groupArray({_MARK}), 'String'),
    reinterpret(groupArray(person), 'String'),
    arrayStringConcat(groupArray(venue), ' ')
FROM visits_by_person
WHERE person IN %(persons)s AND hour BETWEEN %(first)s AND %(last)s
"""  # noqa: S608 (made of constants)
# A few dozen rows: made into values they take two milliseconds longer.
_OF_ONE: Final = f"""
SELECT venue, {_MARK}
FROM visits_by_person
WHERE person = %(person)s AND hour BETWEEN %(first)s AND %(last)s
"""  # noqa: S608 (made of constants)
_BY_VENUE: Final = f"""
SELECT reinterpret(groupArray({_MARK}), 'String'), reinterpret(groupArray(person), 'String')
FROM visits
WHERE venue = %(venue)s AND hour BETWEEN %(first)s AND %(last)s
"""  # noqa: S608 (made of constants)
# Which hours of a venue are wanted says a mask of 64 slots, each a few hours long. Tuples (venue, hour) say
# it exactly, but finding their granules takes longer than reading what lies between. (bitTest refuses other
# slots, and is asked of rows outside of the hours too.)
_BY_VENUES: Final = f"""
SELECT
    reinterpret(groupArray(
        bitShiftLeft(toUInt64(transform(venue, %(codes)s, %(numbers)s, 0)), {VENUE_BITS}) + {_MARK}
    ), 'String'),
    reinterpret(groupArray(person), 'String')
FROM visits
WHERE venue IN %(codes)s AND hour BETWEEN %(first)s AND %(last)s
    AND bitTest(
        transform(venue, %(codes)s, CAST(%(slots)s, 'Array(UInt64)'), toUInt64(0)),
        bitAnd(intDiv(toUInt32(hour - %(first)s), %(width)s), 63)
    )
"""  # noqa: S608 (made of constants)
_SLOTS: Final = 64
_KEPT: Final = 31 << 20  # bytes

# For so long a name of the register may be an old one. The dwell time of a code never changes.
_REMEMBER_S: Final = 60.0


class Reader(Asker):
    """An asker that reads marks. Venues are numbered by the caller: `codes[number]`."""

    _known_places: dict[str, Place] | None = None
    _known_since: float = 0.0

    def __init__(self, client: Client, clock_ms: Callable[[], int], asker: str | Desk) -> None:
        super().__init__(client, clock_ms, asker)
        _keep_memory()

    def _places(self, codes: Sequence[str]) -> dict[str, Place]:
        """The register's venues of these codes, remembered for a minute. Raises IncompleteArchiveError."""
        now = time.monotonic()
        if self._known_places is None or now - self._known_since > _REMEMBER_S:
            self._known_places, self._known_since = {}, now
        known = self._known_places
        if asked := [code for code in codes if code not in known]:
            known |= self._register(set(asked))
            if missing := [code for code in asked if code not in known]:
                raise incomplete(sorted(missing)[:5])
        return known

    def _places_at(self, codes: Sequence[str], venues: Numbers) -> list[Place]:
        """The register's venue of each row; `venues`: numbers in `codes`. Raises IncompleteArchiveError."""
        places = self._places([codes[at] for at in np.flatnonzero(np.bincount(venues)).tolist()])
        return listed([places.get(code) for code in codes], venues)

    def _marks_of(self, persons: Persons, since: int, until: int) -> tuple[list[str], Archived]:
        """Codes of venues, in order, and what these persons' presences in [since, until) depend on."""
        first, last = hours_around(since, until)
        if len(persons) == 1:
            asked = {"person": int(persons[0]), "first": first, "last": last}
            table = list(self._rows(_OF_ONE, asked))
            where, marks = [row[0] for row in table], np.array([row[1] for row in table], np.int64)
            archived = Archived(first * 60, marks, np.repeat(persons, len(marks)))
        else:
            row = self._one(_BY_PERSON, {"persons": persons.tolist(), "first": first, "last": last})
            where = row[2].split(" ") if row[2] else []
            archived = _archived(first, row)
        codes = sorted(set(where))
        number = {code: at << VENUE_BITS for at, code in enumerate(codes)}
        venue = np.array([number[code] for code in where], np.int64)
        return codes, replace(archived, mark=archived.mark + venue)

    def _marks_at(self, venue: str, window: Window) -> Archived:
        """What the presences at one venue, number 0, depend on."""
        first, last = hours_around(*window.minutes)
        return _archived(first, self._one(_BY_VENUE, {"venue": venue, "first": first, "last": last}))

    def _presences_at(self, codes: Sequence[str], places: Spans) -> Spans:
        """Everybody's presences at the places' venues; complete within each place, not outside of them."""
        if not len(places):
            return places
        low = np.maximum(places.start // 60 - MARGIN_HOURS, 0)
        high = (places.end - 1) // 60 + MARGIN_HOURS
        first, last = int(low.min()), int(high.max())
        width = (last - first) // _SLOTS + 1
        one = np.uint64(1)
        upto = (one << ((high - first) // width).astype(np.uint64)) - one
        upto |= upto << one | one
        slots = np.zeros(len(codes), np.uint64)
        np.bitwise_or.at(
            slots, places.venue, upto & ~((one << ((low - first) // width).astype(np.uint64)) - one)
        )
        there = np.flatnonzero(slots)
        row = self._one(
            _BY_VENUES,
            {
                "codes": [codes[at] for at in there.tolist()],
                "numbers": there.tolist(),
                "slots": slots[there].tolist(),
                "first": first,
                "last": last,
                "width": width,
            },
        )
        dwell = self._dwell(codes, there)
        return presences(live_marks(telling(_archived(first, row), places, dwell)), dwell)

    def _presences(self, codes: Sequence[str], archived: Archived) -> Spans:
        """Raises IncompleteArchiveError for a venue without a dwell time."""
        marks = live_marks(archived)
        return presences(marks, self._dwell(codes, np.flatnonzero(np.bincount(marks.venue))))

    def _dwell(self, codes: Sequence[str], venues: Numbers) -> Numbers:
        """By the venue's number, minutes; 0 of others than these. Raises IncompleteArchiveError."""
        used = venues.tolist()
        places = self._places([codes[at] for at in used])
        dwell = np.zeros(len(codes), np.int64)
        dwell[used] = [places[codes[at]].dwell for at in used]
        return dwell

    def _one(self, sql: str, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        return next(self._rows(sql, parameters))


def dates(days: Numbers) -> list[str]:
    """The name of each local day."""
    if not len(days):
        return []
    first = int(days.min())
    return listed([day_name(day) for day in range(first, int(days.max()) + 1)], days - first)


def hours_around(since: int, until: int) -> tuple[int, int]:
    """First and last hour whose marks say anything about [since, until) in minutes."""
    return max(0, since // 60 - MARGIN_HOURS), (until - 1) // 60 + MARGIN_HOURS


def _archived(first: int, row: Sequence[Any]) -> Archived:
    """`row`: marks and persons, from hour `first` on."""
    return Archived(first * 60, _numbers(row[0], "<i8"), _numbers(row[1], "<u8"))


def _keep_memory() -> None:
    """Let the process keep the memory of large arrays for the next ones.

    glibc gives it back to the system as soon as it is free, and a question about a crowd took 20 ms for 5,000
    page faults (docs/LOOKUPS.md). It keeps as much as the largest block that was given back before, up to
    32 MiB: so one of that size, which is never written to, is made and given back. Elsewhere it does nothing.
    """
    np.empty(_KEPT, np.uint8)


def _numbers(packed: str | bytes, kind: str) -> NDArray[Any]:
    """The driver gives bytes that are UTF-8 by chance as text, which is not as long as they are: a few marks
    often are."""
    return np.frombuffer(packed if isinstance(packed, bytes) else packed.encode(), kind)
