"""The contracts as documents: a JSON Schema for every event, one AsyncAPI document for all topics.

Made from the code, so they cannot say anything else; the same code gives the same bytes. What a schema
cannot say (the check character of a code, start before end) its descriptions say.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from schemas import audit, erasure, events, topics
from schemas.events import ArchiveRejectReason, CaseRejectReason, RejectReason
from schemas.settings import Settings
from schemas.topics import Topic

# Raise the second number when a field is added, the first when a reader of the old shape would fail.
CONTRACT_VERSION: Final = "1.3.0"
ASYNCAPI_FILE: Final = "asyncapi.json"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_KAFKA_BINDING: Final = "0.5.0"

ScanRecord = Annotated[
    events.Scan | Annotated[list[events.Scan], Field(min_length=1, max_length=events.MAX_SCANS_PER_RECORD)],
    Field(
        title="ScanRecord",
        description="A record of `scans`: one scan, or an array of them, each judged alone.",
    ),
]
VisitRecord = Annotated[
    list[events.Visit], Field(title="VisitRecord", description="A record of `visits`: an array.")
]
TouchedRecord = Annotated[
    list[events.Touched],
    Field(title="TouchedRecord", description="A record of `touched`: an array, all of one venue."),
]

# every event by the name of its file, and the records that are not simply one event
SHAPES: Final[dict[str, Any]] = {
    "Scan": events.Scan,
    "ScanRecord": ScanRecord,
    "Visit": events.Visit,
    "VisitRecord": VisitRecord,
    "Venue": events.Venue,
    "Case": events.Case,
    "Exposure": events.Exposure,
    "VenueWarning": events.VenueWarning,
    "Touched": events.Touched,
    "TouchedRecord": TouchedRecord,
    "Replayed": events.Replayed,
    "AuditRow": audit.AuditRow,
    "Erased": erasure.Erased,
}
_RECORDS: Final = {"Scan": "ScanRecord", "Visit": "VisitRecord", "Touched": "TouchedRecord"}

_KEYS: Final[dict[str, str]] = {
    "code": "the venue's code",
    "case_id": "the case's id",
    "person": "the person's pseudonym",
    "venue": "the venue's code: all that concerns a venue is in one partition, in order",
    "exposure_id": "the exposure's id",
    "case_id|venue|date": "the three fields with a vertical bar between them",
}
_HEADER_WORDS: Final[dict[str, str]] = {
    "detail": "in words, what is wrong and where",
    "source-topic": "topic of the record that was refused",
    "source-partition": "its partition",
    "source-offset": "its offset",
    "source-index": "the element of its array, from 0; 0 when it was a single object",
    "arrival": "Unix ms at which it first arrived: a replay is judged by this, so its verdict is the same",
    "attempts": "how often it has been refused",
}
_DECIMAL: Final = ("source-partition", "source-offset", "source-index", "arrival", "attempts")


class _Generator(GenerateJsonSchema):
    """Without a title for every field that only repeats its name; a pair of equal items said as `items`,
    which older dialects (AsyncAPI's own is draft 07) understand too."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 (pydantic's signature)
        """Never."""
        return False

    def tuple_schema(self, schema: Any) -> JsonSchemaValue:
        """`prefixItems` of one and the same schema is `items` of a fixed length."""
        made = super().tuple_schema(schema)
        prefix = made.get("prefixItems", [])
        if prefix and all(item == prefix[0] for item in prefix):
            del made["prefixItems"]
            made["items"] = prefix[0]
        return made


