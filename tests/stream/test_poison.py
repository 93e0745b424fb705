"""The alarm for many rejected scans: against a plain count, and in a real worker."""

from __future__ import annotations

import logging
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.roles import metrics_port
from schemas import topics
from schemas.settings import Settings
from stream_processors.metrics import Metrics
from stream_processors.poison import PoisonAlarm, PoisonGuard
from tests.stream.harness import installed, now_ms, person

# seconds since the one before, accepted, rejected
CHUNKS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 1.0, 5.0, 61.0]), st.integers(0, 200), st.integers(0, 200))
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(CHUNKS)
def test_the_alarm_follows_the_share(chunks: list[tuple[float, int, int]]) -> None:
    """Never on where a count of all that may be in the window says no, never off where it must be on."""
    clock = Clock()
    guard = PoisonGuard(0.2, clock, calm_s=0.0)
    history: list[tuple[float, int, int]] = []
    told = []
    for pause, good, bad in chunks:
        clock.now += pause
        history.append((clock.now, good + bad, bad))
        news = guard.seen(good + bad, ["malformed"] * bad)
        if news is not None:
            told.append(news.alarm)
            assert news.alarm == guard.alarm
            assert news.rejected <= news.scans
        # a slice of a second leaves the window as one: either bound may hold
        sums = {
            (sum(scans for at, scans, _ in history if at > cut), sum(b for at, _, b in history if at > cut))
            for cut in (clock.now - 60 + step / 20 for step in range(21))
        }
        verdicts = {scans >= 100 and bad > 0.2 * scans for scans, bad in sums}
        assert guard.alarm in verdicts
    assert all(one != other for one, other in pairwise(told)), "told once, and once when it is over"
    assert told[:1] in ([], [True])


def test_it_begins_and_ends_once_and_names_the_reasons() -> None:
    clock = Clock()
    guard = PoisonGuard(0.2, clock)
    assert guard.seen(99, ["malformed"] * 99) is None, "too few to say anything"
    news = guard.seen(101, ["unknown_venue"] * 100)
    assert news is not None
    assert str(news).startswith(
        "100% of the last 200 scans are rejected: 100 unknown_venue, 99 malformed; see "
    )
    assert guard.seen(100, ["malformed"] * 100) is None, "not told again"
    for _ in range(60):
        clock.now += 1
        news = guard.seen(50)
        assert (news is None) == guard.alarm
        if news is not None:
            break
    assert news is not None
    assert str(news).startswith("the alarm is over: ")
    assert clock.now < 1061 + 1
    clock.now += 100
    assert guard.seen(1) is None
    assert not guard.alarm


def test_a_share_that_swings_does_not_begin_and_end_with_every_chunk() -> None:
    clock = Clock()
    guard = PoisonGuard(0.5, clock, window_s=2.0)
    told = []
    for number in range(200):
        clock.now += 1
        news = guard.seen(1000, ["invalid"] * (700 if number % 4 < 2 else 300))
        told += [news] if news else []
    assert len(told) == 1


def test_an_alarm_ends_though_nothing_comes_any_more(caplog: pytest.LogCaptureFixture) -> None:
    clock, metrics = Clock(), Metrics()
    alarm = PoisonAlarm(PoisonGuard(0.2, clock), metrics)

    def metric() -> float | None:
        return metrics.registry.get_sample_value("truyvet_poison_alarm")

    with caplog.at_level(logging.WARNING):
        assert metric() == 0
        assert alarm.seen(200, ["malformed"] * 100)
        assert (metric(), len(caplog.records)) == (1, 1)
        clock.now += 61
        assert (metric(), len(caplog.records)) == (0, 2)
        assert (metric(), len(caplog.records)) == (0, 2)


@pytest.mark.engines
def test_a_worker_raises_it(settings: Settings, tmp_path: Path) -> None:
    with installed(settings, tmp_path, "ingest") as here:
        for number in range(300):
            here.scan(person(number), "CDEFHJKM", now_ms())
        here.settle(["ingest"])
        address = f"http://127.0.0.1:{metrics_port(settings, 'ingest')}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert "truyvet_poison_alarm 1.0" in answer.read().decode()
        assert here.tail("ingest").count("% of the last") == 1
        assert len(here.read(topics.SCANS_REJECTED)) == 300
