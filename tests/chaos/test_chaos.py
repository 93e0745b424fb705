"""The short run: every process is hit while scans stream, and nothing may differ from the oracle."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tests.chaos import report
from tests.chaos.plan import KINDS
from tests.chaos.run import TARGETS, Options, run


@pytest.mark.engines
@pytest.mark.timeout(420)  # with every wait at its bound the run takes longer than the usual limit
def test_nothing_is_lost_and_nothing_wrong_stands_while_processes_die(tmp_path: Path) -> None:
    outcome = run(Options(seconds=45, seed=7, scans=60_000, cases=12, faults=14), tmp_path, print)
    report.show(outcome, Console(width=120))
    assert {hit.fault.target for hit in outcome.hits} == set(TARGETS)
    assert {hit.fault.kind for hit in outcome.hits} == set(KINDS)
    assert outcome.ok
