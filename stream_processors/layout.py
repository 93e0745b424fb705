"""Names, encodings and expiry of what Redis holds. Pure.

`{shard}` in a key is a Redis Cluster hash tag: many buckets share a slot, so that one call can serve a
whole chunk of scans. A mark in a bucket is an entry of 13 bytes: person (8), kind and minute in the hour in
one, a 4-byte tag of the scan that made it. A case record is 8 digits of version, 12 of its expiry in
seconds, then JSON, so that scripts compare versions as text.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import orjson

from schemas.codes import ALPHABET
from schemas.events import Case
from schemas.times import MS_PER_MINUTE
from stream_processors.matching import Standing, Warned
from stream_processors.presence import IN, OUT, VOID, Mark

KINDS: Final = {"in": IN, "out": OUT, "void": VOID}
ENTRY_SIZE: Final = 13
# A bucket is so many groups of persons at most, by the last bits of theirs; a large group is a hash of its
# own (lua/_marks.lua). A field a person costs 7 bytes more for each, and a look and a write; and beyond 512
# of them, as a hash table, 60. Lua has the same number.
GROUPS: Final = 32
_DAY_SECONDS: Final = 86_400
# Marks outlive the retention by this, so that a scan accepted on its last day still meets its neighbours.
_GRACE_DAYS: Final = 5
_RECORD_PREFIX: Final = 20
_DIGIT: Final = {character: value for value, character in enumerate(ALPHABET, 1)}
# A shard's index of a day is cut by person into so many lists: of a chunk of 2,000 scans some eight go to a
# list of 16 shards in one call, and a case reads one list for each day (16 bytes a mark).
INDEX_LISTS: Final = 16
# Written into the store; another one there has to be rebuilt. 2: the index is lists of a day. 3: a bucket is
# groups of persons. 4: large groups are apart; what 3 wrote is as good.
LAYOUT_VERSION: Final = "4"
# Keys of layouts before this one, which no script reads: a rebuild takes them away. A family that is laid out
# anew gets another letter, else what stands of the old one would be read as new.
FORMER_KEYS: Final = ("v:*",)


def mark_byte(kind: int, minute: int) -> int:
    """Kind and minute in the hour (0..59) in one byte."""
    return kind << 6 | minute


def tag(scan_id: str) -> bytes:
    """4 bytes that tell a redelivered scan from another scan of the same mark."""
    return zlib.crc32(scan_id.encode()).to_bytes(4, "big")


def marks_of(hour: int, entries: bytes) -> list[tuple[str, Mark]]:
    """(person, mark) of a venue-hour bucket's entries."""
    base, persons = hour * 60, entries.hex()
    return [
        (persons[at + at : at + at + 16], (base + (entries[at + 8] & 63), entries[at + 8] >> 6))
        for at in range(0, len(entries), ENTRY_SIZE)
    ]


def pack_code(code: str) -> bytes:
    """A venue code of up to 12 characters in 7 bytes: digits 1 to 22 of a number to the base 23."""
    number = 0
    for character in code:
        number = number * 23 + _DIGIT[character]
    return number.to_bytes(7, "big")


def read_code(packed: bytes) -> str:
    """The venue code in 7 bytes."""
    number, code = int.from_bytes(packed, "big"), ""
    while number:
        number, digit = divmod(number, 23)
        code = ALPHABET[digit - 1] + code
    return code


def index_tail(hour: int, venue: str) -> bytes:
    """What follows the person (8 bytes) in an entry of the index: hour of the day (UTC), venue; 8 bytes."""
    return bytes((hour % 24,)) + pack_code(venue)


@lru_cache(maxsize=8192)
def read_case(record: bytes) -> Case:
    """The case in a case record."""
    return Case.model_validate_json(record[_RECORD_PREFIX:])


