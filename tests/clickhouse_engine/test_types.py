"""Values of every type go in and come out unchanged."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from clickhouse_driver import Client, errors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.clickhouse_engine.conftest import Server

SAIGON = ZoneInfo("Asia/Ho_Chi_Minh")
SAMPLES: list[tuple[str, list[Any]]] = [
    ("Int8", [-128, 127]),
    ("Int16", [-32768, 32767]),
    ("Int32", [-(2**31), 2**31 - 1]),
    ("Int64", [-(2**63), 2**63 - 1]),
    ("Int128", [-(2**127), 2**127 - 1]),
    ("Int256", [-(2**255), 2**255 - 1]),
    ("UInt8", [0, 255]),
    ("UInt16", [0, 65535]),
    ("UInt32", [0, 2**32 - 1]),
    ("UInt64", [0, 2**64 - 1]),
    ("UInt256", [0, 2**256 - 1]),
    ("Float32", [0.5, -1.25]),
    ("Float64", [0.1, -1e300]),
    ("Bool", [True, False]),
    ("String", ["", "Chợ Đông Ba", "x" * 127, "y" * 128, "z" * 20_000, "nul \0 in it"]),
    ("FixedString(4)", ["abcd", "huếx"[:2]]),
    ("UUID", [uuid.UUID(int=0), uuid.UUID("01933b5c-0000-7000-8000-0123456789ab")]),
    ("Date", [dt.date(1970, 1, 1), dt.date(2149, 6, 6)]),
    ("Date32", [dt.date(1900, 1, 1), dt.date(2299, 12, 31)]),
    ("DateTime('Asia/Ho_Chi_Minh')", [dt.datetime(2021, 1, 28, 23, 59, 59, tzinfo=SAIGON)]),
    ("DateTime64(3, 'Asia/Ho_Chi_Minh')", [dt.datetime(2021, 1, 28, 7, 0, 0, 123000, tzinfo=SAIGON)]),
    ("DateTime64(6)", [dt.datetime(2021, 1, 28, 7, 0, 0, 123456)]),  # noqa: DTZ001 (a type without a zone)
    ("Decimal(9, 2)", [Decimal("-1234567.89")]),
    ("Decimal(18, 4)", [Decimal("12345678901234.5678")]),
    ("Decimal(38, 10)", [Decimal("1234567890123456789012345678.0123456789")]),
    ("Decimal(76, 1)", [Decimal("-1.5")]),
    ("Enum8('in' = 1, 'out' = 2, 'it\\'s (a, b)' = 3)", ["in", "it's (a, b)"]),
    ("Enum16('a' = -300, 'b' = 300)", ["a", "b"]),
    ("IPv4", [IPv4Address("10.1.2.3")]),
    ("IPv6", [IPv6Address("2405:4800::1")]),
    ("Nullable(UInt32)", [None, 7, None]),
    ("Nullable(String)", ["x", None]),
    ("Array(UInt16)", [[], [1, 2, 3], []]),
    ("Array(Array(String))", [[], [[], ["a", "b"]], [["c" * 300]]]),
    ("Array(Nullable(String))", [["a", None]]),
    ("LowCardinality(String)", ["a", "b", "a", ""]),
    ("LowCardinality(Nullable(String))", ["a", None, "b", None]),
    ("Array(LowCardinality(String))", [[], ["a", "b", "a"]]),
    ("Map(String, UInt64)", [{}, {"a": 1, "b": 2}]),
    ("Map(LowCardinality(String), Array(UInt8))", [{}, {"a": [1], "b": []}]),
    ("Tuple(UInt8, String)", [(1, "a"), (2, "b")]),
    ("Tuple(LowCardinality(String), Array(UInt8))", [("a", [1, 2])]),
    ("Array(Tuple(UInt64, UInt64))", [[(1, 2), (3, 4)], []]),
    ("Point", [(1.5, 2.5)]),
    ("SimpleAggregateFunction(groupBitOr, UInt64)", [5, 2**63]),
    ("SimpleAggregateFunction(max, Nullable(DateTime))", [None]),
]


@pytest.mark.parametrize(("type_name", "values"), SAMPLES, ids=[name for name, _ in SAMPLES])
@pytest.mark.parametrize("compression", [False, True], ids=["plain", "lz4"])
def test_values_survive(
    server: Server, database: str, type_name: str, values: list[Any], compression: bool
) -> None:
    with server.client(database=database, compression=compression) as client:
        settings = {"allow_suspicious_low_cardinality_types": 1}
        client.execute(
            f"CREATE TABLE t (at UInt32, v {type_name}, last UInt8) ENGINE = MergeTree ORDER BY at",
            settings=settings,
        )
        rows = [(at, value, 1) for at, value in enumerate(values)]
        assert client.execute("INSERT INTO t VALUES", rows) == len(rows)
        columns = [list(range(100, 100 + len(values))), values, [1] * len(values)]
        assert client.execute("INSERT INTO t VALUES", columns, columnar=True) == len(rows)
        expected = [(value, 1) for value in values] * 2
        found, types = client.execute("SELECT v, last FROM t ORDER BY at", with_column_types=True)
        assert found == expected
        # The server names the inner types with one space after a comma, as the samples do
        assert types[0][1].replace(", ", ",") == type_name.replace(", ", ",") or "Decimal" in type_name


def test_nulls_and_nothing(client: Client) -> None:
    assert client.execute("SELECT NULL, [], [NULL], map(), tuple(1, 'a')") == [
        (None, [], [None], {}, (1, "a"))
    ]


def test_nested_columns(client: Client) -> None:
    client.execute("CREATE TABLE t (n Nested(a UInt8, `b c` String)) ENGINE = MergeTree ORDER BY tuple()")
    client.execute("INSERT INTO t (n.a, `n.b c`) VALUES", [([1, 2], ["x", "y"])])
    assert client.execute("SELECT n.a, n.`b c` FROM t") == [([1, 2], ["x", "y"])]


@pytest.mark.parametrize("query", ["SELECT CAST('{\"a\": 1}', 'JSON')", "SELECT sumState(1)"])
def test_a_type_without_known_length_is_refused_in_words(client: Client, query: str) -> None:
    with pytest.raises(errors.ServerException) as caught:
        client.execute(query)
    assert caught.value.code == errors.ErrorCodes.NOT_IMPLEMENTED
    assert "cast them" in str(caught.value)


ROWS = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8"), max_size=300),
        st.one_of(st.none(), st.text("abcđ", max_size=3)),
        st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=5),
        st.dictionaries(st.text("xyz", max_size=2), st.lists(st.text(max_size=140), max_size=3), max_size=3),
    ),
    max_size=40,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, block=st.integers(1, 50), compressed=st.booleans(), newest=st.booleans())
def test_any_rows_in_blocks_of_any_size(
    server: Server, rows: list[Any], block: int, compressed: bool, newest: bool
) -> None:
    """Whatever the lengths, the walker finds each block's end: at both revisions, compressed or not."""
    revision = None if newest else 54429
    options = {"settings": {"insert_block_size": block, "max_block_size": block}}
    with server.client(compression=compressed, client_revision=revision, **options) as client:
        client.execute(
            "CREATE TEMPORARY TABLE t (at UInt32, s String, l LowCardinality(Nullable(String)), "
            "a Array(Nullable(Int64)), m Map(String, Array(String))) ENGINE = Memory"
        )
        numbered = [(at, *row) for at, row in enumerate(rows)]
        client.execute("INSERT INTO t VALUES", numbered)
        assert client.execute("SELECT * FROM t ORDER BY at") == numbered


def test_a_time_zone_is_kept_in_every_database(client: Client) -> None:
    """chDB's Native output leaves it out, so the server asks for it."""
    client.execute("CREATE TABLE t (at DateTime('Asia/Ho_Chi_Minh'), x DateTime) ENGINE = Memory")
    moment = dt.datetime(2021, 1, 28, 23, 59, 59, tzinfo=SAIGON)
    client.execute("INSERT INTO t (at) VALUES", [(moment,)])
    rows, columns = client.execute("SELECT at, x FROM t", with_column_types=True)
    assert rows[0][0] == moment
    assert [kind for _, kind in columns] == ["DateTime('Asia/Ho_Chi_Minh')", "DateTime"]
