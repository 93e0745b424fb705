"""Blocks of rows into ClickHouse; of a block that it refuses, every row that it takes.

A refused block is halved until the rows are found that are refused alone. That is safe at any point: a half
that went in and comes again after a crash merges away.

A row is called refused only when the table is known to take others: some row of the block, or else one that
the table already has, inserted once more (it merges away). A table that takes nothing is configured wrongly,
and to put all that comes aside would be a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clickhouse_driver import Client

from sinks import metrics
from sinks.connection import first_line, meaning
from sinks.patience import UNKNOWN_TRIES, ArchiveError, Patience, RefusedError
from sinks.rows import COLUMNS

_SINGLE_TRIES: Final = 3  # the whole block had its six
_WITNESSES: Final = 5  # rows of the table
_SPREAD: Final = 32  # rows of the block

Columns = list[list[Any]]
# Tries rows lo to hi (exclusive): None when they went in, else why not.
Attempt = Callable[[int, int], Exception | None]


class NothingTakenError(Exception):
    """The table takes no row at all."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row of a block that the table refuses, and the server's error."""

    row: int
    error: Exception


def refused_rows(count: int, why: Exception, attempt: Attempt, takes: Callable[[], bool]) -> list[Refusal]:
    """Of a block of `count` rows that was refused (`why`): the rows that are refused alone, in order. The
    others are in when it returns.

    `takes` is asked whether the table takes any row now: once, and for each row with an error that nobody
    knows. That may be of the server and pass; the row is then tried once more, after another has gone in.
    Raises NothingTakenError.
    """
    taken = False
    found: list[Refusal] = []
    todo = [(0, count)]
    while todo:
        low, high = todo.pop()
        error = why if high - low == count else attempt(low, high)
        if error is None:
            taken = True
        elif high - low > 1:
            middle = (low + high) // 2
            todo += [(middle, high), (low, middle)]
        else:
            unknown = meaning(error) == "unknown"
            if (unknown or not taken) and not takes():
                raise NothingTakenError
            taken = True
            last = attempt(low, high) if unknown else error
            if last is not None:
                found.append(Refusal(low, last))
    return found


class Inserter:
    """Inserts blocks into the tables of the archive. `sleep` waits between two tries, `beat` is called before
    each of many inserts."""

    def __init__(
        self,
        client: Client,
        patience: Patience,
        counters: metrics.Metrics,
        sleep: Callable[[float], None],
        beat: Callable[[], None],
    ) -> None:
        self._client = client
        self._patience = patience
        self._metrics = counters
        self._sleep = sleep
        self._beat = beat

    def insert(self, table: str, columns: Columns) -> list[Refusal]:
        """Insert a block, for as long as it takes; returns the rows that the table refuses.

        Raises ArchiveError, EndedError.
        """
        count = len(columns[0])
        error = self.attempt(table, columns, UNKNOWN_TRIES)
        if error is None:
            self._metrics.rows.labels(table).inc(count)
            return []
        self._metrics.bisections.inc()

        def part(low: int, high: int) -> Exception | None:
            tries = _SINGLE_TRIES if high - low == 1 else 1
            return self.attempt(table, [column[low:high] for column in columns], tries)

        def takes() -> bool:
            spread = range(0, count, max(1, count // _SPREAD))
            rows = ([column[row : row + 1] for column in columns] for row in spread)
            return any(self.attempt(table, row, 1) is None for row in rows) or any(
                self.takes_again(table, row) for row in range(_WITNESSES)
            )

        with self._patience.searching():
            try:
                refused = refused_rows(count, error, part, takes)
            except NothingTakenError:
                raise ArchiveError(
                    f"the table {table} takes no row, of {count} that wait and of those that it has:"
                    f" {first_line(error)}: correct the table, its constraints or the views behind it;"
                    " nothing is put aside, the supervisor starts the role again"
                ) from error
        self._metrics.rows.labels(table).inc(count - len(refused))
        return refused

    def attempt(self, table: str, columns: Columns, tries: int) -> Exception | None:
        """Insert; None, or why the block is refused. Raises ArchiveError, EndedError."""
        names = ", ".join(COLUMNS[table])
        statement = f"INSERT INTO {table} ({names}) VALUES"  # constants of sinks/rows.py

        def insert() -> None:
            self._client.execute(statement, columns, columnar=True)

        self._beat()
        try:
            self._patience.do(f"insert {len(columns[0])} rows into {table}", insert, self._sleep, tries)
        except RefusedError as refused:
            return refused.error
        return None

    def takes_again(self, table: str, row: int) -> bool:
        """Whether the table takes one of the rows that it has, the `row`th, once more. Raises ArchiveError,
        EndedError.

        In one statement, without a wait between reading and writing: a person who is erased meanwhile must
        not come back with it.
        """
        names, found = ", ".join(COLUMNS[table]), list[Sequence[Any]]()
        some = f"SELECT {names} FROM {table} LIMIT 1 OFFSET {row:d}"  # noqa: S608 (constants, a number)

        def again() -> None:
            found[:] = self._client.execute(f"SELECT count() FROM ({some})")  # noqa: S608
            self._client.execute(f"INSERT INTO {table} ({names}) {some}")

        self._beat()
        try:
            self._patience.do(f"try a row of {table}", again, self._sleep, 1)
        except RefusedError:
            return False
        return found == [(1,)]
