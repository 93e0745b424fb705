"""clickhouse-driver against the server: queries, inserts, settings, errors."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from clickhouse_driver import Client, dbapi, errors

from tests.clickhouse_engine.conftest import Server, wait_until


def code_of(client: Client, query: str, *args: Any, **options: Any) -> int:
    with pytest.raises(errors.ServerException) as caught:
        client.execute(query, *args, **options)
    return int(caught.value.code)


def test_an_empty_result_has_its_columns(client: Client) -> None:
    rows, columns = client.execute(
        "SELECT number AS n, toString(n) AS s FROM numbers(3) WHERE n > %(x)s -- none",
        {"x": 9},
        with_column_types=True,
    )
    assert (rows, columns) == ([], [("n", "UInt64"), ("s", "String")])


def test_a_column_may_be_called_by_a_long_list(client: Client) -> None:
    numbers = ", ".join(map(str, range(20_000)))
    rows, ((name, _),) = client.execute(f"SELECT has([{numbers}], 7)", with_column_types=True)
    assert rows == [(1,)]
    assert name == f"has([{numbers}], 7)"


def test_totals_follow_the_rows(client: Client) -> None:
    query = "SELECT number % 3 AS k, count() FROM numbers(10) GROUP BY k WITH TOTALS ORDER BY k LIMIT 2"
    assert client.execute(query) == [(0, 4), (1, 3), (0, 10)]


@pytest.mark.parametrize("compression", [False, "lz4", "lz4hc"])
def test_a_large_result_comes_in_blocks(server: Server, compression: Any) -> None:
    with server.client(compression=compression) as client:
        stream = client.execute_iter(
            "SELECT number, toString(number) FROM numbers(1000000)", settings={"max_block_size": 10_000}
        )
        assert all(row == (at, str(at)) for at, row in enumerate(stream))
        assert client.execute("SELECT 1") == [(1,)]


def test_result_order_and_progress(client: Client) -> None:
    progress = client.execute_with_progress("SELECT number FROM numbers(200000)")
    read = [rows for rows, _ in progress]
    assert 0 < read[-1] <= 200_000  # chDB keeps back what it read for the last block
    assert len(progress.get_result()) == 200_000
    assert client.last_query.profile_info.rows == 200_000


def test_insert_of_many_blocks_is_one_part(client: Client) -> None:
    client.execute("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")
    client.execute("SYSTEM STOP MERGES t")
    rows = ((at,) for at in range(50_000))
    assert client.execute("INSERT INTO t VALUES", rows, settings={"insert_block_size": 999}) == 50_000
    assert client.execute("SELECT count(), sum(a) FROM t") == [(50_000, 50_000 * 49_999 // 2)]
    assert client.execute("SELECT count() FROM system.parts WHERE database = currentDatabase()") == [(1,)]
    assert client.last_query.profile_info.rows == 1


def test_an_insert_beyond_the_write_size(client: Client) -> None:
    client.execute("CREATE TABLE t (a UInt32, s String) ENGINE = MergeTree ORDER BY a")
    rows = 1_200_000
    columns = [list(range(rows)), ["x"] * rows]
    client.execute("INSERT INTO t VALUES", columns, columnar=True, settings={"insert_block_size": 100_000})
    assert client.execute("SELECT count(), sum(a) FROM t") == [(rows, rows * (rows - 1) // 2)]


def test_inserts_in_every_form(client: Client) -> None:
    client.execute("CREATE TABLE t (a UInt32, b String DEFAULT 'd', m UInt8 MATERIALIZED 1) ENGINE = Memory")
    client.execute("INSERT INTO t (a) VALUES", [(1,)])
    client.execute("INSERT INTO t (* EXCEPT(b)) VALUES", [(2,)])
    client.execute("INSERT INTO t VALUES", [{"a": 3, "b": "x"}])
    client.execute("INSERT INTO t (b, a) SETTINGS max_threads = 1 FORMAT Native", [("y", 4)])
    client.execute("INSERT INTO t VALUES (5, 'z')")
    client.execute("INSERT INTO t SELECT 6, 'w'")
    client.execute("INSERT INTO t VALUES", [])
    expected = [(1, "d"), (2, "d"), (3, "x"), (4, "y"), (5, "z"), (6, "w")]
    assert client.execute("SELECT * FROM t ORDER BY a") == expected


def test_errors_have_the_servers_numbers(client: Client) -> None:
    assert code_of(client, "SELECT * FROM nope") == errors.ErrorCodes.UNKNOWN_TABLE
    assert code_of(client, "SELEC 1") == errors.ErrorCodes.SYNTAX_ERROR
    assert code_of(client, "SELECT 1; SELECT 2") == errors.ErrorCodes.SYNTAX_ERROR
    assert code_of(client, "SELECT nope") == errors.ErrorCodes.UNKNOWN_IDENTIFIER
    assert code_of(client, "INSERT INTO nope VALUES", [(1,)]) == errors.ErrorCodes.UNKNOWN_TABLE
    assert code_of(client, "SELECT throwIf(number = 900000) FROM numbers(1000000)") == 395
    client.execute("CREATE TABLE t (a UInt8) ENGINE = Memory")
    assert (
        code_of(client, "CREATE TABLE t (a UInt8) ENGINE = Memory") == errors.ErrorCodes.TABLE_ALREADY_EXISTS
    )
    assert code_of(client, "INSERT INTO t (b) VALUES", [(1,)]) == errors.ErrorCodes.NO_SUCH_COLUMN_IN_TABLE
    assert client.execute("SELECT 1") == [(1,)]


def test_a_write_that_fails_is_said_and_writes_nothing(client: Client) -> None:
    """chDB's own streaming insert reports success here."""
    client.execute("CREATE TABLE t (a UInt32, CONSTRAINT c CHECK a < 50) ENGINE = MergeTree ORDER BY a")
    assert code_of(client, "INSERT INTO t VALUES", [(a,) for a in range(100)]) == 469
    client.execute("CREATE TABLE s (a UInt32) ENGINE = MergeTree ORDER BY a")
    client.execute("CREATE MATERIALIZED VIEW v ENGINE = Memory AS SELECT throwIf(a = 7) AS x FROM s")
    assert code_of(client, "INSERT INTO s VALUES", [(7,)]) == 395
    assert client.execute("SELECT (SELECT count() FROM t), (SELECT count() FROM v)") == [(0, 0)]


