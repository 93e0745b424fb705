"""Many clients at once: every block goes in once and every question is answered."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from clickhouse_driver import Client

from tests.clickhouse_engine.conftest import Server

pytestmark = pytest.mark.engines

_WRITERS, _BLOCKS, _ROWS = 4, 12, 20_000
# The shortest time-out of any client of ours is that of a health question, 5 s; a busy machine gets more.
_PATIENCE_S = 20


def test_questions_are_answered_while_blocks_go_in(server: Server, database: str) -> None:
    def client() -> Client:
        return server.client(database=database, send_receive_timeout=_PATIENCE_S)

    client().execute("CREATE TABLE under_load (w UInt8, n UInt64, v String) ENGINE = MergeTree ORDER BY n")
    done = threading.Event()

    def write(writer: int) -> None:
        own = client()
        for block in range(_BLOCKS):
            numbers = list(range(block * _ROWS, (block + 1) * _ROWS))
            own.execute(
                "INSERT INTO under_load VALUES",
                [[writer] * _ROWS, numbers, ["x" * 20] * _ROWS],
                columnar=True,
            )

    def ask(query: str) -> tuple[int, float]:
        own, count, longest = client(), 0, 0.0
        while not done.is_set():
            began = time.monotonic()
            assert own.execute(query)
            longest = max(longest, time.monotonic() - began)
            count += 1
        return count, longest

    with ThreadPoolExecutor(8) as pool:
        questions = [
            pool.submit(ask, query)
            for query in (
                "SELECT 1",
                "SELECT count() FROM under_load",
                "SELECT max(w), sum(n) FROM under_load",
            )
        ]
        try:
            for each in [pool.submit(write, number) for number in range(_WRITERS)]:
                each.result(120)
        finally:
            done.set()
        answered = [each.result(_PATIENCE_S) for each in questions]
    assert all(count > 5 for count, _ in answered), answered
    found = client().execute("SELECT count(), uniqExact(w, n), sum(n) FROM under_load")[0]
    total = _BLOCKS * _ROWS
    assert found == (_WRITERS * total, _WRITERS * total, _WRITERS * total * (total - 1) // 2)
