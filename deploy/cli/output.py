"""How commands speak: tables for people, JSON and CSV for machines, one clear line for an error.

Exit codes: 0 done; 1 done, but something in the data was wrong (the lines say what); 2 the call or a
setting is wrong; 3 a server is away.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, TextIO

import orjson
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

DATA_WRONG = 1
CALL_WRONG = 2
SERVER_AWAY = 3

# a line of words is the terminal's to wrap: rich would break identifiers and paths, in a pipe too
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

# Keys of columns that people read; every other one holds what they copy, compare or add up: it never folds.
_FREE_TEXT: Final = frozenset({"name", "detail", "example", "about", "state", "arguments"})
# A word of a free text breaks only beyond this: ours are up to a pseudonym with its argument's name.
_LONGEST_WORD: Final = 40
_READABLE: Final = 16  # a text in a narrower column is a word a line
_LOCAL_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}\+07:00")
_OFFSET: Final = "+07:00"

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
    err.print(f"[red]✗[/red] {escape(message)}")
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
        show_table(
            list(columns.values()),
            [[_cell(row.get(key)) for key in columns] for row in rows],
            title,
            numbers={at for at, key in enumerate(columns) if any(_is_number(row.get(key)) for row in rows)},
            free={at for at, key in enumerate(columns) if key in _FREE_TEXT},
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def show_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    title: str | None = None,
    numbers: Iterable[int] = (),
    free: Iterable[int] = (),
) -> None:
    """A table for people. `numbers`, `free`: the columns of numbers, and those whose text may fold.

    On a terminal it is as wide as that; where the cells that never fold need more, lines are longer: half a
    pseudonym helps nobody. Into a pipe or file every row is one line, for grep and `less -S`.
    """
    numeric, folding = set(numbers), set(free)
    heads = list(headings)
    cells = [[each if isinstance(each, Text) else Text(_one_line(each)) for each in row] for row in rows]
    for at in range(len(heads)):
        if any(_LOCAL_TIME.fullmatch(row[at].plain) for row in cells) and all(
            not row[at].plain or _LOCAL_TIME.fullmatch(row[at].plain) for row in cells
        ):
            heads[at] += f" ({_OFFSET})"  # said once instead of in every cell
            for row in cells:
                row[at] = Text(row[at].plain.removesuffix(_OFFSET))
    natural, least = [], []
    for at, heading in enumerate(heads):
        texts = [row[at].plain for row in cells]
        own = _widest(texts)
        if at in folding:
            own = max(min(own, _READABLE), min(_widest(_words(texts)), _LONGEST_WORD))
        natural.append(max(1, cell_len(heading), _widest(texts)))
        least.append(max(1, own, _widest(heading.split())))
    borders = 3 * len(heads) + 1
    room = out.width if out.file.isatty() else sum(natural) + borders
    widths = _fitted(natural, least, room - borders)
    if title is not None:
        out.print(title, style="italic", markup=False)
    table = Table()
    for at, heading in enumerate(heads):
        justify: Literal["right", "left"] = "right" if at in numeric else "left"
        table.add_column(escape(heading), justify=justify, overflow="fold", width=widths[at])
    for row in cells:
        table.add_row(*row)
    # with a height too: a terminal that is called dumb has 80 columns for rich otherwise
    wide = Console(width=max(room, sum(widths) + borders), height=out.height, highlight=False)
    wide.print(table, crop=False)


def _one_line(text: str) -> str:
    return " ".join(text.expandtabs(1).splitlines())


def _words(texts: Iterable[str]) -> Iterator[str]:
    return (word for text in texts for word in text.split())


def _widest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _fitted(natural: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The widths of columns that share the room: the widest gives way first, none below its `least`."""
    widths = list(natural)
    while sum(widths) > room and (able := [at for at in range(len(widths)) if widths[at] > least[at]]):
        widths[max(able, key=lambda at: widths[at])] -= 1
    return widths


@contextmanager
def plain_errors(*kinds: type[Exception], code: int = CALL_WRONG) -> Iterator[None]:
    """Turn expected errors of a user's mistake into one clear line instead of a stack trace."""
    try:
        yield
    except kinds as error:
        fail(in_words(error), code)


@contextmanager
def writing_errors(code: int = CALL_WRONG) -> Iterator[None]:
    """As plain_errors, where files are written: that one is not there yet is no reason."""
    try:
        yield
    except OSError as error:
        fail(_unwritable(error), code)


def _unwritable(error: OSError) -> str:
    path = _path_of(error)
    if path is None:
        return str(error)
    if isinstance(error, FileNotFoundError):
        there = path.parent.is_dir()  # so it is no place for files of ours, such as /proc
        why = f"{path.parent} takes no new files" if there else f"there is no folder {path.parent}"
    elif isinstance(error, IsADirectoryError):
        why = "it is a folder, not a file"
    elif isinstance(error, PermissionError):
        why = "you have no right to"
    else:
        why = str(error.strerror)
    return f"{path} cannot be written: {why}"


def _path_of(error: OSError) -> Path | None:
    """The file of an error: what we write stands under its own name only when it is whole."""
    return None if error.filename is None else Path(os.fsdecode(error.filename).removesuffix(".part"))


def in_words(error: Exception) -> str:
    """An error in words; the system's own of a file names a number first."""
    if not isinstance(error, OSError) or (path := _path_of(error)) is None:
        return str(error)
    if isinstance(error, FileNotFoundError):
        no_folder = "" if path.parent.is_dir() else f" (there is no folder {path.parent})"
        return f"no such file: {path}{no_folder}"
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder, not a file"
    if isinstance(error, PermissionError):
        return f"{path}: you may not read or write it"
    return f"{path}: {error.strerror}"
