"""Numbers without persons: visits and exposures by day and group, warnings of venues."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from deploy.cli.asking import show
from deploy.cli.desk import asking, clock_ms, open_desk, question_errors
from deploy.cli.output import CALL_WRONG, CsvFlag, JsonFlag, chosen_format, fail, plain_errors
from lookups.figures import By, Counted, Figures
from schemas.departments import DEPARTMENTS
from schemas.settings import Settings, SettingsError, load_settings
from schemas.times import day_number, format_time, local_day, minute_of

commands = typer.Typer(no_args_is_help=True)

_DEFAULT_DAYS: Final = 14
_LONGEST: Final = 366  # days: more would only be a slow question


class _By(StrEnum):
    DISTRICT = "district"
    SECTOR = "sector"
    DEPARTMENT = "department"
    VENUE = "venue"


ByOption = Annotated[_By, typer.Option("--by", help="What the numbers are of; an analyst no venue.")]
FromOption = Annotated[str | None, typer.Option("--from", help="First local date; 14 days if left out.")]
ToOption = Annotated[str | None, typer.Option("--to", help="Last local date, included; today if left out.")]


@commands.command()
def visits(
    by: ByOption = _By.DISTRICT,
    start: FromOption = None,
    end: ToOption = None,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
) -> None:
    """How many persons checked in, and how often, by date and group."""
    _counts("visits", by, start, end, json=json, as_csv=as_csv)


@commands.command()
def exposures(
    by: ByOption = _By.DISTRICT,
    start: FromOption = None,
    end: ToOption = None,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
) -> None:
    """How many persons stand exposed, and how many exposures, by date and group."""
    _counts("exposures", by, start, end, json=json, as_csv=as_csv)


@commands.command()
def warnings(json: JsonFlag = False, as_csv: CsvFlag = False) -> None:
    """Where and when cases were, and how many were exposed there; a department sees its own venues."""
    output = chosen_format(json, as_csv)
    with plain_errors(SettingsError):
        settings = load_settings()
    with question_errors(), open_desk(settings) as (desk, client):
        figures = Figures(client, clock_ms, desk, asking(settings))
        found = desk.answered(figures.warnings())
        _check_department(settings, figures)
    rows = [
        {
            "date": each.date,
            "venue": each.venue,
            "name": each.name,
            "district": each.district,
            "case": each.case_id,
            "from": format_time(each.first) if each.first else "",
            "to": format_time(each.last) if each.last else "",
            "contacts": each.contacts,
        }
        for each in found
    ]
    columns = {"date": "Date", "venue": "Venue", "name": "Name", "district": "District", "case": "Case"}
    show(rows, columns | {"from": "From", "to": "To", "contacts": "Exposed"}, output, "Warnings")


def _counts(
    counted: Counted, by: _By, start: str | None, end: str | None, *, json: bool, as_csv: bool
) -> None:
    output = chosen_format(json, as_csv)
    with plain_errors(SettingsError):
        settings = load_settings()
    first, last = _days(start, end)
    chosen: By = by.value
    if settings.role == "analyst" and by is _By.VENUE:
        fail("an analyst sees no single venue: --by district, sector or department", CALL_WRONG)
    with question_errors(), open_desk(settings) as (desk, client):
        figures = Figures(client, clock_ms, desk, asking(settings))
        found = desk.answered(figures.counts(counted, chosen, first, last))
        _check_department(settings, figures)
    event = "check_ins" if counted == "visits" else "exposures"
    rows = [
        {"date": each.date, by.value: each.group, "persons": each.persons, event: each.events}
        for each in found
    ]
    headings = {"date": "Date", by.value: by.value.capitalize(), "persons": "Persons"}
    show(rows, headings | {event: event.replace("_", "-").capitalize()}, output, f"{counted} by {by.value}")


def _check_department(settings: Settings, figures: Figures) -> None:
    """A department that is mistyped has no venue, and no numbers: that must not look like good news."""
    own = settings.department
    if not own or own in DEPARTMENTS or settings.role not in {"tracer", "department"}:
        return  # an analyst or auditor may not read the register
    if own not in (there := figures.departments()):
        fail(
            f"TRUYVET_DEPARTMENT: no venue has the department {own};"
            f" those of the venues are {', '.join(there) or 'none yet'}",
            CALL_WRONG,
        )


def _days(start: str | None, end: str | None) -> tuple[int, int]:
    with plain_errors(ValueError):
        last = day_number(end) if end else local_day(minute_of(clock_ms()))
        first = day_number(start) if start else last - _DEFAULT_DAYS + 1
    if not 0 <= last - first < _LONGEST:
        fail(f"--from must be a date up to {_LONGEST - 1} days before --to", CALL_WRONG)
    return max(0, first), last
