"""The simulator: repeatable, in the shares that were asked for, and its truth is what it sends."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from deploy.cli.simulate import commands
from producers.simulator.days import DAY_MS, visits
from producers.simulator.stream import INVALID, Shares, Stream
from schemas.events import SCAN
from schemas.times import local_day
from stream_processors.records import Record, Records
from stream_processors.validation import validate

END = 1_795_395_000_000
THURSDAY = local_day(END // 60_000) - 4


def made(seed: int = 1, shares: Shares | None = None, scans: int = 20_000) -> Stream:
    return Stream(
        people=5_000, venues=120, days=14, scans=scans, end_ms=END, seed=seed, shares=shares or Shares()
    )


def everything(stream: Stream) -> tuple[list[bytes], list[bytes]]:
    scans: list[bytes] = []
    broken: list[bytes] = []
    for some, bad in stream.batches(777):
        scans += some
        broken += bad
    return scans, broken


def test_a_seed_gives_the_same_bytes_and_another_others() -> None:
    assert everything(made()) == everything(made())
    assert everything(made())[0] != everything(made(2))[0]
    assert [venue.code for venue in made().province.venues] == [
        venue.code for venue in made().province.venues
    ]


def test_the_province_has_every_sector_and_places_within_places() -> None:
    venues = made().province.venues
    assert len(venues) == 120
    assert {venue.sector for venue in venues} >= {"trade", "education", "health", "lodging", "district"}
    assert any(venue.parent for venue in venues)
    assert len(set(made().province.people.tolist())) == 5_000


def test_the_shares_are_those_asked_for() -> None:
    stream = made()
    scans, broken = everything(stream)
    assert len(scans) + len(broken) == len(stream)
    parsed = [json.loads(scan) for scan in scans]
    count = len(parsed)
    kinds = collections.Counter(scan["kind"] for scan in parsed)
    assert 0.2 < kinds["out"] / count < 0.3  # a third of the visits
    assert kinds["void"] > 0
    sources = collections.Counter(scan["source"] for scan in parsed)
    assert 0.25 < sources["venue"] / count < 0.35
    ids = collections.Counter(scan["scan_id"] for scan in parsed)
    assert 0.01 < sum(times > 1 for times in ids.values()) / count < 0.03  # retries
    arrivals = [scan["received_at"] for scan in parsed]
    assert arrivals == sorted(arrivals)
    assert max(arrivals) <= END
    timed = [scan for scan in parsed if isinstance(scan["scanned_at"], int)]
    late = sum(scan["received_at"] - scan["scanned_at"] > DAY_MS // 10 for scan in timed)
    assert 0.01 < late / count < 0.05


def test_the_truth_is_what_a_validator_finds_in_the_bytes() -> None:
    """Two ways to the same numbers: from intent, and by reading every byte with the pipeline's validator."""
    stream = made()
    codes = {venue.code: number for number, venue in enumerate(stream.province.venues)}
    scans, broken = everything(stream)
    truth = stream.truth()
    records = Records.of(Record(value, offset, END) for offset, value in enumerate([*scans, *broken]))
    found = validate(records, lambda asked: {code: None for code in asked if code in codes}, 30 * DAY_MS)
    kind = {"in": 0, "out": 1, "void": 2}
    marks = {
        (int(person, 16), codes[venue], at // 60_000, kind[word])
        for person, venue, at, word in zip(
            found.scans.persons,
            found.scans.venues,
            found.scans.scanned_at.tolist(),
            found.scans.kinds,
            strict=True,
        )
    }
    meant = set(
        zip(
            truth.person.tolist(),
            truth.venue.tolist(),
            truth.minute.tolist(),
            truth.kind.tolist(),
            strict=True,
        )
    )
    assert marks == meant
    assert len(meant) == len(truth.minute)
    assert collections.Counter(bad.reason for bad in found.rejected) == truth.rejected
    assert set(truth.rejected) == set(INVALID)


def test_the_truth_is_there_only_once_it_is_complete() -> None:
    stream = made(scans=500)
    batches = stream.batches(100)
    next(batches)
    with pytest.raises(RuntimeError, match="after the last batch"):
        stream.truth()
    assert sum(len(scans) + len(broken) for scans, broken in batches) > 400
    assert stream.truth().minute.size


def test_the_size_of_a_batch_changes_no_byte() -> None:
    small, large = made(scans=3_000), made(scans=3_000)
    assert everything(small) == (
        [scan for scans, _ in large.batches(10_000) for scan in scans],
        [record for _, broken in large.batches(10_000) for record in broken],
    )
    assert small.truth().rejected == large.truth().rejected


def test_a_person_is_at_one_place_at_most_in_each_part_of_a_day() -> None:
    province = made().province
    day = visits(province, 5_000, THURSDAY, 12_000, np.random.default_rng(1))
    at_work = (day.at % DAY_MS < DAY_MS // 6) & np.isin(day.venue, province.work)  # 7:00 to 11:00 local
    goes = np.flatnonzero(at_work & (day.venue == province.work[day.person]))
    assert len(goes) > 2_000
    assert len(np.unique(day.person[goes])) > 0.98 * len(goes)  # the rest: at work, and in its market


def test_check_outs_without_a_check_in_occur() -> None:
    scans, _ = everything(made())
    parsed = [json.loads(scan) for scan in scans]
    came = {(scan["person"], scan["venue"]) for scan in parsed if scan["kind"] == "in"}
    alone = [scan for scan in parsed if scan["kind"] == "out" and (scan["person"], scan["venue"]) not in came]
    assert alone


@settings(max_examples=25)
@given(
    days=st.integers(1, 28),
    scans=st.integers(28, 600),
    end_ms=st.integers(END, END + 2 * DAY_MS),
    shares=st.builds(Shares, *[st.sampled_from([0.0, 0.01, 0.5, 0.9])] * 8),
)
def test_whatever_is_asked_for_the_numbers_add_up(days: int, scans: int, end_ms: int, shares: Shares) -> None:
    try:
        stream = Stream(people=300, venues=40, days=days, scans=scans, end_ms=end_ms, seed=3, shares=shares)
    except ValueError as error:
        assert days == 1, error  # before anybody is up
        return
    good, broken = everything(stream)
    assert len(good) + len(broken) == len(stream)
    on_top = (shares.duplicates, shares.retries, shares.invalid, shares.voids)
    assert len(stream) == scans + sum(int(scans * share) for share in on_top)
    rejected = stream.truth().rejected
    assert sum(rejected.values()) == int(scans * shares.invalid)
    assert rejected.get("malformed", 0) == len(broken)
    for scan in map(json.loads, good):
        late = scan["received_at"] - scan["scanned_at"] if isinstance(scan["scanned_at"], int) else 0
        assert -600_000 <= late <= 31 * DAY_MS
        assert scan["received_at"] <= end_ms


def test_without_noise_every_scan_is_good() -> None:
    quiet = Shares(duplicates=0, retries=0, invalid=0, voids=0, late=0, out_of_order=0)
    scans, broken = everything(made(shares=quiet, scans=3_000))
    assert (len(scans), len(broken)) == (3_000, 0)
    for scan in scans:
        SCAN.validate_json(scan)


def test_the_command_writes_scans_and_truth(tmp_path: Path) -> None:
    out, truth = tmp_path / "scans.jsonl", tmp_path / "truth"
    call = ["--out", str(out), "--truth", str(truth), "--scans", "2000", "--people", "500", "--venues", "50"]
    result = CliRunner().invoke(commands, [*call, "--end", "2021-02-12T12:00", "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert len(out.read_bytes().splitlines()) == summary["scans"]
    assert json.loads((truth / "rejected.json").read_text()) == summary["rejected"]
    assert len(json.loads((truth / "venues.json").read_text())) == 50


@pytest.mark.parametrize(
    "call",
    [
        [],
        ["--out", "x", "--to-topic"],
        ["--out", "x", "--late", "2"],
        ["--out", "x", "--end", "soon"],
        ["--out", "/no/such/folder/x", "--scans", "100"],
        ["--out", "x", "--days", "29"],
        ["--out", "x", "--venues", "40000"],
        ["--out", "x", "--scans", "3"],
        ["--out", "x", "--days", "1", "--end", "2021-02-12T00:01", "--scans", "100"],
        ["--out", "x", "--scans", "100", "--truth", "/dev/null/truth"],
    ],
)
def test_a_mistake_is_one_line(call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(commands, call)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
