"""Saves today's contract as what later versions are compared with: schemas, and samples of every topic.

    python -m tests.compat.record v2

Done once a contract version, when a release goes out; never again for the same one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Final, get_args

import orjson

from schemas import events, topics
from schemas.departments import SECTORS, department_of
from schemas.export import export
from schemas.topics import Topic

HERE: Final = Path(__file__).parent
CODE: Final = "CDEFW"
OTHER: Final = "HJKMT"
PERSON: Final = "0123456789abcdef"
AT: Final = 1_612_769_400_000  # 2021-02-08 14:30 local


def _scans() -> Iterator[Any]:
    least: dict[str, Any] = {"scan_id": "0190163d-8694-739b-aea5-966c26f8ad91", "person": PERSON}
    least |= {"venue": CODE, "scanned_at": AT}
    yield least
    most = least | {"kind": "in", "source": "person", "party": 50, "received_at": AT, "gateway": "cổng 1"}
    yield most
    yield [most | {"kind": kind} for kind in get_args(get_args(events.Kind)[0])]
    yield [least | {"source": source} for source in get_args(get_args(events.Source)[0])]


def _visits() -> Iterator[Any]:
    for scan in _scans():
        batch = scan if isinstance(scan, list) else [scan]
        yield [
            {
                **{name: each[name] for name in ("scan_id", "person", "venue")},
                **{"hour": AT // 3_600_000, "minute": 30, "kind": each.get("kind", "in")},
                **{"source": each.get("source", "person"), "party": each.get("party", 1), "received_at": AT},
            }
            for each in batch
        ]


def _venues() -> Iterator[Any]:
    for sector in SECTORS:
        least = {"code": CODE, "name": "Chợ Đông Ba", "sector": sector, "district": "hue", "dwell": 60}
        least |= {"department": department_of(sector, "hue")}
        yield least
        yield least | {"code": OTHER, "parent": CODE, "capacity": 500, "opens": "05:00", "closes": "19:30"}
        yield least | {"lat": 16.4721, "lon": 107.5886, "closed_at": AT}


def _cases() -> Iterator[events.Case]:
    person = {"person": PERSON, "infectious_from": AT, "infectious_to": AT + 86_400_000}
    place = {"venue": CODE, "from": AT, "to": AT + 3_600_000}
    for subject in (person, place):
        for more in ({}, {"min_overlap": 15, "linger": 30}):
            for version, status in ((1, "confirmed"), (2, "withdrawn")):
                yield events.Case.model_validate(
                    {"case_id": "TTH-01.a_b", "version": version, "status": status} | subject | more
                )


def _touched() -> Iterator[Any]:
    for case in _cases():
        yield [
            events.Touched(venue=CODE, case=case),
            events.Touched(venue=CODE, case=case, persons=[PERSON], minutes=(AT // 60_000, AT // 60_000 + 5)),
        ]


def _exposures() -> Iterator[Any]:
    date = "2021-02-08"
    for status, sector in product(get_args(get_args(events.Standing)[0]), SECTORS):
        yield events.Exposure(
            exposure_id=events.exposure_id("TTH-01.a_b", PERSON, CODE, date),
            case_id="TTH-01.a_b",
            person=PERSON,
            venue=CODE,
            sector=sector,
            department=department_of(sector, "hue"),
            date=date,
            first=AT,
            last=AT + 3_600_000,
            minutes=60,
            status=status,
            case_version=1,
            evidence=4,
            version=events.exposure_version(1, 4),
        )


def _warnings() -> Iterator[Any]:
    for status in get_args(get_args(events.Standing)[0]):
        yield events.VenueWarning(
            case_id="TTH-01.a_b",
            venue=CODE,
            department="so-cong-thuong",
            date="2021-02-08",
            presences=[(AT, AT + 3_600_000)],
            contacts=0,
            status=status,
            version=2,
        )


def _rejected(reasons: tuple[str, ...], source: str) -> Iterator[dict[str, Any]]:
    for reason in reasons:
        texts = (reason, "vì sao", source, "3", "12", "0", str(AT), "1")
        yield {"headers": dict(zip(events.REJECT_HEADERS, texts, strict=True)), "value": {"scan_id": 5}}


def samples() -> dict[Topic, list[dict[str, Any]]]:
    """Records of every topic: `value`, and `headers` where the topic has them."""

    def written(values: Iterator[Any]) -> list[dict[str, Any]]:
        return [{"value": value} for value in values]

    department = {"headers": {"department": "so-cong-thuong"}}
    return {
        topics.SCANS: written(_scans()),
        topics.VISITS: written(_visits()),
        topics.VENUES: written(_venues()),
        topics.CASES: written(orjson.loads(case.to_json()) for case in _cases()),
        topics.TOUCHED: written(
            orjson.loads(events.TOUCHED.dump_json(each, by_alias=True, exclude_none=True))
            for each in _touched()
        ),
        topics.EXPOSURES: written(each.model_dump() for each in _exposures()),
        topics.VENUE_WARNINGS: [{"value": each.model_dump()} | department for each in _warnings()],
        topics.SCANS_REJECTED: list(_rejected(events.REJECT_REASONS, topics.SCANS.name)),
        topics.CASES_REJECTED: list(_rejected(get_args(events.CaseRejectReason), topics.CASES.name)),
        topics.ARCHIVE_REJECTED: list(_rejected(get_args(events.ArchiveRejectReason), topics.VISITS.name)),
    }


def main(version: str) -> None:
    """Write the folder of a contract version. Ends with a message when it is there already."""
    folder = HERE / version
    if folder.exists():
        raise SystemExit(f"{folder} is there: what was sent is not recorded anew; choose the next version")
    export(folder / "schemas")
    (folder / "samples").mkdir()
    for topic, records in samples().items():
        lines = b"".join(orjson.dumps(each) + b"\n" for each in records)
        (folder / "samples" / f"{topic.name}.jsonl").write_bytes(lines)


if __name__ == "__main__":
    main(sys.argv[1])
