"""What the commands that ask the archive share: windows, one question on a connection, how answers leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import orjson
import typer

from deploy.cli.desk import clock_ms, open_desk, question_errors
from deploy.cli.output import (
    CALL_WRONG,
    Format,
    emit,
    err,
    fail,
    plain_errors,
    write_csv,
    writing_errors,
)
from lookups.answers import Place, Presence, Window
from lookups.archive import Lookups
from lookups.asking import Asker
from lookups.groups import GroupLookups
from schemas.qr import parse_person
from schemas.settings import load_settings
from schemas.times import MS_PER_MINUTE, format_time, minute_of, parse_time
from schemas.topics import DAY_MS

_DEFAULT_DAYS: Final = 14

T = TypeVar("T")
A = TypeVar("A", bound=Asker)
Rows = list[dict[str, Any]]

FromOption = Annotated[
    str | None,
    typer.Option("--from", help="ISO 8601, local time by default; 14 days before --to if left out."),
]
ToOption = Annotated[
    str | None,
    typer.Option(
        "--to", help="ISO 8601; not included; 14 days later, or the end of this minute, if left out."
    ),
]
MinOverlapOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=240,
        help="Minutes together that make a contact: all of a date, or one stay together across midnight,"
        " which then counts for both dates, each with its own, perhaps fewer, minutes.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Write it to a file: .csv, .json, .parquet, or a picture where it says so."),
]

PLACE: Final = {"venue": "Venue", "name": "Name", "district": "District"}
SPAN: Final = {"from": "From", "to": "To", "minutes": "Minutes"}


def show(
    rows: Rows,
    columns: dict[str, str],
    output: Format,
    title: str,
    path: Path | None = None,
    others: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Show rows, or write them to a file by its suffix. `others`: further suffixes and what writes them."""
    if path is not None:
        _save(path, rows, columns, others or {})
    elif output is Format.TABLE and not rows:
        err.print(f"{title}: nobody" if "person" in columns else f"{title}: nothing", markup=False)
    else:
        emit(rows, columns, output, title)


def check_suffix(path: Path | None, *others: str) -> None:
    """Refuse a file that could not be written, before the archive is asked."""
    known = (".csv", ".json", ".parquet", *others)
    if path is not None and path.suffix.lower() not in known:
        fail(f"--out {path.name}: the name must end in one of {', '.join(known)}", CALL_WRONG)


def _save(
    path: Path, rows: Rows, columns: dict[str, str], others: Mapping[str, Callable[[Path], None]]
) -> None:
    suffix = path.suffix.lower()
    chosen = [{key: row.get(key) for key in columns} for row in rows]
    with plain_errors(ValueError), writing_errors():
        if suffix in others:
            others[suffix](path)
        elif suffix == ".json":
            path.write_bytes(orjson.dumps(chosen, option=orjson.OPT_INDENT_2) + b"\n")
        elif suffix == ".parquet":
            _parquet(path, chosen, list(columns))
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                write_csv(file, rows, columns)
    err.print(f"{path}: {len(rows):,} rows", markup=False, style="dim")


def _parquet(path: Path, rows: Rows, columns: list[str]) -> None:
    import pyarrow as pa  # noqa: PLC0415 (takes a third of a second)
    from pyarrow import parquet  # noqa: PLC0415

    # without rows there is nothing to see the types from: text
    table = (
        pa.Table.from_pylist(rows)
        if rows
        else pa.table({name: pa.array([], pa.string()) for name in columns})
    )
    with path.open("wb") as file:  # its own error would not name the file
        parquet.write_table(table, file, compression="zstd")


def title_of(about: str, window: Window) -> str:
    """A heading with the window."""
    return f"{about}, {format_time(window.start)} to {format_time(window.end)}"


def place_cells(venue: Place) -> dict[str, Any]:
    """The cells of PLACE."""
    return {"venue": venue.code, "name": venue.name, "district": venue.district}


def presence_cells(presence: Presence) -> dict[str, Any]:
    """The cells of person, PLACE and SPAN."""
    times = {"from": format_time(presence.start), "to": format_time(presence.end)}
    return {"person": presence.person, **place_cells(presence.venue), **times, "minutes": presence.minutes}


def parsed(parse: Callable[[str], T], text: str) -> T:
    """What a user wrote; a mistake ends the command in one line."""
    with plain_errors(ValueError):
        return parse(text)


def person_not_case(text: str) -> str:
    """The pseudonym, of a command that takes --case too. Raises ValueError."""
    try:
        return parse_person(text)
    except ValueError as error:
        raise ValueError(f"{error}; a case is asked for with --case") from None


def window_of(start: str | None, end: str | None) -> Window:
    """The window of --from and --to."""
    # a window ends before its last minute: whoever was scanned a moment ago must be found
    now, length = (minute_of(clock_ms()) + 1) * MS_PER_MINUTE, _DEFAULT_DAYS * DAY_MS
    if start is None:
        to = now if end is None else parsed(parse_time, end)
        since = to - length
    else:
        since = parsed(parse_time, start)
        to = parsed(parse_time, end) if end is not None else min(since + length, max(now, since))
    with plain_errors(ValueError):
        return Window(max(0, since), to)


def ask(question: Callable[[Lookups], T]) -> T:
    """One question about a person or a venue, on a connection of its own."""
    return _asked(Lookups, question)


def ask_groups(question: Callable[[GroupLookups], T]) -> T:
    """One question about several persons or places."""
    return _asked(GroupLookups, question)


def _asked(kind: type[A], question: Callable[[A], T]) -> T:
    with question_errors(), open_desk(load_settings()) as (desk, client):
        with err.status("asking the archive …"):  # a chain through crowds takes seconds
            answer = question(kind(client, clock_ms, desk))
        return desk.answered(answer)
