"""The sink's connection to ClickHouse, and which of its failures pass by waiting."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from clickhouse_driver import Client
from clickhouse_driver.errors import Error, PartiallyConsumedQueryError

# An address that swallows packets must not hold a flush for the system's two minutes.
CONNECT_TIMEOUT_S: Final = 5
# A server that took an insert and fell silent: past this it is taken for gone and the insert is repeated,
# which merges away. Longer than an insert of a whole flush into a busy server takes.
ANSWER_TIMEOUT_S: Final = 60

# Server error codes that say "not now": the same insert succeeds later. All others are told to people.
_PASSING_CODES: Final = frozenset(
    {
        3,  # UNEXPECTED_END_OF_FILE: cut off in mid-query
        32,  # ATTEMPT_TO_READ_AFTER_EOF
        101,  # UNEXPECTED_PACKET_FROM_CLIENT: after a cut
        159,  # TIMEOUT_EXCEEDED
        160,  # TOO_SLOW
        164,  # READONLY: a server that is being restored
        198,  # DNS_ERROR
        201,  # QUOTA_EXCEEDED
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        236,  # ABORTED: the server shuts down
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS: merges lag behind
        279,  # ALL_CONNECTION_TRIES_FAILED
        285,  # TOO_FEW_LIVE_REPLICAS
        286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
        289,  # REPLICA_IS_NOT_IN_QUORUM
        319,  # UNKNOWN_STATUS_OF_INSERT
        394,  # QUERY_WAS_CANCELLED: by the server's end
        425,  # SYSTEM_ERROR
        439,  # CANNOT_SCHEDULE_TASK
        473,  # DEADLOCK_AVOIDED
        999,  # KEEPER_EXCEPTION
    }
)


def connect(url: str) -> Client:
    """A client of the archive at clickhouse://user:password@host:port/database; it connects at first use.

    Every insert is synchronous and whole: `async_insert=0`, because an offset is committed on its answer;
    `insert_deduplicate=0`, because a block that the base table dropped as a repetition would never reach the
    table behind it; no limit on the weeks in one block, because a replay may span years.
    """
    parts = urlsplit(url)
    query = {
        "client_name": "truyvet-archive",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "sync_request_timeout": CONNECT_TIMEOUT_S,  # of the ping before a query, that finds a dead connection
        "send_receive_timeout": ANSWER_TIMEOUT_S,
        **dict(parse_qsl(parts.query)),
        "async_insert": 0,
        "insert_deduplicate": 0,
        "max_partitions_per_insert_block": 0,
    }
    return Client.from_url(urlunsplit(parts._replace(query=urlencode(query))))


def will_pass(error: BaseException) -> bool:
    """Whether waiting may cure it: the server is away, slow, full or restarting."""
    if isinstance(error, Error):
        return isinstance(error, PartiallyConsumedQueryError) or error.code in _PASSING_CODES
    return isinstance(error, OSError | EOFError)


def first_line(error: BaseException) -> str:
    """An error in one line: the server's own words without its stack trace."""
    text = (
        str(getattr(error, "message", None) or error)
        .split("Stack trace:")[0]
        .removeprefix("DB::Exception:")
        .strip()
    )
    words = (text.splitlines() or [""])[0][:500] or type(error).__name__
    return f"{words} (code {error.code})" if isinstance(error, Error) and error.code else words
