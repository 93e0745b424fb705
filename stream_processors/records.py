"""Kafka records by column: what a fetch brings, what a chunk is, what a piece of work is made of.

An object a record cost more than all that is done with most of them: of one scan a record, the client's own
took 1 of a worker's 5.5 us (docs/DESIGN.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self, TypeAlias

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Record:
    """One of them. `timestamp` ms."""

    value: bytes | None
    offset: int
    timestamp: int
    headers: Headers = ()
    partition: int = 0
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one partition or several, an element of each list a record; those of a partition in order.
    `timestamps` ms; `headers` is none when no record has any."""

    partitions: list[int]
    offsets: list[int]
    timestamps: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers] | None

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        """The columns of records."""
        rows = list(records)
        headers = [row.headers for row in rows]
        return cls(
            [row.partition for row in rows],
            [row.offset for row in rows],
            [row.timestamp for row in rows],
            [row.key for row in rows],
            [row.value for row in rows],
            headers if any(headers) else None,
        )

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """All of them, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        headers: list[Headers] | None = None
        if any(part.headers is not None for part in parts):
            headers = []
            for part in parts:
                headers += [()] * len(part) if part.headers is None else part.headers
        return cls(
            list(chain.from_iterable(part.partitions for part in parts)),
            list(chain.from_iterable(part.offsets for part in parts)),
            list(chain.from_iterable(part.timestamps for part in parts)),
            list(chain.from_iterable(part.keys for part in parts)),
            list(chain.from_iterable(part.values for part in parts)),
            headers,
        )

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return sum(map(len, filter(None, self.values)))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> Records:
        return Records(
            self.partitions[part],
            self.offsets[part],
            self.timestamps[part],
            self.keys[part],
            self.values[part],
            None if self.headers is None else self.headers[part],
        )

    def at(self, place: int) -> Record:
        """One by itself."""
        return Record(
            self.values[place],
            self.offsets[place],
            self.timestamps[place],
            () if self.headers is None else self.headers[place],
            self.partitions[place],
            self.keys[place],
        )

    def __iter__(self) -> Iterator[Record]:
        return map(self.at, range(len(self)))
