"""Print QR posters for venues and QR cards for people."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deploy.cli.output import (
    CALL_WRONG,
    DATA_WRONG,
    JsonFlag,
    err,
    fail,
    out,
    plain_errors,
    print_json,
    writing_errors,
)
from deploy.cli.register import venues_by_code
from producers.qr import typeface
from producers.qr.card import write_card
from producers.qr.files import read_venues
from producers.qr.poster import Look, write_posters
from schemas.departments import SECTORS
from schemas.events import Venue
from schemas.qr import parse_person, parse_venue
from schemas.settings import Settings, SettingsError, load_settings

commands = typer.Typer(no_args_is_help=True)

_ONE_FILE = "posters.pdf"
_PLACEHOLDER = str(Settings.model_fields["public_host"].default)


@commands.command()
def posters(
    *,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the PDF files; made if it is not there.")],
    sector: Annotated[list[str] | None, typer.Option(help="Only these sectors.")] = None,
    district: Annotated[list[str] | None, typer.Option(help="Only these districts (slugs).")] = None,
    code: Annotated[list[str] | None, typer.Option(help="Only these venues.")] = None,
    one_file: Annotated[bool, typer.Option("--one-file", help=f"All in one file, {_ONE_FILE}.")] = False,
    source: Annotated[
        Path | None, typer.Option("--from", help="Venues from a .csv or .jsonl file, not from Kafka.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """A4 posters, a page a venue: CODE.pdf each, or one file for the printer; closed venues are left out.

    In one file they are sorted by district, sector and name. Existing posters are replaced.
    """
    with plain_errors(SettingsError):
        settings = load_settings()
    problems: list[str] = []
    if source is not None:
        with plain_errors(ValueError, OSError):
            listed, problems = read_venues(source)
        register = {venue.code: venue for venue in listed}
    else:
        register = venues_by_code(settings)
    chosen = _choose(register, sector or [], district or [], code or [])
    now = round(time.time() * 1000)
    still_open = [venue for venue in chosen if venue.open_at(now)]
    for problem in problems:
        err.print(problem, style="yellow", markup=False)
    if not still_open:
        fail("there is no open venue to print: see `truyvet venues list`, or loosen the filters")
    boxes = _warn(settings, still_open)
    look = Look(settings.public_host, settings.archive_retention_days, register)
    began = time.monotonic()
    with writing_errors(DATA_WRONG):
        folder.mkdir(parents=True, exist_ok=True)
        files = _write(still_open, folder, look, one_file)
    took = time.monotonic() - began
    closed = len(chosen) - len(still_open)
    if json:
        names = [str(file) for file in files]
        summary = {"posters": len(still_open), "closed": closed, "problems": len(problems), "files": names}
        print_json(summary)
    else:
        rest = f", {closed} closed left out" if closed else ""
        out.print(f"{len(still_open):,} posters in {folder} ({took:.1f} s{rest})", markup=False)
    if problems or boxes:
        raise typer.Exit(DATA_WRONG)


@commands.command()
def card(
    person: Annotated[str, typer.Argument(help="The pseudonym (16 hexadecimal digits), or a card's URL.")],
    file: Annotated[Path, typer.Option("--out", help="A name that ends in .pdf or .png (600 dpi).")],
) -> None:
    """A personal card in the size of a bank card, which a venue scans."""
    with plain_errors(SettingsError, ValueError):
        settings = load_settings()
        pseudonym = parse_person(person)
    _warn(settings, ())
    with plain_errors(ValueError), writing_errors(DATA_WRONG):
        write_card(pseudonym, file, settings.public_host)
    out.print(f"{file}", markup=False)


def _choose(
    register: dict[str, Venue], sectors: list[str], districts: list[str], codes: list[str]
) -> list[Venue]:
    """The venues that all filters let through, sorted as a printer hands them out."""
    if unknown := [name for name in sectors if name not in SECTORS]:
        fail(f"no such sector: {', '.join(unknown)}; sectors are {', '.join(SECTORS)}", CALL_WRONG)
    known = {venue.district for venue in register.values()}
    if unknown := [name for name in districts if name not in known]:
        fail(f"no venue is in {', '.join(unknown)}; districts are {', '.join(sorted(known))}", CALL_WRONG)
    with plain_errors(ValueError):
        wanted = {parse_venue(text) for text in codes}
    if absent := sorted(wanted - set(register)):
        fail(f"not in the register: {', '.join(absent)}; see `truyvet venues list`", CALL_WRONG)
    chosen = (
        venue
        for venue in register.values()
        if (not sectors or venue.sector in sectors)
        and (not districts or venue.district in districts)
        and (not wanted or venue.code in wanted)
    )
    return sorted(chosen, key=lambda venue: (venue.district, venue.sector, venue.name, venue.code))


def _write(venues: list[Venue], folder: Path, look: Look, one_file: bool) -> list[Path]:
    columns = (TextColumn("Posters"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("posters", total=len(venues))
        if one_file:
            file = folder / _ONE_FILE
            write_posters(venues, file, look, lambda _: progress.advance(task))
            return [file]
        files = []
        for venue in venues:
            file = folder / f"{venue.code}.pdf"
            write_posters([venue], file, look)
            files.append(file)
            progress.advance(task)
        return files


def _warn(settings: Settings, venues: Iterable[Venue]) -> bool:
    """Say what would be found out only after printing; whether a name has letters that cannot be printed."""
    if settings.public_host == _PLACEHOLDER:
        err.print(
            f"[yellow]The QR codes point at {_PLACEHOLDER}:[/yellow] set TRUYVET_PUBLIC_HOST before you "
            "print for use.",
        )
    boxes = False
    for venue in venues:
        if letters := typeface.missing_letters(venue.name):
            boxes = True
            err.print(
                f"{venue.code} {venue.name}: the typeface has no {letters!r}; the poster shows a box there",
                style="yellow",
                markup=False,
            )
    return boxes
