"""Rows that ClickHouse refuses: found, put aside with their reason, and everything else goes in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import Error, PartiallyConsumedQueryError, ServerException
from hypothesis import given
from hypothesis import strategies as st

from schemas import topics
from schemas.kafka import headers_of
from schemas.settings import Settings
from sinks import connection
from sinks.blocks import NothingTakenError, refused_rows
from sinks.metrics import Metrics
from sinks.patience import ArchiveError, EndedError, Patience, RefusedError
from tests.sinks.test_archive import archive, clock_ms, lag, metric, publish, sink, until, visit
from tests.stream.harness import Installation

WHY = ValueError("the block")


# --- pure ---------------------------------------------------------------------------------------


@given(st.data(), st.integers(1, 300))
def test_exactly_the_bad_rows_are_found_and_all_others_are_in(data: st.DataObject, count: int) -> None:
    bad = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    into: set[int] = set()

    def attempt(low: int, high: int) -> Exception | None:
        wrong = [row for row in range(low, high) if row in bad]
        if wrong:
            return ValueError(wrong[0])
        into.update(range(low, high))
        return None

    found = refused_rows(count, WHY, attempt, lambda: True)
    assert [refusal.row for refusal in found] == sorted(bad)
    assert all(refusal.error.args == (refusal.row,) for refusal in found if count > 1)
    assert into == set(range(count)) - bad


def test_a_table_that_takes_nothing_is_not_the_rows_fault() -> None:
    with pytest.raises(NothingTakenError):
        refused_rows(8, WHY, lambda low, high: WHY, lambda: False)


def test_two_rows_that_only_together_are_refused_go_in() -> None:
    def attempt(low: int, high: int) -> Exception | None:
        return WHY if high - low > 1 else None

    assert refused_rows(8, WHY, attempt, lambda: False) == []


def test_an_unknown_failure_that_ends_in_mid_search_puts_nothing_aside() -> None:
    """It lets every row of the block down once more, alone; then the table takes rows again."""
    unknown: Exception = ServerException("?", 12345)
    failing, into = 15, set[int]()

    def attempt(low: int, high: int) -> Exception | None:
        nonlocal failing
        failing -= 1
        if failing > 0:
            return unknown
        into.update(range(low, high))
        return None

    def takes() -> bool:
        return failing < 8  # the server is back while they are asked for

    with pytest.raises(NothingTakenError):
        refused_rows(8, unknown, attempt, takes)
    failing = 4
    assert refused_rows(8, unknown, attempt, takes) == []
    assert into == set(range(8))


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ServerException("too many parts", 252), "passing"),
        (ServerException("memory", 241), "passing"),
        (ServerException("table is read only", 242), "passing"),
        (ServerException("shutting down", 236), "passing"),
        (ServerException("no space", 243), "passing"),
        (PartiallyConsumedQueryError(), "passing"),
        (ConnectionRefusedError(), "passing"),
        (EOFError(), "passing"),
        (ServerException("no table", 60), "configuration"),
        (ServerException("no rights", 497), "configuration"),
        (ServerException("constraint", 469), "content"),
        (ServerException("type mismatch", 53), "content"),
        (OverflowError("int too large"), "content"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), "content"),
        (ServerException("new in a later server", 12345), "unknown"),
    ],
)
def test_what_a_failure_means(error: BaseException, meaning: str) -> None:
    assert connection.meaning(error) == meaning


class Failing:
    """An action that fails in turn with what it is given, then works. Sleeping takes no time."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tries = 0
        self.slept = 0
        self.stop = threading.Event()
        self.counters = Metrics(clock_ms)
        self.patience = Patience(self.stop, self.counters, lambda *_: None)

    def action(self) -> None:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)

    def sleep(self, seconds: float) -> None:
        assert 0 <= seconds <= 10
        assert self.patience.waiting
        self.slept += 1

    def do(self) -> None:
        self.patience.do("insert", self.action, self.sleep)


def test_what_passes_is_tried_for_as_long_as_it_takes() -> None:
    it = Failing(*[ServerException("too many parts", 252)] * 500)
    it.do()
    assert (it.tries, it.slept, it.patience.waiting) == (501, 500, False)
    assert it.counters.retries._value.get() == 500


def test_what_nobody_knows_is_tried_several_times() -> None:
    it = Failing(*[Error("?")] * 5)
    it.do()
    assert it.tries == 6
    it = Failing(*[Error("?")] * 100)
    with pytest.raises(RefusedError):
        it.do()
    assert it.tries == 6


