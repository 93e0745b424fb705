"""Roles on a ClickHouse server of your own: what they may read, and who has which."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from clickhouse_driver import Client
from clickhouse_driver.errors import Error, NetworkError, SocketTimeoutError

from deploy import access
from deploy.cli.output import CALL_WRONG, SERVER_AWAY, fail, out, plain_errors
from deploy.local.health import clickhouse_away
from lookups.connection import connect
from schemas.settings import SettingsError, load_settings
from sinks.connection import first_line

commands = typer.Typer(no_args_is_help=True)

ROLES: Final = Path(access.__file__).parent / "roles.sql"
_COMMENT: Final = re.compile(r"^\s*--.*$", re.MULTILINE)
_USER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_SLUG: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_EMBEDDED: Final = (
    "the embedded ClickHouse engine has no users or roles: there only the command line keeps to TRUYVET_ROLE."
    " Use a server of your own (TRUYVET_CLICKHOUSE) with a user who has access management"
)
_REFUSED: Final = {497, 514}  # not enough privileges; nowhere to store a role


def statements() -> list[str]:
    """The statements of roles.sql, in their order."""
    text = _COMMENT.sub("", ROLES.read_text("utf-8"))
    return [part.strip() for part in text.split(";\n") if part.strip()]


@commands.command()
def show() -> None:
    """The SQL that `apply` carries out, for a database administrator to read."""
    typer.echo(ROLES.read_text("utf-8"), nl=False)


@commands.command()
def apply() -> None:
    """Make the roles, their grants and row policies; safe to call again, after every upgrade."""
    _execute(statements())
    out.print(f"{len(statements())} statements carried out: truyvet access grant gives somebody a role")


@commands.command()
def grant(
    user: Annotated[str, typer.Argument(help="A user that ClickHouse knows already.")],
    *,
    role: Annotated[
        Literal["tracer", "department", "analyst", "auditor"], typer.Option(help="The role to give.")
    ],
    department: Annotated[
        str | None, typer.Option(help="For the role department: its slug, such as so-y-te.")
    ] = None,
) -> None:
    """Give a user one role, and a department's user the department."""
    if not _USER.fullmatch(user):
        fail(f"{user!r} is no name of a user: letters, digits, _ . and -", CALL_WRONG)
    if (role == "department") != (department is not None):
        fail("--department goes with --role department, and that role needs it", CALL_WRONG)
    if department is not None and not _SLUG.fullmatch(department):
        fail(f"{department!r} is no slug of a department such as so-y-te", CALL_WRONG)
    # user and role are checked above: names cannot be parameters of a GRANT
    _execute([f"GRANT truyvet_{role} TO `{user}`", f"SET DEFAULT ROLE truyvet_{role} TO `{user}`"])
    if department is not None:
        _execute(["INSERT INTO department_users (user, department) VALUES"], [(user, department)])
    out.print(f"{user} is {role}{' of ' + department if department else ''}")


def _execute(sql: list[str], rows: list[tuple[str, str]] | None = None) -> None:
    logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)
    with plain_errors(SettingsError):
        settings = load_settings()
    client: Client = connect(settings.clickhouse_url)
    try:
        for statement in sql:
            client.execute(statement, rows)
    except (NetworkError, SocketTimeoutError, OSError, EOFError):
        fail(clickhouse_away(settings), SERVER_AWAY)
    except Error as error:
        words = first_line(error)
        if getattr(error, "code", None) in _REFUSED:
            fail(f"{_EMBEDDED}: {words}" if not settings.clickhouse else words, CALL_WRONG)
        fail(words)
    finally:
        client.disconnect()
