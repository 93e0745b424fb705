"""What the gateway takes and answers, as OpenAPI tells it."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from schemas.events import MAX_SCANS_PER_RECORD, SCAN
from schemas.times import MAX_MS


class ScanResult(BaseModel):
    """What became of one scan of the request."""

    index: int = Field(description="Place in the posted array; 0 for a single scan")
    scan_id: str | None = Field(default=None, description="As posted or given; absent when that was no id")
    accepted: bool
    reason: Literal["malformed", "invalid", "too_old", "in_future"] | None = Field(
        default=None, description="Why it is refused, in the words of the topic scans.rejected"
    )
    field: str | None = Field(default=None, description="The field that is wrong; the first of several")
    error: str | None = None


class PostAnswer(BaseModel):
    """What became of a request's scans; `results` in the order of the request."""

    accepted: int
    refused: int
    results: list[ScanResult]


class ErrorAnswer(BaseModel):
    """Why a whole request was not taken."""

    error: str


ABOUT: Final = (
    "Post scans; an answer of 2xx comes only after Kafka has acknowledged them. `accepted` means that a scan"
    " is durable, well-formed, and of a time that can be true. Whether its venue is registered is judged"
    " later: a scan of an unknown or closed venue goes to the topic scans.rejected as unknown_venue, where"
    " `truyvet rejected list` shows it."
)

_ID: Final = "01936d2e-8c5a-7b3e-9f10-2a4b6c8d0e1f"
_EXAMPLE: Final = {"scan_id": _ID, "person": "00c0ffee00c0ffee", "venue": "CDEFHJKV", "kind": "in"}
_IN: Final = {"index": 0, "scan_id": _ID, "accepted": True}
_BAD: Final = {
    "scan_id": None,
    "accepted": False,
    "reason": "invalid",
    "field": "venue",
    "error": "venue is missing",
}


def _described(
    model: Any, description: str, example: dict[str, Any], headers: dict[str, Any] | None = None
) -> dict[str, Any]:
    found = {
        "model": model,
        "description": description,
        "content": {"application/json": {"example": example}},
    }
    return found | ({"headers": headers} if headers else {})


def _refusal(description: str, message: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    return _described(ErrorAnswer, description, {"error": message}, headers)


ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    202: _described(
        PostAnswer,
        "All scans are in: Kafka has acknowledged them. Their venues are looked up later",
        {"accepted": 1, "refused": 0, "results": [_IN]},
    ),
    207: _described(
        PostAnswer,
        "Some scans are bad; the good ones are in",
        {"accepted": 1, "refused": 1, "results": [_IN, {"index": 1} | _BAD]},
    ),
    400: _refusal(
        "The body is not JSON, or holds no scan",
        "the body is not JSON (line 1, column 2: unexpected end of data)",
    ),
    401: _refusal("No key of a known device", "X-Api-Key is missing or of no known device"),
    408: _refusal("The body came too slowly", "the body did not arrive within 20 s: post it again"),
    413: _refusal("Too many scans or bytes", "at most 1000 scans a request; this one has 1001"),
    415: _refusal(
        "The body is compressed",
        "Content-Encoding is gzip: post the body uncompressed",
        {"Accept-Encoding": {"schema": {"type": "string"}, "description": "identity"}},
    ),
    422: _described(
        PostAnswer,
        "No scan is good",
        {"accepted": 0, "refused": 1, "results": [{"index": 0} | _BAD]},
    ),
    503: _refusal(
        "Kafka is away or the queue is full: post the same scans again, same scan_ids",
        "Kafka is away or too much waits: post the same scans again",
        {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}},
    ),
}
PROBES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Yes", "content": {"application/json": {"example": {"status": "ok"}}}},
    503: _refusal("No", "Kafka does not answer: Local: Broker transport failure"),
}


def body_schema(now_ms: int) -> dict[str, Any]:
    """What may be posted: the scan of the topic, but for what the gateway adds, takes and normalises.

    `now_ms`: for the examples, which would be too old some day.
    """
    example = _EXAMPLE | {"scanned_at": now_ms}
    properties = SCAN.json_schema()["properties"] | {
        "scanned_at": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_MS,
            "description": "Unix milliseconds by the device's clock. Refused: too_old, more than the"
            " retention (30 days if not set otherwise) before it came; in_future, more than 5 minutes after",
        },
        "venue": {
            "type": "string",
            "description": "The venue's code, upper or lower case, or what its QR code says",
        },
        "identity": {
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "description": "Instead of person: the gateway turns it into the pseudonym, and forgets it",
        },
    }
    for name in ("received_at", "gateway"):
        properties.pop(name)  # the gateway's own
    one = {
        "type": "object",
        "title": "Scan",
        "properties": properties,
        "required": ["venue", "scanned_at"],
        "oneOf": [{"required": ["person"]}, {"required": ["identity"]}],
    }
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_SCANS_PER_RECORD}
    content = {
        "application/json": {
            "schema": {"anyOf": [one, many]},
            "examples": {
                "one": {"summary": "One scan", "value": example},
                "many": {
                    "summary": "Several, with an identity and without a scan_id",
                    "value": [
                        example,
                        {
                            "identity": "0905 123 456",
                            "venue": "https://truyvet.example/v/CDEFHJKV",
                            "scanned_at": now_ms - 60_000,
                            "source": "venue",
                        },
                    ],
                },
            },
        }
    }
    return {"requestBody": {"required": True, "content": content}}
