"""The demo, small: the whole job on a stack of its own, and a check that can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.demo.check import Line, check_exposures
from deploy.demo.oracle import Exposed
from deploy.demo.story import demo_settings
from schemas.events import Exposure


@pytest.mark.engines
def test_the_whole_job_ends_with_all_equal_and_nothing_left_running(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    data = tmp_path / "data"
    call = ["demo", "--scans", "30000", "--people", "8000", "--data", str(data)]
    done = subprocess.run(
        [sys.executable, "-m", "truyvet", *call], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "all equal" in done.stdout
    assert "late scan" in done.stdout
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(data) in part for part in process.info["cmdline"] or ()) and process.pid not in before
    ]
    assert left == []


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
    assert check_exposures("", right, {"0": exposure(10)}).equal
    assert check_exposures("", right, {}).missing == 1
    assert check_exposures("", right, {"0": exposure(10, "withdrawn")}).missing == 1
    assert check_exposures("", {}, {"0": exposure(10)}).unexpected == 1
    assert check_exposures("", right, {"0": exposure(11)}).different == 1
    assert not Line("", 1, 1, 0, 0, 1).equal


def test_every_demo_has_ports_and_keys_of_its_own(tmp_path: Path) -> None:
    first, second = demo_settings(tmp_path), demo_settings(tmp_path)
    assert first.kafka_port != second.kafka_port or first.redis_port != second.redis_port
    assert first.identity_key != second.identity_key