def _rejected_headers(name: str, reasons: tuple[str, ...]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for header in events.REJECT_HEADERS:
        if header == "reason":
            properties[header] = {"type": "string", "enum": list(reasons)}
            continue
        properties[header] = {"type": "string", "description": _HEADER_WORDS[header]}
        if header in _DECIMAL:
            properties[header]["pattern"] = "^[0-9]+$"
    words = "bytes of the value, of which only the beginning is kept: it was too large; else absent"
    properties["cut"] = {"type": "string", "description": words, "pattern": "^[0-9]+$"}
    return {
        "title": name,
        "description": "Kafka headers of a refused record, as UTF-8 text; its value is the original bytes.",
        "type": "object",
        "properties": properties,
        "required": list(events.REJECT_HEADERS),
    }


def _header_shapes() -> dict[str, dict[str, Any]]:
    department = {"type": "string", "description": "slug of the lead department, to filter by"}
    return {
        "ScanRejectedHeaders": _rejected_headers("ScanRejectedHeaders", get_args(RejectReason)),
        "CaseRejectedHeaders": _rejected_headers("CaseRejectedHeaders", get_args(CaseRejectReason)),
        "ArchiveRejectedHeaders": _rejected_headers("ArchiveRejectedHeaders", get_args(ArchiveRejectReason)),
        "VenueWarningHeaders": {
            "title": "VenueWarningHeaders",
            "description": "Kafka headers of a venue warning, as UTF-8 text.",
            "type": "object",
            "properties": {"department": department},
            "required": ["department"],
        },
    }


_HEADERS_OF: Final = {
    topics.SCANS_REJECTED.name: "ScanRejectedHeaders",
    topics.CASES_REJECTED.name: "CaseRejectedHeaders",
    topics.ARCHIVE_REJECTED.name: "ArchiveRejectedHeaders",
    topics.VENUE_WARNINGS.name: "VenueWarningHeaders",
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """A self-contained JSON Schema (2020-12) for each shape, by name."""
    bodies = {
        name: TypeAdapter(shape).json_schema(schema_generator=_Generator) for name, shape in SHAPES.items()
    }
    return {
        name: {"$schema": _DIALECT, "$id": f"{file_name(name)}"} | body
        for name, body in (bodies | _header_shapes()).items()
    }


def file_name(shape: str) -> str:
    """ScanRecord → scan-record.schema.json."""
    words = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in shape)
    return f"{words[1:]}.schema.json"


def _components() -> dict[str, Any]:
    """All shapes in one place, referring to each other."""
    adapters = [(name, "validation", TypeAdapter(shape)) for name, shape in SHAPES.items()]
    found, definitions = TypeAdapter.json_schemas(
        adapters,  # type: ignore[arg-type]
        ref_template="#/components/schemas/{model}",
        schema_generator=_Generator,
    )
    shared: dict[str, Any] = definitions.get("$defs", {})
    named = {name: found[name, "validation"] for name in SHAPES}
    own = {name: body for name, body in named.items() if body != {"$ref": f"#/components/schemas/{name}"}}
    return dict(sorted((shared | own | _header_shapes()).items()))


def _channel(topic: Topic) -> dict[str, Any]:
    clean_up = topic.config()
    configuration: dict[str, Any] = {"cleanup.policy": [clean_up["cleanup.policy"]]}
    configuration |= {key: int(text) for key, text in clean_up.items() if key != "cleanup.policy"}
    return {
        "address": topic.name,
        "description": topic.about,
        "messages": {_message_name(topic): {"$ref": f"#/components/messages/{_message_name(topic)}"}},
        "bindings": {
            "kafka": {
                "partitions": topic.partitions,
                "topicConfiguration": configuration,
                "bindingVersion": _KAFKA_BINDING,
            }
        },
    }


def _message_name(topic: Topic) -> str:
    return topic.name.replace(".", "-")


def _message(topic: Topic) -> dict[str, Any]:
    message: dict[str, Any] = {"name": _message_name(topic), "summary": topic.about}
    if topic.value is bytes:
        message["contentType"] = "application/octet-stream"
        message["payload"] = {"description": "the original bytes of the record or of the array's element"}
    else:
        shape = str(getattr(topic.value, "__name__", ""))
        message["contentType"] = "application/json"
        message["payload"] = {"$ref": f"#/components/schemas/{_RECORDS.get(shape, shape)}"}
    if topic.headers:
        message["headers"] = {"$ref": f"#/components/schemas/{_HEADERS_OF[topic.name]}"}
    words = _KEYS[topic.key] if topic.key else "free: any key, or none"
    key = {"type": "string", "description": words} if topic.key else {"description": words}
    message["bindings"] = {"kafka": {"key": key, "bindingVersion": _KAFKA_BINDING}}
    return message


# seen from Truy vết: what others write to it, and what it writes
_RECEIVES: Final = (
    topics.SCANS,
    topics.VENUES,
    topics.CASES,
    topics.TOUCHED,
    topics.REJECTED_REPLAYED,
    topics.LOOKUP_AUDIT,
    topics.ERASED,
)
_SENDS: Final = (
    topics.LOOKUP_AUDIT,
    topics.ERASED,
    topics.REJECTED_REPLAYED,
    topics.SCANS_REJECTED,
    topics.VISITS,
    topics.CASES_REJECTED,
    topics.TOUCHED,
    topics.EXPOSURES,
    topics.VENUE_WARNINGS,
    topics.ARCHIVE_REJECTED,
)


def _operations() -> dict[str, Any]:
    return {
        f"{action}-{_message_name(topic)}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{_message_name(topic)}"},
            "messages": [{"$ref": f"#/channels/{_message_name(topic)}/messages/{_message_name(topic)}"}],
        }
        for action, group in (("receive", _RECEIVES), ("send", _SENDS))
        for topic in group
    }


def asyncapi() -> dict[str, Any]:
    """One AsyncAPI 3.0 document of every topic: messages, keys, headers, clean-up and retention."""
    declared = topics.TOPICS.values()
    port = Settings.model_fields["kafka_port"].default
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Truy vết",
            "version": CONTRACT_VERSION,
            "description": (
                "Topics of the venue check-in and contact-tracing system. JSON in UTF-8, strict types "
                '("5" is not 5, and neither is 5.0), unknown fields are ignored. Times are Unix '
                "milliseconds, intervals half-open. Where TRUYVET_TOPIC_PREFIX is set, it stands before "
                f"every address. Producers use partitioner={topics.PARTITIONER}; readers of exposures and "
                "venue-warnings read committed records only."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{kafka}",
                "protocol": "kafka",
                "description": "The installation's cluster, TRUYVET_KAFKA.",
                "variables": {"kafka": {"default": f"127.0.0.1:{port}"}},
            }
        },
        "channels": {_message_name(topic): _channel(topic) for topic in declared},
        "operations": _operations(),
        "components": {
            "schemas": _components(),
            "messages": {_message_name(topic): _message(topic) for topic in declared},
        },
    }


def documents() -> dict[str, str]:
    """The text of every file, by its name."""
    files: dict[str, Any] = {file_name(name): schema for name, schema in json_schemas().items()}
    files[ASYNCAPI_FILE] = asyncapi()
    return {name: json.dumps(body, indent=2, ensure_ascii=False) + "\n" for name, body in files.items()}


def export(folder: Path) -> list[Path]:
    """Write every document into a folder, which is made when it is not there. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in documents().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
