"""The scans of a period, in the order of their arrival, and the truth about them.

Columns, not rows: visits are drawn for a day at once. The truth is written down from what was meant, before
anything is encoded: it knows nothing of how the pipeline reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from producers.simulator.province import Province, make_province
from schemas.codes import ALPHABET, is_code
from schemas.times import MS_PER_MINUTE, local_day

Ints = NDArray[np.int64]

DAY_MS: Final = 86_400_000
_LOCAL_MS: Final = 7 * 3_600_000
IN, OUT, VOID = 0, 1, 2
_KIND: Final = (b"in", b"out", b"void")
_SOURCE: Final = (b"person", b"venue", b"manual")

# First days of Tết; before it the markets are full, during it the offices are empty.
_TET: Final = tuple(
    (date.fromisoformat(day) - date(1970, 1, 1)).days
    for day in (
        *("2020-01-25", "2021-02-12", "2022-02-01", "2023-01-22", "2024-02-10", "2025-01-29", "2026-02-17"),
        *("2027-02-06", "2028-01-26", "2029-02-13", "2030-02-03", "2031-01-23", "2032-02-11"),
    )
)

# What invalid scans look like and the reason that they must be rejected with.
INVALID: Final = ("malformed", "invalid", "unknown_venue", "too_old", "in_future")


@dataclass(frozen=True)
class Shares:
    """Shares of the scans: repeated and broken ones come on top of the wanted number's marks."""

    check_outs: float = 0.33
    from_venue: float = 0.3
    duplicates: float = 0.02
    retries: float = 0.02
    out_of_order: float = 0.05
    late: float = 0.02
    invalid: float = 0.01
    voids: float = 0.001

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not 0 <= getattr(self, name) <= 0.9:
                raise ValueError(f"the share {name} must be between 0 and 0.9")


@dataclass(slots=True)
class Truth:
    """What was meant: distinct accepted marks by column, and how many scans must be rejected why."""

    person: NDArray[np.uint64]
    venue: Ints  # number of the venue
    minute: Ints
    kind: Ints
    rejected: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Columns:
    """Scans by column; `kind` ≥ 10: an invalid one, 10 + its place in INVALID."""

    person: Ints  # number of the person
    venue: Ints
    at: Ints  # ms
    kind: Ints
    arrival: Ints  # ms
    scan_id: NDArray[np.uint64]  # (n, 2)

    def take(self, order: Ints) -> Columns:
        """The rows of these numbers."""
        return Columns(
            self.person[order],
            self.venue[order],
            self.at[order],
            self.kind[order],
            self.arrival[order],
            self.scan_id[order],
        )


def _join(parts: list[Columns]) -> Columns:
    return Columns(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("person", "venue", "at", "kind", "arrival", "scan_id")
        )
    )


def _ids(at: Ints, chance: np.random.Generator) -> NDArray[np.uint64]:
    """UUIDv7: milliseconds, then random bits."""
    bits = chance.integers(0, 2**63, size=(len(at), 2), dtype=np.uint64)
    high = (at.astype(np.uint64) << np.uint64(16)) | np.uint64(0x7000) | (bits[:, 0] & np.uint64(0xFFF))
    low = np.uint64(0x8000000000000000) | (bits[:, 1] >> np.uint64(2))
    return np.stack([high, low], axis=1)


def _rhythm(day: int) -> tuple[float, float]:
    """(how busy work and school are, how busy markets are) on a local day."""
    weekday = (day + 3) % 7
    work = 0.15 if weekday == 6 else 0.5 if weekday == 5 else 1.0
    market = 1.3 if weekday >= 5 else 1.0
    to_tet = min((tet - day for tet in _TET), key=abs)
    if 0 < to_tet <= 10:
        market *= 1 + (11 - to_tet) / 5
    elif -5 < to_tet <= 0:
        work, market = work * 0.1, market * 0.4
    return work, market


