"""What a fetch brings as columns, against the client's own records of the same bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from stream_processors.batches import _Batches, _PartitionRecords
from stream_processors.records import Record, Records

_TP = TopicPartition("scans", 3)
_LZ4 = 3
_CONTROL = 0x20

# a record of a batch: its distance from the one before, key, value, headers
_RECORD = st.tuples(
    st.integers(1, 3),
    st.none() | st.binary(max_size=3),
    st.none() | st.binary(max_size=40),
    st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=2),
)


def batch(
    start: int,
    records: Sequence[tuple[int, Any, Any, Any]],
    transactional: bool = False,
    producer: int = 7,
    compression: int = _LZ4,
) -> bytes:
    """A batch as the broker keeps it; the first record is at `start`."""
    made = DefaultRecordBatchBuilder(2, compression, int(transactional), producer, 0, 0, 1 << 20)
    offset = 0
    for distance, key, value, headers in records:
        made.append(offset, 1_700_000_000_000 + offset, key, value, headers)
        offset += distance
    data = bytearray(made.build())
    data[:8] = struct.pack(">q", start)  # not in the checksum
    return bytes(data)


def read(data: bytes, position: int) -> tuple[list[Records], int]:
    """Everything from a position on, and the position after it."""
    found = _PartitionRecords(_TP, _Batches(data), [], position, None, None, True, fetcher.READ_COMMITTED)
    return list(found), found.next_fetch_offset


@given(st.lists(st.lists(_RECORD, min_size=1, max_size=6), max_size=4), st.integers(0, 40))
def test_columns_are_what_the_clients_own_records_say(batches: list[list[Any]], position: int) -> None:
    data, start = b"", 0
    for records in batches:
        data += batch(start, records)
        start += sum(distance for distance, *_ in records)
    native = fetcher.PartitionRecords(_TP, MemoryRecords(data), [], position, None, None, True, 0)
    wanted = [
        Record(each.value, each.offset, each.timestamp, list(each.headers), each.partition, each.key)
        for each in native
    ]
    found, after = read(data, position)
    rows = [row for part in found for row in part]
    assert [
        Record(row.value, row.offset, row.timestamp, list(row.headers), row.partition, row.key)
        for row in rows
    ] == wanted
    assert all(len(part) for part in found)
    assert after == native.next_fetch_offset
    joined = Records.joined(found) if found else Records.of([])
    assert list(joined) == rows
    assert joined.size == sum(len(row.value or b"") for row in rows)


def test_a_position_within_a_batch_begins_there() -> None:
    data = batch(100, [(1, None, b"%d" % at, []) for at in range(10)])
    (found,), after = read(data, 107)
    assert found.offsets == [107, 108, 109]
    assert found.values == [b"7", b"8", b"9"]
    assert after == 110


def test_what_was_aborted_is_passed_over_and_the_rest_is_not() -> None:
    aborted = batch(0, [(1, None, b"a", []), (1, None, b"b", [])], True)
    of_another = batch(2, [(1, None, b"c", [])], True, producer=8)
    marker = bytearray(batch(4, [(1, struct.pack(">hh", 0, 0), bytes(6), [])], True, compression=0))
    marker[22] |= _CONTROL  # an attribute, in the checksum: read without looking at that
    data = aborted + of_another + bytes(marker) + batch(5, [(1, None, b"d", [])], True)
    found = _PartitionRecords(*(_TP, _Batches(data), [(7, 0)], 0, None, None, False, fetcher.READ_COMMITTED))
    assert [(part.offsets, part.values) for part in found] == [([2], [b"c"]), ([5], [b"d"])]
    assert found.next_fetch_offset == 6


def test_a_batch_with_a_header_name_that_is_no_utf8_is_read_and_others_as_ever() -> None:
    good = batch(0, [(1, None, b"a", [("name", b"1")])])
    # uncompressed, so that the name can be spoilt; its checksum is of no interest here
    records = [(1, b"k", b"b", [("name", b"2")]), (1, None, b"c", [])]
    bad = batch(1, records, compression=0).replace(b"name", b"na\xffe")
    data = good + bad + batch(3, [(1, None, b"d", [])])
    found = _PartitionRecords(_TP, _Batches(data), [], 0, None, None, False, 0)
    parts = list(found)
    assert [value for part in parts for value in part.values] == [b"a", b"b", b"c", b"d"]
    assert [part.headers for part in parts] == [
        [[("name", b"1")]],
        [[("na\\xffe", b"2")], []],
        None,
    ]
    with pytest.raises(UnicodeDecodeError):
        list(fetcher.PartitionRecords(_TP, MemoryRecords(data), [], 0, None, None, False, 0))


def test_headers_of_some_parts_stay_with_their_records() -> None:
    plain = Records.of([Record(b"a", 0, 5), Record(b"b", 1, 6)])
    told = Records.of([Record(b"c", 2, 7, [("arrival", b"1")], 1, b"k"), Record(None, 3, 8)])
    joined = Records.joined([plain, told, plain])
    assert plain.headers is None
    assert list(joined) == [*plain, *told, *plain]
    assert list(joined[1:4]) == [*plain[1:], *told]
    assert joined[1:4].size == 2
    assert len(Records.of([])) == 0
