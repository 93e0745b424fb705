"""A row of the lookup audit as it stands on the topic `lookup.audit`, and the hash that chains it.

A row's `hash` is the SHA-256 of its other fields as JSON with sorted keys, `previous` (the hash of the row
before) among them: whoever changes, removes or moves a row breaks the chain at that place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, Field, StringConstraints

from schemas.events import STRICT, Millis

Step = Literal["asked", "answered", "refused"]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

GENESIS: Final = "0" * 64  # `previous` of the first row


class AuditRow(BaseModel):
    """Internal: who asked what about whom, and why (topic `lookup.audit`, one partition, kept whole).

    A lookup is two rows: `asked` before it is asked, `answered` with the number of rows before they are
    shown; `refused` when the role may not ask it.
    """

    model_config = STRICT

    seq: Annotated[int, Field(ge=1, description="1, 2, 3, … without a gap")]
    entry: Annotated[str, Field(description="a random id: the same entry is never written twice")]
    at: Millis
    who: Annotated[str, Field(description="user and host, as the asking machine says")]
    role: str
    purpose: Annotated[str, Field(description="a case id or an order number; empty: none was needed")]
    step: Step
    question: str
    arguments: dict[str, Any]
    rows: Annotated[int | None, Field(description="of the answer")] = None
    of: Annotated[int | None, Field(description="of an answer: the seq of its question")] = None
    previous: Annotated[Digest, Field(description="hash of the row before; 64 zeros for the first")]
    hash: Digest


def hash_of(fields: Mapping[str, Any]) -> str:
    """The hash that a row of these fields has (its own `hash` is left out)."""
    content = {name: value for name, value in fields.items() if name != "hash"}
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
