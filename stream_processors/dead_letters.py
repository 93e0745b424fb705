"""The record that a refused one becomes: its original bytes, and in the headers why and where it stood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.topics import MOST_KEPT_BYTES
from stream_processors.outputs import Out

# What is kept of a value that is too large to be kept whole: enough to see what it was.
_SHOWN_BYTES: Final = 65_536
# A key is at most a case_id of 64 characters: of a longer one the beginning says enough.
_KEY_BYTES: Final = 1_024


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why and where. `arrival` ms; `attempts`: how often it was refused, this time included."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    index: int
    arrival: int
    attempts: int


def dead_letter(topic: str, value: bytes | None, key: bytes | None, refusal: Refusal) -> Out:
    """The record for a `*.rejected` topic.

    What came in compressed may be larger than any record may be: of such a value the beginning is kept, and
    the header `cut` says how many bytes it had. Without that the worker could never get past it.
    """
    headers = {
        "reason": refusal.reason,
        "detail": refusal.detail,
        "source-topic": refusal.topic,
        "source-partition": str(refusal.partition),
        "source-offset": str(refusal.offset),
        "source-index": str(refusal.index),
        "arrival": str(refusal.arrival),
        "attempts": str(refusal.attempts),
    }
    if value is not None and len(value) > MOST_KEPT_BYTES:
        headers["cut"] = str(len(value))
        value = value[:_SHOWN_BYTES]
    return Out(
        topic,
        value,
        None if key is None else key[:_KEY_BYTES],
        [(name, text.encode("utf-8", "replace")) for name, text in headers.items()],
    )
