"""The stack on this machine: up, status, logs, down."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from deploy.cli.output import (
    CALL_WRONG,
    DATA_WRONG,
    SERVER_AWAY,
    JsonFlag,
    err,
    fail,
    out,
    print_json,
    show_table,
)
from deploy.local import memory
from deploy.local.engines import EngineError, last_lines
from deploy.local.lag import Lag
from deploy.local.stack import Say, Stack, StackError
from deploy.local.status import Row, Status
from deploy.local.status import status as look
from deploy.local.supervision import SupervisorError
from deploy.local.topics import KafkaAwayError, TopicsError
from schemas.settings import Settings, SettingsError, load_settings

commands = typer.Typer(no_args_is_help=True)

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="The data folder; default: TRUYVET_DATA, else ./data.", file_okay=False),
]

_COLOURS = {"healthy": "green", "starting": "yellow", "failing": "red", "stopped": "red", "away": "red"}


@commands.command()
def up(data: DataOption = None, json: JsonFlag = False) -> None:
    """Start Kafka, Redis, the ClickHouse engine and every role, each checked; say what is up where.

    Run it again at any time: what is up stays up. A server whose address is set (TRUYVET_KAFKA,
    TRUYVET_REDIS, TRUYVET_CLICKHOUSE) is used where it is. What was stored survives `truyvet down`.
    """
    say = _quiet if json else _step
    with _plain():
        settings = load_settings(**({"data": data} if data else {}))
        stack = Stack(settings, say=say)
        fresh = stack.up()
    where = {
        "data": str(stack.settings.data),
        "kafka": settings.kafka_address,
        "redis": settings.redis_url,
        "clickhouse": settings.clickhouse_url,
        "gateway": f"http://{settings.gateway_host}:{settings.gateway_port}",
    }
    if json:
        print_json({"up": True, "changed": fresh, **where})
        return
    out.print(f"[green]✓[/green] {'Up' if fresh else 'It was up already'}; data in {escape(where['data'])}")
    out.print(f"  gateway {where['gateway']} (its documentation: {where['gateway']}/docs)")
    if not settings.gateway_keys:
        out.print(
            "  The gateway refuses every post until a device has a key: "
            'set TRUYVET_GATEWAY_KEYS=\'{"device": "its secret"}\', then down and up',
        )
    out.print("  next: truyvet status · truyvet logs ROLE -f · truyvet down")


@commands.command()
def down(data: DataOption = None, json: JsonFlag = False) -> None:
    """End every role, then every server that `up` started; what is stored stays."""
    with _plain():
        stack = _remembered(data, say=_quiet if json else _step)
        ended = stack.down()
        other = None if ended else stack.elsewhere()
    if json:
        print_json({"up": False, "changed": ended} | ({"elsewhere": other.folder} if other else {}))
    if other:
        fail(f"nothing was up in {stack.settings.data}: {other.words}", CALL_WRONG)
    if not json:
        where = escape(str(stack.settings.data))
        out.print(f"[green]✓[/green] {'Down' if ended else 'Nothing was up'}; data in {where}")


@commands.command()
def status(data: DataOption = None, json: JsonFlag = False) -> None:
    """Every process, consumer lag, marks a second, freshness. Exit code 1 when something is not well."""
    with _plain():
        stack = _remembered(data)
        known = memory.read(stack.folder)
        found = look(stack, known["started_at"] if known else 0)
    if json:
        document = dataclasses.asdict(found)
        if found.store:
            document["store"]["full"] = found.store.full
        print_json(document)
    else:
        _show(found)
    if not found.healthy:
        raise typer.Exit(DATA_WRONG)


@commands.command()
def logs(
    role: Annotated[str, typer.Argument(help="kafka, redis, clickhouse or a role, as `status` names it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written.")] = False,
    lines: Annotated[int, typer.Option("-n", help="How many lines from the end.", min=0)] = 50,
    data: DataOption = None,
) -> None:
    """The last lines of one process's log."""
    with _plain():
        stack = _remembered(data)
        folder = stack.folder
    there = sorted(path.stem for path in folder.logs.glob("*.log"))
    if not there:
        other = stack.elsewhere()
        fail(
            f"there are no logs in {folder.logs}:"
            f" {other.words if other else 'has `truyvet up` been run here?'}",
            CALL_WRONG,
        )
    chosen = [name for name in there if name == role] or [n for n in there if n.rsplit("-", 1)[0] == role]
    if not chosen:
        fail(f"no log of {role!r}: there are {', '.join(there)}", CALL_WRONG)
    if follow and len(chosen) > 1:
        fail(f"choose one to follow: {', '.join(chosen)}", CALL_WRONG)
    for name in chosen:
        if len(chosen) > 1:
            out.print(f"[bold]{name}[/bold]")
        for line in last_lines(folder.log(name), lines) if lines else ():
            out.print(escape(line))
    if follow:
        try:
            for line in _following(folder.log(chosen[0])):
                out.print(escape(line), end="")
        except KeyboardInterrupt:
            return


