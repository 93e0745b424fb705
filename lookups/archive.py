"""Questions to the archive: one method a question, one round trip each, parameters always by the driver.

Rows are merged by GROUP BY with groupBitOr before a mask is looked at: background merges may be far behind.
Presence follows from marks by lookups/presence.py. Every question is put into `lookup_audit` before it is
asked: who looks into where a person has been leaves a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate, groupby
from typing import Any, Final

import orjson
from clickhouse_driver import Client
from clickhouse_driver.errors import Error, NetworkError, SocketTimeoutError

from lookups.answers import (
    ArchiveAwayError,
    Contact,
    HourOccupancy,
    IncompleteArchiveError,
    Mark,
    PersonTrace,
    Place,
    Presence,
    UnknownCaseError,
    UnknownVenueError,
    Window,
    WrongAccessError,
)
from lookups.presence import (
    MARGIN_HOURS,
    HourMarks,
    Span,
    clip,
    contact_days,
    live_marks,
    overlaps,
    presences,
)
from schemas.events import Kind
from schemas.times import MS_PER_MINUTE, day_name

_PERSON: Final = """
WITH marks AS (
    SELECT venue, hour, groupBitOr(ins) AS i, groupBitOr(outs) AS o, groupBitOr(voids) AS v
    FROM visits_by_person
    WHERE person = %(person)s AND hour BETWEEN %(first)s AND %(last)s
    GROUP BY venue, hour
)
SELECT venue, hour, i, o, v, name, sector, district, dwell
FROM marks
LEFT JOIN (
    SELECT code, name, sector, district, dwell FROM venues FINAL WHERE code IN (SELECT venue FROM marks)
) AS register ON register.code = marks.venue
ORDER BY venue, hour
"""

_VENUE: Final = """
SELECT register.name, register.sector, register.district, register.dwell, person, hour, i, o, v
FROM (SELECT code, name, sector, district, dwell FROM venues FINAL WHERE code = %(venue)s) AS register
LEFT JOIN (
    SELECT venue, person, hour, groupBitOr(ins) AS i, groupBitOr(outs) AS o, groupBitOr(voids) AS v
    FROM visits
    WHERE venue = %(venue)s AND hour BETWEEN %(first)s AND %(last)s
    GROUP BY venue, person, hour
) AS marks ON marks.venue = register.code
ORDER BY person, hour
"""

# A minute that both share is within 720 of a mark of the person, and what the other did then follows from
# marks within 720 of that minute: together 24 hours.
_CONTACTS: Final = """
WITH own AS (
    SELECT DISTINCT venue, hour
    FROM visits_by_person
    WHERE person = %(person)s AND hour BETWEEN %(first)s AND %(last)s
)
SELECT venue, person, hour, i, o, v, toLowCardinality(register.name), sector, district, dwell
FROM (
    SELECT venue, person, hour, groupBitOr(ins) AS i, groupBitOr(outs) AS o, groupBitOr(voids) AS v
    FROM visits
    WHERE (venue, hour) IN (
        SELECT venue, arrayJoin(range(toUInt32(greatest(hour, 24) - 24), toUInt32(hour + 25))) FROM own
    )
    GROUP BY venue, person, hour
) AS marks
LEFT JOIN (
    SELECT code, name, sector, district, dwell FROM venues FINAL WHERE code IN (SELECT venue FROM own)
) AS register ON register.code = marks.venue
ORDER BY venue, person, hour
"""

_EXPOSED: Final = """
SELECT person, venue, name, register.sector, district, dwell, toString(date), minutes, first, last
FROM (
    SELECT person, venue, date, minutes, first, last, status
    FROM exposures FINAL
    WHERE case_id = %(case)s
) AS newest
LEFT JOIN (SELECT code, name, sector, district, dwell FROM venues FINAL) AS register
    ON register.code = newest.venue
