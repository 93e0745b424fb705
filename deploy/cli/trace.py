"""Ask the archive: where a person was, who was at a venue, who met whom, and how full a place was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import trace_groups
from deploy.cli.asking import (
    PLACE,
    SPAN,
    FromOption,
    MinOverlapOption,
    OutOption,
    Rows,
    ToOption,
    ask,
    check_suffix,
    parsed,
    person_not_case,
    place_cells,
    presence_cells,
    show,
    title_of,
    window_of,
)
from deploy.cli.desk import Questions
from deploy.cli.output import CALL_WRONG, CsvFlag, Format, JsonFlag, chosen_format, err, fail
from lookups.answers import Columns, Contact
from schemas.qr import parse_person, parse_venue
from schemas.times import format_time

commands = Questions(no_args_is_help=True)
commands.add_typer(trace_groups.commands)

PersonArgument = Annotated[str, typer.Argument(help="16 hex digits, or what a personal card says.")]
VenueArgument = Annotated[str, typer.Argument(help="The code, or what a poster says.")]


@commands.command()
def person(
    person: PersonArgument,
    *,
    start: FromOption = None,
    end: ToOption = None,
    marks: Annotated[bool, typer.Option("--marks", help="The single check-ins, check-outs, voids.")] = False,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
    out: OutOption = None,
) -> None:
    """Where a person was. --out FILE.svg draws the timeline."""
    output = chosen_format(json, as_csv)
    check_suffix(out, ".svg")
    who, window = parsed(parse_person, person), window_of(start, end)
    answer = ask(lambda lookups: lookups.person(who, window))
    title = title_of(f"Person {who}", window)

    def picture(path: Path) -> None:
        from lookups import pictures  # noqa: PLC0415 (matplotlib takes a third of a second)

        pictures.timeline(path, title, answer.presences, window)

    if marks and not (out and out.suffix.lower() == ".svg"):
        rows = [
            {**place_cells(mark.venue), "at": format_time(mark.at), "kind": mark.kind}
            for mark in answer.marks
        ]
        show(rows, {"at": "At", "kind": "Mark"} | PLACE, output, title, out)
    else:
        rows = [presence_cells(each) for each in answer.presences]
        show(rows, SPAN | PLACE, output, title, out, {".svg": picture})


@commands.command()
def venue(
    venue: VenueArgument,
    *,
    start: FromOption = None,
    end: ToOption = None,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
    out: OutOption = None,
) -> None:
    """Who was at a venue."""
    output = chosen_format(json, as_csv)
    check_suffix(out)
    code, window = parsed(parse_venue, venue), window_of(start, end)
    rows = [presence_cells(each) for each in ask(lambda lookups: lookups.venue(code, window))]
    name = f" {rows[0]['name']}" if rows else ""
    show(rows, {"person": "Person"} | SPAN, output, title_of(f"Venue {code}{name}", window), out)


@commands.command()
def contacts(
    person: Annotated[str | None, typer.Argument(help="16 hex digits, or what a personal card says.")] = None,
    *,
    case: Annotated[str | None, typer.Option(help="The exposures of this case that stand.")] = None,
    start: FromOption = None,
    end: ToOption = None,
    min_overlap: MinOverlapOption = 1,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
    out: OutOption = None,
) -> None:
    """Who was where a person was, at the same time (F1); or the contacts of a case."""
    output = chosen_format(json, as_csv)
    check_suffix(out)
    if (person is None) == (case is None):
        fail("name either a person or --case ID", CALL_WRONG)
    columns = {"person": "Person", "date": "Date", "minutes": "Minutes", "first": "First", "last": "Last"}
    if case is not None:
        if start is not None or end is not None or min_overlap != 1:
            fail("--from, --to and --min-overlap are those of the case itself: leave them out", CALL_WRONG)
        found = ask(lambda lookups: lookups.contacts_of_case(case))
        title = f"Contacts of case {case}"
    else:
        who, window = parsed(person_not_case, person or ""), window_of(start, end)
        found = ask(lambda lookups: lookups.contacts(who, window, min_overlap))
        title = title_of(f"Contacts of person {who}", window)
        columns["share"] = "Share"
    show(_contact_rows(found), columns | PLACE, output, title, out)
    if output is Format.TABLE and found:
        persons = len(set(found.columns[0]))
        err.print(f"{persons:,} persons, {len(found):,} contacts", style="dim")


@commands.command()
def occupancy(
    venue: VenueArgument,
    *,
    start: FromOption = None,
    end: ToOption = None,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
    out: OutOption = None,
) -> None:
    """How full a venue was, by hour. --out FILE.svg draws days and hours as a heat map."""
    output = chosen_format(json, as_csv)
    check_suffix(out, ".svg")
    code, window = parsed(parse_venue, venue), window_of(start, end)
    hours = ask(lambda lookups: lookups.occupancy(code, window))
    title = title_of(f"Venue {code}", window)

    def picture(path: Path) -> None:
        from lookups import pictures  # noqa: PLC0415 (matplotlib takes a third of a second)

        pictures.heat_map(path, title, hours, window)

    rows = [
        {
            "hour": format_time(each.start),
            "visitors": each.visitors,
            "peak": each.peak,
            "check_ins": each.check_ins,
            "capacity": each.capacity,
            "exceeded": each.exceeded,
        }
        for each in hours
    ]
    columns = {"hour": "Hour", "visitors": "Visitors", "peak": "At once", "check_ins": "Check-ins"}
    columns |= {"capacity": "Capacity", "exceeded": "Exceeded"}
    show(rows, columns, output, title, out, {".svg": picture})


def _contact_rows(found: Columns[Contact]) -> Rows:
    """By column: a crowd's tens of thousands have few times and places among them."""
    persons, venues, dates, minutes, firsts, lasts, shares = found.columns
    place = {venue.code: place_cells(venue) for venue in venues}
    time = {at: format_time(at) for at in {*firsts, *lasts}}
    return [
        {
            "person": person,
            "date": date,
            "minutes": together,
            **place[venue.code],
            "first": time[first],
            "last": time[last],
            "share": None if share is None else round(share, 3),
        }
        for person, venue, date, together, first, last, share in zip(
            persons, venues, dates, minutes, firsts, lasts, shares, strict=True
        )
    ]
