"""truyvet trace: what people and machines see, and how mistakes are told."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deploy.cli import report
from deploy.cli.asking import window_of
from deploy.cli.trace import commands
from lookups.answers import Window
from schemas.codes import check_character
from schemas.settings import Settings
from schemas.times import MS_PER_MINUTE, day_name, day_start, format_time, local_day
from schemas.topics import DAY_MS
from tests.lookups.conftest import World, clock_ms

pytestmark = pytest.mark.engines

CASE, CONTACT = "00000000000000aa", "fedcba9876543210"
DAY = local_day(clock_ms() // MS_PER_MINUTE) - 3
EIGHT = day_start(DAY) + 8 * 60  # 08:00 local
runner = CliRunner()


@pytest.fixture
def code() -> str:
    """A venue code with its check character."""
    return "CDEFHK" + check_character("CDEFHK")


@pytest.fixture
def filled(world: World, settings: Settings, code: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("TRUYVET_CLICKHOUSE", settings.clickhouse_url)
    monkeypatch.setenv("TRUYVET_KAFKA", settings.kafka_address)
    monkeypatch.setenv("TRUYVET_TOPIC_PREFIX", settings.topic_prefix)
    monkeypatch.setenv("TRUYVET_PURPOSE", "c-1")
    monkeypatch.setenv("COLUMNS", "200")
    world.venues({code: 60}, "=cmd|' /C calc'!A0")
    world.marks(
        [
            (CASE, code, EIGHT, "in"),
            (CASE, code, EIGHT + 40, "out"),
            (CONTACT, code, EIGHT + 30, "in"),
            (CONTACT, code, EIGHT + 31, "in"),
            (CONTACT, code, EIGHT + 31, "void"),
        ]
    )
    yield world


def trace(*words: str) -> Result:
    return runner.invoke(commands, words)


def test_contacts_as_json(filled: World, code: str) -> None:
    result = trace("contacts", CASE, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == [
        {
            "person": CONTACT,
            "date": day_name(DAY),
            "minutes": 10,
            "first": f"{day_name(DAY)} 08:30+07:00",
            "last": f"{day_name(DAY)} 08:40+07:00",
            "share": 0.25,
            "venue": code,
            "name": "=cmd|' /C calc'!A0",
            "district": "hue",
        }
    ]
    assert json.loads(trace("contacts", CASE, "--min-overlap", "11", "--json").stdout) == []


def test_the_minutes_of_a_stay_across_midnight_are_as_the_help_says(filled: World, code: str) -> None:
    evening = day_start(DAY) - 13
    one, two = "00000000000000b1", "00000000000000b2"
    filled.marks(
        [(who, code, evening + at, kind) for who in (one, two) for at, kind in ((0, "in"), (40, "out"))]
    )
    found = json.loads(trace("contacts", one, "--min-overlap", "40", "--json").stdout)
    assert [(row["person"], row["date"], row["minutes"]) for row in found] == [
        (two, day_name(DAY - 1), 13),
        (two, day_name(DAY), 27),
    ]
    assert json.loads(trace("contacts", one, "--min-overlap", "41", "--json").stdout) == []
    for command in ("contacts", "chain"):
        shown = " ".join(trace(command, "--help").stdout.replace("│", " ").split())
        assert "one stay together across midnight" in shown


def test_csv_cells_are_no_formulas(filled: World) -> None:
    for words in (("person", CASE), ("contacts", CASE)):
        rows = list(csv.DictReader(io.StringIO(trace(*words, "--csv").stdout)))
        assert [row["name"] for row in rows] == ["'=cmd|' /C calc'!A0"]


def test_a_person_by_card_and_by_digits(filled: World, code: str) -> None:
    by_card = trace("person", f"https://truyvet.example/p/{CASE}", "--json")
    assert json.loads(by_card.stdout) == json.loads(trace("person", CASE, "--json").stdout)
    assert [(row["from"], row["to"], row["minutes"]) for row in json.loads(by_card.stdout)] == [
        (f"{day_name(DAY)} 08:00+07:00", f"{day_name(DAY)} 08:40+07:00", 40)
    ]
    marks = json.loads(trace("person", CONTACT, "--marks", "--json").stdout)
    assert [(row["at"][-11:], row["kind"]) for row in marks] == [
        ("08:30+07:00", "in"),
        ("08:31+07:00", "in"),
        ("08:31+07:00", "void"),
    ]


def test_a_scan_of_this_minute_is_found_without_a_window(filled: World, code: str) -> None:
    other = "00000000000000bb"
    filled.marks([(other, code, clock_ms() // MS_PER_MINUTE, "in")])
    assert [row["venue"] for row in json.loads(trace("person", other, "--json").stdout)] == [code]
    assert other in trace("venue", code, "--csv").stdout


@pytest.mark.parametrize("into_the_minute", [0, 1, 59_999])
def test_the_present_minute_is_in_a_window_that_ends_now(
    into_the_minute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = EIGHT * MS_PER_MINUTE
    ended = begun + MS_PER_MINUTE
    monkeypatch.setattr("deploy.cli.asking.clock_ms", lambda: begun + into_the_minute)
    assert window_of(None, None) == Window(ended - 14 * DAY_MS, ended)
    assert window_of(f"{day_name(DAY)}T08:00", None) == Window(begun, ended)
    assert window_of(None, f"{day_name(DAY)}T07:00").end == begun - 60 * MS_PER_MINUTE


def test_a_venue_by_poster_and_its_occupancy(filled: World, code: str) -> None:
    window = ("--from", day_name(DAY), "--to", f"{day_name(DAY)}T09:00")
    rows = json.loads(trace("venue", f"truyvet.example/v/{code.lower()}", *window, "--json").stdout)
    assert [(row["person"], row["minutes"]) for row in rows] == [(CASE, 40), (CONTACT, 30)]
    hours = json.loads(trace("occupancy", code, *window, "--json").stdout)
    counts = {"visitors": 2, "peak": 2, "check_ins": 2, "capacity": None, "exceeded": False}
    assert hours == [{"hour": format_time(EIGHT * MS_PER_MINUTE), **counts}]


def test_a_table_for_people(filled: World, code: str) -> None:
    result = trace("venue", code)
    assert result.exit_code == 0
    assert CONTACT in result.output
    assert "calc" in result.output
    assert "nobody" in trace("venue", code, "--from", "2020-01-01", "--to", "2020-01-02").output


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet", ".svg", ".graphml"])
def test_a_place_that_cannot_be_written_is_no_missing_file(
    filled: World, tmp_path: Path, suffix: str
) -> None:
    question = ("person", CASE) if suffix != ".graphml" else ("chain", CASE)
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    reasons = {
        Path(f"/proc/x{suffix}"): "",  # as root /proc takes no files, else one may not
        tmp_path / "no" / f"x{suffix}": f"there is no folder {tmp_path / 'no'}",
        folder: "it is a folder, not a file",
    }
    for path, why in reasons.items():
        result = trace(*question, "--out", str(path))
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"✗ {path} cannot be written: {why}" in " ".join(result.stderr.split())
        assert "no such file" not in result.stderr


def test_contacts_of_a_case(filled: World, code: str) -> None:
    columns = "case_id, person, venue, date, first, last, minutes, status, version"
    start = EIGHT * MS_PER_MINUTE
    day = date.fromisoformat(day_name(DAY))
    row = ("c-1", int(CONTACT, 16), code, day, start, start + 600_000, 10, "exposed", 1)
    filled.client.execute(f"INSERT INTO exposures ({columns}) VALUES", [row])
    rows = json.loads(trace("contacts", "--case", "c-1", "--json").stdout)
    assert [(row["person"], row["minutes"], row["date"]) for row in rows] == [(CONTACT, 10, day_name(DAY))]
    unknown = trace("contacts", "--case", "c-9")
    assert unknown.exit_code == 1
    assert "c-9" in unknown.output


def test_a_withdrawn_case_is_refused_in_the_same_words_by_every_command(
    filled: World, tmp_path: Path
) -> None:
    columns = "case_id, version, topic, status, person, window_start, window_end, min_overlap"
    row = (
        "c-7",
        2,
        "cases",
        "withdrawn",
        int(CASE, 16),
        EIGHT * MS_PER_MINUTE,
        (EIGHT + 60) * MS_PER_MINUTE,
        1,
    )
    filled.client.execute(f"INSERT INTO cases ({columns}) VALUES", [row])
    report_words = ["--case", "c-7", "--out", str(tmp_path / "c-7.pdf")]
    results = [trace("contacts", "--case", "c-7"), trace("contacts", "--case", "c-7", "--json")]
    results += [trace("chain", "--case", "c-7"), runner.invoke(report.commands, report_words)]
    assert {(each.exit_code, each.stdout) for each in results} == {(1, "")}
    (told,) = {each.stderr for each in results}
    assert told.startswith("✗ case c-7 is withdrawn: confirm it again with truyvet cases update c-7")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("contacts",), "either a person or --case"),
        (("contacts", CASE, "--case", "c-1"), "either a person or --case"),
        (("contacts", "--case", "c-1", "--from", "2021-02-02"), "leave them out"),
        (("person", "12"), "no person's card"),
        (("person", CASE, "--from", "yesterday"), "is not a time"),
        (("person", CASE, "--from", "2021-02-02", "--to", "2021-02-02"), "after the start"),
        (("venue", "CDEFHKC"), "no valid venue code"),
        (("person", CASE, "--json", "--csv"), "choose one"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(words: tuple[str, ...], told: str) -> None:
    result = trace(*words)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())


def test_clickhouse_away_is_one_clear_line(filled: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_CLICKHOUSE", "clickhouse://default@127.0.0.1:1/default")
    result = trace("person", CASE)
    assert result.exit_code == 3
    assert "ClickHouse" in result.output
    assert "Traceback" not in result.output
