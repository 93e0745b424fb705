"""The events on the topics, as they stand in JSON.

Types are strict (no coercion: "5" is not 5) and unknown fields are ignored. Shapes that stream by the
million (scans, visits) are TypedDicts, validated a list at a time; the rare ones are frozen models.
All times are Unix milliseconds, all intervals half-open.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal, NotRequired, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from schemas.codes import CODE_PATTERN, is_code
from schemas.departments import Sector, department_of
from schemas.times import MAX_MS

STRICT: Final = ConfigDict(strict=True, extra="ignore", frozen=True)

MAX_SCANS_PER_RECORD: Final = 1_000

ScanId = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
    ),
    Field(description="UUID of the scan, UUIDv7 by preference; a retry keeps it"),
]
Person = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-f]{16}$"),
    Field(description="keyed pseudonym of a person, never a phone number"),
]
Millis = Annotated[int, Field(ge=0, le=MAX_MS, description="Unix time in milliseconds")]
# The shape alone: the check character is looked at where a code is unknown, which is rare.
CodeShape = Annotated[
    str,
    StringConstraints(pattern=CODE_PATTERN),
    Field(description="code of a venue; the last character is a Luhn mod 22 check character"),
]


def _checked(code: str) -> str:
    if not is_code(code):
        raise ValueError("the check character does not fit: a mistyped code?")
    return code


VenueCode = Annotated[CodeShape, AfterValidator(_checked)]
CaseId = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$"), Field(description="the authority's own id")
]
ClockTime = Annotated[
    str,
    StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"),
    Field(description="local time of day, HH:MM"),
]
LocalDate = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"),
    Field(description="date in Asia/Ho_Chi_Minh"),
]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]

Kind = Annotated[
    Literal["in", "out", "void"],
    Field(description="came, left, or a correction that cancels the marks of its minute"),
]
Source = Annotated[
    Literal["person", "venue", "manual", "event"],
    Field(description="the person scanned the poster, the venue scanned the card, typed in, a mass event"),
]
Party = Annotated[int, Field(ge=1, le=50, description="how many people this scan stands for; informative")]
CaseVersion = Annotated[int, Field(ge=1, le=1_000_000, description="a higher version replaces a lower one")]
Standing = Annotated[
    Literal["exposed", "withdrawn"],
    Field(description="withdrawn: it no longer holds; the other fields are the last exposed ones"),
]


@with_config(STRICT)
class Scan(TypedDict):
    """One scan, as a device or gateway posts it. Absent: kind "in", source "person", party 1."""

    scan_id: ScanId
    person: Person
    venue: CodeShape
    scanned_at: Annotated[Millis, Field(description="Unix ms by the device's clock")]
    kind: NotRequired[Kind]
    source: NotRequired[Source]
    party: NotRequired[Party]
    received_at: NotRequired[Annotated[Millis, Field(description="Unix ms, set by the gateway")]]
    gateway: NotRequired[
        Annotated[str, StringConstraints(max_length=64), Field(description="the device that posted it")]
    ]


@with_config(STRICT)
class Visit(TypedDict):
    """An accepted mark with what its scan said of it. At-least-once: the same visit may come again."""

    scan_id: ScanId
    person: Person
    venue: CodeShape
    hour: Annotated[int, Field(ge=0, description="Unix hour: ms / 3,600,000, rounded down")]
    minute: Annotated[int, Field(ge=0, le=59, description="minute in the hour")]
    kind: Kind
    source: Source
    party: Party
    received_at: Millis


class Venue(BaseModel):
    """A place with a QR poster. `dwell` (minutes) is never changed for a code once set."""

    model_config = STRICT

    code: VenueCode
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    sector: Sector
    district: Slug
    department: Annotated[Slug, Field(description="the lead department; follows from sector and district")]
    parent: Annotated[
        VenueCode | None,
        Field(description="the place this one is within: a stall's market, a ward's hospital"),
    ] = None
    dwell: Annotated[
        int,
        Field(ge=1, le=720, description="minutes that a visit lasts unless a later mark says otherwise"),
    ]
    capacity: Annotated[int, Field(ge=1, description="persons")] | None = None
    opens: ClockTime | None = None
    closes: ClockTime | None = None
    lat: Annotated[float, Field(ge=-90, le=90)] | None = None
    lon: Annotated[float, Field(ge=-180, le=180)] | None = None
    closed_at: Annotated[
        Millis | None, Field(description="Unix ms; scans from then on are refused as unknown_venue")
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.department != department_of(self.sector, self.district):
            raise ValueError(f"department must be {department_of(self.sector, self.district)}")
        if self.parent == self.code:
            raise ValueError("a venue is not its own parent")
        return self

    def open_at(self, now_ms: int) -> bool:
        """Whether it is not closed for good by then."""
        return self.closed_at is None or self.closed_at > now_ms


def _either_person_or_place(schema: dict[str, Any]) -> None:
    """Say in JSON Schema what the validator of Case says."""
    of_person, of_place = ("person", "infectious_from", "infectious_to"), ("venue", "from", "to")
    schema["oneOf"] = [
        {
            "required": list(given),
            "properties": {name: {"not": {"type": "null"}} for name in given}
            | {name: {"type": "null"} for name in absent},
        }
        for given, absent in ((of_person, of_place), (of_place, of_person))
    ]


class Case(BaseModel):
    """A confirmed person with an infectious window, or a place-time declared by the authority.

    A higher version replaces a lower one, whatever order they come in. `linger`: minutes that a place
    stays infectious after the case left it.
    """

    model_config = ConfigDict(**STRICT, populate_by_name=True, json_schema_extra=_either_person_or_place)

    case_id: CaseId
    version: CaseVersion
    status: Literal["confirmed", "withdrawn"]
    person: Person | None = None
    infectious_from: Millis | None = None
    infectious_to: Millis | None = None
    venue: VenueCode | None = None
    from_: Annotated[Millis | None, Field(alias="from")] = None
    to: Millis | None = None
    min_overlap: Annotated[int, Field(ge=1, le=240, description="minutes together to be exposed")] = 1
    linger: Annotated[
        int, Field(ge=0, le=720, description="minutes that a place stays infectious after the case left it")
    ] = 0

    @model_validator(mode="after")
    def _either_person_or_place(self) -> Self:
        of_person = (self.person, self.infectious_from, self.infectious_to)
        of_place = (self.venue, self.from_, self.to)
        if None not in of_person and of_place == (None, None, None):
            start, end, names = self.infectious_from, self.infectious_to, "infectious_from < infectious_to"
        elif None not in of_place and of_person == (None, None, None):
            start, end, names = self.from_, self.to, "from < to"
        else:
            raise ValueError("either person, infectious_from and infectious_to, or venue, from and to")
        if start is None or end is None or start >= end:
            raise ValueError(f"{names} must hold")
        return self

    @property
    def start(self) -> int:
        """Start of the window, ms."""
        start = self.infectious_from if self.person is not None else self.from_
        assert start is not None  # by the validator
        return start

    @property
    def end(self) -> int:
        """End of the window (without linger), ms."""
        end = self.infectious_to if self.person is not None else self.to
        assert end is not None  # by the validator
        return end

    @property
    def subject(self) -> str:
        """The person or venue that the case is about; it never changes between versions."""
        subject = self.person or self.venue
        assert subject is not None  # by the validator
        return subject

    def to_json(self) -> bytes:
        """The canonical JSON: two cases say the same if and only if these bytes are equal."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


