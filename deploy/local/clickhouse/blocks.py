"""Native blocks: taken from a client as chDB's Native format, and the other way round.

A block of the protocol is the Native format with two additions: a block info before it (revision 51903) and
one byte after each column's type that says whether the column has a special serialization (54454). The
columns' data goes through unchanged, as bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.local.clickhouse.columns import skip_column
from deploy.local.clickhouse.errors import NOT_IMPLEMENTED, TOO_LARGE_BLOCK, ProtocolError
from deploy.local.clickhouse.wire import Bytes, Memory, Source, text, varint

REVISION_WITH_COLUMN_FLAG = 54454
_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"  # field 1: no overflow row; field 2: bucket -1; end
_MAX_COLUMNS = 10_000
_MAX_ROWS = 1 << 32
_MAX_NAME = 1 << 24  # a column without an alias is called as it is written, lists of thousands and all


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `name` and `type` as text, `head` and `data` as the bytes of a block."""

    name: str
    type: str
    head: bytes
    data: Bytes


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of some columns."""

    rows: int
    columns: tuple[Column, ...]

    @property
    def size(self) -> int:
        """Bytes of the columns' data."""
        return sum(len(column.data) for column in self.columns)

    def native(self) -> list[Bytes]:
        """As chDB's Native format, in pieces."""
        return self._encoded(b"")

    def packet(self, revision: int) -> list[Bytes]:
        """As the body of a Data packet for clients of this revision, in pieces."""
        return [_INFO, *self._encoded(b"\x00" if revision >= REVISION_WITH_COLUMN_FLAG else b"")]

    def header(self) -> Block:
        """The same columns without rows."""
        return header_of((column.name, column.type) for column in self.columns)

    def with_types(self, types: Sequence[str]) -> Block:
        """The same data under other names of its types."""
        columns = zip(self.columns, types, strict=True)
        return Block(
            self.rows,
            tuple(Column(c.name, kind, text(c.name) + text(kind), c.data) for c, kind in columns),
        )

    def _encoded(self, flag: bytes) -> list[Bytes]:
        parts: list[Bytes] = [varint(len(self.columns)) + varint(self.rows)]
        for column in self.columns:
            parts += (column.head + flag, column.data)
        return parts


EMPTY = Block(0, ())


def header_of(columns: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> Block:
    """A block without rows that names columns and their types."""
    return Block(0, tuple(Column(name, kind, text(name) + text(kind), b"") for name, kind in columns))


def read_block(source: Source, revision: int) -> Block:
    """The block of a Data packet.

    Raises ProtocolError when it is larger than the source's limit or cannot be understood.
    """
    while field := source.varint():
        source.skip({1: 1, 2: 4}.get(field, 0))
        if field > 2:
            raise ProtocolError(NOT_IMPLEMENTED, f"Unknown field {field} of a block info")
    return _read(source, revision >= REVISION_WITH_COLUMN_FLAG)


def split_native(data: bytes) -> Iterator[Block]:
    """The blocks of a text in Native format."""
    source = Memory(data)
    while source.pos < len(source.data):
        yield _read(source, flagged=False)


def _read(source: Source, flagged: bool) -> Block:
    source.forget()
    count, rows = source.varint(), source.varint()
    if count > _MAX_COLUMNS or rows > _MAX_ROWS:
        raise ProtocolError(TOO_LARGE_BLOCK, f"A block of {count} columns and {rows} rows is too large")
    columns = []
    for _ in range(count):
        head = source.pos
        name, kind = source.text(_MAX_NAME), source.text(_MAX_NAME)
        head_end = source.pos
        if flagged and source.byte():
            raise ProtocolError(NOT_IMPLEMENTED, f"Column {name} has a sparse serialization: send it plain")
        start = source.pos
        if rows:
            skip_column(source, kind, rows)
        columns.append(
            Column(name, kind, bytes(source.piece(head, head_end)), source.piece(start, source.pos))
        )
    source.forget()
    return Block(rows, tuple(columns))
