"""Whom and what the demo is about: chosen from the truth, so that there is something to see."""

from __future__ import annotations

from typing import Final

from deploy.demo.oracle import CaseTruth, Exposed, ExposureKey, World, exposures

DAY_MS: Final = 86_400_000
_LOCAL_MS: Final = 7 * 3_600_000
# Enough contacts that it matters, few enough that a reader can take them in.
_CONTACTS: Final = (60, 250)
_WANTED: Final = 150
_COMPANY: Final = (40, 90)
# The oracle is slow on purpose: so many persons are tried, the likeliest first.
_TRIED: Final = 6

PERSON_CASE: Final = "DEMO-PERSON"
PLACE_CASE: Final = "DEMO-PLACE"


class NobodyError(RuntimeError):
    """The simulation is too thin for a story; the message says what to ask for instead."""


def person_case(world: World, now_ms: int) -> tuple[CaseTruth, dict[ExposureKey, Exposed]]:
    """Somebody who was out a good deal in the ten days before yesterday, and whom they exposed.

    Raises NobodyError.
    """
    end = now_ms - DAY_MS
    start = end - 10 * DAY_MS
    known = [item for item in world.company(start // 60_000, end // 60_000) if item[2]]
    # whom somebody meets grows with the scans of others in the same clock hours: near enough to choose by
    inside = [item for item in known if _COMPANY[0] <= item[2] <= _COMPANY[1]]
    nearest = sorted(known, key=lambda item: abs(item[2] - sum(_COMPANY) / 2))
    best: tuple[CaseTruth, dict[ExposureKey, Exposed]] | None = None
    for person, _, _ in (inside or nearest)[:_TRIED]:
        case = CaseTruth(PERSON_CASE, start, end, person=person)
        found = exposures(world, case)
        if best is None or abs(len(found) - _WANTED) < abs(len(best[1]) - _WANTED):
            best = (case, found)
        if _CONTACTS[0] <= len(found) <= _CONTACTS[1]:
            break
    if best is None or not best[1]:
        raise NobodyError("nobody met anybody: ask for more scans (--scans)")
    return best


def place_case(world: World, names: dict[str, str], now_ms: int) -> CaseTruth:
    """Three busy hours, two mornings ago, at the market with stalls that had the most scans then.

    `names` of the venues by code. Raises NobodyError.
    """
    midnight = (now_ms + _LOCAL_MS) // DAY_MS * DAY_MS - _LOCAL_MS
    start = midnight - 2 * DAY_MS + 6 * 3_600_000
    end = start + 3 * 3_600_000

    def scans(market: str) -> int:
        return sum(
            len(marks)
            for venue in world.below(market)
            for marks in world.at(venue, start // 60_000, end // 60_000).values()
        )

    markets = [code for code, name in names.items() if name.startswith("Chợ") and len(world.below(code)) > 2]
    busiest = max(markets, key=scans, default=None)
    if busiest is None:
        raise NobodyError("no market has stalls: choose another --seed")
    return CaseTruth(PLACE_CASE, start, end, venue=busiest)
