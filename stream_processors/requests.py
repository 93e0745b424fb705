"""What the two scripts of a scan are asked, as msgpack, made by column: pure.

The bytes are laid down directly: a mark and an index entry have a fixed form, so their bytes come from numpy
for a whole chunk, and what depends on the venue and hour alone is made once (`_place`). Packing lists of
Python objects took four times as long.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stream_processors.layout import Layout, index_entry

Bytes = NDArray[np.uint8]


class MarkRow(NamedTuple):
    """One mark, for those who have it alone. `minute` in the hour."""

    scan_id: str
    person: str
    venue: str
    hour: int
    minute: int
    kind: int


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks by column, an element a mark. `minutes` in the hour."""

    scan_ids: Sequence[str]
    persons: Sequence[str]
    venues: Sequence[str]
    hours: NDArray[np.int64]
    minutes: NDArray[np.int64]
    kinds: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[MarkRow]) -> Self:
        """The columns of rows."""
        scan_ids, persons, venues, hours, minutes, kinds = zip(*rows, strict=True)
        return cls(
            scan_ids, persons, venues, *(np.array(column, np.int64) for column in (hours, minutes, kinds))
        )

    def __len__(self) -> int:
        return len(self.scan_ids)

    def __getitem__(self, part: slice) -> Marks:
        return Marks(
            self.scan_ids[part],
            self.persons[part],
            self.venues[part],
            self.hours[part],
            self.minutes[part],
            self.kinds[part],
        )


def _text(text: bytes) -> bytes:
    """A string in msgpack."""
    size = len(text)
    return (bytes((0xA0 | size,)) if size < 32 else b"\xda" + size.to_bytes(2, "big")) + text


def _array(size: int) -> bytes:
    return b"\xdd" + size.to_bytes(4, "big")


def _number(number: int) -> bytes:
    return b"\xcf" + number.to_bytes(8, "big")


@lru_cache(maxsize=65_536)  # the venues of a province times the hours of a day; 200 bytes each
def _place(layout: Layout, venue: str, hour: int) -> tuple[bytes, bytes]:
    """Of a bucket: its key and expiry; and the expiry and entry of an index that holds it."""
    expiry = _number(layout.bucket_expiry(hour))
    return _text(layout.bucket(venue, hour).encode()) + expiry, expiry + _text(index_entry(hour, venue))


def _crc_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ 0xEDB88320, table >> 1).astype(np.uint32)
    return table


_CRC: Final = _crc_table()


