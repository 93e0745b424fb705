"""A country's marks by column, ready for the archive: no scans, no Kafka, months in minutes.

The same habits as the stream's (days.py). The people come in cohorts, so that memory holds one cohort's day
and not a country's; all cohorts go to the same venues.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from producers.simulator.days import OUT, VOID, Columns, busyness, scans_of, visits
from producers.simulator.province import Numbers, Province
from schemas.times import MS_PER_MINUTE, local_day

# Marks of one cohort and day: an insert's fixed cost is nothing then, and memory stays below 1 GB.
_COHORT_MARKS: Final = 500_000
# Marks that a regular makes on a usual day.
_A_DAY: Final = 4.0
_VOIDS: Final = 0.001


@dataclass(frozen=True, slots=True)
class HourRows:
    """Rows of the archive: one a (venue, hour, person), bit m of a mask is the mark of minute m.

    `venue`: number of the province's venue; `hour` since 1970-01-01 UTC; `marks`: how many bits are set.
    """

    venue: NDArray[np.int64]
    hour: NDArray[np.uint32]
    person: NDArray[np.uint64]
    ins: NDArray[np.uint64]
    outs: NDArray[np.uint64]
    voids: NDArray[np.uint64]
    party: NDArray[np.uint8]
    sources: NDArray[np.uint8]
    marks: int

    def __len__(self) -> int:
        return len(self.person)


def plan(days: int, marks: int, end_ms: int) -> list[tuple[int, int]]:
    """(local day, marks) of `days` whole days up to the one before `end_ms`, as busy as each day is."""
    last = local_day(end_ms // MS_PER_MINUTE) - 1
    chosen = range(last - days + 1, last + 1)
    busy = np.array([busyness(day) for day in chosen])
    until = np.round(np.cumsum(busy / busy.sum()) * marks).astype(np.int64)
    return list(zip(chosen, np.diff(until, prepend=0).tolist(), strict=True))


def country_rows(province: Province, days: int, marks: int, end_ms: int, seed: int) -> Iterator[HourRows]:
    """The marks of a period, a cohort and day at a time. The same arguments give the same rows."""
    people = len(province.people)
    regulars = min(people, max(1, round(marks / days / _A_DAY)))
    for day, wanted in plan(days, marks, end_ms):
        cohorts = max(1, min(regulars, -(-wanted // _COHORT_MARKS)))
        edges = np.linspace(0, regulars, cohorts + 1).astype(np.int64)
        sizes = np.diff(np.round(edges / regulars * wanted).astype(np.int64))
        for number, size in enumerate(sizes.tolist()):
            if size:
                part = slice(int(edges[number]), int(edges[number + 1]))
                some = replace(
                    province,
                    people=province.people[part],
                    work=province.work[part],
                    market=province.market[part],
                )
                chance = np.random.default_rng([seed, 5, day, number])
                yield _rows(some, _cohort_day(some, day, size, chance))


def _cohort_day(province: Province, day: int, count: int, chance: np.random.Generator) -> Columns:
    seen = visits(province, len(province.people), day, count, chance)
    good = scans_of(seen, count, 0.33, _NEVER_MS, chance)
    corrected = good.take(chance.permutation(count)[: int(count * _VOIDS)])
    corrected.kind = np.full(len(corrected), VOID, np.int8)
    return Columns.join(good, corrected)


# All days are over: whoever enters also leaves.
_NEVER_MS: Final = 1 << 62


def _rows(province: Province, scans: Columns) -> HourRows:
    minute: Numbers = scans.at // MS_PER_MINUTE
    venue = scans.venue.astype(np.int64)
    person = scans.person.astype(np.int64)
    first = int(minute.min()) // 60
    hour = minute // 60 - first
    # one number a key: venue (15 bits), hour of the cohort's day (6), person (30)
    key = (venue << 6 | hour) << 30 | person
    order = np.argsort(key)
    key, bit, kind = key[order], minute[order] % 60, scans.kind[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    mask = np.left_shift(np.uint64(1), bit.astype(np.uint64))

    def masks(wanted: NDArray[np.bool_]) -> NDArray[np.uint64]:
        return np.bitwise_or.reduceat(np.where(wanted, mask, np.uint64(0)), starts)

    ins, outs, voids = masks((kind != OUT) & (kind != VOID)), masks(kind == OUT), masks(kind == VOID)
    kept = key[starts]
    who = province.people[kept & (1 << 30) - 1]
    # from the pseudonym, which is random: no further draw
    by_venue = who % np.uint64(10) < np.uint64(3)
    return HourRows(
        venue=kept >> 36,
        hour=((kept >> 30 & 63) + first).astype(np.uint32),
        person=who,
        ins=ins,
        outs=outs,
        voids=voids,
        party=np.where(who % np.uint64(17) == 0, 2, 1).astype(np.uint8),
        sources=(np.where(by_venue, 2, 1) | np.where(voids > 0, 4, 0)).astype(np.uint8),
        marks=int(sum(np.bitwise_count(each).sum() for each in (ins, outs, voids))),
    )
