"""A version beside an older one: each reads what the other writes, on every topic, `touched` too."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import orjson
import pytest

from schemas import events
from schemas.export import asyncapi, file_name, json_schemas
from schemas.topics import TOPICS
from sinks import rows
from stream_processors import validation
from stream_processors.records import Record, Records
from stream_processors.touches import read_touches
from tests.compat.differences import differences

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.iterdir() if (path / "samples").is_dir())
SHAPES = {
    "scans": "ScanRecord",
    "visits": "VisitRecord",
    "venues": "Venue",
    "cases": "Case",
    "touched": "TouchedRecord",
    "exposures": "Exposure",
    "venue-warnings": "VenueWarning",
}

# Changes that break somebody and are meant: "version Shape.field harm" → how nobody is broken (for a
# widened field: the release whose readers took it before anybody wrote it).
ACCEPTED: dict[str, str] = {}

Sample = dict[str, Any]


def samples(version: str, topic: str) -> list[Sample]:
    file = HERE / version / "samples" / f"{topic}.jsonl"
    if f'"{topic}"' not in (HERE / version / "schemas" / "asyncapi.json").read_text():
        pytest.skip(f"{version} had no such topic")
    lines = file.read_bytes().splitlines()
    return [orjson.loads(line) for line in lines]


def schema(version: str, shape: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / version / "schemas" / file_name(shape)).read_text())
    return found


def headers(sample: Sample) -> list[tuple[str, bytes]]:
    return [(name, text.encode()) for name, text in sample.get("headers", {}).items()]


# --- how each topic is read: the same functions as the roles ---------------------------------------


def _scan(sample: Sample) -> object:
    count = len(sample["value"]) if isinstance(sample["value"], list) else 1
    record = Record(orjson.dumps(sample["value"]), 0, 1_612_769_400_000, headers(sample))
    judged = validation.validate(Records.of([record]), dict.fromkeys, 30 * 86_400_000)
    assert judged.rejected == []
    scans = judged.scans
    assert len(scans) == count
    ids = scans.scan_ids, scans.persons, scans.venues, scans.scanned_at.tolist()
    return *ids, scans.kinds, scans.sources, scans.parties, scans.arrivals


def _touched(sample: Sample) -> object:
    return read_touches(orjson.dumps(sample["value"]))


def _case(sample: Sample) -> object:
    return events.Case.model_validate_json(orjson.dumps(sample["value"]))


def _archived(topic: str) -> Callable[[Sample], object]:
    def read(sample: Sample) -> object:
        taken = rows.Rows()
        value = orjson.dumps(sample["value"])
        taken.add(TOPICS[topic], rows.Record(topic, 0, 7, 1_612_769_400_000, value, headers(sample)))
        tables = dict(taken.tables())
        assert taken.broken == 0, tables
        assert tables
        if topic.endswith(".rejected"):  # the original bytes are kept, whatever they are
            tables["rejected"][-1] = []
        return tables

    return read


READERS: list[tuple[str, Callable[[Sample], object]]] = [
    ("scans", _scan),
    ("touched", _touched),
    ("cases", _case),
    *((topic.name, _archived(topic.name)) for topic in rows.TOPICS),
]
each_reader = pytest.mark.parametrize(
    ("topic", "read"), READERS, ids=lambda part: getattr(part, "__name__", part)
)
each_version = pytest.mark.parametrize("version", VERSIONS)


def with_news(value: Any) -> Any:
    """The same with a field more in every object, as a later version may write it."""
    if isinstance(value, list):
        return [with_news(item) for item in value]
    if isinstance(value, dict):
        known = {name: with_news(item) for name, item in value.items()}
        return {"a_news": {"person": 5, "deep": [None, {}]}} | known | {"z_news": "…"}
    return value


@each_version
@each_reader
def test_what_an_older_version_wrote_is_read(
    version: str, topic: str, read: Callable[[Sample], object]
) -> None:
    found = samples(version, topic)
    assert found
    for sample in found:
        assert read(sample)


@each_version
@each_reader
def test_what_a_later_version_adds_is_ignored(
    version: str, topic: str, read: Callable[[Sample], object]
) -> None:
    for sample in samples(version, topic):
        assert read(sample | {"value": with_news(sample["value"])}) == read(sample)


@each_version
def test_a_redelivered_case_does_not_contradict_itself(version: str) -> None:
    """Redis holds the JSON of a case as it was stored; an equal version must be the same bytes. So a field
    that is added to Case must default to null, which is not written."""
    lines = (HERE / version / "samples" / "cases.jsonl").read_bytes().splitlines()
    for line in lines:
        stored = line[len(b'{"value":') : -1]
        assert events.Case.model_validate_json(stored).to_json() == stored


@each_version
@pytest.mark.parametrize("shape", [*SHAPES.values(), "Touched", "ScanRejectedHeaders", "CaseRejectedHeaders"])
def test_the_contract_only_grows(version: str, shape: str) -> None:
    now = json_schemas()[shape]
    breaking = [
        str(each)
        for each in differences(shape, schema(version, shape), now)
        if f"{version} {each.field} {each.harm}" not in ACCEPTED
        # whoever reads a header takes any word: a new reason breaks nobody
        and not (shape.endswith("Headers") and each.harm == "widened")
    ]
    assert not breaking, (
        f"against {version}, this breaks a process or a partner of that version: "
        + "; ".join(breaking)
        + ". Add an optional field instead, or see ACCEPTED"
    )


@each_version
def test_topics_stay(version: str) -> None:
    """No topic is gone, none has another key or shape, `touched` has as many partitions."""
    before = json.loads((HERE / version / "schemas" / "asyncapi.json").read_text())
    now = asyncapi()
    for name, channel in before["channels"].items():
        assert name in now["channels"], f"topic {name} is gone: an older worker still reads or writes it"
        assert channel["address"] == now["channels"][name]["address"]
        for part in ("payload", "contentType"):
            old, new = (each["components"]["messages"][name].get(part) for each in (before, now))
            assert old == new, f"{name}: {part}"
        old, new = (
            each["components"]["messages"][name]["bindings"]["kafka"]["key"] for each in (before, now)
        )
        assert old == new, f"{name}: another key puts what belongs together into other partitions"
    partitions = [each["channels"]["touched"]["bindings"]["kafka"]["partitions"] for each in (before, now)]
    assert partitions[0] == partitions[1], "touched: one transactional id a partition"


@each_version
def test_the_samples_are_true_and_show_everything(version: str) -> None:
    """Each is valid by its schema of then, and together they hold every field and every word of a choice."""
    for topic, shape in SHAPES.items():
        then = schema(version, shape)
        found = samples(version, topic)
        for sample in found:
            jsonschema.validate(sample["value"], then)
        text = json.dumps(found)
        missing = [word for word in _words_of(then) if f'"{word}"' not in text]
        assert not missing, f"{topic}: no sample has {missing}"
    document = json.loads((HERE / version / "schemas" / "asyncapi.json").read_text())
    assert {channel["address"] for channel in document["channels"].values()} == {
        path.stem for path in (HERE / version / "samples").iterdir()
    }


def _words_of(schema: Any) -> Iterator[str]:
    """Names of fields and values of choices."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        yield from schema.get("enum", [])
        for name, part in schema.items():
            if name != "oneOf":
                yield from _words_of(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _words_of(part)


# --- the comparison itself: each way to break somebody is named -----------------------------------


def _changed(change: Callable[[dict[str, Any]], object]) -> list[str]:
    now = copy.deepcopy(schema("v1", "Touched"))
    change(now)
    return sorted(str(each) for each in differences("Touched", schema("v1", "Touched"), now))


def _case_of(document: dict[str, Any]) -> dict[str, Any]:
    return cast(dict[str, Any], document["$defs"]["Case"]["properties"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["properties"].pop("minutes"), "Touched.minutes removed"),
        (lambda s: s["required"].append("minutes"), "Touched.minutes narrowed: required now"),
        (lambda s: s["required"].remove("case"), "Touched.case widened: may be left out"),
        (lambda s: _case_of(s)["linger"].update(maximum=60), "Touched.case.linger narrowed: maximum was 720"),
        (
            lambda s: _case_of(s)["linger"].update(maximum=1440),
            "Touched.case.linger widened: maximum was 720",
        ),
        (lambda s: _case_of(s)["linger"].pop("minimum"), "Touched.case.linger widened: minimum was 0"),
        (
            lambda s: _case_of(s)["status"].update(enum=["confirmed"]),
            "Touched.case.status narrowed: 'withdrawn'",
        ),
        (lambda s: _case_of(s)["status"]["enum"].append("maybe"), "Touched.case.status widened: 'maybe'"),
        (lambda s: _case_of(s)["version"].update(type="string"), "Touched.case.version narrowed: integer"),
        (lambda s: s["properties"]["venue"].update(pattern="^X$"), "Touched.venue narrowed: pattern was"),
        (
            lambda s: s["properties"]["persons"]["anyOf"][0]["items"].update(pattern="^X$"),
            "Touched.persons[] narrowed: pattern was",
        ),
        (lambda s: s["properties"]["persons"]["anyOf"].pop(), "Touched.persons narrowed: null"),
        (
            lambda s: (s["properties"].update(new={"type": "string"}), s["required"].append("new")),
            "Touched.new narrowed: new and required",
        ),
        (lambda s: s.update(additionalProperties=False), "Touched narrowed: additionalProperties was None"),
    ],
)
def test_what_breaks_somebody_is_named(change: Callable[[dict[str, Any]], object], told: str) -> None:
    found = _changed(change)
    assert any(each.startswith(told) for each in found), found


def test_what_breaks_nobody_is_let_through() -> None:
    def change(document: dict[str, Any]) -> None:
        document["properties"]["new"] = {"type": "string", "default": ""}
        document["description"] = "other words"
        _case_of(document)["new"] = {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}

    assert _changed(change) == []