def test_a_client_that_leaves_in_mid_insert_leaves_nothing(server: Server, client: Client) -> None:
    client.execute("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")
    database = client.execute("SELECT currentDatabase()")[0][0]

    def rows() -> Any:
        yield from ((at,) for at in range(3000))
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError), server.client(database=database) as leaving:
        leaving.execute("INSERT INTO t VALUES", rows(), settings={"insert_block_size": 1000})
    client.execute("INSERT INTO t VALUES", [(1,)])
    assert client.execute("SELECT count() FROM t") == [(1,)]


def test_parameters_on_both_sides(server: Server, client: Client) -> None:
    text = "it's\n\t\\n 'quoted' \"đặng\""
    assert client.execute("SELECT %(s)s, %(n)s", {"s": text, "n": 5}) == [(text, 5)]
    with server.client(settings={"server_side_params": True}) as other:
        found = other.execute(
            "SELECT {s:String}, {n:UInt32}, {o:Nullable(UInt8)}, {a:Array(String)}",
            {"s": text, "n": 5, "o": 6, "a": ["x", "it's"]},
        )
        assert found == [(text, 5, 6, ["x", "it's"])]
        assert other.execute("SELECT {n:UInt8} AS q WHERE {n:UInt8} = 4", {"n": 5}) == []
        assert code_of(other, "SELECT {s:String}") == 456
        assert code_of(other, "SELECT {n:UInt8}", {"n": "x"}) == 457


def test_settings_last_for_their_query(server: Server, client: Client) -> None:
    ask = "SELECT getSetting('max_threads'), getSetting('readonly'), currentDatabase()"
    usual = client.execute(ask)
    one = client.execute(ask, settings={"max_threads": 7, "readonly": 1})
    assert one == [(7, 1, usual[0][2])]
    assert client.execute(ask) == usual
    client.execute("SET max_threads = 5")
    assert client.execute("SELECT getSetting('max_threads')", settings={"max_threads": 3}) == [(3,)]
    assert client.execute("SELECT getSetting('max_threads')") == [(5,)]
    client.execute("SET max_block_size = 999", settings={"max_memory_usage": 10**9})
    assert client.execute("SELECT getSetting('max_block_size'), getSetting('max_memory_usage')") == [
        (999, 4 << 30)
    ]
    with server.client(settings={"max_threads": 4}) as other:
        assert other.execute("SELECT getSetting('max_threads')") == [(4,)]
    assert code_of(client, "SELECT 1", settings={"max_threads": "many"}) > 0
    assert code_of(client, "CREATE TABLE t (a UInt8) ENGINE = Memory", settings={"readonly": 1}) == 164


def test_unknown_settings_as_the_server_does(server: Server, client: Client) -> None:
    assert client.execute("SELECT 1", settings={"nosuch": 1}) == [(1,)]
    with server.client(settings_is_important=True) as strict:
        assert code_of(strict, "SELECT 1", settings={"nosuch": 1}) == errors.ErrorCodes.UNKNOWN_SETTING


