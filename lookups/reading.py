"""Marks out of the archive as arrays, for questions that are asked from Python.

A column comes as one value, the bytes of all its numbers: clickhouse-driver makes a Python object of every
number otherwise (docs/LOOKUPS.md, "Trials").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from clickhouse_driver import Client
from numpy.typing import NDArray

from lookups.answers import Place, Window, listed
from lookups.asking import Asker, Desk, incomplete
from lookups.presence import (
    IN,
    MARGIN_HOURS,
    OUT,
    PER_HOUR,
    SEVERAL,
    VENUE_BITS,
    Archived,
    Numbers,
    Persons,
    Spans,
    archived_rows,
    live_marks,
    masked,
    presences,
    telling,
)
from schemas.times import day_name

# The conditions stand in PREWHERE, where the engine would move them by itself: finding that out takes it most
# of a millisecond.
# Columns that are gathered side by side have to be whole: of a sparse one (in a part where nearly all values
# are zero, as with `voids`) the values that are not zero come first, so a void would cancel somebody else's
# mark.
_MASKS: Final = """
    reinterpret(groupArray(hour), 'String'),
    reinterpret(groupArray(person), 'String'),
    reinterpret(groupArray(materialize(ins)), 'String'),
    reinterpret(groupArray(materialize(outs)), 'String'),
    reinterpret(groupArray(materialize(voids)), 'String')
"""
# Codes are letters and digits: joined by a blank they are one value.
_BY_PERSON: Final = f"""
SELECT {_MASKS}, arrayStringConcat(groupArray(venue), ' ')
FROM visits_by_person
PREWHERE person IN %(persons)s AND hour BETWEEN %(first)s AND %(last)s
"""  # noqa: S608 (made of constants)
# A few dozen rows: made into values they take two milliseconds longer.
_OF_ONE: Final = """
SELECT venue, hour, person, ins, outs, voids
FROM visits_by_person
PREWHERE person = %(person)s AND hour BETWEEN %(first)s AND %(last)s
"""
_BY_VENUE: Final = f"""
SELECT {_MASKS}
FROM visits
PREWHERE venue = %(venue)s AND hour BETWEEN %(first)s AND %(last)s
"""  # noqa: S608 (made of constants)
# Which hours of a venue are wanted says a mask of 64 slots, each a few hours long. Tuples (venue, hour) say
# it exactly, but finding their granules takes longer than reading what lies between. (bitTest refuses other
# slots, and is asked of rows outside of the hours too.)
# A crowd's rows leave as two numbers instead of six: what lookups/presence.py calls `mark`, and the person.
# Of a row with several marks or a void the kind is SEVERAL, and its masks follow apart: one row in twelve.
# (So many bits as are below the only one of a mask is its number.) It takes two milliseconds more to plan,
# so the other questions, of few rows, do without. The codes come as one text: a list of literals is read
# twice, and here it stands in three places.
_BY_VENUES: Final = f"""
WITH
    splitByChar(' ', %(codes)s) AS codes,
    materialize(ins) AS entered,
    materialize(outs) AS gone,
    materialize(voids) AS voided,
    voided = 0 AND bitCount(entered) + bitCount(gone) = 1 AS single
SELECT
    reinterpret(groupArray(
        bitShiftLeft(toUInt64(transform(venue, codes, %(numbers)s, 0)), {VENUE_BITS})
            + (hour - %(first)s) * {PER_HOUR}
            + if(single, bitCount(entered + gone - 1) * 4 + if(gone = 0, {IN}, {OUT}), {SEVERAL})
    ), 'String'),
    reinterpret(groupArray(person), 'String'),
    reinterpret(groupArrayArrayIf([entered, gone, voided], NOT single), 'String')
FROM visits
PREWHERE venue IN codes AND hour BETWEEN %(first)s AND %(last)s
    AND bitTest(
        transform(venue, codes, CAST(%(slots)s, 'Array(UInt64)'), toUInt64(0)),
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
            codes = sorted({row[0] for row in table})
            number = {code: at for at, code in enumerate(codes)}
            return codes, archived_rows([(number[row[0]], *row[1:]) for row in table])
        row = self._one(_BY_PERSON, {"persons": persons.tolist(), "first": first, "last": last})
        *masks, joined = row
        where = joined.split(" ") if joined else []
        codes = sorted(set(where))
        number = {code: at for at, code in enumerate(codes)}
        return codes, _of_masks(first, masks, np.array([number[code] for code in where], np.int64))

    def _marks_at(self, venue: str, window: Window) -> Archived:
        """What the presences at one venue, number 0, depend on."""
        first, last = hours_around(*window.minutes)
        return _of_masks(first, self._one(_BY_VENUE, {"venue": venue, "first": first, "last": last}))

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
        dwell = self._dwell(codes, there)
        asked = {
            "codes": " ".join(codes[at] for at in there.tolist()),
            "numbers": there.tolist(),
            "slots": slots[there].tolist(),
            "first": first,
            "last": last,
            "width": width,
        }
        with self._first(_BY_VENUES, asked) as row:
            return presences(live_marks(telling(_of_marks(first, row), places, dwell)), dwell)

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
        with self._first(sql, parameters) as row:
            return row


def dates(days: Numbers) -> list[str]:
    """The name of each local day."""
    if not len(days):
        return []
    first = int(days.min())
    return listed([day_name(day) for day in range(first, int(days.max()) + 1)], days - first)


def hours_around(since: int, until: int) -> tuple[int, int]:
    """First and last hour whose marks say anything about [since, until) in minutes."""
    return max(0, since // 60 - MARGIN_HOURS), (until - 1) // 60 + MARGIN_HOURS


def _of_masks(first: int, row: Sequence[Any], venue: Numbers | None = None) -> Archived:
    """`row`: of `_MASKS`, from hour `first` on; `venue`: none when all are of number 0."""
    places = (_numbers(row[0], "<u4").astype(np.int64) - first) * PER_HOUR
    if venue is not None:
        places += venue << VENUE_BITS
    person, *masks = (_numbers(each, "<u8") for each in row[1:])
    return masked(first, places, person, masks)


def _of_marks(first: int, row: Sequence[Any]) -> Archived:
    """`row`: of `_BY_VENUES`, from hour `first` on."""
    mark, person = _numbers(row[0], "<i8"), _numbers(row[1], "<u8")
    several = (mark & 3) == SEVERAL
    rows, single = np.flatnonzero(several), np.flatnonzero(~several)
    more = masked(first, mark[rows] - SEVERAL, person[rows], _numbers(row[2], "<u8").reshape(-1, 3).T)
    return Archived(
        more.base,
        np.concatenate([mark[single], more.mark]),
        np.concatenate([person[single], more.person]),
    )


def _keep_memory() -> None:
    """Let the process keep the memory of large arrays for the next ones.

    glibc gives it back to the system as soon as it is free, and a question about a crowd took 20 ms for 5,000
    page faults (docs/LOOKUPS.md). It keeps as much as the largest block that was given back before, up to
    32 MiB: so one of that size, which is never written to, is made and given back. Elsewhere it does nothing.
    """
    np.empty(_KEPT, np.uint8)


def _numbers(packed: str | bytes, kind: str) -> NDArray[Any]:
    """The driver gives bytes that are UTF-8 by chance as text, which is not as long as they are. It happens
    to hours that are neighbours, at present to 30 in every 256."""
    return np.frombuffer(packed if isinstance(packed, bytes) else packed.encode(), kind)
