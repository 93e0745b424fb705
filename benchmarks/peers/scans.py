"""What the Python peers share: the checks of a scan and the shape of a visit. The rest is the framework's."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

import orjson
from pydantic import ValidationError

from schemas.events import MAX_SCANS_PER_RECORD, SCAN, SCANS, Scan, Visit

KINDS: Final = {"in": 0, "out": 64, "void": 128}


def scans_of(value: bytes | None) -> list[Scan]:
    """The valid scans of a record: one object, or an array. An invalid scan is dropped alone."""
    if not value:
        return []
    try:
        if value[:1] == b"{":
            return [SCAN.validate_json(value)]
        scans = SCANS.validate_json(value)
    except ValidationError:
        return _one_by_one(value)
    return scans if len(scans) <= MAX_SCANS_PER_RECORD else []


def _one_by_one(value: bytes) -> list[Scan]:
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(parsed, list) or len(parsed) > MAX_SCANS_PER_RECORD:
        return []
    scans = []
    for element in parsed:
        try:
            scans.append(SCAN.validate_python(element))
        except ValidationError:
            continue
    return scans


def valid_scans(values: Iterable[bytes | None]) -> list[Scan]:
    """Of many records."""
    return [scan for value in values for scan in scans_of(value)]


def bucket(scan: Scan) -> str:
    """The venue-hour that a scan belongs to."""
    return f"{scan['venue']}:{scan['scanned_at'] // 3_600_000}"


def mark(scan: Scan) -> bytes:
    """Within the bucket: who, which minute, which kind."""
    minute = scan["scanned_at"] // 60_000 % 60
    return bytes.fromhex(scan["person"]) + bytes((KINDS[scan.get("kind", "in")] | minute,))


def tag(scan: Scan) -> bytes:
    """4 bytes of the scan that made a mark."""
    return zlib.crc32(scan["scan_id"].encode()).to_bytes(4, "big")


def visit(scan: Scan, arrival: int) -> Visit:
    """What is published of a scan that is the first of its mark. `arrival`: ms, when no gateway set it."""
    hour, minute = divmod(scan["scanned_at"] // 60_000, 60)
    return {
        "scan_id": scan["scan_id"],
        "person": scan["person"],
        "venue": scan["venue"],
        "hour": hour,
        "minute": minute,
        "kind": scan.get("kind", "in"),
        "source": scan.get("source", "person"),
        "party": scan.get("party", 1),
        "received_at": scan.get("received_at", arrival),
    }
