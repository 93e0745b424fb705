"""What goes from one role to the next, and how it lies in Redis: round trips and bounds."""

from __future__ import annotations

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Case
from stream_processors import requests
from stream_processors.layout import (
    Layout,
    exposure_field,
    index_tail,
    mark_byte,
    marks_of,
    pack_standing,
    pack_warned,
    read_case,
    read_code,
    read_field,
    tag,
    unpack_standing,
    unpack_warned,
    warning_field,
)
from stream_processors.matching import Standing, Warned
from stream_processors.touches import Touch, gather, read_touches, touched_records


def case(version: int = 1, case_id: str = "k") -> Case:
    return Case.model_validate(
        {
            "case_id": case_id,
            "version": version,
            "status": "confirmed",
            "person": "a" * 16,
            "infectious_from": 1_700_000_000_000,
            "infectious_to": 1_700_100_000_000,
        }
    )


people = st.none() | st.sets(st.integers(0, 50).map(lambda number: f"{number:016x}"), min_size=1, max_size=5)
spans = st.none() | st.tuples(st.integers(0, 100), st.integers(0, 100)).map(
    lambda pair: (min(pair), max(pair))
)
touches = st.lists(
    st.builds(
        lambda venue, version, case_id, persons, minutes, hours: Touch(
            venue, case(version, case_id), persons, minutes, hours
        ),
        st.sampled_from(["CCCC", "DDDD"]),
        st.integers(1, 3),
        st.sampled_from(["k", "l"]),
        people,
        spans,
        st.none() | st.frozensets(st.integers(0, 500_000), max_size=5),
    ),
    max_size=8,
)


@given(touches)
def test_touches_survive_the_topic_and_gathering_loses_nobody(some: list[Touch]) -> None:
    sent = [
        touch for record in touched_records("touched", some) for touch in read_touches(record.value or b"")
    ]
    for found in (gather(some), gather(sent)):
        assert len(found) == len({(touch.venue, touch.case.case_id) for touch in some})
        for whole in found:
            for part in some:
                if (part.venue, part.case.case_id) != (whole.venue, whole.case.case_id):
                    continue
                assert whole.case.version >= part.case.version
                assert whole.persons is None or (part.persons is not None and part.persons <= whole.persons)
                assert whole.hours is None or (part.hours is not None and part.hours <= whole.hours)
                assert whole.minutes is None or (
                    part.minutes is not None
                    and whole.minutes[0] <= part.minutes[0]
                    and whole.minutes[1] >= part.minutes[1]
                )


def test_gathering_leaves_its_input_alone() -> None:
    first, second = Touch("CCCC", case(), {"1" * 16}, (1, 2)), Touch("CCCC", case(2), {"2" * 16}, (5, 6))
    gather([first, second])
    assert (first.case.version, first.persons, first.minutes) == (1, {"1" * 16}, (1, 2))


def test_where_the_case_was_is_told_with_everybody() -> None:
    told = Touch("CCCC", case(), None, None, frozenset({3, 1}))
    (record,) = touched_records("touched", [told])
    assert read_touches(record.value or b"") == [told]


def test_a_crowd_is_cut_into_records_that_kafka_takes() -> None:
    crowd = {f"{number:016x}" for number in range(70_000)}
    records = touched_records("touched", [Touch("CCCC", case(), crowd, (1, 2))] * 2)
    assert all(len(record.value or b"") < 1_000_000 for record in records)
    assert {record.key for record in records} == {b"CCCC"}
    back = gather([touch for record in records for touch in read_touches(record.value or b"")])
    assert back[0].persons == crowd
    everywhere = [
        Touch("CCCC", case(1, f"k{n}"), None, None, frozenset(range(500_000, 500_900))) for n in range(600)
    ]
    records = touched_records("touched", everywhere)
    assert all(len(record.value or b"") < 1_000_000 for record in records)


@given(
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 2), st.integers(0, 2**64 - 1)), max_size=20),
    st.integers(0, 2**31),
    st.text("CDEFHJKMPRTVWXY2345689", min_size=4, max_size=12),
)
def test_marks_and_index_entries_are_read_as_written(
    marks: list[tuple[int, int, int]], hour: int, venue: str
) -> None:
    entries = b"".join(
        who.to_bytes(8, "big") + bytes((mark_byte(kind, minute),)) + tag("x") for minute, kind, who in marks
    )
    assert marks_of(hour, entries) == [
        (f"{who:016x}", (hour * 60 + minute, kind)) for minute, kind, who in marks
    ]
    tail = index_tail(hour, venue)
    assert len(tail) == 8
    assert (tail[0], read_code(tail[1:])) == (hour % 24, venue)


def test_entries_are_read_as_written() -> None:
    entry = Standing((3 << 32) + 7, "withdrawn", 5, 9, 4, pending=True)
    warned = Warned(17, "exposed", ((1, 2), (4, 8)), 3)
    assert unpack_standing(pack_standing(entry)) == entry
    assert unpack_warned(pack_warned(warned)) == warned
    assert read_field(exposure_field("a" * 16, 20_000).encode()) == ("a" * 16, 20_000)
    assert read_field(warning_field(20_000).encode()) == ("w", 20_000)
    assert read_field(b"n") is None


def test_records_of_higher_versions_are_greater_texts() -> None:
    layout = Layout(16, 30)
    records = [layout.case_record(case(version), 0) for version in (1, 9, 10, 999_999, 1_000_000)]
    assert [record[:8] for record in records] == sorted(record[:8] for record in records)
    assert read_case(records[2]) == case(10)


def test_what_is_kept_outlives_the_retention() -> None:
    layout = Layout(16, 30)
    hour = 480_000
    assert layout.bucket_expiry(hour) == (hour + 1) * 3600 + 35 * 86_400
    assert layout.oldest_hour(layout.bucket_expiry(hour) * 1000) >= hour
    assert layout.case_expiry(case(), 0) > layout.bucket_expiry(1_700_100_000 // 3600)
    same_slot = {key.split("}")[0][2:] for key in (layout.bucket("CCCC", 1), layout.flags("CCCC"))}
    assert same_slot == {layout.entries("CCCC", "k").split("}")[0][2:]}
    keys = [
        layout.cases("a" * 16),
        *layout.index("a" * 16, range(3)),
        layout.having_cases(layout.shard("a" * 16)),
    ]
    assert len({key.split("}")[0][2:] for key in keys}) == 1
    days = layout.index_days(hour * 3_600_000)
    assert layout.index_expiry(days.start - 1) <= hour * 3600 < layout.index_expiry(days.start + 1)
    assert hour // 24 + 1 in days


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["CDEF", "CDEFHJKMNPRT", "23456789"]),
            st.one_of(
                st.integers(490_000, 490_003), st.sampled_from([0, 99_999, 100_000, 999_999, 70_389_527])
            ),
        ),
        max_size=6,
    )
)
def test_heads_of_buckets_are_their_keys_and_expiries(buckets: list[tuple[str, int]]) -> None:
    layout = Layout(16, 30)
    heads = requests._heads(layout, [venue for venue, _ in buckets], [hour for _, hour in buckets])
    for (venue, hour), head in zip(buckets, heads, strict=True):
        read = msgpack.Unpacker(raw=False)
        read.feed(head)
        assert list(read) == [layout.bucket(venue, hour), str(layout.bucket_expiry(hour))]
