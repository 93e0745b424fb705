"""How a question reaches the archive: first into the audit, then asked; every failure in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import orjson
from clickhouse_driver import Client
from clickhouse_driver.errors import Error, NetworkError, SocketTimeoutError

from lookups.answers import (
    ArchiveAwayError,
    IncompleteArchiveError,
    Place,
    UnknownVenueError,
    Window,
    WrongAccessError,
    WrongSubjectError,
)

_AUDIT: Final = "INSERT INTO lookup_audit (asked_at, asker, question, arguments) VALUES"
_UNREGISTERED: Final = """
SELECT DISTINCT venue FROM visits WHERE venue NOT IN (SELECT code FROM venues) ORDER BY venue LIMIT 5
"""
# Of a chain's thousands of venues: a list of literals takes three times as long. Codes have no blanks.
_REGISTER: Final = (
    "SELECT code, name, sector, district, dwell FROM venues FINAL WHERE code IN splitByChar(' ', %(codes)s)"
)
_THROWN: Final = 395  # throwIf in a view: a venue without a dwell time
# The persons of a chain are named in the question: more than the usual 256 KiB of a query's text, and views
# pass them and their stays on as elements of a syntax tree.
_SETTINGS: Final = {
    "max_query_size": 256 << 20,
    "max_ast_elements": 20_000_000,
    "max_expanded_ast_elements": 20_000_000,
    # What came three times is compiled in mid-question: 15 to 20 ms, and no question got faster by it.
    "compile_expressions": 0,
}


class Desk(Protocol):
    """What a question passes before it is asked: lookups/access.py."""

    def asked(self, question: str, arguments: Mapping[str, object]) -> None:
        """Put it into the audit, if it may be asked. Raises QuestionError."""


class Asker:
    """One client, one asker. Not for several threads at once.

    `asker`: the desk that permits each question and puts it into the chain of the audit; or only a name, for
    a program that asks without a person before it (a test, a benchmark): noted in the table alone.
    """

    def __init__(self, client: Client, clock_ms: Callable[[], int], asker: str | Desk) -> None:
        self._client = client
        self._clock_ms = clock_ms
        self._asker = asker

    def _ask(
        self, question: str, sql: str, window: Window | None, parameters: Mapping[str, Any], **about: object
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of an answer, after the question stands in the audit."""
        self._note(question, window, **about)
        return self._rows(sql, parameters)

    def _note(self, question: str, window: Window | None, **about: object) -> None:
        if window is not None:
            about |= {"from": window.start, "to": window.end}
        if not isinstance(self._asker, str):
            self._asker.asked(question, about)
            return
        asked_at = datetime.fromtimestamp(self._clock_ms() / 1000, UTC)
        self._execute(_AUDIT, [(asked_at, self._asker, question, orjson.dumps(about).decode())])

    def _rows(self, sql: str, parameters: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        return zip(*self._execute(sql, parameters), strict=True)

    def _register(self, codes: set[str]) -> dict[str, Place]:
        """The venues of these codes, as far as the archive knows them."""
        rows = self._rows(_REGISTER, {"codes": " ".join(codes)}) if codes else ()
        return {row[0]: Place(*row) for row in rows}

    def _known(self, codes: set[str]) -> None:
        """Raises UnknownVenueError for codes that no venue has."""
        if missing := codes - self._register(codes).keys():
            raise unknown_venue(sorted(missing))

    def _missing_venues(self) -> list[str]:
        return [row[0] for row in self._rows(_UNREGISTERED, {})]

    def _execute(self, sql: str, parameters: object) -> Sequence[Sequence[Any]]:
        """Columns of a query; of an insert nothing that means something."""
        columnar = not isinstance(parameters, list)
        with self._in_plain_words():
            answer = self._client.execute(sql, parameters, columnar=columnar, settings=_SETTINGS)
        return answer if isinstance(answer, list) else []

    @contextmanager
    def _first(self, sql: str, parameters: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """The only row of an answer as soon as it is there: the embedded engine takes 0.8 to 4 ms to end a
        large one. Whether it ended well is known after the block, so that must not give an answer away; nor
        may it ask anything.
        """
        try:
            with self._in_plain_words():
                rows = self._client.execute_iter(sql, parameters, settings=_SETTINGS)
                row = next(rows, None)
            if row is None:
                raise ArchiveAwayError(
                    "ClickHouse gave no answer to a question that has one: take"
                    " empty_result_for_aggregation_by_empty_set out of its profile"
                )
            yield row
            with self._in_plain_words():
                for _ in rows:
                    pass
        except BaseException:
            self._client.disconnect()  # what is left of the answer would come before the next one
            raise

    @contextmanager
    def _in_plain_words(self) -> Iterator[None]:
        try:
            yield
        except (NetworkError, SocketTimeoutError, OSError, EOFError) as error:
            raise ArchiveAwayError(
                f"ClickHouse does not answer: {_words(error)}: is it up? truyvet status shows it,"
                " TRUYVET_CLICKHOUSE points at it"
            ) from None
        except Error as error:
            if error.code == _THROWN:
                raise incomplete(self._missing_venues()) from None
            raise _of_server(error) from error


def unknown_venue(codes: Sequence[str]) -> UnknownVenueError:
    """The error of codes that no venue has."""
    return UnknownVenueError(
        f"the archive knows no venue {', '.join(codes)}: compare the code with the poster;"
        " truyvet venues list shows all"
    )


def withdrawn_case(case_id: str) -> WrongSubjectError:
    """The error of a case that is withdrawn: whoever asks about it is told the same everywhere."""
    return WrongSubjectError(
        f"case {case_id} is withdrawn: confirm it again with truyvet cases update {case_id} --reinstate,"
        " or truyvet trace chain about a person and a window"
    )


def incomplete(codes: Sequence[str]) -> IncompleteArchiveError:
    """The error of venues that have visits but no dwell time."""
    return IncompleteArchiveError(
        f"not in the archive's register yet, though visited: {', '.join(codes) or 'a venue'}; without the"
        " dwell time presence is unknown: wait until truyvet status shows no lag of the archive"
    )


def _of_server(error: Exception) -> Exception:
    code = getattr(error, "code", None)
    if code == 81:
        return ArchiveAwayError(
            f"the archive is not there yet: {_words(error)}: create the database, or correct"
            " TRUYVET_CLICKHOUSE"
        )
    if code == 60:
        return ArchiveAwayError(
            f"the archive is not there yet: {_words(error)}: truyvet run archive makes its tables"
        )
    if code in {516, 497}:
        return WrongAccessError(
            f"ClickHouse refuses this user: {_words(error)}: correct user and password in TRUYVET_CLICKHOUSE"
        )
    if code in {159, 160, 202, 241, 439}:
        return ArchiveAwayError(
            f"ClickHouse has too much to do: {_words(error)}: ask a shorter window, or later"
        )
    return error


def _words(error: BaseException) -> str:
    text = str(getattr(error, "message", None) or error).split("Stack trace:")[0]
    lines = text.removeprefix("DB::Exception:").strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
