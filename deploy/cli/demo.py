"""The whole job on a scratch stack, checked by an oracle that shares no code with it."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.output import DATA_WRONG, err, fail, out
from deploy.demo.story import Story, demo_settings
from deploy.demo.watch import Alerts
from deploy.local.engines import EngineError
from deploy.local.memory import environment_of
from deploy.local.stack import Stack, StackError
from deploy.local.supervision import SupervisorError
from deploy.local.topics import KafkaAwayError, TopicsError
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
    if data is not None and data.exists() and any(data.iterdir()):
        fail(f"{data} is not empty: the demo starts from nothing")
    folder = (data or Path(tempfile.mkdtemp(prefix="truyvet-demo-"))).absolute()
    settings = demo_settings(folder)
    stack = Stack(settings, say=lambda line: err.print(f"          [dim]{line}[/dim]"))
    story = Story(settings, out)
    equal, told = False, False
    try:
        story.up(stack)
        alerts = Alerts(settings)
        story.scans(scans, people, seed)
        story.person_case(alerts)
        story.place_case(alerts)
        story.late_scan(alerts)
        story.look()
        story.check(alerts)
        story.withdraw(alerts)
        equal = story.report()
        told = True
    except (StackError, EngineError, SupervisorError, TopicsError, KafkaAwayError, TimeoutError) as error:
        fail(f"{error}\nLogs: {folder}/run (--keep leaves the stack up to look at)")
    finally:
        if keep:
            _what_to_try(settings, told)
        else:
            stack.down()
            if data is None:
                shutil.rmtree(folder, ignore_errors=True)
    if not equal:
        raise typer.Exit(DATA_WRONG)


def _what_to_try(settings: Settings, told: bool) -> None:
    out.print(f"\nThe stack is still up{'' if told else ' as far as it came'}. Its addresses:")
    plain = {name: value for name, value in environment_of(settings).items() if "KEY" not in name}
    out.print(
        "  export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in plain.items()),
        soft_wrap=True,
    )
    out.print("Then try:")
    for line in (
        "status",
        "trace contacts --case DEMO-PLACE",
        "cases list",
        "exposures follow --from-beginning --until-idle 3",
        "down",
    ):
        out.print(f"  .venv/bin/truyvet {line}")
