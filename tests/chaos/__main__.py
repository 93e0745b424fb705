"""python -m tests.chaos: a run of chaos on engines of its own; exit code 1 when a promise was not kept."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.local.engines import EngineError
from tests.chaos import report
from tests.chaos.run import CannotRunError, Options, run


def main(
    seconds: Annotated[float, typer.Option(min=30, help="How long scans and faults go on.")] = 600,
    seed: Annotated[int, typer.Option(help="One seed, one scenario and plan of faults.")] = 7,
    scans: Annotated[int, typer.Option(min=0, help="Scans to send, at least; 0: 850 a second.")] = 0,
    cases: Annotated[int, typer.Option(min=5, help="Cases to declare.")] = 36,
    faults: Annotated[int, typer.Option(min=0, help="Faults; 0: one every ten seconds.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A file for the result as JSON.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep the scratch folder with the logs.")] = False,
) -> None:
    """Kill, stop and end the processes of an installation while scans stream; then compare with an oracle."""
    console = Console()
    # a SIGTERM ends the processes too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="truyvet-chaos-"))
    options = Options(
        seconds, seed, scans or round(850 * seconds), cases, faults or max(1, round(seconds / 10))
    )
    try:
        outcome = run(options, folder, lambda words: console.print(words, markup=False, highlight=False))
    except (CannotRunError, EngineError) as error:
        console.print(f"{error}; logs: {folder}", markup=False)
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    report.show(outcome, console)
    if out is not None:
        report.write(outcome, out)
    if keep or not outcome.ok:
        console.print(f"logs and data: {folder}", markup=False)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(0 if outcome.ok else 1)


if __name__ == "__main__":
    typer.run(main)