def _crc32(texts: Bytes) -> NDArray[np.uint32]:
    """zlib.crc32 of each row."""
    crc = np.full(len(texts), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(texts.T):
        crc = _CRC[(crc ^ column) & 0xFF] ^ crc >> np.uint32(8)
    return crc ^ np.uint32(0xFFFFFFFF)


class Buckets(NamedTuple):
    """Marks gathered by bucket. `order`: positions of the marks in that order; buckets begin at `starts`."""

    order: NDArray[np.int64]
    starts: list[int]
    counts: list[int]
    places: list[tuple[bytes, bytes]]


def gather(layout: Layout, marks: Marks) -> Buckets:
    """The marks of each venue and hour together."""
    number = {venue: at for at, venue in enumerate(dict.fromkeys(marks.venues))}
    ids = np.array([number[venue] for venue in marks.venues], np.int64) << 32 | marks.hours
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    codes = list(number)
    places = [_place(layout, codes[at >> 32], at & 0xFFFFFFFF) for at in ids[starts].tolist()]
    counts = np.diff(starts, append=len(ids)).tolist()
    return Buckets(order, starts.tolist(), counts, places)


def _mark_rows(marks: Marks, order: NDArray[np.int64]) -> bytes:
    """Field and value of each mark in msgpack, 15 bytes, in this order."""
    size = len(marks)
    rows = np.empty((size, 15), np.uint8)
    rows[:, 0] = 0xA8
    rows[:, 1:9] = np.frombuffer(bytes.fromhex("".join(marks.persons)), np.uint8).reshape(size, 8)
    rows[:, 9] = 0xA5
    rows[:, 10] = marks.kinds << 6 | marks.minutes
    tags = np.fromiter(map(zlib.crc32, map(str.encode, marks.scan_ids)), np.uint32, size)
    rows[:, 11:] = tags.astype(">u4").view(np.uint8).reshape(size, 4)
    return rows[order].tobytes()


def _flag_keys(layout: Layout, venues: Sequence[str]) -> bytes:
    return _array(len(venues)) + b"".join(_text(layout.flags(venue).encode()) for venue in venues)


def marks_request(layout: Layout, marks: Marks, buckets: Buckets, flag_venues: Sequence[str]) -> bytes:
    """The argument of add_marks."""
    body = _mark_rows(marks, buckets.order)
    parts = [b"\x92", _array(3 * len(buckets.starts) + 2 * len(marks))]
    for start, count, place in zip(buckets.starts, buckets.counts, buckets.places, strict=True):
        parts += (place[0], b"\xcd", count.to_bytes(2, "big"), body[15 * start : 15 * (start + count)])
    parts.append(_flag_keys(layout, flag_venues))
    return b"".join(parts)


class MarksCall(NamedTuple):
    """add_marks of one shard: its argument; which marks and which venues its reply is about."""

    shard: int
    request: bytes
    order: NDArray[np.int64]
    venues: list[str]


def marks_by_shard(
    layout: Layout, marks: Marks, buckets: Buckets, flag_venues: Sequence[str]
) -> list[MarksCall]:
    """marks_request apart for every shard of the venues."""
    body = _mark_rows(marks, buckets.order)
    firsts = buckets.order[buckets.starts].tolist()
    at = layout.by_shard(marks.venues[first] for first in firsts)
    watched = layout.by_shard(flag_venues)
    calls = []
    for shard in at.keys() | watched.keys():
        mine, size = at.get(shard, []), 0
        parts, orders = list[bytes](), [buckets.order[:0]]
        for bucket in mine:
            start, count = buckets.starts[bucket], buckets.counts[bucket]
            end, size = start + count, size + count
            parts += (
                buckets.places[bucket][0],
                b"\xcd",
                count.to_bytes(2, "big"),
                body[15 * start : 15 * end],
            )
            orders.append(buckets.order[start:end])
        venues = [flag_venues[place] for place in watched.get(shard, ())]
        head = b"\x92" + _array(3 * len(mine) + 2 * size)
        request = head + b"".join(parts) + _flag_keys(layout, venues)
        calls.append(MarksCall(shard, request, np.concatenate(orders), venues))
    return calls


class _People(NamedTuple):
    """Of the persons of marks, in the order of buckets: digits and shards; and how keys of a shard begin."""

    texts: Bytes
    shards: NDArray[np.uint32]
    index_heads: list[bytes]
    case_heads: list[bytes]
    floor: bytes


def _people(layout: Layout, marks: Marks, buckets: Buckets, now_ms: int) -> _People:
    texts = np.frombuffer("".join(marks.persons).encode(), np.uint8).reshape(len(marks), 16)[buckets.order]
    heads = [f"p:{{{shard}}}:".encode() for shard in range(layout.shards)]
    return _People(
        texts,
        _crc32(texts) % np.uint32(layout.shards),
        [bytes((0xA0 | len(head) + 16,)) + head for head in heads],
        [bytes((0xA0 | len(head) + 16,)) + b"c" + head[1:] for head in heads],
        _text(max(layout.oldest_hour(now_ms), 0).to_bytes(4, "big")),
    )


def persons_request(layout: Layout, marks: Marks, buckets: Buckets, now_ms: int) -> bytes:
    """The argument of add_index; its positions are those of `buckets.order`."""
    size = len(marks)
    texts, numbers, index, cases, floor = _people(layout, marks, buckets, now_ms)
    shards, people = numbers.tolist(), texts.view("S16").ravel().tolist()
    entries = chain.from_iterable(map(repeat, (place[1] for place in buckets.places), buckets.counts))
    parts = chain.from_iterable(zip(map(index.__getitem__, shards), people, entries, strict=True))
    keys = chain.from_iterable(zip(map(cases.__getitem__, shards), people, strict=True))
    return b"".join((b"\x93", _array(3 * size), b"".join(parts), _array(size), b"".join(keys), floor))


class PersonsCall(NamedTuple):
    """add_index of one shard: its argument; the persons, as digits, that the positions of its reply mean."""

    shard: int
    request: bytes
    persons: list[bytes]


def persons_by_shard(layout: Layout, marks: Marks, buckets: Buckets, now_ms: int) -> list[PersonsCall]:
    """persons_request apart for every shard of the persons."""
    texts, shards, index, cases, floor = _people(layout, marks, buckets, now_ms)
    order = np.argsort(shards, kind="stable")
    people: list[bytes] = np.ascontiguousarray(texts[order]).view("S16").ravel().tolist()
    entries = list(chain.from_iterable(map(repeat, (place[1] for place in buckets.places), buckets.counts)))
    calls, end = [], 0
    for shard, size in enumerate(np.bincount(shards, minlength=layout.shards).tolist()):
        if not size:
            continue
        start, end = end, end + size
        mine = people[start:end]
        theirs = [entries[place] for place in order[start:end].tolist()]
        parts = b"".join(chain.from_iterable(zip(repeat(index[shard], size), mine, theirs, strict=True)))
        keys = b"".join(chain.from_iterable(zip(repeat(cases[shard], size), mine, strict=True)))
        request = b"".join((b"\x93", _array(3 * size), parts, _array(size), keys, floor))
        calls.append(PersonsCall(shard, request, mine))
    return calls
