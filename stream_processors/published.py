"""Between what stands in Redis and what the topics say: both ways. Pure."""

from __future__ import annotations

from schemas.events import Case, Exposure, Venue, VenueWarning, exposure_id
from schemas.times import MS_PER_MINUTE, day_name, day_number
from stream_processors.matching import Key, Standing, Warned
from stream_processors.outputs import Out


def exposure_record(topic: str, venue: Venue, case: Case, key: Key, entry: Standing) -> Out:
    """The record that tells the world what stands of one contact on one day."""
    person, day = key
    date = day_name(day)
    identity = exposure_id(case.case_id, person, venue.code, date)
    exposure = Exposure(
        exposure_id=identity,
        case_id=case.case_id,
        person=person,
        venue=venue.code,
        sector=venue.sector,
        department=venue.department,
        date=date,
        first=entry.first * MS_PER_MINUTE,
        last=entry.last * MS_PER_MINUTE,
        minutes=entry.minutes,
        status=entry.status,
        case_version=entry.case_version,
        evidence=entry.evidence,
        version=entry.version,
    )
    return Out(topic, exposure.model_dump_json().encode(), identity.encode())


def warning_record(topic: str, venue: Venue, case: Case, day: int, entry: Warned) -> Out:
    """The record that tells the venue's department, without persons."""
    date = day_name(day)
    warning = VenueWarning(
        case_id=case.case_id,
        venue=venue.code,
        department=venue.department,
        date=date,
        presences=[(start * MS_PER_MINUTE, end * MS_PER_MINUTE) for start, end in entry.presences],
        contacts=entry.contacts,
        status=entry.status,
        version=entry.version,
    )
    key = f"{case.case_id}|{venue.code}|{date}".encode()
    return Out(topic, warning.model_dump_json().encode(), key, [("department", venue.department.encode())])


def standing_of(exposure: Exposure) -> tuple[Key, Standing]:
    """The entry that the record of an exposure was made from."""
    key = (exposure.person, day_number(exposure.date))
    first, last = exposure.first // MS_PER_MINUTE, exposure.last // MS_PER_MINUTE
    return key, Standing(exposure.version, exposure.status, first, last, exposure.minutes)


def warned_of(warning: VenueWarning) -> tuple[int, Warned]:
    """The entry that the record of a warning was made from."""
    presences = tuple((start // MS_PER_MINUTE, end // MS_PER_MINUTE) for start, end in warning.presences)
    return day_number(warning.date), Warned(warning.version, warning.status, presences, warning.contacts)
