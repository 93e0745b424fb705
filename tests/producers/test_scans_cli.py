"""truyvet scans, on real Kafka."""

from __future__ import annotations

import io
import json
import time
import uuid
from pathlib import Path

import orjson
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from typer.testing import CliRunner

from deploy.cli.scans import _lines as numbered
from deploy.cli.scans import commands, problem_of
from deploy.local.engines import free_ports
from deploy.local.memory import environment_of
from producers import compacted
from producers.examples import CASE, LATE, MET
from producers.venues.importing import plan, rows_of
from producers.venues.register import publish_venues
from schemas import topics
from schemas.codes import check_character
from schemas.events import SCAN
from schemas.settings import Settings
from tests.producers.test_publisher import read

CODE = "CDEFHJK" + check_character("CDEFHJK")


def lines(count: int) -> list[bytes]:
    return [
        orjson.dumps(
            {
                "scan_id": str(uuid.UUID(int=number)),
                "person": f"{number:016x}",
                "venue": CODE,
                "scanned_at": 1_700_000_000_000,
            }
        )
        for number in range(count)
    ]


@pytest.fixture
def here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.mark.engines
def test_good_lines_go_in_and_bad_ones_are_named(here: Settings, tmp_path: Path) -> None:
    good = lines(2500)
    wrong = CODE[:-1] + ("C" if CODE[-1] != "C" else "D")
    bad = [
        b"{",
        b"[1]",
        good[0].replace(b"0000000000000000", b"x"),
        good[0].replace(CODE.encode(), wrong.encode()),
    ]
    file = tmp_path / "scans.jsonl"
    file.write_bytes(b"\n".join([*good[:10], bad[0], b"", *good[10:], *bad[1:]]) + b"\n")
    result = CliRunner().invoke(commands, ["publish", str(file), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"published": 2500, "bad": 4, "not_acknowledged": 0}
    assert [f"line {number}:" in result.stderr for number in (11, 2503, 2504, 2505)] == [True] * 4
    ids, _ = read(here, 2500)
    assert len(set(ids)) == len(ids) == 2500


@pytest.mark.engines
def test_standard_input_and_a_void(here: Settings) -> None:
    runner = CliRunner()
    result = runner.invoke(commands, ["publish", "-"], input=b"\n".join(lines(3)))
    assert (result.exit_code, "3 scans published" in result.stdout) == (0, True)
    call = [
        "void",
        "--person",
        "00c0ffee00c0ffee",
        "--venue",
        CODE.lower(),
        "--at",
        "2026-01-02T03:04",
        "--json",
    ]
    scan = json.loads(runner.invoke(commands, call).stdout)
    assert (scan["kind"], scan["source"], scan["venue"], scan["scanned_at"]) == (
        "void",
        "manual",
        CODE,
        1767297840000,
    )
    assert len(read(here, 4)[0]) == 4


@pytest.mark.engines
def test_an_example_is_of_the_register_and_of_now(here: Settings) -> None:
    runner = CliRunner()
    refused = runner.invoke(commands, ["example"])
    assert refused.exit_code == 2
    assert "truyvet venues import docs/examples/venues.csv" in refused.stderr
    rows = b"name,sector,district\nX,trade,hue\nY,health,hue\nZ,trade,hue\n"
    venues = plan(rows_of(rows), {}).new
    shut = venues[0].model_copy(update={"closed_at": 5})
    publish_venues(here, [shut, *venues[1:]])
    printed = runner.invoke(commands, ["example"])
    assert printed.exit_code == 0
    scans = [SCAN.validate_json(line) for line in printed.stdout.splitlines()]
    assert {scan["venue"] for scan in scans} == {venue.code for venue in venues[1:]}
    assert {scan["person"] for scan in scans} == {CASE, LATE, *MET}
    assert len({scan["scan_id"] for scan in scans}) == len(scans)
    now = time.time_ns() // 1_000_000
    assert all(now - 4 * 3_600_000 < scan["scanned_at"] <= now for scan in scans)
    assert runner.invoke(commands, ["publish", "-"], input=printed.stdout).exit_code == 0


@pytest.mark.parametrize(
    "call",
    [
        ["publish", "no such file"],
        ["void", "--person", "x", "--venue", CODE, "--at", "2026-01-02"],
        ["void", "--person", "00c0ffee00c0ffee", "--venue", "CCCC1", "--at", "2026-01-02"],
        ["void", "--person", "00c0ffee00c0ffee", "--venue", CODE, "--at", "yesterday"],
    ],
)
def test_a_mistake_is_one_line(call: list[str]) -> None:
    result = CliRunner().invoke(commands, call)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "call",
    [
        ["publish", "-"],
        ["void", "--person", "00c0ffee00c0ffee", "--venue", CODE, "--at", "2026-01-02"],
    ],
)
def test_kafka_that_is_away_is_said(call: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compacted, "METADATA_SECONDS", 1.0)
    monkeypatch.setenv("TRUYVET_KAFKA", f"127.0.0.1:{free_ports(1)[0]}")
    result = CliRunner().invoke(commands, call, input=lines(1)[0])
    assert result.exit_code == 3
    assert "Kafka does not answer" in result.stderr


@pytest.mark.engines
def test_a_topic_that_is_not_there_is_said(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_TOPIC_PREFIX", "nowhere.")
    result = CliRunner().invoke(commands, ["publish", "-"], input=lines(1)[0])
    assert result.exit_code == 2
    assert "truyvet topics apply" in result.stderr


@pytest.mark.engines
def test_what_kafka_refuses_is_counted_and_ends_the_reading(here: Settings, tmp_path: Path) -> None:
    resource = ConfigResource(ConfigResource.Type.TOPIC, here.topic(topics.SCANS))
    resource.add_incremental_config(
        ConfigEntry("max.message.bytes", "200", incremental_operation=AlterConfigOpType.SET)
    )
    admin = AdminClient({"bootstrap.servers": here.kafka_address})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(20)
    file = tmp_path / "scans.jsonl"
    file.write_bytes(b"\n".join(lines(300_000)))
    result = CliRunner().invoke(commands, ["publish", str(file), "--json"])
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert (told["published"], told["bad"]) == (0, 0)
    assert 0 < told["not_acknowledged"] < 300_000
    assert "did not acknowledge" in result.stderr
    assert "nothing after line" in result.stderr


def test_lines_keep_their_numbers_and_only_json_is_a_scan(tmp_path: Path) -> None:
    good = lines(1)[0]
    long = good[:-1] + b',"x":"' + b"x" * 2_500_000 + b'"}'
    read = list(numbered(io.BytesIO(b"\xef\xbb\xbf" + b"\n".join([good, long, b" ", good, long]))))
    assert [number for number, _ in read] == [1, 2, 4, 5]
    assert [problem_of(line) is None for _, line in read] == [True, False, True, False]
    assert max(len(line) for _, line in read) < 1_000_000
    for value in (b"NaN", b"Infinity", b'"\\ud800"', b"[" * 300 + b"]" * 300):
        assert problem_of(good[:-1] + b',"note":' + value + b"}") is not None
