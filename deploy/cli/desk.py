"""What every command that looks into the data has in common: a purpose, a role, the audit, plain errors."""

from __future__ import annotations

import functools
import getpass
import inspect
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Annotated, Any, Final, TypeVar, cast

import typer
from clickhouse_driver import Client

from deploy.audit import KafkaLedger
from deploy.cli.output import SERVER_AWAY, plain_errors
from lookups.access import Asking, Desk, ForbiddenError, PurposeError
from lookups.answers import ArchiveAwayError, QuestionError, WrongAccessError
from lookups.audit import AuditAwayError
from lookups.connection import connect
from schemas.settings import Settings, SettingsError

_PURPOSE: Final[ContextVar[str]] = ContextVar("purpose", default="")


_OPTION: Final = Annotated[
    str | None,
    typer.Option(
        metavar="CASE|ORDER",
        help="For what: a case id or an order number. Needed for what names persons; it is audited.",
        envvar="TRUYVET_PURPOSE",
    ),
]

F = TypeVar("F", bound=Callable[..., Any])


def with_purpose(command: F) -> F:
    """The command with an option `--purpose`; `asking` knows what it was given."""
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def asked(*args: Any, purpose: str | None = None, **kwargs: Any) -> Any:
        _PURPOSE.set(purpose or "")
        return command(*args, **kwargs)

    option = inspect.Parameter("purpose", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_OPTION)
    told: Any = asked  # typer reads the signature
    told.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])
    told.__annotations__ = {**inspect.get_annotations(command, eval_str=True), "purpose": _OPTION}
    return cast(F, told)


class Questions(typer.Typer):
    """A group whose every command takes `--purpose`: none can be added that does not."""

    def command(self, *args: Any, **kwargs: Any) -> Callable[[F], F]:
        """As typer's."""
        register = super().command(*args, **kwargs)

        def add(function: F) -> F:
            register(with_purpose(function))
            return function

        return add


def asking(settings: Settings) -> Asking:
    """Who asks now, and for what."""
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    return Asking(who, settings.role, settings.department, _PURPOSE.get())


@contextmanager
def open_desk(settings: Settings, purpose: str | None = None) -> Iterator[tuple[Desk, Client]]:
    """What questions pass through, and a client of the archive for them; `purpose`: instead of the option."""
    client = connect(settings.clickhouse_url)
    try:
        who = asking(settings)
        who = who if purpose is None else replace(who, purpose=purpose)
        yield Desk(KafkaLedger(settings), who, clock_ms, client), client
    finally:
        client.disconnect()


@contextmanager
def question_errors() -> Iterator[None]:
    """Every question that cannot be answered ends a command in one line that says what to do."""
    # a server that is away is told in one line, not by the driver's stack trace
    logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)
    with (
        plain_errors(QuestionError, code=1),
        plain_errors(SettingsError, WrongAccessError, PurposeError, ForbiddenError),
        plain_errors(ArchiveAwayError, AuditAwayError, code=SERVER_AWAY),
    ):
        yield


def clock_ms() -> int:
    """Now."""
    return time.time_ns() // 1_000_000
