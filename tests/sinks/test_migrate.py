"""Migrations: order, refusals, and the real engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from clickhouse_driver import Client

from schemas.settings import Settings
from sinks.connection import connect
from sinks.migrate import Migration, MigrationError, load, migrate, pending
from sinks.retention import keep_for

ONE = "-- a table; with a semicolon in its comment\nCREATE TABLE IF NOT EXISTS one (a UInt8) ENGINE = Log;\n"
TWO = """CREATE TABLE IF NOT EXISTS two (a UInt8)
ENGINE = Log;

ALTER TABLE one COMMENT COLUMN IF EXISTS a 'b';
"""


def clock_ms() -> int:
    return 1_600_000_000_123


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / f"{name.removeprefix('m')}.sql").write_text(text)
    return path


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    client = connect(settings.clickhouse_url)
    yield client
    client.disconnect()


def test_files_are_read_in_order_and_split_into_statements(tmp_path: Path) -> None:
    first, second = load(folder(tmp_path, m0002_two=TWO, m0001_one=ONE))
    assert (first.number, first.name, len(first.statements)) == (1, "one", 1)
    assert (second.number, len(second.statements)) == (2, 2)
    assert first.statements[0].startswith("CREATE TABLE")
    # the line ends of a checkout on another system are no change
    (tmp_path / "0001_one.sql").write_bytes(ONE.replace("\n", "\r\n").encode())
    assert load(tmp_path)[0].checksum == first.checksum


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"m0001_one": ONE, "m0003_two": TWO}, "0002 is missing"),
        ({"m0002_two": TWO}, "0001 is missing"),
        ({"m0001_one": ONE, "m0001_two": TWO}, "0001 is there twice"),
        ({"m1_one": ONE}, "NNNN_what_it_does"),
        ({"m0001_one": "INSERT INTO one VALUES (1);"}, "cannot be carried out twice"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, files: dict[str, str], told: str) -> None:
    with pytest.raises(MigrationError, match=told):
        load(folder(tmp_path, **files))


def test_what_is_applied_must_be_an_earlier_state() -> None:
    known = [Migration(number, f"m{number}", f"sum{number}", ()) for number in (1, 2, 3)]
    assert [m.number for m in pending(known, [(1, "m1", "sum1")])] == [2, 3]
    with pytest.raises(MigrationError, match="0002_m2 was changed"):
        pending(known, [(1, "m1", "sum1"), (2, "m2", "other")])
    with pytest.raises(MigrationError, match="older than the archive"):
        pending(known, [(4, "m4", "sum4")])
    with pytest.raises(MigrationError, match="0002"):
        pending(known, [(1, "m1", "sum1"), (3, "m3", "sum3")])


def test_the_projects_own_files_are_sound() -> None:
    assert [migration.number for migration in load()] == list(range(1, len(load()) + 1))


@pytest.mark.engines
def test_applied_once_and_a_changed_file_is_refused(client: Client, tmp_path: Path) -> None:
    folder(tmp_path, m0001_one=ONE)
    assert [m.name for m in migrate(client, clock_ms, tmp_path)] == ["one"]
    assert migrate(client, clock_ms, tmp_path) == []
    folder(tmp_path, m0002_two=TWO)
    assert [m.name for m in migrate(client, clock_ms, tmp_path)] == ["two"]
    assert {name for (name,) in client.execute("SHOW TABLES")} == {"one", "two", "schema_migrations"}
    folder(tmp_path, m0001_one=ONE + "-- an afterthought\n")
    with pytest.raises(MigrationError, match="0001_one was changed"):
        migrate(client, clock_ms, tmp_path)
    (tmp_path / "0002_two.sql").unlink()
    folder(tmp_path, m0001_one=ONE)
    with pytest.raises(MigrationError, match="older than the archive"):
        migrate(client, clock_ms, tmp_path)


@pytest.mark.engines
def test_one_cut_off_half_way_is_carried_out_again(client: Client, tmp_path: Path) -> None:
    folder(tmp_path, m0001_one=ONE)
    client.execute(load(tmp_path)[0].statements[0])
    assert [m.name for m in migrate(client, clock_ms, tmp_path)] == ["one"]


@pytest.mark.engines
def test_two_sinks_may_start_at_once(settings: Settings) -> None:
    failed: list[Exception] = []
    together = threading.Barrier(3)

    def start() -> None:
        client = connect(settings.clickhouse_url)
        together.wait(30)
        try:
            migrate(client, clock_ms)
        except Exception as error:
            failed.append(error)
        client.disconnect()

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    client = connect(settings.clickhouse_url)
    applied = client.execute("SELECT DISTINCT number FROM schema_migrations ORDER BY number")
    assert [number for (number,) in applied] == [migration.number for migration in load()]
    client.disconnect()


@pytest.mark.engines
def test_retention_is_put_on_every_table_that_names_persons_and_follows_the_setting(client: Client) -> None:
    migrate(client, clock_ms)
    tables = {"visits", "visits_by_person", "exposures", "venue_warnings", "rejected"}
    assert set(keep_for(client, 400)) == tables
    assert keep_for(client, 400) == []
    hour = int(time.time()) // 3_600 - 500 * 24
    row = ("CDEFHK", hour, 1, 1, 0, 0, 1, 1)
    insert = "INSERT INTO visits (venue, hour, person, ins, outs, voids, party, sources) VALUES"
    client.execute(insert, [row])
    for table in ("visits", "visits_by_person"):
        client.execute(f"OPTIMIZE TABLE {table} FINAL")
        assert client.execute(f"SELECT count() FROM {table}") == [(0,)]
    assert set(keep_for(client, 3_650)) == tables
    client.execute(insert, [row])
    client.execute("OPTIMIZE TABLE visits_by_person FINAL")
    assert client.execute("SELECT count() FROM visits_by_person") == [(1,)]
    # a window declared far ahead: its row must not be taken for one of long ago
    ahead: tuple[object, ...] = ("c-1", "CDEFHK", date(2299, 12, 31), "so-cong-thuong", [], 0, "exposed", 1)
    columns = "case_id, venue, date, department, presences, contacts, status, version"
    client.execute(f"INSERT INTO venue_warnings ({columns}) VALUES", [ahead])
    client.execute("OPTIMIZE TABLE venue_warnings FINAL")
    assert client.execute("SELECT count() FROM venue_warnings") == [(1,)]
