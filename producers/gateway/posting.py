"""From a request's body to scans ready for the topic, each judged by itself. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import orjson
from pydantic import ValidationError

from producers.pseudonyms import pseudonym
from schemas.events import FUTURE_TOLERANCE_MS, MAX_SCANS_PER_RECORD, SCAN, SCANS, RejectReason, untimely
from schemas.qr import parse_venue
from schemas.times import MS_PER_MINUTE
from schemas.topics import DAY_MS

# The posters of a province are few, and scanned again and again. A good code is remembered as it was posted:
# at most so many of at most that length, about 10 MB.
_known_venue: Final = lru_cache(maxsize=32_768)(parse_venue)
_REMEMBERED_LENGTH: Final = 80

_SCAN_FIELDS: Final = ("scan_id", "person", "venue", "scanned_at", "kind", "source", "party")
# Until the end of 1973 in milliseconds, until the year 5138 in seconds.
_LOOKS_LIKE_SECONDS: Final = 100_000_000_000


class BodyError(ValueError):
    """The body as a whole is no scan and no list of scans; `status` is the HTTP status to answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one scan. Never holds a value: it may be somebody's."""

    index: int
    field: str
    message: str
    scan_id: str | None
    reason: RejectReason = "invalid"


@dataclass(slots=True)
class Posting:
    """The scans of one request: encoded good ones with their index and id, and the others' problems."""

    many: bool
    total: int
    scans: list[bytes] = field(default_factory=list)
    accepted: list[tuple[int, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Posted:
    """What the gateway adds to every scan of a request."""

    device: str
    received_at: int  # ms
    identity_key: bytes | None
    new_scan_id: Callable[[], str]
    retention_ms: int  # a scan from longer ago is too old


def parse_body(body: bytes) -> tuple[list[Any], bool]:
    """The scans in a body, and whether it was a list. Raises BodyError."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BodyError(400, f"the body is not JSON ({place}: {error.msg})") from None
    if isinstance(value, dict):
        return [value], False
    # no scan to judge, as in what is no JSON: a 422 always has a result for each scan
    if not isinstance(value, list):
        raise BodyError(400, "the body must be a scan (an object) or an array of scans")
    if not value:
        raise BodyError(400, "the array has no scans")
    if len(value) > MAX_SCANS_PER_RECORD:
        raise BodyError(413, f"at most {MAX_SCANS_PER_RECORD} scans a request; this one has {len(value)}")
    return value, True


def read_posting(body: bytes, posted: Posted) -> Posting:
    """Judge every scan of a body. Raises BodyError when there is none to judge."""
    items, many = parse_body(body)
    posting = Posting(many, len(items))
    problems = posting.problems
    ready: list[tuple[int, dict[str, Any]]] = []
    for index, item in enumerate(items):
        try:
            ready.append((index, _prepared(item, posted)))
        except _FieldError as error:
            problems.append(Problem(index, error.field, str(error), _named(item), error.reason))
    encoded = [orjson.dumps(scan) for _, scan in ready]
    try:
        # as JSON, so that the rules are those of the topic, to the letter; all at once, which costs least
        SCANS.validate_json(b"[%b]" % b",".join(encoded))
        found: list[Problem | None] = [None] * len(ready)
    except ValidationError:
        found = [_problem(index, text, items[index]) for (index, _), text in zip(ready, encoded, strict=True)]
    for (index, scan), text, problem in zip(ready, encoded, found, strict=True):
        wrong = problem or _untimely(index, scan["scanned_at"], items[index], posted)
        if wrong is None:
            posting.scans.append(text)
            posting.accepted.append((index, scan["scan_id"]))
        else:
            problems.append(wrong)
    return posting


def _problem(index: int, text: bytes, item: Any) -> Problem | None:
    """What the topic's rules find wrong with an encoded scan."""
    try:
        SCAN.validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in problem["loc"])
        return Problem(index, name, problem["msg"], _named(item))
    return None


def _untimely(index: int, scanned_at: int, item: Any, posted: Posted) -> Problem | None:
    """What ingest would refuse for its time, with nobody there to be told."""
    reason = untimely(scanned_at, posted.received_at, posted.retention_ms)
    if reason is None:
        return None
    if scanned_at < _LOOKS_LIKE_SECONDS:
        message = "must be Unix milliseconds: are these seconds?"
    elif reason == "too_old":
        message = f"scanned more than {posted.retention_ms // DAY_MS} days before it arrived"
    else:
        minutes = FUTURE_TOLERANCE_MS // MS_PER_MINUTE
        message = f"scanned more than {minutes} minutes after it arrived: correct the device's clock"
    return Problem(index, "scanned_at", f"{reason}: {message}", _named(item), reason)


def _named(item: Any) -> str | None:
    """The id that a scan was posted with; none when that is no id."""
    scan_id = item.get("scan_id") if isinstance(item, dict) else None
    return scan_id if isinstance(scan_id, str) and len(scan_id) <= 64 else None


class _FieldError(ValueError):
    def __init__(self, field_name: str, message: str, reason: RejectReason = "invalid") -> None:
        super().__init__(message)
        self.field = field_name
        self.reason = reason


def _prepared(item: Any, posted: Posted) -> dict[str, Any]:
    """A scan as it goes to the topic, not yet judged by the topic's rules. Raises _FieldError."""
    if not isinstance(item, dict):
        raise _FieldError("", "a scan is an object", "malformed")
    named = "person" in item or "identity" in item
    if not (named and "venue" in item and "scanned_at" in item):
        missing = [name for name in ("venue", "scanned_at") if name not in item]
        told = ", ".join(missing if named else ["person (or identity)", *missing])
        is_or_are = "are" if "," in told else "is"
        raise _FieldError(missing[0] if named else "person", f"{told} {is_or_are} missing")
    scan: dict[str, Any] = {name: item[name] for name in _SCAN_FIELDS if name in item}
    for name, value in scan.items():
        # no field holds them; nested deeply enough, one could not even be encoded
        if isinstance(value, dict | list):
            raise _FieldError(name, "must not be an object or an array")
    if "scan_id" not in scan:
        scan["scan_id"] = posted.new_scan_id()
    if "identity" in item:
        scan["person"] = _person(item, posted)
    venue = scan.get("venue")
    if isinstance(venue, str):
        try:
            scan["venue"] = _known_venue(venue) if len(venue) <= _REMEMBERED_LENGTH else parse_venue(venue)
        except ValueError:
            raise _FieldError("venue", "holds no valid venue code: mistyped?") from None
    scan["received_at"] = posted.received_at
    scan["gateway"] = posted.device
    return scan


def _person(item: dict[str, Any], posted: Posted) -> str:
    if "person" in item:
        raise _FieldError("identity", "give either person or identity, not both")
    if posted.identity_key is None:
        raise _FieldError("identity", "this gateway has no identity key (TRUYVET_IDENTITY_KEY): post person")
    identity = item["identity"]
    if not isinstance(identity, str):
        raise _FieldError("identity", "must be text")
    try:
        return pseudonym(identity, posted.identity_key)
    except ValueError as error:
        raise _FieldError("identity", str(error)) from None
