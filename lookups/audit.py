"""The lookup audit as a chain: what the next row is, and whether rows that were read are the ones written.

Pure. The chain is kept on a topic of one partition (deploy/audit.py), with a copy in the table
`lookup_audit`. What each finds:
- a row changed, removed, put in or moved within the topic breaks the chain: `verify` names the row;
- an end cut off, or a chain written anew from some row on, is a sound chain by itself: it is found by
  anchors, rows that somebody else remembers: the copy in ClickHouse, and any `SEQ:HASH` that was printed by
  `truyvet audit verify` earlier and kept elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from pydantic import ValidationError

from lookups.answers import QuestionError
from schemas.audit import GENESIS, AuditRow, Step, hash_of
from schemas.problems import first_problem

COPY: Final = "lookup_audit"
# the columns of the copy, each a function of the row
COLUMNS: Final = (
    "asked_at",
    "asker",
    "question",
    "arguments",
    "role",
    "purpose",
    "step",
    "answer_rows",
    "answer_of",
    "seq",
    "hash",
)
_ANCHOR: Final = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")
_MOST_PROBLEMS: Final = 1_000  # beyond this nobody reads on


class AuditAwayError(QuestionError):
    """The audit cannot be written or read, so nothing is answered; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be written down, before it has its place in the chain. `at` ms."""

    entry: str
    at: int
    who: str
    role: str
    purpose: str
    step: Step
    question: str
    arguments: Mapping[str, Any]
    rows: int | None = None
    of: int | None = None


def next_row(head: AuditRow | None, entry: Entry) -> AuditRow:
    """The row of an entry that stands after `head` (none: the first)."""
    fields = {
        "seq": head.seq + 1 if head else 1,
        "entry": entry.entry,
        "at": entry.at,
        "who": entry.who,
        "role": entry.role,
        "purpose": entry.purpose,
        "step": entry.step,
        "question": entry.question,
        # as it will be read again: what JSON cannot say is found out now, not by the verifier
        "arguments": orjson.loads(orjson.dumps(entry.arguments)),
        "rows": entry.rows,
        "of": entry.of,
        "previous": head.hash if head else GENESIS,
    }
    return AuditRow.model_validate(fields | {"hash": hash_of(fields)})


def copy_of(row: AuditRow) -> tuple[Any, ...]:
    """The row as it stands in the copy, in the order of COLUMNS."""
    return (
        datetime.fromtimestamp(row.at / 1000, UTC),
        row.who,
        row.question,
        orjson.dumps(row.arguments, option=orjson.OPT_SORT_KEYS).decode(),
        row.role,
        row.purpose,
        row.step,
        row.rows,
        row.of,
        row.seq,
        row.hash,
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and with which row (0: with the chain as a whole)."""

    seq: int
    what: str


@dataclass(slots=True)
class Verdict:
    """What a chain looks like. `head`: seq and hash of its last row; `uncopied`: rows without a copy."""

    rows: int = 0
    head: tuple[int, str] = (0, GENESIS)
    problems: list[Problem] = field(default_factory=list)
    uncopied: list[int] = field(default_factory=list)

    def add(self, seq: int, what: str) -> None:
        """One more problem; beyond a thousand nobody reads on."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(seq, what))


def parse_anchor(text: str) -> tuple[int, str]:
    """SEQ:HASH. Raises ValueError."""
    found = _ANCHOR.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is no anchor: SEQ:HASH, as `truyvet audit verify` prints it")
    return int(found[1]), found[2]


def read_row(value: bytes | None) -> tuple[AuditRow, bool]:
    """A row, and whether its hash is that of its fields. Raises ValueError with what is wrong."""
    try:
        fields = orjson.loads(value or b"")
        return AuditRow.model_validate_json(value or b""), hash_of(fields) == fields["hash"]
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    except (orjson.JSONDecodeError, TypeError, KeyError) as error:
        raise ValueError(str(error)) from None


def verify(
    records: Iterable[tuple[int, bytes | None]],
    copies: Mapping[int, Sequence[tuple[Any, ...]]],
    anchors: Iterable[tuple[int, str]] = (),
) -> Verdict:
    """Judge the chain. `records`: (offset, value) in the order of the topic; `copies`: by seq, the rows of
    the table; `anchors`: (seq, hash) that somebody kept.

    One change is told once: a row is compared with what the row before it says of itself.
    """
    found = Verdict()
    hashes: dict[int, str] = {}
    last, linked = 0, GENESIS
    unknown = False  # the row before could not be read: what it says of itself is not known
    for offset, value in records:
        found.rows += 1
        try:
            row, sound = read_row(value)
        except ValueError as error:
            found.add(last + 1, f"the record at offset {offset}, after row {last}, is no row: {error}")
            unknown, last = True, last + 1
            continue
        if not sound:
            found.add(row.seq, f"row {row.seq} was changed: its hash is not that of what it says")
        if row.seq in hashes:
            found.add(row.seq, f"row {row.seq} stands twice, again at offset {offset}")
            continue
        hashes[row.seq] = row.hash
        _compare(found, row, copies.get(row.seq))
        if row.seq <= last:
            found.add(row.seq, f"row {row.seq} stands after row {last}: it was moved")
            continue
        if row.seq > last + 1:
            missing = f"row {last + 1} is" if row.seq == last + 2 else f"rows {last + 1} to {row.seq - 1} are"
            found.add(last + 1, f"{missing} not where they belong, before row {row.seq}")
        elif row.previous != linked and not unknown:
            found.add(row.seq, f"row {row.seq} does not follow row {last} that stands before it")
        last, linked, unknown = row.seq, row.hash, False
    found.head = (last, linked)
    for seq in sorted(copies.keys() - hashes.keys()):
        found.add(seq, f"row {seq} is in the table {COPY} but not in the chain: it was cut off, or put in")
    _look_for(found, hashes, anchors)
    return found


def _compare(found: Verdict, row: AuditRow, copies: Sequence[tuple[Any, ...]] | None) -> None:
    if copies is None:
        found.uncopied.append(row.seq)
    elif any(_comparable(each) != _comparable(copy_of(row)) for each in copies):
        found.add(row.seq, f"row {row.seq} is another one in the table {COPY}")


def _look_for(found: Verdict, hashes: Mapping[int, str], anchors: Iterable[tuple[int, str]]) -> None:
    for seq, digest in anchors:
        if seq not in hashes:
            found.add(seq, f"row {seq} of an anchor is gone: the chain ends at row {found.head[0]}")
        elif hashes[seq] != digest:
            found.add(seq, f"row {seq} is not the one of the anchor: the chain was written anew")


def _comparable(copy: tuple[Any, ...]) -> tuple[Any, ...]:
    at: datetime = copy[0]
    return (round(at.timestamp() * 1000), *copy[1:])
