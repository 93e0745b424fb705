"""A connection for questions to the archive."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from clickhouse_driver import Client

# An address that swallows packets: the one who asks is told so soon, not after the system's two minutes.
CONNECT_TIMEOUT_S: Final = 3
# A question that reads far too much is ended by the server itself, so that it does not run on unseen …
EXECUTION_LIMIT_S: Final = 30
# … and a server that fell silent in mid-answer is given up a little later.
ANSWER_TIMEOUT_S: Final = EXECUTION_LIMIT_S + 5


def connect(url: str) -> Client:
    """A client of the archive at clickhouse://user:password@host:port/database; it connects at first use."""
    parts = urlsplit(url)
    query = {
        "client_name": "truyvet-lookups",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "sync_request_timeout": CONNECT_TIMEOUT_S,
        "send_receive_timeout": ANSWER_TIMEOUT_S,
        "max_execution_time": EXECUTION_LIMIT_S,
        **dict(parse_qsl(parts.query)),
    }
    return Client.from_url(urlunsplit(parts._replace(query=urlencode(query))))