def test_database_of_a_connection(server: Server, client: Client, database: str) -> None:
    assert client.execute("SELECT currentDatabase()") == [(database,)]
    client.execute("USE system")
    assert client.execute("SELECT currentDatabase()") == [("system",)]
    with server.client(database=database) as other:
        assert other.execute("SELECT currentDatabase()") == [(database,)]
    assert code_of(server.client(database="nosuch"), "SELECT 1") == errors.ErrorCodes.UNKNOWN_DATABASE


def test_external_tables(client: Client) -> None:
    table = {"name": "asked", "structure": [("v", "String"), ("h", "UInt32")]}
    for rows in ([("a", 1), ("b", 2)], []):
        found = client.execute(
            "SELECT v, h FROM asked ORDER BY h",
            external_tables=[{**table, "data": list(rows)}],
            settings={"readonly": 1},
        )
        assert found == rows
    assert code_of(client, "SELECT * FROM asked") == errors.ErrorCodes.UNKNOWN_TABLE


def test_statements_without_select(client: Client) -> None:
    client.execute("CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
    assert client.execute("SHOW TABLES") == [("t",)]
    assert client.execute("EXISTS t") == [(1,)]
    assert client.execute("DESCRIBE t")[0][:2] == ("a", "UInt8")
    assert client.execute("SHOW TABLES LIKE 'x'") == []
    client.execute("ALTER TABLE t ADD COLUMN b String")
    client.execute("INSERT INTO t VALUES", [(1, "x")])
    client.execute("OPTIMIZE TABLE t FINAL")
    client.execute("TRUNCATE TABLE t")
    assert client.execute("SELECT count() FROM t") == [(0,)]


def test_dbapi(server: Server, database: str) -> None:
    with dbapi.connect(f"clickhouse://default@127.0.0.1:{server.port}/{database}") as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE t (a UInt32, s String) ENGINE = Memory")
        cursor.executemany("INSERT INTO t (a, s) VALUES", [(1, "x"), (2, "y")])
        assert cursor.rowcount == 2
        cursor.execute("SELECT * FROM t WHERE a = %(a)s", {"a": 2})
        assert cursor.fetchall() == [(2, "y")]
        assert [column.name for column in cursor.description] == ["a", "s"]


@pytest.mark.parametrize("revision", [54429, 54441, 54453, 54454, 54456, 54458, 54459, 54468])
def test_each_revision(server: Server, database: str, revision: int) -> None:
    with server.client(database=database, client_revision=revision) as client:
        client.execute("CREATE TABLE t (a UInt32, s LowCardinality(String)) ENGINE = Memory")
        client.execute("INSERT INTO t VALUES", [(1, "x"), (2, "y")])
        assert client.execute("SELECT * FROM t ORDER BY a") == [(1, "x"), (2, "y")]


def test_who_is_refused(server: Server) -> None:
    assert code_of(server.client(password="x"), "SELECT 1") == 516
    assert code_of(server.client(user="root"), "SELECT 1") == 516
    assert code_of(server.client(client_revision=54420), "SELECT 1") == errors.ErrorCodes.NOT_IMPLEMENTED


def test_other_protocols_do_not_hurt(server: Server, client: Client) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\x00\x05", b""):
        with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
            raw.sendall(garbage)
            raw.shutdown(socket.SHUT_WR)
            answer = raw.recv(1000)
            assert b"DB::Exception" in answer or not answer
    assert client.execute("SELECT 1") == [(1,)]


def test_a_claimed_size_takes_no_memory(server: Server, client: Client) -> None:
    client.execute("CREATE TABLE t (s String) ENGINE = Memory")
    client.connection.force_connect()
    client.connection.send_query("INSERT INTO t VALUES")
    client.connection.send_external_tables(None)
    client.receive_sample_block()
    huge = b"\x02\x00" + b"\x00" + b"\x01\x80\x80\x80\x80\x01" + b"\x01s\x06UInt64\x00"
    client.connection.socket.sendall(huge)
    with pytest.raises(errors.ServerException) as caught:
        client.receive_end_of_query()
    assert caught.value.code == 307


def test_cancel(server: Server, client: Client) -> None:
    client.execute_with_progress(
        "SELECT count() FROM numbers(100000000000) WHERE NOT ignore(sipHash64(number))"
    )
    assert client.cancel() == []
    assert client.execute("SELECT 1") == [(1,)]


def test_a_query_ends_when_its_client_leaves(server: Server, client: Client) -> None:
    leaving = server.client()
    leaving.execute_with_progress(
        "SELECT count() FROM numbers(100000000000) WHERE NOT ignore(sipHash64(number, 77))"
    )
    running = (
        "SELECT count() FROM system.processes WHERE query LIKE '%%number, 77%%' AND query NOT LIKE '%%LIKE%%'"
    )
    wait_until(lambda: client.execute(running) == [(1,)])
    leaving.disconnect()
    wait_until(lambda: client.execute(running) == [(0,)])
