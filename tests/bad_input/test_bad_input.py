"""Thirty thousand records, half of them bad, through real roles; and validation alone against the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from producers.dead_letters import DeadLetter
from schemas import topics
from schemas.settings import Settings
from stream_processors.records import Record, Records
from stream_processors.validation import validate
from tests.bad_input import oracle
from tests.bad_input.mutate import MUTATIONS, Made, Maker
from tests.bad_input.run import ROLES, Outcome, Run
from tests.stream.harness import Installation, installed, now_ms

NOW = 1_795_000_000_000


@pytest.mark.engines
def test_no_worker_dies_and_each_element_is_found_again(settings: Settings, tmp_path: Path) -> None:
    with installed(settings, tmp_path, *ROLES) as here:
        outcome = Run(here, 30_000, 1, now_ms(), print).run(120)
    assert outcome.problems == 0, "\n".join(outcome.differences)
    kinds = outcome.kinds
    assert {f"scans: {each.__name__.strip('_')}" for each in MUTATIONS} <= kinds.keys()
    assert all(kind.records for kind in kinds.values())
    assert sum(kind.accepted for kind in kinds.values()) > 20_000
    assert sum(kind.rejected for kind in kinds.values()) > 10_000
    assert sum(kind.refused for kind in kinds.values()) > 0, "a value of 10 MB that does not compress"


@pytest.mark.parametrize("seed", [2, 3])
def test_validation_says_what_the_oracle_says(seed: int) -> None:
    """Chunk by chunk, whatever stands beside each other; reason and element, and every good scan."""
    make = Maker(seed, NOW)
    venues = {code: make.closed_at if code == make.closed else None for code in make.venues}

    def closed_at(codes: Sequence[str]) -> dict[str, int | None]:
        return {code: venues[code] for code in codes if code in venues}

    for start in range(0, 15_000, 300):
        records = [make.scans(number) for number in range(start, start + 300)]
        wanted_bad: Counter[tuple[int, int, str]] = Counter()
        wanted_good: Counter[str] = Counter()
        for offset, made in enumerate(records):
            verdicts = oracle.scan_verdicts(made.value, made.headers, made.timestamp, venues)
            for index, (verdict, scan) in enumerate(verdicts):
                if verdict:
                    wanted_bad[offset, index, verdict] += 1
                else:
                    wanted_good[scan["scan_id"]] += 1
        chunk = Records.of(
            Record(made.value, offset, made.timestamp, made.headers) for offset, made in enumerate(records)
        )
        found = validate(chunk, closed_at, oracle.RETENTION_MS)
        bad = Counter(
            (
                each.offset,
                each.index,
                oracle.BAD if each.reason in {"malformed", "invalid"} else each.reason,
            )
            for each in found.rejected
        )
        assert bad == wanted_bad
        assert Counter(found.scans.scan_ids) == wanted_good


def letter(**headers: str) -> DeadLetter:
    texts = {"reason": "invalid", "detail": "x", "attempts": "1", "source-index": "0"} | headers
    names = {name.replace("_", "-"): text.encode() for name, text in texts.items()}
    return DeadLetter(topics.SCANS_REJECTED, 0, 0, 0, None, b"{}", names)


@pytest.mark.parametrize(
    ("wanted", "found", "told"),
    [
        ({0: oracle.BAD}, [letter()], ""),
        ({0: oracle.BAD}, [], "element 0 is missing"),
        ({}, [letter()], "must not be in"),
        ({0: "too_old"}, [letter()], "is invalid, not too_old"),
        ({0: oracle.BAD}, [letter(attempts="2")], "2 attempts"),
        ({0: oracle.BAD}, [letter(detail="")], "no detail"),
        ({0: oracle.BAD, 1: oracle.BAD}, [letter()], "element 1 is missing"),
    ],
)
def test_the_comparison_sees_what_is_wrong(
    wanted: dict[int, str], found: list[DeadLetter], told: str, settings_alone: Any
) -> None:
    run = Run(settings_alone, 100, 1, NOW, print)
    run._same("here", Made(b"{}", "good", NOW), wanted, found)
    assert isinstance(run.outcome, Outcome)
    assert (told in "".join(run.outcome.differences)) and bool(told) == bool(run.outcome.problems)


@pytest.fixture
def settings_alone(tmp_path: Path) -> Installation:
    """An installation that is never asked anything: nobody listens there."""
    return Installation(Settings(kafka="127.0.0.1:9"), tmp_path)