def _visits(
    province: Province, day: int, count: int, chance: np.random.Generator
) -> tuple[Ints, Ints, Ints, Ints]:
    """(person, venue, arrival ms of the day, minutes stayed) of a local day's visits."""
    people = len(province.people)
    work, market = _rhythm(day)
    weights = np.array([0.42 * work, 0.30 * market, 0.16 * market, 0.04, 0.03, 0.05])
    purpose = chance.choice(6, size=count, p=weights / weights.sum())
    person = chance.integers(0, people, size=count)

    def any_of(*sectors: str) -> Ints:
        candidates = np.flatnonzero(np.isin(province.sector, sectors))
        if not len(candidates):
            candidates = np.arange(len(province.venues))
        # skewed: the first of a kind are the popular ones
        return candidates[(chance.random(count) ** 2.5 * len(candidates)).astype(np.int64)].astype(np.int64)

    venue = np.select(
        [purpose == 0, purpose == 1, purpose == 2, purpose == 3, purpose == 4],
        [
            province.work[person],
            province.market[person],
            any_of("trade"),
            any_of("health"),
            any_of("transport"),
        ],
        any_of("lodging"),
    )
    hour = np.select(
        [purpose == 0, purpose == 1, purpose == 5],
        [
            np.where(
                chance.random(count) < 0.6, chance.normal(7.2, 0.5, count), chance.normal(13.4, 0.5, count)
            ),
            np.where(
                chance.random(count) < 0.6, chance.normal(7.0, 1.2, count), chance.normal(17.2, 1.0, count)
            ),
            chance.normal(18.0, 2.5, count),
        ],
        chance.normal(14.0, 4.0, count),
    )
    stay = np.select(
        [purpose == 0, purpose == 5],
        [chance.normal(240, 40, count), chance.normal(720, 120, count)],
        chance.gamma(2.0, 22.0, count),
    )
    at = (np.clip(hour, 4.5, 23.4) * 3_600_000).astype(np.int64) + chance.integers(0, 60_000, size=count)
    return person, venue.astype(np.int64), at, np.clip(stay, 2, 1200).astype(np.int64)


