"""What people do on one local day: visits by column, slot by slot, and the scans that they make of them.

A regular's day has slots (market before work, work or school, a meal, market again, an evening out): in each
slot a person goes to one place at most, as long as there are enough persons for the wanted number of visits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from producers.simulator.province import Numbers, Province
from schemas.times import MS_PER_MINUTE

DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000
_LOCAL_MS: Final = 7 * _HOUR_MS
IN, OUT, VOID = 0, 1, 2

# First days of Tết; before it the markets are full, during it the offices are empty.
_TET: Final = tuple(
    (date.fromisoformat(day) - date(1970, 1, 1)).days
    for day in (
        *("2020-01-25", "2021-02-12", "2022-02-01", "2023-01-22", "2024-02-10", "2025-01-29", "2026-02-17"),
        *("2027-02-06", "2028-01-26", "2029-02-13", "2030-02-03", "2031-01-23", "2032-02-11"),
    )
)
# Of those who check out, so many never checked in; of all scans, so many are made again while still there.
_ONLY_OUT: Final = 0.03
_AGAIN: Final = 0.03
# Visitors of a market or hospital who scan a stall or ward instead of the gate.
_INSIDE: Final = 0.6


@dataclass(slots=True)
class Columns:
    """Scans by column; `kind` ≥ 10: an invalid one. Times in ms."""

    person: NDArray[np.int32]  # number of the person
    venue: NDArray[np.int16]
    at: NDArray[np.int64]
    kind: NDArray[np.int8]
    arrival: NDArray[np.int64]
    scan_id: NDArray[np.uint64]  # (n, 2)

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: Numbers | NDArray[np.bool_] | slice) -> Self:
        """The rows of these numbers, in that order."""
        return type(self)(*(getattr(self, column.name)[rows] for column in fields(self)))

    @classmethod
    def join(cls, *parts: Self) -> Self:
        """All rows, one part after the other."""
        return cls(
            *(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(cls))
        )


@dataclass(frozen=True, slots=True)
class Visits:
    """Visits by column, in no order: who, where, from when (ms) and for how long (ms)."""

    person: Numbers
    venue: Numbers
    at: Numbers
    stay: Numbers


@dataclass(frozen=True, slots=True)
class _Slot:
    """Part of a day: how much of it falls on it, the hour it begins (mean, spread), where people go."""

    share: float
    hour: tuple[float, float]
    place: str  # "work", "market" or sectors
    stay: tuple[float, float]  # minutes (mean, spread); spread 0: many short stays and few long ones


_SLOTS: Final = (
    _Slot(0.13, (6.2, 0.6), "market", (35, 0)),
    _Slot(0.25, (7.3, 0.4), "work", (240, 25)),
    _Slot(0.03, (9.5, 1.5), "health", (80, 0)),
    _Slot(0.02, (9.5, 2.0), "district", (30, 0)),
    _Slot(0.09, (11.8, 0.5), "trade", (40, 0)),
    _Slot(0.15, (13.5, 0.4), "work", (230, 25)),
    _Slot(0.03, (12.0, 4.5), "transport", (30, 0)),
    _Slot(0.16, (17.2, 0.7), "market", (35, 0)),
    _Slot(0.09, (19.4, 0.9), "trade", (70, 0)),
    _Slot(0.05, (18.0, 2.5), "lodging", (760, 120)),
)


def day_start_ms(day: int) -> int:
    """When a local day (days since 1970-01-01) begins."""
    return day * DAY_MS - _LOCAL_MS


def rhythm(day: int) -> tuple[float, float]:
    """(how busy work and school are, how busy everything else is) on a local day."""
    weekday = (day + 3) % 7
    work = 0.15 if weekday == 6 else 0.5 if weekday == 5 else 1.0
    market = 1.3 if weekday >= 5 else 1.0
    to_tet = min((tet - day for tet in _TET), key=abs)
    if 0 < to_tet <= 10:
        market *= 1 + (11 - to_tet) / 5
    elif -5 < to_tet <= 0:
        work, market = work * 0.1, market * 0.4
    return work, market


def _shares(day: int) -> NDArray[np.float64]:
    work, market = rhythm(day)
    busy = {"work": work, "market": market, "trade": market}
    return np.array([slot.share * busy.get(slot.place, 1.0) for slot in _SLOTS])


def busyness(day: int) -> float:
    """How many visits this local day has, beside other days."""
    return float(_shares(day).sum())


def visits(province: Province, regulars: int, day: int, count: int, chance: np.random.Generator) -> Visits:
    """`count` visits of a whole local day by the persons with a number below `regulars`."""
    shares = _shares(day)
    edges = np.round(np.cumsum(shares / shares.sum()) * count).astype(np.int64)
    parts = [
        _slot(province, regulars, day, slot, count=int(size), chance=chance)
        for slot, size in zip(_SLOTS, np.diff(edges, prepend=0), strict=True)
    ]
    order = chance.permutation(count)
    person, venue, at, stay = (np.concatenate(column)[order] for column in zip(*parts, strict=True))
    return Visits(person, venue, at, stay)


def _slot(
    province: Province, regulars: int, day: int, slot: _Slot, *, count: int, chance: np.random.Generator
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    # nobody twice, unless everybody is out already
    rounds = -(-count // regulars)
    person = np.concatenate([chance.permutation(regulars) for _ in range(max(1, rounds))])[:count]
    if slot.place == "work":
        venue = province.work[person]
    elif slot.place == "market":
        venue = province.market[person]
    else:
        candidates = np.flatnonzero(province.sector == slot.place)
        if not len(candidates):
            candidates = np.arange(len(province.venues))
        # skewed: the first of a kind are the popular ones
        venue = candidates[(chance.random(count) ** 2.5 * len(candidates)).astype(np.int64)]
    inside = province.inside[venue]
    deeper = (inside > 0) & (chance.random(count) < _INSIDE)
    venue = np.where(deeper, venue + 1 + (chance.random(count) * inside).astype(np.int64), venue)
    mean, spread = slot.stay
    minutes = chance.normal(mean, spread, count) if spread else chance.gamma(2.0, mean / 2, count)
    hour = np.clip(chance.normal(*slot.hour, count), 4.5, 23.4)
    at = day_start_ms(day) + (hour * _HOUR_MS).astype(np.int64)
    return person, venue, at, np.clip(minutes, 2, 1200).astype(np.int64) * MS_PER_MINUTE


def scan_ids(at: NDArray[np.int64], chance: np.random.Generator) -> NDArray[np.uint64]:
    """UUIDv7: milliseconds, then random bits; two columns of 64."""
    bits = chance.integers(0, 2**63, size=(len(at), 2), dtype=np.uint64)
    high = (at.astype(np.uint64) << np.uint64(16)) | np.uint64(0x7000) | (bits[:, 0] & np.uint64(0xFFF))
    low = np.uint64(0x8000000000000000) | (bits[:, 1] >> np.uint64(2))
    return np.stack([high, low], axis=1)


def scans_of(
    seen: Visits, count: int, check_outs: float, end_ms: int, chance: np.random.Generator
) -> Columns:
    """Exactly `count` scans of visits (at least as many, none that begins after `end_ms`).

    A check-out for the share `check_outs` of the visits, as far as they are over by `end_ms`.
    """
    outs = int(count * check_outs / (1 + check_outs))
    again = int(count * _AGAIN)
    # who may check out or scan again is chosen among those who check in anyway
    sure = count - outs - again
    left_at = seen.at + seen.stay
    leaving = chance.permutation(np.flatnonzero(left_at[:sure] <= end_ms))[:outs]
    again_at = seen.at + (seen.stay * chance.uniform(0.1, 0.9, len(seen.at))).astype(np.int64)
    staying = chance.permutation(np.flatnonzero(again_at[:sure] <= end_ms))[:again]
    only_out = leaving[: int(len(leaving) * _ONLY_OUT)]
    entering = np.arange(count - len(leaving) - len(staying) + len(only_out))
    entering = np.delete(entering, only_out)
    rows = np.concatenate([entering, staying, leaving])
    at = np.concatenate([seen.at[entering], again_at[staying], left_at[leaving]])
    kind = np.full(count, IN, np.int8)
    kind[count - len(leaving) :] = OUT
    return Columns(
        seen.person[rows].astype(np.int32),
        seen.venue[rows].astype(np.int16),
        at,
        kind,
        at,
        scan_ids(at, chance),
    )
