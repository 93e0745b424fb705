"""Whose marks are decoded: nobody is left out who matters, and nearly everybody who does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import Case
from schemas.times import day_start
from stream_processors.entries import Entries, marks_to_decide
from stream_processors.layout import mark_byte
from stream_processors.matching import Key, Snapshot, Standing, decide
from stream_processors.presence import IN, OUT, VOID, Mark, intersect, presences

DAY = 18_660
NOON = day_start(DAY) + 720
INDEX = "a" * 16
# some of whose bytes can be mistaken for another's between two entries
OTHERS = ["b" * 16, "00" * 8, "00" * 7 + "20", "20" * 8, "0005" * 4, "f" * 16]


def entries_of(marks: Mapping[str, Sequence[Mark]]) -> Entries:
    """As buckets hold them."""
    buckets: dict[int, bytes] = {}
    for person, theirs in marks.items():
        for minute, kind in theirs:
            entry = bytes.fromhex(person) + bytes((mark_byte(kind, minute % 60),)) + bytes(4)
            buckets[minute // 60] = buckets.get(minute // 60, b"") + entry
    return Entries(list(buckets.items()))


def case_of(fields: Mapping[str, object]) -> Case:
    return Case.model_validate({"case_id": "c1", "version": 1, "status": "confirmed", **fields})


def person_case(start: int, end: int, **more: object) -> Case:
    return case_of(
        {"person": INDEX, "infectious_from": start * 60_000, "infectious_to": end * 60_000, **more}
    )


kinds = st.sampled_from([IN, IN, OUT, VOID])
marks = st.lists(st.tuples(st.integers(NOON - 1500, NOON + 1500), kinds), max_size=5, unique=True)
worlds = st.dictionaries(st.sampled_from([INDEX, *OTHERS]), marks)


@given(worlds)
def test_marks_of_one_person_are_those_among_everybodys(world: dict[str, list[Mark]]) -> None:
    entries = entries_of(world)
    everybody = {who: sorted(theirs) for who, theirs in entries.marks().items()}
    assert everybody == {who: sorted(theirs) for who, theirs in world.items() if theirs}
    for who in [INDEX, *OTHERS]:
        assert sorted(entries.of(who)) == sorted(world.get(who, []))


@given(
    worlds,
    st.integers(-700, 700),
    st.integers(1, 900),
    st.sampled_from([1, 30, 60, 720, 1000]),
    st.sampled_from([0, 60, 720]),
    st.integers(1, 60),
    st.booleans(),
    st.booleans(),
    st.sets(st.sampled_from(OTHERS)),
)
def test_who_is_left_out_changes_no_decision(
    world: dict[str, list[Mark]],
    start: int,
    length: int,
    dwell: int,
    lingering: int,
    min_overlap: int,
    of_a_place: bool,
    covered: bool,
    before: set[str],
) -> None:
    start += NOON
    more = {"linger": lingering, "min_overlap": min_overlap}
    if of_a_place:
        case = case_of({"venue": "CCCC", "from": start * 60_000, "to": (start + length) * 60_000, **more})
    else:
        case = person_case(start, start + length, **more)
    days = [DAY - 1, DAY, DAY + 1]
    standing = {(who, DAY): Standing((1 << 32) + 2, "exposed", NOON, NOON + 9, 9) for who in before}

    def decided(marks: Mapping[str, Sequence[Mark]]) -> object:
        snapshot = Snapshot(case, dwell, days, marks, standing, {}, frozenset(), whole=True, covered=covered)
        return decide(snapshot, 1)

    entries = entries_of(world)
    some = marks_to_decide(entries, case, dwell, covered, standing)
    assert decided(some) == decided(entries.marks())
    assert all(sorted(theirs) == sorted(world[who]) for who, theirs in some.items())


offsets = st.sampled_from(
    [-721, -720, -719, -300, -61, -60, -59, -1, 0, 1, 29, 30, 60, 89, 90, 91, 500, 719, 720]
)


@settings(max_examples=2_000)
@given(
    st.lists(st.tuples(offsets, kinds), min_size=1, max_size=4, unique=True),
    st.sampled_from([1, 30, 60]),
    st.sampled_from([1, 30, 60, 1000]),
)
def test_nobody_who_was_there_is_left_out(marks: list[Mark], length: int, dwell: int) -> None:
    world = {OTHERS[0]: [(NOON + minute, kind) for minute, kind in marks]}
    while_there = [(NOON, NOON + length)]
    if intersect(while_there, presences(world[OTHERS[0]], dwell)):
        assert OTHERS[0] in entries_of(world).around(while_there, dwell, [])


def test_a_crowd_of_other_hours_is_left_out() -> None:
    with_it, stayed, since_morning = OTHERS[:3]
    crowd = {f"{number:016x}": [(NOON - 700 + number, IN)] for number in range(1, 600)}
    crowd |= {f"{number:016x}": [(NOON + 60 + number, IN)] for number in range(600, 1200)}
    world: dict[str, list[Mark]] = {
        **crowd,
        INDEX: [(NOON, IN)],
        with_it: [(NOON + 20, IN)],
        stayed: [(NOON - 20, IN), (NOON + 2000, IN)],
        since_morning: [(NOON - 600, IN), (NOON + 90, OUT)],
    }
    case = person_case(NOON - 600, NOON + 600)
    found = marks_to_decide(entries_of(world), case, 60, True, dict[Key, Standing]())
    assert found.keys() == {INDEX, with_it, stayed, since_morning}
