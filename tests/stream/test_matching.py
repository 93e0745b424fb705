"""The matcher's decisions, without Redis or Kafka."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Case
from schemas.times import day_start
from stream_processors.matching import (
    MARGIN,
    Key,
    Snapshot,
    Standing,
    Warned,
    days_changed,
    decide,
    holds,
)
from stream_processors.presence import IN, OUT, Mark

NOON = day_start(18_660) + 720  # 12:00 local
DAY = 18_660
INDEX, CONTACT, OTHER = "a" * 16, "b" * 16, "c" * 16
NOW = 1_700_000_000_000


def person_case(
    version: int = 1, status: str = "confirmed", start: int = NOON - 720, end: int = NOON + 720, **more: int
) -> Case:
    return Case.model_validate(
        {
            "case_id": "c1",
            "version": version,
            "status": status,
            "person": INDEX,
            "infectious_from": start * 60_000,
            "infectious_to": end * 60_000,
            **more,
        }
    )


def snapshot(case: Case, marks: dict[str, list[Mark]], **more: object) -> Snapshot:
    base = Snapshot(
        case=case, dwell=60, days=[DAY], marks=marks, standing={}, warned={}, frozen=frozenset(), whole=True
    )
    return replace(base, **more)  # type: ignore[arg-type]


def settled(standing: dict[Key, Standing]) -> dict[Key, Standing]:
    return {key: replace(entry, pending=False) for key, entry in standing.items()}


TOGETHER: dict[str, list[Mark]] = {INDEX: [(NOON, IN)], CONTACT: [(NOON + 30, IN)]}


def test_an_overlap_is_an_exposure() -> None:
    decision = decide(snapshot(person_case(), TOGETHER), NOW)
    assert decision.exposures == {
        (CONTACT, DAY): Standing((1 << 32) + 2, "exposed", NOON + 30, NOON + 60, 30, pending=True)
    }
    assert decision.warnings == {DAY: Warned(NOW, "exposed", ((NOON, NOON + 60),), 1, pending=True)}


def test_what_stands_is_not_published_again() -> None:
    first = decide(snapshot(person_case(), TOGETHER), NOW)
    again = snapshot(
        person_case(),
        TOGETHER,
        standing=settled(dict(first.exposures)),
        warned={day: replace(entry, pending=False) for day, entry in first.warnings.items()},
    )
    assert decide(again, NOW + 1).exposures == {}
    assert decide(again, NOW + 1).warnings == {}


def test_a_pending_entry_is_always_published_again() -> None:
    first = decide(snapshot(person_case(), TOGETHER), NOW)
    again = snapshot(person_case(), TOGETHER, standing=dict(first.exposures), warned=dict(first.warnings))
    assert decide(again, NOW + 1).exposures == first.exposures
    assert decide(again, NOW + 1).warnings[DAY].version == NOW + 1


def test_a_check_out_that_shortens_withdraws() -> None:
    first = decide(snapshot(person_case(), TOGETHER), NOW)
    shorter = {INDEX: [(NOON, IN), (NOON + 20, OUT)], CONTACT: [(NOON + 30, IN)]}
    second = decide(snapshot(person_case(), shorter, standing=settled(dict(first.exposures))), NOW)
    entry = second.exposures[CONTACT, DAY]
    assert (entry.status, entry.first, entry.minutes) == ("withdrawn", NOON + 30, 30)
    assert entry.version > first.exposures[CONTACT, DAY].version


def test_a_withdrawn_case_withdraws_everything() -> None:
    first = decide(snapshot(person_case(), TOGETHER), NOW)
    second = decide(
        snapshot(
            person_case(2, "withdrawn"),
            TOGETHER,
            standing=settled(dict(first.exposures)),
            warned=dict(first.warnings),
        ),
        NOW + 5,
    )
    assert second.exposures[CONTACT, DAY].status == "withdrawn"
    assert second.exposures[CONTACT, DAY].version >> 32 == 2
    assert (second.warnings[DAY].status, second.warnings[DAY].contacts) == ("withdrawn", 0)


def test_a_higher_case_version_is_published_though_nothing_else_changed() -> None:
    first = decide(snapshot(person_case(), TOGETHER), NOW)
    second = decide(snapshot(person_case(2), TOGETHER, standing=settled(dict(first.exposures))), NOW)
    assert second.exposures[CONTACT, DAY].case_version == 2


def test_a_computation_for_one_contact_leaves_the_others_alone() -> None:
    standing = {(OTHER, DAY): Standing((1 << 32) + 2, "exposed", NOON, NOON + 10, 10)}
    warned = {DAY: Warned(5, "exposed", ((NOON, NOON + 60),), 1)}
    # only the contact's own entries are read for it
    decision = decide(snapshot(person_case(), TOGETHER, whole=False, warned=warned), NOW)
    assert set(decision.exposures) == {(CONTACT, DAY)}
    assert decision.warnings[DAY].contacts == 2
    assert set(standing) == {(OTHER, DAY)}


def test_linger_reaches_who_came_after() -> None:
    after = {INDEX: [(NOON, IN), (NOON + 10, OUT)], CONTACT: [(NOON + 15, IN), (NOON + 50, OUT)]}
    assert not decide(snapshot(person_case(), after), NOW).exposures
    entry = decide(snapshot(person_case(linger=20), after), NOW).exposures[CONTACT, DAY]
    assert (entry.first, entry.last) == (NOON + 15, NOON + 30)


def test_a_place_time_needs_no_marks_of_a_case() -> None:
    case = Case.model_validate(
        {
            "case_id": "p1",
            "version": 1,
            "status": "confirmed",
            "venue": "CCCC",
            "from": NOON * 60_000,
            "to": (NOON + 30) * 60_000,
        }
    )
    decision = decide(snapshot(case, {CONTACT: [(NOON + 10, IN)]}), NOW)
    assert decision.exposures[CONTACT, DAY] == Standing(
        (1 << 32) + 1, "exposed", NOON + 10, NOON + 30, 20, pending=True
    )


def test_a_window_within_one_minute() -> None:
    within = person_case(linger=60, start=NOON, end=NOON + 1).model_copy(
        update={"infectious_to": NOON * 60_000 + 1}
    )
    assert not decide(snapshot(within, TOGETHER), NOW).exposures  # no minute of the person's is in it
    fields = {"case_id": "p", "version": 1, "status": "confirmed", "venue": "CCCC", "linger": 20}
    place = Case.model_validate(fields | {"from": NOON * 60_000, "to": NOON * 60_000 + 1})
    found = decide(snapshot(place, {CONTACT: [(NOON - 5, IN)]}), NOW)
    assert found.exposures[CONTACT, DAY].minutes == 20  # [from, to + linger)
    assert found.warnings[DAY].presences == ()


def test_a_frozen_day_is_decided_by_its_entry_alone() -> None:
    entry = Standing((1 << 32) + 2, "exposed", NOON + 30, NOON + 60, 30)
    frozen = {"standing": {(CONTACT, DAY): entry}, "frozen": frozenset([DAY])}
    assert not decide(snapshot(person_case(), {}, **frozen), NOW).exposures  # marks are gone, not wrong
    withdrawn = decide(snapshot(person_case(2, "withdrawn"), {}, **frozen), NOW).exposures[CONTACT, DAY]
    assert withdrawn.status == "withdrawn"
    narrowed = person_case(2, start=NOON - 720, end=NOON + 30)
    assert decide(snapshot(narrowed, {}, **frozen), NOW).exposures[CONTACT, DAY].status == "withdrawn"
    lingering = person_case(2, start=NOON - 720, end=NOON + 30, linger=1)
    assert decide(snapshot(lingering, {}, **frozen), NOW).exposures[CONTACT, DAY].status == "exposed"


marks = st.lists(st.tuples(st.integers(NOON - 900, NOON + 900), st.sampled_from([IN, IN, OUT])), max_size=6)


@given(marks, marks, st.integers(0, 10), st.integers(1, 40), st.integers(0, 60))
def test_marks_in_any_split_end_in_the_same_state(
    mine: list[Mark], theirs: list[Mark], cut_at: int, min_overlap: int, lingering: int
) -> None:
    """Whatever part of the marks a first computation saw, a second over all of them ends the same."""
    case = person_case(min_overlap=min_overlap, linger=lingering)
    days = [DAY - 1, DAY, DAY + 1]

    def whole(part: int) -> dict[str, list[Mark]]:
        return {INDEX: sorted(set(mine[:part])), CONTACT: sorted(set(theirs[:part]))}

    direct = decide(snapshot(case, whole(99), days=days), NOW).exposures
    first = settled(dict(decide(snapshot(case, whole(cut_at), days=days), NOW).exposures))
    second = first | settled(
        dict(decide(snapshot(case, whole(99), days=days, standing=first), NOW).exposures)
    )

    def content(entries: object) -> dict[Key, tuple[int, int, int]]:
        assert isinstance(entries, dict)
        return {
            key: (entry.first, entry.last, entry.minutes)
            for key, entry in entries.items()
            if entry.status == "exposed"
        }

    assert content(second) == content(direct)
    for key, entry in second.items():
        if key in first and entry != first[key]:
            assert entry.version > first[key].version


@given(
    marks, marks, st.tuples(st.integers(NOON - 900, NOON + 900), st.sampled_from([IN, OUT])), st.booleans()
)
def test_a_mark_changes_only_the_days_it_is_said_to(
    mine: list[Mark], theirs: list[Mark], extra: Mark, own: bool
) -> None:
    case = person_case(min_overlap=30, linger=60, start=NOON - 3000, end=NOON + 3000)
    days = list(range(DAY - 4, DAY + 5))
    before = {INDEX: mine, CONTACT: theirs}
    after = {INDEX: [*mine, extra], CONTACT: theirs} if own else {INDEX: mine, CONTACT: [*theirs, extra]}

    def found(marks_of: dict[str, list[Mark]]) -> dict[Key, tuple[int, int, int]]:
        entries = decide(snapshot(case, marks_of, days=days), NOW).exposures
        return {key: (entry.first, entry.last, entry.minutes) for key, entry in entries.items()}

    old, new = found(before), found(after)
    changed = {key[1] for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    assert changed <= set(days_changed((extra[0], extra[0]), own))


@given(marks, marks, st.integers(1, 240), st.integers(0, 720))
def test_marks_beyond_the_margin_change_nothing(
    mine: list[Mark], theirs: list[Mark], min_overlap: int, lingering: int
) -> None:
    case = person_case(min_overlap=min_overlap, linger=lingering, start=NOON - 5000, end=NOON + 5000)
    low, high = day_start(DAY) - MARGIN, day_start(DAY + 1) + MARGIN
    far = [(low - 1 - minute % 700, kind) for minute, kind in mine + theirs]
    far += [(high + minute % 700, kind) for minute, kind in mine + theirs]

    def found(marks_of: dict[str, list[Mark]]) -> object:
        entries = decide(snapshot(case, marks_of), NOW).exposures
        return {key: (entry.first, entry.last, entry.minutes) for key, entry in entries.items()}

    near = {INDEX: mine, CONTACT: theirs}
    assert found({INDEX: mine + far, CONTACT: theirs + far}) == found(near)


def test_a_case_holds_what_is_within_36_hours_and_its_linger() -> None:
    case = person_case(start=NOON, end=NOON + 60, linger=10)
    assert holds(case, NOON - MARGIN)
    assert not holds(case, NOON - MARGIN - 1)
    assert holds(case, NOON + 60 + 10 + MARGIN - 1)
    assert not holds(case, NOON + 60 + 10 + MARGIN)


def test_a_place_time_that_no_longer_covers_a_venue_withdraws_there_and_comes_back_higher() -> None:
    case = Case.model_validate(
        {
            "case_id": "p1",
            "version": 1,
            "status": "confirmed",
            "venue": "CCCCC",
            "from": NOON * 60_000,
            "to": (NOON + 60) * 60_000,
        }
    )
    marks: dict[str, list[Mark]] = {CONTACT: [(NOON + 30, IN)]}
    first = decide(snapshot(case, marks), NOW)
    entry = first.exposures[CONTACT, DAY]
    assert (entry.status, entry.minutes) == ("exposed", 30)
    standing, warned = settled(dict(first.exposures)), dict(first.warnings)
    gone = decide(snapshot(case, marks, standing=standing, warned=warned, covered=False), NOW)
    left = gone.exposures[CONTACT, DAY]
    assert left.status == "withdrawn" and left.version > entry.version
    assert gone.warnings[DAY].status == "withdrawn"
    back = decide(snapshot(case, marks, standing=settled(dict(gone.exposures))), NOW).exposures[CONTACT, DAY]
    assert (back.status, back.minutes) == ("exposed", 30) and back.version > left.version
    assert not decide(snapshot(case, marks, covered=False), NOW).exposures
