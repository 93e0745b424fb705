"""The judge by itself: a perfect outcome passes, and every planted difference is seen on its own line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest

from deploy.demo.oracle import Exposed
from tests.chaos.compare import compare, kept
from tests.chaos.expected import Expected, expect, identity, most_evidence
from tests.chaos.found import Entry, Found, Row
from tests.chaos.plan import KINDS, Fault, draw
from tests.chaos.processes import Hit
from tests.chaos.recovery import Sample, recovered
from tests.chaos.run import TARGETS
from tests.chaos.scenario import Mark, build

# a local midnight, in minutes
TODAY = 29_000_000 // 1440 * 1440 - 420


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return expect(build(3, 3000, 12, TODAY), tmp_path_factory.mktemp("oracle"))


def exposure(wanted: Expected, key: tuple[str, str, str, str], what: Exposed, **changes: Any) -> Row:
    version, evidence = wanted.cases[key[0]][0], most_evidence(wanted, key)
    sector, department = wanted.venues[key[2]]
    row: Row = {
        "exposure_id": identity(key),
        **dict(zip(("case_id", "person", "venue", "date"), key, strict=True)),
        **{"first": what.first, "last": what.last, "minutes": what.minutes, "status": "exposed"},
        **{"case_version": version, "evidence": evidence, "version": (version << 32) + evidence},
        **{"sector": sector, "department": department},
    }
    return row | changes


def entry(key: str, row: Row, **headers: str) -> Entry:
    return Entry(key.encode(), orjson.dumps(row), headers)


def archived(row: Row) -> Row:
    more = {"person": int(row["person"], 16)} if "person" in row else {}
    return {name: value for name, value in row.items() if name != "date"} | {"day": row["date"]} | more


def perfect(wanted: Expected) -> Found:
    """What a run leaves behind that kept every promise."""
    rejected = []
    for key, reason in wanted.rejected.items():
        device = key.decode() in wanted.fates
        value = orjson.dumps({"scan_id": key.decode(), "received_at": 1}) if device else key
        rejected.append(Entry(b"", value, {"reason": reason}))
    exposures = [exposure(wanted, key, what) for key, what in wanted.exposures.items()]
    warnings: list[Row] = [
        {
            **dict(zip(("case_id", "venue", "date"), key, strict=True)),
            **{"presences": presences, "contacts": contacts, "status": "exposed", "version": 5},
            "department": wanted.venues[key[1]][1],
        }
        for key, (presences, contacts) in wanted.warnings.items()
    ]
    return Found(
        acknowledged=set(wanted.fates),
        archive=set(wanted.marks),
        archive_by_person=set(wanted.marks),
        buckets=set(wanted.marks),
        rejected=rejected,
        rejected_rows=[(each.value or b"", each.headers["reason"]) for each in rejected],
        exposures=[entry(row["exposure_id"], row) for row in exposures],
        exposure_rows=[archived(row) for row in exposures],
        warnings=[
            entry(f"{row['case_id']}|{row['venue']}|{row['date']}", row, department=row["department"])
            for row in warnings
        ],
        warning_rows=[archived(row) for row in warnings],
        cases_rejected=[
            Entry(key.encode(), value, {"reason": reason})
            for (key, value), reason in wanted.cases_rejected.items()
        ],
        case_rows=dict(wanted.cases),
    )


def test_a_perfect_outcome_is_accepted(wanted: Expected) -> None:
    lines = compare(wanted, perfect(wanted))
    assert kept(lines), [line for line in lines if not line.ok]
    assert all(line.expected for line in lines if line.what != "answers of the gateway")


def changed(found: Found, at: int = 0, **fields: Any) -> None:
    """Another content in the record of an exposure."""
    row = orjson.loads(found.exposures[at].value or b"") | fields
    found.exposures[at] = entry(row["exposure_id"], row)


def repeated(found: Found, **fields: Any) -> None:
    """One more record of an exposure after the first."""
    row = orjson.loads(found.exposures[0].value or b"") | fields
    found.exposures.append(entry(row["exposure_id"], row))


def unasked(found: Found, status: str) -> None:
    """A record of somebody whom the oracle does not name."""
    row = orjson.loads(found.exposures[0].value or b"") | {"person": "f" * 16, "status": status}
    row["version"] += status == "withdrawn"
    row["evidence"] += status == "withdrawn"
    own = identity((row["case_id"], row["person"], row["venue"], row["date"]))
    found.exposures.append(entry(own, row | {"exposure_id": own}))


def once_wrong(found: Found) -> None:
    """Exposed and withdrawn again, of somebody who was never there."""
    unasked(found, "exposed")
    unasked(found, "withdrawn")


def rewarned(found: Found, **fields: Any) -> None:
    first = found.warnings[0]
    row = orjson.loads(first.value or b"") | fields
    found.warnings[0] = Entry(first.key, orjson.dumps(row), first.headers)


MARK = Mark("f" * 16, "2345", 29_000_000, 0)
PLANTED: dict[str, tuple[str, str, Callable[[Found], Any]]] = {
    "a mark lost": ("marks in the archive", "missing", lambda it: it.archive.pop()),
    "a mark lost by person": (
        "marks in the archive, by person",
        "missing",
        lambda it: it.archive_by_person.pop(),
    ),
    "a mark nobody made": ("marks in the archive", "unexpected", lambda it: it.archive.add(MARK)),
    "a mark lost in Redis": ("marks in Redis", "missing", lambda it: it.buckets.pop()),
    "a mark nobody made in Redis": ("marks in Redis", "unexpected", lambda it: it.buckets.add(MARK)),
    "a rejection lost": ("rejected scans", "missing", lambda it: it.rejected.pop()),
    "an acknowledged scan lost": (
        "acknowledged scans accounted for",
        "missing",
        lambda it: it.rejected.clear(),
    ),
    "a scan never acknowledged": (
        "acknowledged scans accounted for",
        "unexpected",
        lambda it: it.acknowledged.pop(),
    ),
    "a wrong reason": (
        "rejected scans",
        "wrong",
        lambda it: it.rejected.append(it.rejected[0]._replace(headers={"reason": "suspect"})),
    ),
    "a good scan rejected": (
        "rejected scans",
        "unexpected",
        lambda it: it.rejected.append(Entry(b"", b"{}", {"reason": "invalid"})),
    ),
    "a rejection lost in the archive": (
        "rejected, in the archive",
        "missing",
        lambda it: it.rejected_rows.pop(),
    ),
    "an exposure missed": ("exposures that stand", "missing", lambda it: it.exposures.pop()),
    "an exposure too many": ("exposures that stand", "unexpected", lambda it: unasked(it, "exposed")),
    "wrong minutes": ("exposures that stand", "wrong", lambda it: changed(it, minutes=1441)),
    "a wrong first": ("exposures that stand", "wrong", lambda it: changed(it, first=0)),
    "a wrong last": ("exposures that stand", "wrong", lambda it: changed(it, last=0)),
    "withdrawn though it holds": (
        "exposures that stand",
        "missing",
        lambda it: repeated(it, status="withdrawn"),
    ),
    "withdrawn and never exposed": (
        "histories of exposures",
        "wrong",
        lambda it: unasked(it, "withdrawn"),
    ),
    "exposed for a while though never there": ("histories of exposures", "wrong", once_wrong),
    "a falling version": ("histories of exposures", "wrong", lambda it: repeated(it, version=1)),
    "a version that says two things": ("histories of exposures", "wrong", lambda it: repeated(it, last=0)),
    "an old case version": ("histories of exposures", "wrong", lambda it: changed(it, case_version=0)),
    "evidence that is not there": ("histories of exposures", "wrong", lambda it: changed(it, evidence=9999)),
    "another department": ("histories of exposures", "wrong", lambda it: changed(it, department="x")),
    "an exposure missed in the archive": (
        "exposures in the archive",
        "missing",
        lambda it: it.exposure_rows.pop(),
    ),
    "a warning missed": ("venue warnings", "missing", lambda it: it.warnings.pop()),
    "wrong contacts": ("venue warnings", "wrong", lambda it: rewarned(it, contacts=9999)),
    "wrong presences": ("venue warnings", "wrong", lambda it: rewarned(it, presences=[[0, 60_000]])),
    "a warning without its department": (
        "histories of warnings",
        "wrong",
        lambda it: it.warnings.append(it.warnings[0]._replace(headers={})),
    ),
    "a warning missed in the archive": (
        "venue warnings in the archive",
        "missing",
        lambda it: it.warning_rows.pop(),
    ),
    "a refused case unsaid": ("rejected cases", "missing", lambda it: it.cases_rejected.pop()),
    "a good case refused": (
        "rejected cases",
        "unexpected",
        lambda it: it.cases_rejected.append(Entry(b"c1", b"{}", {"reason": "conflict"})),
    ),
    "a case lost in the archive": ("cases in the archive", "missing", lambda it: it.case_rows.pop("c0")),
    "an old case in the archive": (
        "cases in the archive",
        "wrong",
        lambda it: it.case_rows.update(c0=(999, "confirmed")),
    ),
    "a wrong answer": (
        "answers of the gateway",
        "wrong",
        lambda it: it.answers_wrong.append("HTTP 202: twice"),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_seen(wanted: Expected, name: str) -> None:
    what, column, plant = PLANTED[name]
    found = perfect(wanted)
    plant(found)
    lines = {line.what: line for line in compare(wanted, found)}
    assert getattr(lines[what], column) > 0
    assert lines[what].examples
    assert not kept(lines.values())


def test_repeated_records_and_true_withdrawals_are_accepted(wanted: Expected) -> None:
    found = perfect(wanted)
    found.exposures.append(found.exposures[0])
    found.warnings.append(found.warnings[0])
    found.rejected.append(found.rejected[0])
    row = orjson.loads(found.exposures[0].value or b"")
    narrowed = {key: what for key, what in wanted.exposures.items() if identity(key) != row["exposure_id"]}
    gone = row | {"status": "withdrawn"}
    early = row | {"version": row["version"] - 1, "evidence": row["evidence"] - 1}
    rest = [each for each in found.exposures if each.key.decode() != row["exposure_id"]]
    found.exposures = [*rest, entry(row["exposure_id"], early), entry(row["exposure_id"], gone)]
    found.exposure_rows[0]["status"] = "withdrawn"
    lines = compare(replace(wanted, exposures=narrowed), found)
    assert kept(lines), [line for line in lines if not line.ok]


# --- scenario and plan ----------------------------------------------------------------------------


def test_a_seed_says_it_all() -> None:
    one, same, other = (build(seed, 2000, 12, TODAY) for seed in (5, 5, 6))
    assert (one.posts, one.raw, one.authority) == (same.posts, same.raw, same.authority)
    assert one.posts != other.posts
    later = build(5, 2000, 12, TODAY + 1440)
    assert {mark.minute + 1440 for mark in one.marks()} == {mark.minute for mark in later.marks()}


def test_a_scenario_has_everything_that_can_happen() -> None:
    scenario = build(5, 20_000, 12, TODAY)
    reasons = {fate for fate in scenario.fates.values() if isinstance(fate, str)}
    assert reasons == {"unknown_venue"}
    assert {"malformed", "invalid", "too_old", "in_future"} == set(scenario.raw_rejected.values())
    assert {mark.kind for mark in scenario.marks()} == {0, 1, 2}
    assert scenario.refused
    sizes = [len(post.scan_ids) for post in scenario.posts]
    assert 1 in sizes
    assert max(sizes) > 100
    sent = [scan_id for post in scenario.posts for scan_id in post.scan_ids]
    assert len(sent) > len(set(sent))  # the same scan again
    assert len(scenario.fates) > len(scenario.marks())  # another scan of the same mark
    assert set(scenario.authority.rejected.values()) == {
        *("malformed", "invalid", "conflict", "subject_changed", "tombstone")
    }


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_covers_kinds_and_targets_and_lets_nothing_be_hit_twice_at_once(seed: int) -> None:
    faults = draw(seed, TARGETS, 64, 600.0)
    assert {(fault.target, fault.kind) for fault in faults} == {
        (target, kind) for target in TARGETS for kind in KINDS
    }
    assert len(faults) == 64
    for target in TARGETS:
        own = [fault for fault in faults if fault.target == target]
        assert all(after.at > before.at + before.seconds for before, after in pairwise(own))
    assert max(fault.seconds for fault in faults) == 20.0
    assert max(fault.at for fault in faults) < 600.0
    assert draw(seed, TARGETS, 64, 600.0) == faults


def test_recovery_counts_until_waiting_work_moves() -> None:
    place = ("scans", 0)
    offsets = [(1.0, 10, 10), (3.0, 10, 10), (5.0, 10, 30), (9.0, 10, 40), (12.0, 25, 40)]
    samples = [Sample(at, {"ingest": {place: (done, end)}}) for at, done, end in offsets]
    hit = Hit(Fault(2.0, "ingest-0", "kill", 1.0), 2.0, 3.0)
    assert recovered(hit, samples, []) == 7.0  # work came at 5, and went on at 12
    late = Hit(Fault(5.5, "ingest-0", "kill", 1.0), 5.5, 6.0)
    assert recovered(late, samples, []) == 6.5
    gateway = Hit(Fault(2.0, "gateway", "stop", 4.0), 2.0, 6.0)
    assert recovered(gateway, samples, [1.0, 6.5, 7.0]) == 4.5
    assert recovered(gateway, samples, [1.0]) is None
