"""truyvet retention: what stands and what is put on, on the real engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from clickhouse_driver import Client
from typer.testing import CliRunner, Result

from deploy.cli.retention import commands
from schemas.settings import Settings
from sinks.migrate import migrate

NOW_HOUR = time.time_ns() // 3_600_000_000_000
PERSONAL = {"visits", "visits_by_person", "exposures", "venue_warnings", "rejected"}


@pytest.fixture
def archive(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Marks of 1, 40 and 400 days ago, in a table without TTL yet."""
    monkeypatch.setenv("TRUYVET_CLICKHOUSE", settings.clickhouse_url)
    client = Client.from_url(settings.clickhouse_url)
    migrate(client, lambda: time.time_ns() // 1_000_000)
    rows = [("CDEFHJ", NOW_HOUR - 24 * days, 1, 1, 0, 0, 1, 1) for days in (1, 40, 400)]
    client.execute("INSERT INTO visits (venue, hour, person, ins, outs, voids, party, sources) VALUES", rows)
    yield client
    client.disconnect()


def retention(*words: str, typed: str = "") -> Result:
    return CliRunner().invoke(commands, words, input=typed)


def shown() -> dict[str, dict[str, object]]:
    return {row["table"]: row for row in json.loads(retention("show", "--json").stdout)}


@pytest.mark.engines
def test_show_then_apply_then_a_shorter_one(archive: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert retention("show").exit_code == 1
    before = shown()
    assert set(before) == PERSONAL
    assert (before["visits"]["keeps"], before["visits"]["rows"], before["visits"]["due"]) == (None, 3, 1)

    refused = retention("apply", typed="n\n")
    assert refused.exit_code == 1
    assert "2 rows are older than 365 days" in refused.output
    assert shown() == before

    assert retention("apply", "--yes").exit_code == 0
    assert retention("show").exit_code == 0
    assert {(row["keeps"], row["due"]) for row in shown().values()} == {(365, 0)}
    monkeypatch.setenv("TRUYVET_ARCHIVE_RETENTION_DAYS", "30")
    assert shown()["visits_by_person"]["due"] == 1
    assert "2 rows deleted" in retention("apply", typed="y\n").output
    for table in ("visits", "visits_by_person"):
        assert archive.execute(f"SELECT hour FROM {table}") == [(NOW_HOUR - 24,)]
    assert "no table had to be changed" in retention("apply").output


@pytest.mark.engines
def test_an_archive_without_tables_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_CLICKHOUSE", settings.clickhouse_url)
    result = retention("show")
    assert result.exit_code == 1
    assert "truyvet run archive" in result.output


def test_clickhouse_away_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_CLICKHOUSE", "clickhouse://default@127.0.0.1:1/default")
    result = retention("show")
    assert result.exit_code == 3
    assert "Traceback" not in result.output