def _following(path: Path) -> Iterator[str]:
    """What is written to a log from now on, through its rotation."""
    file = path.open(errors="replace")
    try:
        file.seek(0, 2)
        while True:
            if text := file.read():
                yield text
                continue
            time.sleep(0.2)
            try:
                now = path.stat()
            except FileNotFoundError:
                continue  # between the two steps of a rotation
            if now.st_ino != os.fstat(file.fileno()).st_ino or now.st_size < file.tell():
                file.close()
                file = path.open(errors="replace")
    finally:
        file.close()


def _remembered(data: Path | None, say: Say | None = None) -> Stack:
    """The stack of a data folder as it was brought up; else as the settings are."""
    folder = data or load_settings().data
    settings: Settings | None
    try:
        settings = memory.settings_of(folder)
    except memory.MemoryDamagedError as error:
        err.print(f"[yellow]![/yellow] {escape(str(error))}")
        settings = None
    chosen = settings or load_settings(data=folder)
    return Stack(chosen.model_copy(update={"data": folder}), say=say or _quiet)


def _show(found: Status) -> None:
    if found.processes:
        _process_table(found.processes)
    if found.lag:
        _lag_table(found.lag)
    if found.marks_per_second is not None:
        since = found.seconds_since_progress
        said = f", last progress {_span(round(since))} ago" if since is not None else ""
        out.print(f"ingest   {found.marks_per_second:,.0f} marks/s{said}")
    if found.freshness:
        waiting, newest = found.freshness.oldest_waiting, found.freshness.newest_archived
        text = "nothing waits" if waiting is None else f"the oldest that waits is {_span(round(waiting))} old"
        if newest is not None:
            text += f", the newest in it is {_span(round(newest))} old"
        out.print(f"archive  {text}")
    if found.store:
        out.print(f"Redis    {found.store.memory}; {escape(found.store.words)}")
    for row in found.processes:
        if row.log_tail:
            out.print(f"[red]{row.name}[/red] log ends:")
            for line in row.log_tail:
                out.print(f"  {escape(line)}")
    for note in found.notes:
        out.print(f"[yellow]![/yellow] {escape(note)}")


def _process_table(rows: list[Row]) -> None:
    show_table(
        ("Process", "State", "Pid", "Up", "Memory", "Restarts", ""),
        [
            (
                row.name,
                Text(row.state, _COLOURS[row.state]),
                str(row.pid or ""),
                _span(row.uptime_seconds),
                f"{row.memory_bytes / 2**20:.0f} MiB" if row.memory_bytes else "",
                str(row.restarts) if not row.external else "",
                _words(row),
            )
            for row in rows
        ],
        numbers=(2, 3, 4, 5),
        free=(6,),
    )


def _lag_table(lags: list[Lag]) -> None:
    rows: list[tuple[str | Text, ...]] = []
    for each in lags:
        note = " (nothing committed yet)" if each.uncommitted else ""
        hours = each.hours_to_age_out
        kept = Text("ever" if hours is None else f"{hours:,.0f} h")
        if each.retention != "kept":
            kept = Text(f"{kept.plain}, {each.retention}", "red")
        rows.append((each.role, each.topic, f"{each.records:,}{note}", str(each.partitions), kept))
    show_table(("Role", "Topic", "Lag (records)", "Partitions", "Kept for"), rows, numbers=(2, 3, 4))


def _words(row: Row) -> str:
    said = [row.detail] if row.detail else []
    if row.external:
        said.insert(0, "external")
    if row.last_death and not row.detail:
        ago = max(0, round(time.time() - row.last_death["at"] / 1000))
        said.append(f"restarted {_span(ago)} ago ({row.last_death['reason']})")
    return ", ".join(said)


def _span(seconds: int | None) -> str:
    if seconds is None:
        return ""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _step(line: str) -> None:
    out.print(f"  {escape(line)}")


def _quiet(_line: str) -> None:
    return


@contextmanager
def _plain() -> Iterator[None]:
    """Every way in which the stack refuses, as one clear text and its exit code."""
    try:
        yield
    except (SettingsError, TopicsError, ValueError) as error:
        fail(str(error), CALL_WRONG)
    except (EngineError, StackError, SupervisorError, KafkaAwayError) as error:
        fail(str(error), SERVER_AWAY)
    except KeyboardInterrupt:
        fail("stopped half-way: `truyvet status` shows what is up, `truyvet down` ends it", DATA_WRONG)