@dataclass(frozen=True, slots=True)
class Layout:
    """Keys and expiries for a number of shards and a retention in days.

    `split`: a call may be about one shard only, since shards are on different nodes of a Redis Cluster.
    """

    shards: int
    retention_days: int
    split: bool = False

    def shard(self, text: str) -> int:
        """Of a venue, a person or a case."""
        return zlib.crc32(text.encode()) % self.shards

    def bucket_prefix(self, venue: str) -> str:
        """The key of a venue's hour without the hour."""
        return f"b:{{{self.shard(venue)}}}:{venue}:"

    def bucket(self, venue: str, hour: int) -> str:
        """HASH: group of persons (a character) → their marks of the hour, entries of 13 bytes.

        Of a large group nothing: it is a hash of its own, by parts, under this key with `d` for `b` and the
        group at its end.
        """
        return f"{self.bucket_prefix(venue)}{hour}"

    def index_list(self, shard: int, part: int, day: int) -> str:
        """LIST: who was where that day (UTC); each element is some entries of 16 bytes."""
        return f"p:{{{shard}}}:{part}:{day}"

    def index(self, person: str, days: range) -> list[str]:
        """The lists that a person's entries of these days are in."""
        part, shard = divmod(zlib.crc32(person.encode()), self.shards)
        return [self.index_list(shard, part % INDEX_LISTS, day) for day in days]

    def index_expiry(self, day: int) -> int:
        """When an index list goes, Unix seconds: with the last marks of its day."""
        return self.bucket_expiry(day * 24 + 23)

    def index_days(self, now_ms: int) -> range:
        """The days that may have entries; a device may be minutes ahead."""
        return range(max(self.oldest_hour(now_ms), 0) // 24, now_ms // 1000 // _DAY_SECONDS + 2)

    def cases(self, person: str) -> str:
        """HASH: case id → case record of a person."""
        return f"c:{{{self.shard(person)}}}:{person}"

    def having_cases(self, shard: int) -> str:
        """ZSET: the persons (8 bytes) of a shard who have cases; the score is when they expire."""
        return f"w:{{{shard}}}"

    def flags(self, venue: str) -> str:
        """HASH: case id → case record flagged at a venue."""
        return f"f:{{{self.shard(venue)}}}:{venue}"

    def case(self, case_id: str) -> str:
        """HASH: `r` highest record, `s` subject, `v:` and a code for every venue the case ever touched."""
        return f"k:{{{self.shard(case_id)}}}:{case_id}"

    def by_shard(self, texts: Iterable[str]) -> dict[int, list[int]]:
        """Positions of venues, or of persons, by the shard that they are in."""
        found: dict[int, list[int]] = {}
        for position, text in enumerate(texts):
            found.setdefault(self.shard(text), []).append(position)
        return found

    @property
    def erased(self) -> list[str]:
        """HASH: who was erased up to which hour. One for all shards, since a chunk's scans are one call;
        where calls are split, the same in every shard."""
        return [f"x:{{{shard}}}" for shard in range(self.shards if self.split else 1)]

    def state(self, shard: int) -> str:
        """HASH: `epoch`, and by partition how far the store was told; of shard 0 also how it stands."""
        return f"s:{{{shard}}}"

    def entries(self, venue: str, case_id: str) -> str:
        """HASH: what stands published, and `n`, the number of attempts."""
        return f"e:{{{self.shard(venue)}}}:{venue}:{case_id}"

    @property
    def _kept_seconds(self) -> int:
        return (self.retention_days + _GRACE_DAYS) * _DAY_SECONDS

    def bucket_expiry(self, hour: int) -> int:
        """When an hour's marks go, Unix seconds: by the hour that they speak of."""
        return (hour + 1) * 3600 + self._kept_seconds

    def oldest_hour(self, now_ms: int) -> int:
        """Hours below this have expired."""
        return (now_ms // 1000 - self._kept_seconds) // 3600 - 1

    def case_expiry(self, case: Case, now_ms: int) -> int:
        """When a case and what stands of it go: one retention after its last marks, so that it can still
        be withdrawn when they are gone. Never soon: a version that moves the window far back, or withdraws
        with an old one, must outlive what the versions before it published."""
        by_window = (case.end // MS_PER_MINUTE + case.linger) * 60
        return max(by_window, now_ms // 1000) + 2 * self._kept_seconds

    def case_record(self, case: Case, now_ms: int) -> bytes:
        """The record of a case that scripts compare."""
        return b"%08d%012d" % (case.version, self.case_expiry(case, now_ms)) + case.to_json()


def exposure_field(person: str, day: int) -> str:
    """The field of a contact's day among the entries."""
    return f"{person}|{day}"


def warning_field(day: int) -> str:
    """The field of a day's warning among the entries."""
    return f"w|{day}"


def read_field(name: bytes) -> tuple[str, int] | None:
    """(person or "w", day) of a field; none for the counter."""
    person, bar, day = name.decode().partition("|")
    return (person, int(day)) if bar else None


def pack_standing(entry: Standing) -> bytes:
    """An exposure entry as JSON."""
    return orjson.dumps([entry.version, entry.status, entry.first, entry.last, entry.minutes, entry.pending])


def unpack_standing(value: bytes) -> Standing:
    """The exposure entry in its JSON."""
    return Standing(*orjson.loads(value))


def pack_warned(entry: Warned) -> bytes:
    """A warning entry as JSON."""
    return orjson.dumps([entry.version, entry.status, entry.presences, entry.contacts, entry.pending])


def unpack_warned(value: bytes) -> Warned:
    """The warning entry in its JSON."""
    version, status, presences, contacts, pending = orjson.loads(value)
    return Warned(version, status, tuple((a, b) for a, b in presences), contacts, pending)