class Exposure(BaseModel):
    """One contact of one case at one venue on one local date. `first`/`last` ms, `minutes` the sum."""

    model_config = STRICT

    exposure_id: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9a-f]{32}$"),
        Field(description="first 32 hex digits of SHA-256 of case|person|venue|date"),
    ]
    case_id: CaseId
    person: Person
    venue: CodeShape
    sector: Sector
    department: Slug
    date: LocalDate
    first: Annotated[Millis, Field(description="Unix ms: start of the first overlap within that date")]
    last: Annotated[Millis, Field(description="Unix ms: end of the last overlap within that date, outside")]
    minutes: Annotated[int, Field(ge=1, description="sum of the overlaps within that date")]
    status: Standing
    case_version: CaseVersion
    evidence: Annotated[int, Field(ge=0, description="marks that the computation saw; it only grows")]
    version: Annotated[
        int,
        Field(ge=1, description="case_version * 2^32 + evidence; ignore one that is not higher than yours"),
    ]


class VenueWarning(BaseModel):
    """What a department may see of a case at its own venue: no persons."""

    model_config = STRICT

    case_id: CaseId
    venue: CodeShape
    department: Slug
    date: LocalDate
    presences: Annotated[
        list[tuple[Millis, Millis]], Field(description="[start, end) of the case there, without linger")
    ]
    contacts: Annotated[int, Field(ge=0, description="how many persons were exposed; may be 0")]
    status: Standing
    version: Annotated[int, Field(ge=1, description="rises with every publication")]


