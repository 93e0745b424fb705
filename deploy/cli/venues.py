"""The register of venues: import a list, look at it, close a place."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from deploy.cli.output import (
    CALL_WRONG,
    DATA_WRONG,
    CsvFlag,
    Format,
    JsonFlag,
    chosen_format,
    emit,
    err,
    fail,
    out,
    plain_errors,
    print_json,
    writing_errors,
)
from deploy.cli.register import kafka_errors
from producers.venues.importing import REQUIRED, FileError, Plan, new_districts, plan, rows_of
from producers.venues.register import publish_venues, read_register
from schemas.departments import SECTORS
from schemas.events import Venue
from schemas.qr import parse_venue
from schemas.settings import Settings, SettingsError, load_settings
from schemas.times import LOCAL, format_time, parse_time

commands = typer.Typer(no_args_is_help=True)

_COLUMNS = {
    "code": "Code",
    "name": "Name",
    "sector": "Sector",
    "district": "District",
    "department": "Department",
    "parent": "Parent",
    "dwell": "Dwell (min)",
    "capacity": "Capacity",
    "closed": "Closed",
}


def _settings() -> Settings:
    with plain_errors(SettingsError):
        return load_settings()


_IMPORT_HELP: Final = f"""Register the venues of a CSV file; the same file again changes nothing.

Columns: name; sector, one of {", ".join(SECTORS)}; district, a slug such as hue. One that neither Thừa Thiên
Huế nor the register has is imported with a warning: a department follows from it.

These may be left out: parent (a code or a name), dwell (minutes: how long a visit without a check-out lasts),
capacity (persons), opens, closes (06:00), lat, lon, code, closed_at.
"""


@commands.command("import", help=_IMPORT_HELP)
def import_file(
    file: Annotated[Path, typer.Argument(help="CSV in UTF-8: name, sector, district, and more.")],
    skip_bad: Annotated[bool, typer.Option(help="Import the good rows although some are bad.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would happen, change nothing.")] = False,
    with_codes: Annotated[
        Path | None, typer.Option("--out", help="Write the list with its codes to this CSV file.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Register the venues of a CSV file."""
    settings = _settings()
    with plain_errors(FileError, OSError):
        rows = rows_of(file.read_bytes())
    with kafka_errors():
        register = read_register(settings)
    planned = plan(rows, register)
    fresh = new_districts([*planned.new, *planned.changed], register)
    for district, departments in fresh.items():
        words = f"district {district} is new to the register (department {', '.join(departments)}): mistyped?"
        err.print(words, style="yellow", markup=False)
    for bad in planned.bad:
        words = f"{file.name} line {bad.line}, {bad.column or 'row'}: {bad.reason}"
        err.print(f"[red]✗[/red] {escape(words)}")
    if planned.bad and not skip_bad:
        fail(f"{len(planned.bad)} of {len(rows)} rows are bad; nothing was imported (--skip-bad: the rest)")
    written = 0
    if not dry_run:
        with kafka_errors():
            written = publish_venues(settings, [*planned.new, *planned.changed])
    if with_codes is not None:
        with writing_errors():
            _write(with_codes, rows, planned)
    counts = {
        "new": len(planned.new),
        "changed": len(planned.changed),
        "unchanged": len(planned.unchanged),
        "bad": len(planned.bad),
        "written": written,
        "new_districts": fresh,
    }
    if json:
        print_json(counts)
    else:
        verb = "would be" if dry_run else "are"
        out.print(
            f"{counts['new']} new and {counts['changed']} changed venues {verb} registered,"
            f" {counts['unchanged']} unchanged, {counts['bad']} bad"
        )
    if planned.bad:
        raise typer.Exit(DATA_WRONG)


def _write(target: Path, rows: list[tuple[int, dict[str, str]]], planned: Plan) -> None:
    names = list(
        dict.fromkeys(["code", *REQUIRED, *(name for _, cells in rows for name in cells if name != "\0")])
    )
    with target.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(names)
        for line, cells in rows:
            if line in planned.codes:
                filled = cells | {"code": planned.codes[line]}
                writer.writerow([filled.get(name, "") for name in names])


@commands.command("list")
def list_venues(
    sector: Annotated[str | None, typer.Option(help="Only this sector.")] = None,
    district: Annotated[str | None, typer.Option(help="Only this district.")] = None,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
) -> None:
    """Show the register. The CSV can be imported again: it changes nothing."""
    output = chosen_format(json, as_csv)
    with kafka_errors():
        register = read_register(_settings())
    chosen = [
        venue
        for venue in register.values()
        if (sector is None or venue.sector == sector) and (district is None or venue.district == district)
    ]
    chosen.sort(key=lambda venue: (venue.sector, venue.district, venue.name))
    if output is Format.TABLE:
        rows = [venue.model_dump() | {"closed": _closed(venue)} for venue in chosen]
        emit(rows, _COLUMNS, output, title=f"{len(rows)} venues")
        return
    exact = output is Format.JSON
    rows = [
        venue.model_dump() | ({} if exact else {"closed_at": _closed(venue, exact=True)}) for venue in chosen
    ]
    emit(rows, {name: name for name in Venue.model_fields}, output)


def _closed(venue: Venue, exact: bool = False) -> str | None:
    """When it closed, as people read it; `exact`: to the millisecond, as `import` takes it."""
    if venue.closed_at is None:
        return None
    if exact:
        return datetime.fromtimestamp(venue.closed_at / 1000, LOCAL).isoformat(timespec="milliseconds")
    return format_time(venue.closed_at)


@commands.command()
def close(
    code: Annotated[str, typer.Argument(help="Code of the venue, or its poster's payload.")],
    at: Annotated[str, typer.Option(help="From when on its scans are refused (ISO 8601, local).")],
) -> None:
    """Close a venue: scans at or after that time are refused as of an unknown venue."""
    settings = _settings()
    with plain_errors(ValueError):
        closed_at, code = parse_time(at), parse_venue(code)
    with kafka_errors():
        venue = read_register(settings).get(code)
    if venue is None:
        fail(f"no venue {code} is registered: truyvet venues list", CALL_WRONG)
    with kafka_errors():
        publish_venues(settings, [venue.model_copy(update={"closed_at": closed_at})])
    out.print(f"{venue.code} {venue.name} is closed from {format_time(closed_at)}", markup=False)
