"""Marks out of the archive as arrays, for questions that are asked from Python.

A column comes as one value, the bytes of all its numbers: clickhouse-driver makes a Python object of every
number otherwise (docs/LOOKUPS.md, "Trials").
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lookups.answers import Place, Window, listed
from lookups.asking import Asker, incomplete
from lookups.presence import MARGIN_HOURS, Numbers, Persons, Rows, Spans, live_marks, presences, rows_of
from schemas.times import day_name

# Columns that are gathered side by side have to be whole: of a sparse one (in a part where nearly all values
# are zero, as with `voids`) the values that are not zero come first, so a void would cancel somebody else's
# mark.
_MASKS: Final = """
    reinterpret(groupArray(materialize(hour)), 'String'),
    reinterpret(groupArray(materialize(person)), 'String'),
    reinterpret(groupArray(materialize(ins)), 'String'),
    reinterpret(groupArray(materialize(outs)), 'String'),
    reinterpret(groupArray(materialize(voids)), 'String')
"""
# Codes are letters and digits: joined by a blank they are one value.
_BY_PERSON: Final = f"""
SELECT arrayStringConcat(groupArray(venue), ' '), {_MASKS}
FROM visits_by_person
WHERE person IN %(persons)s AND hour BETWEEN %(first)s AND %(last)s
"""  # noqa: S608 (made of constants)
# A few dozen rows: made into values they take two milliseconds longer.
_OF_ONE: Final = """
SELECT venue, hour, person, ins, outs, voids
FROM visits_by_person
WHERE person = %(person)s AND hour BETWEEN %(first)s AND %(last)s
"""
_BY_VENUE: Final = f"""
SELECT '', {_MASKS}
FROM visits
WHERE venue = %(venue)s AND hour BETWEEN %(first)s AND %(last)s
"""  # noqa: S608 (made of constants)
# Which hours of a venue are wanted says a mask of 64 slots, each a few hours long. Tuples (venue, hour) say
# it exactly, but finding their granules takes longer than reading what lies between. (bitTest refuses other
# slots, and is asked of rows outside of the hours too.) Without an alias a column is called by these lists.
_BY_VENUES: Final = f"""
SELECT reinterpret(groupArray(toUInt32(transform(venue, %(codes)s, %(numbers)s, 0))), 'String')
        AS venues_of_rows,
    {_MASKS}
FROM visits
WHERE venue IN %(codes)s AND hour BETWEEN %(first)s AND %(last)s
    AND bitTest(
        transform(venue, %(codes)s, CAST(%(slots)s, 'Array(UInt64)'), toUInt64(0)),
        bitAnd(intDiv(toUInt32(hour - %(first)s), %(width)s), 63)
    )
"""  # noqa: S608 (made of constants)
_SLOTS: Final = 64

# For so long a name of the register may be an old one. The dwell time of a code never changes.
_REMEMBER_S: Final = 60.0


class Reader(Asker):
    """An asker that reads marks. Venues are numbered by the caller: `codes[number]`."""

    _known_places: dict[str, Place] | None = None
    _known_since: float = 0.0

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
        places = self._places([codes[at] for at in np.unique(venues).tolist()])
        return listed([places.get(code) for code in codes], venues)

    def _marks_of(self, persons: Persons, since: int, until: int) -> tuple[list[str], Rows]:
        """Codes of venues, in order, and what these persons' presences in [since, until) depend on."""
        first, last = hours_around(since, until)
        if len(persons) == 1:
            asked = {"person": int(persons[0]), "first": first, "last": last}
            table = list(self._rows(_OF_ONE, asked))
            codes = sorted({row[0] for row in table})
            number = {code: at for at, code in enumerate(codes)}
            return codes, rows_of([(number[row[0]], *row[1:]) for row in table])
        row = self._one(_BY_PERSON, {"persons": tuple(persons.tolist()), "first": first, "last": last})
        where = row[0].split(" ") if row[0] else []
        codes = sorted(set(where))
        number = {code: at for at, code in enumerate(codes)}
        return codes, _rows(np.array([number[code] for code in where], np.int64), row)

    def _marks_at(self, venue: str, window: Window) -> Rows:
        """What the presences at one venue, number 0, depend on."""
        first, last = hours_around(*window.minutes)
        return _rows(None, self._one(_BY_VENUE, {"venue": venue, "first": first, "last": last}))

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
        return self._presences(codes, _rows(_numbers(row[0], "<u4").astype(np.int64), row))

    def _presences(self, codes: Sequence[str], rows: Rows) -> Spans:
        """Raises IncompleteArchiveError for a venue without a dwell time."""
        marks = live_marks(rows)
        used = np.unique(marks.venue).tolist()
        places = self._places([codes[at] for at in used])
        dwell = np.zeros(len(codes), np.int64)
        dwell[used] = [places[codes[at]].dwell for at in used]
        return presences(marks, dwell)

    def _one(self, sql: str, parameters: Mapping[str, Any]) -> tuple[Any, ...]:
        return next(self._rows(sql, parameters))


def dates(days: Numbers) -> list[str]:
    """The name of each local day."""
    distinct, at = np.unique(days, return_inverse=True)
    return listed([day_name(day) for day in distinct.tolist()], at)


def hours_around(since: int, until: int) -> tuple[int, int]:
    """First and last hour whose marks say anything about [since, until) in minutes."""
    return max(0, since // 60 - MARGIN_HOURS), (until - 1) // 60 + MARGIN_HOURS


def _rows(venue: Numbers | None, row: Sequence[Any]) -> Rows:
    """`venue`: none when all are of the one venue that was asked for, number 0."""
    hour = _numbers(row[1], "<u4").astype(np.int64)
    if venue is None:
        venue = np.zeros(len(hour), np.int64)
    return Rows(venue, hour, *(_numbers(each, "<u8") for each in row[2:]))


def _numbers(packed: str | bytes, kind: str) -> NDArray[Any]:
    """The driver gives bytes that are UTF-8 by chance as text, which is not as long as they are. It happens
    to hours that are neighbours, at present to 30 in every 256."""
    return np.frombuffer(packed if isinstance(packed, bytes) else packed.encode(), kind)