def test_content_and_configuration_are_not_tried_again() -> None:
    it = Failing(ServerException("constraint", 469))
    with pytest.raises(RefusedError):
        it.do()
    assert it.tries == 1
    it = Failing(ServerException("no rights", 497))
    with pytest.raises(ArchiveError, match="give this user the rights"):
        it.do()
    assert it.tries == 1


def test_the_end_is_obeyed_while_waiting() -> None:
    it = Failing(*[ConnectionRefusedError()] * 100)
    it.sleep = lambda seconds: it.stop.set()  # type: ignore[method-assign]
    with pytest.raises(EndedError):
        it.do()


# --- on the real engines --------------------------------------------------------------------------


@contextmanager
def constrained(settings: Settings, table: str, check: str) -> Iterator[Client]:
    client = connection.connect(settings.clickhouse_url)
    client.execute(f"ALTER TABLE {table} ADD CONSTRAINT of_this_test CHECK {check}")
    try:
        yield client
    finally:
        client.disconnect()


@pytest.mark.engines
def test_refused_rows_are_put_aside_and_the_others_go_in(settings: Settings) -> None:
    with sink(settings):  # makes the tables, and puts a row in
        publish(settings, topics.VISITS, orjson.dumps([visit(10**6)]))
        until(lambda: lag(settings) == 0, "the first is in")
    bad = {7, 8, 777, 1999}
    with constrained(settings, "visits", "person NOT IN (7, 8, 777, 1999)") as client:
        records = [[visit(person) for person in range(start, start + 40)] for start in range(0, 2000, 40)]
        publish(settings, topics.VISITS, *(orjson.dumps(record) for record in records))
        with sink(settings) as port:
            until(lambda: lag(settings) == 0, "all is read, what is refused too")
            assert metric(port, "truyvet_archive_bisections_total") >= 1
            assert metric(port, 'truyvet_archive_dead_lettered_total{table="visits"}') == 4
            assert metric(port, "truyvet_archive_waiting") == 0
        persons = {row[0] for row in client.execute("SELECT DISTINCT person FROM visits")}
        assert persons == set(range(2000)) - bad | {10**6}
        letters = Installation(settings, settings.data).read(topics.ARCHIVE_REJECTED)
        assert len(letters) == 4
        for letter in letters:
            headers = {name: bytes(value or b"").decode() for name, value in headers_of(letter)}
            element = orjson.loads(letter.value() or b"")
            assert int(element["person"], 16) in bad
            assert (headers["reason"], headers["attempts"]) == ("refused", "1")
            assert "of_this_test" in headers["detail"] and "469" in headers["detail"]
            assert headers["source-topic"] == settings.topic(topics.VISITS)
            # the place leads back to the element
            (source,) = [
                record
                for record in Installation(settings, settings.data).read(topics.VISITS)
                if (record.partition(), record.offset())
                == (int(headers["source-partition"]), int(headers["source-offset"]))
            ]
            assert orjson.loads(source.value() or b"")[int(headers["source-index"])] == element
        rejected = [row for row in archive(settings)["rejected"] if "refused" in row]
        assert len(rejected) == 4


@pytest.mark.engines
def test_a_rejected_table_that_refuses_too_does_not_go_round(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with sink(settings):
        publish(settings, topics.SCANS_REJECTED, b"first")
        until(lambda: lag(settings) == 0, "the tables are there, and a row")
    with constrained(settings, "rejected", "value != 'never'"):
        publish(settings, topics.SCANS_REJECTED, b"never", b"fine")
        with sink(settings) as port:
            until(lambda: "stays in its topic only" in caplog.text, "it was put aside, and refused once more")
            until(lambda: lag(settings) == 0, "it goes on")
            time.sleep(1.5)
            assert metric(port, 'truyvet_archive_dead_lettered_total{table="rejected"}') == 1
    assert len(Installation(settings, settings.data).read(topics.ARCHIVE_REJECTED)) == 1


@pytest.mark.engines
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it ends with SystemExit
def test_a_table_that_takes_nothing_ends_the_role_and_puts_nothing_aside(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with sink(settings):
        publish(settings, topics.VISITS, orjson.dumps([visit(1)]))
        until(lambda: lag(settings) == 0, "the first is in")
    with constrained(settings, "visits", "person > 1000000000"):
        publish(settings, topics.VISITS, orjson.dumps([visit(2), visit(3)]))
        with pytest.raises(SystemExit), sink(settings):
            until(lambda: "takes no row" in caplog.text, "it says so")
            raise SystemExit  # the role has ended in its thread
        assert lag(settings) > 0
    assert Installation(settings, settings.data).read(topics.ARCHIVE_REJECTED) == []
