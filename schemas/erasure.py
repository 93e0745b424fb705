"""A person whose data was erased: an entry of the compacted topic `erased`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, Field

from schemas.events import STRICT, Millis, Person

HOUR_MS: Final = 3_600_000


class Erased(BaseModel):
    """Internal: scans of a person from before an hour are refused, so that nothing brings them back."""

    model_config = STRICT

    person: Person
    order: Annotated[str, Field(description="the number of the order to erase")]
    before: Annotated[Millis, Field(description="scans of earlier times are refused; a full hour")]
    until: Annotated[Millis, Field(description="from then on no such scan could be accepted anyway")]
    at: Millis
    by: Annotated[str, Field(description="user and host of whoever did it")]

    @property
    def last_hour(self) -> int:
        """The last hour (hours since 1970) whose marks are refused."""
        return self.before // HOUR_MS - 1
