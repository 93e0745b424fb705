"""Erasure, with every role at work: gone everywhere, not brought back, and nobody else touched."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from clickhouse_driver import Client
from typer.testing import CliRunner, Result

from deploy.audit import audit_records
from deploy.cli import erase
from deploy.erasure import Erasure
from deploy.rebuild import declare_lost, rebuild
from lookups.audit import read_row
from schemas import topics
from schemas.settings import Settings
from schemas.times import day_start, local_day
from stream_processors.erasing import restore
from stream_processors.layout import Layout
from stream_processors.requests import MarkRow, Marks
from stream_processors.servers import connect
from stream_processors.store import ERASED, NEW, Store
from tests.stream.harness import HOUR, MINUTE, Installation, installed, now_ms, person

pytestmark = pytest.mark.engines

CASE, GONE, OTHER, SICK = person(1), person(0xDEADBEEF00000002), person(3), person(4)


@pytest.fixture
def running(archive: Client, settings: Settings, tmp_path: Path) -> Iterator[Installation]:
    with installed(settings, tmp_path, "ingest", "cases", "matcher", "archive") as installation:
        yield installation


def erased(*words: str) -> Result:
    return CliRunner().invoke(erase.commands, ["person", *words, "--yes"])


def traces_in_redis(settings: Settings, who: str) -> list[str]:
    """Where a person still stands among marks and indexes."""
    client = redis.Redis.from_url(settings.redis_url)
    found = []
    for key in client.scan_iter("[bdp]:*"):
        if not key.startswith(b"p:"):
            texts, size = cast(list[bytes], client.hvals(key)), 13
        else:
            texts, size = cast(list[bytes], client.lrange(key, 0, -1)), 16
        persons = [text[at : at + 8] for text in texts for at in range(0, len(text), size)]
        if bytes.fromhex(who) in persons:
            found.append(key.decode())
    client.close()
    return found


def rows_of(archive: Client, who: str) -> dict[str, int]:
    number = int(who, 16)
    tables = ("visits", "visits_by_person", "exposures")
    return {
        table: archive.execute(f"SELECT count() FROM {table} WHERE person = %(p)s", {"p": number})[0][0]
        for table in tables
    }


def settled(running: Installation) -> None:
    running.settle(("ingest", "cases", "matcher", "archive"))


def test_a_person_is_gone_and_stays_gone(running: Installation, settings: Settings, archive: Client) -> None:
    # a morning: what is counted by local day must not fall on two
    at = (day_start(local_day(now_ms() // MINUTE) - 2) + 9 * 60) * MINUTE
    market, school = running.venue(), running.venue()
    running.scan(CASE, market, at)
    mine = [running.scan(GONE, market, at + 5 * MINUTE), running.scan(GONE, school, at + 300 * MINUTE)]
    running.scan(OTHER, market, at + 6 * MINUTE)
    running.scan(SICK, school, at)
    running.scan(GONE, "CDEF", at)  # refused, and kept with its bytes
    window = {"infectious_from": at - HOUR, "infectious_to": at + 10 * HOUR}
    running.case(case_id="k1", person=CASE, **window)
    running.case(case_id="k2", person=SICK, **window)
    settled(running)
    assert {who for _, who, _ in running.exposed()} == {GONE, OTHER}
    before = running.last(topics.EXPOSURES)

    looked = erased(GONE, "--order", "7/QĐ-UBND", "--dry-run", "--json")
    assert looked.exit_code == 0, looked.output
    counts = json.loads(looked.stdout)
    assert (counts["marks"], counts["archived"], counts["withdrawn"], counts["rejected"]) == (2, 4, 1, 1)
    assert traces_in_redis(settings, GONE)

    # its scans go on coming, old ones and new ids of old times, while it is erased
    stop = threading.Event()

    def pour() -> None:
        while not stop.is_set():
            for scan in mine:
                running.scan(scan["person"], scan["venue"], scan["scanned_at"])
                running.scan(scan["person"], scan["venue"], scan["scanned_at"] + 7 * MINUTE)
            running.producer.poll(0)
            time.sleep(0.01)

    pouring = threading.Thread(target=pour)
    pouring.start()
    try:
        result = erased(GONE, "--order", "7/QĐ-UBND", "--json")
    finally:
        stop.set()
        pouring.join()
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout)
    assert done["marks"] >= 2
    assert (done["withdrawn"], done["standing"]) == (1, [])

    for scan in mine:  # late, redelivered, replayed
        running.scan(GONE, scan["venue"], scan["scanned_at"], scan_id=scan["scan_id"])
    settled(running)
    assert traces_in_redis(settings, GONE) == []
    assert rows_of(archive, GONE) == {"visits": 0, "visits_by_person": 0, "exposures": 0}
    assert OTHER in {who for _, who, _ in running.exposed()}
    assert GONE not in {who for _, who, _ in running.exposed()}
    now = running.last(topics.EXPOSURES)
    keys = [key for key, exposure in now.items() if exposure["person"] == GONE]
    assert keys
    for key in keys:
        assert (now[key]["status"], before[key]["status"]) == ("withdrawn", "exposed")
        assert now[key]["version"] > before[key]["version"]
    warned = [each for each in running.last(topics.VENUE_WARNINGS).values() if each["venue"] == market]
    assert [(each["case_id"], each["contacts"]) for each in warned] == [("k1", 1)]
    assert rows_of(archive, OTHER) == {"visits": 1, "visits_by_person": 1, "exposures": 1}
    assert archive.execute("SELECT count() FROM rejected WHERE position(value, %(p)s) > 0", {"p": GONE}) == [
        (0,)
    ]
    letters = [each for each in running.read(topics.SCANS_REJECTED) if each.value() is None]
    assert {dict(each.headers() or [])["reason"] for each in letters} == {b"erased"}
    assert len(letters) >= 2

    # the subject of a case that stands
    refused = erased(SICK, "--order", "8")
    assert refused.exit_code == 2
    assert "--withdraw-case" in refused.output
    assert len(traces_in_redis(settings, SICK)) == 2
    result = erased(SICK, "--order", "8", "--withdraw-case")
    assert result.exit_code == 0, result.output
    assert traces_in_redis(settings, SICK) == []
    assert rows_of(archive, SICK)["visits"] == 0
    assert [each["status"] for each in running.last(topics.CASES).values() if each["person"] == SICK] == [
        "withdrawn"
    ]

    # Redis is lost: the list and the marks are built again, without the person
    declare_lost(settings, "a test")
    assert rebuild(settings)
    running.scan(GONE, market, at + 9 * MINUTE)
    running.scan(OTHER, market, at + 90 * MINUTE)
    running.supervised = True  # each worker ends at the loss, and begins again
    running.wait(lambda: len(traces_in_redis(settings, OTHER)) >= 2, "the buckets are not rebuilt")
    settled(running)
    assert traces_in_redis(settings, GONE) == []
    assert rows_of(archive, GONE) == {"visits": 0, "visits_by_person": 0, "exposures": 0}
    assert {who for _, who, _ in running.exposed()} == {OTHER}

    steps = [read_row(value)[0] for _, value in audit_records(settings)]
    assert [(row.step, row.question, row.purpose) for row in steps[:4]] == [
        (step, "erase", "7/QĐ-UBND") for _ in range(2) for step in ("asked", "answered")
    ]
    assert steps[3].rows == done["marks"]
    assert [row.step for row in steps[4:]] == ["asked", "asked", "answered"]  # one was not done
    listed = CliRunner().invoke(erase.commands, ["list", "--json"])
    assert [row["person"] for row in json.loads(listed.stdout)] == [GONE, SICK]


def test_an_order_is_needed_and_roles_must_run(
    archive: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert erased(GONE).exit_code == 2
    assert erased(GONE, "--order", "?").exit_code == 2
    monkeypatch.setattr("deploy.erasure.PATIENCE_S", 0.5)
    with installed(settings, Path(), *()) as nobody:
        nobody.scan(GONE, nobody.venue(), now_ms())
        nobody.flush()
        result = erased(GONE, "--order", "7")
    assert result.exit_code == 1
    assert "ingest does not get past" in " ".join(result.output.split())


@pytest.mark.parametrize("typed", ["n\n", "\n", ""])  # the last: nobody is there to answer
def test_nothing_is_touched_unless_the_answer_is_yes(
    typed: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.cli.erase.open_desk", lambda *_: pytest.fail("it went on"))
    words = ["person", GONE, "--order", "7/QĐ-UBND", "--withdraw-case"]
    for more in ([], ["--json"]):
        result = CliRunner().invoke(erase.commands, words + more, input=typed)
        assert result.exit_code == 1
        assert f"Person {GONE}, by order 7/QĐ-UBND: a case about the person is withdrawn" in result.stderr
        assert "Aborted" in result.stderr
        assert result.stdout.strip() == typed.strip()  # the echo of a terminal; the question is no part of it


def test_a_yes_goes_on_and_a_dry_run_asks_nothing(archive: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Erasure(GONE, 0, marks=2)
    monkeypatch.setattr("deploy.cli.erase.erase", lambda *_, **__: found)
    words = ["person", GONE, "--order", "7", "--json"]
    agreed = CliRunner().invoke(erase.commands, words, input="y\n")
    assert agreed.exit_code == 0, agreed.output
    assert json.loads(agreed.stdout.removeprefix(" y\n"))["marks"] == 2  # the echo of a terminal
    assert "Go on?" in agreed.stderr
    looked = CliRunner().invoke(erase.commands, [*words, "--dry-run"])
    assert (looked.exit_code, json.loads(looked.stdout)["dry_run"]) == (0, True)
    assert "Go on?" not in looked.stderr


def test_the_store_refuses_up_to_the_hour_and_takes_what_is_later(settings: Settings) -> None:
    """One call with persons and hours mixed; a later erasure only adds."""
    now, hour = now_ms(), now_ms() // HOUR

    async def work() -> tuple[Any, ...]:
        store = Store(connect(settings.redis_url), Layout(16, 30), lambda: now, lambda _: None)
        await store.open({})
        rows = [
            MarkRow(f"s{number}", who, "CDEF", hour + ahead, 7, 0)
            for number, (who, ahead) in enumerate([(GONE, 0), (OTHER, 0), (GONE, 1), (GONE, -5)])
        ]
        await store.refuse_marks(GONE, hour, now // 1000 + 60, now)
        await store.refuse_index(GONE, hour, now // 1000 + 60, now)
        await store.refuse_marks(GONE, hour - 9, now // 1000 + 60, now)  # an older one takes nothing back
        found = await store.add_scans(Marks.of(rows), [])
        index = await store.index_of(GONE, hour + 9), await store.index_of(OTHER, hour + 9)
        # an entry whose time is over goes with the next one
        await store.refuse_marks(OTHER, hour, now // 1000 + 1_000, now + 100_000)
        later = await store.add_scans(Marks.of([rows[3]]), [])
        assert await restore(store, [], now) == 0
        await store.close()
        return found.verdicts, *index, later.verdicts

    verdicts, mine, others, later = asyncio.run(work())
    assert verdicts == ERASED + NEW + NEW + ERASED
    assert mine == [(hour + 1, "CDEF")]
    assert others == [(hour, "CDEF")]
    assert later == NEW
