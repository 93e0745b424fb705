"""Deliberate defects, each of which the comparison must see; the same run without one must pass."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from schemas.settings import Settings
from tests.chaos import compare, expected
from tests.chaos import defect as defects
from tests.chaos.compare import Line
from tests.chaos.defect import ONCE
from tests.chaos.run import processes, read, role_command, settle, start_roles, today, with_keys
from tests.chaos.scenario import build
from tests.chaos.traffic import Traffic

pytestmark = pytest.mark.engines


def judged(settings: Settings, folder: Path, defect: str, seconds: float = 4.0) -> dict[str, Line]:
    """What the comparison says of a small run whose ingest worker has a defect, by promise."""
    scenario = build(11, 10_000, 12, today())
    wanted = expected.expect(scenario, folder / "oracle")
    began = time.monotonic()
    ingest = (sys.executable, defects.__file__, defect, "run", "ingest", "--worker", "0")
    commands = {name: role_command(name) for name in ("gateway", "cases", "matcher", "archive")}
    own = with_keys(settings)
    with processes(folder, lambda: time.monotonic() - began) as held:
        env = {ONCE: str(folder / "once")}
        start_roles(held, own, scenario, {"ingest-0": ingest} | commands, env)
        traffic = Traffic(scenario, own, seconds, lambda: time.monotonic() - began)
        began = time.monotonic()
        traffic.start()
        while traffic.busy and time.monotonic() < began + 60:
            held.tick()
            time.sleep(0.05)
        traffic.stop()
        assert settle(held, own, 60) == []
        killed = [end.code for end in held.own_ends].count(-9)
        assert killed == (folder / "once").exists(), held.own_ends
        return {line.what: line for line in compare.compare(wanted, read(own, traffic.sent))}


def not_kept(lines: dict[str, Line]) -> set[str]:
    return {what for what, line in lines.items() if not line.ok}


def test_without_a_defect_every_promise_is_kept(settings: Settings, tmp_path: Path) -> None:
    lines = judged(settings, tmp_path, "none")
    assert not_kept(lines) == set(), lines
    assert lines["exposures that stand"].expected > 50


def test_ack_before_publish_is_seen(settings: Settings, tmp_path: Path) -> None:
    lines = judged(settings, tmp_path, "ack-before-publish")
    assert (tmp_path / "once").exists()
    assert lines["acknowledged scans accounted for"].missing > 0
    assert lines["marks in the archive"].missing > 0
    assert lines["marks in Redis"].ok  # they were claimed


def test_dedup_by_claim_is_seen(settings: Settings, tmp_path: Path) -> None:
    lines = judged(settings, tmp_path, "dedup-by-claim")
    assert (tmp_path / "once").exists()
    assert lines["acknowledged scans accounted for"].missing > 0
    assert lines["marks in the archive"].missing > 0
    assert lines["marks in Redis"].ok


def test_ignored_flags_are_seen(settings: Settings, tmp_path: Path) -> None:
    lines = judged(settings, tmp_path, "flags-ignored", seconds=8.0)  # scans must come after flags
    assert lines["exposures that stand"].missing > 0
    assert lines["exposures in the archive"].missing > 0
    assert lines["acknowledged scans accounted for"].ok
