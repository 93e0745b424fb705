"""Bytes of the native protocol: integers, strings, and the frames of compressed blocks.

Source of the formats: ClickHouse, src/IO/VarInt.h and src/Compression/CompressedReadBufferBase.cpp.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable

import cramjam
from clickhouse_cityhash.cityhash import CityHash128
from lz4 import block as lz4_block

from deploy.local.clickhouse.errors import (
    CANNOT_PARSE_DATA,
    TOO_LARGE_BLOCK,
    DisconnectedError,
    ProtocolError,
)

_RECEIVE = 1 << 18
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_HASHES = struct.Struct("<QQ")
_FRAME = struct.Struct("<BII")  # method, compressed size with this header, plain size
_LZ4, _ZSTD, _PLAIN = 0x82, 0x90, 0x02
_FRAME_PLAIN = 1 << 20  # as the server's own max_compress_block_size

Bytes = bytes | memoryview  # large ones are passed on without being copied


class Source:
    """A growing buffer with a position. `fetch` adds bytes and raises DisconnectedError at the end.

    `limit`: the most bytes between two calls of `forget`, so that a size that a client claims cannot take
    more memory than that.
    """

    __slots__ = ("_fetch", "_limit", "data", "pos")

    def __init__(self, fetch: Callable[[bytearray], None], limit: int) -> None:
        self.data = bytearray()
        self.pos = 0
        self._fetch = fetch
        self._limit = limit

    def need(self, size: int) -> None:
        """Wait until `size` bytes from the position on are there."""
        end = self.pos + size
        if end > self._limit:
            raise ProtocolError(
                TOO_LARGE_BLOCK,
                f"A packet or block of {end} bytes or more: send at most {self._limit} at once",
            )
        while len(self.data) < end:
            self._fetch(self.data)

    def forget(self) -> None:
        """Give back the memory of what has been read."""
        del self.data[: self.pos]
        self.pos = 0

    def skip(self, size: int) -> None:
        """Go past `size` bytes."""
        self.need(size)
        self.pos += size

    def piece(self, start: int, end: int) -> Bytes:
        """The bytes between two positions, which stay as they are whatever becomes of the buffer."""
        return bytes(memoryview(self.data)[start:end])

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        self.need(size)
        start = self.pos
        self.pos += size
        return bytes(self.data[start : self.pos])

    def byte(self) -> int:
        """UInt8."""
        self.need(1)
        value = self.data[self.pos]
        self.pos += 1
        return value

    def u64(self) -> int:
        """UInt64."""
        self.need(8)
        (value,) = _U64.unpack_from(self.data, self.pos)
        self.pos += 8
        return int(value)

    def varint(self) -> int:
        """An unsigned LEB128 number of at most 64 bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ProtocolError(CANNOT_PARSE_DATA, "A number of the packet is longer than 64 bits")

    def text(self, limit: int) -> str:
        """A string of at most `limit` bytes; bytes that are not UTF-8 come back unchanged in `encode`."""
        size = self.varint()
        if size > limit:
            raise ProtocolError(CANNOT_PARSE_DATA, f"A string of {size} bytes, at most {limit} are taken")
        return self.take(size).decode("utf-8", "surrogateescape")


def socket_source(client: socket.socket, limit: int) -> Source:
    """What a client sends."""
    chunk = bytearray(_RECEIVE)
    view = memoryview(chunk)

    def fetch(data: bytearray) -> None:
        try:
            count = client.recv_into(view)
        except TimeoutError:
            raise DisconnectedError("sent nothing in mid-packet for too long") from None
        except OSError as error:
            raise DisconnectedError(str(error)) from None
        if not count:
            raise DisconnectedError("closed the connection")
        data += view[:count]

    return Source(fetch, limit)


class Memory(Source):
    """Bytes that are all there: pieces of them are views."""

    __slots__ = ("_view",)

    def __init__(self, data: bytes) -> None:
        super().__init__(_nothing_more, sys.maxsize)
        self.data = data  # type: ignore[assignment]  # read only, as a bytearray is read
        self._view = memoryview(data)

    def forget(self) -> None:
        """Nothing: views hold all of it."""

    def piece(self, start: int, end: int) -> Bytes:
        """The bytes between two positions."""
        return self._view[start:end]


def _nothing_more(_: bytearray) -> None:
    raise ProtocolError(CANNOT_PARSE_DATA, "The data ends within a block")


def frames_source(outer: Source, limit: int) -> Source:
    """The plain bytes of a sequence of compressed frames, each of at most `limit` plain bytes."""

    def fetch(data: bytearray) -> None:
        expected = _HASHES.unpack(outer.take(16))
        header = outer.take(_FRAME.size)
        method, size, plain_size = _FRAME.unpack(header)
        if size < _FRAME.size or size > limit or plain_size > limit:
            raise ProtocolError(CANNOT_PARSE_DATA, f"A compressed frame of {size} bytes ({plain_size} plain)")
        body = outer.take(size - _FRAME.size)
        if _checksum(header + body) != expected:
            raise ProtocolError(40, "Checksum of a compressed frame doesn't match: corrupted data")
        outer.forget()
        data += _expand(method, body, plain_size)

    return Source(fetch, limit)


def _checksum(frame: bytes) -> tuple[int, int]:
    value = CityHash128(frame)
    return value >> 64, value & (2**64 - 1)


def _expand(method: int, body: bytes, plain_size: int) -> bytes:
    try:
        if method == _LZ4:
            return bytes(lz4_block.decompress(body, uncompressed_size=plain_size))
        if method == _ZSTD:
            return bytes(cramjam.zstd.decompress(body, output_len=plain_size))
    except (ValueError, RuntimeError, lz4_block.LZ4BlockError, cramjam.DecompressionError) as error:
        raise ProtocolError(271, f"Cannot decompress: {error}") from None
    if method == _PLAIN:
        return body
    raise ProtocolError(89, f"Unknown compression method 0x{method:02x}: lz4, zstd and none are known")


def compressed(data: bytes) -> bytes:
    """Data as LZ4 frames. LZ4 whatever the client compresses with: a frame names its method."""
    frames: list[bytes] = []
    for start in range(0, len(data), _FRAME_PLAIN):
        plain = data[start : start + _FRAME_PLAIN]
        body = lz4_block.compress(plain, store_size=False)
        frame = _FRAME.pack(_LZ4, len(body) + _FRAME.size, len(plain)) + body
        frames += (_HASHES.pack(*_checksum(frame)), frame)
    return b"".join(frames)


def varint(value: int) -> bytes:
    """An unsigned LEB128 number."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def text(value: str) -> bytes:
    """A string with its length before it."""
    encoded = value.encode("utf-8", "surrogateescape")
    return varint(len(encoded)) + encoded
