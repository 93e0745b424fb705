"""The fast reader takes nothing that the schema refuses, and reads the same from it."""

from __future__ import annotations

import json
import re
import uuid
import zlib

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.codes import CODE_PATTERN
from schemas.events import SCAN
from schemas.json_text import constant_problem
from stream_processors.layout import GROUPS, Layout, mark_byte, read_code, tag
from stream_processors.reading import (
    NotReadError,
    Row,
    elements_of,
    is_plain,
    read_array,
    read_one,
    row_of,
    well_formed,
)
from stream_processors.requests import FEW, MarkRow, Marks, crc32, gather, index_calls, marks_calls

GOOD = {
    "scan_id": str(uuid.UUID(int=7)),
    "person": "0123456789abcdef",
    "venue": "CDEFC",
    "scanned_at": 1_700_000_000_000,
}


def fast(value: bytes) -> Row | None:
    """As validation reads a single scan."""
    if not is_plain(value, 1) or b"[" in value:
        return None
    try:
        row = read_one(value)
    except NotReadError:
        return None
    # a venue of another form is not registered, and judged for that
    return row if well_formed([row]) is None and re.fullmatch(CODE_PATTERN, row.venue) else None


def by_schema(value: bytes) -> Row | None:
    try:
        return None if constant_problem(value) else row_of(SCAN.validate_json(value))
    except ValidationError:
        return None


tokens = st.sampled_from(
    [
        "0",
        "-0",
        "00",
        "01",
        "-1",
        "1.",
        ".5",
        "1.0",
        "1e3",
        "1E400",
        "1e-1",
        "+1",
        "-",
        "0x1",
        "1_0",
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "true",
        "tru",
        "null",
        "None",
        "undefined",
        '"5"',
        '""',
        "{}",
        "[]",
        "[1",
        '{"a":1}',
        '"\\u0041"',
        '"�"',
        "253402300799999",
        "253402300800000",
        "1700000000000",
        "9223372036854775807",
        "99999999999999999999",
        "1700000000000.0",
        "17e11",
        "'1'",
        "1/**/",
    ]
)
texts = st.text(max_size=70).map(lambda text: json.dumps(text, ensure_ascii=False))
names = st.sampled_from([*GOOD, "kind", "source", "party", "received_at", "gateway", "extra", "Kind"])
ids = st.text("0123456789abcdefABCDEF-١ \t", min_size=30, max_size=38).map(json.dumps)
people = st.text("0123456789abcdefAF ٣é", min_size=14, max_size=18).map(
    lambda text: json.dumps(text, ensure_ascii=False)
)
words = st.sampled_from(
    ['"in"', '"out"', '"void"', '"IN"', '"person"', '"venue"', '"manual"', '"event"', '"in "']
)
fields = st.one_of(
    st.tuples(names, st.one_of(tokens, texts, words, st.integers(-2, 2**50).map(str))),
    st.tuples(st.just("scan_id"), ids),
    st.tuples(st.just("person"), people),
)
separators = st.sampled_from([",", " , ", ",,", ";", "", ",\n", ",\x0b", ",\u00a0"])


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """A scan with some fields more, some of them twice, and now and then broken between them."""
    own = [(name, json.dumps(value)) for name, value in GOOD.items()]
    parts = draw(st.permutations(own + draw(st.lists(fields, max_size=3))))
    text = "{"
    for at, (name, token) in enumerate(parts):
        text += ("," if draw(st.integers(0, 9)) else draw(separators)) if at else ""
        text += f'"{name}":{token}'
    return (text + "}" * draw(st.sampled_from([1, 1, 1, 1, 0, 2]))).encode("utf-8", "surrogatepass")


@given(objects())
@example(json.dumps(GOOD).encode())
def test_what_is_read_fast_is_what_the_schema_reads(value: bytes) -> None:
    row = fast(value)
    assert row is None or row == by_schema(value)


@given(st.binary(max_size=6), st.integers(0, 200))
def test_bytes_out_of_place_are_never_passed_over(junk: bytes, at: int) -> None:
    value = json.dumps(GOOD | {"kind": "out", "party": 2}).encode()
    broken = value[:at] + junk + value[at + len(junk) :]
    row = fast(broken)
    assert row is None or row == by_schema(broken)


def test_what_is_usual_is_read_fast() -> None:
    whole = GOOD | {
        "kind": "void",
        "source": "venue",
        "party": 3,
        "received_at": 5,
        "gateway": "Cổng Đông Ba",
    }
    for scan in (GOOD, whole):
        value = json.dumps(scan, ensure_ascii=False).encode()
        assert fast(value) == by_schema(value) != None  # noqa: E711
        assert [read_one(element) for element in elements_of(b"[" + value + b"," + value + b"]") or ()] == [
            *read_array(b"[" + value + b", " + value + b"]")
        ]


