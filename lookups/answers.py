"""What the archive answers with. Times in Unix ms, intervals half-open, persons as 16 hex digits."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.events import Kind
from schemas.times import minute_of


class QuestionError(RuntimeError):
    """A question that cannot be answered; the message says why and what to do."""


class ArchiveAwayError(QuestionError):
    """ClickHouse does not answer, or has no archive yet."""


class WrongAccessError(QuestionError):
    """ClickHouse refuses the user of the address."""


class IncompleteArchiveError(QuestionError):
    """A visited venue is not in the archive's register yet: presence would be wrong."""


class UnknownVenueError(QuestionError):
    """No venue of this code in the archive."""


class UnknownCaseError(QuestionError):
    """No case of this id in the archive."""


@dataclass(frozen=True, slots=True)
class Window:
    """[start, end) in ms. Raises ValueError when it is empty."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if minute_of(self.start) >= minute_of(self.end):
            raise ValueError("the end must be at least a minute after the start")

    @property
    def minutes(self) -> tuple[int, int]:
        """[start, end) in minutes: the floors."""
        return minute_of(self.start), minute_of(self.end)


@dataclass(frozen=True, slots=True)
class Place:
    """A venue of the register, as far as people want to see it. `dwell` in minutes."""

    code: str
    name: str
    sector: str
    district: str
    dwell: int


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark of a person, void ones and what they cancel included."""

    venue: Place
    at: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Presence:
    """A person was at a venue; `minutes` is the length."""

    venue: Place
    person: str
    start: int
    end: int
    minutes: int


@dataclass(frozen=True, slots=True)
class PersonTrace:
    """A person's marks and presences in a window, each in the order of time."""

    marks: list[Mark]
    presences: list[Presence]


@dataclass(frozen=True, slots=True)
class Contact:
    """Somebody who was where the case was at the same time, on one local date (YYYY-MM-DD)."""

    person: str
    venue: Place
    date: str
    minutes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class HourOccupancy:
    """One hour of a venue: `visitors` persons present in it, `peak` at most at once, `check_ins` marks."""

    start: int
    visitors: int
    peak: int
    check_ins: int
