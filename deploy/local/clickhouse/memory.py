"""Rows on their way to chDB, which reads them from a file descriptor."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import RawIOBase

from deploy.local.clickhouse.wire import Bytes


@contextmanager
def memory_file() -> Iterator[RawIOBase]:
    """A file without a name, in memory where the system has such files; unbuffered, as chDB reads it."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("native-blocks"), "r+b", buffering=0) as file:
            yield file
    else:
        with tempfile.TemporaryFile(buffering=0) as file:
            yield file


def append(file: RawIOBase, pieces: Iterable[Bytes]) -> None:
    """Write all of the data; one call of `write` may take less."""
    for piece in pieces:
        left = memoryview(piece)
        while left:
            left = left[file.write(left) or 0 :]