class Stream:
    """The scans of `days` local days that end at `end_ms`: `marks` wanted scans, others on top."""

    def __init__(
        self,
        *,
        people: int,
        venues: int,
        days: int,
        scans: int,
        end_ms: int,
        seed: int,
        shares: Shares,
    ) -> None:
        if not 1 <= days <= 28:
            raise ValueError("a simulation has 1 to 28 days: what is older would be refused as too old")
        if scans < days:
            raise ValueError("at least one scan a day")
        self.province = make_province(people, venues, seed)
        self._end_ms = end_ms
        self._shares = shares
        chance = np.random.default_rng([seed, 2])
        self._unknown = _unknown_code(self.province, chance)
        good = self._good(days, scans, chance)
        self._all = self._with_noise(good, chance)

    def __len__(self) -> int:
        return len(self._all.at)

    # --- making -------------------------------------------------------------------------------

    def _good(self, days: int, scans: int, chance: np.random.Generator) -> Columns:
        shares = self._shares
        last = local_day(self._end_ms // MS_PER_MINUTE)
        busy = np.array([sum(_rhythm(day)) for day in range(last - days + 1, last + 1)])
        # the last day ends now
        busy[-1] *= max(0.02, ((self._end_ms + _LOCAL_MS) % DAY_MS) / DAY_MS)
        wanted = np.floor(np.cumsum(busy / busy.sum()) * scans).astype(np.int64)
        quotas = np.diff(wanted, prepend=0)
        parts = [
            self._day(day, int(quota), chance)
            for day, quota in zip(range(last - days + 1, last + 1), quotas, strict=True)
            if quota
        ]
        good = _join(parts)
        good.arrival = self._arrivals(good.at, chance)
        voided = np.flatnonzero(chance.random(len(good.at)) < shares.voids)
        if len(voided):
            voids = good.take(voided)
            voids.kind[:] = VOID
            voids.arrival = np.minimum(
                voids.arrival + chance.integers(60_000, DAY_MS, len(voided)), self._end_ms
            )
            voids.scan_id = _ids(voids.at, chance)
            good = _join([good, voids])
        return good

    def _day(self, day: int, quota: int, chance: np.random.Generator) -> Columns:
        """`quota` scans of one local day: arrivals, and departures of a part of them."""
        start = day * DAY_MS - _LOCAL_MS
        person, venue, at, stay = _visits(self.province, day, quota, chance)
        at = at + start
        # today's visits have all begun by now
        if start + DAY_MS > self._end_ms:
            passed = self._end_ms - start
            at = start + ((at - start) * (passed / DAY_MS)).astype(np.int64)
        leaves = chance.random(quota) < self._shares.check_outs
        left_at = at + stay * MS_PER_MINUTE
        leaves &= left_at <= self._end_ms
        both = _join(
            [
                Columns(person, venue, at, np.zeros(quota, np.int64), at, _ids(at, chance)),
                Columns(
                    person[leaves],
                    venue[leaves],
                    left_at[leaves],
                    np.full(int(leaves.sum()), OUT),
                    left_at[leaves],
                    _ids(left_at[leaves], chance),
                ),
            ]
        )
        return both.take(np.sort(chance.permutation(len(both.at))[:quota]))

    def _arrivals(self, at: Ints, chance: np.random.Generator) -> Ints:
        count = len(at)
        delay = chance.integers(50, 3_000, size=count)
        unordered = chance.random(count) < self._shares.out_of_order
        delay = np.where(unordered, chance.integers(10_000, 1_800_000, size=count), delay)
        late = chance.random(count) < self._shares.late
        delay = np.where(late, (chance.uniform(0.2, 10, size=count) * DAY_MS).astype(np.int64), delay)
        arrival: Ints = np.minimum(at + delay, self._end_ms)
        return arrival

    def _with_noise(self, good: Columns, chance: np.random.Generator) -> Columns:
        """Repetitions and broken scans among the good ones, in the order of arrival; notes the truth."""
        shares = self._shares

        def again(share: float) -> Columns:
            chosen = good.take(np.flatnonzero(chance.random(len(good.at)) < share))
            chosen.arrival = np.minimum(
                chosen.arrival + chance.integers(500, 120_000, len(chosen.at)), self._end_ms
            )
            return chosen

        duplicates = again(shares.duplicates)
        duplicates.scan_id = _ids(duplicates.at, chance)
        invalid = again(shares.invalid)
        invalid.scan_id = _ids(invalid.at, chance)
        invalid.kind = 10 + chance.integers(0, len(INVALID), len(invalid.at))
        everything = _join([good, duplicates, again(shares.retries), invalid])
        names, counts = np.unique(invalid.kind - 10, return_counts=True)
        self._rejected = {INVALID[int(name)]: int(n) for name, n in zip(names, counts, strict=True)}
        marks = np.stack([good.person, good.venue, good.at // MS_PER_MINUTE, good.kind], axis=1)
        self._marks = np.unique(marks, axis=0)
        return everything.take(np.argsort(everything.arrival, kind="stable"))

    # --- giving -------------------------------------------------------------------------------

    def truth(self) -> Truth:
        """What must be in the archive once everything has arrived."""
        marks = self._marks
        return Truth(
            self.province.people[marks[:, 0]], marks[:, 1], marks[:, 2], marks[:, 3], dict(self._rejected)
        )

    def batches(self, size: int = 1_000) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """(scans as JSON, records that are no JSON) in the order of arrival, `size` at a time."""
        for start in range(0, len(self), size):
            yield self._encode(self._all.take(np.arange(start, min(start + size, len(self)))))

    def _encode(self, part: Columns) -> tuple[list[bytes], list[bytes]]:
        province = self.province
        codes = [venue.code.encode() for venue in province.venues]
        scans: list[bytes] = []
        broken: list[bytes] = []
        source = (part.scan_id[:, 1] % np.uint64(1000) < np.uint64(self._shares.from_venue * 1000)).tolist()
        party = np.where(part.scan_id[:, 0] % np.uint64(17) == 0, 2, 1).tolist()
        for person, venue, at, kind, arrival, high, low, by_venue, size in zip(
            province.people[part.person].tolist(),
            part.venue.tolist(),
            part.at.tolist(),
            part.kind.tolist(),
            part.arrival.tolist(),
            part.scan_id[:, 0].tolist(),
            part.scan_id[:, 1].tolist(),
            source,
            party,
            strict=True,
        ):
            code, when, noise = codes[venue], at, kind - 10
            mark = IN if noise >= 0 else kind
            if noise >= 0:
                if INVALID[noise] == "unknown_venue":
                    code = self._unknown
                elif INVALID[noise] == "too_old":
                    when = arrival - 31 * DAY_MS
                elif INVALID[noise] == "in_future":
                    when = arrival + 600_000
            text = (
                b'{"scan_id":"%08x-%04x-%04x-%04x-%012x","person":"%016x","venue":"%s","scanned_at":%d,'
                b'"kind":"%s","source":"%s","party":%d,"received_at":%d}'
                % (
                    high >> 32,
                    high >> 16 & 0xFFFF,
                    high & 0xFFFF,
                    low >> 48,
                    low & 0xFFFFFFFFFFFF,
                    person,
                    code,
                    when,
                    _KIND[mark],
                    _SOURCE[2] if mark == VOID else _SOURCE[by_venue],
                    size,
                    arrival,
                )
            )
            if noise >= 0 and INVALID[noise] == "malformed":
                broken.append(text[: len(text) // 2])
            elif noise >= 0 and INVALID[noise] == "invalid":
                scans.append(text.replace(b'"scanned_at":', b'"scanned_at":"now","was":'))
            else:
                scans.append(text)
        return scans, broken


def _unknown_code(province: Province, chance: np.random.Generator) -> bytes:
    """A well-formed code that no venue has."""
    taken = {venue.code for venue in province.venues}
    while True:
        code = "".join(ALPHABET[int(number)] for number in chance.integers(0, len(ALPHABET), 8))
        if is_code(code) and code not in taken:
            return code.encode()
