"""An installation that remembers what it was told, so that the demo's oracle can say what must stand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from clickhouse_driver import Client

from deploy.demo.oracle import Exposed, ExposureKey, World, exposures
from schemas import topics
from schemas.codes import new_code
from schemas.departments import Sector, department_of
from schemas.events import Case, Venue
from tests.chaos.expected import truth_of
from tests.stream.harness import HOUR, MINUTE, Installation, now_ms, person

DAY: Final = 24 * HOUR
KINDS: Final = {"in": 0, "out": 1, "void": 2}

Stands = dict[ExposureKey, tuple[str, int, int, int, int]]  # status, first, last, minutes, version


def noon(days_ago: int) -> int:
    """12:00 in Vietnam of a day before today, ms: safely past, whatever the hour now."""
    return (now_ms() + 7 * HOUR) // DAY * DAY - 7 * HOUR - days_ago * DAY + 12 * HOUR


@dataclass
class Told:
    """Says things to an installation, and remembers them."""

    here: Installation
    folder: Path
    venues: dict[str, Venue] = field(default_factory=dict)
    marks: set[tuple[str, str, int, int]] = field(default_factory=set)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: int = 0
    scans: list[dict[str, Any]] = field(default_factory=list)
    _persons: int = 0

    def somebody(self) -> str:
        """A person of nobody else's."""
        self._persons += 1
        return person(self._persons)

    def venue(self, dwell: int = 60, parent: str | None = None, sector: Sector = "trade") -> str:
        """A new venue's code."""
        code = new_code(self.venues)
        department = department_of(sector, "hue")
        self._put(
            Venue(
                code=code,
                name=f"Nơi {code}",
                sector=sector,
                district="hue",
                department=department,
                dwell=dwell,
                parent=parent,
            )
        )
        return code

    def change(self, code: str, **changes: Any) -> None:
        """The venue's next record."""
        self._put(self.venues[code].model_copy(update=changes))

    def _put(self, venue: Venue) -> None:
        self.venues[venue.code] = venue
        self.here.send(topics.VENUES, venue.model_dump_json().encode(), venue.code)
        self.here.flush()

    def scan(self, who: str, venue: str, at: int, kind: str = "in", refused: bool = False) -> None:
        """A scan that comes now; `refused`: it must be rejected."""
        self.scans.append(self.here.scan(who, venue, at, kind=kind))
        if refused:
            self.refused += 1
        else:
            self.marks.add((who, venue, at // MINUTE, KINDS[kind]))

    def repeat(self) -> None:
        """Every accepted scan once more, backwards, as after an outage."""
        for scan in reversed(self.scans):
            if (
                scan["person"],
                scan["venue"],
                scan["scanned_at"] // MINUTE,
                KINDS[scan["kind"]],
            ) in self.marks:
                self.here.send(topics.SCANS, orjson.dumps(scan))

    def case(self, case_id: str, **fields: Any) -> None:
        """A case's next version: what is not given stays. `window`: (from, to), ms."""
        before = self.cases.get(case_id, {"case_id": case_id, "version": 0})
        body = before | {"status": "confirmed", "version": before["version"] + 1} | fields
        window = body.pop("window", None)
        if window is not None:
            names = ("infectious_from", "infectious_to") if "person" in body else ("from", "to")
            body |= dict(zip(names, window, strict=True))
        self.cases[case_id] = body
        self.here.send(topics.CASES, Case.model_validate(body).to_json(), case_id)

    def outdated(self, case_id: str, **fields: Any) -> None:
        """A version below the one that stands, come late: it must change nothing."""
        body = self.cases[case_id] | {"version": self.cases[case_id]["version"] - 1} | fields
        self.here.send(topics.CASES, Case.model_validate(body).to_json(), case_id)

    # --- what must stand, and what does -------------------------------------------------------

    def expected(self) -> dict[ExposureKey, Exposed]:
        """By the oracle, of everything that was told so far and of the register as it is now."""
        rows = list(self.venues.values())
        places = [{"code": venue.code, "parent": venue.parent, "dwell": venue.dwell} for venue in rows]
        (self.folder / "venues.json").write_text(json.dumps(places))
        (self.folder / "rejected.json").write_text("{}")
        none = np.array([], dtype=np.uint64)
        np.savez(self.folder / "marks.npz", person=none, venue=none, minute=none, kind=none)
        world = World(self.folder)
        world.add(self.marks)
        found: dict[ExposureKey, Exposed] = {}
        for body in self.cases.values():
            if body["status"] == "confirmed":
                found |= exposures(world, truth_of(body))
        return found

    def on_topic(self) -> Stands:
        """The last record of every exposure; versions of a key never fall."""
        return {
            (it["case_id"], it["person"], it["venue"], it["date"]): (
                it["status"],
                it["first"],
                it["last"],
                it["minutes"],
                it["version"],
            )
            for it in self.here.last(topics.EXPOSURES).values()
        }

    def in_archive(self, client: Client) -> Stands:
        """The rows of the archive's table that stand."""
        rows = client.execute(
            "SELECT case_id, lower(leftPad(hex(person), 16, '0')), venue, toString(date), status, first,"
            " last, minutes, version FROM exposures FINAL"
        )
        return {(case, who, venue, date): tuple(rest) for case, who, venue, date, *rest in rows}

    def rejected(self) -> list[str]:
        """Why scans were rejected."""
        return [
            dict(message.headers() or [])["reason"].decode()  # type: ignore[union-attr]
            for message in self.here.read(topics.SCANS_REJECTED)
        ]


def exposed(stands: Stands) -> dict[ExposureKey, Exposed]:
    """What is exposed of it, as the oracle words it."""
    return {
        key: Exposed(first, last, minutes)
        for key, (status, first, last, minutes, _) in stands.items()
        if status == "exposed"
    }


Story = Callable[[Told], Iterator[None]]
