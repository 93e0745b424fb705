"""Who may see what: on the command line, and by the engine's own grants and row policies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_driver import Client
from typer.testing import CliRunner, Result

import truyvet
from deploy.audit import audit_records
from deploy.cli import access, figures, trace
from lookups.access import COMMANDS, QUESTIONS, Asking, ForbiddenError, PurposeError, may_call, permit
from lookups.audit import read_row
from schemas.codes import check_character
from schemas.settings import Settings, SettingsError, load_settings
from schemas.times import day_name, day_start, local_day
from sinks.migrate import load
from tests.privacy.conftest import clock_ms

ROOT = Path(__file__).parents[2]
DAY = local_day(clock_ms() // 60_000) - 2
NOON = day_start(DAY) // 60 + 12  # an hour
MARKET, SCHOOL, CLINIC = ("CDEF" + letter + check_character("CDEF" + letter) for letter in "HJK")
# persons at each venue on that day: the clinic has too few
PERSONS = {MARKET: 37, SCHOOL: 14, CLINIC: 3}
REGISTER = [
    (MARKET, "Chợ Đông Ba", "trade", "hue", "so-cong-thuong"),
    (SCHOOL, "Trường Quốc Học", "education", "hue", "so-giao-duc-dao-tao"),
    (CLINIC, "Trạm y tế", "health", "a-luoi", "so-y-te"),
]


def inserts() -> list[str]:
    """The same world for the server and for the engine alone."""
    register = ", ".join(
        f"('{code}', '{name}', '{sector}', '{district}', '{department}', 60, 1)"
        for code, name, sector, district, department in REGISTER
    )
    marks = ", ".join(
        f"('{venue}', {NOON}, {number}, 3)" for venue, count in PERSONS.items() for number in range(count)
    )
    warnings = ", ".join(
        f"('k-1', '{code}', '{day_name(DAY)}', '{department}', [({NOON}, {NOON + 1})], 2, 'exposed', 1)"
        for code, _, _, _, department in REGISTER
    )
    exposed = ", ".join(
        f"('k-1', {number}, '{MARKET}', '{day_name(DAY)}', 'exposed', 5, 1)" for number in range(12)
    )
    return [
        "INSERT INTO venues (code, name, sector, district, department, dwell, recorded_at) VALUES "
        + register,
        "INSERT INTO visits (venue, hour, person, ins) VALUES " + marks,
        "INSERT INTO venue_warnings (case_id, venue, date, department, presences, contacts, status, version)"
        " VALUES " + warnings,
        "INSERT INTO exposures (case_id, person, venue, date, status, minutes, version) VALUES " + exposed,
    ]


@pytest.fixture
def filled(archive: Client) -> Iterator[Client]:
    for statement in inserts():
        archive.execute(statement)
    yield archive


def asked(group: Any, *words: str, role: str, department: str = "") -> Result:
    env = {"TRUYVET_ROLE": role, "TRUYVET_DEPARTMENT": department}
    return CliRunner().invoke(group, words, env=env)


def counted(what: str, by: str, **who: str) -> dict[str, tuple[int, int]]:
    result = asked(figures.commands, what, "--by", by, "--json", **who)
    assert result.exit_code == 0, result.output
    event = "check_ins" if what == "visits" else "exposures"
    return {row[by]: (row["persons"], row[event]) for row in json.loads(result.stdout)}


@pytest.mark.engines
def test_numbers_by_role(filled: Client) -> None:
    exact = {"so-cong-thuong": (37, 74), "so-giao-duc-dao-tao": (14, 28), "so-y-te": (3, 6)}
    assert counted("visits", "department", role="tracer") == exact
    assert counted("visits", "venue", role="department", department="so-y-te") == {CLINIC: (3, 6)}
    # the clinic's three are left out; a known total would tell them, so the smallest other group is too
    assert counted("visits", "department", role="analyst") == {"so-cong-thuong": (30, 70)}
    assert counted("exposures", "district", role="tracer") == {"hue": (12, 12)}
    assert counted("exposures", "district", role="analyst") == {"hue": (10, 10)}
    assert counted("exposures", "venue", role="department", department="so-y-te") == {}
    refused = asked(figures.commands, "visits", "--by", "venue", role="analyst")
    assert refused.exit_code == 2
    empty = filled.execute(f"SELECT * FROM analyst_visits_by_day(first = {DAY}, last = {DAY}, by = 'venue')")
    assert empty == []


@pytest.mark.engines
def test_warnings_are_those_of_the_department(filled: Client) -> None:
    def seen(**who: str) -> list[str]:
        result = asked(figures.commands, "warnings", "--json", **who)
        assert result.exit_code == 0, result.output
        return sorted(row["venue"] for row in json.loads(result.stdout))

    assert seen(role="department", department="so-y-te") == [CLINIC]
    assert seen(role="department", department="ubnd-hue") == []
    assert seen(role="tracer") == sorted(PERSONS)
    assert asked(figures.commands, "warnings", role="analyst").exit_code == 2


@pytest.mark.engines
@pytest.mark.parametrize("role", ["department", "tracer"])
def test_a_department_that_no_venue_has_is_said(filled: Client, role: str) -> None:
    for words in (("warnings",), ("visits",), ("exposures", "--json")):
        result = asked(figures.commands, *words, role=role, department="so-khong")
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        told = " ".join(result.stderr.split())
        assert "no venue has the department so-khong" in told
        assert "so-cong-thuong, so-giao-duc-dao-tao, so-y-te" in told


@pytest.mark.engines
def test_a_department_sees_how_full_its_own_venues_are_and_nobody_in_them(
    filled: Client, settings: Settings
) -> None:
    own = asked(trace.commands, "occupancy", CLINIC, role="department", department="so-y-te")
    assert own.exit_code == 0, own.output
    for words in (("occupancy", CLINIC), ("venue", CLINIC, "--purpose", "k-1")):
        other = asked(trace.commands, *words, role="department", department="so-du-lich")
        assert other.exit_code == 2, other.output
    steps = [read_row(value)[0].step for _, value in audit_records(settings)]
    assert steps == ["asked", "answered", "refused", "refused"]


@pytest.mark.parametrize("role", ["department", "analyst", "auditor"])
def test_every_question_that_nobody_opened_is_a_tracers(role: str) -> None:
    asking = Asking("x", role, "so-y-te", "k-1")
    for question in ("person", "contacts", "venue", "chain", "places", "common", "case", "never heard of"):
        with pytest.raises(ForbiddenError):
            permit(question, asking)
        assert permit(question, Asking("x", "tracer", purpose="k-1")).persons
        with pytest.raises(PurposeError):
            permit(question, Asking("x", "tracer"))
    open_to = [name for name, question in QUESTIONS.items() if role in question.roles]
    assert not [name for name in open_to if QUESTIONS[name].persons]
    for name in open_to:
        permit(name, asking)


@pytest.mark.parametrize("role", ["department", "analyst", "auditor", "typo"])
def test_commands_of_other_roles_are_refused(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUYVET_ROLE", role)
    allowed = COMMANDS.get(role, frozenset())
    for command in ("cases", "exposures", "rejected", "trace", "figures", "audit", "simulate", "scans"):
        assert may_call(role, command) == (command in allowed)
        app = truyvet._assemble(command)
        result = CliRunner().invoke(app, [command, "--help"])
        assert (result.exit_code == 0) == (command in allowed), (command, result.output)


def test_a_role_that_there_is_not_is_told_with_those_that_there_are() -> None:
    env = {**os.environ, "TRUYVET_ROLE": "boss"}
    call = [sys.executable, "-m", "truyvet", "figures", "warnings"]
    done = subprocess.run(call, env=env, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'boss' is no role: there are tracer, department, analyst, auditor" in done.stderr


def test_a_department_must_be_named() -> None:
    with pytest.raises(SettingsError, match="TRUYVET_DEPARTMENT"):
        load_settings(role="department")
    assert load_settings(role="department", department="ubnd-a-luoi").department == "ubnd-a-luoi"


@pytest.mark.engines
def test_the_embedded_engine_says_that_it_has_no_roles(
    archive: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for statement in access.statements():  # a server would understand each
        assert archive.execute("SELECT formatQuery(%(sql)s)", {"sql": statement})
    result = asked(access.commands, "apply", role="tracer")
    assert result.exit_code == 2
    assert "Not enough privileges" in " ".join(result.output.split())
    assert "Stack trace" not in result.output and "DB::Exception" not in result.output
    assert asked(access.commands, "grant", "a;b", "--role", "analyst", role="tracer").exit_code == 2
    assert asked(access.commands, "grant", "linh", "--role", "department", role="tracer").exit_code == 2


# --- by the engine's own grants -------------------------------------------------------------------


def engine(folder: Path, role: str, *statements: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.privacy.enforced", str(folder), role],
        input=json.dumps(statements),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[Any] = json.loads(done.stdout)
    return found


DENIED = 497


def test_the_grants_hold_in_the_engine_itself(tmp_path: Path) -> None:
    made = [
        # the session of the engine is always that of `default`, whose rights change: the tables' owner stays
        statement.replace("DEFINER = CURRENT_USER", "DEFINER = owner").replace(
            "currentUser() = 'default'", "currentUser() = 'nobody'"
        )
        for migration in load()
        for statement in migration.statements
    ]
    mapping = "INSERT INTO department_users VALUES ('default', 'so-y-te'), ('other', 'so-cong-thuong')"
    day = f"first = {DAY}, last = {DAY}"
    whole = engine(tmp_path, "owner", *made, *inserts(), mapping, "SELECT count() FROM visits")
    assert [found for found in whole if not isinstance(found, list)] == []
    assert whole[-1] == [[sum(PERSONS.values())]]

    analyst = engine(
        tmp_path,
        "analyst",
        f"SELECT grouped, persons, check_ins FROM analyst_visits_by_day({day}, by = 'department')",
        "SELECT person FROM visits",
        "SELECT * FROM exposures",
        "SELECT * FROM venue_warnings",
        f"SELECT * FROM visits_by_day({day}, by = 'venue', departments = [])",
        f"SELECT person FROM analyst_visits_by_day({day}, by = 'department')",
        "SELECT * FROM lookup_audit",
        "TRUNCATE TABLE lookup_audit",
        "CREATE VIEW mine AS SELECT * FROM visits",
    )
    assert analyst[0] == [["so-cong-thuong", 30, 70]]
    assert analyst[1:5] == [DENIED] * 4
    assert analyst[5] == 47  # there is no such column
    assert analyst[6:] == [DENIED] * 3

    department = engine(
        tmp_path,
        "department",
        "SELECT venue FROM department_warnings(department = 'so-y-te')",
        "SELECT venue FROM department_warnings(department = 'so-cong-thuong')",
        "SELECT venue FROM venue_warnings",
        f"SELECT grouped, persons FROM department_visits_by_day({day}, by = 'venue', department = 'so-y-te')",
        f"SELECT * FROM department_visits_by_day({day}, by = 'venue', department = 'so-cong-thuong')",
        "SELECT user FROM department_users",
        "SELECT * FROM visits",
        "SELECT * FROM exposures",
        "SELECT * FROM cases",
        "SELECT * FROM lookup_audit",
        "INSERT INTO department_users VALUES ('default', 'so-cong-thuong')",
    )
    assert department[0] == [[CLINIC]]
    assert department[1] == []
    assert department[2] == [[CLINIC]]
    assert department[3] == [[CLINIC, 3]]
    assert department[4] == []
    assert department[5] == [["default"]]
    assert department[6:] == [DENIED] * 5

    auditor = engine(
        tmp_path,
        "auditor",
        "INSERT INTO lookup_audit (asked_at, asker) VALUES (now(), 'x')",
        "SELECT count() FROM lookup_audit",
        "SELECT * FROM visits",
        "SELECT * FROM venue_warnings",
        "SELECT * FROM cases_current",
        "ALTER TABLE lookup_audit DELETE WHERE 1",
    )
    assert auditor[:2] == [[], [[1]]]
    assert auditor[2:] == [DENIED] * 4

    window = f"{NOON * 60 - 600}, {NOON * 60 + 600}"
    tracer = engine(
        tmp_path,
        "tracer",
        f"SELECT count() FROM presences_of_persons(asked = [(1, {window})])",
        f"SELECT count() > 0 FROM contacts_of_persons(asked = [(1, {window})], linger = 0, min_overlap = 1)",
        "SELECT count() FROM venue_warnings",
        "SELECT count() FROM cases_current",
        "INSERT INTO lookup_audit (asked_at, asker) VALUES (now(), 'x')",
        "SELECT arguments FROM lookup_audit",
        "ALTER TABLE lookup_audit DELETE WHERE 1",
        "TRUNCATE TABLE lookup_audit",
        "ALTER TABLE visits DELETE WHERE 1",
    )
    assert tracer[:5] == [[[3]], [[1]], [[3]], [[0]], []]
    assert tracer[5:] == [DENIED] * 4
