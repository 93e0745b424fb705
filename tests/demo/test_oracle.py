"""The oracle itself, by hand-made examples from the binding rules, and against the pure functions."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.demo import oracle
from deploy.demo.oracle import IN, OUT, VOID, CaseTruth, Exposed, World, exposures, local_date, present
from stream_processors.presence import presences

T = 27_000_000
INDEX, CONTACT, OTHER = "a" * 16, "b" * 16, "c" * 16
# midnight in Vietnam, in minutes
MIDNIGHT = (T + 420) // 1440 * 1440 - 420


@pytest.mark.parametrize(
    ("marks", "spans"),
    [
        ([(T, IN)], [(T, T + 60)]),
        ([(T, IN), (T + 60, IN)], [(T, T + 120)]),
        ([(T, IN), (T + 61, IN)], [(T, T + 60), (T + 61, T + 121)]),
        ([(T, IN), (T + 720, OUT)], [(T, T + 720)]),
        ([(T, IN), (T + 721, OUT)], [(T, T + 60), (T + 661, T + 721)]),
        ([(T, OUT)], [(T - 60, T)]),
        ([(T, OUT), (T + 720, OUT)], [(T - 60, T)]),
        ([(T, OUT), (T + 721, OUT)], [(T - 60, T), (T + 661, T + 721)]),
        ([(T, IN), (T, OUT)], [(T, T + 60)]),
        ([(T, IN), (T, VOID)], []),
        ([(T, IN), (T + 9, OUT), (T + 9, VOID)], [(T, T + 60)]),
    ],
)
def test_presence_by_the_rules(marks: list[tuple[int, int]], spans: list[tuple[int, int]]) -> None:
    assert present(marks, 60) == {minute for start, end in spans for minute in range(start, end)}


@given(
    st.lists(st.tuples(st.integers(T, T + 3000), st.sampled_from([IN, OUT, VOID])), max_size=20),
    st.integers(1, 720),
)
def test_both_readings_of_the_rules_agree(marks: list[tuple[int, int]], dwell: int) -> None:
    spans = presences(marks, dwell)
    assert present(marks, dwell) == {minute for start, end in spans for minute in range(start, end)}


def world(folder: Path, marks: list[tuple[str, int, int, int]]) -> World:
    columns = list(zip(*marks, strict=True)) or [(), (), (), ()]
    np.savez_compressed(
        folder / "marks.npz",
        person=np.array([int(person, 16) for person in columns[0]], dtype=np.uint64),
        venue=np.array(columns[1], dtype=np.int64),
        minute=np.array(columns[2], dtype=np.int64),
        kind=np.array(columns[3], dtype=np.int64),
    )
    places = [
        {"code": "MARK", "parent": None, "dwell": 60},
        {"code": "STAL", "parent": "MARK", "dwell": 30},
        {"code": "ELSE", "parent": None, "dwell": 60},
    ]
    (folder / "venues.json").write_text(json.dumps(places))
    (folder / "rejected.json").write_text("{}")
    return World(folder)


def case(**changes: object) -> CaseTruth:
    base = {"case_id": "k", "start": (T - 1000) * 60_000, "end": (T + 1000) * 60_000, "person": INDEX}
    return CaseTruth(**(base | changes))  # type: ignore[arg-type]


def test_exposures_of_a_person(tmp_path: Path) -> None:
    here = world(
        tmp_path, [(INDEX, 0, T, IN), (CONTACT, 0, T + 50, IN), (OTHER, 2, T, IN), (INDEX, 1, T + 500, IN)]
    )
    assert exposures(here, case()) == {
        ("k", CONTACT, "MARK", local_date(T + 50)): Exposed((T + 50) * 60_000, (T + 60) * 60_000, 10)
    }
    assert exposures(here, case(min_overlap=11)) == {}
    assert next(iter(exposures(here, case(linger=5)).values())).minutes == 15
    assert next(iter(exposures(here, case(end=(T + 52) * 60_000)).values())).minutes == 2


def test_exposures_of_a_place_and_of_what_is_below_it(tmp_path: Path) -> None:
    here = world(tmp_path, [(CONTACT, 0, T, IN), (OTHER, 1, T, IN), (INDEX, 2, T, IN)])
    found = exposures(here, case(person=None, venue="MARK", start=(T + 10) * 60_000, end=(T + 40) * 60_000))
    assert {(key[1], key[2]): value.minutes for key, value in found.items()} == {
        (CONTACT, "MARK"): 30,
        (OTHER, "STAL"): 20,
    }


def test_a_mark_by_hand_counts_like_the_others(tmp_path: Path) -> None:
    here = world(tmp_path, [(INDEX, 0, T, IN)])
    assert exposures(here, case()) == {}
    here.add([(CONTACT, "MARK", T + 20, IN)])
    assert [value.minutes for value in exposures(here, case()).values()] == [40]
    assert (int(CONTACT, 16), 0, T + 20, IN) in here.marks()
    assert here.venues_of(CONTACT) == {"MARK"}


def test_company_counts_others_in_the_same_hour_and_place(tmp_path: Path) -> None:
    hour = T // 60 * 60
    here = world(
        tmp_path,
        [
            *((INDEX, 0, hour + 5, IN), (INDEX, 0, hour + 59, OUT), (CONTACT, 0, hour + 30, IN)),
            *((OTHER, 0, hour + 60, IN), (OTHER, 1, hour + 30, IN), (OTHER, 2, hour + 900, IN)),
        ],
    )
    found = {person: (marks, others) for person, marks, others in here.company(hour, hour + 120)}
    assert found == {INDEX: (2, 1), OTHER: (2, 0), CONTACT: (1, 1)}
    assert here.company(hour + 2000, hour + 3000) == []


def test_min_overlap_is_met_by_a_sum_of_parts(tmp_path: Path) -> None:
    marks = [(INDEX, 0, T, IN), (INDEX, 0, T + 600, OUT)]
    for start in (T + 10, T + 100):
        marks += [(CONTACT, 0, start, IN), (CONTACT, 0, start + 8, OUT)]
    here = world(tmp_path, marks)
    (found,) = exposures(here, case(min_overlap=16)).values()
    assert found == Exposed((T + 10) * 60_000, (T + 108) * 60_000, 16)
    assert exposures(here, case(min_overlap=17)) == {}


def test_the_window_is_cut_at_floors_and_before_the_linger(tmp_path: Path) -> None:
    here = world(tmp_path, [(INDEX, 0, T, IN), (CONTACT, 0, T + 55, IN)])
    within = case(start=T * 60_000 + 59_999, end=(T + 40) * 60_000 + 59_999, linger=20)
    assert [value.minutes for value in exposures(here, within).values()] == [5]  # T+40+20 against T+55


def test_nobody_is_their_own_contact_and_a_place_spares_nobody(tmp_path: Path) -> None:
    here = world(tmp_path, [(INDEX, 0, T, IN), (INDEX, 0, T + 30, IN)])
    assert exposures(here, case()) == {}
    assert len(exposures(here, case(person=None, venue="MARK"))) == 1


def test_midnight_splits_the_sum_but_not_the_overlap(tmp_path: Path) -> None:
    here = world(tmp_path, [(INDEX, 0, MIDNIGHT - 30, IN), (CONTACT, 0, MIDNIGHT - 5, IN)])
    both = exposures(here, case(min_overlap=35))
    assert [(key[3], value.minutes) for key, value in sorted(both.items(), key=lambda item: item[0][3])] == [
        (local_date(MIDNIGHT - 1), 5),
        (local_date(MIDNIGHT), 30),
    ]
    assert exposures(here, case(min_overlap=36)) == {}


def test_the_oracle_imports_nothing_of_the_pipeline() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert modules <= {"__future__", "json", "collections.abc", "dataclasses", "datetime", "pathlib", "numpy"}
