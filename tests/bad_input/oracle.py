"""What must become of a record, judged by Python's own json and plain conditions: nothing of the pipeline's.

A verdict is "" for accepted, else the reason; `malformed` and `invalid` are one here, since where the one
ends is a matter of words.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from schemas.codes import is_code
from schemas.departments import SECTORS, Sector, department_of
from schemas.times import MAX_MS

Headers = Sequence[tuple[str, bytes | None]]

RETENTION_MS: Final = 30 * 86_400_000
AHEAD_MS: Final = 5 * 60_000
BAD: Final = "malformed or invalid"

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_PERSON = re.compile(r"[0-9a-f]{16}")
_CODE = re.compile(r"[CDEFHJKMPRTVWXY2345689]{4,12}")
_CASE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


# what pydantic's parser refuses though JSON has no bounds: such a record is refused, and said to be
_DEEPEST: Final = 200
_LONGEST_NUMBER: Final = 4_300


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > _LONGEST_NUMBER:
        raise ValueError("a number of too many digits")
    return int(digits)


def _long_too(digits: str) -> int | float:
    return int(digits) if len(digits.lstrip("-")) <= _LONGEST_NUMBER else math.nan


def _too_deep(found: Any) -> bool:
    level, deep = [found], 0
    while level := [
        each
        for one in level
        for each in (one if isinstance(one, list) else one.values() if isinstance(one, dict) else ())
    ]:
        deep += 1
    return deep >= _DEEPEST


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def parsed(value: bytes | None) -> Any:
    """The JSON. Raises ValueError, RecursionError."""
    if value is None:
        raise ValueError("no value")
    found = json.loads(value.decode(), parse_int=_whole, parse_constant=_no_constant)
    if b"\\u" in value:
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text
    return found


def _is(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _between(low: int, high: int | float) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


def _code(value: Any) -> bool:
    return _is(_CODE)(value) and is_code(value)


_SCAN: Final[Mapping[str, tuple[bool, Callable[[Any], bool]]]] = {
    "scan_id": (True, _is(_UUID)),
    "person": (True, _is(_PERSON)),
    "venue": (True, _is(_CODE)),
    "scanned_at": (True, _between(0, MAX_MS)),
    "kind": (False, _one_of("in", "out", "void")),
    "source": (False, _one_of("person", "venue", "manual", "event")),
    "party": (False, _between(1, 50)),
    "received_at": (False, _between(0, MAX_MS)),
    "gateway": (False, lambda value: isinstance(value, str) and len(value) <= 64),
}


def is_scan(element: Any) -> bool:
    """Whether it has the shape of a scan."""
    return isinstance(element, dict) and all(
        fits(element[name]) if name in element else not needed for name, (needed, fits) in _SCAN.items()
    )


def _number(headers: Headers, name: str) -> int | None:
    for key, value in headers:
        if key == name and value is not None and re.fullmatch(rb"[0-9]{1,15}", value):
            return int(value)
    return None


def scan_verdicts(
    value: bytes | None, headers: Headers, timestamp: int, venues: Mapping[str, int | None]
) -> list[tuple[str, Any]]:
    """(verdict, scan) of each element; one for the whole when it cannot be taken apart. `venues`: code → when
    it closed."""
    try:
        found = parsed(value)
        elements = found if isinstance(found, list) else [found]
        if not 1 <= len(elements) <= 1_000:
            return [(BAD, None)]
    except (ValueError, RecursionError):
        return _apart(value, headers, timestamp, venues)
    return [(_scan_verdict(each, headers, timestamp, venues), each) for each in elements]


def _apart(
    value: bytes | None, headers: Headers, timestamp: int, venues: Mapping[str, int | None]
) -> list[tuple[str, Any]]:
    """Of an array that as a whole is no strict JSON: NaN and half surrogates harm their element alone."""
    try:
        loose = json.loads((value or b"").decode(), parse_int=_long_too)
    except (ValueError, RecursionError):
        return [(BAD, None)]
    if not isinstance(loose, list) or not 1 <= len(loose) <= 1_000:
        return [(BAD, None)]
    verdicts: list[tuple[str, Any]] = []
    for each in loose:
        try:
            again = json.dumps(each, ensure_ascii=False, allow_nan=False).encode()
            verdict = _scan_verdict(parsed(again), headers, timestamp, venues)
        except (ValueError, RecursionError):
            verdict = BAD
        verdicts.append((verdict, each))
    return verdicts


def _scan_verdict(element: Any, headers: Headers, timestamp: int, venues: Mapping[str, int | None]) -> str:
    if not is_scan(element) or _too_deep(element):
        return BAD
    arrival = element.get("received_at")
    if arrival is None:
        arrival = _number(headers, "arrival")
    if arrival is None:
        arrival = max(0, timestamp)
    at, code = element["scanned_at"], element["venue"]
    if code not in venues:
        return "unknown_venue" if is_code(code) else BAD
    closed = venues[code]
    if closed is not None and at >= closed:
        return "unknown_venue"
    if at < arrival - RETENTION_MS:
        return "too_old"
    return "in_future" if at > arrival + AHEAD_MS else ""


def attempts(headers: Headers) -> int:
    """What the header of a rejected record must say."""
    return (_number(headers, "attempts") or 0) + 1


def case_verdict(key: bytes | None, value: bytes | None) -> str:
    """Of a record in `cases` whose case_id is in no other record."""
    if value is None:
        return "tombstone"
    try:
        found = parsed(value)
    except (ValueError, RecursionError):
        return BAD
    if not isinstance(found, dict) or _too_deep(found):
        return BAD
    given = {name: each for name, each in found.items() if each is not None}
    optional = {"min_overlap": _between(1, 240), "linger": _between(0, 720)}
    fits = (
        _is(_CASE)(found.get("case_id"))
        and _between(1, 1_000_000)(found.get("version"))
        and found.get("status") in ("confirmed", "withdrawn")
        and all(name not in found or good(found[name]) for name, good in optional.items())
        and _window(given)
        and key == found["case_id"].encode()
    )
    return "" if fits else BAD


def _window(given: Mapping[str, Any]) -> bool:
    of_person = {"person", "infectious_from", "infectious_to"} & given.keys()
    of_place = {"venue", "from", "to"} & given.keys()
    if (len(of_person), len(of_place)) == (3, 0):
        start, end, about = given["infectious_from"], given["infectious_to"], _is(_PERSON)(given["person"])
    elif (len(of_person), len(of_place)) == (0, 3):
        start, end, about = given["from"], given["to"], _code(given["venue"])
    else:
        return False
    moment = _between(0, MAX_MS)
    return bool(about and moment(start) and moment(end) and start < end)


def is_venue(value: bytes | None) -> bool:
    """Whether a record in `venues` is a venue."""
    try:
        found = parsed(value)
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict) or _too_deep(found):
        return False

    def number(name: str, low: float, high: float) -> bool:
        each = found.get(name)
        return each is None or (type(each) in (int, float) and low <= each <= high)

    def maybe(name: str, fits: Callable[[Any], bool]) -> bool:
        return found.get(name) is None or fits(found[name])

    name, sector, district = found.get("name"), found.get("sector"), found.get("district")
    words = isinstance(name, str) and 1 <= len(name) <= 200 and isinstance(sector, str) and sector in SECTORS
    if not words or not _is(_SLUG)(district) or len(str(district)) > 64:
        return False
    department = department_of(cast(Sector, sector), str(district))
    return bool(
        _code(found.get("code"))
        and found.get("department") == department
        and maybe("parent", _code)
        and found.get("parent") != found["code"]
        and _between(1, 720)(found.get("dwell"))
        and maybe("capacity", _between(1, float("inf")))
        and maybe("opens", _is(_CLOCK))
        and maybe("closes", _is(_CLOCK))
        and number("lat", -90, 90)
        and number("lon", -180, 180)
        and maybe("closed_at", _between(0, MAX_MS))
    )