WHERE status = 'exposed'
ORDER BY first, venue, person
"""

_IS_CASE: Final = "SELECT count() FROM cases_current WHERE case_id = %(case)s"
_AUDIT: Final = "INSERT INTO lookup_audit (asked_at, asker, question, arguments) VALUES"


class Lookups:
    """The archive, asked through one client by one asker (for the audit). Not for several threads at once.

    Every method raises ArchiveAwayError when ClickHouse does not answer, WrongAccessError when it refuses
    the user, IncompleteArchiveError when a visited venue is not in its register yet.
    """

    def __init__(self, client: Client, clock_ms: Callable[[], int], asker: str) -> None:
        self._client = client
        self._clock_ms = clock_ms
        self._asker = asker

    def person(self, person: str, window: Window) -> PersonTrace:
        """Where a person was in a window, and the marks that say so."""
        first, last = _hours(window)
        rows = self._ask(
            "person",
            _PERSON,
            window,
            {"person": int(person, 16), "first": first, "last": last},
            person=person,
        )
        start, end = window.minutes
        marks: list[Mark] = []
        found: list[Presence] = []
        for code, group in groupby(rows, key=lambda row: row[0]):
            own = list(group)
            place = _place(code, own[0][5:9])
            hours = [HourMarks(*row[1:5]) for row in own]
            marks += [mark for mark in _marks(place, hours) if start <= mark.at // MS_PER_MINUTE < end]
            found += _presences(place, person, clip(presences(live_marks(hours), place.dwell), start, end))
        marks.sort(key=lambda mark: (mark.at, mark.venue.code, mark.kind))
        found.sort(key=lambda presence: (presence.start, presence.venue.code))
        return PersonTrace(marks, found)

    def venue(self, venue: str, window: Window) -> list[Presence]:
        """Who was at a venue in a window, by time. Raises UnknownVenueError."""
        found = [
            presence
            for place, person, hours in self._visitors("venue", venue, window)
            for presence in _presences(
                place, person, clip(presences(live_marks(hours), place.dwell), *window.minutes)
            )
        ]
        return sorted(found, key=lambda presence: (presence.start, presence.person))

    def occupancy(self, venue: str, window: Window) -> list[HourOccupancy]:
        """How full a venue was, by clock hour, empty hours left out. Raises UnknownVenueError."""
        start, end = window.minutes
        changes = [0] * (end - start + 1)
        visitors: dict[int, int] = {}
        check_ins: dict[int, int] = {}
        for place, _, hours in self._visitors("occupancy", venue, window):
            live = live_marks(hours)
            inside: set[int] = set()
            for a, b in clip(presences(live, place.dwell), start, end):
                changes[a - start] += 1
                changes[b - start] -= 1
                inside.update(range(a // 60, (b - 1) // 60 + 1))
            for hour in inside:
                visitors[hour] = visitors.get(hour, 0) + 1
            for minute, is_out in live:
                if not is_out and start <= minute < end:
                    check_ins[minute // 60] = check_ins.get(minute // 60, 0) + 1
        present = list(accumulate(changes))
        return [
            HourOccupancy(
                hour * 60 * MS_PER_MINUTE,
                visitors[hour],
                max(present[max(hour * 60, start) - start : min(hour * 60 + 60, end) - start]),
                check_ins.get(hour, 0),
            )
            for hour in sorted(visitors)
        ]

    def contacts(self, person: str, window: Window, min_overlap: int = 1) -> list[Contact]:
        """Who was where this person was, at the same time within the window; from the visits, by time.

        As the exposures of a case with this window, `min_overlap` (minutes) and no linger would be.
        """
        first, last = _hours(window)
        rows = self._ask(
            "contacts",
            _CONTACTS,
            window,
            {"person": int(person, 16), "first": first, "last": last},
            person=person,
            min_overlap=min_overlap,
        )
        found: list[Contact] = []
        subject = int(person, 16)
        for code, at_venue in groupby(rows, key=lambda row: row[0]):
            theirs: dict[int, list[Span]] = {}
            place: Place | None = None
            for other, group in groupby(at_venue, key=lambda row: row[1]):
                own = list(group)
                place = place or _place(code, own[0][6:10])
                hours = [HourMarks(*row[2:6]) for row in own]
                theirs[other] = presences(live_marks(hours), place.dwell)
            ours = clip(theirs.pop(subject, []), *window.minutes)
            if place is None or not ours:
                continue
            for other, spans in theirs.items():
                for day in contact_days(overlaps(ours, spans), min_overlap):
                    times = (day.minutes, day.first * MS_PER_MINUTE, day.last * MS_PER_MINUTE)
                    found.append(Contact(_hex(other), place, day_name(day.day), *times))
        return sorted(found, key=lambda contact: (contact.first, contact.venue.code, contact.person))

    def contacts_of_case(self, case_id: str) -> list[Contact]:
        """The exposures of a case that stand: of each the highest version, if it is not withdrawn.

        Raises UnknownCaseError.
        """
        rows = list(self._ask("case", _EXPOSED, None, {"case": case_id}, case=case_id))
        if not rows and not self._execute(_IS_CASE, {"case": case_id})[0][0]:
            raise UnknownCaseError(f"the archive knows no case {case_id!r}: truyvet cases list shows all")
        return [Contact(_hex(row[0]), _place(row[1], row[2:6]), *row[6:10]) for row in rows]

    def _visitors(
        self, question: str, venue: str, window: Window
    ) -> Iterator[tuple[Place, str, list[HourMarks]]]:
        first, last = _hours(window)
        parameters = {"venue": venue, "first": first, "last": last}
        known = False
        for person, group in groupby(
            self._ask(question, _VENUE, window, parameters, venue=venue), key=lambda row: row[4]
        ):
            rows = list(group)
            known = True
            hours = [HourMarks(*row[5:9]) for row in rows if row[6] | row[7] | row[8]]
            if hours:  # the row of a venue without visitors has no marks
                yield _place(venue, rows[0][0:4]), _hex(person), hours
        if not known:
            raise UnknownVenueError(
                f"the archive knows no venue {venue}: compare the code with the poster; truyvet venues list"
                " shows all"
            )

    def _ask(
        self, question: str, sql: str, window: Window | None, parameters: Mapping[str, Any], **about: object
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of an answer, after the question stands in the audit."""
        if window is not None:
            about |= {"from": window.start, "to": window.end}
        asked_at = datetime.fromtimestamp(self._clock_ms() / 1000, UTC)
        self._execute(_AUDIT, [(asked_at, self._asker, question, orjson.dumps(about).decode())])
        return zip(*self._execute(sql, parameters), strict=True)

    def _execute(self, sql: str, parameters: object) -> Sequence[Sequence[Any]]:
        """Columns of a query; of an insert nothing that means something."""
        columnar = not isinstance(parameters, list)
        try:
            answer = self._client.execute(sql, parameters, columnar=columnar)
        except (NetworkError, SocketTimeoutError, OSError, EOFError) as error:
            raise ArchiveAwayError(
                f"ClickHouse does not answer: {_words(error)}: is it up? truyvet status shows it,"
                " TRUYVET_CLICKHOUSE points at it"
            ) from None
        except Error as error:
            raise _of_server(error) from error
        return answer if isinstance(answer, list) else []


