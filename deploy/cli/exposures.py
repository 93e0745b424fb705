"""Follow the alerts: who was exposed, where and when, as it is found."""

from __future__ import annotations

import sys
from typing import Annotated

import orjson
import typer

from deploy.alerts import Newest, News, Unreadable, follow
from deploy.cli.output import CALL_WRONG, DATA_WRONG, err, fail, out, plain_errors
from deploy.cli.register import kafka_errors
from schemas.departments import DEPARTMENTS, department_name
from schemas.events import Exposure
from schemas.settings import SettingsError, load_settings
from schemas.times import format_time

commands = typer.Typer(no_args_is_help=True)

_WORDS: dict[News, tuple[str, str]] = {
    "new": ("red", "TIẾP XÚC · exposed  "),
    "changed": ("yellow", "CẬP NHẬT · changed  "),
    "withdrawn": ("green", "RÚT LẠI  · withdrawn"),
}


@commands.callback()
def _group() -> None:
    """A callback keeps `follow` a command of its own while it is the only one."""


@commands.command("follow")
def follow_alerts(
    department: Annotated[
        str | None, typer.Option(help="Only what this department leads: its slug, such as so-y-te.")
    ] = None,
    case: Annotated[str | None, typer.Option(help="Only the exposures of this case.")] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="First all that stands in the topic.")
    ] = False,
    until_idle: Annotated[
        float | None, typer.Option(min=0.1, help="End when nothing came for so many seconds.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as published.")] = False,
) -> None:
    """A line an alert, as alerts are published; Ctrl-C ends it.

    Reads committed records only and ignores a version that is not higher than one already seen: the example
    for consumers of your own.
    """
    with plain_errors(SettingsError):
        settings = load_settings()
    if department is not None and department not in DEPARTMENTS and not department.startswith("ubnd-"):
        fail(f"no such department: {department}; there are {', '.join(DEPARTMENTS)}", CALL_WRONG)
    newest = Newest()
    shown = unreadable = 0

    def ready() -> None:
        if not json:
            place = f"{settings.topic_prefix}exposures at {settings.kafka_address}"
            err.print(f"Following {place}, local times (+07:00); Ctrl-C ends it.", style="dim", markup=False)

    try:
        with kafka_errors():
            for found in follow(
                settings, from_beginning=from_beginning, until_idle=until_idle, on_ready=ready
            ):
                if isinstance(found, Unreadable):
                    unreadable += 1
                    place = f"exposures, partition {found.partition}, offset {found.offset}"
                    err.print(f"{place}: {found.problem}", style="yellow", markup=False)
                    continue
                if department not in (None, found.department) or case not in (None, found.case_id):
                    continue
                news = newest.take(found)
                if news is not None:
                    shown += 1
                    _show(found, news, json)
    except KeyboardInterrupt:
        pass
    if not json:
        err.print(f"{shown:,} alerts shown, {newest.ignored:,} older versions ignored", style="dim")
    if unreadable:
        raise typer.Exit(DATA_WRONG)


def _show(exposure: Exposure, news: News, json: bool) -> None:
    if json:
        sys.stdout.write(orjson.dumps(exposure.model_dump()).decode() + "\n")
        sys.stdout.flush()  # a reader behind a pipe must get an alert at once
        return
    color, words = _WORDS[news]
    first, last = format_time(exposure.first)[11:16], format_time(exposure.last)[11:16]
    out.print(f"[{color}]{words}[/{color}]", end=" ")
    out.print(
        f"{exposure.date} {first}–{last} {exposure.minutes:>4} phút/min  {exposure.person} "
        f"@ {exposure.venue} ({exposure.sector}, {department_name(exposure.department)})  "
        f"{exposure.case_id} v{exposure.case_version}",
        markup=False,
    )
