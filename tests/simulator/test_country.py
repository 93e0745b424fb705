"""A country's marks by column, and their way into the real archive."""

from __future__ import annotations

import json

import numpy as np
import pytest
from clickhouse_driver import Client
from typer.testing import CliRunner, Result

from deploy.cli.simulate import commands
from producers.simulator.country import HourRows, country_rows, plan
from producers.simulator.province import Province, make_province
from schemas.settings import Settings
from schemas.times import local_day

END = 1_795_395_000_000  # a Monday
MARKS = 30_000


@pytest.fixture(scope="module")
def province() -> Province:
    return make_province(4_000, 120, 7)


def made(province: Province, seed: int = 3) -> list[HourRows]:
    return list(country_rows(province, 10, MARKS, END, seed))


def test_a_seed_gives_the_same_rows_and_another_others(province: Province) -> None:
    first, again, other = made(province), made(province), made(province, 4)
    for one, two in zip(first, again, strict=True):
        assert all(
            np.array_equal(getattr(one, name), getattr(two, name)) for name in ("person", "ins", "outs")
        )
    assert not np.array_equal(first[0].person, other[0].person)


def test_rows_are_distinct_and_hold_the_marks_asked_for(province: Province) -> None:
    rows = made(province)
    keys = {
        key
        for part in rows
        for key in zip(part.venue.tolist(), part.hour.tolist(), part.person.tolist(), strict=True)
    }
    assert len(keys) == sum(map(len, rows))
    # two scans of one person in one minute at one venue are one mark: a few
    assert 0.98 * MARKS < sum(part.marks for part in rows) <= MARKS * 1.001
    masks = [np.concatenate([getattr(part, name) for part in rows]) for name in ("ins", "outs", "voids")]
    counts = [int(np.bitwise_count(mask).sum()) for mask in masks]
    assert sum(counts) == sum(part.marks for part in rows)
    assert 0.2 < counts[1] / counts[0] < 0.5
    assert 0 < counts[2] < 100
    assert max(int(mask.max()) for mask in masks) < 1 << 60
    assert set(np.concatenate([part.person for part in rows]).tolist()) <= set(province.people.tolist())


def test_days_are_whole_end_before_the_end_and_are_as_busy_as_days_are() -> None:
    days = plan(7, 70_000, END)
    assert [day for day, _ in days] == list(range(local_day(END // 60_000) - 7, local_day(END // 60_000)))
    assert sum(count for _, count in days) == 70_000
    sunday = next(count for day, count in days if (day + 3) % 7 == 6)
    assert sunday < min(count for day, count in days if (day + 3) % 7 < 5)


def simulated(*words: str) -> Result:
    sizes = ("--marks", "20000", "--people", "3000", "--venues", "100", "--days", "9", "--end", "2026-11-20")
    return CliRunner().invoke(commands, ["--to-archive", "--json", *sizes, *words])


@pytest.mark.engines
def test_into_the_archive_and_no_second_time_by_mistake(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUYVET_CLICKHOUSE", settings.clickhouse_url)
    done = simulated()
    assert done.exit_code == 0, done.output
    client = Client.from_url(settings.clickhouse_url)
    masks = " + ".join(f"bitCount(groupBitOr({kind}))" for kind in ("ins", "outs", "voids"))

    def marks(table: str) -> int:
        found: int = client.execute(
            f"SELECT sum(marks) FROM (SELECT {masks} AS marks FROM {table} GROUP BY venue, hour, person)"
        )[0][0]
        return found

    total = json.loads(done.stdout)["marks"]
    assert marks("visits") == marks("visits_by_person") == total
    assert client.execute("SELECT count() FROM visits WHERE venue NOT IN (SELECT code FROM venues)") == [(0,)]
    refused = simulated()
    assert refused.exit_code == 2
    assert "--add" in refused.output
    assert simulated("--add").exit_code == 0
    assert marks("visits") == total  # the same marks: they merge away
    client.disconnect()


def test_clickhouse_away_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_CLICKHOUSE", "clickhouse://default@127.0.0.1:1/default")
    result = simulated()
    assert result.exit_code == 3
    assert "did not take it" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("words", [("--to-archive", "--to-topic"), ("--to-archive", "--truth", "x")])
def test_a_wrong_call_is_told(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(commands, words).exit_code == 2
