"""Venues from a CSV file: which rows are new, changed or bad, and why. Pure."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from schemas.codes import new_code
from schemas.departments import DISTRICTS, SECTORS, department_of
from schemas.events import Venue
from schemas.problems import first_problem
from schemas.times import parse_time

REQUIRED: Final = ("name", "sector", "district")
OPTIONAL: Final = (
    "parent",
    "dwell",
    "capacity",
    "opens",
    "closes",
    "lat",
    "lon",
    "code",
    "closed_at",
    "department",  # follows from sector and district; as `venues list --csv` writes it
)
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,9}")
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,4}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,2})?")

# How long a visit without a check-out lasts, minutes: a night in a lodging (14:00 to 12:00) is covered
# whole; half a school day; a long lecture; a consultation with its wait; the rest about an hour. A ward is
# lodging in a hospital: give its row 720.
DEFAULT_DWELL: Final[Mapping[str, int]] = {
    "lodging": 720,
    "education": 300,
    "university": 240,
    "health": 120,
    "trade": 60,
    "transport": 60,
    "district": 60,
}


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be imported. `line` counts from 1, the heading included."""

    line: int
    column: str
    reason: str


@dataclass(slots=True)
class Plan:
    """What an import would do. `codes`: each good row's line → its code."""

    new: list[Venue] = field(default_factory=list)
    changed: list[Venue] = field(default_factory=list)
    unchanged: list[Venue] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    codes: dict[int, str] = field(default_factory=dict)


# what a file without such a column leaves as it is registered
_KEPT: Final = ("capacity", "opens", "closes", "lat", "lon")


class FileError(ValueError):
    """The file as a whole cannot be read as a list of venues."""


class _RowError(ValueError):
    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column = column


