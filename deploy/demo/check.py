"""Archive and exposures against the oracle, as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clickhouse_driver import Client

from deploy.demo.oracle import Exposed, ExposureKey, World
from lookups.answers import Contact
from schemas.events import Exposure

_EXAMPLES = 3  # of each way to differ


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was counted twice: by the oracle and in the system. `examples`: of what is not equal."""

    what: str
    expected: int
    found: int
    missing: int
    unexpected: int
    different: int = 0
    examples: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether both say the same."""
        return not (self.missing or self.unexpected or self.different) and self.expected == self.found


def archived_marks(client: Client, world: World) -> set[tuple[int, int, int, int]]:
    """Every mark in the archive, as the oracle writes them: (person, venue's number, minute, kind)."""
    numbers = {world.code(number): number for number in range(world.venues)}
    found: set[tuple[int, int, int, int]] = set()
    rows = client.execute_iter(
        "SELECT venue, hour, person, groupBitOr(ins), groupBitOr(outs), groupBitOr(voids)"
        " FROM visits GROUP BY venue, hour, person",
        {},
        settings={"max_block_size": 65_536},
    )
    for venue, hour, person, *masks in rows:
        number = numbers.get(venue, -1)
        for kind, mask in enumerate(masks):
            left = mask
            while left:
                bit = left & -left
                found.add((person, number, hour * 60 + bit.bit_length() - 1, kind))
                left ^= bit
    return found


def check_marks(client: Client, world: World) -> Line:
    """Accepted marks: in the archive exactly those that were meant."""
    expected, found = world.marks(), archived_marks(client, world)
    return Line(
        "marks in the archive", len(expected), len(found), len(expected - found), len(found - expected)
    )


def check_rejected(client: Client, world: World) -> list[Line]:
    """Refused scans, by reason."""
    rows = client.execute(
        "SELECT reason, count() FROM rejected FINAL WHERE source_topic LIKE '%scans' GROUP BY reason"
    )
    found = dict(rows)
    return [
        Line(
            f"rejected: {reason}",
            world.rejected.get(reason, 0),
            found.get(reason, 0),
            max(0, world.rejected.get(reason, 0) - found.get(reason, 0)),
            max(0, found.get(reason, 0) - world.rejected.get(reason, 0)),
        )
        for reason in sorted({*world.rejected, *found})
    ]


def compare(what: str, expected: Mapping[ExposureKey, Exposed], found: Mapping[ExposureKey, Exposed]) -> Line:
    """Whom the oracle names and whom the system does, with the times and minutes of each."""
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    different = sorted(key for key in expected.keys() & found.keys() if expected[key] != found[key])
    return Line(
        what,
        len(expected),
        len(found),
        len(missing),
        len(unexpected),
        len(different),
        (
            *(f"missing: {key} {expected[key]}" for key in missing[:_EXAMPLES]),
            *(f"unexpected: {key} {found[key]}" for key in unexpected[:_EXAMPLES]),
            *(f"different: {key} {found[key]} for {expected[key]}" for key in different[:_EXAMPLES]),
        ),
    )


def check_exposures(what: str, expected: Mapping[ExposureKey, Exposed], newest: Iterable[Exposure]) -> Line:
    """What stands exposed on the topic, given the newest version of each exposure."""
    found = {
        (exposure.case_id, exposure.person, exposure.venue, exposure.date): Exposed(
            exposure.first, exposure.last, exposure.minutes
        )
        for exposure in newest
        if exposure.status == "exposed"
    }
    return compare(what, expected, found)


def check_contacts(
    what: str, case_id: str, expected: Mapping[ExposureKey, Exposed], contacts: Iterable[Contact]
) -> Line:
    """What a lookup answered."""
    found = {
        (case_id, contact.person, contact.venue.code, contact.date): Exposed(
            contact.first, contact.last, contact.minutes
        )
        for contact in contacts
    }
    return compare(what, expected, found)
