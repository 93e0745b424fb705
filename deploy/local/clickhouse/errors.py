"""Errors as ClickHouse numbers them."""

from __future__ import annotations

import re

# ClickHouse, src/Common/ErrorCodes.cpp
CANNOT_PARSE_DATA = 33
NOT_IMPLEMENTED = 48
LOGICAL_ERROR = 49
SYNTAX_ERROR = 62
UNKNOWN_PACKET_FROM_CLIENT = 99
UNEXPECTED_PACKET_FROM_CLIENT = 101
NO_SUCH_COLUMN_IN_TABLE = 16
NUMBER_OF_COLUMNS_DOESNT_MATCH = 7
UNKNOWN_SETTING = 115
READONLY = 164
TOO_MANY_SIMULTANEOUS_QUERIES = 202
TIMEOUT_EXCEEDED = 159
TOO_LARGE_BLOCK = 307
QUERY_WAS_CANCELLED = 394
AUTHENTICATION_FAILED = 516
CLIENT_INFO_DOES_NOT_MATCH = 598
UNKNOWN_EXCEPTION = 1002

_NUMBERED = re.compile(r"Code: (\d+)\. (DB::.*)", re.DOTALL)
_VERSION = re.compile(r" \(version [^()]*\)\s*$")


class ServerError(Exception):
    """A statement failed. `code` is ClickHouse's own number, `message` what its server would say."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message if message.startswith("DB::") else f"DB::Exception: {message}"


class ProtocolError(ServerError):
    """The bytes cannot be understood; where the next packet begins is lost, so the connection ends."""


class DisconnectedError(Exception):
    """The client is gone."""


def from_engine(error: Exception) -> ServerError:
    """The server's error out of chDB's, whose text is `[prefix] Code: N. DB::Exception: … (NAME)`."""
    text = str(error)
    found = _NUMBERED.search(text)
    if found is None:
        return ServerError(UNKNOWN_EXCEPTION, text or type(error).__name__)
    code, message = int(found[1]), _VERSION.sub("", found[2])
    inner = _NUMBERED.search(message)
    if inner is not None and int(inner[1]) == code:  # chDB quotes some errors twice
        message = _VERSION.sub("", re.sub(r" \(version [^()]*\)\. \([A-Z_]+\)\s*$", "", inner[2]))
    return ServerError(code, message)
