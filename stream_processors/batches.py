"""Record batches as Kafka allows them: a header's name may be any bytes, though aiokafka wants UTF-8.

One record with such a name (any client outside the JVM can write one) would raise in the fetch, and again
after every restart: the partition would stand for ever. Here such a batch is read once more, with names that
are no UTF-8 escaped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

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


class _Batch:
    """A batch of aiokafka's; only what iterating gives may differ."""

    def __init__(self, native: Any, data: bytes, number: int) -> None:
        self._native = native
        self._data = data
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def __next__(self) -> Any:
        return next(self._native)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._native
        except UnicodeDecodeError:
            # from its beginning: the fetcher passes over offsets that it has given already
            yield from _forgiving(self._data, self._number)


class ForgivingRecords:
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


def forgive_header_names() -> None:
    """From now on every aiokafka consumer of this process reads header names that are no UTF-8."""
    fetcher.MemoryRecords = ForgivingRecords
