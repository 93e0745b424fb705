"""What confluent-kafka gives, where it needs care."""

from __future__ import annotations

from operator import methodcaller
from typing import Any, Final

# Not a plain call: where a header's name is no UTF-8, the client (2.16) returns a list with holes and leaves
# its error pending, to be raised by whatever comes next. A call from C raises it at once.
_ASK: Final = methodcaller("headers")


def headers_of(message: Any) -> list[tuple[str, bytes | None]]:
    """The headers of a message; none when a name is no UTF-8, which no role of ours writes.

    Kafka allows any bytes there: one stranger's record must not end a reader.
    """
    try:
        return list(_ASK(message) or ())
    except (SystemError, UnicodeDecodeError):
        return []