def _of_server(error: Exception) -> Exception:
    code = getattr(error, "code", None)
    if code == 81:
        return ArchiveAwayError(
            f"the archive is not there yet: {_words(error)}: create the database, or correct"
            " TRUYVET_CLICKHOUSE"
        )
    if code == 60:
        return ArchiveAwayError(
            f"the archive is not there yet: {_words(error)}: truyvet run archive makes its tables"
        )
    if code in {516, 497}:
        return WrongAccessError(
            f"ClickHouse refuses this user: {_words(error)}: correct user and password in TRUYVET_CLICKHOUSE"
        )
    if code in {159, 160, 202, 241, 439}:
        return ArchiveAwayError(
            f"ClickHouse has too much to do: {_words(error)}: ask a shorter window, or later"
        )
    return error


def _words(error: BaseException) -> str:
    text = str(getattr(error, "message", None) or error).split("Stack trace:")[0]
    lines = text.removeprefix("DB::Exception:").strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


def _hours(window: Window) -> tuple[int, int]:
    """First and last hour whose marks say anything about the window."""
    start, end = window.minutes
    return max(0, start // 60 - MARGIN_HOURS), (end - 1) // 60 + MARGIN_HOURS


def _hex(person: int) -> str:
    return f"{person:016x}"


def _place(code: str, register: Sequence[Any]) -> Place:
    """`register`: name, sector, district, dwell; of a venue that is not there the join gives dwell 0."""
    name, sector, district, dwell = register
    if not dwell:
        raise IncompleteArchiveError(
            f"venue {code} has visits but is not in the archive's register yet, and without its dwell time"
            " presence is unknown: wait until truyvet status shows no lag of the archive"
        )
    return Place(code, name, sector, district, dwell)


def _presences(place: Place, person: str, spans: Sequence[Span]) -> list[Presence]:
    return [
        Presence(place, person, start * MS_PER_MINUTE, end * MS_PER_MINUTE, end - start)
        for start, end in spans
    ]


def _marks(place: Place, hours: Sequence[HourMarks]) -> Iterator[Mark]:
    for each in hours:
        kinds: tuple[tuple[Kind, int], ...] = (("in", each.ins), ("out", each.outs), ("void", each.voids))
        for kind, mask in kinds:
            for minute in range(60):
                if mask >> minute & 1:
                    yield Mark(place, (each.hour * 60 + minute) * MS_PER_MINUTE, kind)
