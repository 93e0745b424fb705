"""The sink's connection to ClickHouse, and what its failures mean."""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from clickhouse_driver import Client
from clickhouse_driver.errors import Error, PartiallyConsumedQueryError

# An address that swallows packets must not hold a flush for the system's two minutes.
CONNECT_TIMEOUT_S: Final = 5
# A server that took an insert and fell silent: past this it is taken for gone and the insert is repeated,
# which merges away. Longer than an insert of a whole flush into a busy server takes.
ANSWER_TIMEOUT_S: Final = 60

# What a failure of an insert means, and what is done:
#   passing        the server is away, slow, full or restarting: again, for as long as it takes
#   configuration  nothing goes in until somebody corrects something: the role ends and says what
#   content        something in the block: halved until the rows are found, see sinks/blocks.py
#   unknown        none of the lists: again several times, then as content. If the table takes no row at all,
#                  it was configuration
Meaning = Literal["passing", "configuration", "content", "unknown"]

# Numbers and names: ClickHouse, src/Common/ErrorCodes.cpp
_PASSING: Final = frozenset(
    {
        3,  # UNEXPECTED_END_OF_FILE: cut off in mid-query
        32,  # ATTEMPT_TO_READ_AFTER_EOF
        40,  # CHECKSUM_DOESNT_MATCH: damaged on its way
        101,  # UNEXPECTED_PACKET_FROM_CLIENT: after a cut
        102,  # UNEXPECTED_PACKET_FROM_SERVER
        159,  # TIMEOUT_EXCEEDED
        160,  # TOO_SLOW
        164,  # READONLY: a server that is being restored
        198,  # DNS_ERROR
        201,  # QUOTA_EXCEEDED
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        203,  # NO_FREE_CONNECTION
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
_CONFIGURATION: Final = frozenset(
    {
        7,  # INCORRECT_NUMBER_OF_COLUMNS
        8,  # THERE_IS_NO_COLUMN
        10,  # NOT_FOUND_COLUMN_IN_BLOCK
        16,  # NO_SUCH_COLUMN_IN_TABLE
        20,  # NUMBER_OF_COLUMNS_DOESNT_MATCH
        46,  # UNKNOWN_FUNCTION
        47,  # UNKNOWN_IDENTIFIER: in a view or constraint behind the table
        48,  # NOT_IMPLEMENTED
        50,  # UNKNOWN_TYPE: a server older than the tables
        60,  # UNKNOWN_TABLE
        62,  # SYNTAX_ERROR
        81,  # UNKNOWN_DATABASE
        115,  # UNKNOWN_SETTING
        192,  # UNKNOWN_USER
        193,  # WRONG_PASSWORD
        194,  # REQUIRED_PASSWORD
        195,  # IP_ADDRESS_NOT_ALLOWED
        218,  # TABLE_IS_DROPPED
        291,  # DATABASE_ACCESS_DENIED
        452,  # SETTING_CONSTRAINT_VIOLATION
        497,  # ACCESS_DENIED
        516,  # AUTHENTICATION_FAILED
    }
)
_CONTENT: Final = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT: this and the next in an expression of a constraint, column or view
        26,  # CANNOT_PARSE_QUOTED_STRING
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        38,  # CANNOT_PARSE_DATE
        41,  # CANNOT_PARSE_DATETIME
        53,  # TYPE_MISMATCH: also the driver's, for a value that the column cannot hold
        69,  # ARGUMENT_OUT_OF_BOUND
        70,  # CANNOT_CONVERT_TYPE
        72,  # CANNOT_PARSE_NUMBER
        117,  # INCORRECT_DATA
        128,  # TOO_LARGE_ARRAY_SIZE
        131,  # TOO_LARGE_STRING_SIZE
        153,  # ILLEGAL_DIVISION
        158,  # TOO_MANY_ROWS: halving cures it
        190,  # SIZES_OF_ARRAYS_DONT_MATCH
        248,  # INVALID_PARTITION_VALUE
        307,  # TOO_MANY_BYTES: halving cures it
        321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        395,  # FUNCTION_THROW_IF_VALUE_IS_NON_ZERO: what a view may check with
        407,  # DECIMAL_OVERFLOW
        469,  # VIOLATED_CONSTRAINT
        691,  # UNKNOWN_ELEMENT_OF_ENUM
    }
)
_ADVICE: Final = {
    60: "a table is gone: restore it, or empty schema_migrations so that it is made anew",
    81: "create the database, or correct TRUYVET_CLICKHOUSE",
    497: "give this user the rights to create and alter tables, to insert and to select",
    516: "correct user and password in TRUYVET_CLICKHOUSE",
}


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


def meaning(error: BaseException) -> Meaning:
    """What a failure means; see the table above. An error of Python while the driver writes a block (a number
    out of range, a text that is no UTF-8) is of its content."""
    if isinstance(error, Error):
        if isinstance(error, PartiallyConsumedQueryError) or error.code in _PASSING:
            return "passing"
        if error.code in _CONFIGURATION:
            return "configuration"
        return "content" if error.code in _CONTENT else "unknown"
    return "passing" if isinstance(error, OSError | EOFError) else "content"


def advice(error: BaseException) -> str:
    """What to do about an error that waiting does not cure."""
    return _ADVICE.get(
        getattr(error, "code", 0) or 0, "correct the cause; the supervisor starts the role again"
    )


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
