"""Run one role in the foreground, as `truyvet up` and a container do; it ends at SIGTERM."""

from __future__ import annotations

import errno
import logging
import threading
import time
from enum import StrEnum
from typing import Annotated

import typer

from deploy.cli.output import CALL_WRONG, fail
from deploy.local.roles import metrics_port
from deploy.local.waiting import tell_until_kafka_answers
from schemas.settings import Settings, SettingsError, load_settings

commands = typer.Typer(no_args_is_help=True)


class RoleName(StrEnum):
    """The roles that can be run."""

    GATEWAY = "gateway"
    INGEST = "ingest"
    CASES = "cases"
    MATCHER = "matcher"
    ARCHIVE = "archive"


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _rebuild(settings: Settings) -> None:
    from deploy.rebuild import rebuild  # noqa: PLC0415 (only when Redis was lost)

    rebuild(settings)


def _serve(role: RoleName, settings: Settings, worker: int) -> None:
    # imported here: a role loads only what it runs
    port = metrics_port(settings, role.value, worker)
    if role is RoleName.GATEWAY:
        from producers.gateway import serve  # noqa: PLC0415

        serve(settings)
    elif role is RoleName.ARCHIVE:
        from sinks.archive import run  # noqa: PLC0415

        run(settings, clock_ms=_clock_ms, metrics_port=port, stop=threading.Event())
    else:
        from stream_processors.roles import run_role  # noqa: PLC0415

        run_role(role.value, settings, _clock_ms, worker, port, rebuild=_rebuild)


@commands.command()
def run(
    role: Annotated[RoleName, typer.Argument(help="Which role.")],
    worker: Annotated[int, typer.Option(help="Which of several workers of the role, from 0.")] = 0,
) -> None:
    """Run one role until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings()
    except SettingsError as error:
        fail(str(error), CALL_WRONG)
    tell_until_kafka_answers(settings.kafka_address)
    try:
        _serve(role, settings, worker)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        port = metrics_port(settings, role.value, worker)
        fail(
            f"port {port} of {role.value} is in use: set TRUYVET_METRICS_PORT (or TRUYVET_GATEWAY_PORT)",
            CALL_WRONG,
        )
