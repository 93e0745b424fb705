"""What the two scripts of a scan are asked, as msgpack, made by column: pure.

The bytes are laid down directly: a mark and an index entry have a fixed form, so their bytes come from numpy
for a whole chunk, and what depends on the venue and hour alone is made once (`_bucket_head`). Packing lists
of Python objects took four times as long.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stream_processors.layout import ENTRY_SIZE, GROUPS, INDEX_LISTS, Layout, pack_code

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

    @classmethod
    def joined(cls, parts: Sequence[Marks]) -> Self:
        """One behind the other."""

        def texts(column: str) -> list[str]:
            return list(chain.from_iterable(getattr(part, column) for part in parts))

        def numbers(column: str) -> NDArray[np.int64]:
            return np.concatenate([getattr(part, column) for part in parts])

        return cls(
            texts("scan_ids"),
            texts("persons"),
            texts("venues"),
            numbers("hours"),
            numbers("minutes"),
            numbers("kinds"),
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


def _long_text(text: bytes) -> bytes:
    return b"\xdb" + len(text).to_bytes(4, "big") + text


_EMPTY: Final = _text(b"")
_packed: Final = lru_cache(maxsize=500_000)(pack_code)


def _bucket_head(layout: Layout, venue: str, hour: int) -> bytes:
    """Key and expiry of a bucket. The expiry is a text: Redis writes a number out with printf."""
    return _text(layout.bucket(venue, hour).encode()) + _text(b"%d" % layout.bucket_expiry(hour))


# Hours of six digits, from 1981 to 2084: a bucket's head is then one part of the venue and one of the hour,
# and a country's venues need not be remembered once for each hour.
_SIX_DIGITS: Final = range(100_000, 1_000_000)
_REMEMBERED: Final = 500_000  # venues, 100 bytes each


class _OfVenues(dict[str, bytes]):
    """What is made of a venue's code alone, remembered."""

    def __init__(self, make: Callable[[str], bytes]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, venue: str) -> bytes:
        if len(self) >= _REMEMBERED:
            self.clear()
        made = self[venue] = self._make(venue)
        return made


class _Known(NamedTuple):
    """By venue: the key of its flags, and the beginning of a bucket's key up to an hour of six digits."""

    flags: _OfVenues
    buckets: _OfVenues


@lru_cache(maxsize=8)
def _known(layout: Layout) -> _Known:
    def bucket(venue: str) -> bytes:
        whole = _text(layout.bucket(venue, _SIX_DIGITS.start).encode())
        return whole[: -len(str(_SIX_DIGITS.start))]

    return _Known(_OfVenues(lambda venue: _text(layout.flags(venue).encode())), _OfVenues(bucket))


def _heads(layout: Layout, venues: Sequence[str], hours: Sequence[int]) -> list[bytes]:
    """The head of each bucket."""
    tails: dict[int, bytes] = {}
    for hour in set(hours):
        if hour not in _SIX_DIGITS:
            return [_bucket_head(layout, venue, at) for venue, at in zip(venues, hours, strict=True)]
        tails[hour] = b"%d" % hour + _text(b"%d" % layout.bucket_expiry(hour))
    begins = map(_known(layout).buckets.__getitem__, venues)
    return list(map(bytes.__add__, begins, map(tails.__getitem__, hours)))


@lru_cache(maxsize=65_536)
def _list_head(layout: Layout, shard: int, part: int, day: int) -> bytes:
    """Key and expiry of a list of the index."""
    return _text(layout.index_list(shard, part, day).encode()) + _text(b"%d" % layout.index_expiry(day))


def _crc_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ 0xEDB88320, table >> 1).astype(np.uint32)
    return table


_CRC: Final = _crc_table()


# By column it takes 0.1 ms whatever there is, which a lone scan would wait for; one by one 0.2 µs each.
FEW: Final = 400


