"""Strictness of the events: no coercion, nothing ambiguous, unknown fields ignored."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from schemas.events import SCANS, VISITS, Case, Exposure, Touched, Venue, exposure_id, exposure_version
from schemas.problems import first_problem

PERSON = "0123456789abcdef"
CODE = "M54HV62T"


def scan(**more: Any) -> dict[str, Any]:
    return {
        "scan_id": "01951234-5678-7abc-8def-0123456789ab",
        "person": PERSON,
        "venue": CODE,
        "scanned_at": 1_612_769_400_000,
    } | more


def person_case(**more: Any) -> dict[str, Any]:
    return {
        "case_id": "2021-02-08-K5PX9",
        "version": 1,
        "status": "confirmed",
        "person": PERSON,
        "infectious_from": 1_612_400_000_000,
        "infectious_to": 1_612_769_400_000,
    } | more


def place_case(**more: Any) -> dict[str, Any]:
    return {
        "case_id": "place",
        "version": 1,
        "status": "confirmed",
        "venue": CODE,
        "from": 1_612_400_000_000,
        "to": 1_612_769_400_000,
    } | more


def venue(**more: Any) -> dict[str, Any]:
    return {
        "code": CODE,
        "name": "Chợ Đông Ba",
        "sector": "trade",
        "district": "hue",
        "department": "so-cong-thuong",
        "dwell": 120,
    } | more


def read_scan(value: object) -> Any:
    return SCANS.validate_json(json.dumps([value]))[0]


def read_case(value: object) -> Case:
    return Case.model_validate_json(json.dumps(value))


def test_scan_minimal_and_full() -> None:
    assert read_scan(scan()) == scan()
    full = scan(kind="void", source="event", party=50, received_at=1_612_769_400_500, gateway="cửa 3")
    assert read_scan(full) == full


def test_unknown_fields_are_ignored() -> None:
    assert read_scan(scan(phone="0912345678", nested={"a": [1]})) == scan()
    assert read_case(person_case(note="x")) == read_case(person_case())


@pytest.mark.parametrize("value", ["5", 5.0, 5.5, True, None, [5], -1, 2**63])
@pytest.mark.parametrize("field", ["scanned_at", "received_at", "party"])
def test_numbers_are_not_coerced(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as error:
        read_scan(scan(**{field: value}))
    assert error.value.errors()[0]["loc"] == (0, field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scan_id", "not-a-uuid"),
        ("scan_id", "01951234-5678-7abc-8def-0123456789ab\n"),
        ("person", PERSON.upper()),
        ("person", "0912345678"),
        ("person", int(PERSON[:10])),
        ("venue", "m54hv62t"),
        ("venue", "M54HV620"),
        ("venue", "CCC"),
        ("kind", "IN"),
        ("kind", None),
        ("source", "robot"),
        ("party", 0),
        ("party", 51),
        ("gateway", "x" * 65),
        ("scanned_at", 253_402_300_800_000),
    ],
)
def test_scan_fields(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as error:
        read_scan(scan(**{field: value}))
    assert error.value.errors()[0]["loc"] == (0, field)


@pytest.mark.parametrize("field", ["scan_id", "person", "venue", "scanned_at"])
def test_scan_needs(field: str) -> None:
    less = scan()
    del less[field]
    with pytest.raises(ValidationError, match="Field required"):
        read_scan(less)


def test_visit_minute() -> None:
    visit = scan(hour=447_991, minute=30, kind="in", source="person", party=1, received_at=1)
    del visit["scanned_at"]
    assert VISITS.validate_json(json.dumps([visit])) == [visit]
    with pytest.raises(ValidationError):
        VISITS.validate_json(json.dumps([visit | {"minute": 60}]))


def test_case_of_a_person_and_of_a_place() -> None:
    of_person, of_place = read_case(person_case()), read_case(place_case())
    assert (of_person.subject, of_person.start, of_person.end) == (
        PERSON,
        1_612_400_000_000,
        1_612_769_400_000,
    )
    assert (of_place.subject, of_place.start, of_place.end) == (CODE, 1_612_400_000_000, 1_612_769_400_000)
    assert (of_person.min_overlap, of_person.linger) == (1, 0)


def test_canonical_json_says_the_same_whatever_was_left_out_or_null() -> None:
    written = read_case(person_case()).to_json()
    assert written == read_case(person_case(venue=None, linger=0, other=1)).to_json()
    assert read_case(json.loads(written)) == read_case(person_case())
    assert json.loads(read_case(place_case()).to_json())["from"] == 1_612_400_000_000


@pytest.mark.parametrize(
    "value",
    [
        person_case() | place_case(),
        person_case(venue=CODE),
        person_case(to=1),
        person_case(person=None),
        place_case(**{"from": None}),
        {"case_id": "x", "version": 1, "status": "confirmed"},
    ],
)
def test_case_is_either_of_a_person_or_of_a_place(value: object) -> None:
    with pytest.raises(ValidationError, match="either person"):
        read_case(value)


@pytest.mark.parametrize("end", [1_612_400_000_000, 1_612_399_999_999])
def test_case_window_must_not_be_empty(end: int) -> None:
    with pytest.raises(ValidationError, match="infectious_from < infectious_to must hold"):
        read_case(person_case(infectious_to=end))
    with pytest.raises(ValidationError, match="from < to must hold"):
        read_case(place_case(to=end))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 0),
        ("version", 1_000_001),
        ("version", "1"),
        ("version", True),
        ("status", "maybe"),
        ("min_overlap", 0),
        ("min_overlap", 241),
        ("linger", -1),
        ("linger", 721),
        ("case_id", ""),
        ("case_id", "x" * 65),
        ("case_id", "a|b"),
        ("case_id", "ca bệnh"),
    ],
)
def test_case_fields(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as error:
        read_case(person_case(**{field: value}))
    assert error.value.errors()[0]["loc"] == (field,)


def test_venue() -> None:
    full = venue(capacity=900, opens="05:30", closes="22:00", lat=16.47, lon=107, closed_at=None)
    assert Venue.model_validate_json(json.dumps(full)).lon == 107.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"department": "so-y-te"}, "department must be so-cong-thuong"),
        ({"parent": CODE}, "not its own parent"),
        ({"code": "M54HV62C"}, "check character"),
        ({"dwell": 721}, "less than or equal to 720"),
        ({"dwell": 0}, "greater than or equal to 1"),
        ({"opens": "24:00"}, "match pattern"),
        ({"opens": "7:00"}, "match pattern"),
        ({"lat": "16.4"}, "valid number"),
        ({"lat": 91}, "less than or equal to 90"),
        ({"sector": "school"}, "Input should be"),
        ({"district": "Huế"}, "match pattern"),
        ({"name": ""}, "at least 1 character"),
    ],
)
def test_venue_fields(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Venue.model_validate_json(json.dumps(venue(**changes)))


def test_exposure_id_and_version() -> None:
    whole = hashlib.sha256(f"c1|{PERSON}|{CODE}|2021-02-08".encode()).hexdigest()
    assert exposure_id("c1", PERSON, CODE, "2021-02-08") == whole[:32]
    assert exposure_version(3, 17) == 3 * 2**32 + 17
    assert exposure_version(2, 1) > exposure_version(1, 2**32 - 1)


def test_touched_carries_the_whole_case() -> None:
    value = {"venue": CODE, "case": person_case(), "persons": [PERSON], "minutes": [1, 2]}
    touched = TypeAdapter(Touched).validate_json(json.dumps(value))
    assert touched.case == read_case(person_case()) and touched.minutes == (1, 2)


def test_exposure_numbers_are_strict() -> None:
    value = {
        "exposure_id": exposure_id("c1", PERSON, CODE, "2021-02-08"),
        "case_id": "c1",
        "person": PERSON,
        "venue": CODE,
        "sector": "trade",
        "department": "so-cong-thuong",
        "date": "2021-02-08",
        "first": 1,
        "last": 60_001,
        "minutes": 1,
        "status": "exposed",
        "case_version": 1,
        "evidence": 2,
        "version": exposure_version(1, 2),
    }
    assert Exposure.model_validate_json(json.dumps(value)).version == 2**32 + 2
    with pytest.raises(ValidationError):
        Exposure.model_validate_json(json.dumps(value | {"minutes": 1.0}))


def test_a_problem_in_words_names_the_field_and_not_the_value() -> None:
    with pytest.raises(ValidationError) as error:
        read_case(person_case(person="0912345678"))
    assert first_problem(error.value).startswith("person: ")
    assert "0912345678" not in first_problem(error.value)
    with pytest.raises(ValidationError) as error:
        read_case(person_case(infectious_to=1))
    assert first_problem(error.value) == "infectious_from < infectious_to must hold"
