"""Marks of a venue as Redis gives them: whom to look at is told from the columns, before any is decoded.

A market has tens of thousands of marks in the days around a case, of which some hundred matter to it. Decoded
and decided one by one in Python, the others cost 2 us a mark and 5 us a person; by column 0.1 us a mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from schemas.events import Case
from stream_processors.layout import ENTRY_SIZE, marks_of
from stream_processors.matching import Key, there
from stream_processors.presence import OUT, REACH, Interval, Mark

_ENTRY: Final = np.dtype([("person", ">u8"), ("at", "u1"), ("tag", "V4")])


@dataclass(frozen=True, slots=True)
class Entries:
    """(hour, entries of 13 bytes) of a venue's buckets, in no order."""

    buckets: Sequence[tuple[int, bytes]]

    def marks(self) -> dict[str, list[Mark]]:
        """Everybody's."""
        found: dict[str, list[Mark]] = {}
        for hour, entries in self.buckets:
            for person, mark in marks_of(hour, entries):
                found.setdefault(person, []).append(mark)
        return found

    def of(self, person: str) -> list[Mark]:
        """Those of one person."""
        name, found = bytes.fromhex(person), list[Mark]()
        for hour, entries in self.buckets:
            at = entries.find(name)
            while at >= 0:
                if at % ENTRY_SIZE == 0:
                    found += [mark for _, mark in marks_of(hour, entries[at : at + ENTRY_SIZE])]
                at = entries.find(name, at + 1)
        return found

    def around(self, minutes: Sequence[Interval], dwell: int, also: Iterable[str]) -> dict[str, list[Mark]]:
        """All marks of whoever may have been there within these minutes, and of the persons named.

        Whose presence meets [start, end) has an `in` from after start - dwell to before end; or an `out`
        after start, either before end + dwell or within REACH of an `in` that is older than that.
        """
        columns = np.frombuffer(b"".join(entries for _, entries in self.buckets), _ENTRY)
        counts = [len(entries) // ENTRY_SIZE for _, entries in self.buckets]
        persons = columns["person"].astype(np.uint64)
        at = np.repeat([hour * 60 for hour, _ in self.buckets], counts).astype(np.int64) + (
            columns["at"] & 63
        )
        is_out = columns["at"] >> 6 == OUT
        near = np.zeros(len(columns), np.bool_)
        for start, end in minutes:
            near |= (at > start - dwell) & (at < end) & ~is_out
            near |= (at > start) & (at < max(end + dwell, start + REACH)) & is_out
        wanted = np.array([int(person, 16) for person in also], np.uint64)
        kept = np.isin(persons, np.concatenate([persons[near], wanted]))
        return _by_person(columns[kept], at[kept])


def marks_to_decide(
    entries: Entries, case: Case, dwell: int, covered: bool, standing: Iterable[Key]
) -> dict[str, list[Mark]]:
    """The marks of the case, of whoever may have been there with it, and of whom something stands."""
    own = [] if case.person is None else [case.person]
    _, infectious = there(case, [mark for person in own for mark in entries.of(person)], dwell, covered)
    return entries.around(infectious, dwell, {*own, *(person for person, _ in standing)})


def _by_person(columns: np.ndarray[Any, Any], at: np.ndarray[Any, Any]) -> dict[str, list[Mark]]:
    found: dict[str, list[Mark]] = {}
    for person, minute, byte in zip(
        columns["person"].tolist(), at.tolist(), columns["at"].tolist(), strict=True
    ):
        found.setdefault(f"{person:016x}", []).append((minute, byte >> 6))
    return found
