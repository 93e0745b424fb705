"""How long the archive keeps personal data: what stands, and putting the setting on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from clickhouse_driver import Client
from clickhouse_driver.errors import Error

from deploy.cli.output import (
    CALL_WRONG,
    DATA_WRONG,
    SERVER_AWAY,
    CsvFlag,
    Format,
    JsonFlag,
    chosen_format,
    emit,
    err,
    fail,
    out,
    plain_errors,
)
from schemas.settings import SettingsError, load_settings
from schemas.times import format_time
from sinks.connection import connect, first_line, meaning
from sinks.retention import Kept, keep_for, kept

commands = typer.Typer(no_args_is_help=True)

_COLUMNS = {"table": "Table", "keeps": "Keeps, days", "setting": "Setting", "rows": "Rows"}
_COLUMNS |= {"due": "Past the setting", "oldest": "Oldest"}


@commands.command()
def show(*, json: JsonFlag = False, as_csv: CsvFlag = False) -> None:
    """What each table keeps, beside TRUYVET_ARCHIVE_RETENTION_DAYS. Exit code 1 when they differ."""
    output = chosen_format(json, as_csv)
    with _archive() as (client, days):
        found = _kept(client, days)
    emit([_row(each, days) for each in found], _COLUMNS, output, "Retention")
    if any(each.days != days for each in found):
        if output is Format.TABLE:
            err.print("truyvet retention apply puts the setting on; the archive role does at its start")
        raise typer.Exit(DATA_WRONG)


@commands.command()
def apply(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, even when rows will be deleted.")] = False,
) -> None:
    """Keep what TRUYVET_ARCHIVE_RETENTION_DAYS says, and delete what is older, for good."""
    with _archive() as (client, days):
        due = sum(each.due for each in _kept(client, days))
        if due and not yes:
            typer.confirm(
                f"{due:,} rows are older than {days} days and will be deleted for good. Go on?", abort=True
            )
        changed = keep_for(client, days, wait=True)
        left = sum(each.due for each in _kept(client, days))
    told = ", ".join(changed) or "no table had to be changed"
    out.print(f"{days} days: {told}; {due - left:,} rows deleted", markup=False)
    if left:
        fail(f"{left:,} rows past the retention came or stayed meanwhile: run it again", DATA_WRONG)


def _row(each: Kept, days: int) -> dict[str, object]:
    oldest = None if each.oldest is None else format_time(each.oldest)
    about: dict[str, object] = {"table": each.table, "keeps": each.days, "setting": days}
    return about | {"rows": each.rows, "due": each.due, "oldest": oldest}


def _kept(client: Client, days: int) -> list[Kept]:
    found = kept(client, days, time.time_ns() // 1_000_000)
    if not found:
        fail("the archive is not there yet: truyvet run archive makes its tables")
    return found


@contextmanager
def _archive() -> Iterator[tuple[Client, int]]:
    """A connection and the days that are wanted; what goes wrong is one line."""
    with plain_errors(SettingsError):
        settings = load_settings()
    logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)  # what is away is told in one line here
    client = connect(settings.clickhouse_url)
    try:
        yield client, settings.archive_retention_days
    except (Error, OSError, EOFError) as error:
        away = meaning(error) == "passing"
        advice = (
            "is it up? truyvet status shows it"
            if away
            else "look at TRUYVET_CLICKHOUSE and its user's rights"
        )
        fail(f"ClickHouse did not do it: {first_line(error)}: {advice}", SERVER_AWAY if away else CALL_WRONG)
    finally:
        client.disconnect()