class Touched(BaseModel):
    """Internal: what may have changed about one case at one venue (topic `touched`, key venue).

    `persons`: whose marks changed; none when they are the case's own, or all is to be looked at.
    `minutes`: first and last changed mark; none when every date of the case at the venue is meant. `hours`:
    hours since 1970 (UTC) in which the case's person was scanned there; none: to be looked for in the whole
    window. Whatever is scanned later is told by a touch of its own.
    """

    model_config = STRICT

    venue: CodeShape
    case: Case
    persons: list[Person] | None = None
    minutes: tuple[int, int] | None = None
    hours: list[int] | None = None


class Replayed(BaseModel):
    """Internal: dead letters that were sent once more (topic `rejected.replayed`), and by whom."""

    model_config = STRICT

    topic: Annotated[str, Field(description="the dead letters' topic, without the installation's prefix")]
    partition: Annotated[int, Field(ge=0)]
    offsets: Annotated[
        list[tuple[int, int]],
        Field(min_length=1, description="runs of their offsets: [first, past the last)"),
    ]
    counts: Annotated[dict[str, int], Field(description="how many of each reason")]
    at: Millis
    by: Annotated[str, Field(description="user and host of whoever asked for it")]


# A device's clock may be ahead by so much.
FUTURE_TOLERANCE_MS: Final = 5 * 60_000


def untimely(scanned_at: int, arrival: int, retention_ms: int) -> Literal["too_old", "in_future"] | None:
    """Why a scan cannot be taken for its time; None when it can. All ms.

    The gateway answers by it, ingest judges by it again: a scan may come by another way.
    """
    if scanned_at < arrival - retention_ms:
        return "too_old"
    return "in_future" if scanned_at > arrival + FUTURE_TOLERANCE_MS else None


RejectReason = Literal["malformed", "invalid", "unknown_venue", "too_old", "in_future", "suspect", "erased"]
REJECT_REASONS: Final[tuple[RejectReason, ...]] = (
    "malformed",
    "invalid",
    "unknown_venue",
    "too_old",
    "in_future",
    "suspect",
    "erased",
)
CaseRejectReason = Literal["malformed", "invalid", "conflict", "subject_changed", "tombstone"]
ArchiveRejectReason = Literal["refused"]
REJECT_HEADERS: Final = (
    "reason",
    "detail",
    "source-topic",
    "source-partition",
    "source-offset",
    "source-index",
    "arrival",
    "attempts",
)

SCANS: Final[TypeAdapter[list[Scan]]] = TypeAdapter(list[Scan])
SCAN: Final[TypeAdapter[Scan]] = TypeAdapter(Scan)
VISITS: Final[TypeAdapter[list[Visit]]] = TypeAdapter(list[Visit])
TOUCHED: Final[TypeAdapter[list[Touched]]] = TypeAdapter(list[Touched])


def exposure_id(case_id: str, person: str, venue: str, date: str) -> str:
    """The id of an exposure: the first 32 hex digits of SHA-256 of "case|person|venue|date"."""
    return hashlib.sha256(f"{case_id}|{person}|{venue}|{date}".encode()).hexdigest()[:32]


def exposure_version(case_version: int, evidence: int) -> int:
    """Marks only grow, so two computations for one case version are ordered by this number."""
    return (case_version << 32) + evidence
