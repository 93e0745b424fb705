"""Ask the archive about several persons or places at once: chains, common venues, place-times."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.asking import (
    PLACE,
    SPAN,
    FromOption,
    MinOverlapOption,
    OutOption,
    ToOption,
    ask_groups,
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
from deploy.cli.output import CALL_WRONG, CsvFlag, Format, JsonFlag, chosen_format, err, fail, plain_errors
from lookups.answers import PlaceTime, Window
from lookups.chains import tree, write_graphml
from schemas.qr import parse_person, parse_venue
from schemas.times import format_time, parse_time

commands = Questions()


@commands.command()
def chain(
    person: Annotated[str | None, typer.Argument(help="16 hex digits, or what a personal card says.")] = None,
    *,
    case: Annotated[str | None, typer.Option(help="Person, window and minutes of this case.")] = None,
    start: FromOption = None,
    end: ToOption = None,
    min_overlap: MinOverlapOption = 1,
    isolated: Annotated[
        list[str] | None, typer.Option(help="PERSON=TIME: isolated from then on. May be repeated.")
    ] = None,
    isolations: Annotated[Path | None, typer.Option(help="A CSV file with the columns person, from.")] = None,
    every_link: Annotated[
        bool, typer.Option("--every-link", help="Not only who exposed a person first: in crowds, every pair.")
    ] = False,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
    out: OutOption = None,
) -> None:
    """Who was exposed through whom: F1, F2, F3, forward in time.

    --out FILE.svg draws the transmission tree, FILE.graphml is for graph programs.
    """
    output = chosen_format(json, as_csv)
    check_suffix(out, ".svg", ".graphml")
    if (person is None) == (case is None):
        fail("name either a person or --case ID", CALL_WRONG)
    when = _isolated(isolated or [], isolations)
    if case is not None:
        if start is not None or end is not None or min_overlap != 1:
            fail("--from, --to and --min-overlap are those of the case itself: leave them out", CALL_WRONG)
        subject = ask_groups(lambda groups: groups.person_of_case(case))
        who, window, min_overlap = subject.person, subject.window, subject.min_overlap
    else:
        who, window = parsed(person_not_case, person or ""), window_of(start, end)
    links = ask_groups(lambda groups: groups.chain(who, window, when, min_overlap, every_link=every_link))
    title = title_of(f"Chain of person {who}", window)

    def picture(path: Path) -> None:
        from lookups import pictures  # noqa: PLC0415 (matplotlib takes a third of a second)

        pictures.transmission_tree(path, title, tree(who, links))

    rows = [
        {
            "degree": f"F{link.degree}",
            "person": link.person,
            "through": link.source,
            "date": link.date,
            "minutes": link.minutes,
            "first": format_time(link.first),
            "last": format_time(link.last),
            **place_cells(link.venue),
        }
        for link in links
    ]
    columns = {"degree": "Degree", "person": "Person", "through": "Through", "date": "Date"}
    columns |= {"minutes": "Minutes", "first": "First", "last": "Last"} | PLACE
    graph = {".svg": picture, ".graphml": lambda path: write_graphml(path, who, links)}
    show(rows, columns, output, title, out, graph)
    if output is Format.TABLE and links:
        count = Counter(node.degree for node in tree(who, links))
        err.print(", ".join(f"F{degree}: {count[degree]:,}" for degree in (1, 2, 3)), style="dim")


@commands.command()
def common(
    persons: Annotated[list[str], typer.Argument(help="Two or more: 16 hex digits each, or their cards.")],
    *,
    start: FromOption = None,
    end: ToOption = None,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
    out: OutOption = None,
) -> None:
    """Where several persons were, likeliest places to have met first."""
    output = chosen_format(json, as_csv)
    check_suffix(out)
    window = window_of(start, end)
    who = list(dict.fromkeys(parsed(parse_person, each) for each in persons))
    if len(who) < 2:
        fail("name at least two persons", CALL_WRONG)
    rows = [
        {
            **place_cells(each.venue),
            "persons": each.persons,
            "together": each.together,
            "minutes": each.minutes,
            "first": None if each.first is None else format_time(each.first),
            "last": None if each.last is None else format_time(each.last),
        }
        for each in ask_groups(lambda groups: groups.common_venues(who, window))
    ]
    columns = PLACE | {"persons": "Were there", "together": "At once", "minutes": "Minutes of pairs"}
    columns |= {"first": "First", "last": "Last"}
    show(rows, columns, output, title_of(f"{len(who)} persons", window), out)


@commands.command()
def places(
    at: Annotated[list[str], typer.Argument(help="CODE,FROM,TO: a venue and local times. One or more.")],
    *,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
    out: OutOption = None,
) -> None:
    """Who was at any of these place-times, stalls and wards of a venue included."""
    output = chosen_format(json, as_csv)
    check_suffix(out)
    asked = [_place_time(each) for each in at]
    rows = [
        {"place": at[found.place], **presence_cells(found.presence)}
        for found in ask_groups(lambda groups: groups.at_places(asked))
    ]
    columns = {"place": "Place-time", "person": "Person"} | SPAN | PLACE
    show(rows, columns, output, f"{len(asked)} place-times", out)


def _place_time(text: str) -> PlaceTime:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3:
        fail(f"{text!r} is no place-time: write CODE,2026-11-20T08:00,2026-11-20T10:00", CALL_WRONG)
    with plain_errors(ValueError):
        return PlaceTime(parse_venue(parts[0]), Window(parse_time(parts[1]), parse_time(parts[2])))


def _isolated(pairs: list[str], path: Path | None) -> dict[str, int]:
    """Person → ms; of two dates for one person the earlier."""
    told: list[tuple[str, str]] = []
    for pair in pairs:
        who, sign, when = pair.partition("=")
        if not sign:
            fail(f"{pair!r} is no isolation: write PERSON=2026-11-20", CALL_WRONG)
        told.append((who, when))
    if path is not None:
        with plain_errors(OSError, UnicodeDecodeError), path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"person", "from"} <= set(reader.fieldnames or ()):
                fail(f"{path}: the first line must name the columns person and from", CALL_WRONG)
            told += [(row["person"] or "", row["from"] or "") for row in reader]
    found: dict[str, int] = {}
    for who, when in told:
        with plain_errors(ValueError):
            person, at = parse_person(who.strip()), parse_time(when)
        found[person] = min(at, found.get(person, at))
    return found
