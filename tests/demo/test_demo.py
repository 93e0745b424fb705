"""The demo, small: the whole job on a stack of its own, and a check that can fail."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from deploy.cli.demo import commands
from deploy.demo.check import Line, check_exposures
from deploy.demo.choice import DAY_MS, NobodyError, person_case, place_case
from deploy.demo.oracle import Exposed, World
from deploy.demo.story import demo_settings
from schemas.events import Exposure


@pytest.mark.engines
def test_the_whole_job_ends_with_all_equal_and_nothing_left_running(tmp_path: Path) -> None:
    data = tmp_path / "data"
    call = ["demo", "--scans", "30000", "--people", "8000", "--data", str(data)]
    done = subprocess.run(
        [sys.executable, "-m", "truyvet", *call], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all equal" in done.stdout
    assert "late scan → exposure" in done.stdout
    assert "NOT" not in done.stdout
    assert running_with(data) == []


@pytest.mark.engines
def test_ended_in_the_middle_it_leaves_nothing_running(tmp_path: Path) -> None:
    data = tmp_path / "data"
    call = ["demo", "--scans", "30000", "--people", "8000", "--data", str(data)]
    process = subprocess.Popen(
        [sys.executable, "-m", "truyvet", *call], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "archive: up" in line:
            break
    process.terminate()
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "kafka: ended" in rest
    assert "Traceback" not in rest
    assert running_with(data) == []
    assert (data / "run").is_dir()  # the logs stay


def running_with(data: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(data) in part for part in process.info["cmdline"] or ())
    ]


@pytest.mark.parametrize("kind", ["full", "file"])
def test_a_folder_that_is_in_use_is_refused_before_anything_starts(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    if kind == "file":
        data.write_text("")
    else:
        data.mkdir()
        (data / "precious").write_text("")
    result = CliRunner().invoke(commands, ["--data", str(data)])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert str(data) in result.output.replace("\n", "")


def test_a_simulation_without_a_story_is_told(tmp_path: Path) -> None:
    """Nobody meets anybody, and no market has stalls."""
    np.savez_compressed(
        tmp_path / "marks.npz",
        person=np.array([1, 2], np.uint64),
        venue=np.array([0, 1], np.int16),
        minute=np.array([27_000_000, 27_000_000], np.int32),
        kind=np.array([0, 0], np.int8),
    )
    places = [{"code": code, "parent": None, "dwell": 60} for code in ("CDEF", "CDEH")]
    (tmp_path / "venues.json").write_text(json.dumps(places))
    (tmp_path / "rejected.json").write_text("{}")
    world = World(tmp_path)
    now = 27_000_000 * 60_000 + 2 * DAY_MS
    with pytest.raises(NobodyError, match="--scans"):
        person_case(world, now)
    with pytest.raises(NobodyError, match="--seed"):
        place_case(world, {"CDEF": "Chợ Đông Ba", "CDEH": "Ga Huế"}, now)


def exposure(minutes: int, status: str = "exposed") -> Exposure:
    return Exposure.model_validate(
        {
            "exposure_id": "0" * 32,
            "case_id": "k",
            "person": "b" * 16,
            "venue": "CDEF",
            "sector": "trade",
            "department": "so-cong-thuong",
            "date": "2026-01-01",
            "first": 0,
            "last": minutes * 60_000,
            "minutes": minutes,
            "status": status,
            "case_version": 1,
            "evidence": 2,
            "version": 4294967298,
        }
    )


def test_the_check_sees_every_kind_of_difference() -> None:
    key = ("k", "b" * 16, "CDEF", "2026-01-01")
    right = {key: Exposed(0, 600_000, 10)}
    assert check_exposures("", right, [exposure(10)]).equal
    assert check_exposures("", right, []).missing == 1
    assert check_exposures("", right, [exposure(10, "withdrawn")]).missing == 1
    assert check_exposures("", {}, [exposure(10)]).unexpected == 1
    assert check_exposures("", right, [exposure(11)]).different == 1
    assert not Line("", 1, 1, 0, 0, 1).equal


def test_every_demo_has_ports_and_keys_of_its_own(tmp_path: Path) -> None:
    first, second = demo_settings(tmp_path), demo_settings(tmp_path)
    assert first.kafka_port != second.kafka_port or first.redis_port != second.redis_port
    assert first.identity_key != second.identity_key
