"""The lookup audit: who asked what about whom and why, and whether its chain is whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from deploy.audit import audit_records, verify_audit
from deploy.cli.desk import open_desk, question_errors
from deploy.cli.output import (
    CsvFlag,
    Format,
    JsonFlag,
    chosen_format,
    emit,
    err,
    out,
    plain_errors,
    print_json,
)
from deploy.cli.register import kafka_errors
from lookups.audit import parse_anchor, read_row
from schemas.settings import Settings, SettingsError, load_settings
from schemas.times import day_name, format_time, parse_time

commands = typer.Typer(no_args_is_help=True)

_COLUMNS: Final = {
    "seq": "Row",
    "at": "When",
    "who": "Who",
    "role": "Role",
    "purpose": "Purpose",
    "step": "Step",
    "question": "Question",
    "arguments": "Arguments",
    "rows": "Rows",
    "of": "Of row",
}


@commands.command("list")
def list_rows(
    *,
    purpose: Annotated[str | None, typer.Option(help="Only of this case or order.")] = None,
    who: Annotated[str | None, typer.Option(help="Only of this asker (user@host).")] = None,
    since: Annotated[str | None, typer.Option(help="ISO 8601, local time by default.")] = None,
    last: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    json: JsonFlag = False,
    as_csv: CsvFlag = False,
) -> None:
    """The rows of the audit, oldest first. For the role auditor; the look itself is audited."""
    output = chosen_format(json, as_csv)
    settings = _settings()
    with plain_errors(ValueError):
        start = parse_time(since) if since else 0
    broken = 0
    with question_errors(), kafka_errors(), open_desk(settings) as (desk, _):
        desk.asked("audit", {"purpose": purpose, "who": who, "since": since, "last": last})
        found: list[dict[str, Any]] = []
        for offset, value in audit_records(settings):
            try:
                row, _sound = read_row(value)
            except ValueError as error:
                broken += 1
                err.print(f"offset {offset} is no row: {error}", style="yellow", markup=False)
                continue
            if row.at >= start and purpose in (None, row.purpose) and who in (None, row.who):
                found.append(row.model_dump(exclude={"entry"}) | {"at": format_time(row.at)})
        found = desk.answered(found[-last:])
    if output is Format.JSON:
        print_json(found)
    else:
        words = [row | {"arguments": _words(row)} for row in found]
        emit(words, _COLUMNS, output)
        if not found:
            err.print("no row of the audit is of this purpose, asker and time", style="dim")
    if broken:
        err.print("truyvet audit verify says what happened", style="yellow")
        raise typer.Exit(1)


@commands.command()
def verify(
    *,
    anchor: Annotated[
        list[str] | None,
        typer.Option(help="SEQ:HASH that an earlier verify printed and somebody kept elsewhere; may repeat."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Whether any row was changed, removed, put in or moved; exit code 1 when it was, and then no anchor.

    Keep the printed anchor outside of this installation: against a later one, a chain that was cut off or
    written anew together with its copy in ClickHouse is found too.
    """
    settings = _settings()
    with plain_errors(ValueError):
        anchors = [parse_anchor(text) for text in anchor or ()]
    with question_errors(), kafka_errors(), open_desk(settings) as (desk, client):
        found = verify_audit(settings, client, anchors)
        seq, digest = found.head
        if not found.problems:  # on a broken chain nothing more is put
            desk.asked("audit-verify", {"head": f"{seq}:{digest}"})
    # an anchor of a broken chain would make what was done to it right for whoever keeps it
    head = None if found.problems else f"{seq}:{digest}"
    if json:
        problems = [{"seq": each.seq, "what": each.what} for each in found.problems]
        report = {"whole": not problems, "rows": found.rows, "head": head, "problems": problems}
        print_json(report | {"uncopied": found.uncopied})
    else:
        for each in found.problems:
            err.print(f"✗ {each.what}", style="red", markup=False)
        if found.uncopied:
            words = ", ".join(map(str, found.uncopied[:20]))
            err.print(
                f"not in the copy in ClickHouse (an asker died, or ClickHouse was away): {words}",
                style="yellow",
                markup=False,
            )
        if not found.problems:
            out.print(f"{found.rows:,} rows, every one as it was written", style="green")
            out.print(f"anchor {head}", markup=False)
    if found.problems:
        raise typer.Exit(1)


def _settings() -> Settings:
    with plain_errors(SettingsError):
        return load_settings()


def _words(row: Mapping[str, Any]) -> str:
    """The arguments of a question as people read them; in a row times and days are numbers."""
    by_day = str(row["question"]).endswith("-by")
    told = []
    for name, value in row["arguments"].items():
        if value is None:
            continue
        words = value
        if name in {"from", "to"}:
            words = _minute(value)
        elif by_day and name in {"first", "last"}:
            words = _number(day_name, value)
        elif isinstance(value, list):
            words = " ".join(map(_place, value))
        told.append(f"{name}={words}")
    return " ".join(told)


def _place(value: object) -> str:
    """A place-time as `trace places` takes it; a person as it is."""
    if isinstance(value, list):
        return ",".join([str(value[0]), *map(_minute, value[1:])])
    return str(value)


def _minute(value: object) -> str:
    # one word, as --from takes it: it neither folds nor needs quotes in a shell
    return _number(format_time, value).replace(" ", "T")


def _number(words: Callable[[int], str], value: object) -> str:
    """A number in words; what is none, or beyond the calendar, was written by somebody else: as it is."""
    try:
        return words(value) if isinstance(value, int) else str(value)
    except (ValueError, OverflowError, OSError):
        return str(value)
