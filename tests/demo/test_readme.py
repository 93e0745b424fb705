"""What README and CONTRACTS show, pasted into a shell in a fresh folder, on a stack of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.engines import free_base, free_ports
from producers.examples import CASE, LATE, MET
from schemas.settings import Settings

ROOT = Path(__file__).parents[2]
GATEWAY = f"127.0.0.1:{Settings().gateway_port}"


def shown(document: str, heading: str) -> list[str]:
    """The shell commands that a section shows, a string a block."""
    text = (ROOT / document).read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


class Shell:
    """Bash in a folder that looks like a fresh clone; the ports are others than a user's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docs").symlink_to(ROOT / "docs")
        redis, clickhouse, gateway = free_ports(3)
        self.gateway = f"127.0.0.1:{gateway}"
        own = {
            "TRUYVET_KAFKA_PORT": free_base((0, 1)),
            "TRUYVET_REDIS_PORT": redis,
            "TRUYVET_CLICKHOUSE_PORT": clickhouse,
            "TRUYVET_GATEWAY_PORT": gateway,
            "TRUYVET_METRICS_PORT": free_base((0, 64, 65, 66)),
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("TRUYVET_")}
        self.environment = others | {name: str(port) for name, port in own.items()}
        self.environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def run(self, text: str) -> str:
        """What it prints; every command must end with 0."""
        truyvet = shlex.join([sys.executable, "-m", "truyvet"])
        script = text.replace(".venv/bin/truyvet", truyvet).replace(GATEWAY, self.gateway)
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    made.run(".venv/bin/truyvet down")


@pytest.mark.engines
def test_what_is_shown_can_be_pasted_and_ends_in_alerts(shell: Shell) -> None:
    (commands,) = shown("README.md", "Run it")
    assert commands.endswith(".venv/bin/truyvet down\n")
    keys, posting = shown("docs/CONTRACTS.md", "Posting scans")
    said = shell.run(keys + commands.removesuffix(".venv/bin/truyvet down\n"))
    alerts = [line for line in said.splitlines() if "TIẾP XÚC" in line]
    assert {person for person in (*MET, LATE) if any(person in line for line in alerts)} == set(MET)
    assert all("HUE-1" in line for line in alerts)
    contacts = said.split("Contacts of case HUE-1")[1]
    assert all(person in contacts for person in MET)
    assert LATE not in contacts
    assert len(list((shell.folder / "posters").glob("*.pdf"))) == 40
    assert (shell.folder / "HUE-1.pdf").read_bytes().startswith(b"%PDF")

    if shutil.which("curl") is None:
        return  # it is no part of the product
    assert re.findall(r'"accepted":(\d)', shell.run(keys + posting)) == ["1", "2"]
    posted, deadline = set[str](), time.monotonic() + 60
    while len(posted) < 3:
        assert time.monotonic() < deadline, posted
        found = shell.run(".venv/bin/truyvet trace venue CDEFHJKV --purpose HUE-1 --json")
        posted = {row["person"] for row in json.loads(found)}
    assert posted == {CASE, "00000000000000a1", "00000000000000a2"}
