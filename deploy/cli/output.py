"""How commands speak: tables for people, JSON and CSV for machines, one clear line for an error.

Exit codes: 0 done; 1 done, but something in the data was wrong (the lines say what); 2 the call or a
setting is wrong; 3 a server is away.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, NoReturn, TextIO

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

DATA_WRONG = 1
CALL_WRONG = 2
SERVER_AWAY = 3

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
CsvFlag = Annotated[bool, typer.Option("--csv", help="CSV with a header line, safe for spreadsheets.")]


class Format(StrEnum):
    """How rows are shown."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def chosen_format(json: bool, as_csv: bool) -> Format:
    """The format that the flags ask for; both at once is an error."""
    if json and as_csv:
        fail("choose one of --json and --csv", CALL_WRONG)
    return Format.JSON if json else Format.CSV if as_csv else Format.TABLE


def fail(message: str, code: int = DATA_WRONG) -> NoReturn:
    """Say in plain words what is wrong and what to do, and exit."""
    err.print(f"[red]✗[/red] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


def print_json(value: object) -> None:
    """One JSON document and a line feed on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def _safe_cell(value: object) -> object:
    """A cell that a spreadsheet would run as a formula gets an apostrophe (OWASP, CSV injection)."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return "" if value is None else value


def write_csv(file: TextIO, rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """CSV with a header line, safe for spreadsheets."""
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows([[_safe_cell(row.get(key)) for key in columns] for row in rows])


def emit(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], output: Format, title: str | None = None
) -> None:
    """Show rows. `columns` maps a row's key to the heading that people see; machines get the keys."""
    if output is Format.JSON:
        print_json([{key: row.get(key) for key in columns} for row in rows])
    elif output is Format.CSV:
        write_csv(sys.stdout, rows, columns)
    else:
        table = Table(title=title, title_justify="left")
        for key, heading in columns.items():
            numeric = any(isinstance(row.get(key), int | float) for row in rows)
            table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            cells = [row.get(key) for key in columns]
            table.add_row(*("" if cell is None else escape(str(cell)) for cell in cells))
        out.print(table)


@contextmanager
def plain_errors(*kinds: type[Exception], code: int = CALL_WRONG) -> Iterator[None]:
    """Turn expected errors of a user's mistake into one clear line instead of a stack trace."""
    try:
        yield
    except kinds as error:
        fail(str(error), code)
