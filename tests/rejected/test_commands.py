"""truyvet rejected, on real Kafka with real roles: refused, cause mended, replayed, accepted once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from clickhouse_driver import Client
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from typer.testing import CliRunner

from deploy.cli import rejected
from deploy.cli.rejected import commands
from deploy.local.engines import free_ports
from deploy.local.memory import environment_of
from producers import compacted
from producers.compacted import quiet_consumer
from producers.venues.register import publish_venues
from schemas import topics
from schemas.codes import new_code
from schemas.departments import department_of
from schemas.events import REJECT_HEADERS, Replayed, Venue
from schemas.settings import Settings
from tests.stream.harness import HOUR, MINUTE, Installation, installed, now_ms, person

Run = Callable[..., Any]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`truyvet rejected …`; its answer as JSON, and the exit code as expected."""
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(commands, [*arguments, "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    return call


@pytest.fixture
def here(settings: Settings, tmp_path: Path) -> Iterator[Installation]:
    with installed(settings, tmp_path, "ingest", "cases") as installation:
        yield installation


def venue(code: str) -> Venue:
    department = department_of("trade", "hue")
    return Venue(code=code, name="Chợ", sector="trade", district="hue", department=department, dwell=60)


def letter(
    here: Installation, topic: topics.Topic, value: bytes | None, reason: str, source: str, **more: Any
) -> None:
    """A dead letter as a role writes it."""
    texts = [reason, "vì sao", here.settings.topic_prefix + source, "0", "7", "0", "1700000000000", "1"]
    here.send(topic, value, headers=list(zip(REJECT_HEADERS, texts, strict=True)), **more)


@pytest.mark.engines
def test_what_was_refused_for_an_unknown_venue_is_accepted_once_it_is_known(
    here: Installation, run: Run
) -> None:
    soon, never = new_code(here.codes), new_code({*here.codes, "x"})
    at = now_ms() - HOUR
    scans = [here.scan(person(number), soon, at + number % 50 * MINUTE) for number in range(300)]
    packed = [dict(scan, scan_id=f"{scan['scan_id'][:-4]}beef", venue=soon) for scan in scans[:20]]
    packed = [dict(scan, scanned_at=scan["scanned_at"] - 5 * MINUTE) for scan in packed]
    lost = {
        "scan_id": "00000000-0000-4000-8000-00000000dead",
        "person": person(9),
        "venue": never,
        "scanned_at": at,
    }
    here.send(topics.SCANS, orjson.dumps([*packed, lost]))
    here.send(topics.SCANS, b'{"no":"scan"}')
    here.settle(["ingest"])
    assert here.read(topics.VISITS) == []

    listed = run("list", "--newest", "5")
    counts = {row["reason"]: (row["topic"], row["count"], row["replayed"]) for row in listed["counts"]}
    assert counts == {"unknown_venue": ("scans.rejected", 321, 0), "invalid": ("scans.rejected", 1, 0)}
    assert len(listed["newest"]) == 5
    assert run("replay", "--reason", "unknown_venue", "--dry-run")["sent"] == 321
    assert run("replay", "--reason", "unknown_venue", "--since", "2099-01-01")["sent"] == 0

    # before the replay: partitions are read in any order, so which of all came first is not seen afterwards
    first = {message.timestamp()[1] for message in here.read(topics.SCANS)}
    publish_venues(here.settings, [venue(soon)])
    assert run("replay", "--reason", "unknown_venue")["sent"] == 321
    here.settle(["ingest"])
    visits = Counter(visit["scan_id"] for record in here.values(topics.VISITS) for visit in record)
    assert visits == Counter(scan["scan_id"] for scan in [*scans, *packed])
    # judged by its first arrival, not by the replay's
    arrivals = [visit["received_at"] for record in here.values(topics.VISITS) for visit in record]
    assert min(first) <= min(arrivals) <= max(arrivals) <= max(first)

    # who still is unknown came back, with one attempt more; what was replayed is not sent again
    attempts = Counter((row["reason"], row["attempts"]) for row in run("list", "--newest", "999")["newest"])
    assert attempts == {("unknown_venue", 1): 321, ("unknown_venue", 2): 1, ("invalid", 1): 1}
    again = run("replay", "--reason", "unknown_venue")
    assert (again["sent"], again["replayed_before"]) == (1, 321)
    here.settle(["ingest"])
    everything = run("replay")
    assert (everything["sent"], everything["replayed_before"]) == (2, 322)
    here.settle(["ingest"])
    newest = run("list", "--newest", "2")["newest"]
    assert {(row["reason"], row["attempts"]) for row in newest} == {("unknown_venue", 4), ("invalid", 2)}
    back = run("show", next(row["place"] for row in newest if row["reason"] == "unknown_venue"))
    assert orjson.loads(back["value"]) == lost
    assert len(visits) == len({visit["scan_id"] for record in here.values(topics.VISITS) for visit in record})
    entries = [
        Replayed.model_validate_json(record.value() or b"") for record in here.read(topics.REJECTED_REPLAYED)
    ]
    assert sum(sum(entry.counts.values()) for entry in entries) == 324
    assert all("@" in entry.by for entry in entries)


@pytest.mark.engines
def test_cases_keep_their_key_and_what_no_replay_cures_is_said(here: Installation, run: Run) -> None:
    at = now_ms() - 5 * HOUR
    good = {"person": person(1), "infectious_from": at, "infectious_to": at + HOUR}
    here.case(case_id="a", **good)
    here.case(case_id="a", **(good | {"linger": 5}))
    here.case(case_id="a", version=2, **(good | {"person": person(2)}))
    here.send(topics.CASES, None, "a")
    here.send(topics.CASES, b'{"case_id":"b"', "b")
    here.settle(["cases"])
    told = run("replay", "--topic", "cases")
    assert (told["sent"], told["incurable"]) == (1, 3)
    assert set(told["advice"]) == {"conflict", "subject_changed", "tombstone"}
    here.settle(["cases"])
    (newest,) = run("list", "--newest", "1")["newest"]
    assert (newest["reason"], newest["attempts"]) == ("malformed", 2)
    shown = run("show", newest["place"])
    assert (shown["key"], shown["value"]) == ("b", '{"case_id":"b"')
    firsts = [message for message in here.read(topics.CASES_REJECTED) if message.key() == b"b"]
    assert len({dict(message.headers() or [])["arrival"] for message in firsts}) == 1
    last = [message.value() or b"" for message in here.read(topics.CASES) if message.key() == b"a"][-1]
    assert orjson.loads(last)["person"] == person(1), "the version that stands is the last of its key"


@pytest.mark.engines
def test_a_visit_that_the_archive_refused_goes_back_alone(settings: Settings, run: Run) -> None:
    here, put_aside = Installation(settings, Path()), topics.ARCHIVE_REJECTED
    letter(here, put_aside, b'{"person":"x"}', "refused", "visits")
    letter(here, put_aside, b'{"code":"x"}', "refused", "venues")
    here.flush()
    told = run("replay", "--topic", "archive")
    assert (told["sent"], told["incurable"]) == (1, 1)
    assert here.values(topics.VISITS) == [[{"person": "x"}]]
    assert here.values(topics.VENUES) == []


@pytest.mark.engines
def test_what_the_archive_refused_is_in_once_the_table_takes_it(
    settings: Settings, tmp_path: Path, run: Run
) -> None:
    client = Client.from_url(settings.clickhouse_url)

    def archived() -> int:
        return int(client.execute("SELECT uniqExact(person) FROM visits")[0][0])

    with installed(settings, tmp_path, "ingest", "archive") as here:
        venue, at = here.venue(), now_ms() - HOUR
        here.scan(person(1), venue, at)
        here.settle(["ingest", "archive"])
        client.execute("ALTER TABLE visits ADD CONSTRAINT small CHECK party < 40")
        for number in range(2, 12):
            here.scan(person(number), venue, at, party=45 if number < 5 else 2)
        here.settle(["ingest", "archive"])
        assert archived() == 8
        (count,) = run("list", "--topic", "archive")["counts"]
        assert (count["reason"], count["count"]) == ("refused", 3)
        client.execute("ALTER TABLE visits DROP CONSTRAINT small")
        assert run("replay", "--topic", "archive", "--reason", "refused")["sent"] == 3
        here.settle(["archive"])
        assert archived() == 11
        assert run("replay")["sent"] == 0
    client.disconnect()


@pytest.mark.engines
def test_killed_in_the_middle_nothing_is_lost(settings: Settings, run: Run) -> None:
    """SIGKILL at any moment: every record is sent at least once, and what was remembered is not again."""
    here, count = Installation(settings, Path()), 40_000
    for number in range(count):
        letter(here, topics.SCANS_REJECTED, str(number).encode(), "unknown_venue", "scans")
    here.flush()
    watch = quiet_consumer(settings, **{"enable.partition.eof": False, "fetch.wait.max.ms": 10})
    watch.assign([TopicPartition(settings.topic(topics.REJECTED_REPLAYED), 0, 0)])
    command = [sys.executable, "-m", "truyvet", "rejected", "replay", "--json"]
    process = subprocess.Popen(
        command,
        env=os.environ | environment_of(settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert watch.consume(1, 60), "nothing is remembered"
    finally:
        watch.close()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    before = sum(sum(entry["counts"].values()) for entry in here.values(topics.REJECTED_REPLAYED))
    assert 0 < before < count, "the kill came too late to say anything"
    told = run("replay")
    assert (told["sent"], told["replayed_before"]) == (count - before, before)
    sent = Counter(int(message.value() or b"") for message in here.read(topics.SCANS))
    assert set(sent) == set(range(count))
    assert sum(sent.values()) - count <= 3 * 2_000, "no more than what was under way is sent twice"
    assert run("replay")["sent"] == 0


@pytest.mark.engines
def test_what_the_broker_refuses_is_told_and_the_rest_goes(settings: Settings, run: Run) -> None:
    resource = ConfigResource(ConfigResource.Type.TOPIC, settings.topic(topics.SCANS))
    bound = ConfigEntry("max.message.bytes", "3000", incremental_operation=AlterConfigOpType.SET)
    resource.add_incremental_config(bound)
    client = AdminClient({"bootstrap.servers": settings.kafka_address})
    for future in client.incremental_alter_configs([resource]).values():
        future.result(20)
    here = Installation(settings, Path())
    letter(here, topics.SCANS_REJECTED, os.urandom(50_000), "malformed", "scans", partition=1)
    letter(here, topics.SCANS_REJECTED, b"small", "malformed", "scans", partition=0)
    here.flush()
    time.sleep(0.5)  # the bound reaches the broker's log
    told = run("replay", code=1)
    assert (told["sent"], told["refused"]) == (1, 1)
    assert [message.value() for message in here.read(topics.SCANS)] == [b"small"]
    told = run("replay", code=1)
    assert (told["sent"], told["replayed_before"], told["refused"]) == (0, 1, 1)


@pytest.mark.engines
def test_show_is_safe_for_a_terminal(settings: Settings, run: Run) -> None:
    here = Installation(settings, Path())
    values = [b"{\x1b[2J\xe2\x80\xae}", bytes(range(256)), None, b"x" * 9_000]
    for value in values:
        letter(here, topics.SCANS_REJECTED, value, "malformed", "scans", partition=2)
    here.send(topics.SCANS_REJECTED, b"{}", partition=2, timestamp=1)  # a stranger's: no header at all
    here.flush()
    texts = [
        CliRunner().invoke(commands, ["show", f"scans.rejected/2/{offset}"]).stdout
        for offset in range(len(values))
    ]
    assert "\\x1b[2J\\u202e" in texts[0]
    assert "\x1b" not in texts[0]
    assert "000000f0  f0 f1" in texts[1]
    assert "a tombstone" in texts[2]
    assert "of 9,000 bytes" in texts[3]
    raw = CliRunner().invoke(commands, ["show", "scans.rejected/2/1", "--raw"])
    assert raw.stdout_bytes == values[1]
    assert run("show", "scans.rejected/2/1")["value_hex"] == bytes(range(256)).hex()
    table = CliRunner().invoke(commands, ["list"])
    assert table.exit_code == 0, table.output
    assert "malformed" in table.stdout
    assert "unknown" in table.stdout
    for place in ("scans.rejected/2/99", "scans.rejected/9/0"):
        result = CliRunner().invoke(commands, ["show", place])
        assert result.exit_code == 1
        assert "Traceback" not in result.output


@pytest.mark.engines
def test_a_place_of_the_source_is_the_record_that_came_from_there(settings: Settings, run: Run) -> None:
    here = Installation(settings, Path())
    for number in range(3):  # whoever reads scans/1/1 as a place of scans.rejected gets another record
        letter(here, topics.SCANS_REJECTED, f"other {number}".encode(), "invalid", "visits", partition=1)
    sources = [(b"first", "scans", "0"), (b"second", "scans", "3"), (b"alone", "cases", "0")]
    for value, source, index in sources:
        topic = topics.CASES_REJECTED if source == "cases" else topics.SCANS_REJECTED
        texts = ["invalid", "", settings.topic_prefix + source, "1", "1", index, "1700000000000", "1"]
        here.send(topic, value, headers=list(zip(REJECT_HEADERS, texts, strict=True)), partition=0)
    here.flush()
    rows = {row["place"]: row["source"] for row in run("list")["newest"]}
    for place, source in rows.items():
        if "visits" not in source:
            assert run("show", source)["place"] == place
    assert run("show", "scans/1/1[3]")["value"] == "second"
    assert run("show", f"{settings.topic_prefix}scans/1/1[0]")["value"] == "first"
    assert run("show", "cases/1/1")["value"] == "alone"
    assert run("show", "scans.rejected/1/1")["value"] == "other 1"
    several = CliRunner().invoke(commands, ["show", "scans/1/1"])
    assert several.exit_code == 2 and several.stdout == ""
    assert "scans.rejected/0/0" in several.stderr and "scans.rejected/0/1" in several.stderr
    none = CliRunner().invoke(commands, ["show", "scans/1/2"])
    assert none.exit_code == 1 and "truyvet rejected list" in none.stderr


@pytest.mark.parametrize(
    "call",
    [
        ["show", "scans"],
        ["show", "scans/a/1"],
        ["show", "touched/0/1"],
        ["show", "nowhere/0/1"],
        ["show", "scans.rejected/0/1[0]"],
        ["list", "--topic", "visits"],
        ["replay", "--reason", "bad_luck"],
        ["list", "--since", "yesterday"],
    ],
)
def test_a_mistake_is_one_line(call: list[str]) -> None:
    result = CliRunner().invoke(commands, call)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("call", [["list"], ["show", "scans/0/1"], ["replay"]])
def test_kafka_that_is_away_is_said(call: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacted, "METADATA_SECONDS", 1.0)
    monkeypatch.setenv("TRUYVET_KAFKA", f"127.0.0.1:{free_ports(1)[0]}")
    result = CliRunner().invoke(commands, call)
    assert result.exit_code == 3
    assert "Kafka does not answer" in result.stderr


@pytest.mark.engines
def test_topics_that_are_not_there_are_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (environment_of(settings) | {"TRUYVET_TOPIC_PREFIX": "nowhere."}).items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(commands, ["list"])
    assert result.exit_code == 2
    assert "truyvet topics apply" in result.stderr


def test_text_that_a_terminal_might_obey_is_escaped() -> None:
    assert rejected.printable("Nơi\x1b[31m\u202e\t") == "Nơi\\x1b[31m\\u202e\\t"
