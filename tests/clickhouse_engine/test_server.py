"""The process: several clients, restart, a kill, limits, a folder in use."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clickhouse_driver import Client, errors

from tests.clickhouse_engine.conftest import Server, wait_until


def test_clients_at_once(server: Server, database: str) -> None:
    def work(number: int) -> int:
        with server.client(database=database, compression=bool(number % 2)) as client:
            for at in range(10):
                client.execute("INSERT INTO t VALUES", [(number, at)])
                client.execute(f"SELECT max(a) FROM t WHERE n = {number}")
            return int(client.execute(f"SELECT count() FROM t WHERE n = {number}")[0][0])

    with server.client(database=database) as client:
        client.execute("CREATE TABLE t (n UInt32, a UInt32) ENGINE = MergeTree ORDER BY n")
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [10] * 6


def test_a_slow_query_or_reader_does_not_block_others(server: Server, client: Client) -> None:
    slow = server.client()
    thread = threading.Thread(target=lambda: slow.execute("SELECT sleep(2)"))
    reader = server.client()
    rows = reader.execute_iter("SELECT number, repeat('x', 1000) FROM numbers(300000)")
    next(rows)  # hundreds of megabytes are still to come, and nobody reads them
    thread.start()
    started = time.monotonic()
    for _ in range(20):
        assert client.execute("SELECT 1") == [(1,)]
    assert time.monotonic() - started < 1.5
    assert thread.is_alive()
    thread.join()
    assert sum(1 for _ in rows) == 299_999
    reader.disconnect()
    slow.disconnect()


def test_more_queries_than_turns_wait(server: Server) -> None:
    def nap(_: int) -> int:
        with server.client() as client:
            return int(client.execute("SELECT sleep(0.3)")[0][0])

    with ThreadPoolExecutor(20) as pool:  # the server takes 8 at once
        assert list(pool.map(nap, range(20))) == [0] * 20


def test_restart_keeps_the_data(own_server: Server) -> None:
    own_server.start()
    with own_server.client() as client:
        client.execute("CREATE DATABASE d")
        client.execute("CREATE TABLE d.t (a UInt32) ENGINE = MergeTree ORDER BY a")
        client.execute("INSERT INTO d.t VALUES", [(a,) for a in range(1000)])
    assert own_server.stop() == 0
    own_server.start()
    with own_server.client(database="d") as client:
        assert client.execute("SELECT count(), sum(a) FROM t") == [(1000, 499_500)]
    assert own_server.stop(signal.SIGINT) == 0


def test_new_tables_have_small_granules_and_old_ones_keep_theirs(own_server: Server) -> None:
    own_server.start()
    with own_server.client() as client:
        client.execute("CREATE TABLE new (a UInt64) ENGINE = MergeTree ORDER BY a")
        client.execute(
            "CREATE TABLE old (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS index_granularity = 8192"
        )
    own_server.stop()
    own_server.start()
    with own_server.client() as client:
        for table, granule in (("new", 1024), ("old", 8192)):
            client.execute(f"INSERT INTO {table} SELECT number FROM numbers(8192)")
            ((marks,),) = client.execute(
                "SELECT sum(marks) FROM system.parts WHERE active AND table = %(table)s", {"table": table}
            )
            assert marks == 8192 // granule + 1


def test_a_kill_loses_nothing_acknowledged(own_server: Server) -> None:
    own_server.start()
    acknowledged = 0
    writing = own_server.client()
    writing.execute("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")

    def write() -> None:
        nonlocal acknowledged
        try:
            while True:
                writing.execute("INSERT INTO t VALUES", [(acknowledged + a,) for a in range(100)])
                acknowledged += 100
        except (EOFError, OSError, errors.Error):
            return

    thread = threading.Thread(target=write)
    thread.start()
    wait_until(lambda: acknowledged >= 2000, 30)
    own_server.stop(signal.SIGKILL)
    thread.join()
    own_server.start()
    with own_server.client() as client:
        count, distinct, highest = client.execute("SELECT count(), uniqExact(a), max(a) FROM t")[0]
    # the insert that was under way may be there or not, but whole
    assert count in {acknowledged, acknowledged + 100}
    assert (distinct, highest) == (count, count - 1)


def test_the_end_waits_for_running_statements(own_server: Server) -> None:
    own_server.start()
    answers: list[object] = []
    busy, idle = own_server.client(), own_server.client()
    idle.execute("SELECT 1")
    thread = threading.Thread(target=lambda: answers.append(busy.execute("SELECT sleep(1.5)")))
    thread.start()
    with own_server.client() as client:
        wait_until(
            lambda: client.execute("SELECT count() FROM system.processes WHERE query LIKE '%%1.5)'") != [(0,)]
        )
    assert own_server.stop() == 0
    thread.join()
    assert answers == [[(0,)]]


def test_the_end_does_not_wait_for_ever(own_server: Server) -> None:
    own_server.start("--grace", "0.5")
    busy = own_server.client()
    busy.execute_with_progress(
        "SELECT count() FROM numbers(100000000000) WHERE NOT ignore(sipHash64(number))"
    )
    time.sleep(0.3)
    started = time.monotonic()
    assert own_server.stop() == 0
    assert time.monotonic() - started < 5


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.local.clickhouse", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_folder_in_use_is_refused(server: Server) -> None:
    assert server.process is not None
    second = _run("--port", "0", "--data", str(server.data))
    assert second.returncode == 2
    assert f"in use by process {server.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr


def test_an_address_in_use_is_refused(server: Server, tmp_path: Path) -> None:
    second = _run("--port", str(server.port), "--data", str(tmp_path))
    assert second.returncode == 2
    assert "cannot listen" in second.stderr


def test_other_machines_need_a_password(tmp_path: Path) -> None:
    refused = _run("--host", "0.0.0.0", "--port", "0", "--data", str(tmp_path))
    assert refused.returncode == 2
    assert "not a loopback address" in refused.stderr


def test_password(own_server: Server) -> None:
    own_server.start("--password", "đúng")
    with own_server.client(password="đúng") as client:
        assert client.execute("SELECT 1") == [(1,)]
    with pytest.raises(errors.ServerException) as caught:
        own_server.client(password="sai").execute("SELECT 1")
    assert caught.value.code == 516
