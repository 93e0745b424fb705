"""`truyvet cases` and `truyvet exposures` against a real Kafka."""

from __future__ import annotations

import csv
import io
import json
import time

import pytest
from typer.testing import CliRunner, Result

from deploy.cli import cases, exposures, qr
from producers.cases import CaseError, publish_case, read_cases, revised
from producers.compacted import KafkaAwayError, TopicMissingError, read_to_end
from schemas import topics
from schemas.events import Exposure, Venue
from schemas.settings import Settings
from schemas.times import format_time
from tests.cases_cli.test_alerts import exposure
from tests.cases_cli.writing import as_record, write

pytestmark = pytest.mark.engines

PERSON = "0123456789abcdef"
CODE = "M54HV62T"
WINDOW = ("--from", "2021-02-05", "--to", "2021-02-08T14:30", "--force")  # long ago: the same in every run


@pytest.fixture
def cli(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The commands see this test's own installation."""
    monkeypatch.setenv("TRUYVET_KAFKA", settings.kafka)
    monkeypatch.setenv("TRUYVET_TOPIC_PREFIX", settings.topic_prefix)
    monkeypatch.setenv("COLUMNS", "200")
    return settings


def run(*arguments: str, group: object = cases.commands) -> tuple[int, str, str]:
    result: Result = CliRunner().invoke(group, list(arguments))  # type: ignore[arg-type]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def a_venue() -> Venue:
    return Venue(
        code=CODE, name="Chợ Đông Ba", sector="trade", district="hue", department="so-cong-thuong", dwell=120
    )


def test_the_life_of_a_case(cli: Settings) -> None:
    code, stdout, stderr = run(
        "confirm",
        "--person",
        f"https://truyvet.example/p/{PERSON}",
        *WINDOW,
        "--id",
        "BN-1883",
        "--linger",
        "30",
    )
    assert code == 0
    assert "BN-1883 version 1 (confirmed) is published" in stdout
    assert "2021-02-05 00:00+07:00 to 2021-02-08 14:30+07:00" in stdout
    assert "beyond the 30 days" in stderr  # 2021 is long ago

    code, stdout, _ = run("update", "BN-1883", "--to", "2021-02-08", "--min-overlap", "15", "--json")
    assert code == 0
    updated = json.loads(stdout)
    assert (updated["version"], updated["to"], updated["min_overlap"], updated["linger"]) == (
        2,
        "2021-02-08 00:00+07:00",
        15,
        30,
    )
    code, stdout, _ = run("withdraw", "BN-1883")
    assert code == 0 and "version 3 (withdrawn) is published" in stdout
    code, stdout, _ = run("withdraw", "BN-1883")
    assert code == 0 and "was withdrawn already; nothing published" in stdout
    code, _, stderr = run("update", "BN-1883", "--linger", "0")
    assert code == 1 and "--reinstate" in stderr
    code, stdout, _ = run("update", "BN-1883", "--reinstate")
    assert code == 0 and "version 4 (confirmed)" in stdout

    records = list(read_to_end(cli, topics.CASES))
    assert [json.loads(record.value or b"")["version"] for record in records] == [1, 2, 3, 4]
    assert {record.key for record in records} == {b"BN-1883"} and len({r.partition for r in records}) == 1
    assert json.loads(records[0].value or b"") == {
        "case_id": "BN-1883",
        "version": 1,
        "status": "confirmed",
        "person": PERSON,
        "infectious_from": 1_612_458_000_000,
        "infectious_to": 1_612_769_400_000,
        "min_overlap": 1,
        "linger": 30,
    }


def test_an_id_is_made_and_the_same_call_again_publishes_nothing(cli: Settings) -> None:
    code, stdout, _ = run("confirm", "--person", PERSON, *WINDOW, "--json")
    assert code == 0
    made = json.loads(stdout)["case_id"]
    code, stdout, _ = run("confirm", "--person", PERSON, *WINDOW, "--id", made)
    assert code == 0 and "stood already; nothing published" in stdout
    code, _, stderr = run("confirm", "--person", PERSON, *WINDOW, "--id", made, "--linger", "5")
    assert code == 2 and f"there is a case {made} already (version 1, confirmed)" in stderr
    assert len(list(read_to_end(cli, topics.CASES))) == 1


def test_a_place_is_declared_if_it_is_in_the_register(cli: Settings) -> None:
    code, _, stderr = run("declare", "--venue", CODE, *WINDOW)
    assert code == 2 and f"{CODE} is not in the register" in stderr
    write(cli, topics.VENUES, [(CODE, a_venue().model_dump_json().encode())])
    code, stdout, _ = run("declare", "--venue", CODE.lower(), *WINDOW, "--id", "place-1", "--json")
    assert code == 0
    row = json.loads(stdout)
    assert (row["kind"], row["subject"], row["version"]) == ("venue", CODE, 1)
    code, stdout, _ = run("update", "place-1", "--from", "2021-02-06")
    assert code == 0 and "venue M54HV62T, 2021-02-06 00:00+07:00 to" in stdout


def test_list_as_table_json_and_csv(cli: Settings) -> None:
    code, stdout, _ = run("list", "--json")
    assert (code, json.loads(stdout)) == (0, [])
    run("confirm", "--person", PERSON, *WINDOW, "--id", "older")
    run(
        "confirm",
        "--person",
        PERSON,
        "--from",
        "2021-02-06",
        "--to",
        "2021-02-07",
        "--id",
        "-later",
        "--force",
    )
    run("withdraw", "older")
    code, stdout, _ = run("list", "--json")
    assert [(row["case_id"], row["version"], row["status"]) for row in json.loads(stdout)] == [
        ("-later", 1, "confirmed"),
        ("older", 2, "withdrawn"),
    ]
    _, stdout, _ = run("list", "--csv", "--confirmed")
    [row] = csv.DictReader(io.StringIO(stdout))
    assert row["case_id"] == "'-later"  # a spreadsheet would run it as a formula
    assert (row["subject"], row["from"]) == (PERSON, "2021-02-06 00:00+07:00")
    _, stdout, _ = run("list")
    assert PERSON in stdout and "older" in stdout
    assert run("list", "--json", "--csv")[0] == 2


def test_records_that_do_not_count_are_told(cli: Settings) -> None:
    write(cli, topics.CASES, [("c1", b"not json"), ("c2", None)])
    run("confirm", "--person", PERSON, *WINDOW, "--id", "c3")
    code, stdout, stderr = run("list", "--json")
    assert code == 1
    assert [row["case_id"] for row in json.loads(stdout)] == ["c3"]
    assert "Invalid JSON" in stderr and "a tombstone" in stderr and f"{cli.topic_prefix}cases" in stderr


def test_a_case_that_can_have_no_exposure_is_refused_unless_forced(cli: Settings) -> None:
    def day(number: int) -> str:
        return format_time(round((time.time() + number * 86_400) * 1000)).replace(" ", "T")

    write(cli, topics.VENUES, [(CODE, a_venue().model_dump_json().encode())])
    about = (("confirm", "--person", PERSON), ("declare", "--venue", CODE))
    for first, last, told in ((-40, -31, "beyond the 30 days"), (1, 2, "in the future")):
        for words in about:
            window = ("--from", day(first), "--to", day(last), "--id", f"{words[0]}{first}")
            code, stdout, stderr = run(*words, *window)
            assert code == 2 and told in stderr and "--force" in stderr and stdout == ""
    assert run("list", "--json")[1].strip() == "[]"
    for number, (first, last) in enumerate(((-40, -29), (-1, 2))):  # a part of it can be computed
        window = ("--from", day(first), "--to", day(last), "--id", f"part{number}")
        assert run(*about[0], *window)[0] == 0
    code, stdout, _ = run(*about[0], "--from", day(1), "--to", day(2), "--id", "meant", "--force")
    assert code == 0 and "is published" in stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["confirm", "--person", "0912345678", *WINDOW], 2, "no pseudonym: that has 16 hexadecimal digits"),
        (["declare", "--venue", "M54HV62C", *WINDOW], 2, "holds no valid venue code"),
        (["confirm", "--person", PERSON, "--from", "tomorrow", "--to", "2021-02-08"], 2, "is not a time"),
        (["confirm", "--person", PERSON, "--from", "2021-02-08", "--to", "2021-02-08"], 2, "must be before"),
        (["confirm", "--person", PERSON, *WINDOW, "--linger", "721"], 2, "linger: "),
        (["confirm", "--person", PERSON, *WINDOW, "--min-overlap", "0"], 2, "min_overlap: "),
        (["confirm", "--person", PERSON, *WINDOW, "--id", "a|b"], 2, "case_id: "),
    ],
)
def test_mistakes_are_one_clear_line_even_while_kafka_is_away(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.setenv("TRUYVET_KAFKA", "127.0.0.1:1")
    found, stdout, stderr = run(*arguments)
    assert found == code and message in stderr and stdout == ""


def test_an_unknown_case_is_one_clear_line(cli: Settings) -> None:
    for arguments in (("update", "none", "--linger", "1"), ("withdraw", "none")):
        code, stdout, stderr = run(*arguments)
        assert code == 2 and "there is no case none: see `truyvet cases list`" in stderr and stdout == ""


def test_an_update_that_changes_nothing(cli: Settings) -> None:
    run("confirm", "--person", PERSON, *WINDOW, "--id", "c1")
    code, _, stderr = run("update", "c1")
    assert code == 2 and "nothing to change" in stderr
    code, _, stderr = run("update", "c1", "--linger", "0")
    assert code == 2 and "says exactly that already" in stderr
    code, _, stderr = run("update", "c1", "--to", "2021-02-01")
    assert code == 2 and "must hold" in stderr
    assert len(list(read_to_end(cli, topics.CASES))) == 1


def test_of_two_operators_the_slower_one_is_told(cli: Settings) -> None:
    run("confirm", "--person", PERSON, *WINDOW, "--id", "c1")
    case = read_cases(cli).get("c1")
    publish_case(cli, revised(case, {"linger": 10}))
    with pytest.raises(CaseError, match=r"c1: version 2 \(confirmed\) stands, not yours"):
        publish_case(cli, revised(case, {"linger": 20}))
    assert read_cases(cli).get("c1").linger == 10


def test_kafka_away_is_said_at_once_and_a_missing_topic_too(
    cli: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUYVET_TOPIC_PREFIX", cli.topic_prefix + "none.")
    code, _, stderr = run("list")
    assert code == 2 and "make it with `truyvet topics apply`" in stderr
    code, _, stderr = run("follow", group=exposures.commands)
    assert code == 2 and "make it with `truyvet topics apply`" in stderr
    monkeypatch.setattr("producers.compacted.METADATA_SECONDS", 1.0)
    monkeypatch.setenv("TRUYVET_KAFKA", "127.0.0.1:1")
    code, _, stderr = run("list")
    assert code == 3 and "Kafka does not answer at 127.0.0.1:1" in stderr
    with pytest.raises(KafkaAwayError):
        list(read_to_end(Settings(kafka="127.0.0.1:1"), topics.CASES))
    with pytest.raises(TopicMissingError):
        list(read_to_end(cli.model_copy(update={"topic_prefix": "none."}), topics.CASES))


def test_posters_from_the_register(cli: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("posters")
    closed = a_venue().model_copy(update={"code": "4MK2442W8HM6", "closed_at": 1})
    records = [(venue.code, venue.model_dump_json().encode()) for venue in (a_venue(), closed)]
    write(cli, topics.VENUES, [*records, ("bad", b"{}")])
    code, stdout, _ = run("posters", "--out", str(folder), "--json", group=qr.commands)
    assert code == 0
    printed = json.loads(stdout)
    assert (printed["posters"], printed["closed"]) == (1, 1)
    assert [path.name for path in folder.iterdir()] == [f"{CODE}.pdf"]


def test_follow_from_the_beginning_honours_version(cli: Settings) -> None:
    alerts = [exposure(2), exposure(1), exposure(3, "withdrawn"), exposure(1, case_id="c2")]
    write(cli, topics.EXPOSURES, [as_record(alert) for alert in alerts])
    arguments = ("follow", "--from-beginning", "--until-idle", "1.5")
    code, stdout, _ = run(*arguments, "--json", group=exposures.commands)
    assert code == 0
    shown = [Exposure.model_validate_json(line) for line in stdout.splitlines()]
    assert [one.version for one in shown if one.case_id == "c1"] == [alerts[0].version, alerts[2].version]
    assert [one for one in shown if one.case_id == "c2"] == [alerts[3]]

    code, stdout, stderr = run(*arguments, "--case", "c1", group=exposures.commands)
    lines = stdout.splitlines()
    assert code == 0 and len(lines) == 2
    assert lines[0].startswith("TIẾP XÚC · exposed") and lines[1].startswith("RÚT LẠI  · withdrawn")
    assert (
        "2021-02-08 14:30–15:30   60 phút/min  0123456789abcdef @ M54HV62T (trade, Sở Công Thương)"
        in lines[0]
    )
    assert "2 alerts shown, 1 older versions ignored" in stderr


def test_follow_filters_by_department_and_reports_what_is_no_exposure(cli: Settings) -> None:
    other = exposure(1, case_id="c2", sector="health", department="so-y-te")
    write(cli, topics.EXPOSURES, [as_record(exposure(1)), as_record(other), ("x", b"{}"), ("y", None)])
    arguments = ("follow", "--from-beginning", "--until-idle", "1.5", "--json")
    code, stdout, stderr = run(*arguments, "--department", "so-y-te", group=exposures.commands)
    assert [json.loads(line)["case_id"] for line in stdout.splitlines()] == ["c2"]
    assert code == 1 and "exposure_id: Field required" in stderr
    code, _, stderr = run("follow", "--department", "so-x", group=exposures.commands)
    assert code == 2 and "there are so-y-te" in stderr
