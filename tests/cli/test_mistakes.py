"""A mistake ends in one line that says what to do: files, dates, persons; and the help says it before."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from deploy.cli import cases, figures, qr, scans, trace, venues
from schemas.departments import SECTORS

PERSON = "0123456789abcdef"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (venues, ("import", "{file}")),
        (scans, ("publish", "{file}")),
        (qr, ("posters", "--out", "x", "--from", "{file}")),
        (trace, ("chain", PERSON, "--isolations", "{file}")),
    ],
)
def test_a_file_that_is_not_there_or_no_file(module: Any, words: tuple[str, ...], tmp_path: Path) -> None:
    def said(file: Path) -> str:
        result = CliRunner().invoke(module.commands, [word.format(file=file) for word in words])
        assert result.exit_code == 2, result.output
        assert "Errno" not in result.output and result.stdout == ""
        return " ".join(result.stderr.split())

    missing, folder = tmp_path / "none.csv", tmp_path / "folder.csv"
    folder.mkdir()
    assert said(missing) == f"✗ no such file: {missing}"
    inside = tmp_path / "no" / "none.csv"
    assert said(inside) == f"✗ no such file: {inside} (there is no folder {inside.parent})"
    assert said(folder) == f"✗ {folder} is a folder, not a file"


@pytest.mark.parametrize(
    ("module", "words", "told"),
    [
        (trace, ("person", "XYZ"), "no pseudonym: that has 16 hexadecimal digits"),
        (
            cases,
            ("confirm", "--person", "XYZ", "--from", "2026-01-01", "--to", "2026-01-02"),
            "16 hexadecimal",
        ),
        (qr, ("card", "0905123456", "--out", "x.pdf"), "16 hexadecimal digits"),
        (figures, ("visits", "--from", "bad"), "'bad' is not a date: write 2021-02-08"),
        (figures, ("exposures", "--to", "2021-02-30"), "is not a date"),
    ],
)
def test_what_is_wanted_is_said(module: Any, words: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(module.commands, words)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert "isoformat" not in result.output


def test_the_help_of_an_import_names_sectors_and_units() -> None:
    shown = " ".join(CliRunner().invoke(venues.commands, ["import", "--help"]).stdout.split())
    for sector in SECTORS:
        assert sector in shown
    assert "dwell (minutes" in shown


def test_the_version_is_said() -> None:
    call = [sys.executable, "-m", "truyvet", "--version"]
    done = subprocess.run(
        call, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"truyvet {metadata.version('truyvet')}\n"


@pytest.mark.parametrize("words", [("--data", "x", "status"), ("--data=x", "up")])
def test_an_option_before_its_command_is_told_where_it_stands(words: tuple[str, ...]) -> None:
    call = [sys.executable, "-m", "truyvet", *words]
    done = subprocess.run(
        call, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "✗ --data stands after the command: truyvet status --data DIR\n"


def test_a_mistyped_variable_is_told_once_on_stderr_and_is_no_error(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "truyvet", "schemas", "export", str(tmp_path), "--json"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("TRUYVET_")}
    env |= {"TRUYVET_GATEWAY_KEY": "hunter2", "TRUYVET_DATA": "data", "TRUYVET_PURPOSE": "c-1"}
    done = subprocess.run(
        call, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=env, timeout=60, check=False
    )
    told = "! TRUYVET_GATEWAY_KEY is no setting and does nothing: did you mean TRUYVET_GATEWAY_KEYS?"
    assert (done.returncode, done.stderr.splitlines()) == (0, [told])
    assert orjson.loads(done.stdout)
