"""Where a column of a Native block ends.

Packets carry no lengths, so the end of a block is only known by walking its columns; values themselves are
never decoded. Source of the layouts: ClickHouse, src/DataTypes/Serializations.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from deploy.local.clickhouse.errors import CANNOT_PARSE_DATA, NOT_IMPLEMENTED, ProtocolError
from deploy.local.clickhouse.wire import Source

_SIZES = {
    **dict.fromkeys(("Int8", "UInt8", "Bool", "Nothing", "Enum8"), 1),
    **dict.fromkeys(("Int16", "UInt16", "BFloat16", "Date", "Enum16"), 2),
    **dict.fromkeys(("Int32", "UInt32", "Float32", "DateTime", "Date32", "IPv4", "Time", "Decimal32"), 4),
    **dict.fromkeys(("Int64", "UInt64", "Float64", "DateTime64", "Time64", "Decimal64"), 8),
    **dict.fromkeys(("Int128", "UInt128", "UUID", "IPv6", "Decimal128"), 16),
    **dict.fromkeys(("Int256", "UInt256", "Decimal256"), 32),
}
_ALIASES = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Point)",
    "LineString": "Array(Point)",
    "Polygon": "Array(Ring)",
    "MultiLineString": "Array(LineString)",
    "MultiPolygon": "Array(Polygon)",
}
_TYPE = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_ELEMENT_NAME = re.compile(r"(?:`(?:[^`\\]|\\.)*`|\w+)\s+(?=\S)")
_RUN = 4096
_PLAIN_RUN = 256
_GLOBAL_DICTIONARY, _OWN_KEYS = 1 << 8, 1 << 9


@dataclass(frozen=True, slots=True)
class Shape:
    """How the column of a type is laid out.

    `prefix`: bytes before the column's data (a version per LowCardinality inside it); `skip` goes past
    the data of n rows, which may be 0.
    """

    prefix: int
    skip: Callable[[Source, int], None]


def skip_column(source: Source, type_name: str, rows: int) -> None:
    """Go past one column of a block that has rows.

    Raises ProtocolError for a type whose length only its decoder knows (JSON, Dynamic, Variant, states of
    aggregate functions), and for data that cannot be of the type.
    """
    shape = shape_of(type_name)
    source.skip(shape.prefix)
    shape.skip(source, rows)


@lru_cache(maxsize=4096)
def shape_of(type_name: str) -> Shape:
    """The layout of a type by its name, for example `Array(LowCardinality(Nullable(String)))`."""
    parsed = _TYPE.fullmatch(type_name)
    if parsed is None:
        raise ProtocolError(50, f"Unknown data type: {type_name!r}")
    family, inside = parsed[1], parsed[2] or ""
    if family in _ALIASES:
        return shape_of(_ALIASES[family])
    if family == "String":
        return Shape(0, _skip_strings)
    size = _fixed_size(family, inside)
    if size is not None:
        return Shape(0, lambda source, rows: source.skip(rows * size))
    if family in _COMPOSITES:
        return _COMPOSITES[family](arguments(inside))
    raise ProtocolError(
        NOT_IMPLEMENTED,
        f"The embedded engine neither sends nor takes columns of type {family}: cast them, e.g. to String",
    )


def arguments(inside: str) -> list[str]:
    """The arguments between a type's parentheses, split at the commas that are not nested or quoted."""
    parts, depth, start, quote, index = [], 0, 0, "", 0
    while index < len(inside):
        char = inside[index]
        if quote:
            if char == "\\":
                index += 1
            elif char == quote:
                quote = ""
        elif char in "'`":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "," and not depth:
            parts.append(inside[start:index].strip())
            start = index + 1
        index += 1
    last = inside[start:].strip()
    return [*parts, last] if last else parts


def _fixed_size(family: str, inside: str) -> int | None:
    if family == "FixedString":
        return int(inside)
    if family == "Decimal":
        precision = int(inside.split(",", maxsplit=1)[0])
        return 4 if precision <= 9 else 8 if precision <= 18 else 16 if precision <= 38 else 32
    return 8 if family.startswith("Interval") else _SIZES.get(family)


def _skip_strings(source: Source, rows: int) -> None:
    """Go past strings. Codes and pseudonyms are all of one length: such runs are checked at C speed."""
    data = source.data
    left = rows
    while left:
        source.need(1)
        length = data[source.pos]
        run = min(left, _RUN, (len(data) - source.pos) // (length + 1)) if length < 0x80 else 0
        if run >= 8:
            step, start = length + 1, source.pos
            lengths = data[start : start + run * step : step]
            same = run - len(lengths.lstrip(bytes((length,))))
            source.pos += same * step
            left -= same
            if same == run:
                continue
        count = min(left, _PLAIN_RUN)
        _skip_strings_one_by_one(source, count)
        left -= count


def _skip_strings_one_by_one(source: Source, rows: int) -> None:
    data, pos = source.data, source.pos
    for _ in range(rows):
        if pos >= len(data):
            source.pos = pos
            source.need(1)
        length = data[pos]
        if length < 0x80:
            pos += length + 1
        else:
            source.pos = pos
            length = source.varint()
            pos = source.pos + length
    source.pos = pos
    source.need(0)


def _array(inner: Shape) -> Shape:
    def skip(source: Source, rows: int) -> None:
        if rows:
            source.skip((rows - 1) * 8)
            inner.skip(source, source.u64())  # the last offset is the number of all elements

    return Shape(inner.prefix, skip)


def _tuple(elements: list[Shape]) -> Shape:
    def skip(source: Source, rows: int) -> None:
        for element in elements:
            element.skip(source, rows)
        if not elements:
            source.skip(rows)  # Tuple() has a byte a row

    return Shape(sum(element.prefix for element in elements), skip)


def _nullable(inner: Shape) -> Shape:
    def skip(source: Source, rows: int) -> None:
        source.skip(rows)
        inner.skip(source, rows)

    return Shape(inner.prefix, skip)


def _low_cardinality(keys: Shape) -> Shape:
    def skip(source: Source, rows: int) -> None:
        left = rows
        while left > 0:
            flags = source.u64()
            if flags & _GLOBAL_DICTIONARY or flags & 0xFF > 3:
                raise ProtocolError(
                    CANNOT_PARSE_DATA, "A dictionary of LowCardinality that is not in its block"
                )
            if flags & _OWN_KEYS:
                keys.skip(source, source.u64())
            count = source.u64()
            if not 0 < count <= left:
                raise ProtocolError(CANNOT_PARSE_DATA, f"LowCardinality: {count} indexes for {left} rows")
            source.skip(count << (flags & 0xFF))
            left -= count

    return Shape(8 + keys.prefix, skip)


def _named(element: str) -> Shape:
    return shape_of(_ELEMENT_NAME.sub("", element, count=1))


def _of_low_cardinality(args: list[str]) -> Shape:
    parsed = _TYPE.fullmatch(args[0])
    nullable = parsed is not None and parsed[1] == "Nullable"
    return _low_cardinality(shape_of(parsed[2] if parsed and nullable else args[0]))


_COMPOSITES: dict[str, Callable[[list[str]], Shape]] = {
    "Array": lambda args: _array(shape_of(args[0])),
    "Map": lambda args: _array(_tuple([shape_of(arg) for arg in args])),
    "Tuple": lambda args: _tuple([_named(arg) for arg in args]),
    "Nested": lambda args: _array(_tuple([_named(arg) for arg in args])),
    "Nullable": lambda args: _nullable(shape_of(args[0])),
    "LowCardinality": _of_low_cardinality,
    "SimpleAggregateFunction": lambda args: shape_of(args[1]),
}
