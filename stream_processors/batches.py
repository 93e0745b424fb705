"""What a fetch of aiokafka brings: columns, a batch at a time, instead of an object a record.

And batches as Kafka allows them: a header's name may be any bytes, though aiokafka wants UTF-8. One record
with such a name (any client outside the JVM can write one) would raise in the fetch, and again after every
restart: the partition would stand for ever. Here such a batch is read once more, with names that are no UTF-8
escaped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from stream_processors.records import Records

_BATCH_LENGTH: Final = struct.Struct(">i")
_LENGTH_AT: Final = 8  # behind the base offset
_OVERHEAD: Final = 12  # base offset and length


class _Part(bytearray):
    def decode(self, encoding: str = "utf-8", _errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


class _Forgiving(bytearray):
    """A buffer whose parts become text whatever they hold."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Part(found) if isinstance(at, slice) else found


def _forgiving(data: bytes, number: int) -> Iterator[Any]:
    """The records of the batch with this number, read by aiokafka's own parser in Python."""
    start = 0
    for _ in range(number):
        start += _OVERHEAD + _BATCH_LENGTH.unpack_from(data, start + _LENGTH_AT)[0]
    (length,) = _BATCH_LENGTH.unpack_from(data, start + _LENGTH_AT)
    batch = _DefaultRecordBatchPy(data[start : start + _OVERHEAD + length])
    iter(batch)  # decompresses
    batch._buffer = _Forgiving(batch._buffer)
    return iter(batch)


@dataclass(frozen=True, slots=True)
class _Run:
    """The records of a batch, one at least, in the place of a record; `offset` is the last one's."""

    records: Sequence[Any]
    offset: int


class _Batch:
    """A batch of aiokafka's that gives its records as one; whether it counts is asked of the original."""

    def __init__(self, native: Any, data: bytes, number: int) -> None:
        self._native = native
        self._data = data
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def __next__(self) -> Any:
        return next(self._native)

    def __iter__(self) -> Iterator[_Run]:
        try:
            records = list(self._native)
        except UnicodeDecodeError:
            records = list(_forgiving(self._data, self._number))
        if records:
            yield _Run(records, records[-1].offset)


class _Batches:
    """The batches of a fetch; in the place of aiokafka's MemoryRecords."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._native = MemoryRecords(data)
        self._number = -1

    def size_in_bytes(self) -> int:
        """As aiokafka's."""
        return int(self._native.size_in_bytes())

    def has_next(self) -> bool:
        """As aiokafka's."""
        return bool(self._native.has_next())

    def next_batch(self) -> _Batch | None:
        """As aiokafka's."""
        native = self._native.next_batch()
        self._number += 1
        return None if native is None else _Batch(native, self._data, self._number)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """aiokafka's, of which each element is the columns of a batch: what it knows of transactions, of control
    batches and of positions holds for a batch as for a record."""

    def _consumer_record(self, tp: Any, record: _Run) -> Records:
        records = record.records
        # a batch is fetched as a whole, also when the position is within it
        if records[0].offset < self.next_fetch_offset:
            records = [each for each in records if each.offset >= self.next_fetch_offset]
        headers = [each.headers for each in records]
        return Records(
            [tp.partition] * len(records),
            [each.offset for each in records],
            [each.timestamp for each in records],
            [each.key for each in records],
            [each.value for each in records],
            headers if any(headers) else None,
        )


def fetch_columns() -> None:
    """From now on what an aiokafka consumer of this process fetches are Records, a batch each, and header
    names that are no UTF-8 are read."""
    fetcher.MemoryRecords = _Batches
    fetcher.PartitionRecords = _PartitionRecords
