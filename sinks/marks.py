"""Records of visits as columns, the fast way: our own ingest writes every record alike, letter by letter.

Every field is found by the quotes of the text and judged for thousands of visits at once, for a fraction of
what the schema costs, or one regular expression. Whatever is written otherwise in any way gives None, and
the schema judges it, element by element (sinks/rows.py): nothing is refused here, and nothing taken that
the schema would not take.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.codes import CODE_PATTERN, MAX_LENGTH

SOURCE_BITS: Final = {"person": 1, "venue": 2, "manual": 4, "event": 8}
BITS: Final = tuple(1 << minute for minute in range(60))

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

# x: a digit of a number to the base 16
_HEAD: Final = b'{"scan_id":"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx","person":"xxxxxxxxxxxxxxxx","venue":"'
_HEXES: Final = [place for place, letter in enumerate(_HEAD) if letter == ord("x")]
_PERSON: Final = slice(_HEXES[-16], _HEXES[-1] + 1)
_SCAN_ID: Final = _HEXES[:-16]
_LITERAL: Final = np.full(len(_HEAD), 0xFF, np.uint8)
_LITERAL[_HEXES] = 0
_HEAD_BYTES: Final = np.frombuffer(_HEAD, np.uint8)
# What stands between two fields, and by which of an element's quotes it begins.
_BETWEEN: Final = {
    11: b'","hour":',
    14: b'"minute":',
    16: b'"kind":"',
    19: b'","source":"',
    23: b'","party":',
    26: b'"received_at":',
}
# of a number that is eight letters, the first so many
_FIRST_LETTERS: Final = np.frombuffer(b"".join((b"\xff" * n).ljust(8, b"\0") for n in range(9)), np.uint64)
_QUOTES: Final = 28  # of an element: nine names, and five values that are text
_REMEMBERED: Final = 500_000  # venues
# Numbers of so many digits are below every bound of the schema, but for the hour's, which is looked at.
_HOUR_DIGITS, _RECEIVED_DIGITS = 7, 14
_MOST_PEOPLE: Final = 50
# A window may begin or end outside of the text, of what is then refused.
_MARGIN: Final = b"\0" * len(_HEAD)


class _OtherwiseError(Exception):
    """Not written as ingest writes."""


class _Codes(dict[bytes, str]):
    """Codes of venues as text: one string for each, which then knows its hash when the driver asks for it."""

    def __missing__(self, written: bytes) -> str:
        code = written.decode("latin-1")
        _must(re.fullmatch(CODE_PATTERN, code))
        if len(self) >= _REMEMBERED:
            self.clear()
        self[written] = code
        return code


_KNOWN: Final = _Codes()


@dataclass(frozen=True, slots=True)
class Marks:
    """Columns of the table visits in its order; `counts`: rows of each record; `newest`: the latest time of
    receipt, ms."""

    columns: tuple[list[Any], ...]
    counts: list[int]
    newest: int


def marks_of(records: Sequence[bytes], last_hour: int) -> Marks | None:
    """The marks of records; None when any is not written as ingest writes them, or has an hour after the last
    that the archive can store."""
    try:
        return _Text(records).marks(last_hour)
    except _OtherwiseError:
        return None


def _must(condition: Any) -> None:
    if not condition:
        raise _OtherwiseError


class _Text:
    """Records behind one another, and where their elements are."""

    def __init__(self, records: Sequence[bytes]) -> None:
        _must(not any(b"\0" in record for record in records))
        text = b"".join((_MARGIN, *records, _MARGIN))
        self._bytes = np.frombuffer(text, np.uint8)
        # the eight bytes from each place on, as one number
        self._eights = np.ndarray((len(text) - 7,), np.uint64, text, strides=(1,))
        quotes = np.flatnonzero(self._bytes == ord('"'))
        _must(len(quotes) and len(quotes) % _QUOTES == 0)
        self._quotes: Places = quotes.reshape(-1, _QUOTES).T.copy()
        self._starts = starts = self._quotes[0] - 1
        bounds = np.cumsum([len(_MARGIN), *map(len, records)])
        firsts = np.searchsorted(starts, bounds[:-1])
        self.counts = np.diff(firsts, append=len(starts))
        _must(self.counts.min() > 0 and firsts[0] == 0)
        # "[" at the beginning of each record and "]" at its end; between two elements a comma
        _must((starts[firsts] == bounds[:-1] + 1).all())
        before = np.full(len(starts), ord(","), np.uint8)
        before[firsts] = ord("[")
        _must((self._bytes[starts - 1] == before).all() and (self._bytes[bounds[1:] - 1] == ord("]")).all())
        self._ends = np.append(starts[1:] - 2, 0)  # of each element its "}"
        self._ends[np.append(firsts[1:], len(starts)) - 1] = bounds[1:] - 2
        _must((self._bytes[self._ends] == ord("}")).all())

    def marks(self, last_hour: int) -> Marks:
        """Raises _OtherwiseError."""
        quotes = self._quotes
        persons = self._persons()
        for quote, text in _BETWEEN.items():
            for at in (0, len(text) - 8):
                _must((self._eights[quotes[quote] + at] == _word(text[at : at + 8])).all())
        hours = self._numbers(quotes[13] + 2, quotes[14] - 1, _HOUR_DIGITS)
        minutes = self._numbers(quotes[15] + 2, quotes[16] - 1, 2)
        parties = self._numbers(quotes[25] + 2, quotes[26] - 1, 2)
        received = self._numbers(quotes[27] + 2, self._ends, _RECEIVED_DIGITS)
        for quote in (14, 16, 26):
            _must((self._bytes[quotes[quote] - 1] == ord(",")).all())
        _must(hours.max() <= last_hour and minutes.max() < len(BITS))
        _must(parties.min() > 0 and parties.max() <= _MOST_PEOPLE)
        kinds = self._words(quotes[18] + 1, quotes[19])
        its_bit = np.uint64(1) << minutes.astype(np.uint64)
        masks = [np.where(kinds == _word(kind), its_bit, np.uint64(0)) for kind in (b"in", b"out", b"void")]
        _must(np.bitwise_or.reduce(masks).all())
        said = self._words(quotes[22] + 1, quotes[23])
        sources = sum((said == _word(name.encode())) * bit for name, bit in SOURCE_BITS.items())
        _must(np.all(sources))
        columns = (hours, persons, *masks, parties, sources)
        return Marks(
            (self._venues(), *(np.asarray(column).tolist() for column in columns)),
            self.counts.tolist(),
            int(received.max()),
        )

    def _windows(self, at: Places, width: int) -> Bytes:
        """So many bytes from each place on, a row each."""
        windows: Bytes = np.lib.stride_tricks.sliding_window_view(self._bytes, width)[at]
        return windows

    def _persons(self) -> NDArray[Any]:
        """Of each element; and all before the venue is what it should be."""
        heads = self._windows(self._starts, len(_HEAD))
        _must(not ((heads ^ _HEAD_BYTES) & _LITERAL).any())
        ids, persons = heads[:, _SCAN_ID].tobytes(), heads[:, _PERSON].tobytes()
        _must((heads[:, _PERSON] & 0x20).all())  # no capital letter
        try:
            # blanks are passed over: then there are too few
            _must(len(bytes.fromhex(ids.decode("ascii"))) * 2 == len(ids))
            raw = bytes.fromhex(persons.decode("ascii"))
        except ValueError:
            raise _OtherwiseError from None
        _must(len(raw) * 2 == len(persons))
        return np.frombuffer(raw, ">u8")

    def _venues(self) -> list[str]:
        start, end = self._quotes[10] + 1, self._quotes[11]
        length = end - start
        _must(length.max() <= MAX_LENGTH)
        inside = np.arange(MAX_LENGTH) < length[:, None]
        codes = np.where(inside, self._windows(start, MAX_LENGTH), np.uint8(0)).view(f"S{MAX_LENGTH}")
        return list(map(_KNOWN.__getitem__, codes.ravel().tolist()))

    def _numbers(self, start: Places, end: Places, most: int) -> Places:
        """Of so many digits at most, and no zero before another."""
        length = end - start
        _must(length.min() > 0 and length.max() <= most)
        _must(((self._bytes[start] != ord("0")) | (length == 1)).all())
        digits = self._windows(end - most, most) - np.uint8(ord("0"))
        numbers = np.zeros(len(start), np.int64)
        for place in range(most):
            digit = np.where(length >= most - place, digits[:, place], np.uint8(0))
            _must(digit.max() <= 9)
            numbers = numbers * 10 + digit
        return numbers

    def _words(self, start: Places, end: Places) -> NDArray[np.uint64]:
        """Of one to eight letters, as numbers that can be compared (_word)."""
        length = end - start
        _must(length.min() > 0 and length.max() <= 8)
        words: NDArray[np.uint64] = self._eights[start] & _FIRST_LETTERS[length]
        return words


def _word(text: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(text.ljust(8, b"\0"), np.uint64)
