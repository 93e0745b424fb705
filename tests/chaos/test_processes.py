"""The process manager on small processes: each kind of fault, an end by itself, and nothing left behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.chaos.plan import Fault, Kind
from tests.chaos.processes import Processes, Spec, telling

SLEEPS = (sys.executable, "-c", "import time; time.sleep(60)")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Processes]:
    began = time.monotonic()
    processes = Processes(tmp_path, lambda: time.monotonic() - began)
    yield processes
    processes.end()


def until(held: Processes, true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        held.tick()
        time.sleep(0.02)


def children() -> set[psutil.Process]:
    return {
        child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE
    }


@pytest.mark.parametrize(("kind", "code"), [("kill", -9), ("end", -15), ("stop", None)])
def test_what_is_hit_comes_back(held: Processes, kind: Kind, code: int | None) -> None:
    before = children()
    held.start(Spec("one", SLEEPS))
    (first,) = children() - before
    assert held.hit(Fault(0.0, "one", kind, 0.3))
    assert not held.hit(Fault(0.0, "one", "kill", 0.0))  # one thing at a time
    until(held, lambda: held.calm)
    (hit,) = held.hits
    assert hit.code == code
    assert hit.back is not None
    assert hit.back - hit.at >= 0.3
    (now,) = children() - before
    assert (now == first) == (kind == "stop")
    assert held.own_ends == []
    held.end()
    assert children() == before


def test_what_ends_by_itself_is_counted_with_its_words_and_started_again(
    held: Processes, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    program = (
        f"import pathlib, time\nmarker = pathlib.Path({str(marker)!r})\n"
        "if not marker.exists():\n    marker.touch(); raise ValueError('out of luck')\ntime.sleep(60)"
    )
    held.start(Spec("one", (sys.executable, "-c", program)))
    until(held, lambda: bool(held.own_ends) and held.calm)
    (end,) = held.own_ends
    assert (end.name, end.code) == ("one", 1)
    assert "ValueError: out of luck" in end.words


def test_one_that_is_stopped_is_ended_too(held: Processes) -> None:
    before = children()
    held.start(Spec("one", SLEEPS))
    assert held.hit(Fault(0.0, "one", "stop", 60.0))
    began = time.monotonic()
    held.end()
    assert children() == before
    assert time.monotonic() - began < 10


def test_the_telling_lines_of_a_log() -> None:
    log = "begins\nCRITICAL the worker ends: X\nTraceback\n  at 1\nY: Z\nStopping\n"
    assert telling(log) == ["CRITICAL the worker ends: X", "Traceback"]
    assert telling("one\n\ntwo\n") == ["one", "two"]