def crc32(texts: Bytes) -> NDArray[np.uint32]:
    """zlib.crc32 of each row."""
    if len(texts) < FEW:
        flat, size = texts.tobytes(), texts.shape[1]
        rows = (flat[at : at + size] for at in range(0, len(flat), size))
        return np.fromiter(map(zlib.crc32, rows), np.uint32, len(texts))
    crc = np.full(len(texts), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(texts.T):
        crc = _CRC[(crc ^ column) & 0xFF] ^ crc >> np.uint32(8)
    return crc ^ np.uint32(0xFFFFFFFF)


def _starts(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where another number begins; there is one at least. (np.diff takes 40 µs by itself, this 3.)"""
    begins = np.empty(len(ids), np.bool_)
    begins[0] = True
    np.not_equal(ids[1:], ids[:-1], out=begins[1:])
    return np.flatnonzero(begins)


class Buckets(NamedTuple):
    """Marks gathered by bucket, and in it by group of persons. `order`: positions of the marks in that order;
    buckets begin at `starts`; `heads`: key and expiry."""

    order: NDArray[np.int64]
    starts: list[int]
    counts: list[int]
    heads: list[bytes]
    persons: Bytes  # of each mark, as it was given
    venues: NDArray[np.int64]  # likewise: the number of its venue
    codes: Bytes  # of each venue, packed


def gather(layout: Layout, marks: Marks) -> Buckets:
    """The marks of each venue and hour together, and of these those of a group of persons."""
    persons = np.frombuffer(bytes.fromhex("".join(marks.persons)), np.uint8).reshape(-1, 8)
    number = dict(zip(dict.fromkeys(marks.venues), count()))
    venues = np.fromiter(map(number.__getitem__, marks.venues), np.int64, len(marks))
    ids = venues << 32 | marks.hours
    order = np.argsort(ids * GROUPS + persons[:, 7] % GROUPS, kind="stable")
    ids = ids[order]
    starts = _starts(ids)
    codes = list(number)
    firsts = ids[starts]
    at_venues = map(codes.__getitem__, (firsts >> 32).tolist())
    heads = _heads(layout, list(at_venues), (firsts & 0xFFFFFFFF).tolist())
    ends = np.append(starts[1:], len(ids))
    packed = np.frombuffer(b"".join(map(_packed, codes)), np.uint8).reshape(-1, 7)
    return Buckets(order, starts.tolist(), (ends - starts).tolist(), heads, persons, venues, packed)


def _entries(marks: Marks, buckets: Buckets) -> bytes:
    """The marks as a bucket holds them, 13 bytes each, in the order of the buckets."""
    size = len(marks)
    rows = np.empty((size, ENTRY_SIZE), np.uint8)
    rows[:, :8] = buckets.persons
    rows[:, 8] = marks.kinds << 6 | marks.minutes
    tags = np.fromiter(map(zlib.crc32, map(str.encode, marks.scan_ids)), np.uint32, size)
    rows[:, 9:] = tags.astype(">u4").view(np.uint8).reshape(size, 4)
    return rows[buckets.order].tobytes()


def _flag_keys(layout: Layout, venues: Sequence[str]) -> bytes:
    return _array(len(venues)) + b"".join(map(_known(layout).flags.__getitem__, venues))


class MarksCall(NamedTuple):
    """add_marks of one shard, or of all (shard 0): which marks and which venues its reply is about."""

    shard: int
    request: bytes
    order: NDArray[np.int64]
    venues: Sequence[str]


def marks_calls(
    layout: Layout, marks: Marks, buckets: Buckets, flag_venues: Sequence[str]
) -> list[MarksCall]:
    """add_marks for these marks and venues: for every shard where calls are split, else one."""
    body, size = _entries(marks, buckets), ENTRY_SIZE
    rows: list[bytes] = []
    for start, many, head in zip(buckets.starts, buckets.counts, buckets.heads, strict=True):
        rows += (head, _long_text(body[size * start : size * (start + many)]))
    if not layout.split:
        request = b"".join((b"\x92", _array(3 * len(buckets.starts)), *rows, _flag_keys(layout, flag_venues)))
        return [MarksCall(0, request, buckets.order, flag_venues)]
    at = layout.by_shard(marks.venues[first] for first in buckets.order[buckets.starts].tolist())
    watched = layout.by_shard(flag_venues)
    calls = []
    for shard in at.keys() | watched.keys():
        mine = at.get(shard, [])
        spans = [(buckets.starts[bucket], buckets.counts[bucket]) for bucket in mine]
        orders = [buckets.order[:0], *(buckets.order[start : start + many] for start, many in spans)]
        venues = [flag_venues[place] for place in watched.get(shard, ())]
        parts = chain.from_iterable(rows[2 * bucket : 2 * bucket + 2] for bucket in mine)
        request = b"".join((b"\x92", _array(3 * len(mine)), *parts, _flag_keys(layout, venues)))
        calls.append(MarksCall(shard, request, np.concatenate(orders), venues))
    return calls


class IndexCall(NamedTuple):
    """add_index of one shard, or of all (shard 0)."""

    shard: int
    request: bytes


def index_calls(
    layout: Layout, marks: Marks, buckets: Buckets, taken: NDArray[np.bool_], again: NDArray[np.bool_]
) -> list[IndexCall]:
    """add_index for these marks: for every shard of the persons where calls are split, else one.

    `buckets`: of these marks (gather); `taken`: which marks get an entry, one at least; `again`: which of
    all were there already, by the same scan.
    """
    persons, hours = buckets.persons[taken], marks.hours[taken]
    size = len(persons)
    shards_of = np.uint32(layout.shards)
    crc = crc32(np.frombuffer(persons.tobytes().hex().encode(), np.uint8).reshape(size, 16))
    shards, lists = (crc % shards_of).astype(np.int64), crc // shards_of % np.uint32(INDEX_LISTS)
    days = hours // 24
    # a day has fewer than 24 bits until the year 47,900
    ids = (shards * INDEX_LISTS + lists) << 25 | days << 1 | again[taken]
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    rows = np.empty((size, 16), np.uint8)
    rows[:, :8] = persons
    rows[:, 8] = hours % 24
    rows[:, 9:] = buckets.codes[buckets.venues[taken]]
    rows = rows[order]
    body, people = rows.tobytes(), rows[:, :8].tobytes()
    starts = _starts(ids)
    ends = [*starts[1:].tolist(), size]
    parts: list[list[bytes]] = [[] for _ in range(layout.shards)]
    counts, open_list = [0] * layout.shards, -1
    for at, start, end in zip(ids[starts].tolist(), starts.tolist(), ends, strict=True):
        shard, part, day = at >> 25 >> 4, at >> 25 & 15, (at >> 1) & 0xFFFFFF
        entries = _long_text(body[16 * start : 16 * end])
        if at >> 1 == open_list:  # the same list once more: what was there already
            parts[shard][-1] = entries
            continue
        open_list = at >> 1
        head = _list_head(layout, shard, part, day)
        parts[shard] += (head, _EMPTY, entries) if at & 1 else (head, entries, _EMPTY)
        counts[shard] += 4
    bounds = np.searchsorted(ids, np.arange(layout.shards + 1) << 29).tolist()
    asked = [
        _text(b"%d" % shard) + _long_text(people[8 * bounds[shard] : 8 * bounds[shard + 1]])
        for shard in range(layout.shards)
    ]
    if layout.split:
        return [
            IndexCall(
                shard, b"".join((b"\x92", _array(counts[shard]), *parts[shard], _array(2), asked[shard]))
            )
            for shard in range(layout.shards)
            if counts[shard]
        ]
    with_people = [shard for shard in range(layout.shards) if counts[shard]]
    flat = chain.from_iterable(parts[shard] for shard in with_people)
    whole = (b"\x92", _array(sum(counts)), *flat, _array(2 * len(with_people)))
    return [IndexCall(0, b"".join((*whole, *(asked[shard] for shard in with_people))))]


def with_index(marks: MarksCall, index: IndexCall) -> MarksCall:
    """add_scans of the two."""
    return marks._replace(request=b"\x94" + marks.request[1:] + index.request[1:])
