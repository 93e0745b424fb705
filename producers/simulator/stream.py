"""The scans of a period, in the order of their arrival, and the truth about them.

Columns, not rows, and one local day at a time: memory holds a day and what arrives later than its day. The
truth is written down from what was meant, before anything is encoded: it knows nothing of how the pipeline
reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from producers.simulator.days import (
    DAY_MS,
    VOID,
    Columns,
    Visits,
    busyness,
    day_start_ms,
    scan_ids,
    scans_of,
    visits,
)
from producers.simulator.province import Numbers, Province, make_province
from schemas.codes import ALPHABET, is_code
from schemas.times import MS_PER_MINUTE, local_day

_KIND: Final = (b"in", b"out", b"void")
_SOURCE: Final = (b"person", b"venue", b"manual")

# What invalid scans look like and the reason that they must be rejected with.
INVALID: Final = ("malformed", "invalid", "unknown_venue", "too_old", "in_future")
_INVALID_FROM: Final = 10  # kinds from here on

# Scans that a regular makes on a usual day: so many persons are regulars as the wanted scans need.
_A_DAY: Final = 4.0
# Enough visits to tell how much of a day has begun.
_SAMPLE: Final = 4_096
# A phone that was offline delivers after 5 hours to 10 days.
_LATE_MS: Final = (DAY_MS // 5, 10 * DAY_MS)

# A mark as one number: person, venue, minute from the first day on, kind.
_KIND_BITS: Final = 2
_MINUTE_BITS: Final = 16
_VENUE_BITS: Final = 15
_PERSON_FROM: Final = _KIND_BITS + _MINUTE_BITS + _VENUE_BITS


@dataclass(frozen=True)
class Shares:
    """Shares: check-outs of the visits, the others of the wanted scans; all but the first two on top of them
    or, for lateness, among them."""

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
    venue: NDArray[np.int16]  # number of the venue
    minute: NDArray[np.int32]  # of the epoch
    kind: NDArray[np.int8]
    rejected: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Quota:
    """How many scans of each sort one local day has."""

    day: int
    good: int
    duplicates: int
    retries: int
    invalid: int
    voids: int

    @property
    def total(self) -> int:
        return self.good + self.duplicates + self.retries + self.invalid + self.voids


class Stream:
    """The scans of `days` local days that end at `end_ms`: `scans` good ones, the others on top.

    Iterate `batches` once to its end, then ask for the `truth`. The same arguments give the same bytes.
    Raises ValueError for what no simulation can be.
    """

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
        self.province: Final[Province] = make_province(people, venues, seed)
        self._end_ms = end_ms
        self._seed = seed
        self._shares = shares
        self._regulars = min(people, max(1, round(scans / days / _A_DAY)))
        self._unknown = _unknown_code(self.province, np.random.default_rng([seed, 2]))
        self._quotas = self._plan(days, scans)
        self._first_minute = day_start_ms(self._quotas[0].day) // MS_PER_MINUTE
        self._truth: Truth | None = None

    def __len__(self) -> int:
        return sum(quota.total for quota in self._quotas)

    def truth(self) -> Truth:
        """What must be in the archive once everything has arrived. Only after the last batch."""
        if self._truth is None:
            raise RuntimeError("the truth is complete after the last batch")
        return self._truth

    def batches(self, size: int = 1_000) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """(scans as JSON, records that are no JSON) in the order of arrival, at most `size` at a time."""
        codes = [venue.code.encode() for venue in self.province.venues]
        marks: list[Numbers] = []
        rejected: Counter[str] = Counter()
        waiting: Columns | None = None
        for place, quota in enumerate(self._quotas):
            chance = np.random.default_rng([self._seed, 3, place])
            good = self._good(quota, chance)
            marks.append(self._packed(good))
            noise = self._noise(good, quota, chance)
            names, counts = np.unique(noise.kind[noise.kind >= _INVALID_FROM], return_counts=True)
            for name, count in zip(names.tolist(), counts.tolist(), strict=True):
                rejected[INVALID[name - _INVALID_FROM]] += count
            waiting = Columns.join(*(() if waiting is None else (waiting,)), good, noise)
            # whatever the days to come bring is scanned, and so arrives, after their beginning
            last = place + 1 == len(self._quotas)
            due = np.full(len(waiting), True) if last else waiting.arrival < day_start_ms(quota.day + 1)
            now = waiting.take(due)
            waiting = waiting.take(~due)
            now = now.take(np.argsort(now.arrival, kind="stable"))
            for start in range(0, len(now), size):
                yield self._encode(now.take(slice(start, start + size)), codes)
        self._truth = self._unpacked(np.unique(np.concatenate(marks)), dict(rejected))

    # --- how many -----------------------------------------------------------------------------

    def _plan(self, days: int, scans: int) -> list[_Quota]:
        last = local_day(self._end_ms // MS_PER_MINUTE)
        chosen = range(last - days + 1, last + 1)
        busy = np.array([busyness(day) for day in chosen])
        # the last day ends now: of its visits only those that have begun
        sample = visits(self.province, self._regulars, last, _SAMPLE, np.random.default_rng([self._seed, 4]))
        begun = float((sample.at <= self._end_ms).mean())
        busy[-1] *= begun if begun > 0.01 else 0.0
        if not busy.sum():
            raise ValueError("nobody is up yet on the only day: choose a later end, or more days")

        until = np.floor(np.cumsum(busy / busy.sum()) * scans + 1e-6).astype(np.int64)

        def on_top(share: float) -> list[int]:
            """By day, and never more than there are good scans to repeat or to break."""
            return [int(count) for count in np.diff(np.floor(until * share).astype(np.int64), prepend=0)]

        shares = self._shares
        sorts = (1.0, shares.duplicates, shares.retries, shares.invalid, shares.voids)
        columns = zip(chosen, *map(on_top, sorts), strict=True)
        return [_Quota(*counts) for counts in columns if counts[1]]

    # --- what and when ------------------------------------------------------------------------

    def _good(self, quota: _Quota, chance: np.random.Generator) -> Columns:
        """The scans that make marks, those that void some of them included."""
        seen = self._begun(quota, chance)
        good = scans_of(seen, quota.good, self._shares.check_outs, self._end_ms, chance)
        good.arrival = self._arrivals(good.at, chance)
        voids = good.take(chance.permutation(len(good))[: quota.voids])
        voids.kind = np.full(len(voids), VOID, np.int8)
        voids.arrival = self._later(voids.arrival, 60_000, DAY_MS, chance)
        voids.scan_id = scan_ids(voids.at, chance)
        return Columns.join(good, voids)

    def _begun(self, quota: _Quota, chance: np.random.Generator) -> Visits:
        """As many visits as the day has scans, all begun by the end."""
        parts: list[Visits] = []
        found = 0
        while found < quota.good:
            # never a handful of the last day: that could fall into one part of it, which has not begun
            size = quota.good if quota is not self._quotas[-1] else max(quota.good, _SAMPLE)
            some = visits(self.province, self._regulars, quota.day, size, chance)
            rows = np.flatnonzero(some.at <= self._end_ms)[: quota.good - found]
            parts.append(Visits(some.person[rows], some.venue[rows], some.at[rows], some.stay[rows]))
            found += len(rows)
        return Visits(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("person", "venue", "at", "stay")
            )
        )

    def _arrivals(self, at: Numbers, chance: np.random.Generator) -> Numbers:
        count = len(at)
        delay = chance.integers(50, 3_000, size=count)
        unordered = chance.random(count) < self._shares.out_of_order
        delay = np.where(unordered, chance.integers(10_000, 1_800_000, size=count), delay)
        soonest, latest = _LATE_MS
        longest = np.minimum(self._end_ms - at, latest)
        late = (chance.random(count) < self._shares.late) & (longest > soonest)
        long = soonest + (chance.random(count) * (longest - soonest)).astype(np.int64)
        return np.minimum(at + np.where(late, long, delay), self._end_ms)

    def _later(self, arrival: Numbers, least: int, most: int, chance: np.random.Generator) -> Numbers:
        later: Numbers = np.minimum(arrival + chance.integers(least, most, len(arrival)), self._end_ms)
        return later

    def _noise(self, good: Columns, quota: _Quota, chance: np.random.Generator) -> Columns:
        """Repetitions of the good scans, and broken ones."""

        def again(count: int) -> Columns:
            chosen = good.take(chance.permutation(len(good))[:count])
            chosen.arrival = self._later(chosen.arrival, 500, 120_000, chance)
            return chosen

        retries, duplicates, invalid = again(quota.retries), again(quota.duplicates), again(quota.invalid)
        for other in (duplicates, invalid):
            other.scan_id = scan_ids(other.at, chance)
        kinds = chance.integers(0, len(INVALID), len(invalid))
        invalid.kind = (kinds + _INVALID_FROM).astype(np.int8)
        return Columns.join(retries, duplicates, invalid)

    # --- the truth ----------------------------------------------------------------------------

    def _packed(self, good: Columns) -> Numbers:
        """The distinct marks of scans, each as one number: the truth of 100 million takes 800 MB."""
        minute = good.at // MS_PER_MINUTE - self._first_minute
        marks = good.person.astype(np.int64) << _VENUE_BITS | good.venue
        return np.unique((marks << _MINUTE_BITS | minute) << _KIND_BITS | good.kind)

    def _unpacked(self, marks: Numbers, rejected: dict[str, int]) -> Truth:
        def column(shift: int, bits: int) -> Numbers:
            return marks >> shift & (1 << bits) - 1

        return Truth(
            person=self.province.people[marks >> _PERSON_FROM],
            venue=column(_KIND_BITS + _MINUTE_BITS, _VENUE_BITS).astype(np.int16),
            minute=(column(_KIND_BITS, _MINUTE_BITS) + self._first_minute).astype(np.int32),
            kind=column(0, _KIND_BITS).astype(np.int8),
            rejected=rejected,
        )

    # --- the bytes ----------------------------------------------------------------------------

    def _encode(self, part: Columns, codes: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        scans: list[bytes] = []
        broken: list[bytes] = []
        source = (part.scan_id[:, 1] % np.uint64(1000) < np.uint64(self._shares.from_venue * 1000)).tolist()
        party = np.where(part.scan_id[:, 0] % np.uint64(17) == 0, 2, 1).tolist()
        for person, venue, at, kind, arrival, high, low, by_venue, size in zip(
            self.province.people[part.person].tolist(),
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
            code, when = codes[venue], at
            problem = INVALID[kind - _INVALID_FROM] if kind >= _INVALID_FROM else None
            if problem == "unknown_venue":
                code = self._unknown
            elif problem == "too_old":
                when = arrival - 31 * DAY_MS
            elif problem == "in_future":
                when = arrival + 600_000
            # orjson would write the same bytes: three times as slow, and it needs a dict for each
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
                    _KIND[0 if problem else kind],
                    _SOURCE[2] if kind == VOID else _SOURCE[by_venue],
                    size,
                    arrival,
                )
            )
            if problem == "malformed":
                broken.append(text[: len(text) // 2])
            elif problem == "invalid":
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
