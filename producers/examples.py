"""A few scans to try an installation with. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from schemas.events import Venue
from schemas.times import MS_PER_MINUTE

# Who looks at an archive sees that they are nobody.
CASE: Final = "00c0ffee00c0ffee"
MET: Final = ("00000000000000a1", "00000000000000a2", "00000000000000a3")
LATE: Final = "00000000000000b1"

# person, first or second place, minutes ago, kind: the case meets three; one comes after it has left
_STORY: Final = (
    (CASE, 0, 180, "in"),
    (MET[0], 0, 170, "in"),
    (CASE, 0, 130, "out"),
    (MET[0], 0, 120, "out"),
    (LATE, 0, 100, "in"),
    (CASE, 1, 60, "in"),
    (MET[1], 1, 50, "in"),
    (MET[2], 1, 40, "in"),
    (MET[1], 1, 20, "out"),
    (CASE, 1, 10, "out"),
)


def example_scans(
    places: Sequence[Venue], now_ms: int, new_scan_id: Callable[[], str]
) -> list[dict[str, Any]]:
    """Scans of the last three hours at two venues, as a gateway would write them."""
    return [
        {
            "scan_id": new_scan_id(),
            "person": person,
            "venue": places[place].code,
            "scanned_at": now_ms - minutes * MS_PER_MINUTE,
            "kind": kind,
        }
        for person, place, minutes, kind in _STORY
    ]
