"""Ask the archive: where a person was, who was at a venue, who met whom, how full a place was."""

from __future__ import annotations

import getpass
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeVar

import typer

from deploy.cli.output import (
    CALL_WRONG,
    SERVER_AWAY,
    CsvFlag,
    Format,
    JsonFlag,
    chosen_format,
    emit,
    err,
    fail,
    plain_errors,
)
from lookups.answers import (
    ArchiveAwayError,
    Contact,
    Place,
    Presence,
    QuestionError,
    Window,
    WrongAccessError,
)
from lookups.archive import Lookups
from lookups.connection import connect
from schemas.qr import parse_person, parse_venue
from schemas.settings import SettingsError, load_settings
from schemas.times import format_time, parse_time
from schemas.topics import DAY_MS

commands = typer.Typer(no_args_is_help=True)

_DEFAULT_DAYS: Final = 14

T = TypeVar("T")

PersonArgument = Annotated[str, typer.Argument(help="16 hex digits, or what a personal card says.")]
VenueArgument = Annotated[str, typer.Argument(help="The code, or what a poster says.")]
FromOption = Annotated[
    str | None,
    typer.Option("--from", help="ISO 8601, local time by default; 14 days before --to if left out."),
]
ToOption = Annotated[
    str | None,
    typer.Option("--to", help="ISO 8601; not included; 14 days later or now if left out."),
]

_PLACE: Final = {"venue": "Venue", "name": "Name", "district": "District"}
_SPAN: Final = {"from": "From", "to": "To", "minutes": "Minutes"}


@commands.command()
def person(
    person: PersonArgument,
    *,
    start: FromOption = None,
    end: ToOption = None,
    marks: Annotated[bool, typer.Option("--marks", help="The single check-ins, check-outs, voids.")] = False,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
) -> None:
    """Where a person was."""
    output = chosen_format(json, as_csv)
    who, window = _parsed(parse_person, person), _window(start, end)
    answer = _ask(lambda lookups: lookups.person(who, window))
    title = _title(f"Person {who}", window)
    if marks:
        rows = [
            {**_place(mark.venue), "at": format_time(mark.at), "kind": mark.kind} for mark in answer.marks
        ]
        _show(rows, {"at": "At", "kind": "Mark"} | _PLACE, output, title)
    else:
        _show([_row(each) for each in answer.presences], _SPAN | _PLACE, output, title)


@commands.command()
def venue(
    venue: VenueArgument,
    *,
    start: FromOption = None,
    end: ToOption = None,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
) -> None:
    """Who was at a venue."""
    output = chosen_format(json, as_csv)
    code, window = _parsed(parse_venue, venue), _window(start, end)
    rows = [_row(each) for each in _ask(lambda lookups: lookups.venue(code, window))]
    name = f" {rows[0]['name']}" if rows else ""
    _show(rows, {"person": "Person"} | _SPAN, output, _title(f"Venue {code}{name}", window))


@commands.command()
def contacts(
    person: Annotated[str | None, typer.Argument(help="16 hex digits, or what a personal card says.")] = None,
    *,
    case: Annotated[str | None, typer.Option(help="The exposures of this case that stand.")] = None,
    start: FromOption = None,
    end: ToOption = None,
    min_overlap: Annotated[int, typer.Option(min=1, max=240, help="Minutes together in a day.")] = 1,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
) -> None:
    """Who was where a person was, at the same time (F1); or the contacts of a case."""
    output = chosen_format(json, as_csv)
    if (person is None) == (case is None):
        fail("name either a person or --case ID", CALL_WRONG)
    if case is not None:
        if start is not None or end is not None or min_overlap != 1:
            fail("--from, --to and --min-overlap are those of the case itself: leave them out", CALL_WRONG)
        found = _ask(lambda lookups: lookups.contacts_of_case(case))
        title = f"Contacts of case {case}"
    else:
        who, window = _parsed(parse_person, person or ""), _window(start, end)
        found = _ask(lambda lookups: lookups.contacts(who, window, min_overlap))
        title = _title(f"Contacts of person {who}", window)
    columns = {"person": "Person", "date": "Date", "minutes": "Minutes", "first": "First", "last": "Last"}
    _show([_contact_row(each) for each in found], columns | _PLACE, output, title)
    if output is Format.TABLE and found:
        persons = len({each.person for each in found})
        err.print(f"{persons:,} persons, {len(found):,} contacts", style="dim")


@commands.command()
def occupancy(
    venue: VenueArgument,
    *,
    start: FromOption = None,
    end: ToOption = None,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
) -> None:
    """How full a venue was, by hour."""
    output = chosen_format(json, as_csv)
    code, window = _parsed(parse_venue, venue), _window(start, end)
    rows = [
        {
            "hour": format_time(each.start),
            "visitors": each.visitors,
            "peak": each.peak,
            "check_ins": each.check_ins,
        }
        for each in _ask(lambda lookups: lookups.occupancy(code, window))
    ]
    columns = {"hour": "Hour", "visitors": "Visitors", "peak": "At once", "check_ins": "Check-ins"}
    _show(rows, columns, output, _title(f"Venue {code}", window))


def _show(rows: list[dict[str, Any]], columns: dict[str, str], output: Format, title: str) -> None:
    if output is Format.TABLE and not rows:
        err.print(f"{title}: nobody" if "person" in columns else f"{title}: nothing", markup=False)
        return
    emit(rows, columns, output, title)


def _title(about: str, window: Window) -> str:
    return f"{about}, {format_time(window.start)} to {format_time(window.end)}"


def _place(venue: Place) -> dict[str, Any]:
    return {"venue": venue.code, "name": venue.name, "district": venue.district}


def _row(presence: Presence) -> dict[str, Any]:
    times = {"from": format_time(presence.start), "to": format_time(presence.end)}
    return {"person": presence.person, **_place(presence.venue), **times, "minutes": presence.minutes}


def _contact_row(contact: Contact) -> dict[str, Any]:
    times = {"first": format_time(contact.first), "last": format_time(contact.last)}
    about = {"person": contact.person, "date": contact.date, "minutes": contact.minutes}
    return {**about, **_place(contact.venue), **times}


def _parsed(parse: Callable[[str], T], text: str) -> T:
    with plain_errors(ValueError):
        return parse(text)


def _window(start: str | None, end: str | None) -> Window:
    now, length = _clock_ms(), _DEFAULT_DAYS * DAY_MS
    if start is None:
        to = now if end is None else _parsed(parse_time, end)
        since = to - length
    else:
        since = _parsed(parse_time, start)
        to = _parsed(parse_time, end) if end is not None else min(since + length, max(now, since))
    with plain_errors(ValueError):
        return Window(max(0, since), to)


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _ask(question: Callable[[Lookups], T]) -> T:
    """One question, on a connection of its own."""
    with _plain():
        settings = load_settings()
        client = connect(settings.clickhouse_url)
        try:
            return question(Lookups(client, _clock_ms, f"{getpass.getuser()}@{socket.gethostname()}"))
        finally:
            client.disconnect()


@contextmanager
def _plain() -> Iterator[None]:
    # a server that is away is told in one line, not by the driver's stack trace
    logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)
    with (
        plain_errors(QuestionError, code=1),
        plain_errors(SettingsError, WrongAccessError),
        plain_errors(ArchiveAwayError, code=SERVER_AWAY),
    ):
        yield