def rows_of(content: bytes) -> list[tuple[int, dict[str, str]]]:
    """(line, cells by column) of a CSV file in UTF-8, with or without BOM. Raises FileError.

    Cells are parted by commas, or by semicolons as spreadsheets with Vietnamese settings write them.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"the file is not UTF-8 (byte {error.start}): save it as CSV UTF-8") from None
    first = text.split("\n", 1)[0]
    separator = ";" if first.count(";") > first.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        heading = [cell.strip().lower() for cell in next(reader, [])]
        if heading and not {*REQUIRED, *OPTIONAL} & {*heading}:  # perhaps of persons: nothing of it is shown
            raise FileError(
                "line 1 has none of the columns of a list of venues: is it another file? They are"
                f" {', '.join(REQUIRED)} and perhaps {', '.join(OPTIONAL)}"
            )
        if missing := [name for name in REQUIRED if name not in heading]:
            raise FileError(
                f"line 1: no column {', '.join(missing)}; there are {', '.join(heading) or 'none'}"
            )
        if unknown := [name for name in heading if name not in (*REQUIRED, *OPTIONAL)]:
            raise FileError(
                f"line 1: unknown column {', '.join(unknown)}; known: {', '.join((*REQUIRED, *OPTIONAL))}"
            )
        if len(set(heading)) != len(heading):
            raise FileError("line 1: a column stands twice")
        rows = []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                # cells left out at the end of a row are empty
                values = dict.fromkeys(heading, "")
                values |= {name: cell.strip() for name, cell in zip(heading, cells, strict=False)}
                if len(cells) > len(heading):
                    values["\0"] = "more cells than columns"
                rows.append((reader.line_num, values))
        return rows
    except csv.Error as error:
        raise FileError(f"line {reader.line_num}: {error}") from None


def plan(
    rows: list[tuple[int, dict[str, str]]],
    register: Mapping[str, Venue],
    choose: Callable[[str], str] | None = None,
) -> Plan:
    """Compare rows with the register: importing the same file twice changes nothing.

    A row without a code is the registered venue of the same name, district and parent (an open one rather
    than a closed one), else a new one. A column that the file does not have leaves what is registered.
    `choose` picks a character of a new code (seeded in tests).
    """
    return _Planner(rows, register, choose).run()


def new_districts(venues: Iterable[Venue], register: Mapping[str, Venue]) -> dict[str, list[str]]:
    """By district that neither the province nor the register has, the departments that lead its venues.

    Another province has districts of its own; in this one it is a mistake, and who should be warned never is.
    """
    known = {*DISTRICTS, *(venue.district for venue in register.values())}
    found: dict[str, set[str]] = {}
    for venue in venues:
        if venue.district not in known:
            found.setdefault(venue.district, set()).add(venue.department)
    return {district: sorted(found[district]) for district in sorted(found)}


Identity = tuple[str, str, str | None]


def _fold(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


class _Planner:
    def __init__(
        self,
        rows: list[tuple[int, dict[str, str]]],
        register: Mapping[str, Venue],
        choose: Callable[[str], str] | None,
    ) -> None:
        self._rows = rows
        self._register = register
        self._choose = choose
        closed_first = sorted(register.values(), key=lambda venue: venue.closed_at is None)
        self._known: dict[Identity, str] = {
            (_fold(venue.name), venue.district, venue.parent): venue.code for venue in closed_first
        }
        self._by_name: dict[str, set[str]] = {}
        for venue in register.values():
            self._by_name.setdefault(_fold(venue.name), set()).add(venue.code)
        self._mine: dict[str, Venue] = {}
        self._my_names: dict[str, set[str]] = {}
        self._my_identities: set[Identity] = set()
        self._file_codes = {cells.get("code", "") for _, cells in rows} - {""}
        self._taken = {*register, *self._file_codes}
        self._plan = Plan()

    def run(self) -> Plan:
        for line, cells in self._parents_first():
            try:
                self._take(line, cells)
            except _RowError as error:
                self._plan.bad.append(BadRow(line, error.column, str(error)))
        self._plan.bad.sort(key=lambda bad: bad.line)
        return self._plan

    def _parents_first(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Rows whose parent is named by another row come after it; a cycle is bad."""
        waiting = list(self._rows)
        names = {_fold(cells.get("name", "")) for _, cells in waiting}
        codes = self._file_codes
        done_names: set[str] = set()
        done_codes: set[str] = set()
        while waiting:
            ready: list[tuple[int, dict[str, str]]] = []
            later: list[tuple[int, dict[str, str]]] = []
            for line, cells in waiting:
                parent = cells.get("parent", "")
                blocked = (
                    parent != ""
                    and parent not in done_codes
                    and _fold(parent) not in done_names
                    and (parent in codes or _fold(parent) in names)
                    and parent not in self._register
                )
                (later if blocked else ready).append((line, cells))
            if not ready:
                for line, _ in later:
                    self._plan.bad.append(BadRow(line, "parent", "the parents go in a circle"))
                return
            yield from ready
            for _, cells in ready:
                done_names.add(_fold(cells.get("name", "")))
                done_codes.add(cells.get("code", ""))
            waiting = later

    def _parent(self, text: str) -> str | None:
        if not text:
            return None
        if text in self._mine or text in self._register:
            return text
        codes = self._my_names.get(_fold(text)) or self._by_name.get(_fold(text), set())
        if not codes:
            raise _RowError("parent", f"no venue {text!r} in the file (as a good row) or the register")
        if len(codes) > 1:
            raise _RowError("parent", f"{text!r} is the name of {len(codes)} venues: give its code")
        return next(iter(codes))

    def _take(self, line: int, cells: dict[str, str]) -> None:
        if "\0" in cells:
            raise _RowError("", cells["\0"])
        sector = cells.get("sector", "")
        if sector not in SECTORS:
            raise _RowError("sector", f"{sector!r} is not one of {', '.join(SECTORS)}")
        given = self._register.get(cells.get("code", ""))
        parent = self._parent(cells.get("parent", given.parent or "" if given is not None else ""))
        district = cells.get("district", "")
        identity = (_fold(cells.get("name", "")), district, parent)
        code = cells.get("code", "") or self._known.get(identity) or self._new_code()
        old = self._register.get(code)
        venue = self._venue(cells, code, sector, parent, old)
        if code in self._mine or identity in self._my_identities:
            raise _RowError("name", "the same venue stands in an earlier row")
        other = self._register.get(self._known.get(identity, ""))
        # one that has a row of its own is what that row says
        if (
            other is not None
            and other.code != code
            and other.code not in self._file_codes
            and other.closed_at is None
        ):
            raise _RowError("code", f"this venue is registered as {other.code}: close that one first")
        if old is not None and old.dwell != venue.dwell:
            raise _RowError(
                "dwell",
                f"is {old.dwell} for {code} and never changes: close it and import it with a new code",
            )
        if self._circle(venue):
            raise _RowError("parent", "the parents go in a circle")
        self._mine[code] = venue
        self._my_names.setdefault(identity[0], set()).add(code)
        self._my_identities.add(identity)
        self._plan.codes[line] = code
        target = (
            self._plan.new if old is None else self._plan.unchanged if old == venue else self._plan.changed
        )
        target.append(venue)

    def _circle(self, venue: Venue) -> bool:
        seen = {venue.code}
        parent = venue.parent
        while parent is not None:
            if parent in seen:
                return True
            seen.add(parent)
            above = self._mine.get(parent) or self._register.get(parent)
            parent = above.parent if above else None
        return False

    def _new_code(self) -> str:
        code = new_code(self._taken, choose=self._choose) if self._choose else new_code(self._taken)
        self._taken.add(code)
        return code

    def _venue(
        self, cells: dict[str, str], code: str, sector: str, parent: str | None, old: Venue | None
    ) -> Venue:
        dwell = _number(cells, "dwell", int)
        if dwell is None:
            dwell = old.dwell if old is not None else DEFAULT_DWELL[sector]
        department = department_of(sector, cells.get("district", ""))  # type: ignore[arg-type]
        if cells.get("department", "") not in {"", department}:
            raise _RowError("department", f"is {department} for this sector and district: leave it empty")
        values: dict[str, Any] = {
            "code": code,
            "name": unicodedata.normalize("NFC", cells.get("name", "")),
            "sector": sector,
            "district": cells.get("district", ""),
            "department": department,
            "parent": parent,
            "dwell": dwell,
            "capacity": _number(cells, "capacity", int),
            "opens": cells.get("opens") or None,
            "closes": cells.get("closes") or None,
            "lat": _number(cells, "lat", float),
            "lon": _number(cells, "lon", float),
            "closed_at": _closed(cells, old),
        }
        if old is not None:
            values |= {name: getattr(old, name) for name in _KEPT if name not in cells}
        try:
            return Venue.model_validate(values)
        except ValidationError as error:
            column, _, message = first_problem(error).partition(": ")
            raise _RowError(column, message) from None


def _number(cells: dict[str, str], column: str, kind: type[int] | type[float]) -> Any:
    text = cells.get(column, "")
    if not text:
        return None
    if not (_WHOLE if kind is int else _DECIMAL).fullmatch(text):
        what = "whole number" if kind is int else "number such as 16.4722"
        raise _RowError(column, f"{text!r} is not a {what}")
    return kind(text)


def _closed(cells: dict[str, str], old: Venue | None) -> int | None:
    text = cells.get("closed_at", "")
    if not text:
        return old.closed_at if old is not None else None
    try:
        return parse_time(text)
    except ValueError as error:
        raise _RowError("closed_at", str(error)) from None
