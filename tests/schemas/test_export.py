"""The exported contracts: equal to the code, valid in themselves, and true of examples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from deploy.cli.schemas import commands
from schemas import topics
from schemas.events import (
    MAX_SCANS_PER_RECORD,
    REJECT_HEADERS,
    Exposure,
    Venue,
    VenueWarning,
    exposure_id,
    exposure_version,
)
from schemas.export import asyncapi, file_name, json_schemas
from tests.schemas.test_events import CODE, PERSON, person_case, place_case, scan, venue

DOCS = Path(__file__).parents[2] / "docs" / "schemas"
SCHEMAS = json_schemas()

EXPOSURE = Exposure(
    exposure_id=exposure_id("c1", PERSON, CODE, "2021-02-08"),
    case_id="c1",
    person=PERSON,
    venue=CODE,
    sector="trade",
    department="so-cong-thuong",
    date="2021-02-08",
    first=1_612_769_400_000,
    last=1_612_773_000_000,
    minutes=60,
    status="exposed",
    case_version=1,
    evidence=2,
    version=exposure_version(1, 2),
)
WARNING = VenueWarning(
    case_id="c1",
    venue=CODE,
    department="so-cong-thuong",
    date="2021-02-08",
    presences=[(1_612_769_400_000, 1_612_773_000_000)],
    contacts=0,
    status="exposed",
    version=1,
)
VISIT = scan(hour=447_991, minute=30, kind="in", source="person", party=1, received_at=1)
TOUCHED = {"venue": CODE, "case": person_case(), "persons": [PERSON]}
HEADERS = {
    "reason": "malformed",
    "detail": "not JSON",
    "source-topic": "scans",
    "source-partition": "0",
    "source-offset": "12",
    "source-index": "0",
    "arrival": "1612769400000",
    "attempts": "1",
}
REPLAYED = {
    "topic": "scans.rejected",
    "partition": 0,
    "offsets": [[3, 5]],
    "counts": {"unknown_venue": 2},
    "at": 1_612_769_400_000,
    "by": "linh@trace-1",
}
AUDITED = {
    "seq": 1,
    "entry": "0" * 32,
    "at": 1_612_769_400_000,
    "who": "linh@trace-1",
    "role": "tracer",
    "purpose": "2021-02-08-CDEFH",
    "step": "asked",
    "question": "person",
    "arguments": {"person": "00c0ffee00c0ffee"},
    "previous": "0" * 64,
    "hash": "a" * 64,
}
ERASED = {
    "person": "00c0ffee00c0ffee",
    "order": "12/QĐ",
    "before": 1_612_771_200_000,
    "until": 1_618_000_000_000,
    "at": 1_612_769_400_000,
    "by": "linh@trace-1",
}

GOOD: list[tuple[str, Any]] = [
    ("Scan", scan()),
    ("ScanRecord", scan()),
    ("ScanRecord", [scan(), scan(kind="out")]),
    ("Visit", VISIT),
    ("VisitRecord", [VISIT]),
    ("Venue", json.loads(Venue.model_validate(venue()).model_dump_json())),
    ("Case", person_case()),
    ("Case", person_case(venue=None, to=None)),
    ("Case", place_case()),
    ("Exposure", json.loads(EXPOSURE.model_dump_json())),
    ("VenueWarning", json.loads(WARNING.model_dump_json())),
    ("Touched", TOUCHED),
    ("TouchedRecord", [TOUCHED]),
    ("ScanRejectedHeaders", HEADERS),
    ("CaseRejectedHeaders", HEADERS | {"reason": "tombstone"}),
    ("ArchiveRejectedHeaders", HEADERS | {"reason": "refused"}),
    ("VenueWarningHeaders", {"department": "so-y-te"}),
    ("Replayed", REPLAYED),
    ("AuditRow", AUDITED),
    ("Erased", ERASED),
]
BAD: list[tuple[str, Any]] = [
    ("Scan", scan(person="0912345678")),
    ("Scan", scan(scanned_at="5")),
    ("ScanRecord", []),
    ("ScanRecord", [scan()] * (MAX_SCANS_PER_RECORD + 1)),
    ("Visit", VISIT | {"minute": 60}),
    ("VisitRecord", VISIT),
    ("Venue", venue(dwell=721)),
    ("Case", person_case() | place_case()),
    ("Case", person_case(person=None)),
    ("Case", {"case_id": "x", "version": 1, "status": "confirmed"}),
    ("Exposure", json.loads(EXPOSURE.model_dump_json()) | {"status": "maybe"}),
    ("VenueWarning", json.loads(WARNING.model_dump_json()) | {"presences": [[1, 2, 3]]}),
    ("Touched", {"venue": CODE}),
    ("TouchedRecord", TOUCHED),
    ("ScanRejectedHeaders", HEADERS | {"reason": "tombstone"}),
    ("ScanRejectedHeaders", HEADERS | {"source-offset": "twelve"}),
    ("ArchiveRejectedHeaders", HEADERS | {"reason": "malformed"}),
    ("CaseRejectedHeaders", {name: text for name, text in HEADERS.items() if name != "arrival"}),
    ("VenueWarningHeaders", {}),
    ("Replayed", REPLAYED | {"offsets": []}),
    ("AuditRow", AUDITED | {"hash": "a"}),
    ("Erased", ERASED | {"person": "0912345678"}),
]


def test_the_files_in_docs_are_equal_to_the_code(tmp_path: Path) -> None:
    result = CliRunner().invoke(commands, ["export", str(tmp_path / "new"), "--json"])
    assert result.exit_code == 0
    exported = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert sorted(Path(name).name for name in json.loads(result.stdout)) == sorted(exported)
    kept = {path.name: path.read_bytes() for path in DOCS.iterdir()}
    assert exported == kept, "run `make schemas` and commit docs/schemas"


def test_a_folder_that_cannot_be_made_is_a_plain_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    result = CliRunner().invoke(commands, ["export", str(file)])
    assert result.exit_code == 1
    assert "file" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_a_2020_12_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$id"] == file_name(name)
    assert SCHEMAS[name].get("description")


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_good_examples(name: str, value: Any) -> None:
    jsonschema.Draft202012Validator(SCHEMAS[name]).validate(value)


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_examples(name: str, value: Any) -> None:
    assert not jsonschema.Draft202012Validator(SCHEMAS[name]).is_valid(value)


def test_every_schema_has_a_good_and_a_bad_example() -> None:
    assert {name for name, _ in GOOD} == {name for name, _ in BAD} == set(SCHEMAS)


def refs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from refs(child)
    elif isinstance(node, list):
        for child in node:
            yield from refs(child)


def resolve(document: Any, ref: str) -> Any:
    assert ref.startswith("#/"), ref
    for part in ref[2:].split("/"):
        document = document[part]
    return document


def test_every_reference_in_asyncapi_resolves() -> None:
    document = asyncapi()
    found = list(refs(document))
    assert len(found) > 40
    for ref in found:
        assert isinstance(resolve(document, ref), dict), ref


def test_asyncapi_has_every_topic_with_its_key_and_retention() -> None:
    document = asyncapi()
    assert document["asyncapi"] == "3.0.0"
    channels = {channel["address"]: channel for channel in document["channels"].values()}
    assert set(channels) == set(topics.TOPICS)
    for topic in topics.TOPICS.values():
        kafka = channels[topic.name]["bindings"]["kafka"]
        configuration = kafka["topicConfiguration"]
        assert kafka["partitions"] == topic.partitions
        assert configuration["cleanup.policy"] == ["compact" if topic.compacted else "delete"]
        assert configuration.get("retention.ms") == (
            None if topic.compacted else topic.retention_days * 86_400_000
        )
        [ref] = [message["$ref"] for message in channels[topic.name]["messages"].values()]
        message = resolve(document, ref)
        assert ("type" in message["bindings"]["kafka"]["key"]) == (topic.key is not None)
        headers = resolve(document, message["headers"]["$ref"])["required"] if "headers" in message else []
        assert tuple(headers) == topic.headers
        if topic.value is not bytes:
            assert resolve(document, message["payload"]["$ref"])["title"]
    used = {operation["channel"]["$ref"].split("/")[-1] for operation in document["operations"].values()}
    assert used == set(document["channels"])
    assert resolve(document, "#/components/schemas/ScanRejectedHeaders")["required"] == list(REJECT_HEADERS)


@pytest.mark.parametrize(("name", "value"), [*GOOD, *BAD])
def test_asyncapi_shapes_judge_the_examples_alike(name: str, value: Any) -> None:
    whole = {"$ref": f"#/components/schemas/{name}", "components": asyncapi()["components"]}
    judged = jsonschema.Draft202012Validator(whole).is_valid(value)
    assert judged == ((name, value) in GOOD)
