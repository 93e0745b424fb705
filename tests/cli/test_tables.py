"""Tables for people: what they copy is never cut, whatever the terminal; a pipe gets one line a row."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.output import Format, emit

ROOT = Path(__file__).parents[2]
COLUMNS = {
    "code": "Code",
    "person": "Person",
    "name": "Name",
    "from": "From",
    "full": "Full",
    "note": "To do",
}
NAME = "Chợ Đông Ba, cổng phía sông Hương, dãy hàng cá và hàng rau"
ROWS: list[dict[str, Any]] = [
    {"code": "KJ3VCMC8", "person": "0123456789abcdef", "name": NAME, "from": "2026-11-20 08:00+07:00"},
    {"code": "XRWTXR23", "person": "fedcba9876543210", "name": "a\n\tb", "from": None, "full": True},
]
SHOW = f"from deploy.cli.output import Format, emit; emit({ROWS!r}, {COLUMNS!r}, Format.TABLE, 'T [x]')"


def on_a_terminal(columns: int) -> list[str]:
    """What a process writes to a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(
        [sys.executable, "-c", SHOW],
        stdin=theirs,
        stdout=theirs,
        cwd=ROOT,
        env=env | {"TERM": "xterm"},
    ) as process:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()


@pytest.mark.parametrize("columns", [20, 60, 90, 200])
def test_no_terminal_is_too_narrow_for_an_identifier(columns: int) -> None:
    shown = on_a_terminal(columns)
    for row in ROWS:
        (line,) = [line for line in shown if row["code"] in line]
        assert row["person"] in line
    assert any("2026-11-20 08:00 " in line for line in shown)
    assert "T [x]" in shown[0]
    # names give way before lines get longer than the terminal
    table = [line for line in shown if "│" in line]
    assert (len(table) == 2) == (columns == 200)
    if columns == 90:
        assert max(map(len, shown)) <= 90


def test_a_pipe_gets_one_line_a_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    emit(ROWS, COLUMNS, Format.TABLE)
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert len(lines) == 2
    assert NAME in lines[0] and "a  b" in lines[1]


def test_a_time_says_its_zone_once_and_a_truth_is_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, COLUMNS, Format.TABLE)
    table = capsys.readouterr().out
    assert table.count("+07:00") == 1 and "From (+07:00)" in table
    assert "yes" in table and "True" not in table
    emit(ROWS, COLUMNS, Format.CSV)
    machine = capsys.readouterr().out
    assert "2026-11-20 08:00+07:00" in machine and "True" in machine
