"""A record of visits as columns, the fast way: our own ingest writes every record alike, letter by letter.

One expression reads such a record and judges it, for less than the schema costs. Whatever is written
otherwise in any way gives None, and the schema judges it, element by element (sinks/rows.py): nothing
is refused here, and nothing taken that the schema would not take.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import Final

from schemas.codes import CODE_PATTERN

SOURCE_BITS: Final = {"person": 1, "venue": 2, "manual": 4, "event": 8}
BITS: Final = tuple(1 << minute for minute in range(60))

_HEX: Final = "[0-9a-fA-F]"
# Numbers of so many digits are below every bound of the schema, but for the hour's, which is looked at.
_VISIT: Final = re.compile(
    rf'[\[,]\{{"scan_id":"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"'
    r',"person":"([0-9a-f]{16})"'
    rf',"venue":"({CODE_PATTERN[1:-1]})"'
    r',"hour":(0|[1-9][0-9]{0,6})'
    rf',"minute":((?:[1-5]?[0-9]),"kind":"(?:in|out|void)","source":"(?:{"|".join(SOURCE_BITS)})"'
    r',"party":(?:[1-4]?[1-9]|[1-5]0))'
    r',"received_at":(0|[1-9][0-9]{0,13})\}'
)
# what stands around the groups of a match, the scan's id and the person
_FIXED: Final = len(',{"scan_id":"","person":"","venue":"","hour":,"minute":,"received_at":}') + 36 + 16


class _Meanings(dict[str, tuple[int, int, int, int, int]]):
    """From minute, kind, source and party as they are written to the cells ins, outs, voids, party, sources.

    There are 36,000 of them at most, and a day has some hundreds.
    """

    def __missing__(self, written: str) -> tuple[int, int, int, int, int]:
        it = json.loads(f'{{"minute":{written}}}')
        bit = BITS[it["minute"]]
        ins, outs, voids = (bit if it["kind"] == kind else 0 for kind in ("in", "out", "void"))
        self[written] = found = (ins, outs, voids, it["party"], SOURCE_BITS[it["source"]])
        return found


_MEANING: Final = _Meanings()


@dataclass(frozen=True, slots=True)
class Marks:
    """Columns of the table visits in its order; `newest`: the latest time of receipt, ms."""

    columns: tuple[tuple[str, ...] | tuple[int, ...], ...]
    newest: int


def marks_of(value: bytes, last_hour: int) -> Marks | None:
    """The marks of a record; None when it is not written as ingest writes them, or has an hour after the last
    that the archive can store."""
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        return None
    found = _VISIT.findall(text)
    if not found:
        return None
    persons, *varying = zip(*found, strict=True)
    # the matches are the whole of it: one array, and not a character that no match has
    size = _FIXED * len(found) + sum(sum(map(len, column)) for column in varying)
    if size + 1 != len(text) or text[-1] != "]" or text.count("[") != 1 or text[0] != "[":
        return None
    venues, hours, written, received = varying
    numbers = tuple(map(int, hours))
    if max(numbers) > last_hour:
        return None
    ids = struct.unpack(f">{len(persons)}Q", bytes.fromhex("".join(persons)))
    columns = (venues, numbers, ids, *zip(*map(_MEANING.__getitem__, written), strict=True))
    return Marks(columns, max(map(int, set(received))))