@pytest.mark.parametrize(
    "value",
    [b"[{}{}]", b"[{},{},]", b"[{}],", b"[{},,{}]", b"[{}", b"[{},1]", b'[{"a":"{}"}]', b'[{"a":{}}]'],
)
def test_an_array_that_is_not_plain_is_not_taken_apart(value: bytes) -> None:
    assert elements_of(value) is None


def test_only_the_bad_ones_are_called_so() -> None:
    good = Row(**GOOD)  # type: ignore[arg-type]
    rows = [good, Row(good.scan_id, "0123456789abcdeF", "CDEFC", 1), Row("x" * 36, good.person, "CDEFC", 1)]
    assert well_formed(rows) == [True, False, False]
    assert well_formed(rows[:1]) is None


rows = st.builds(
    MarkRow,
    st.uuids().map(str),
    st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}"),
    st.text("CDEFHJKMPRTVWXY2345689", min_size=4, max_size=12),
    st.integers(0, 70_389_527),
    st.integers(0, 59),
    st.integers(0, 2),
)


@given(st.lists(rows, min_size=1, max_size=40), st.sampled_from([1, 3, 16, 1024]), st.booleans(), st.data())
def test_the_scripts_are_asked_for_every_mark_once(
    some: list[MarkRow], shards: int, split: bool, data: st.DataObject
) -> None:
    some += data.draw(st.lists(st.sampled_from(some), max_size=10))
    layout, marks = Layout(shards, 30, split), Marks.of(some)
    flagged = data.draw(st.lists(st.sampled_from([row.venue for row in some]), unique=True))
    buckets = gather(layout, marks)
    seen: list[int] = []
    asked: list[str] = []
    for shard, request, order, venues in marks_calls(layout, marks, buckets, flagged):
        flat, flags = msgpack.unpackb(request, raw=True)
        assert flags == [layout.flags(venue).encode() for venue in venues]
        found = []
        for key, expiry, entries in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            found += [(key, expiry, entries[start : start + 13]) for start in range(0, len(entries), 13)]
            groups = [entries[start + 7] % GROUPS for start in range(0, len(entries), 13)]
            assert groups == sorted(groups)
        assert len(set(flat[::3])) * 3 == len(flat)
        mine = [some[place] for place in order]
        assert found == [
            (
                layout.bucket(row.venue, row.hour).encode(),
                b"%d" % layout.bucket_expiry(row.hour),
                bytes.fromhex(row.person) + bytes((mark_byte(row.kind, row.minute),)) + tag(row.scan_id),
            )
            for row in mine
        ]
        assert not split or {layout.shard(venue) for venue in [*venues, *(row.venue for row in mine)]} == {
            shard
        }
        seen += order.tolist()
        asked += venues
    assert sorted(seen) == list(range(len(some)))
    assert sorted(asked) == sorted(flagged)
    assert len(buckets.counts) == len({(row.venue, row.hour) for row in some})

    chosen = st.lists(st.booleans(), min_size=len(some), max_size=len(some)).map(np.array)
    again, taken = data.draw(chosen), data.draw(chosen.filter(np.any))
    indexed, people = [], []
    for call in index_calls(layout, marks, buckets, taken, again):
        lists, persons = msgpack.unpackb(call.request, raw=True)
        keys = lists[::4]
        assert len(set(keys)) == len(keys)
        for key, expiry, *kinds in zip(*(lists[start::4] for start in range(4)), strict=True):
            day = int(key.rsplit(b":")[-1])
            assert expiry == b"%d" % layout.index_expiry(day)
            for known, text in enumerate(kinds):
                for start in range(0, len(text), 16):
                    person, hour, code = (
                        text[start : start + 8],
                        text[start + 8],
                        text[start + 9 : start + 16],
                    )
                    assert layout.index(person.hex(), range(day, day + 1)) == [key.decode()]
                    indexed.append((person.hex(), day * 24 + hour, read_code(code), bool(known)))
        for shard, text in zip(persons[::2], persons[1::2], strict=True):
            known_here = {text[start : start + 8].hex() for start in range(0, len(text), 8)}
            assert {layout.shard(person) for person in known_here} == {int(shard)}
            assert not split or int(shard) == call.shard
            people += sorted(known_here)
    with_entry = [(row, bool(known)) for row, known, its in zip(some, again, taken, strict=True) if its]
    assert sorted(indexed) == sorted((row.person, row.hour, row.venue, known) for row, known in with_entry)
    assert sorted(people) == sorted({row.person for row, _ in with_entry})


@pytest.mark.parametrize("size", [1, FEW - 1, FEW, 3 * FEW])
def test_shards_are_found_one_by_one_and_by_column(size: int) -> None:
    chance = np.random.default_rng(7)
    texts = chance.integers(0, 256, (size, 16), np.uint8)
    assert crc32(texts).tolist() == [zlib.crc32(bytes(text)) for text in texts]
