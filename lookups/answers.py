"""What the archive answers with. Times in Unix ms, intervals half-open, persons as 16 hex digits.

What comes by the ten thousand is a NamedTuple: made in 0.4 of the time of a frozen dataclass.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

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


class WrongSubjectError(QuestionError):
    """The case is none that this question can be asked of."""


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
    capacity: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark of a person, void ones and what they cancel included."""

    venue: Place
    at: int
    kind: Kind


class Presence(NamedTuple):
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


class Contact(NamedTuple):
    """Somebody who was where the case was at the same time, on one local date (YYYY-MM-DD).

    `share`: `minutes` as a part of the minutes that the place was infectious on that date; None: not known.
    """

    person: str
    venue: Place
    date: str
    minutes: int
    first: int
    last: int
    share: float | None = None


@dataclass(frozen=True, slots=True)
class HourOccupancy:
    """One hour of a venue: `visitors` persons present in it, `peak` at most at once, `check_ins` marks.

    `capacity` as the register has it; `exceeded`: more at once than that.
    """

    start: int
    visitors: int
    peak: int
    check_ins: int
    capacity: int | None = None

    @property
    def exceeded(self) -> bool:
        """Whether more persons were there at once than the venue holds."""
        return self.capacity is not None and self.peak > self.capacity


@dataclass(frozen=True, slots=True)
class CaseSubject:
    """The person of a case, its window, and the minutes together that make an exposure."""

    person: str
    window: Window
    min_overlap: int


@dataclass(frozen=True, slots=True)
class CommonVenue:
    """A venue where several persons were; `together`: how many of them at the same time as another.

    `minutes`: of all pairs. `first`, `last`: of what they were there together, None if never.
    """

    venue: Place
    persons: int
    together: int
    minutes: int
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class PlaceTime:
    """A venue (and every venue below it) during a window."""

    venue: str
    window: Window


class AtPlaceTime(NamedTuple):
    """A presence that meets a place-time, cut to it; `place`: its number in the question, from 0."""

    place: int
    presence: Presence


class Link(NamedTuple):
    """`source` and `person` were at a venue at the same time, after `source` had been exposed.

    `degree` is that of `person`: 1 for a contact of the first case. Times in ms.
    """

    degree: int
    source: str
    person: str
    venue: Place
    date: str
    minutes: int
    first: int
    last: int


Row = TypeVar("Row", bound=tuple[Any, ...])
_making = threading.Lock()  # the collector is everybody's: one at a time turns it off and on again


def rows_as(kind: type[Row], *columns: Sequence[Any]) -> list[Row]:
    """Equally long columns as NamedTuples, in half the time of calling each: their constructor is Python."""
    with _making:
        on = gc.isenabled()
        gc.disable()  # it looks for garbage every 700 tuples, now and then among all that lives: up to 90 ms
        try:
            return list(map(tuple.__new__, repeat(kind), zip(*columns, strict=True)))
        finally:
            if on:
                gc.enable()


class Columns(Sequence[Row]):
    """An answer by column. Its rows are made when one is read: of a crowd that takes as long as to find out
    who met whom, and whoever counts, sorts or writes them down may do without.
    """

    def __init__(self, kind: type[Row], *columns: Sequence[Any]) -> None:
        """`columns`: the values of each field of `kind` in their order, equally many."""
        self._kind = kind
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    @cached_property
    def _rows(self) -> list[Row]:
        return rows_as(self._kind, *self.columns)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    @overload
    def __getitem__(self, at: int) -> Row: ...

    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...

    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        return self._rows[at]


def hexes(persons: NDArray[np.uint64]) -> list[str]:
    """Persons as 16 hex digits."""
    return persons.astype(">u8").tobytes().hex(" ", 8).split()


def listed(names: Sequence[Any], numbers: NDArray[np.int64]) -> list[Any]:
    """The name of each number."""
    found = np.empty(len(names), object)
    found[:] = names
    chosen: list[Any] = found[numbers].tolist()
    return chosen
