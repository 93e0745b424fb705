"""Numbers without persons: visits and exposures by local date and group, warnings of venues.

Every role has views of its own (migration 0009_figures), so that the same is shown by any client: a tracer
sees exact numbers of all, a department exact ones of its venues, an analyst tens, and no group of fewer than
10 persons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from clickhouse_driver import Client

from lookups.access import ANALYST, DEPARTMENT, Asking
from lookups.asking import Asker, Desk

By = Literal["district", "sector", "department", "venue"]
Counted = Literal["visits", "exposures"]

_COUNTS: Final = {
    ("visits", ANALYST): "analyst_visits_by_day(first = %(first)s, last = %(last)s, by = %(by)s)",
    ("exposures", ANALYST): "analyst_exposures_by_day(first = %(first)s, last = %(last)s, by = %(by)s)",
    ("visits", DEPARTMENT): (
        "department_visits_by_day("
        "first = %(first)s, last = %(last)s, by = %(by)s, department = %(department)s)"
    ),
    ("exposures", DEPARTMENT): (
        "department_exposures_by_day("
        "first = %(first)s, last = %(last)s, by = %(by)s, department = %(department)s)"
    ),
    ("visits", ""): "visits_by_day(first = %(first)s, last = %(last)s, by = %(by)s, departments = [])",
    ("exposures", ""): "exposures_by_day(first = %(first)s, last = %(last)s, by = %(by)s, departments = [])",
}
_ROWS: Final = "SELECT toString(date), grouped, persons, check_ins FROM "
_WARNINGS: Final = "SELECT toString(date), venue, name, district, case_id, contacts, first, last FROM "
_DEPARTMENTS: Final = "SELECT DISTINCT department FROM venues FINAL ORDER BY department"
_OWN_WARNINGS: Final = "department_warnings(department = %(department)s)"
_ALL_WARNINGS: Final = "warnings_of(departments = [])"


@dataclass(frozen=True, slots=True)
class Figure:
    """One date and group; `events`: check-ins, or exposures."""

    date: str
    group: str
    persons: int
    events: int


@dataclass(frozen=True, slots=True)
class Warned:
    """A venue where a case was on a date, from `first` to `last` ms; `contacts`: how many were exposed."""

    date: str
    venue: str
    name: str
    district: str
    case_id: str
    contacts: int
    first: int
    last: int


class Figures(Asker):
    """As Lookups, for numbers; `asking` tells whose view is asked."""

    def __init__(self, client: Client, clock_ms: Callable[[], int], desk: Desk, asking: Asking) -> None:
        super().__init__(client, clock_ms, desk)
        self._role = asking.role
        self._department = asking.department

    def departments(self) -> list[str]:
        """The departments that have a venue."""
        return [row[0] for row in self._rows(_DEPARTMENTS, {})]

    def counts(self, counted: Counted, by: By, first: int, last: int) -> list[Figure]:
        """By date and group, `first` to `last` (days since 1970-01-01, both included)."""
        self._note(f"{counted}-by", None, by=by, first=first, last=last)
        view = _COUNTS.get((counted, self._role), _COUNTS[counted, ""])
        return [Figure(*row) for row in self._rows(_ROWS + view, self._given(first=first, last=last, by=by))]

    def warnings(self) -> list[Warned]:
        """The warnings that stand; a department's own."""
        self._note("warnings", None)
        view = _OWN_WARNINGS if self._role == DEPARTMENT else _ALL_WARNINGS
        return [Warned(*row) for row in self._rows(_WARNINGS + view, self._given())]

    def _given(self, **parameters: object) -> dict[str, object]:
        return parameters | {"department": self._department}
