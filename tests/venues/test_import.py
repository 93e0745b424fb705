"""Importing venues: what is new, what is bad and why, and that a second import changes nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.venues import commands
from deploy.local.memory import environment_of
from producers.venues.importing import DEFAULT_DWELL, FileError, Plan, new_districts, plan, rows_of
from schemas.codes import check_character, is_code
from schemas.departments import SECTORS
from schemas.events import Venue
from schemas.settings import Settings

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "venues.csv"
ONE, TWO = ("CDEFHJK" + check_character("CDEFHJK"), "CDEFHJM" + check_character("CDEFHJM"))
HEAD = b"name,sector,district,parent,dwell,code,closed_at\n"


def planned(text: str, register: dict[str, Venue] | None = None) -> Plan:
    choose = random.Random(5).choice
    return plan(rows_of(HEAD + text.encode()), register or {}, choose)


def registered(*plans: Plan) -> dict[str, Venue]:
    return {venue.code: venue for each in plans for venue in (*each.new, *each.changed, *each.unchanged)}


def test_the_example_imports_whole_and_again_unchanged() -> None:
    rows = rows_of(EXAMPLE.read_bytes())
    first = plan(rows, {})
    assert (len(first.new), first.bad) == (40, [])
    assert all(is_code(venue.code) for venue in first.new)
    stalls = [venue for venue in first.new if venue.parent is not None]
    assert len(stalls) == 7
    again = plan(rows, registered(first))
    assert (len(again.new), len(again.changed), len(again.unchanged)) == (0, 0, 40)
    assert again.codes == first.codes


def test_every_sector_has_a_default_dwell() -> None:
    assert set(DEFAULT_DWELL) == set(SECTORS)
    venue = planned("Khách sạn,lodging,hue,,,,\n").new[0]
    assert (venue.dwell, venue.department) == (720, "so-du-lich")


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("X,shop,hue,,,,\n", 2, "sector"),
        (",trade,hue,,,,\n", 2, "name"),
        ("X,trade,Huế,,,,\n", 2, "district"),
        ("X,trade,hue,Y,,,\n", 2, "parent"),
        ("X,trade,hue,,hour,,\n", 2, "dwell"),
        ("X,trade,hue,,721,,\n", 2, "dwell"),
        ("X,trade,hue,,0,,\n", 2, "dwell"),
        ("X,trade,hue,,6_0,,\n", 2, "dwell"),
        ("X,trade,hue,,٦٠,,\n", 2, "dwell"),
        ("X,trade,hue,,,CCCD,\n", 2, "code"),
        ("X,trade,hue,,,,soon\n", 2, "closed_at"),
        ("X,trade,hue,,,,\nx ,trade,hue,,,,\n", 3, "name"),
        ("X,trade,hue,Y,,,\nY,trade,hue,X,,,\n", 2, "parent"),
        ("X,trade,hue,,,,,,\n", 2, ""),
    ],
)
def test_a_bad_row_is_named_with_its_column(text: str, line: int, column: str) -> None:
    bad = planned(text).bad
    assert (bad[0].line, bad[0].column) == (line, column)
    assert bad[0].reason


def test_a_dwell_never_changes_and_a_name_may() -> None:
    first = planned("X,trade,hue,,60,,\n")
    code = first.new[0].code
    assert planned("X,trade,hue,,61,,\n", registered(first)).bad[0].column == "dwell"
    renamed = planned(f"Y,trade,hue,,60,{code},\n", registered(first))
    assert [venue.name for venue in renamed.changed] == ["Y"]
    # a new code for the same place, once the old one is closed; then a row without a code is the open one
    again = f"X,trade,hue,,61,{TWO},\n"
    assert planned(again, registered(first)).bad[0].column == "code"
    shut = {code: first.new[0].model_copy(update={"closed_at": 5})}
    second = planned(again, shut)
    assert [venue.dwell for venue in second.new] == [61]
    both = shut | registered(second)
    assert planned("X,trade,hue,,,,\n", both).unchanged == second.new
    # without a dwell of its own, a row keeps the one that is set
    assert planned(f"X,lodging,hue,,,{code},\n", registered(first)).changed[0].dwell == 60


def test_a_district_that_nobody_knows_is_named_with_its_departments() -> None:
    mistyped = planned("X,district,atlantis,,,,\nY,trade,atlantis,,,,\nZ,district,a-luoi,,,,\n")
    assert mistyped.bad == []
    assert new_districts(mistyped.new, {}) == {"atlantis": ["so-cong-thuong", "ubnd-atlantis"]}
    assert new_districts(mistyped.new, registered(mistyped)) == {}
    assert new_districts(plan(rows_of(EXAMPLE.read_bytes()), {}).new, {}) == {}


def test_two_venues_may_swap_their_names() -> None:
    first = planned(f"X,trade,hue,,,{ONE},\nY,trade,hue,,,{TWO},\n")
    swapped = planned(f"Y,trade,hue,,,{ONE},\nX,trade,hue,,,{TWO},\n", registered(first))
    assert (swapped.bad, {venue.code: venue.name for venue in swapped.changed}) == ([], {ONE: "Y", TWO: "X"})


def test_a_column_that_is_not_there_changes_nothing_and_an_empty_cell_does() -> None:
    full = plan(rows_of(b"name,sector,district,capacity,opens,lat\nX,trade,hue,40,06:00,16.47\n"), {})
    few = plan(rows_of(b"name,sector,district\nX,trade,hue\n"), registered(full))
    assert few.unchanged == full.new
    emptied = plan(rows_of(b"name,sector,district,capacity,opens,lat\nX,trade,hue\n"), registered(full))
    assert [(venue.capacity, venue.opens, venue.lat) for venue in emptied.changed] == [(None, None, None)]


def test_semicolons_bom_and_a_decimal_comma() -> None:
    content = "\ufeffname;sector;district;lat\nX;trade;hue;16.47\nY;trade;hue;16,47\n"
    read = plan(rows_of(content.encode()), {})
    assert [venue.lat for venue in read.new] == [16.47]
    assert [(bad.line, bad.column) for bad in read.bad] == [(3, "lat")]
    assert "16.4722" in read.bad[0].reason


def test_a_parent_may_stand_below_its_child() -> None:
    both = planned("Stall,trade,hue,Market,,,\nMarket,trade,hue,,,,\n")
    by_name = {venue.name: venue for venue in both.new}
    assert by_name["Stall"].parent == by_name["Market"].code


@pytest.mark.parametrize("content", [b"", b"name,sector\n", b"name,sector,district,colour\n", b"\xff\xfe\n"])
def test_a_file_that_is_no_list_is_refused(content: bytes) -> None:
    with pytest.raises(FileError):
        rows_of(content)


def test_of_a_file_of_something_else_nothing_is_shown() -> None:
    with pytest.raises(FileError, match="is it another file") as error:
        rows_of(b"person,0000000000000abc\n")
    assert "0abc" not in str(error.value)


@pytest.mark.engines
def test_the_commands_on_real_kafka(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    runner = CliRunner()
    first = runner.invoke(commands, ["import", str(EXAMPLE), "--json", "--out", str(tmp_path / "codes.csv")])
    assert (first.exit_code, '"new": 40' in first.stdout) == (0, True)
    again = runner.invoke(commands, ["import", str(tmp_path / "codes.csv"), "--json"])
    assert '"unchanged": 40' in again.stdout
    assert '"written": 0' in again.stdout
    listed = runner.invoke(commands, ["list", "--sector", "lodging", "--csv"])
    assert len(listed.stdout.splitlines()) == 5
    code = listed.stdout.splitlines()[1].split(",")[0]
    poster = f"https://truyvet.example/v/{code.lower()}"
    assert runner.invoke(commands, ["close", poster, "--at", "2026-01-01T00:00:30"]).exit_code == 0
    assert runner.invoke(commands, ["close", code[:-1], "--at", "2026-01-01"]).exit_code == 2
    table = runner.invoke(commands, ["list"], env={"COLUMNS": "20"}).stdout  # no terminal: no limit
    assert "2026-01-01 00:00 " in table and "Closed (+07:00)" in table
    assert sum(venue.split(",")[0] in table for venue in listed.stdout.splitlines()[1:]) == 4
    whole = tmp_path / "whole.csv"
    whole.write_text(runner.invoke(commands, ["list", "--csv"]).stdout, encoding="utf-8")
    assert "2026-01-01T00:00:30.000+07:00" in whole.read_text(encoding="utf-8")
    assert '"unchanged": 40' in runner.invoke(commands, ["import", str(whole), "--json"]).stdout
    as_json = json.loads(runner.invoke(commands, ["list", "--json"]).stdout)
    assert {venue["code"]: venue["closed_at"] for venue in as_json}[code] == 1767200430000
    assert all(Venue.model_validate(venue) for venue in as_json)
    bad = tmp_path / "bad.csv"
    bad.write_text("name,sector,district\nOK,trade,hue\nX,[/red],hue\n", encoding="utf-8")
    refused = runner.invoke(commands, ["import", str(bad)])
    assert (refused.exit_code, isinstance(refused.exception, SystemExit)) == (1, True)
    assert "bad.csv line 3, sector: '[/red]' is not one of" in refused.stderr
    assert "OK" not in runner.invoke(commands, ["list", "--csv"]).stdout
    assert runner.invoke(commands, ["import", str(bad), "--skip-bad"]).exit_code == 1
    assert "OK" in runner.invoke(commands, ["list", "--csv"]).stdout
    lost = tmp_path / "lost.csv"
    lost.write_text("name,sector,district\nLost,district,atlantis\n", encoding="utf-8")
    warned = runner.invoke(commands, ["import", str(lost), "--dry-run", "--json"])
    assert warned.exit_code == 0
    assert "district atlantis is new to the register (department ubnd-atlantis)" in warned.stderr
    assert json.loads(warned.stdout)["new_districts"] == {"atlantis": ["ubnd-atlantis"]}
    assert runner.invoke(commands, ["import", str(lost)]).exit_code == 0
    assert "new to the register" not in runner.invoke(commands, ["import", str(lost)]).stderr
