"""Erase a person by order: marks, index, archive; exposures withdrawn; nothing brings them back."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from deploy.cli.desk import asking, open_desk, question_errors
from deploy.cli.output import (
    CALL_WRONG,
    CsvFlag,
    JsonFlag,
    chosen_format,
    emit,
    err,
    out,
    plain_errors,
    print_json,
)
from deploy.cli.register import kafka_errors
from deploy.erasure import Erasure, ErasureError, StandingCaseError, erase
from lookups.access import checked_purpose
from producers.compacted import check_somebody_listens
from schemas import topics
from schemas.qr import parse_person
from schemas.settings import SettingsError, load_settings
from schemas.times import format_time
from stream_processors.erasing import read_erased

commands = typer.Typer(no_args_is_help=True)

_COLUMNS: Final = {"person": "Person", "order": "Order", "at": "When", "before": "Scans before", "by": "By"}


@commands.command("person")
def erase_person(
    person: Annotated[str, typer.Argument(help="16 hex digits, or what a personal card says.")],
    *,
    order: Annotated[str, typer.Option(help="The number of the order to erase; it is audited.")],
    withdraw_case: Annotated[
        bool, typer.Option("--withdraw-case", help="Withdraw the person's own case first, if one stands.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what there is; erase nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: it is erased for good at once.")] = False,
    json: JsonFlag = False,
) -> None:
    """Erase where a person has been, for good, after asking. All roles must be running; may be repeated.

    Scans from before the next full hour are refused from now on, whenever they come. Kafka's own records
    cannot be rewritten: they go with their retention (docs/PRIVACY.md).
    """
    with plain_errors(SettingsError):
        settings = load_settings()
    with plain_errors(ValueError):
        who = parse_person(person)
    with (
        question_errors(),
        plain_errors(ErasureError, code=1),
        plain_errors(StandingCaseError, code=CALL_WRONG),
    ):
        number = checked_purpose(order)
        if not (yes or dry_run):
            _confirm(who, number, withdraw_case)
        with open_desk(settings, number) as (desk, _):
            desk.asked("erase", {"person": who, "withdraw_case": withdraw_case, "dry_run": dry_run})
            done = erase(
                settings,
                who,
                number,
                asking(settings).who,
                withdraw_case=withdraw_case,
                dry_run=dry_run,
                tell=lambda words: err.print(words, style="dim", markup=False),
            )
            desk.answered(range(done.marks))
    _show(done, dry_run, json)


@commands.command("list")
def list_erased(json: JsonFlag = False, as_csv: CsvFlag = False) -> None:
    """Whose scans are refused, and since when they may come again."""
    output = chosen_format(json, as_csv)
    with plain_errors(SettingsError):
        settings = load_settings()
    now = time.time_ns() // 1_000_000
    with kafka_errors(), plain_errors(RuntimeError, code=3):
        check_somebody_listens(settings)
        found = read_erased(settings.kafka_address, settings.topic(topics.ERASED))
    rows = [
        each.model_dump() | {"at": format_time(each.at), "before": format_time(each.before)}
        for each in sorted(found, key=lambda each: each.at)
        if each.until > now
    ]
    emit(rows, _COLUMNS, output)


def _confirm(who: str, order: str, withdraw_case: bool) -> None:
    """Before anything is looked at: a pseudonym is mistyped or pasted from the wrong line easily."""
    first = "a case about the person is withdrawn first; " if withdraw_case else ""
    typer.confirm(
        f"Person {who}, by order {order}: {first}all scans, stays, exposures and rejected records"
        " of this person are erased and cannot be brought back (--dry-run counts them). Go on?",
        abort=True,
        err=True,  # standard output belongs to --json
    )


def _show(done: Erasure, dry_run: bool, json: bool) -> None:
    if json:
        names = ("person", "before", "marks", "archived", "rejected", "withdrawn", "cases", "standing")
        print_json({name: getattr(done, name) for name in names} | {"dry_run": dry_run})
    else:
        what = "would be erased" if dry_run else "erased, and checked"
        out.print(
            f"{done.person}: {done.marks} marks in Redis, {done.archived} rows of the archive,"
            f" {done.rejected} rejected records {what}; {done.withdrawn} exposures"
            f" {'stand' if dry_run else 'withdrawn'}; scans before {format_time(done.before)} are refused",
            markup=False,
        )
        if done.cases:
            out.print(f"subject of {', '.join(done.cases)}", markup=False)
    if done.standing:
        err.print(
            f"{len(done.standing)} exposures stand: their marks have expired, so only their case decides:"
            f" {', '.join(done.standing[:5])}",
            style="yellow",
            markup=False,
        )
        raise typer.Exit(1)
