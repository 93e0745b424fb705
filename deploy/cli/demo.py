"""The whole job on a scratch stack, checked by an oracle that shares no code with it."""

from __future__ import annotations

import shlex
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from clickhouse_driver.errors import Error as ClickHouseError
from rich.markup import escape

from deploy.cli.output import CALL_WRONG, DATA_WRONG, SERVER_AWAY, err, fail, in_words, out
from deploy.demo.choice import NobodyError
from deploy.demo.story import Story, demo_settings
from deploy.demo.watch import Alerts
from deploy.local.engines import EngineError
from deploy.local.memory import environment_of
from deploy.local.stack import Stack, StackError
from deploy.local.supervision import SupervisorError
from deploy.local.topics import TopicsError
from lookups.answers import QuestionError
from producers.cases import CaseError
from schemas.settings import Settings

commands = typer.Typer(no_args_is_help=True)


@commands.command()
def demo(
    keep: Annotated[bool, typer.Option(help="Leave the stack running.")] = False,
    scans: Annotated[int, typer.Option(min=10_000)] = 1_000_000,
    people: Annotated[int, typer.Option(min=1_000)] = 350_000,
    seed: Annotated[int, typer.Option(min=0)] = 2021,
    data: Annotated[Path | None, typer.Option(help="An empty folder; default: a scratch folder.")] = None,
) -> None:
    """Stack up, a million scans, two cases, a late scan, a withdrawal, lookups, and the check.

    Exit code 1 when the oracle finds a difference.
    """
    folder = _folder(data)
    settings = demo_settings(folder)
    stack = Stack(settings, say=lambda line: err.print(f"          [dim]{escape(line)}[/dim]"))
    story = Story(settings, out)
    equal, told = False, False
    # SIGTERM and SIGHUP end us as Ctrl-C does: through `finally`, with nothing left running
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupted)
    try:
        story.up(stack)
        alerts = Alerts(settings)
        story.scans(scans, people, seed)
        story.person_case(alerts)
        story.place_case(alerts)
        story.late_scan(alerts)
        story.look()
        story.withdraw(alerts)
        story.check()
        equal = story.report()
        told = True
    except (StackError, EngineError, SupervisorError, TopicsError, OSError) as error:  # Kafka away among them
        fail(f"{error}\nLogs: {folder / 'run'}", SERVER_AWAY)
    except (CaseError, NobodyError, QuestionError, ClickHouseError, ValueError) as error:
        fail(f"{error}\nLogs: {folder / 'run'}")
    finally:
        if keep:
            _what_to_try(settings, told)
        else:
            _end(stack, remove=data is None, logs=not equal)
    if not equal:
        raise typer.Exit(DATA_WRONG)


def _folder(data: Path | None) -> Path:
    """The folder to work in, empty."""
    try:
        if data is None:
            return Path(tempfile.mkdtemp(prefix="truyvet-demo-"))
        data.mkdir(parents=True, exist_ok=True)
        if any(data.iterdir()):
            fail(f"{data} is not empty: the demo starts from nothing", CALL_WRONG)
    except OSError as error:
        fail(f"the demo needs an empty folder: {in_words(error)}", CALL_WRONG)
    return data.absolute()


def _interrupted(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _end(stack: Stack, remove: bool, logs: bool) -> None:
    """Take the stack down; remove the scratch folder, except the logs when they are wanted."""
    # a second Ctrl-C must not leave servers behind; every wait in `down` is bounded
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder = stack.folder.data
    try:
        stack.down()
    except (StackError, SupervisorError) as error:
        fail(f"{error}\nTRUYVET_DATA={folder} .venv/bin/truyvet down tries again", SERVER_AWAY)
    if remove:
        for part in folder.iterdir() if logs else (folder,):
            if part.name != "run":
                shutil.rmtree(part, ignore_errors=True)


def _what_to_try(settings: Settings, told: bool) -> None:
    out.print(f"\nThe stack is still up{'' if told else ' as far as it came'}. Its addresses:")
    plain = {name: value for name, value in environment_of(settings).items() if "KEY" not in name}
    out.print(
        "  export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in plain.items()),
    )
    out.print("Then try:")
    for line in (
        "status",
        "trace contacts --case DEMO-PLACE --purpose DEMO-PLACE",
        "cases list",
        "exposures follow --from-beginning --until-idle 3",
        "down",
    ):
        out.print(f"  .venv/bin/truyvet {line}")
